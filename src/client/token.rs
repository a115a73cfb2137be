//! Bearer tokens: kept as long as they hold, fetched anew well before they end, by one fetch at a time.
//!
//! | the token | a request | a fetch |
//! |---|---|---|
//! | fresh | is signed with it | none |
//! | due | is signed with it | in the background; while it fails, again after a growing pause |
//! | ended or none | waits for the fetch, until its own deadline | at once; after a failure not before the pause is over, and requests fail meanwhile with what the last one said |
//! | refused by the service | once more, after a fetch | at once, unless one was forced just before |
//!
//! Nothing is fetched for a program that asks for nothing. This module must not know whose tokens they
//! are nor how one is fetched: that is an [`Identity`].

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::header::HeaderValue;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use super::status::{Again, Verdict};
use super::{CredentialId, Ready, Unready};
use crate::store::ErrorKind;

/// How long before its end a token is due: enough for an endpoint that is away for minutes. What the
/// official SDKs take.
const AHEAD: Duration = Duration::from_secs(300);

/// Tokens that last so long are due at half of it, as the platform asks for those of machines.
const LONG: Duration = Duration::from_secs(2 * 3600);

/// The bounds of the pause after a fetch that failed: it doubles from the one to the other.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// The longest pause where there is no token and operations wait: an endpoint that has come back is noticed
/// within this time.
const LONGEST_WAIT: Duration = Duration::from_secs(8);

/// A token that the service refuses is fetched anew at most so often: if the next one is refused too,
/// fetching is no remedy.
const FORCED_APART: Duration = Duration::from_secs(30);

/// No token is believed to hold for longer; those that there are hold for a day.
const LONGEST_LIFE: Duration = Duration::from_secs(30 * 24 * 3600);

/// No fetch takes longer, whatever an identity does.
const LONGEST_FETCH: Duration = Duration::from_secs(120);

/// What tokens are for: the URI of a service, without a slash at the end.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Audience(String);

impl Audience {
    /// The service of this URI (`https://storage.azure.com`).
    pub fn new(resource: &str) -> Audience {
        Audience(resource.trim_end_matches('/').to_owned())
    }

    /// As machines' endpoints are asked for it.
    pub fn resource(&self) -> &str {
        &self.0
    }

    /// As Entra ID is asked for it.
    pub fn scope(&self) -> String {
        format!("{}/.default", self.0)
    }
}

/// What an identity gives.
pub struct Grant {
    /// The token.
    pub token: String,
    /// How long it holds from now on.
    pub lifetime: Duration,
    /// When its giver wants it to be fetched anew, from now on.
    pub refresh_in: Option<Duration>,
}

/// Shows nothing of the token.
impl fmt::Debug for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Grant").field("lifetime", &self.lifetime).finish_non_exhaustive()
    }
}

/// Why there is no token, in words that name the identity and hold no secret.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum NoToken {
    /// There is no such identity here, so another may be tried.
    Absent(String),
    /// Who gives tokens does not give this one: a secret is wrong, an application unknown.
    Refused(String),
    /// Who gives tokens does not answer, or fails; it may pass.
    Unreachable(String),
}

impl NoToken {
    /// The words.
    pub fn message(&self) -> &str {
        match self {
            NoToken::Absent(text) | NoToken::Refused(text) | NoToken::Unreachable(text) => text,
        }
    }

    /// The same with other words.
    #[must_use]
    pub fn map(self, words: impl FnOnce(String) -> String) -> NoToken {
        match self {
            NoToken::Absent(text) => NoToken::Absent(words(text)),
            NoToken::Refused(text) => NoToken::Refused(words(text)),
            NoToken::Unreachable(text) => NoToken::Unreachable(words(text)),
        }
    }

    /// What it means for a request.
    pub fn verdict(&self) -> Verdict {
        let (kind, again) = match self {
            NoToken::Absent(_) | NoToken::Refused(_) => {
                (ErrorKind::Unauthenticated, Again::Renewed)
            }
            NoToken::Unreachable(_) => (ErrorKind::Unavailable, Again::Later),
        };
        Verdict { kind, again, message: self.message().to_owned() }
    }
}

/// Somebody who can be given tokens.
pub trait Identity: Send + Sync + fmt::Debug {
    /// What it is, in words for users (`client secret of application …`). Holds no secret.
    fn name(&self) -> String;

    /// Tells cheaply that there is no such identity here, and why not, before a fetch that would take
    /// long to find out.
    fn probe(&self) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(std::future::ready(Ok(())))
    }

    /// Fetches a token. Ends by itself within [a bounded time](Tokens), trying again what may pass.
    fn fetch<'a>(&'a self, audience: &'a Audience) -> BoxFuture<'a, Result<Grant, NoToken>>;
}

