//! The one error of the port: a few kinds, whether trying again can help, and what is known of an
//! update that failed. Statuses become kinds in `client`, kinds become errnos in `fuse`.

use std::fmt;

/// The result of every port call.
pub type Result<T> = std::result::Result<T, Error>;

/// What went wrong, as far as a caller could act on it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ErrorKind {
    /// No such blob, directory or container.
    NotFound,
    /// The name is taken.
    AlreadyExists,
    /// A blob was needed and the name is a directory.
    IsDirectory,
    /// A directory was needed and the name is a blob.
    NotDirectory,
    /// The directory still has entries.
    NotEmpty,
    /// The credential is known and does not allow this.
    PermissionDenied,
    /// The credential is missing, wrong or expired.
    Unauthenticated,
    /// The store, or this blob, cannot be written.
    ReadOnly,
    /// The version changed under a reader, or a condition on the version failed.
    Stale,
    /// The service does not offer this.
    Unsupported,
    /// The range is outside the blob or not aligned.
    InvalidRange,
    /// The service does not take this name.
    BadName,
    /// No space or quota left.
    Quota,
    /// A lease or session is held by somebody else.
    Busy,
    /// The right to write was lost to somebody else; the file stays failed.
    Fenced,
    /// No answer within the deadline.
    TimedOut,
    /// The service cannot be reached or fails.
    Unavailable,
    /// The service refuses because of load.
    RateLimited,
    /// Bytes are not what they should be (length, digest, malformed answer).
    Corrupt,
    /// Longer than the service allows.
    TooLarge,
    /// A rename that the service cannot do; the caller copies and deletes.
    CrossDevice,
    /// Not a thing of this world: a bug, or an answer that no document describes.
    Other,
}

/// Whether trying again can help.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Retry {
    /// Yes, after a while.
    Temporary,
    /// No.
    Permanent,
    /// It would have, and was tried until the deadline.
    Exhausted,
}

/// What is known of a request that did not succeed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Outcome {
    /// It was not applied and never will be.
    NotApplied,
    /// It may have been applied, or may yet be. Only updates care.
    Unknown,
}

/// A failed call. Plain data, so that all waiters of one fetch can be given it.
#[derive(Clone)]
pub struct Error {
    kind: ErrorKind,
    retry: Retry,
    outcome: Outcome,
    op: &'static str,
    target: String,
    message: String,
}

impl Error {
    /// A permanent failure that was surely not applied. `message` says what happened and, if there
    /// is a remedy, what to do; it never holds a secret.
    pub fn new(
        kind: ErrorKind,
        op: &'static str,
        target: impl fmt::Display,
        message: impl Into<String>,
    ) -> Error {
        Error {
            kind,
            retry: Retry::Permanent,
            outcome: Outcome::NotApplied,
            op,
            target: target.to_string(),
            message: message.into(),
        }
    }

    /// The same with another judgement on trying again.
    #[must_use]
    pub fn with_retry(mut self, retry: Retry) -> Error {
        self.retry = retry;
        self
    }

    /// The same with what is known of its effect.
    #[must_use]
    pub fn with_outcome(mut self, outcome: Outcome) -> Error {
        self.outcome = outcome;
        self
    }

    /// The same as another kind, for a caller that knows better what it means.
    #[must_use]
    pub fn with_kind(mut self, kind: ErrorKind) -> Error {
        self.kind = kind;
        self
    }

    /// What went wrong.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// Whether trying again can help.
    pub fn retry(&self) -> Retry {
        self.retry
    }

    /// What is known of the effect of a failed update.
    pub fn outcome(&self) -> Outcome {
        self.outcome
    }

    /// The operation in the service's own words (`Put Page`).
    pub fn op(&self) -> &'static str {
        self.op
    }

    /// What it was done to.
    pub fn target(&self) -> &str {
        &self.target
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.op, self.target, self.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}/{:?}/{:?}: {self}", self.kind, self.retry, self.outcome)
    }
}

impl std::error::Error for Error {}
