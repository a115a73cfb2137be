//! A container registry on loopback: the OCI distribution protocol, with the habits of Azure Container Registry.
//!
//! Content is kept on a directory, checked against its digest when it is pushed, and served by ranges as
//! docker-registry 2.8.2 was measured to serve it, or by a redirect to a second port whose signed addresses
//! expire. Tokens are short-lived JWTs by a clock that can be advanced. Latency, limits and faults can be
//! asked for.
//!
//! ```no_run
//! # async fn example() -> std::io::Result<()> {
//! use blobdir::emulator::registry::{Config, start};
//!
//! let server = start(Config::default()).await?;
//! server.push_image("prod/bash", "v1", &[b"a layer"])?;
//! println!("oci://{}", server.addr());
//! server.shutdown().await;
//! # Ok(())
//! # }
//! ```

mod auth;
mod content;
mod control;
mod digest;
mod error;
mod listing;
mod manifest;
mod metadata;
mod name;
mod operation;
mod range;
mod redirect;
mod scope;
mod seed;
mod service;
mod storage;
mod uploads;

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use self::auth::Authority;
pub use self::operation::Operation;
use self::service::{DataPort, Service};
use self::storage::Storage;
pub use super::faults::{Action, LateAnswer, Rule, RuleState};
pub use super::throttle::Throttle;
pub use super::tls::Tls;
use super::{clock, connection, faults, guid, operations, throttle, tls};

/// Tells good Entra access tokens from bad ones; the error is why.
pub type EntraCheck = Arc<dyn Fn(&str) -> Result<(), String> + Send + Sync>;

/// What a caller must show.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Access {
    /// Nothing.
    #[default]
    Open,
    /// User and password with every request.
    Basic,
    /// A token of the registry's own service; user and password are taken, too.
    Token,
}

/// Somebody with a password.
#[derive(Clone, PartialEq, Eq)]
pub struct User {
    /// The name.
    pub name: String,
    /// The password.
    pub password: String,
    /// What the user may do, as `repository:team/*:pull,metadata_read` or `registry:catalog:*`: `*` in a name
    /// stands for any run of characters, and as an action for all of them.
    pub grants: Vec<String>,
}

impl User {
    /// Somebody who may do everything.
    pub fn new(name: impl Into<String>, password: impl Into<String>) -> Self {
        let grants = auth::all().iter().map(scope::Scope::text).collect();
        Self { name: name.into(), password: password.into(), grants }
    }

    /// The same, but who may do this only.
    pub fn with_grants(self, grants: &[&str]) -> Self {
        Self { grants: grants.iter().map(|grant| (*grant).to_owned()).collect(), ..self }
    }
}

impl fmt::Debug for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("User")
            .field("name", &self.name)
            .field("grants", &self.grants)
            .finish_non_exhaustive()
    }
}

/// How blobs are served from a second port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redirect {
    /// How long a signed address holds, to the second.
    pub lifetime: Duration,
    /// An address that was signed for GET is no good for HEAD, as with some stores.
    pub refuse_head: bool,
}

impl Default for Redirect {
    fn default() -> Self {
        Self { lifetime: Duration::from_secs(20 * 60), refuse_head: false }
    }
}