/// A token that is held.
pub struct Bearer {
    /// Which one it is.
    pub id: CredentialId,
    /// `Bearer …`, marked as sensitive.
    pub header: HeaderValue,
    ends: Instant,
    due: Instant,
}

/// Shows nothing of the token.
impl fmt::Debug for Bearer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bearer").field("id", &self.id).finish_non_exhaustive()
    }
}

/// The tokens of one identity for one service. Must be used inside a tokio runtime.
#[derive(Debug)]
pub struct Tokens {
    identity: Arc<dyn Identity>,
    audience: Audience,
    id: CredentialId,
    state: Mutex<State>,
    /// How many fetches have ended.
    ended: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct State {
    token: Option<Arc<Bearer>>,
    /// A fetch is under way.
    fetching: bool,
    /// Why the last fetch failed, and when the next may be.
    failed: Option<(NoToken, Instant)>,
    failures: u32,
    /// When a refused token was last replaced.
    forced: Option<Instant>,
}

impl Tokens {
    /// Tokens of `identity` for `audience`. Fetches none yet.
    pub fn new(identity: Arc<dyn Identity>, audience: Audience) -> Arc<Tokens> {
        Arc::new(Tokens {
            identity,
            audience,
            id: CredentialId::unique(),
            state: Mutex::default(),
            ended: watch::Sender::new(0),
        })
    }

    /// Whose they are, in words.
    pub fn name(&self) -> String {
        self.identity.name()
    }

    /// The token, if it holds. Begins to fetch the next one when that is due.
    pub fn held(self: &Arc<Self>) -> Option<Arc<Bearer>> {
        let mut state = self.state.lock();
        let now = Instant::now();
        let token = state.token.as_ref().filter(|token| now < token.ends).map(Arc::clone)?;
        if now >= token.due && !state.pauses(now) {
            self.begin(&mut state);
        }
        Some(token)
    }

    /// The token; waits for one until `deadline`.
    ///
    /// Errors: what the last fetch failed with; `Unreachable` at the deadline.
    pub async fn get(self: &Arc<Self>, deadline: Instant) -> Result<Arc<Bearer>, NoToken> {
        if let Some(token) = self.held() {
            return Ok(token);
        }
        let mut ended = self.ended.subscribe();
        {
            let mut state = self.state.lock();
            match &state.failed {
                Some((why, until)) if Instant::now() < *until && !state.fetching => {
                    return Err(why.clone());
                }
                _ => self.begin(&mut state),
            }
        }
        // The sender lives as long as we do.
        let waited = timeout_at(deadline, ended.changed()).await;
        if let Some(token) = self.held() {
            return Ok(token);
        }
        if waited.is_err() {
            let name = self.identity.name();
            return Err(NoToken::Unreachable(format!("{name}: no token came in time")));
        }
        let state = self.state.lock();
        let failed = state.failed.as_ref().map(|(why, _)| why.clone());
        Err(failed.unwrap_or_else(|| {
            let name = self.identity.name();
            NoToken::Unreachable(format!("{name}: its token had ended when it came"))
        }))
    }

    /// The service refused the token `refused`. Whether there is another one now: one that came
    /// meanwhile, or that is fetched now.
    pub async fn replace(self: &Arc<Self>, refused: Option<CredentialId>) -> bool {
        let mut ended = self.ended.subscribe();
        {
            let mut state = self.state.lock();
            let now = Instant::now();
            if self.in_use(&state, now) != refused {
                return true;
            }
            let lately = |at: Instant| now.duration_since(at) < FORCED_APART;
            if !state.fetching {
                if state.pauses(now) || state.forced.is_some_and(lately) {
                    return false;
                }
                self.begin(&mut state);
            }
        }
        let _ = ended.changed().await;
        let mut state = self.state.lock();
        let now = Instant::now();
        let replaced = self.in_use(&state, now) != refused;
        if replaced {
            state.forced = Some(now);
        }
        replaced
    }

    /// For [`Service::ready`](super::Service::ready): waits if there is no token that holds.
    pub fn ready(self: &Arc<Self>, deadline: Instant) -> Option<Ready<'static>> {
        if self.held().is_some() {
            return None;
        }
        let tokens = Arc::clone(self);
        Some(Box::pin(async move {
            let token = tokens.get(deadline).await;
            token.map(drop).map_err(|why| Unready { verdict: why.verdict(), credential: tokens.id })
        }))
    }

    /// What a request is signed with now: the token, or what stands for there being none.
    fn in_use(&self, state: &State, now: Instant) -> Option<CredentialId> {
        let token = state.token.as_ref().filter(|token| now < token.ends);
        Some(token.map_or(self.id, |token| token.id))
    }

