//! The way of one request: parsed, authorised, received, applied, answered.
//!
//! ```text
//! prepare ─► fault? ─► throttle ─► receive ─► wait ─► apply ─► fault? ─► answer
//! ```
//!
//! A body is complete and verified before anything is applied, and applying is one synchronous step:
//! a request whose connection goes away was applied whole or not at all. Faults that concern the
//! answer are played here; what an operation does is in the modules beside.

use std::fmt::{self, Write};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Request, Response};
use hyper::body::Incoming;
use parking_lot::Mutex;
use tokio::sync::{oneshot, watch};
use tokio_rustls::TlsAcceptor;

use super::auth::{Authority, Presented};
use super::clock::Clock;
use super::connection::{Control, Traffic};
use super::error::{self, Failure};
use super::faults::{Action, Faults, LateAnswer};
use super::operation::{Counters, Operation};
use super::reply::{Break, Content, Outgoing, Reply};
use super::request::{self, Call, Payload, Query, Target};
use super::storage::Storage;
use super::throttle::Buckets;
use super::{access, apply, control, receive, spoil};

/// Longest `x-ms-client-request-id` that is echoed.
const LONGEST_CLIENT_ID: usize = 1024;

/// Everything that requests share.
pub(super) struct Service {
    pub(super) storage: Storage,
    pub(super) authority: Authority,
    pub(super) clock: Arc<Clock>,
    pub(super) counters: Counters,
    pub(super) traffic: Traffic,
    pub(super) faults: Faults,
    pub(super) latency: Duration,
    pub(super) connection_rate: Option<u64>,
    pub(super) throttle: Option<Buckets>,
    pub(super) throttled: AtomicU64,
    pub(super) refused: AtomicU64,
    pub(super) short_pages: bool,
    pub(super) tls: Option<TlsAcceptor>,
    pub(super) soft_delete: bool,
    /// The server's own port, by which it knows sources of copies.
    pub(super) port: u16,
    pub(super) stop: watch::Receiver<bool>,
    /// Requests that wait to be applied late.
    pub(super) held: Mutex<Vec<Held>>,
}

/// Wakes a held request, and is told when it was applied.
pub(super) type Held = oneshot::Sender<oneshot::Sender<()>>;

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum NoAnswer {
    /// The connection failed.
    Connection(hyper::Error),
    /// The connection is to be reset.
    Reset,
}

impl fmt::Display for NoAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connection(error) => write!(f, "connection failed: {error}"),
            Self::Reset => f.write_str("reset by a fault"),
        }
    }
}

impl std::error::Error for NoAnswer {}

/// What is echoed in every answer.
struct Echo {
    request_id: String,
    client_id: Option<HeaderValue>,
    version: Option<&'static str>,
    head: bool,
}

impl fmt::Debug for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Service")
            .field("storage", &self.storage)
            .field("authority", &self.authority)
            .finish_non_exhaustive()
    }
}

