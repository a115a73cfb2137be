//! Sending: one attempt over the transport, and the loops that make operations of attempts.

use std::error::Error as _;
use std::fmt::{self, Write as _};
use std::ops::Range;
use std::pin::pin;
use std::sync::{Arc, Once};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::StatusCode;
use http::header::{HeaderMap, HeaderValue};
use tokio::time::{Instant, timeout_at};
use url::Url;

use super::body::{Pieces, Progress, length};
use super::limit::{Limit, Slot};
use super::range::{Mismatch, Pin, check};
use super::request::{Effect, Reply, Request};
use super::retry::{Attempts, Failure, random, retry_after};
use super::status::{Again, outcome};
use super::{Answer, Attempt, Config, CredentialId, Service};
use crate::store::{Error, ErrorKind, Outcome, Result, Sink};

/// How long making a connection may take, TLS included. Three SYNs fit.
const CONNECT: Duration = Duration::from_secs(5);

/// How long a read may bring no byte before another connection is tried. Storage answers within
/// tens of milliseconds, and a listing under load within seconds.
const READ_IDLE: Duration = Duration::from_secs(10);

/// How long an update may make no progress. Longer than for reads, because giving up leaves its
/// outcome unknown; the service itself gives up after 30 s.
const UPDATE_IDLE: Duration = Duration::from_secs(32);

/// The slowest uplink that works, in bytes a second: what the transport has taken may be in its buffers for
/// as long as that takes, and is no sign of a service that hangs.
const SLOWEST: u64 = 128 << 10;

/// When an unused connection is dropped. Servers drop theirs after 5 s at the earliest (Azurite,
/// Node); a request that meets the server's own close would have an unknown outcome.
const POOL_IDLE: Duration = Duration::from_secs(4);

/// The longest answer that is taken whole, in bytes. A page of 5000 names with metadata is about 8 MiB.
const LONGEST_REPLY: usize = 64 << 20;

/// How much of an error's body is read, in bytes. Error documents are some hundred bytes.
const LONGEST_ERROR: usize = 16 << 10;

/// The longest answer of a dialogue, in bytes. Tokens have some thousands.
const LONGEST_EXCHANGE: usize = 1 << 20;

/// The shortest range that is asked for because longer ones broke off before they could be checked, in
/// bytes: a connection that does not bring so much brings nothing.
const SHORTEST_RANGE: u64 = 64 << 10;

/// Sends the requests of one service.
#[derive(Debug)]
pub struct Client {
    transport: reqwest::Client,
    service: Arc<dyn Service>,
    config: Config,
    limit: Limit,
}

impl Client {
    /// A client for this service. Contacts nobody.
    ///
    /// Errors: `Other` if the transport cannot be set up (no CA certificates on this host).
    pub fn new(config: Config, service: Arc<dyn Service>) -> Result<Client> {
        static PROVIDER: Once = Once::new();
        PROVIDER.call_once(|| {
            // An error says that the process has chosen one already, which is as good.
            let _ = rustls::crypto::ring::default_provider().install_default();
        });
        let transport = reqwest::Client::builder()
            .user_agent(concat!("blobdir/", env!("CARGO_PKG_VERSION")))
            .http1_only()
            .tcp_nodelay(true)
            // Redirects would carry secrets to another host, retries would escape the policy, and a
            // proxy from the environment would do both.
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .no_proxy()
            .referer(false)
            .connect_timeout(CONNECT)
            .pool_idle_timeout(POOL_IDLE)
            .pool_max_idle_per_host(config.connections)
            .build()
            .map_err(|error| {
                Error::new(
                    ErrorKind::Other,
                    "set up",
                    "HTTP client",
                    format!(
                        "{}; are CA certificates installed (package ca-certificates)?",
                        chain(&error)
                    ),
                )
            })?;
        Ok(Client { transport, service, limit: Limit::new(config.connections), config })
    }

