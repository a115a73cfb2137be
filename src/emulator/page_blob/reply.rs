//! What operations answer, in the service's own words.
//!
//! Knows headers and bodies, not connections and not what the operation did.

use bytes::Bytes;
use http::{HeaderName, HeaderValue, StatusCode};

pub(super) use super::body::Content;
use super::clock::http_date;
use super::error::Failure;
use super::record::Properties;
use super::xml;
pub(super) use crate::emulator::reply::Reply;

impl Reply {
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
