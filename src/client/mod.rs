//! HTTP: the only user of `reqwest`.
//!
//! A [`Client`] sends the [`Request`]s of one [`Service`], again and again where that can help and
//! does no harm, and hands back answers that have been checked. [`Effect`] says what a second
//! sending would do; [`retry`](self) decides by it. Services differ in how a request is signed and
//! what their error codes mean, which is what the [`Service`] trait asks them.
//!
//! This module must not know any particular service, nor what the bytes are for.

mod body;
mod http;
pub mod identity;
mod limit;
pub mod oci;
mod range;
mod request;
mod retry;
mod status;
pub mod token;

use std::fmt::Debug;
use std::time::Duration;

use std::sync::atomic::{AtomicU64, Ordering};

use ::http::header::{HeaderMap, HeaderName, RANGE};
use ::http::{Method, StatusCode};
use futures_util::future::BoxFuture;
use tokio::time::Instant;
use url::{Host, Url};

use crate::store::ErrorKind;

pub use self::http::Client;
pub use self::range::Pin;
pub use self::request::{Effect, Reply, Request};
pub use self::retry::pause_after;
pub use self::status::{Again, Verdict, judge, outcome};

/// Settings of one client.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Every operation ends within this time, retries included.
    pub timeout: Duration,
    /// The most requests under way at once, fewer while the service is busy; also the connections that are
    /// kept open.
    pub connections: usize,
}

/// How one service signs its requests and what its answers mean.
pub trait Service: Send + Sync + Debug {
    /// Waits, at most until `deadline`, for a credential to sign with; `None` if there is one, as there
    /// nearly always is. Asked before every attempt.
    fn ready(&self, deadline: Instant) -> Option<Ready<'_>> {
        let _ = deadline;
        None
    }

    /// Completes one attempt (date, id, authorization). Called anew for every attempt.
    fn sign(&self, attempt: &mut Attempt<'_>);

    /// Looks for a newer credential than the one that was refused ([`Again::Renewed`]). Whether there is
    /// one now.
    fn renew(&self, refused: Refused) -> BoxFuture<'_, bool> {
        let _ = refused;
        Box::pin(std::future::ready(false))
    }

    /// What an answer that is no success means. The outcome of an update is not its business: that
    /// follows from the status alone ([`outcome`]).
    fn judge(&self, answer: &Answer<'_>) -> Verdict {
        judge(answer.status)
    }

    /// What the body of a successful answer must agree with, if the answer says so: `asked` are the headers of
    /// the request, `told` those of the answer.
    fn checksum(&self, _asked: &HeaderMap, _told: &HeaderMap) -> Option<Box<dyn Checksum>> {
        None
    }

    /// The header that carries a byte range.
    fn range_header(&self) -> HeaderName {
        RANGE
    }

    /// The header of an answer that holds the service's own name for the request, for the log.
    fn request_id_header(&self) -> Option<HeaderName> {
        None
    }

    /// The header of a request that holds our own name for it, for the log.
    fn client_request_id_header(&self) -> Option<HeaderName> {
        None
    }
}

/// A checksum of a body that is on its way.
pub trait Checksum: Send {
    /// Takes the next bytes.
    fn update(&mut self, bytes: &[u8]);

    /// Whether the bytes so far are those that the checksum was made of.
    fn matches(&mut self) -> bool;
}

/// One attempt that is about to be sent.
#[derive(Debug)]
pub struct Attempt<'a> {
    /// The method.
    pub method: &'a Method,
    /// The URL exactly as it will be sent; signing may add to its query.
    pub url: &'a mut Url,
    /// The headers so far.
    pub headers: &'a mut HeaderMap,
    /// Length of the body in bytes.
    pub body_len: u64,
    /// With what it was signed, for [`Service::renew`].
    pub credential: Option<CredentialId>,
}

/// Tells one credential, or one token, from all others of the process. Not secret.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CredentialId(u64);

impl CredentialId {
    /// One that was never given before.
    pub fn unique() -> CredentialId {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        CredentialId(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

/// What [`Service::ready`] waits for.
pub type Ready<'a> = BoxFuture<'a, std::result::Result<(), Unready>>;

/// Why there is nothing to sign with.
#[derive(Clone, Debug)]
pub struct Unready {
    /// What it means for the operation.
    pub verdict: Verdict,
    /// The credential that gives nothing.
    pub credential: CredentialId,
}

/// A refusal of who we are.
#[derive(Clone, Copy, Debug)]
pub struct Refused {
    /// With what the attempt was signed, or was to be.
    pub credential: Option<CredentialId>,
    /// `Unauthenticated` if the credential is not known, `PermissionDenied` if it does not allow this.
    pub kind: ErrorKind,
}

/// Whether a URL leads to this host and nowhere else, so that a secret may go there in clear.
pub fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        None => false,
    }
}

/// An answer that is no success.
#[derive(Debug)]
pub struct Answer<'a> {
    /// Its status.
    pub status: StatusCode,
    /// Its headers.
    pub headers: &'a HeaderMap,
    /// Its body, or the beginning of a long one.
    pub body: &'a [u8],
}