    /// Sends a request until it succeeds or cannot, and gives the whole answer.
    pub async fn call(&self, request: &Request) -> Result<Reply> {
        let mut attempts = Attempts::new(request, &*self.service, self.config.timeout);
        loop {
            match self.call_once(request, attempts.deadline()).await {
                Ok(reply) => return Ok(reply),
                Err(failure) => attempts.after(failure).await?,
            }
        }
    }

    async fn call_once(
        &self,
        request: &Request,
        deadline: Instant,
    ) -> std::result::Result<Reply, Failure> {
        let mut open = self.send(request, None, deadline).await?;
        let body = open
            .collect(LONGEST_REPLY)
            .await?
            .ok_or_else(|| open.broken("the answer is too long to be right".to_owned()))?;
        Ok(Reply {
            status: open.response.status(),
            headers: std::mem::take(open.response.headers_mut()),
            body,
        })
    }

    /// Sends a request once and gives the head of the answer, whatever its status; its body is not taken.
    pub(super) async fn head_of(
        &self,
        request: &Request,
    ) -> std::result::Result<(StatusCode, HeaderMap), Failure> {
        let deadline = Instant::now() + self.config.timeout;
        let mut open = self.transmit(request, None, deadline).await?;
        Ok((open.response.status(), std::mem::take(open.response.headers_mut())))
    }

    /// Sends a request once and gives the answer, whatever its status: for dialogues that an error is
    /// part of. Ends within the time of an operation.
    pub(super) async fn exchange(&self, request: &Request) -> std::result::Result<Reply, Failure> {
        let deadline = Instant::now() + self.config.timeout;
        let mut open = self.transmit(request, None, deadline).await?;
        let body = open
            .collect(LONGEST_EXCHANGE)
            .await?
            .ok_or_else(|| open.broken("the answer is too long to be right".to_owned()))?;
        Ok(Reply {
            status: open.response.status(),
            headers: std::mem::take(open.response.headers_mut()),
            body,
        })
    }

    /// Gives `sink` exactly the bytes of `range`, going on behind what was confirmed where an attempt failed.
    /// `request` holds the condition that pins the version, and `pin` what every answer must agree with.
    /// The range's start moves with what is confirmed: at once, or, where the service sends a checksum,
    /// when all of an answer has come and agrees.
    ///
    /// Errors: as the service says; `Stale` for another version, `Corrupt` for answers that
    /// are not what was asked. What was confirmed to the sink is a prefix, and never a wrong byte.
    pub async fn read(
        &self,
        request: &Request,
        range: &mut Range<u64>,
        pin: Pin<'_>,
        sink: &mut dyn Sink,
    ) -> Result<()> {
        let mut attempts = Attempts::new(request, &*self.service, self.config.timeout);
        let mut longest = range.end.saturating_sub(range.start);
        while range.start < range.end {
            let asked = range.start..range.end.min(range.start + longest);
            let mut part = Part { asked, received: 0 };
            let result = self.read_once(request, &mut part, &pin, sink, attempts.deadline()).await;
            let confirmed = part.asked.start > range.start;
            range.start = part.asked.start;
            if confirmed {
                attempts.progressed();
            }
            let Err(failure) = result else { continue };
            if !confirmed && part.received > 0 && failure.kind != ErrorKind::Corrupt {
                // What came in vain will come again: less of it at once.
                longest = (part.received / 2).max(SHORTEST_RANGE);
            }
            attempts.after(failure).await?;
        }
        Ok(())
    }

