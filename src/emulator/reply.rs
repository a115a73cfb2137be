//! What an operation answers, before it is put on a connection.
//!
//! Knows headers and bodies, not connections and not what the operation did.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use serde_json::{Value, json};

use super::body::{Break, Content, Outgoing};
use super::faults::Action;
use super::spoil;

/// An answer.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) content: Content,
    /// Where the body ends before its end, even without a fault.
    pub(super) breaks: Option<(u64, Break)>,
}

impl Reply {
    pub(super) fn new(status: u16) -> Self {
        Self {
            status: StatusCode::from_u16(status).expect("operations answer with valid statuses"),
            headers: HeaderMap::with_capacity(24),
            content: Content::Empty,
            breaks: None,
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

    /// A JSON document.
    pub(super) fn json(self, value: &Value) -> Self {
        let mut reply = self.header("content-type", "application/json; charset=utf-8");
        reply.content = Content::Bytes(Bytes::from(format!("{value}\n")));
        reply
    }

    /// The answer to a request that is about the server itself.
    pub(super) fn control(result: Result<Value, String>) -> Self {
        match result {
            Ok(value) => Self::new(200).json(&value),
            Err(text) => Self::new(400).json(&json!({ "error": text })),
        }
    }

    /// What a fault says instead of the service; `None` if it lets the service speak.
    pub(super) fn instead(fault: &Action) -> Option<Self> {
        let Action::Answer { status, body, headers } = fault else { return None };
        let mut reply = Self::new(*status);
        for (name, value) in headers {
            let name = HeaderName::from_bytes(name.as_bytes());
            if let (Ok(name), Ok(value)) = (name, HeaderValue::from_str(value)) {
                reply.headers.append(name, value);
            }
        }
        reply.content = Content::Bytes(Bytes::from(body.clone()));
        Some(reply)
    }

    /// Puts it on a connection, made wrong by a fault if there is one. HEAD gets no body.
    pub(super) fn respond(mut self, head: bool, fault: Option<&Action>) -> Response<Outgoing> {
        if let Some(fault) = fault {
            spoil::answer(&mut self.headers, &mut self.content, fault);
        }
        if head {
            self.content = match self.content {
                Content::Bytes(bytes) if !bytes.is_empty() => Content::Length(bytes.len() as u64),
                Content::File { len, .. } | Content::Length(len) => Content::Length(len),
                Content::Empty | Content::Bytes(_) | Content::Chunked(_) => Content::Empty,
            };
        }
        if let Content::Length(len) = self.content {
            self.set("content-length", len.to_string());
            self.content = Content::Empty;
        }
        let mut outgoing = Outgoing::new(self.content);
        outgoing.breaks = fault.and_then(spoil::breaks).or(self.breaks).filter(|_| !head);
        let mut response = Response::new(outgoing);
        *response.status_mut() = self.status;
        *response.headers_mut() = self.headers;
        response
    }
}
