//! Azure page blobs.
//!
//! | file | what |
//! |---|---|
//! | `config`, `credentials`, `entra` | what was typed, as account, place and credential |
//! | `auth`, `shared_key`, `in_force` | signatures; the credential as it changes |
//! | `client`, `address` | the REST operations, one method each; where a blob is |
//! | `wire`, `xml` | headers and documents as values |
//! | `verify`, `encryption` | checksums of what is on its way; under which key it is stored |
//! | `errors` | what error codes mean |
//! | `store`, `lookup`, `listing`, `rename`, `transfer` | the namespace |
//! | `blob`, `extents` | one version, read-only; where a blob holds data |
//! | `older`, `snapshots`, `snapshot_lists` | what blobs were before, as files in directories |
//! | `snapshot_ops`, `changes` | the operations on that, and what has changed since |
//! | `updates`, `etags`, `length` | a blob that is updated in place, its versions, its length |
//! | `copy_ops`, `copy_source` | copies by the service: the operations, what it is told to copy from |
//! | `takeover`, `lease`, `renewal`, `state_dir` | becoming its only writer |
//! | `delivery`, `epoch`, `fencing` | that no update is lost, and none undone by a late duplicate |

mod address;
mod auth;
mod blob;
mod changes;
mod client;
mod config;
mod copy_ops;
mod copy_source;
mod credentials;
mod delivery;
mod encryption;
mod entra;
mod epoch;
mod errors;
mod etags;
mod extents;
mod fencing;
mod in_force;
mod lease;
mod length;
mod listing;
mod lookup;
mod older;
mod rename;
mod renewal;
mod shared_key;
mod snapshot_lists;
mod snapshot_ops;
mod snapshots;
mod state_dir;
mod store;
mod takeover;
mod transfer;
mod updates;
mod verify;
mod wire;
mod xml;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use self::auth::{BlobService, Credential};
use self::client::{Listing, Rest};
use self::config::Config;
use self::in_force::InForce;
use self::lease::{Leases, Terms};
use self::store::{PageBlobStore, Root};
use self::verify::Verifier;
use super::{Backend, ConfigError, Scheme, SourceRequest};
use crate::client::{Client, Config as ClientConfig};
use crate::store::{BoxFuture, Error, ErrorKind, Kind, RemotePath, Result, Store};

/// The row of this backend in the scheme table.
pub const SCHEME: Scheme = Scheme {
    names: &["az", "https", "http"],
    form: "az://ACCOUNT[/CONTAINER[/PREFIX]]",
    summary: "Azure page blobs, read and written in place; block and append blobs read-only",
    options: config::OPTIONS,
    parse,
};

fn parse(request: &SourceRequest<'_>) -> std::result::Result<Box<dyn Backend>, ConfigError> {
    Ok(Box::new(PageBlobs { config: Config::parse(request)? }))
}

/// How often the service is asked at first: once more for a packet that was lost, but a name or port that
/// is wrong is told at once.
const CONNECT_ATTEMPTS: u32 = 2;

/// A source that has been understood.
#[derive(Debug)]
struct PageBlobs {
    config: Config,
}

impl Backend for PageBlobs {
    fn label(&self) -> String {
        self.config.label.clone()
    }

    fn connections(&self) -> usize {
        self.config.connections
    }

    fn connect(&self) -> BoxFuture<'_, Result<Arc<dyn Store>>> {
        Box::pin(async move {
            let store = connect(&self.config).await?;
            Ok(Arc::new(store) as Arc<dyn Store>)
        })
    }

    fn break_lease<'a>(&'a self, path: &'a str) -> BoxFuture<'a, Result<String>> {
        Box::pin(async move {
            let store = connect(&Config { state_dir: None, ..self.config.clone() }).await?;
            let path = RemotePath::new(path).ok_or_else(|| {
                let why = "it holds an empty name, . or ..";
                Error::new(ErrorKind::BadName, "break lease", path, why)
            })?;
            let at = store.address("break lease", &path)?;
            Leases::break_lease(&store.rest, &at).await
        })
    }
}