impl Service {
    /// What its URLs begin with.
    pub(super) fn scheme(&self) -> &'static str {
        if self.tls.is_some() { "https" } else { "http" }
    }

    /// Answers one request, or not.
    pub(super) async fn answer(
        self: &Arc<Self>,
        control: &Control,
        request: Request<Incoming>,
    ) -> Result<Response<Outgoing>, NoAnswer> {
        let (parts, body) = request.into_parts();
        if parts.uri.path().starts_with("/_") {
            return control::answer(self, &parts, body).await;
        }
        let mut echo = Echo::of(&parts);
        let mut call = match self.prepare(&parts) {
            Ok(call) => call,
            Err(failure) => {
                if matches!(failure.status.as_u16(), 401 | 403) {
                    self.refused.fetch_add(1, Ordering::Relaxed);
                }
                receive::discard(&parts.headers, body).await;
                return Ok(self.respond(&echo, Err(failure), None));
            }
        };
        self.counters.add(call.op);
        let name = || format!("{}/{}", call.container(), call.blob());
        let fault = self.faults.pick(call.op, name);
        let admitted = match (&self.throttle, &call.target.blob) {
            (Some(buckets), Some(_)) => {
                let name = name();
                let admitted = buckets.admit(&name, Instant::now());
                admitted.then_some(Some(name))
            }
            _ => Some(None),
        };
        let Some(throttled) = admitted else {
            self.throttled.fetch_add(1, Ordering::Relaxed);
            receive::discard(&parts.headers, body).await;
            return Ok(self.respond(&echo, Err(error::SERVER_BUSY.into()), None));
        };
        echo.version = parts.headers.contains_key("x-ms-version").then_some(call.version);

        let corrupt = fault == Some(Action::CorruptRequest);
        match receive::body(&self.storage, &mut call, body, corrupt).await? {
            Ok(()) => {}
            Err(failure) => return Ok(self.respond(&echo, Err(failure), None)),
        }
        if let (Some(buckets), Some(name)) = (&self.throttle, &throttled) {
            buckets.charge(name, receive::len(&call.payload));
        }
        if !self.latency.is_zero() {
            tokio::time::sleep(self.latency).await;
        }
        if let Some(Action::Delay { ms }) = fault {
            tokio::time::sleep(Duration::from_millis(ms)).await;
        }
        if let Some(fault) = &fault
            && let Some(result) = self.without_answer(control, &mut call, fault).await?
        {
            return Ok(self.respond(&echo, result, None));
        }
        let result = self.apply(call).await;
        if let (Some(buckets), Some(name), Ok(reply)) = (&self.throttle, &throttled, &result) {
            buckets.charge(name, reply.len());
        }
        Ok(self.respond(&echo, result, fault.as_ref()))
    }

    /// Takes a request apart, finds out who is asking, and refuses what its headers alone refuse.
    fn prepare(&self, parts: &Parts) -> Result<Call, Failure> {
        let raw_path = parts.uri.path();
        let query = Query::parse(parts.uri.query().unwrap_or(""));
        let target = Target::parse(raw_path, &query)?;
        let op = Operation::of(&parts.method, &target, &query, &parts.headers)?;
        let (version, _) = request::version(&parts.headers, &query)?;
        let asked = Presented {
            op,
            method: &parts.method,
            raw_path,
            target: &target,
            query: &query,
            headers: &parts.headers,
            secure: self.tls.is_some(),
        };
        let public = || {
            let name = target.container.as_deref()?;
            let container = access::find_container(&self.storage, &target.account, name)?;
            container.info.read().public
        };
        let identity = self.authority.authorize(asked, &self.clock, public)?;
        let call = Call {
            op,
            target,
            query,
            headers: parts.headers.clone(),
            version,
            secure: self.tls.is_some(),
            identity,
            payload: Payload::None,
            body_md5: None,
            body_crc64: None,
        };
        receive::check(&call, &parts.method)?;
        Ok(call)
    }

    /// Applies a request, elsewhere if it may take long.
    async fn apply(self: &Arc<Self>, call: Call) -> Result<Reply, Failure> {
        match call.op {
            Operation::SnapshotBlob | Operation::CopyBlob | Operation::PutBlockList => {
                let service = Arc::clone(self);
                let work = move || apply::apply(&service, call);
                tokio::task::spawn_blocking(work)
                    .await
                    .unwrap_or_else(|_| Err(error::INTERNAL_ERROR.into()))
            }
            _ => apply::apply(self, call),
        }
    }

    /// Plays faults that concern whether the request is applied, and what is said instead of its
    /// answer. `None`: it goes on.
    async fn without_answer(
        self: &Arc<Self>,
        control: &Control,
        call: &mut Call,
        fault: &Action,
    ) -> Result<Option<Result<Reply, Failure>>, NoAnswer> {
        match fault {
            Action::Status { status, code, apply, retry_after } => {
                if *apply {
                    // What it says does not matter: the caller will not hear it.
                    drop(self.apply(take(call)).await);
                }
                let mut failure = spoil::failure(*status, code.as_deref());
                if let Some(seconds) = retry_after {
                    failure = failure.header("retry-after", seconds.to_string());
                }
                Ok(Some(Err(failure)))
            }
            Action::Reset { apply } => {
                if *apply {
                    drop(self.apply(take(call)).await);
                }
                control.reset_at_end();
                Err(NoAnswer::Reset)
            }
            Action::Stall { apply } => {
                if *apply {
                    drop(self.apply(take(call)).await);
                }
                // Until the caller gives up.
                std::future::pending::<()>().await;
                Ok(None)
            }
            Action::ApplyLate { ms, answer } => {
                self.hold(take(call), ms.map(Duration::from_millis));
                match answer {
                    LateAnswer::Reset => {
                        control.reset_at_end();
                        Err(NoAnswer::Reset)
                    }
                    LateAnswer::Stall => {
                        std::future::pending::<()>().await;
                        Ok(None)
                    }
                    LateAnswer::TimedOut => Ok(Some(Err(error::OPERATION_TIMED_OUT.into()))),
                }
            }
            _ => Ok(None),
        }
    }

    /// Keeps a request, and applies it when its time has come.
    fn hold(self: &Arc<Self>, call: Call, after: Option<Duration>) {
        let (wake, woken) = oneshot::channel();
        let mut held = self.held.lock();
        held.retain(|wake| !wake.is_closed());
        held.push(wake);
        drop(held);
        let service = Arc::clone(self);
        let mut stop = self.stop.clone();
        tokio::spawn(async move {
            let time = async {
                match after {
                    Some(after) => tokio::time::sleep(after).await,
                    None => std::future::pending().await,
                }
            };
            let done = tokio::select! {
                () = time => None,
                woken = woken => woken.ok(),
                () = super::connection::stopped(&mut stop) => return,
            };
            let op = call.op;
            let result = service.apply(call).await;
            let said =
                result.map_or_else(|failure| failure.code.to_string(), |r| r.status.to_string());
            log::debug!(target: "emulator", "late {}: {said}", op.name());
            if let Some(done) = done {
                let _ = done.send(());
            }
        });
    }

    /// Applies everything that is held, in the order of arrival. Returns how many that were.
    pub(super) async fn release_held(&self) -> usize {
        let held = std::mem::take(&mut *self.held.lock());
        let mut count = 0;
        for wake in held {
            let (done, waiting) = oneshot::channel();
            if wake.send(done).is_ok() && waiting.await.is_ok() {
                count += 1;
            }
        }
        count
    }

    fn respond(
        &self,
        echo: &Echo,
        result: Result<Reply, Failure>,
        fault: Option<&Action>,
    ) -> Response<Outgoing> {
        let mut reply = match result {
            Ok(reply) => reply,
            Err(failure) => {
                Reply::failure(&failure, echo.head, &echo.request_id, self.clock.now_ms())
            }
        };
        let mut breaks = None;
        if let Some(fault) = fault {
            spoil::reply(&mut reply, fault);
            breaks = match fault {
                Action::Truncate { bytes } => Some((*bytes, Break::Cut)),
                Action::StallBody { bytes } => Some((*bytes, Break::Stall)),
                _ => None,
            };
        }
        reply.set("server", concat!("Windows-Azure-Blob/1.0 blobdir/", env!("CARGO_PKG_VERSION")));
        reply.set("x-ms-request-id", &echo.request_id);
        if let Some(version) = echo.version {
            reply.set("x-ms-version", version);
        }
        if let Some(id) = &echo.client_id {
            reply.headers.insert("x-ms-client-request-id", id.clone());
        }
        if let Content::Length(len) = reply.content {
            reply.set("content-length", len.to_string());
        }
        if echo.head {
            reply.content = Content::Empty;
        }
        let mut outgoing = Outgoing::new(reply.content);
        outgoing.breaks = breaks;
        let mut response = Response::new(outgoing);
        *response.status_mut() = reply.status;
        *response.headers_mut() = reply.headers;
        response
    }
}