    /// One attempt at a part; moves its start past what was confirmed.
    async fn read_once(
        &self,
        request: &Request,
        part: &mut Part,
        pin: &Pin<'_>,
        sink: &mut dyn Sink,
        deadline: Instant,
    ) -> std::result::Result<(), Failure> {
        let mut open = self.send(request, Some(&part.asked), deadline).await?;
        let headers = open.response.headers();
        if let Err(mismatch) = check(open.response.status(), headers, &part.asked, pin) {
            return Err(match mismatch {
                Mismatch::Version => Failure {
                    kind: ErrorKind::Stale,
                    again: Again::Never,
                    ..open.broken("the blob was changed by somebody else".to_owned())
                },
                Mismatch::Range(what) => Failure { kind: ErrorKind::Corrupt, ..open.broken(what) },
            });
        }
        let Some(mut checksum) = self.service.checksum(&request.headers, headers) else {
            let given = open.receive(part, |piece| {
                sink.put(piece);
                sink.confirm();
            });
            let given = given.await;
            part.asked.start += part.received;
            return given;
        };
        let given = open.receive(part, |piece| {
            // While it is in the processor's cache.
            checksum.update(piece);
            sink.put(piece);
        });
        let checked = given.await.and_then(|()| match checksum.matches() {
            true => Ok(()),
            false => Err(Failure {
                kind: ErrorKind::Corrupt,
                ..open
                    .broken("the answer was damaged on the way: its checksum is another".to_owned())
            }),
        });
        match checked {
            Ok(()) => {
                sink.confirm();
                part.asked.start = part.asked.end;
            }
            Err(_) => sink.retract(),
        }
        checked
    }

    /// Sends one attempt and waits for the head of a successful answer.
    async fn send<'a>(
        &'a self,
        request: &'a Request,
        range: Option<&Range<u64>>,
        deadline: Instant,
    ) -> std::result::Result<Open<'a>, Failure> {
        let mut open = self.transmit(request, range, deadline).await?;
        let status = open.response.status();
        if status.is_success() {
            self.limit.served();
            return Ok(open);
        }
        let body = match open.collect(LONGEST_ERROR).await {
            Ok(Some(body)) => body,
            // The status alone is enough to go by.
            Ok(None) | Err(_) => Bytes::new(),
        };
        let failure = open.refused(status, &body);
        if failure.kind == ErrorKind::RateLimited {
            self.limit.refused(failure.retry_after, random());
        }
        Err(failure)
    }

    /// Sends one attempt and waits for the head of its answer.
    async fn transmit<'a>(
        &'a self,
        request: &'a Request,
        range: Option<&Range<u64>>,
        deadline: Instant,
    ) -> std::result::Result<Open<'a>, Failure> {
        let idle = match request.effect {
            Effect::Read => READ_IDLE,
            Effect::Update | Effect::Guarded => UPDATE_IDLE,
        };
        if let Some(ready) = self.service.ready(deadline) {
            ready.await.map_err(Failure::unsigned)?;
        }
        let mut url = request.url.clone();
        let mut headers = request.headers.clone();
        if let Some(range) = range {
            headers.insert(self.service.range_header(), range_value(range));
        }
        let mut signing = Attempt {
            method: &request.method,
            url: &mut url,
            headers: &mut headers,
            body_len: length(&request.body),
            credential: None,
        };
        self.service.sign(&mut signing);
        let credential = signing.credential;
        let names = Names {
            service: &*self.service,
            url: &request.url,
            ours: self
                .service
                .client_request_id_header()
                .and_then(|name| headers.get(name).cloned()),
            credential,
        };
        let mut attempt = reqwest::Request::new(request.method.clone(), url);
        *attempt.headers_mut() = headers;
        let progress = Progress::new();
        if !request.body.is_empty() {
            let body = Pieces::new(request.body.clone(), progress.clone());
            *attempt.body_mut() = Some(reqwest::Body::wrap(body));
        }

        let slot = match timeout_at(deadline, self.limit.acquire()).await {
            Ok(slot) => slot,
            Err(_) => {
                return Err(Failure {
                    kind: ErrorKind::TimedOut,
                    again: Again::Later,
                    outcome: Outcome::NotApplied,
                    retry_after: None,
                    message: "all connections were busy until the deadline".to_owned(),
                    ids: String::new(),
                    credential,
                });
            }
        };
        let sent = Instant::now();
        let quiet = idle + Duration::from_millis(length(&request.body) * 1000 / SLOWEST);
        let limit = || deadline.min(progress.last().max(sent) + quiet);
        let mut sending = pin!(self.transport.execute(attempt));
        let response = loop {
            let until = limit();
            match timeout_at(until, &mut sending).await {
                Ok(Ok(response)) => break response,
                Ok(Err(error)) => return Err(names.lost(&error)),
                Err(_) if until < limit() => {}
                Err(_) => return Err(names.silent()),
            }
        };
        Ok(Open { response, names, idle, deadline, _slot: slot })
    }
}

