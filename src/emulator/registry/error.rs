//! Refusals, as a registry words them.
//!
//! Knows codes and how they are written, not when one is due.

use bytes::Bytes;
use serde_json::{Value, json};

use super::super::body::Content;
use super::super::reply::Reply;

/// What the caller gets instead of what was asked for.
#[derive(Debug, Clone)]
pub(super) struct Failure {
    pub(super) status: u16,
    code: String,
    message: String,
    detail: Value,
    headers: Vec<(&'static str, String)>,
    /// Said in plain text, by what stands before the registry proper.
    plain: bool,
}

/// An error code of the specification, with its usual status and message.
#[derive(Debug, Clone, Copy)]
pub(super) struct Code(u16, &'static str, &'static str);

pub(super) const BLOB_UNKNOWN: Code = Code(404, "BLOB_UNKNOWN", "blob unknown to registry");
pub(super) const BLOB_UPLOAD_INVALID: Code =
    Code(404, "BLOB_UPLOAD_INVALID", "blob upload invalid");
pub(super) const BLOB_UPLOAD_UNKNOWN: Code =
    Code(404, "BLOB_UPLOAD_UNKNOWN", "blob upload unknown to registry");
pub(super) const CHUNK_OUT_OF_ORDER: Code =
    Code(416, "BLOB_UPLOAD_INVALID", "the chunk does not begin where the last one ended");
pub(super) const DENIED: Code = Code(403, "DENIED", "requested access to the resource is denied");
pub(super) const DIGEST_INVALID: Code =
    Code(400, "DIGEST_INVALID", "provided digest did not match uploaded content");
pub(super) const MANIFEST_BLOB_UNKNOWN: Code =
    Code(404, "MANIFEST_BLOB_UNKNOWN", "manifest blob unknown to registry");
pub(super) const MANIFEST_INVALID: Code = Code(400, "MANIFEST_INVALID", "manifest invalid");
pub(super) const MANIFEST_TOO_LARGE: Code =
    Code(413, "MANIFEST_INVALID", "manifest is larger than 4 MiB");
pub(super) const MANIFEST_UNKNOWN: Code = Code(404, "MANIFEST_UNKNOWN", "manifest unknown");
pub(super) const METHOD_UNSUPPORTED: Code =
    Code(405, "UNSUPPORTED", "The operation is unsupported.");
pub(super) const NAME_UNKNOWN: Code =
    Code(404, "NAME_UNKNOWN", "repository name not known to registry");
pub(super) const PAGINATION_NUMBER_INVALID: Code =
    Code(400, "PAGINATION_NUMBER_INVALID", "invalid number of results requested");
pub(super) const TAG_UNKNOWN: Code = Code(404, "TAG_UNKNOWN", "the specified tag does not exist");
pub(super) const TOO_MANY_REQUESTS: Code = Code(429, "TOOMANYREQUESTS", "too many requests");
pub(super) const UNAUTHORIZED: Code = Code(
    401,
    "UNAUTHORIZED",
    "authentication required, visit https://aka.ms/acr/authorization for more information.",
);
pub(super) const UNKNOWN: Code = Code(500, "UNKNOWN", "unknown error");

impl Code {
    /// This code with what it is about.
    pub(super) fn about(self, detail: Value) -> Failure {
        Failure { detail, ..Failure::from(self) }
    }

    /// This code with another message.
    pub(super) fn saying(self, message: &str) -> Failure {
        Failure { message: message.to_owned(), ..Failure::from(self) }
    }
}

impl From<Code> for Failure {
    fn from(Code(status, code, message): Code) -> Self {
        Self {
            status,
            code: code.to_owned(),
            message: message.to_owned(),
            detail: Value::Null,
            headers: Vec::new(),
            plain: false,
        }
    }
}

/// The directory failed.
impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        log::error!(target: "emulator", "storage failed: {error}");
        UNKNOWN.into()
    }
}

impl Failure {
    /// What the router says of a path that has no meaning.
    pub(super) fn not_found() -> Self {
        Self { plain: true, ..Code(404, "", "404 page not found").into() }
    }

    /// What the router says of a method that a path does not have.
    pub(super) fn method_not_allowed(allowed: &'static str) -> Self {
        Self { plain: true, ..Failure::from(Code(405, "", "")) }.header("allow", allowed)
    }

    /// What is wrong with how a fault answers.
    pub(super) fn of_status(status: u16, code: Option<&str>) -> Self {
        let usual = match status {
            401 => UNAUTHORIZED,
            403 => DENIED,
            404 => NAME_UNKNOWN,
            429 => TOO_MANY_REQUESTS,
            _ => UNKNOWN,
        };
        let mut failure = Failure { status, ..usual.into() };
        if let Some(code) = code {
            code.clone_into(&mut failure.code);
        }
        failure
    }

    pub(super) fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// The answer that says it.
    pub(super) fn reply(&self) -> Reply {
        let mut reply = Reply::new(self.status);
        for (name, value) in &self.headers {
            reply.set(name, value);
        }
        if self.plain {
            reply.set("content-type", "text/plain; charset=utf-8");
            reply.content = Content::Bytes(Bytes::from(format!("{}\n", self.message)));
            return reply;
        }
        let mut error = json!({ "code": self.code, "message": self.message });
        if !self.detail.is_null() {
            error["detail"] = self.detail.clone();
        }
        reply.json(&json!({ "errors": [error] }))
    }
}
