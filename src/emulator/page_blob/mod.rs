//! An Azure page-blob service on loopback: the blob REST protocol, enforced strictly.
//!
//! Page blobs are complete, with leases, conditions, sequence numbers, snapshots and page-range
//! differences; block and append blobs are here as far as they are needed to have something to read.
//! Data is kept in sparse files of a directory. Limits, latency and faults of the real service can be
//! asked for.
//!
//! ```no_run
//! # async fn example() -> std::io::Result<()> {
//! use blobdir::emulator::page_blob::{Config, start};
//!
//! let server = start(Config::default()).await?;
//! println!("http://{}/devstoreaccount1", server.addr());
//! server.shutdown().await;
//! # Ok(())
//! # }
//! ```

mod access;
mod apply;
mod auth;
mod blob;
mod blocks;
mod conditions;
mod container;
mod control;
mod copy;
mod data_file;
mod deletion;
mod encryption;
mod error;
mod hash;
mod lease;
mod lease_ops;
mod list;
mod operation;
mod page_list;
mod pages;
mod properties;
mod ranges;
mod receive;
mod record;
mod reply;
mod request;
mod service;
mod storage;
mod version;
mod xml;

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use self::auth::Authority;
use self::clock::Clock;
pub use self::operation::Operation;
use self::service::Service;
use self::storage::Storage;
use self::throttle::Buckets;
pub use super::faults::{Action, LateAnswer, Rule, RuleState};
use super::identity::Issuer;
pub use super::throttle::Throttle;
pub use super::tls::Tls;
// What all emulators share, under the names that the modules here know it by.
use super::{
    body, buffer, clock, connection, faults, guid, incoming, operations, query, spoil, throttle,
    tls,
};

/// The account that emulators of this service have always had.
pub const WELL_KNOWN_ACCOUNT: &str = "devstoreaccount1";

/// The key of [`WELL_KNOWN_ACCOUNT`]. It is printed in every manual, and no secret.
pub const WELL_KNOWN_KEY: &str =
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";

/// An account of the server.
#[derive(Clone, PartialEq, Eq)]
pub struct AccountKey {
    /// The account's name: lower-case letters and digits.
    pub name: String,
    /// Its key, in base64.
    pub key: String,
}

impl fmt::Debug for AccountKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccountKey").field("name", &self.name).finish_non_exhaustive()
    }
}

/// How a server is to be.
#[derive(Clone)]
pub struct Config {
    /// Where to listen; port 0 for any that is free.
    pub listen: SocketAddr,
    /// Directory that data is kept in; `None` for one that is removed at shutdown.
    pub data: Option<PathBuf>,
    /// Accounts and their keys.
    pub accounts: Vec<AccountKey>,
    /// Containers that the first account gets unless it has them.
    pub containers: Vec<String>,
    /// Bearer tokens that are accepted until the server ends. More can be added while it runs.
    pub tokens: Vec<String>,
    /// Whose tokens are accepted besides, if they are for storage and have not ended.
    pub issuer: Option<Arc<Issuer>>,
    /// Added to every request.
    pub latency: Duration,
    /// Bytes a second of each connection, each way.
    pub connection_rate: Option<u64>,
    /// Limits of each blob, beyond which requests are answered 503.
    pub throttle: Option<Throttle>,
    /// Lists come in shorter pages than asked for, some of them empty; page ranges in pieces.
    pub short_pages: bool,
    /// Requests signed with a date more than 15 minutes off are refused.
    pub date_check: bool,
    /// Serves HTTPS instead of HTTP.
    pub tls: Option<Tls>,
    /// Deleted blobs are kept out of sight until they are undeleted or made anew.
    pub soft_delete: bool,
    /// What a blob was before it was replaced or deleted is kept as a version of it. Nothing else makes
    /// one here.
    pub versioning: bool,
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
            accounts: vec![AccountKey {
                name: WELL_KNOWN_ACCOUNT.to_owned(),
                key: WELL_KNOWN_KEY.to_owned(),
            }],
            containers: Vec::new(),
            tokens: Vec::new(),
            issuer: None,
            latency: Duration::ZERO,
            connection_rate: None,
            throttle: None,
            short_pages: false,
            date_check: true,
            tls: None,
            soft_delete: false,
            versioning: false,
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
            .field("accounts", &self.accounts)
            .field("containers", &self.containers)
            .field("tokens", &self.tokens.len())
            .field("issuer", &self.issuer)
            .field("latency", &self.latency)
            .field("connection_rate", &self.connection_rate)
            .field("throttle", &self.throttle)
            .field("short_pages", &self.short_pages)
            .field("date_check", &self.date_check)
            .field("tls", &self.tls)
            .field("soft_delete", &self.soft_delete)
            .field("versioning", &self.versioning)
            .field("faults", &self.faults)
            .field("seed", &self.seed)
            .finish()
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
    service: Arc<Service>,
    stop: watch::Sender<bool>,
    accepting: Mutex<Option<JoinHandle<()>>>,
    temporary: Option<PathBuf>,
}

