//! What an operation answers, before it is put on a connection.
//!
//! Knows headers and bodies, not connections and not what the operation did.

use std::fs::File;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use http_body::{Body, Frame, SizeHint};
use tokio::time::{Sleep, sleep};

use super::buffer::Pool;
use super::clock::http_date;
use super::data_file::read_or_zeros;
use super::error::Failure;
use super::record::Properties;
use super::xml;

/// Bytes of a long download that are read at a time: 1 MiB keeps a slow reader cheap.
const CHUNK: usize = 1 << 20;

/// An answer.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) content: Content,
}

/// The body of an answer.
#[derive(Debug)]
pub(super) enum Content {
    Empty,
    /// No body, but the length of the one that GET would have.
    Length(u64),
    Bytes(Bytes),
    /// Sent in pieces, of a length that is not announced.
    Chunked(Bytes),
    /// A long part of a file, read while it is sent.
    File {
        file: Arc<File>,
        offset: u64,
        len: u64,
        pool: Arc<Pool>,
    },
}

impl Reply {
    pub(super) fn new(status: u16) -> Self {
        Self {
            status: StatusCode::from_u16(status).expect("operations answer with valid statuses"),
            headers: HeaderMap::with_capacity(24),
            content: Content::Empty,
        }
    }

    pub(super) fn header(mut self, name: &'static str, value: impl AsRef<str>) -> Self {
        self.set(name, value);
        self
    }

    /// Adds a header where there is a value.
    pub(super) fn optional(self, name: &'static str, value: Option<impl AsRef<str>>) -> Self {
        match value {
            Some(value) => self.header(name, value),
            None => self,
        }
    }

    pub(super) fn set(&mut self, name: &'static str, value: impl AsRef<str>) {
        match HeaderValue::from_str(value.as_ref()) {
            Ok(value) => drop(self.headers.insert(HeaderName::from_static(name), value)),
            Err(_) => log::warn!(target: "emulator", "{name} holds what no header can"),
        }
    }

    /// Bytes in the body.
    pub(super) fn len(&self) -> u64 {
        match &self.content {
            Content::Empty | Content::Length(_) => 0,
            Content::Bytes(bytes) | Content::Chunked(bytes) => bytes.len() as u64,
            Content::File { len, .. } => *len,
        }
    }

    /// ETag and Last-Modified.
    pub(super) fn stamps(self, etag: &str, modified_ms: i64) -> Self {
        self.header("etag", format!("\"{etag}\"")).header("last-modified", http_date(modified_ms))
    }

    /// ETag, Last-Modified and, for a page blob, the sequence number.
    pub(super) fn written(self, props: &Properties) -> Self {
        let reply = self.stamps(&props.etag, props.modified_ms);
        match props.kind {
            super::record::Kind::Page => {
                reply.header("x-ms-blob-sequence-number", props.sequence.to_string())
            }
            _ => reply,
        }
    }

    pub(super) fn metadata(mut self, metadata: &[(String, String)]) -> Self {
        for (name, value) in metadata {
            let name = HeaderName::from_bytes(format!("x-ms-meta-{name}").as_bytes());
            if let (Ok(name), Ok(value)) = (name, HeaderValue::from_str(value)) {
                self.headers.insert(name, value);
            }
        }
        self
    }

    /// A document, which the service sends in pieces.
    pub(super) fn xml(self, document: String) -> Self {
        let mut reply = self.header("content-type", "application/xml");
        reply.content = Content::Chunked(Bytes::from(document));
        reply
    }

    /// The answer to what was refused.
    pub(super) fn failure(failure: &Failure, head: bool, request_id: &str, now_ms: i64) -> Self {
        let mut reply = Self::new(failure.status.as_u16());
        reply.set("x-ms-error-code", &failure.code);
        for (name, value) in &failure.headers {
            reply.set(name, value);
        }
        if !head && failure.status != StatusCode::NOT_MODIFIED {
            reply.set("content-type", "application/xml");
            reply.content = Content::Bytes(Bytes::from(xml::error(failure, request_id, now_ms)));
        }
        reply
    }
}

/// A body on its way out.
#[derive(Debug)]
pub(super) struct Outgoing {
    content: Content,
    /// A fault: after so many bytes, this.
    pub(super) breaks: Option<(u64, Break)>,
    /// Runs while what came before a cut is sent.
    before_cut: Option<Pin<Box<Sleep>>>,
}

/// How long what came before a cut has, to be sent.
const BEFORE_CUT: Duration = Duration::from_millis(20);

/// How a body ends before its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Break {
    /// The connection goes away.
    Cut,
    /// Nothing more comes.
    Stall,
}

impl Outgoing {
    pub(super) fn new(content: Content) -> Self {
        Self { content, breaks: None, before_cut: None }
    }

    fn next(&mut self) -> Option<std::io::Result<Bytes>> {
        match &mut self.content {
            Content::Empty | Content::Length(_) => None,
            Content::Bytes(_) | Content::Chunked(_) => {
                match std::mem::replace(&mut self.content, Content::Empty) {
                    Content::Bytes(bytes) | Content::Chunked(bytes) if !bytes.is_empty() => {
                        Some(Ok(bytes))
                    }
                    _ => None,
                }
            }
            Content::File { len: 0, .. } => None,
            Content::File { file, offset, len, pool } => {
                let count = usize::try_from(*len).unwrap_or(CHUNK).min(CHUNK);
                let mut buffer = pool.take(count);
                if let Err(error) = read_or_zeros(file, buffer.as_mut(), *offset) {
                    return Some(Err(error));
                }
                *offset += count as u64;
                *len -= count as u64;
                Some(Ok(Bytes::from_owner(buffer)))
            }
        }
    }
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = self.get_mut();
        match &this.breaks {
            Some((0, Break::Cut)) => {
                // While there is more to come, the transport sends what it has.
                let sent = this.before_cut.get_or_insert_with(|| Box::pin(sleep(BEFORE_CUT)));
                ready!(sent.as_mut().poll(context));
                return Poll::Ready(Some(Err(std::io::ErrorKind::ConnectionReset.into())));
            }
            // Nobody will wake this: the client has to give up.
            Some((0, Break::Stall)) => return Poll::Pending,
            _ => {}
        }
        let Some(next) = this.next() else {
            return Poll::Ready(None);
        };
        let mut bytes = next?;
        if let Some((left, _)) = &mut this.breaks {
            let count = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
            bytes.truncate(count);
            *left -= count as u64;
        }
        Poll::Ready(Some(Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.breaks.is_none()
            && match &self.content {
                Content::Empty | Content::Length(_) => true,
                Content::Bytes(bytes) => bytes.is_empty(),
                Content::Chunked(_) => false,
                Content::File { len, .. } => *len == 0,
            }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Empty | Content::Length(_) => SizeHint::with_exact(0),
            Content::Bytes(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Content::Chunked(_) => SizeHint::default(),
            Content::File { len, .. } => SizeHint::with_exact(*len),
        }
    }
}
