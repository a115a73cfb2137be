//! Azurite, the vendor's own emulator, as a second server to test against.
//!
//! Its gaps are many (no lease survives a restart, no 4 MiB limit, no page diff); it is here because it
//! was written by others. `tests/support/setup.sh azurite` installs it.

use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use super::{Process, account, root, skip, wait_until};

/// Node takes 1 to 4 s to load it; more while other tests keep the processors busy.
const START_LIMIT: Duration = Duration::from_secs(60);

/// A running Azurite, empty at the start. Nothing of it is kept.
#[derive(Debug)]
pub(crate) struct Azurite {
    _process: Process,
    _scratch: TempDir,
    /// The base URL, with the account.
    pub(crate) endpoint: String,
}

impl Azurite {
    /// Starts it and waits until it takes connections. Nothing where it is not installed, after saying so.
    pub(crate) fn start() -> Option<Azurite> {
        let script = root().join("target/tools/azurite/node_modules/azurite/dist/src/blob/main.js");
        if !script.exists() {
            skip("Azurite is not installed; run tests/support/setup.sh azurite");
            return None;
        }
        let port = free_port();
        // It leaves files where it runs.
        let scratch = TempDir::new().expect("a scratch directory");
        let mut command = Command::new("node");
        command
            .arg(script)
            .args(["--blobHost", "127.0.0.1", "--blobPort", &port.to_string()])
            .args(["--inMemoryPersistence", "--silent", "--disableTelemetry"])
            .current_dir(scratch.path());
        let mut process = Process::start(command);
        let ready = wait_until(START_LIMIT, || {
            process.has_ended() || TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
        assert!(ready && !process.has_ended(), "Azurite did not start: {}", process.log());
        Some(Azurite {
            _process: process,
            _scratch: scratch,
            endpoint: format!("http://127.0.0.1:{port}/{}", account::NAME),
        })
    }

    /// What to export to use it.
    pub(crate) fn environment(&self) -> Vec<(String, String)> {
        vec![(
            "AZURE_STORAGE_CONNECTION_STRING".to_owned(),
            account::connection_string(&self.endpoint),
        )]
    }
}

/// A port that was free a moment ago: Azurite does not say which one it took for port 0.
fn free_port() -> u16 {
    TcpListener::bind(("127.0.0.1", 0))
        .and_then(|listener| listener.local_addr())
        .expect("a free port")
        .port()
}
