//! What is sent and what comes back, without the transport.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use http::header::HeaderMap;
use http::{Method, StatusCode};
use url::Url;

use crate::store::ErrorKind;

/// What sending a request a second time would do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Effect {
    /// Nothing: it only reads. Retried after any temporary failure.
    Read,
    /// It changes something, and a late duplicate could undo what came after. Retried only when the
    /// failed attempt was surely not applied.
    Update,
    /// It changes something under a condition that its own success breaks (`If-Match`,
    /// `If-None-Match: *`), so that of all the duplicates at most one is ever applied. Retried like a
    /// read; a final failure has `Outcome::Unknown` if an earlier attempt may have been applied.
    Guarded,
}

/// One request, to be sent as often as needed.
#[derive(Clone)]
pub struct Request {
    /// The operation in the service's own words (`Put Page`).
    pub op: &'static str,
    /// What it is done to, as it may be shown.
    pub target: Arc<str>,
    /// The method.
    pub method: Method,
    /// The URL exactly as it is sent.
    pub url: Url,
    /// Headers that are the same for every attempt.
    pub headers: HeaderMap,
    /// The body, in pieces that are sent one after another.
    pub body: Vec<Bytes>,
    /// What sending it twice would do.
    pub effect: Effect,
    /// The most attempts; the deadline may allow fewer.
    pub attempts: u32,
    /// Kinds of failure that the caller deals with, so that they are logged at DEBUG.
    pub expected: &'static [ErrorKind],
}

impl Request {
    /// A request without headers or body, tried until the deadline.
    pub fn new(
        op: &'static str,
        target: Arc<str>,
        method: Method,
        url: Url,
        effect: Effect,
    ) -> Request {
        Request {
            op,
            target,
            method,
            url,
            headers: HeaderMap::new(),
            body: Vec::new(),
            effect,
            attempts: u32::MAX,
            expected: &[],
        }
    }
}

/// Shows neither the query, which may hold a signature, nor headers.
impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request")
            .field("op", &self.op)
            .field("target", &self.target)
            .field("method", &self.method)
            .field("effect", &self.effect)
            .finish_non_exhaustive()
    }
}

/// A successful answer, whole.
#[derive(Clone, Debug)]
pub struct Reply {
    /// 200–299.
    pub status: StatusCode,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
}
