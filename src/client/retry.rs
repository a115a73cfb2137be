//! The one retry policy: when an attempt is repeated, after which pause, and what the caller is told
//! in the end.
//!
//! | effect  | failure                                        | then |
//! |---------|------------------------------------------------|------|
//! | any     | permanent                                      | ends |
//! | any     | damaged on the way, surely not applied         | again, twice |
//! | any     | credential refused, and there is a newer one   | again at once, once |
//! | read    | temporary                                      | again |
//! | guarded | temporary                                      | again; the outcome of a later failure is unknown if this one's was |
//! | update  | temporary, surely not applied (408, 429, 503, never connected) | again |
//! | update  | temporary, outcome unknown                     | ends, with `Outcome::Unknown` |

use std::time::{Duration, SystemTime};

use http::header::{HeaderMap, RETRY_AFTER};
use tokio::time::{Instant, timeout_at};

use super::request::{Effect, Request};
use super::status::Again;
use super::{CredentialId, Refused, Service, Unready};
use crate::store::{Error, ErrorKind, Outcome, Retry};

/// The bound of the first pause. A busy storage partition moves within seconds, so that several tries fit.
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// The bound of every later pause: a service that has come back is noticed within this time.
const LONGEST_PAUSE: Duration = Duration::from_secs(8);

/// How often what was sent or answered may be damaged before that is told.
const DAMAGED: u32 = 5;

/// An attempt that did not succeed.
#[derive(Clone, Debug)]
pub(super) struct Failure {
    /// What it is.
    pub(super) kind: ErrorKind,
    /// Whether sending again can help.
    pub(super) again: Again,
    /// What is known of its effect.
    pub(super) outcome: Outcome,
    /// How long the service asks to wait.
    pub(super) retry_after: Option<Duration>,
    /// What happened, in words.
    pub(super) message: String,
    /// The names of the attempt, ours and the service's, for the log.
    pub(super) ids: String,
    /// With what the attempt was signed.
    pub(super) credential: Option<CredentialId>,
}

impl Failure {
    /// An attempt that was not made, for want of a credential.
    pub(super) fn unsigned(unready: Unready) -> Failure {
        Failure {
            kind: unready.verdict.kind,
            again: unready.verdict.again,
            outcome: Outcome::NotApplied,
            retry_after: None,
            message: unready.verdict.message,
            ids: String::new(),
            credential: Some(unready.credential),
        }
    }
}

/// The attempts of one operation.
#[derive(Debug)]
pub(super) struct Attempts<'a> {
    request: &'a Request,
    service: &'a dyn Service,
    deadline: Instant,
    made: u32,
    step: u32,
    damaged: u32,
    renewed: bool,
    /// An earlier attempt may have been applied.
    ambiguous: bool,
}

impl<'a> Attempts<'a> {
    /// None made yet; all of them end within `timeout` from now.
    pub(super) fn new(
        request: &'a Request,
        service: &'a dyn Service,
        timeout: Duration,
    ) -> Attempts<'a> {
        Attempts {
            request,
            service,
            deadline: Instant::now() + timeout,
            made: 0,
            step: 0,
            damaged: 0,
            renewed: false,
            ambiguous: false,
        }
    }

    /// When the operation has to end.
    pub(super) fn deadline(&self) -> Instant {
        self.deadline
    }

    /// The last attempt brought something, so the service is well: pauses start over.
    pub(super) fn progressed(&mut self) {
        self.step = 0;
        self.made = 0;
    }

    /// Waits for the next attempt, or gives the error that ends the operation.
    pub(super) async fn after(&mut self, mut failure: Failure) -> Result<(), Error> {
        if self.renews(&failure).await {
            log::debug!(
                target: "http",
                "{} {}: {}; again with a newer credential{}",
                self.request.op, self.request.target, failure.message, failure.ids
            );
            return Ok(());
        }
        self.made += 1;
        if failure.kind == ErrorKind::Corrupt {
            self.damaged += 1;
            if self.damaged >= DAMAGED {
                failure.again = Again::Never;
            }
        }
        self.ambiguous |=
            self.request.effect != Effect::Read && failure.outcome == Outcome::Unknown;
        if !may_repeat(self.request.effect, failure.again, failure.outcome) {
            let retry = match failure.again {
                Again::Never | Again::Renewed => Retry::Permanent,
                Again::Later => Retry::Temporary,
            };
            return Err(self.end(failure, retry));
        }
        let pause = match failure.kind {
            // The client's limit holds back this request with all others.
            ErrorKind::RateLimited => failure.retry_after.unwrap_or_default(),
            _ => pause(self.step, failure.retry_after, random()),
        };
        if self.made >= self.request.attempts || Instant::now() + pause >= self.deadline {
            return Err(self.end(failure, Retry::Exhausted));
        }
        log::debug!(
            target: "http",
            "{} {}: {}; again in {} ms{}",
            self.request.op, self.request.target, failure.message, pause.as_millis(), failure.ids
        );
        self.step += 1;
        tokio::time::sleep(pause).await;
        Ok(())
    }

    /// Whether the attempt was refused for its credential and there is a newer one; asked once.
    async fn renews(&mut self, failure: &Failure) -> bool {
        let worth_it = failure.again == Again::Renewed && failure.outcome == Outcome::NotApplied;
        if !worth_it || std::mem::replace(&mut self.renewed, true) {
            return false;
        }
        let refused = Refused { credential: failure.credential, kind: failure.kind };
        let renewal = self.service.renew(refused);
        timeout_at(self.deadline, renewal).await.unwrap_or(false)
    }

    /// The error of the operation, which is logged here and nowhere else.
    fn end(&self, failure: Failure, retry: Retry) -> Error {
        let expected =
            failure.kind == ErrorKind::NotFound || self.request.expected.contains(&failure.kind);
        let level = match failure.kind {
            ErrorKind::Corrupt => log::Level::Error,
            _ if expected => log::Level::Debug,
            _ => log::Level::Warn,
        };
        log::log!(
            target: "http",
            level,
            "{} {}: {} ({:?}, attempts: {}){}",
            self.request.op, self.request.target, failure.message, failure.kind, self.made, failure.ids
        );
        let outcome = if self.ambiguous { Outcome::Unknown } else { Outcome::NotApplied };
        let message = match retry {
            Retry::Exhausted if self.made > 1 => {
                format!("{} ({} attempts)", failure.message, self.made)
            }
            _ => failure.message,
        };
        Error::new(failure.kind, self.request.op, &self.request.target, message)
            .with_retry(retry)
            .with_outcome(outcome)
    }
}