impl Server {
    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// URL of an account, without a slash at the end.
    pub fn account_url(&self, account: &str) -> String {
        format!("{}://{}/{account}", self.service.scheme(), self.addr)
    }

    /// How often an operation was asked for, by whoever was allowed to.
    pub fn requests(&self, op: Operation) -> u64 {
        self.service.counters.get(op as usize)
    }

    /// All requests of [`Server::requests`] together.
    pub fn total_requests(&self) -> u64 {
        self.service.counters.total()
    }

    /// Requests that were answered 503 because of the throttle.
    pub fn throttled(&self) -> u64 {
        self.service.throttled.load(Ordering::Relaxed)
    }

    /// Requests that were refused because of who asked.
    pub fn refused(&self) -> u64 {
        self.service.refused.load(Ordering::Relaxed)
    }

    /// Bytes received, heads of requests included.
    pub fn bytes_in(&self) -> u64 {
        self.service.traffic.bytes_in.load(Ordering::Relaxed)
    }

    /// Bytes sent, heads of answers included.
    pub fn bytes_out(&self) -> u64 {
        self.service.traffic.bytes_out.load(Ordering::Relaxed)
    }

    /// Connections accepted so far.
    pub fn connections(&self) -> u64 {
        self.service.traffic.connections.load(Ordering::Relaxed)
    }

    /// Makes requests go wrong, from now on. The error says what is wrong with the rule.
    pub fn inject(&self, rule: Rule) -> Result<(), String> {
        self.service.faults.add(rule)
    }

    /// Nothing goes wrong any more. What is held is still held.
    pub fn clear_faults(&self) {
        self.service.faults.clear();
    }

    /// The rules in force, and how often they were played.
    pub fn faults(&self) -> Vec<RuleState> {
        self.service.faults.rules()
    }

    /// Applies what [`Action::ApplyLate`] holds, in the order of arrival. Returns how many that were.
    pub async fn release_held(&self) -> usize {
        self.service.release_held().await
    }

    /// Ages leases, signatures and tokens. Dates of requests are still compared with the real time.
    pub fn advance_clock(&self, by: Duration) {
        self.service.clock.advance(by);
    }

    /// Accepts a bearer token, for so long by the clock that can be advanced.
    pub fn add_token(&self, token: impl Into<String>, lifetime: Option<Duration>) {
        let expires = lifetime.map(|by| self.service.clock.now_ms() + by.as_millis() as i64);
        self.service.authority.add_token(token.into(), expires);
    }

    /// Gives an account another key, in base64; whoever signs with the old one is refused. The error says
    /// that it is not base64.
    pub fn set_key(&self, account: &str, key: &str) -> Result<(), String> {
        self.service
            .authority
            .set_key(account, key)
            .map_err(|name| format!("the key of account {name} is not base64"))
    }

    /// How many different tokens of the trusted issuer were accepted.
    pub fn accepted_tokens(&self) -> usize {
        self.service.authority.accepted()
    }

    /// Refuses all bearer tokens that were added so far.
    pub fn revoke_tokens(&self) {
        self.service.authority.revoke_tokens();
    }