/// How a server is to be.
#[derive(Clone)]
pub struct Config {
    /// Where to listen; port 0 for any that is free.
    pub listen: SocketAddr,
    /// Directory that content is kept in; `None` for one that is removed at shutdown.
    pub data: Option<PathBuf>,
    /// What a caller must show.
    pub access: Access,
    /// Those who have a password.
    pub users: Vec<User>,
    /// What may be done with a token that was given for no credential, written as [`User::grants`].
    pub anonymous: Vec<String>,
    /// How long an access token holds, to the second.
    pub token_lifetime: Duration,
    /// The token service says how long a token holds, as Docker's does and ACR's does not.
    pub announces_lifetime: bool,
    /// The right to pull does not include the right to list tags.
    pub strict_listing: bool,
    /// Who tells good Entra tokens from bad ones; without it there is no exchange.
    pub entra: Option<EntraCheck>,
    /// Blobs are served from a second port.
    pub redirect: Option<Redirect>,
    /// The referrers of a manifest can be listed.
    pub referrers: bool,
    /// Entries of a page of a list where none is asked for.
    pub page_size: usize,
    /// Added to every request, on both ports.
    pub latency: Duration,
    /// Bytes a second of each connection, each way.
    pub connection_rate: Option<u64>,
    /// Limits of the whole registry, beyond which requests are answered 429.
    pub throttle: Option<Throttle>,
    /// Serves HTTPS instead of HTTP, on both ports.
    pub tls: Option<Tls>,
    /// Faults from the start.
    pub faults: Vec<Rule>,
    /// Where the random sequence of faults begins.
    pub seed: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            data: None,
            access: Access::Open,
            users: Vec::new(),
            anonymous: Vec::new(),
            token_lifetime: Duration::from_secs(75 * 60),
            announces_lifetime: false,
            strict_listing: false,
            entra: None,
            redirect: None,
            referrers: true,
            page_size: 100,
            latency: Duration::ZERO,
            connection_rate: None,
            throttle: None,
            tls: None,
            faults: Vec::new(),
            seed: 0,
        }
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("listen", &self.listen)
            .field("data", &self.data)
            .field("access", &self.access)
            .field("users", &self.users)
            .field("redirect", &self.redirect)
            .finish_non_exhaustive()
    }
}

/// Reads fault rules from JSON: a list of [`Rule`], or `{"seed": N, "rules": […]}`.
///
/// Returns the seed where it is given. The error says what is wrong with the text.
pub fn parse_faults(text: &[u8]) -> Result<(Option<u64>, Vec<Rule>), String> {
    faults::parse(text, operation::NAMES)
}

/// A server that runs. Dropped, it stops; only [`Server::shutdown`] waits until it has.
#[derive(Debug)]
pub struct Server {
    addr: SocketAddr,
    data_addr: Option<SocketAddr>,
    service: Arc<Service>,
    stop: watch::Sender<bool>,
    accepting: Mutex<Vec<JoinHandle<()>>>,
    temporary: Option<PathBuf>,
}

impl Server {
    /// Where it listens: the registry's host and port.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Where blobs are redirected to, if they are.
    pub fn data_addr(&self) -> Option<SocketAddr> {
        self.data_addr
    }

