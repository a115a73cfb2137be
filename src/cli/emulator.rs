//! `blobdir emulator`: a built-in server in the foreground; and the same in a thread, for the demo.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::Failure;
use crate::config::Throttle;
use crate::daemon::Signals;
use crate::emulator::identity;
use crate::emulator::page_blob::{self, Config, Server, WELL_KNOWN_ACCOUNT, WELL_KNOWN_KEY};
use crate::emulator::registry;
pub(super) use crate::emulator::registry::Access;
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
    /// What it suffers from.
    pub(super) conditions: Conditions,
    /// Deleted blobs can be undeleted.
    pub(super) soft_delete: bool,
    /// Tokens are given too.
    pub(super) identity: bool,
    /// What is replaced or deleted is kept as versions.
    pub(super) versioning: bool,
}

/// What every server can be made to suffer from, and HTTPS.
#[derive(Debug, Default)]
pub(super) struct Conditions {
    /// Added to every request.
    pub(super) latency: Duration,
    /// Bytes a second of each connection.
    pub(super) connection_rate: Option<u64>,
    /// Limits of each blob, or of the registry.
    pub(super) throttle: Option<Throttle>,
    /// File with rules for faults.
    pub(super) faults: Option<PathBuf>,
    /// Certificate and private key, for HTTPS.
    pub(super) tls: Option<(PathBuf, PathBuf)>,
}

/// How a registry is to be, as typed.
pub(super) struct RegistrySettings {
    /// Where to listen; port 0 for any that is free.
    pub(super) listen: SocketAddr,
    /// Where to keep data; a temporary directory if `None`, removed at the end.
    pub(super) data: Option<PathBuf>,
    /// Repositories, and the image layouts that are pushed to them.
    pub(super) layouts: Vec<(String, String)>,
    /// What a caller must show.
    pub(super) access: Access,
    /// Users and their passwords.
    pub(super) users: Vec<(String, String)>,
    /// What may be done without a credential.
    pub(super) anonymous: Vec<String>,
    /// Entra tokens that are good.
    pub(super) entra_tokens: Vec<String>,
    /// How long a token holds.
    pub(super) token_lifetime: Duration,
    /// Blobs are served from a second port.
    pub(super) redirect: bool,
    /// What it suffers from.
    pub(super) conditions: Conditions,
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
        let runtime = runtime().map_err(cannot)?;
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

/// Runs a registry until a signal comes.
pub(super) fn registry(settings: RegistrySettings) -> Result<u8, Failure> {
    logging::init(None).map_err(Failure::other)?;
    let signals = Signals::block();
    let cannot = |error| Failure::other(format!("cannot serve a registry: {error}"));
    let layouts = settings.layouts.clone();
    let config = registry_config(settings)?;
    let runtime = runtime().map_err(cannot)?;
    let server = runtime.block_on(registry::start(config)).map_err(cannot)?;
    for (repository, layout) in &layouts {
        let named =
            |error| Failure::other(format!("cannot push {layout} to {repository}: {error}"));
        server.push_layout(repository, Path::new(layout)).map_err(named)?;
    }
    logging::started(false);
    super::print(&format!(
        "\
Container registry at {}
To fill it:
skopeo copy --dest-tls-verify=false SOURCE docker://{}/REPOSITORY:TAG
",
        server.url(),
        server.addr(),
    ));
    signals.wait();
    runtime.block_on(server.shutdown());
    Ok(0)
}

fn registry_config(settings: RegistrySettings) -> Result<registry::Config, Failure> {
    let Conditions { latency, connection_rate, throttle, faults, tls } = settings.conditions;
    let (seed, faults) = rules(faults.as_deref(), registry::parse_faults)?;
    let tokens = settings.entra_tokens;
    let entra: registry::EntraCheck = Arc::new(move |token| {
        let known = tokens.iter().any(|known| known == token);
        known.then_some(()).ok_or_else(|| "the Entra token is not known".to_owned())
    });
    let user = |(name, password)| registry::User::new(name, password);
    Ok(registry::Config {
        listen: settings.listen,
        data: settings.data,
        access: settings.access,
        users: settings.users.into_iter().map(user).collect(),
        anonymous: settings.anonymous,
        token_lifetime: settings.token_lifetime,
        entra: Some(entra),
        redirect: settings.redirect.then(registry::Redirect::default),
        latency,
        connection_rate,
        throttle: throttle.map(limits),
        tls: tls.map(|(certificate, key)| registry::Tls { certificate, key }),
        faults,
        seed,
        ..registry::Config::default()
    })
}

fn config_of(settings: Settings) -> Result<Config, Failure> {
    let Conditions { latency, connection_rate, throttle, faults, tls } = settings.conditions;
    let (seed, faults) = rules(faults.as_deref(), page_blob::parse_faults)?;
    Ok(Config {
        listen: settings.listen,
        data: settings.data,
        containers: settings.containers,
        latency,
        connection_rate,
        throttle: throttle.map(limits),
        tls: tls.map(|(certificate, key)| page_blob::Tls { certificate, key }),
        soft_delete: settings.soft_delete,
        versioning: settings.versioning,
        faults,
        seed,
        ..Config::default()
    })
}

/// What a service reads in a file with rules.
type ParseRules = fn(&[u8]) -> Result<(Option<u64>, Vec<page_blob::Rule>), String>;

/// Reads the seed and the rules in a file.
fn rules(file: Option<&Path>, parse: ParseRules) -> Result<(u64, Vec<page_blob::Rule>), Failure> {
    let Some(file) = file else { return Ok((0, Vec::new())) };
    let named = |error: &dyn std::fmt::Display| {
        Failure::usage(format!("--faults {}: {error}", file.display()))
    };
    let text = fs::read(file).map_err(|error| named(&error))?;
    let (seed, rules) = parse(&text).map_err(|error| named(&error))?;
    Ok((seed.unwrap_or_default(), rules))
}

/// Limits as a server has them.
fn limits(limits: Throttle) -> page_blob::Throttle {
    page_blob::Throttle {
        requests: limits.requests.map_or(f64::INFINITY, f64::from),
        #[expect(clippy::cast_precision_loss, reason = "a rate needs no 16 digits")]
        bytes: limits.bytes.map_or(f64::INFINITY, |bytes| bytes as f64),
    }
}

/// Threads of a server. Signals must be blocked before, or they would take them.
fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().thread_name("emulator").enable_all().build()
}