    /// Stops: takes no more requests, ends those that run within two seconds, and writes what is left
    /// to write.
    pub async fn shutdown(&self) {
        let _ = self.stop.send(true);
        let accepting = self.accepting.lock().take();
        if let Some(accepting) = accepting {
            let _ = accepting.await;
        }
        // Every connection holds a receiver until it has ended.
        let ended = async {
            while self.stop.receiver_count() > 1 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let _ = tokio::time::timeout(Duration::from_secs(3), ended).await;
        self.service.storage.close();
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
        self.service.storage.close();
        self.remove_temporary();
    }
}

/// Starts a server on the current runtime.
pub async fn start(config: Config) -> io::Result<Server> {
    let invalid = |text: String| io::Error::new(io::ErrorKind::InvalidInput, text);
    let keys = config.accounts.iter().map(|account| (account.name.as_str(), account.key.as_str()));
    let authority = Authority::new(keys, config.date_check, config.issuer.clone())
        .map_err(|name| invalid(format!("the key of account {name} is not base64")))?;
    for account in &config.accounts {
        // The name becomes a directory.
        let plain = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
        if account.name.is_empty() || !account.name.bytes().all(plain) {
            return Err(invalid(format!("{:?} is no account name", account.name)));
        }
    }
    for token in &config.tokens {
        authority.add_token(token.clone(), None);
    }
    let tls = config.tls.as_ref().map(tls::acceptor).transpose()?;
    let listener = TcpListener::bind(config.listen).await?;
    let addr = listener.local_addr()?;
    let (dir, temporary) = match &config.data {
        Some(dir) => (dir.clone(), None),
        None => {
            let dir = temporary_dir();
            (dir.clone(), Some(dir))
        }
    };
    let clock = Arc::new(Clock::default());
    let storage = open(&dir, &config, &clock)?;
    if let Some(first) = config.accounts.first() {
        for name in &config.containers {
            container::ensure(&storage, &first.name, name)?;
        }
    }
    let (stop, stopped) = watch::channel(false);
    let service = Arc::new(Service {
        storage,
        authority,
        clock,
        counters: operations::Counters::new(operation::NAMES),
        traffic: connection::Traffic::default(),
        faults: faults::Faults::new(operation::NAMES),
        latency: config.latency,
        connection_rate: config.connection_rate,
        throttle: config.throttle.map(Buckets::new),
        throttled: AtomicU64::new(0),
        refused: AtomicU64::new(0),
        short_pages: config.short_pages,
        tls,
        soft_delete: config.soft_delete,
        port: addr.port(),
        stop: stopped.clone(),
        held: Mutex::default(),
    });
    service.faults.seed(config.seed);
    for rule in config.faults {
        service.faults.add(rule).map_err(invalid)?;
    }
    let accepting = tokio::spawn(connection::accept(listener, Arc::clone(&service), stopped));
    Ok(Server { addr, service, stop, accepting: Mutex::new(Some(accepting)), temporary })
}

fn open(dir: &Path, config: &Config, clock: &Arc<Clock>) -> io::Result<Storage> {
    let names = config.accounts.iter().map(|account| account.name.as_str());
    Storage::open(dir, names, Arc::clone(clock), config.versioning)
}

fn temporary_dir() -> PathBuf {
    std::env::temp_dir().join(format!("blobdir-page-blob-{}", guid::new_guid()))
}

/// Serves until SIGINT or SIGTERM, on a runtime of its own. `ready` is told where, once it listens.
pub fn serve_blocking(config: Config, ready: impl FnOnce(SocketAddr)) -> io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};

    let runtime =
        tokio::runtime::Builder::new_multi_thread().thread_name("emulator").enable_all().build()?;
    runtime.block_on(async {
        let mut interrupted = signal(SignalKind::interrupt())?;
        let mut terminated = signal(SignalKind::terminate())?;
        let server = start(config).await?;
        ready(server.addr());
        tokio::select! {
            _ = interrupted.recv() => {}
            _ = terminated.recv() => {}
        }
        server.shutdown().await;
        Ok(())
    })
}