    /// The same, for those who sign.
    pub fn credential(&self) -> Option<CredentialId> {
        self.in_use(&self.state.lock(), Instant::now())
    }

    /// Starts a fetch unless one is under way. It goes on when those who wait for it do not.
    fn begin(self: &Arc<Self>, state: &mut State) {
        if std::mem::replace(&mut state.fetching, true) {
            return;
        }
        let fetch = Fetch { tokens: Arc::clone(self), settled: false };
        tokio::spawn(async move {
            let tokens = &fetch.tokens;
            let work = tokens.identity.fetch(&tokens.audience);
            let result = tokio::time::timeout(LONGEST_FETCH, work).await;
            let result = result.unwrap_or_else(|_| {
                let name = tokens.identity.name();
                let limit = LONGEST_FETCH.as_secs();
                Err(NoToken::Unreachable(format!("{name}: no token within {limit} s")))
            });
            fetch.ended(result);
        });
    }

    /// Takes what a fetch gave.
    fn settle(&self, result: Result<Grant, NoToken>) {
        let now = Instant::now();
        let mut state = self.state.lock();
        let result = result.and_then(|grant| {
            let name = || self.identity.name();
            Bearer::of(&grant, now).ok_or_else(|| {
                NoToken::Unreachable(format!("{}: what came cannot be a token", name()))
            })
        });
        match result {
            Ok(token) => {
                log::debug!(
                    target: "http",
                    "{}: a token for {}, which holds for {} s",
                    self.identity.name(), self.audience.0, (token.ends - now).as_secs()
                );
                state.token = Some(Arc::new(token));
                state.failed = None;
                state.failures = 0;
            }
            Err(why) => {
                let left = state.token.as_ref().map(|token| token.ends.duration_since(now));
                let longest = match left.filter(|left| !left.is_zero()) {
                    Some(left) => {
                        log::warn!(
                            target: "http",
                            "{}; the token in use holds for {} s yet", why.message(), left.as_secs()
                        );
                        LONGEST_PAUSE
                    }
                    None => {
                        // The operations that wait for it say so, each in its own line.
                        log::debug!(target: "http", "{}", why.message());
                        LONGEST_WAIT
                    }
                };
                let pause = pause(state.failures).min(longest);
                state.failures += 1;
                state.failed = Some((why, now + pause));
            }
        }
    }
}

impl State {
    /// Whether it is too early for another fetch.
    fn pauses(&self, now: Instant) -> bool {
        self.failed.as_ref().is_some_and(|(_, until)| now < *until)
    }
}

/// A fetch under way. However it ends, those who wait are told.
struct Fetch {
    tokens: Arc<Tokens>,
    settled: bool,
}

impl Fetch {
    fn ended(mut self, result: Result<Grant, NoToken>) {
        self.tokens.settle(result);
        self.settled = true;
    }
}

impl Drop for Fetch {
    fn drop(&mut self) {
        let tokens = &self.tokens;
        if !self.settled {
            let name = tokens.identity.name();
            tokens.settle(Err(NoToken::Unreachable(format!("{name}: the fetch broke off"))));
        }
        tokens.state.lock().fetching = false;
        tokens.ended.send_modify(|count| *count += 1);
    }
}

impl Bearer {
    /// `None` if it cannot be sent.
    fn of(grant: &Grant, now: Instant) -> Option<Bearer> {
        let text = Bytes::from(format!("Bearer {}", grant.token));
        let mut header = HeaderValue::from_maybe_shared(text).ok()?;
        header.set_sensitive(true);
        let plain = !grant.token.is_empty() && grant.token.bytes().all(|b| b.is_ascii_graphic());
        let lifetime = grant.lifetime.min(LONGEST_LIFE);
        plain.then(|| Bearer {
            id: CredentialId::unique(),
            header,
            ends: now + lifetime,
            due: now + due(lifetime, grant.refresh_in),
        })
    }
}

/// When a token of this lifetime is to be fetched anew, from its beginning.
fn due(lifetime: Duration, refresh_in: Option<Duration>) -> Duration {
    match refresh_in {
        Some(asked) if asked < lifetime => asked,
        _ if lifetime >= LONG => lifetime / 2,
        _ => lifetime - AHEAD.min(lifetime / 2),
    }
}

/// The pause after so many failures before.
fn pause(failures: u32) -> Duration {
    let doubled = 1u32.checked_shl(failures).unwrap_or(u32::MAX);
    FIRST_PAUSE.saturating_mul(doubled).min(LONGEST_PAUSE)
}

#[cfg(test)]
mod tests;