/// Whether a request may be sent again after this failure.
fn may_repeat(effect: Effect, again: Again, outcome: Outcome) -> bool {
    again == Again::Later
        && match effect {
            Effect::Read | Effect::Guarded => true,
            Effect::Update => outcome == Outcome::NotApplied,
        }
}

/// The pause before something is sent again outside of one operation, after so many failures.
pub fn pause_after(failures: u32) -> Duration {
    pause(failures.saturating_sub(1), None, random())
}

/// The pause before the next attempt: a random part of an exponentially growing bound (full jitter,
/// so that many clients do not come back together), on top of what the service asked for.
fn pause(step: u32, retry_after: Option<Duration>, random: u64) -> Duration {
    let bound =
        FIRST_PAUSE.saturating_mul(1u32.checked_shl(step).unwrap_or(u32::MAX)).min(LONGEST_PAUSE);
    // Microseconds of at most eight seconds: the product fits.
    let part = (bound.as_micros() as u64).saturating_mul(random >> 32) >> 32;
    retry_after.unwrap_or_default() + Duration::from_micros(part)
}

/// How long the service asks to wait: seconds or a date.
pub(super) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse::<u32>() {
        return Some(Duration::from_secs(seconds.into()));
    }
    let date = httpdate::parse_http_date(text).ok()?;
    Some(date.duration_since(SystemTime::now()).unwrap_or(Duration::ZERO))
}

/// Random bits for the pause; without a random source the pause has no jitter, which does no harm.
pub(super) fn random() -> u64 {
    getrandom::u64().unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::header::{HeaderMap, HeaderValue, RETRY_AFTER};

    use super::{FIRST_PAUSE, LONGEST_PAUSE, may_repeat, pause, retry_after};
    use crate::client::{Again, Effect};
    use crate::store::Outcome;

    #[test]
    fn an_update_is_repeated_only_when_surely_not_applied() {
        use Again::{Later, Never};
        use Effect::{Guarded, Read, Update};
        use Outcome::{NotApplied, Unknown};
        for (effect, again, outcome, expected) in [
            (Read, Later, Unknown, true),
            (Read, Later, NotApplied, true),
            (Read, Never, Unknown, false),
            (Guarded, Later, Unknown, true),
            (Guarded, Never, Unknown, false),
            (Guarded, Again::Renewed, NotApplied, false),
            (Update, Later, NotApplied, true),
            (Update, Later, Unknown, false),
            (Update, Never, NotApplied, false),
        ] {
            assert_eq!(may_repeat(effect, again, outcome), expected);
        }
    }

    #[test]
    fn pauses_grow_to_a_bound_and_honour_the_service() {
        assert_eq!(pause(0, None, 0), Duration::ZERO);
        assert!(pause(0, None, u64::MAX) <= FIRST_PAUSE);
        assert!(pause(3, None, u64::MAX) > FIRST_PAUSE * 7);
        for step in [7, 31, 32, 1000] {
            assert!(pause(step, None, u64::MAX) <= LONGEST_PAUSE);
        }
        let asked = Duration::from_secs(3);
        assert_eq!(pause(0, Some(asked), 0), asked);
    }

    #[test]
    fn reads_seconds_and_dates() {
        let with = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, HeaderValue::from_str(text).unwrap());
            retry_after(&headers)
        };
        assert_eq!(with("5"), Some(Duration::from_secs(5)));
        assert_eq!(with("Fri, 20 Nov 2020 07:00:00 GMT"), Some(Duration::ZERO));
        assert_eq!(with("soon"), None);
        assert_eq!(retry_after(&HeaderMap::new()), None);
    }
}