/// A part of a read that one attempt asks for.
struct Part {
    asked: Range<u64>,
    /// Bytes of it that came, right or wrong.
    received: u64,
}

/// An answer whose head has come.
struct Open<'a> {
    response: reqwest::Response,
    names: Names<'a>,
    idle: Duration,
    deadline: Instant,
    _slot: Slot<'a>,
}

impl Open<'_> {
    /// The next piece of the body, never empty; `None` at its end.
    async fn chunk(&mut self) -> std::result::Result<Option<Bytes>, Failure> {
        let limit = self.deadline.min(Instant::now() + self.idle);
        loop {
            match timeout_at(limit, self.response.chunk()).await {
                Ok(Ok(Some(piece))) if piece.is_empty() => {}
                Ok(Ok(piece)) => return Ok(piece),
                Ok(Err(error)) => {
                    return Err(self.broken(format!("the answer broke off: {}", chain(&error))));
                }
                Err(_) => {
                    return Err(Failure {
                        kind: ErrorKind::TimedOut,
                        ..self.broken("the answer stopped coming".to_owned())
                    });
                }
            }
        }
    }

    /// Hands on the bytes of `part`, all of them.
    async fn receive(
        &mut self,
        part: &mut Part,
        mut hand_on: impl FnMut(&[u8]),
    ) -> std::result::Result<(), Failure> {
        let length = part.asked.end - part.asked.start;
        while part.received < length {
            let left = length - part.received;
            let Some(piece) = self.chunk().await? else {
                return Err(self.broken(format!("the body ended {left} bytes early")));
            };
            // More than announced can only come without a Content-Length; what was asked is right.
            let take = usize::try_from(left).map_or(piece.len(), |left| left.min(piece.len()));
            hand_on(&piece[..take]);
            part.received += take as u64;
        }
        // Taking the end of the body gives the connection back to the pool at once.
        let _ = self.chunk().await;
        Ok(())
    }

    /// The whole body; `None` if it is longer than `limit` bytes.
    async fn collect(&mut self, limit: usize) -> std::result::Result<Option<Bytes>, Failure> {
        let Some(first) = self.chunk().await? else {
            return Ok(Some(Bytes::new()));
        };
        let mut all: Option<BytesMut> = None;
        while let Some(piece) = self.chunk().await? {
            let all = all.get_or_insert_with(|| BytesMut::from(&first[..]));
            if all.len() + piece.len() > limit {
                return Ok(None);
            }
            all.extend_from_slice(&piece);
        }
        Ok(Some(all.map_or(first, BytesMut::freeze)))
    }

    /// A success whose body cannot be used.
    fn broken(&self, message: String) -> Failure {
        Failure {
            kind: ErrorKind::Unavailable,
            again: Again::Later,
            // A success status says that an update was applied, but its caller needs the answer.
            outcome: Outcome::Unknown,
            retry_after: None,
            message,
            ids: self.names.show(Some(self.response.headers())),
            credential: self.names.credential,
        }
    }

    /// An answer that is no success.
    fn refused(&self, status: StatusCode, body: &[u8]) -> Failure {
        let headers = self.response.headers();
        let verdict = self.names.service.judge(&Answer { status, headers, body });
        Failure {
            kind: verdict.kind,
            again: verdict.again,
            outcome: outcome(Some(status)),
            retry_after: retry_after(headers),
            message: verdict.message,
            ids: self.names.show(Some(headers)),
            credential: self.names.credential,
        }
    }
}

