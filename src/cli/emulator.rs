//! `blobdir emulator`: a built-in server in the foreground; and the same in a thread, for the demo.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::Failure;
use crate::config::Throttle;
use crate::daemon::Signals;
use crate::emulator::identity;
use crate::emulator::page_blob::{self, Config, Server, WELL_KNOWN_ACCOUNT, WELL_KNOWN_KEY};
use crate::logging;

/// How a server is to be, as typed.
#[derive(Debug)]
pub(super) struct Settings {
    /// Where to listen; port 0 for any that is free.
    pub(super) listen: SocketAddr,
    /// Where to keep data; a temporary directory if `None`, removed at the end.
    pub(super) data: Option<PathBuf>,
    /// Containers to create unless they are there.
    pub(super) containers: Vec<String>,
    /// Added to every request.
    pub(super) latency: Duration,
    /// Bytes a second of each connection.
    pub(super) connection_rate: Option<u64>,
    /// Limits of each blob.
    pub(super) throttle: Option<Throttle>,
    /// File with rules for faults.
    pub(super) faults: Option<PathBuf>,
    /// Certificate and private key, for HTTPS.
    pub(super) tls: Option<(PathBuf, PathBuf)>,
    /// Deleted blobs can be undeleted.
    pub(super) soft_delete: bool,
    /// Tokens are given too.
    pub(super) identity: bool,
}

/// The application that may ask for tokens. Like the account's key, its secret is none.
const APPLICATION: (&str, &str) = ("00000000-aaaa-bbbb-cccc-dddddddddddd", "no-secret");

/// A server that runs on threads of its own.
#[derive(Debug)]
pub(super) struct Service {
    runtime: tokio::runtime::Runtime,
    server: Server,
    identity: Option<identity::Server>,
}

impl Service {
    /// Starts one. Signals must be blocked before, or its threads would take them.
    pub(super) fn start(settings: Settings) -> Result<Service, Failure> {
        let place = match &settings.data {
            Some(dir) => format!("{} from {}", settings.listen, dir.display()),
            None => settings.listen.to_string(),
        };
        let cannot = |error| Failure::other(format!("cannot serve page blobs at {place}: {error}"));
        let with_identity = settings.identity;
        let mut config = config_of(settings)?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .thread_name("emulator")
            .enable_all()
            .build()
            .map_err(cannot)?;
        let identity = match with_identity {
            true => Some(runtime.block_on(identity::start(applications())).map_err(cannot)?),
            false => None,
        };
        config.issuer = identity.as_ref().map(identity::Server::issuer);
        let server = runtime.block_on(page_blob::start(config)).map_err(cannot)?;
        Ok(Service { runtime, server, identity })
    }

    /// What other programs need to use it.
    pub(super) fn connection_string(&self) -> String {
        let endpoint = self.server.account_url(WELL_KNOWN_ACCOUNT);
        let protocol = endpoint.split(':').next().unwrap_or_default();
        format!(
            "DefaultEndpointsProtocol={protocol};AccountName={WELL_KNOWN_ACCOUNT};\
             AccountKey={WELL_KNOWN_KEY};BlobEndpoint={endpoint};"
        )
    }

    /// What those need who come with a token instead; empty if there are none.
    fn identity_help(&self) -> String {
        let Some(identity) = &self.identity else { return String::new() };
        let url = identity.url();
        format!(
            "\
Or with tokens, by -o auth=client_secret or -o auth=managed_identity:
export AZURE_AUTHORITY_HOST='{url}'
export AZURE_TENANT_ID='{}'
export AZURE_CLIENT_ID='{}'
export AZURE_CLIENT_SECRET='{}'
export AZURE_POD_IDENTITY_AUTHORITY_HOST='{url}'
",
            identity.issuer().tenant(),
            APPLICATION.0,
            APPLICATION.1,
        )
    }

    /// The account that it serves.
    pub(super) fn account(&self) -> &'static str {
        WELL_KNOWN_ACCOUNT
    }

    /// Ends requests that run, and writes what is left to write.
    pub(super) fn stop(self) {
        self.runtime.block_on(self.server.shutdown());
    }
}

/// Runs a page-blob server until a signal comes.
pub(super) fn page_blob(settings: Settings) -> Result<u8, Failure> {
    logging::init(None).map_err(Failure::other)?;
    let signals = Signals::block();
    let container = settings.containers.first().cloned();
    let service = Service::start(settings)?;
    logging::started(false);
    super::print(&format!(
        "\
Azure page blobs at {}
To use it:
export AZURE_STORAGE_CONNECTION_STRING='{}'
blobdir mount az://{}/{} DIR
{}",
        service.server.account_url(service.account()),
        service.connection_string(),
        service.account(),
        container.as_deref().unwrap_or("CONTAINER"),
        service.identity_help(),
    ));
    signals.wait();
    service.stop();
    Ok(0)
}

/// A directory with one application; as a machine it has that identity too.
fn applications() -> identity::Config {
    let (id, secret) = (APPLICATION.0.to_owned(), Some(APPLICATION.1.to_owned()));
    let application = identity::Application { id: id.clone(), secret, ..Default::default() };
    identity::Config { applications: vec![application], assigned: vec![id], ..Default::default() }
}

fn config_of(settings: Settings) -> Result<Config, Failure> {
    let (seed, faults) = match &settings.faults {
        None => (None, Vec::new()),
        Some(file) => {
            let named = |error: &dyn std::fmt::Display| {
                Failure::usage(format!("--faults {}: {error}", file.display()))
            };
            let text = fs::read(file).map_err(|error| named(&error))?;
            page_blob::parse_faults(&text).map_err(|error| named(&error))?
        }
    };
    let unlimited = page_blob::Throttle { requests: f64::INFINITY, bytes: f64::INFINITY };
    Ok(Config {
        listen: settings.listen,
        data: settings.data,
        containers: settings.containers,
        latency: settings.latency,
        connection_rate: settings.connection_rate,
        throttle: settings.throttle.map(|limits| page_blob::Throttle {
            requests: limits.requests.map_or(unlimited.requests, f64::from),
            #[expect(clippy::cast_precision_loss, reason = "a rate needs no 16 digits")]
            bytes: limits.bytes.map_or(unlimited.bytes, |bytes| bytes as f64),
        }),
        tls: settings.tls.map(|(certificate, key)| page_blob::Tls { certificate, key }),
        soft_delete: settings.soft_delete,
        faults,
        seed: seed.unwrap_or_default(),
        ..Config::default()
    })
}
