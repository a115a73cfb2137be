//! The page-blob emulator inside the test, where faults can be ordered and the server can be taken
//! away, with mounts of it by the real command.

use std::collections::BTreeMap;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use blobdir::backend::{SourceRequest, scheme_of};
use blobdir::emulator::page_blob::{Config, Server, WELL_KNOWN_ACCOUNT, start};
use blobdir::store::Store;
use tempfile::TempDir;
use tokio::runtime::Runtime;

use super::{Mount, account};

/// The container of every service here.
pub(crate) const CONTAINER: &str = "disks";

/// A server that keeps its address and its data when it goes away and comes back.
#[derive(Debug)]
pub(crate) struct Service {
    // In the order in which they are to end.
    server: Option<Server>,
    runtime: Runtime,
    data: TempDir,
    addr: SocketAddr,
    config: Config,
}

impl Service {
    /// A server with one empty container.
    pub(crate) fn start() -> Service {
        Service::start_with(Config::default())
    }

    /// The same with limits. Address and data are its own.
    pub(crate) fn start_with(mut config: Config) -> Service {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("a runtime for the server");
        let data = TempDir::new().expect("a directory for the server's data");
        config.data = Some(data.path().to_owned());
        let server = runtime.block_on(start(config.clone())).expect("the server starts");
        let addr = server.addr();
        config.listen = addr;
        let service = Service { server: Some(server), runtime, data, addr, config };
        account::create_container(&service.endpoint(), CONTAINER);
        service
    }

    /// The server; it must be there.
    pub(crate) fn server(&self) -> &Server {
        self.server.as_ref().expect("the server runs")
    }

    /// Takes the server away: connections break, new ones are refused.
    pub(crate) fn go_away(&mut self) {
        let server = self.server.take().expect("the server runs");
        self.runtime.block_on(server.shutdown());
    }

    /// Brings it back, with what it held.
    pub(crate) fn come_back(&mut self) {
        let server = self.runtime.block_on(start(self.config.clone()));
        self.server = Some(server.expect("the server starts again at its address"));
    }

    /// The account's URL.
    pub(crate) fn endpoint(&self) -> String {
        format!("http://{}/{WELL_KNOWN_ACCOUNT}", self.addr)
    }

    /// What a mount of the container needs to know.
    pub(crate) fn environment(&self) -> Vec<(String, String)> {
        let text = account::connection_string(&self.endpoint());
        vec![("AZURE_STORAGE_CONNECTION_STRING".to_owned(), text)]
    }

    /// Mounts the container.
    pub(crate) fn mount(&self, options: &[&str]) -> Mount {
        let source = format!("az://{WELL_KNOWN_ACCOUNT}/{CONTAINER}");
        Mount::start(&source, options, &self.environment())
    }

    /// Another client of the container.
    pub(crate) fn store(&self) -> Arc<dyn Store> {
        let source = format!("{}/{CONTAINER}", self.endpoint());
        let scheme = scheme_of(&source).expect("a URL has a scheme");
        let backend = (scheme.parse)(&SourceRequest {
            source: &source,
            // A program that knows nothing of our leases.
            options: &BTreeMap::from([("lease".to_owned(), Some("none".to_owned()))]),
            env: &|_| None,
            timeout: Duration::from_secs(30),
            state_dir: Some(super::state_dir()),
        });
        let backend = backend.expect("the source makes sense");
        self.runtime.block_on(backend.connect()).expect("the service answers")
    }

    /// Runs a call of [`store`](Service::store).
    pub(crate) fn block_on<T>(&self, call: impl Future<Output = T>) -> T {
        self.runtime.block_on(call)
    }
}