/// A client with this many attempts.
fn rest(config: &Config, credential: &Arc<InForce>, attempts: u32) -> Result<Arc<Rest>> {
    let verifier = Arc::new(Verifier::new(config.verify));
    let service = BlobService::new(Arc::clone(credential), &config.account, Arc::clone(&verifier));
    let settings = ClientConfig { timeout: config.timeout, connections: config.connections };
    let http = Client::new(settings, Arc::new(service))?;
    let credential = Arc::clone(credential);
    let mut rest = Rest::new(http, &config.endpoint, credential, verifier, config.timeout);
    rest.attempts = attempts;
    rest.encryption = config.encryption.clone();
    Ok(Arc::new(rest))
}

/// Asks the service once whether the source is there, and what it is.
async fn connect(config: &Config) -> Result<PageBlobStore> {
    let is_sas = matches!(config.credential, Credential::Sas(_));
    let show_snapshots = config.show_snapshots;
    let credential = InForce::new(config.credential.clone(), config.file.clone());
    let probe = rest(config, &credential, CONNECT_ATTEMPTS)?;
    let root = match &config.container {
        None => {
            probe.list_containers(None, 1).await.map_err(|error| explain(config, error))?;
            Root { container: None, prefix: String::new(), only: None, show_snapshots }
        }
        Some(container) => {
            let is_blob = probe_container(config, probe, container)
                .await
                .map_err(|error| explain(config, error))?;
            let (prefix, only) = match (is_blob, config.path.rsplit_once('/')) {
                (true, Some((dir, name))) => (format!("{dir}/"), Some(name.to_owned())),
                (true, None) => (String::new(), Some(config.path.clone())),
                (false, _) if config.path.is_empty() => (String::new(), None),
                (false, _) => (format!("{}/", config.path), None),
            };
            Root { container: Some(container.clone()), prefix, only, show_snapshots }
        }
    };
    let rest = rest(config, &credential, u32::MAX)?;
    let leases = Leases::new(Arc::clone(&rest), config.lease, config.state_dir.as_deref());
    let leases =
        leases.map_err(|line| Error::new(ErrorKind::Quota, "mount", &config.label, line))?;
    Ok(PageBlobStore::new(rest, leases, root, is_sas))
}

/// Whether the path of the source is a blob; a directory may also be yet to come.
async fn probe_container(config: &Config, rest: Arc<Rest>, container: &str) -> Result<bool> {
    if config.path.is_empty() {
        let listing = Listing { prefix: "", folded: true, marker: None, max: 1, attributes: false };
        rest.list(container, &listing).await?;
        return Ok(false);
    }
    let root = Root {
        container: Some(container.to_owned()),
        prefix: String::new(),
        only: None,
        show_snapshots: false,
    };
    let is_sas = matches!(config.credential, Credential::Sas(_));
    let leases = Leases::new(Arc::clone(&rest), Terms::None, None);
    let leases = leases.expect("without a state directory nothing can fail");
    let store = PageBlobStore::new(rest, leases, root, is_sas);
    let path = RemotePath::new(&config.path).expect("the path was checked when it was parsed");
    match store.stat(&path).await {
        Ok(stat) => Ok(stat.kind == Kind::File),
        // Of a directory nothing need be there yet; but of a listing only the container can be missing.
        Err(error) if error.kind() == ErrorKind::NotFound && error.op() != "List Blobs" => {
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

/// The error of the first contact, with the source in front.
fn explain(config: &Config, error: Error) -> Error {
    let remedy = match error.kind() {
        ErrorKind::Unavailable | ErrorKind::TimedOut => {
            "; check the endpoint, that the service runs and that a firewall lets this host through"
        }
        _ => "",
    };
    Error::new(error.kind(), "mount", &config.label, format!("{error}{remedy}"))
        .with_retry(error.retry())
}
