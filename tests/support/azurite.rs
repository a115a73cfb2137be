//! Azurite, an emulator of the Blob service that others wrote, as a server for tests.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Names a server that runs already: `http://127.0.0.1:PORT/devstoreaccount1`.
const RUNNING: &str = "BLOBDIR_TEST_AZURITE";

/// How long Azurite may take to start; it needs 2 to 4 s on an idle machine.
const START: Duration = Duration::from_secs(60);

/// A server, ended when this is dropped if it was started here.
pub struct Azurite {
    /// The Blob service with its account, without a slash at the end.
    pub endpoint: String,
    child: Option<Child>,
    _scratch: Option<tempfile::TempDir>,
}

impl Azurite {
    /// The server named by the environment, or one of its own. `None`, with the reason printed, if Azurite
    /// is not installed; under `CI` that is a failure.
    pub fn start() -> Option<Azurite> {
        if let Ok(endpoint) = std::env::var(RUNNING) {
            return Some(Azurite {
                endpoint,
                child: None,
                _scratch: None,
            });
        }
        let tools = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/tools");
        let script = tools.join("azurite/node_modules/azurite/dist/src/blob/main.js");
        if !script.exists() {
            let why = format!(
                "Azurite is not installed in {} and {RUNNING} is not set",
                tools.display()
            );
            assert!(std::env::var_os("CI").is_none(), "{why}");
            eprintln!("skipped: {why}");
            return None;
        }
        let scratch = tempfile::tempdir().expect("a scratch directory");
        let port = TcpListener::bind("127.0.0.1:0")
            .and_then(|listener| listener.local_addr())
            .expect("a free port")
            .port();
        let child = Command::new("node")
            .arg(script)
            .args(["--blobHost", "127.0.0.1", "--blobPort", &port.to_string()])
            .args(["--inMemoryPersistence", "--silent", "--disableTelemetry"])
            .current_dir(scratch.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .expect("node runs");
        let server = Azurite {
            endpoint: format!("http://127.0.0.1:{port}/devstoreaccount1"),
            child: Some(child),
            _scratch: Some(scratch),
        };
        let started = Instant::now();
        while !answers(port) {
            assert!(started.elapsed() < START, "Azurite did not start");
            std::thread::sleep(Duration::from_millis(50));
        }
        Some(server)
    }
}

/// Whether somebody speaks HTTP at this port.
fn answers(port: u16) -> bool {
    let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) else {
        return false;
    };
    let _ = stream.set_read_timeout(Some(Duration::from_secs(5)));
    let asked = stream.write_all(b"GET /x HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    let mut head = [0; 5];
    asked.is_ok() && stream.read_exact(&mut head).is_ok() && &head == b"HTTP/"
}

impl Drop for Azurite {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
