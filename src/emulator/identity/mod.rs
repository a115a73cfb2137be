//! Whoever gives tokens for Azure, on loopback: Entra ID's token endpoint, and the endpoints that machines
//! ask for tokens of their own.
//!
//! | path | who it plays |
//! |---|---|
//! | `/TENANT/oauth2/v2.0/token` | Entra ID, for applications with a secret, a certificate or a federated token |
//! | `/metadata/identity/oauth2/token` | the instance metadata service of a virtual machine |
//! | `/msi/token` | App Service |
//! | `/arc/metadata/identity/oauth2/token` | the agent of Azure Arc, which keeps its keys in a directory |
//!
//! Signatures, times and headers are checked, and what is refused is refused as the real ones do. The
//! tokens are signed; other emulators ask the [`Issuer`] whether one is good. Time is the machine's, plus
//! what a test has advanced it by.
//!
//! ```no_run
//! # async fn example() -> std::io::Result<()> {
//! use blobdir::emulator::identity::{Config, start};
//!
//! let server = start(Config::default()).await?;
//! println!("AZURE_AUTHORITY_HOST={}", server.url());
//! # Ok(())
//! # }
//! ```

mod entra;
mod issuer;
mod jwt;
mod machine;
mod serve;

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use self::entra::Directory;
pub use self::issuer::Issuer;
use self::machine::Machine;

/// An application that the directory knows.
#[derive(Clone, Default)]
pub struct Application {
    /// Its client id.
    pub id: String,
    /// Its secret.
    pub secret: Option<String>,
    /// The certificate whose key it may sign with, in DER.
    pub certificate: Option<Vec<u8>>,
    /// The subject of the platform's tokens that stand for it.
    pub federated_subject: Option<String>,
}

impl fmt::Debug for Application {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Application").field("id", &self.id).finish_non_exhaustive()
    }
}

/// How a server is to be.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where to listen; port 0 for any that is free.
    pub listen: SocketAddr,
    /// The one tenant.
    pub tenant: String,
    /// Its applications.
    pub applications: Vec<Application>,
    /// Ids of identities that the machine has besides its own.
    pub assigned: Vec<String>,
    /// How long tokens hold.
    pub lifetime: Duration,
    /// Where the agent of Azure Arc keeps its keys; without one there is no agent.
    pub arc_keys: Option<PathBuf>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            tenant: "11111111-2222-3333-4444-555555555555".to_owned(),
            applications: Vec::new(),
            assigned: Vec::new(),
            lifetime: Duration::from_secs(3600),
            arc_keys: None,
        }
    }
}

/// Who is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Endpoint {
    /// Entra ID.
    Entra,
    /// The instance metadata service.
    Imds,
    /// App Service.
    AppService,
    /// The agent of Azure Arc.
    Arc,
}

/// What the endpoints do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Behaviour {
    /// What they are for.
    Serve,
    /// They answer this status and nothing else.
    Fail(u16),
    /// They take the question and never answer.
    Hang,
    /// They answer 200 with a page that is none of theirs.
    Garbage,
}

/// A server that runs, until it is dropped.
#[derive(Debug)]
pub struct Server {
    addr: SocketAddr,
    service: Arc<Service>,
    accepting: JoinHandle<()>,
}

/// What the endpoints share.
#[derive(Debug)]
struct Service {
    issuer: Arc<Issuer>,
    directory: Directory,
    machine: Machine,
    behaviour: Mutex<Behaviour>,
    asked: [AtomicU64; 4],
}

impl Server {
    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// `http://HOST:PORT`: the authority, and the base of the metadata service.
    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// What App Service would set as `IDENTITY_ENDPOINT` and `IDENTITY_HEADER`.
    pub fn app_service(&self) -> (String, String) {
        (format!("{}/msi/token", self.url()), self.service.machine.header.clone())
    }

    /// What the agent of Azure Arc would set as `IDENTITY_ENDPOINT`.
    pub fn arc(&self) -> String {
        format!("{}/arc/metadata/identity/oauth2/token", self.url())
    }

    /// Who tells good tokens from bad ones.
    pub fn issuer(&self) -> Arc<Issuer> {
        Arc::clone(&self.service.issuer)
    }

    /// A token as Kubernetes would keep it in a file for this subject.
    pub fn federated_token(&self, subject: &str, lifetime: Duration) -> String {
        self.service.directory.federated_token(subject, lifetime)
    }

    /// Gives an application another secret.
    pub fn set_secret(&self, application: &str, secret: &str) {
        self.service.directory.set_secret(application, secret);
    }

    /// How long tokens hold that are given from now on.
    pub fn set_lifetime(&self, lifetime: Duration) {
        self.service.issuer.set_lifetime(lifetime);
    }

    /// What the endpoints do from now on.
    pub fn behave(&self, behaviour: Behaviour) {
        *self.service.behaviour.lock() = behaviour;
    }

    /// How often an endpoint was asked.
    pub fn asked(&self, endpoint: Endpoint) -> u64 {
        self.service.asked[endpoint as usize].load(Ordering::Relaxed)
    }

    /// Makes time pass for tokens and statements.
    pub fn advance_clock(&self, by: Duration) {
        self.service.issuer.advance_clock(by);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// Starts a server on the current runtime.
pub async fn start(config: Config) -> io::Result<Server> {
    let listener = TcpListener::bind(config.listen).await?;
    let addr = listener.local_addr()?;
    let issuer = Arc::new(Issuer::new(&config.tenant, config.lifetime)?);
    let service = Arc::new(Service {
        directory: Directory::new(&config, Arc::clone(&issuer))?,
        machine: Machine::new(&config, Arc::clone(&issuer))?,
        issuer,
        behaviour: Mutex::new(Behaviour::Serve),
        asked: Default::default(),
    });
    let accepting = tokio::spawn(serve::accept(listener, Arc::clone(&service)));
    Ok(Server { addr, service, accepting })
}

/// Random bytes in hex: ids and secrets.
fn random_hex() -> io::Result<String> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|error| io::Error::other(error.to_string()))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}