    /// `http://HOST:PORT`, or `https`.
    pub fn url(&self) -> String {
        let scheme = if self.service.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.addr)
    }

    /// How often an operation was asked for, by whoever was allowed to.
    pub fn requests(&self, op: Operation) -> u64 {
        self.service.counters.get(op as usize)
    }

    /// All requests of [`Server::requests`] together.
    pub fn total_requests(&self) -> u64 {
        self.service.counters.total()
    }

    /// Requests that were answered 401 or 403 for want of a right.
    pub fn refused(&self) -> u64 {
        self.service.refused.load(Ordering::Relaxed)
    }

    /// Requests that were answered 429 because of the throttle.
    pub fn throttled(&self) -> u64 {
        self.service.throttled.load(Ordering::Relaxed)
    }

    /// Bytes received on both ports, heads of requests included.
    pub fn bytes_in(&self) -> u64 {
        self.sum(|traffic| &traffic.bytes_in)
    }

    /// Bytes sent from both ports, heads of answers included.
    pub fn bytes_out(&self) -> u64 {
        self.sum(|traffic| &traffic.bytes_out)
    }

    /// Connections accepted so far on both ports.
    pub fn connections(&self) -> u64 {
        self.sum(|traffic| &traffic.connections)
    }

    /// Of [`Server::connections`], those to the second port.
    pub fn data_connections(&self) -> u64 {
        self.service.data_traffic.connections.load(Ordering::Relaxed)
    }

    fn sum(&self, count: impl Fn(&connection::Traffic) -> &AtomicU64) -> u64 {
        let ports = [&self.service.traffic, &self.service.data_traffic];
        ports.into_iter().map(|traffic| count(traffic).load(Ordering::Relaxed)).sum()
    }

    /// Makes requests go wrong, from now on. The error says what is wrong with the rule.
    ///
    /// A rule's `blob` is matched with `REPOSITORY@DIGEST`, `REPOSITORY:TAG` or `REPOSITORY`.
    pub fn inject(&self, rule: Rule) -> Result<(), String> {
        self.service.faults.add(rule)
    }

    /// Nothing goes wrong any more.
    pub fn clear_faults(&self) {
        self.service.faults.clear();
    }

    /// The rules in force, and how often they were played.
    pub fn faults(&self) -> Vec<RuleState> {
        self.service.faults.rules()
    }

    /// Ages tokens and signed addresses.
    pub fn advance_clock(&self, by: Duration) {
        self.service.clock.advance(by);
    }

    /// Refuses all tokens that were given so far.
    pub fn revoke_tokens(&self) {
        self.service.authority.generation.fetch_add(1, Ordering::Relaxed);
    }

    /// Stops: takes no more requests, and ends those that run within two seconds.
    pub async fn shutdown(&self) {
        let _ = self.stop.send(true);
        let accepting = std::mem::take(&mut *self.accepting.lock());
        for task in accepting {
            let _ = task.await;
        }
        // Every connection holds a receiver until it has ended.
        let ended = async {
            while self.stop.receiver_count() > 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let _ = tokio::time::timeout(Duration::from_secs(3), ended).await;
        self.remove_temporary();
    }

    fn remove_temporary(&self) {
        if let Some(dir) = &self.temporary
            && let Err(error) = std::fs::remove_dir_all(dir)
            && error.kind() != io::ErrorKind::NotFound
        {
            log::warn!(target: "emulator", "cannot remove {}: {error}", dir.display());
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.stop.send(true);
        self.remove_temporary();
    }
}

/// Starts a server on the current runtime.
pub async fn start(config: Config) -> io::Result<Server> {
    let invalid = |text: String| io::Error::new(io::ErrorKind::InvalidInput, text);
    let tls = config.tls.as_ref().map(tls::acceptor).transpose()?;
    let listener = TcpListener::bind(config.listen).await?;
    let addr = listener.local_addr()?;
    let data_listener = match config.redirect {
        Some(_) => Some(TcpListener::bind((config.listen.ip(), 0)).await?),
        None => None,
    };
    let data_addr = data_listener.as_ref().map(TcpListener::local_addr).transpose()?;
    let temporary = config
        .data
        .is_none()
        .then(|| std::env::temp_dir().join(format!("blobdir-registry-{}", guid::new_guid())));
    let dir = config.data.as_ref().or(temporary.as_ref()).map_or_else(PathBuf::new, Clone::clone);
    let clock = Arc::new(clock::Clock::default());
    let mut key = [0; 32];
    getrandom::fill(&mut key).map_err(|error| io::Error::other(error.to_string()))?;
    let service = Arc::new(Service {
        storage: Storage::open(&dir, Arc::clone(&clock))?,
        uploads: uploads::Uploads::default(),
        authority: Authority {
            access: config.access,
            users: config.users,
            anonymous: auth::scopes(&config.anonymous),
            lifetime: config.token_lifetime,
            announces_lifetime: config.announces_lifetime,
            strict_listing: config.strict_listing,
            entra: config.entra,
            key,
            generation: AtomicU64::new(0),
        },
        clock,
        counters: operations::Counters::new(operation::NAMES),
        traffic: connection::Traffic::default(),
        data_traffic: connection::Traffic::default(),
        faults: faults::Faults::new(operation::NAMES),
        latency: config.latency,
        connection_rate: config.connection_rate,
        throttle: config.throttle.map(throttle::Buckets::new),
        throttled: AtomicU64::new(0),
        refused: AtomicU64::new(0),
        redirect: config.redirect,
        data_port: data_addr.map_or(0, |addr| addr.port()),
        referrers: config.referrers,
        page_size: config.page_size,
        tls,
        pool: Arc::default(),
    });
    service.faults.seed(config.seed);
    for rule in config.faults {
        service.faults.add(rule).map_err(invalid)?;
    }
    let (stop, stopped) = watch::channel(false);
    let mut accepting = Vec::new();
    if let Some(listener) = data_listener {
        let port = Arc::new(DataPort(Arc::clone(&service)));
        accepting.push(tokio::spawn(connection::accept(listener, port, stopped.clone())));
    }
    accepting.push(tokio::spawn(connection::accept(listener, Arc::clone(&service), stopped)));
    Ok(Server { addr, data_addr, service, stop, accepting: Mutex::new(accepting), temporary })
}
