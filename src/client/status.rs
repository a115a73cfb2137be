//! What a status means by itself: the default verdict, and what is known of an update.

use http::StatusCode;

use crate::store::{ErrorKind, Outcome};

/// Whether sending again can help.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Again {
    /// No.
    Never,
    /// Yes, after a while.
    Later,
    /// The credential was refused: once, at once, if the service has a newer one.
    Renewed,
}

/// What an answer that is no success means.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Verdict {
    /// The kind it becomes.
    pub kind: ErrorKind,
    /// Whether sending again can help.
    pub again: Again,
    /// What happened and what to do, in words.
    pub message: String,
}

/// The default verdict for a status, for services that say nothing better.
pub fn judge(status: StatusCode) -> Verdict {
    let (kind, again) = match status.as_u16() {
        401 => (ErrorKind::Unauthenticated, Again::Never),
        403 => (ErrorKind::PermissionDenied, Again::Never),
        404 | 410 => (ErrorKind::NotFound, Again::Never),
        408 => (ErrorKind::TimedOut, Again::Later),
        409 => (ErrorKind::Busy, Again::Never),
        304 | 412 => (ErrorKind::Stale, Again::Never),
        413 => (ErrorKind::TooLarge, Again::Never),
        416 => (ErrorKind::InvalidRange, Again::Never),
        429 => (ErrorKind::RateLimited, Again::Later),
        501 | 505 => (ErrorKind::Unsupported, Again::Never),
        503 => (ErrorKind::RateLimited, Again::Later),
        504 => (ErrorKind::TimedOut, Again::Later),
        507 => (ErrorKind::Quota, Again::Never),
        500..=599 => (ErrorKind::Unavailable, Again::Later),
        _ => (ErrorKind::Other, Again::Never),
    };
    Verdict { kind, again, message: format!("the service answered {status}") }
}

/// What is known of an update after this answer; `None` stands for no answer at all.
///
/// Microsoft's rule ("Use the page blob sequence number to retry requests"): statuses 100–499 and
/// 503 tell surely whether the request was applied, and such a failure was not; after anything else
/// it may have been, or may yet be.
pub fn outcome(status: Option<StatusCode>) -> Outcome {
    match status.map(|status| status.as_u16()) {
        Some(100..=499 | 503) => Outcome::NotApplied,
        _ => Outcome::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::{Again, judge, outcome};
    use crate::store::{ErrorKind, Outcome};
    use http::StatusCode;

    #[test]
    fn only_500_and_no_answer_leave_an_update_open() {
        for code in 100..600u16 {
            let known = outcome(StatusCode::from_u16(code).ok()) == Outcome::NotApplied;
            assert_eq!(known, code < 500 || code == 503, "{code}");
        }
        assert_eq!(outcome(None), Outcome::Unknown);
    }

    #[test]
    fn what_may_pass_is_tried_again() {
        for (code, kind, again) in [
            (404, ErrorKind::NotFound, Again::Never),
            (408, ErrorKind::TimedOut, Again::Later),
            (412, ErrorKind::Stale, Again::Never),
            (429, ErrorKind::RateLimited, Again::Later),
            (500, ErrorKind::Unavailable, Again::Later),
            (501, ErrorKind::Unsupported, Again::Never),
            (502, ErrorKind::Unavailable, Again::Later),
            (503, ErrorKind::RateLimited, Again::Later),
            (504, ErrorKind::TimedOut, Again::Later),
        ] {
            let verdict = judge(StatusCode::from_u16(code).unwrap());
            assert_eq!((verdict.kind, verdict.again), (kind, again), "{code}");
        }
    }
}