impl Echo {
    fn of(parts: &Parts) -> Self {
        let visible = |value: &&HeaderValue| {
            value.len() <= LONGEST_CLIENT_ID
                && value.as_bytes().iter().all(|byte| (0x20..0x7F).contains(byte))
        };
        let version = parts.headers.get("x-ms-version").and_then(|value| value.to_str().ok());
        Self {
            request_id: new_guid(),
            client_id: parts.headers.get("x-ms-client-request-id").filter(visible).cloned(),
            version: version.and_then(request::known_version),
            head: parts.method == Method::HEAD,
        }
    }
}

/// Leaves an empty call in the place of one that is applied.
fn take(call: &mut Call) -> Call {
    Call {
        op: call.op,
        target: call.target.clone(),
        query: call.query.clone(),
        headers: std::mem::replace(&mut call.headers, HeaderMap::new()),
        version: call.version,
        secure: call.secure,
        identity: call.identity.clone(),
        payload: std::mem::take(&mut call.payload),
        body_md5: call.body_md5.take(),
        body_crc64: call.body_crc64.take(),
    }
}

/// A GUID that no other call returns.
pub(super) fn new_guid() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    static BASE: std::sync::OnceLock<[u64; 2]> = std::sync::OnceLock::new();
    let base = BASE.get_or_init(|| {
        let mut bytes = [0; 16];
        if getrandom::fill(&mut bytes).is_err() {
            log::warn!(target: "emulator", "no randomness: identifiers repeat after a restart");
        }
        let (high, low) = bytes.split_at(8);
        [high, low].map(|half| half.iter().fold(0, |number, byte| number << 8 | u64::from(*byte)))
    });
    let serial = NEXT.fetch_add(1, Ordering::Relaxed);
    let (high, low) = (base[0], base[1].wrapping_add(serial));
    let mut text = String::with_capacity(36);
    let _ = write!(
        text,
        "{:08x}-{:04x}-4{:03x}-{:04x}-{:012x}",
        high >> 32,
        high >> 16 & 0xFFFF,
        high & 0xFFF,
        0x8000 | low >> 48 & 0x3FFF,
        low & 0xFFFF_FFFF_FFFF
    );
    text
}

/// Turns a failure of the server's own into one of the connection.
impl From<io::Error> for NoAnswer {
    fn from(error: io::Error) -> Self {
        log::error!(target: "emulator", "{error}");
        Self::Reset
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guids_differ_and_have_their_form() {
        let (a, b) = (new_guid(), new_guid());
        assert_ne!(a, b);
        let headers: HeaderMap =
            [("x-ms-lease-id".parse().unwrap(), a.parse().unwrap())].into_iter().collect();
        assert!(request::guid(&headers, "x-ms-lease-id").is_ok());
    }
}