/// What an attempt is called, for the log.
struct Names<'a> {
    service: &'a dyn Service,
    url: &'a Url,
    ours: Option<HeaderValue>,
    credential: Option<CredentialId>,
}

impl Names<'_> {
    fn show(&self, headers: Option<&HeaderMap>) -> String {
        let mut text = String::new();
        if let Some(id) = self.ours.as_ref().and_then(|id| id.to_str().ok()) {
            let _ = write!(text, "; client request {id}");
        }
        let theirs = self.service.request_id_header().zip(headers);
        if let Some(id) =
            theirs.and_then(|(name, headers)| headers.get(name)).and_then(|id| id.to_str().ok())
        {
            let _ = write!(text, "; request {id}");
        }
        text
    }

    /// No answer, for a reason that the transport tells.
    fn lost(&self, error: &reqwest::Error) -> Failure {
        let connecting = error.is_connect();
        let to = Host(self.url);
        let message = match (connecting, error.is_timeout()) {
            _ if error.is_dns() => format!("the name of {to} cannot be resolved: {}", root(error)),
            (true, true) => format!("no connection to {to} within {} s", CONNECT.as_secs()),
            (true, false) => match root(error) {
                why if why.contains("certificate") => format!(
                    "cannot trust {to}: {why}; if that is your own service, install its CA \
                     certificate on this host or name it by SSL_CERT_FILE"
                ),
                why => format!("cannot connect to {to}: {why}"),
            },
            (false, _) => format!("the connection to {to} broke: {}", chain(error)),
        };
        Failure {
            kind: if error.is_timeout() { ErrorKind::TimedOut } else { ErrorKind::Unavailable },
            again: Again::Later,
            // Before there is a connection nothing has been sent.
            outcome: if connecting { Outcome::NotApplied } else { outcome(None) },
            retry_after: None,
            message,
            ids: self.show(None),
            credential: self.credential,
        }
    }

    /// No answer in time.
    fn silent(&self) -> Failure {
        Failure {
            kind: ErrorKind::TimedOut,
            again: Again::Later,
            outcome: outcome(None),
            retry_after: None,
            message: format!("no answer from {} in time", Host(self.url)),
            ids: self.show(None),
            credential: self.credential,
        }
    }
}

/// Host and port of a URL.
struct Host<'a>(&'a Url);

impl fmt::Display for Host<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.host_str().unwrap_or("(no host)"))?;
        match self.0.port_or_known_default() {
            Some(port) => write!(f, ":{port}"),
            None => Ok(()),
        }
    }
}

/// `bytes=FIRST-LAST`, which is always a valid header value.
fn range_value(range: &Range<u64>) -> HeaderValue {
    HeaderValue::from_maybe_shared(Bytes::from(format!("bytes={}-{}", range.start, range.end - 1)))
        .expect("digits are a header value")
}

/// An error with its causes, without the URL, whose query may hold a signature.
fn chain(error: &reqwest::Error) -> String {
    let mut text = String::new();
    let mut next = error.source();
    while let Some(error) = next {
        if !text.is_empty() {
            text.push_str(": ");
        }
        let _ = write!(text, "{error}");
        next = error.source();
    }
    if text.is_empty() {
        text.push_str("transport failure");
    }
    text
}

/// The innermost cause, which says what the layers above it repeat.
fn root(error: &reqwest::Error) -> String {
    let mut cause = error.source();
    while let Some(next) = cause.and_then(std::error::Error::source) {
        cause = Some(next);
    }
    cause.map_or_else(|| "transport failure".to_owned(), ToString::to_string)
}
