//! Who asks, and whether that one may: the challenge, tokens, and the service that gives them.
//!
//! The habits are ACR's: a refused request is told `invalid_token` even if it sent none, a token that has not
//! the right gets 401 and `insufficient_scope`, and the answer of the token service does not say how long a
//! token holds. Knows rights and tokens, not what they are for.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::HeaderMap;
use http::header::AUTHORIZATION;
use serde_json::{Value, json};

use super::super::clock::{Clock, snapshot_time};
use super::super::guid::new_guid;
use super::super::jwt::Jwt;
use super::super::query::Query;
use super::super::reply::Reply;
use super::error::{self, Failure};
use super::scope::Scope;
use super::{Access, EntraCheck, User};

/// The user name that goes with a token for a password.
const NULL_USER: &str = "00000000-0000-0000-0000-000000000000";
/// How long a refresh token holds: three hours.
const REFRESH_LIFETIME_MS: i64 = 3 * 3600 * 1000;
/// Who has come with an Entra token.
const ENTRA: &str = "entra";

/// Users, keys and habits.
pub(super) struct Authority {
    pub(super) access: Access,
    pub(super) users: Vec<User>,
    /// What may be done without credentials.
    pub(super) anonymous: Vec<Scope>,
    pub(super) lifetime: Duration,
    pub(super) announces_lifetime: bool,
    pub(super) strict_listing: bool,
    pub(super) entra: Option<EntraCheck>,
    pub(super) key: [u8; 32],
    /// Tokens of earlier generations are revoked.
    pub(super) generation: AtomicU64,
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority").field("access", &self.access).finish_non_exhaustive()
    }
}

/// Who was found to ask: a name, and what that one may do.
struct Subject {
    name: String,
    grants: Vec<Scope>,
}

/// Where the server is, in the words of who asks.
#[derive(Debug, Clone)]
pub(super) struct Origin {
    /// `http` or `https`.
    pub(super) scheme: &'static str,
    /// Host and port.
    pub(super) host: String,
}

impl Authority {
    /// Refuses who may not do all of this.
    pub(super) fn authorize(
        &self,
        needed: &[Scope],
        headers: &HeaderMap,
        origin: &Origin,
        clock: &Clock,
    ) -> Result<(), Failure> {
        let presented = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        let basic = presented.and_then(|value| without_prefix(value, "basic "));
        match self.access {
            Access::Open => Ok(()),
            Access::Basic => match basic.and_then(|basic| self.user(basic)) {
                None => Err(Failure::from(error::UNAUTHORIZED)
                    .header("www-authenticate", "Basic realm=\"blobdir registry\"")),
                Some(user) if needed.iter().all(|scope| scope.is_granted_by(&user.grants)) => {
                    Ok(())
                }
                Some(_) => Err(error::DENIED.into()),
            },
            Access::Token => {
                let bearer = presented.and_then(|value| without_prefix(value, "bearer "));
                let grants = match (bearer, basic) {
                    (Some(token), _) => self.granted(token, clock),
                    (None, Some(basic)) => self.by_password(basic, clock),
                    (None, None) => None,
                };
                let refused = |why| Err(self.challenge(needed, origin, why));
                match grants {
                    None => refused("invalid_token"),
                    Some(grants) if needed.iter().all(|scope| self.allows(scope, &grants)) => {
                        Ok(())
                    }
                    Some(_) => refused("insufficient_scope"),
                }
            }
        }
    }

    /// Whether somebody may do this who has shown no credential of this registry.
    pub(super) fn is_open(&self) -> bool {
        self.access == Access::Open
    }

    fn allows(&self, needed: &Scope, grants: &[Scope]) -> bool {
        let lenient = || {
            // Whoever may pull a repository may usually see what is in it.
            !self.strict_listing
                && needed.actions == ["metadata_read"]
                && Scope::repository(&needed.name, &["pull"]).is_granted_by(grants)
        };
        needed.is_granted_by(grants) || lenient()
    }

    fn challenge(&self, needed: &[Scope], origin: &Origin, why: &str) -> Failure {
        let Origin { scheme, host } = origin;
        let mut text =
            format!("Bearer realm=\"{scheme}://{host}/oauth2/token\",service=\"{host}\"");
        if !needed.is_empty() {
            let scopes: Vec<String> = needed.iter().map(Scope::text).collect();
            text += &format!(",scope=\"{}\"", scopes.join(" "));
        }
        text += &format!(",error=\"{why}\"");
        let detail: Vec<Value> = needed
            .iter()
            .flat_map(|scope| {
                let one = |action: &String| {
                    json!({ "Type": scope.kind, "Name": scope.name, "Action": action })
                };
                scope.actions.iter().map(one).collect::<Vec<_>>()
            })
            .collect();
        error::UNAUTHORIZED.about(json!(detail)).header("www-authenticate", text)
    }

    /// What an access token gives; `None` if it is none that holds.
    fn granted(&self, token: &str, clock: &Clock) -> Option<Vec<Scope>> {
        let claims = self.verified(token, "access_token", clock)?;
        claims["access"].as_array().map(|list| list.iter().filter_map(Scope::from_claim).collect())
    }

    /// What user and password give, one of which may be a token.
    fn by_password(&self, basic: &str, clock: &Clock) -> Option<Vec<Scope>> {
        let (user, password) = credentials(basic)?;
        if user == NULL_USER {
            let refreshed = self.refreshed(&password, clock).map(|subject| subject.grants);
            return refreshed.or_else(|| self.granted(&password, clock));
        }
        self.user(basic).map(|subject| subject.grants)
    }

    fn user(&self, basic: &str) -> Option<Subject> {
        let (name, password) = credentials(basic)?;
        self.users
            .iter()
            .find(|user| user.name == name && user.password == password)
            .map(|user| Subject { name, grants: scopes(&user.grants) })
    }

    /// Who has a refresh token.
    fn refreshed(&self, token: &str, clock: &Clock) -> Option<Subject> {
        let claims = self.verified(token, "refresh_token", clock)?;
        let name = claims["sub"].as_str()?.to_owned();
        let grants = match self.users.iter().find(|user| user.name == name) {
            Some(user) => scopes(&user.grants),
            None if name == ENTRA => all(),
            None => self.anonymous.clone(),
        };
        Some(Subject { name, grants })
    }

    /// The claims of a token of ours, of this kind, that holds now.
    fn verified(&self, token: &str, kind: &str, clock: &Clock) -> Option<Value> {
        let token = Jwt::parse(token).filter(|token| token.is_signed_by(&self.key))?;
        let holds = (token.time("nbf")?..token.time("exp")?).contains(&clock.now_ms());
        let current = token.claims["generation"] == self.generation.load(Ordering::Relaxed);
        (holds && current && token.claims["grant_type"] == kind).then_some(token.claims)
    }

    fn sign(
        &self,
        subject: &str,
        kind: &str,
        lifetime_ms: i64,
        more: Value,
        clock: &Clock,
    ) -> String {
        let now = clock.now_ms();
        let mut claims = json!({
            "iss": "Azure Container Registry",
            "aud": "registry",
            "version": "1.0",
            "sub": subject,
            "grant_type": kind,
            "iat": now / 1000,
            "nbf": now / 1000,
            // Up to the next second: even the shortest holds for a moment.
            "exp": (now + lifetime_ms).div_euclid(1000) + 1,
            "jti": new_guid(),
            "generation": self.generation.load(Ordering::Relaxed),
        });
        if let (Some(claims), Value::Object(more)) = (claims.as_object_mut(), more) {
            claims.extend(more);
        }
        Jwt::sign(&claims, &self.key)
    }

    /// The token service: `GET` with Basic or nothing, `POST` with a form.
    pub(super) fn token(
        &self,
        headers: &HeaderMap,
        query: &Query,
        form: Option<&Query>,
        clock: &Clock,
    ) -> Result<Reply, Failure> {
        let asked = form.unwrap_or(query);
        let basic = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        let subject = match (form.and_then(|form| form.get("grant_type")), basic) {
            (Some("refresh_token"), _) => {
                let token = asked.get("refresh_token").unwrap_or_default();
                self.refreshed(token, clock)
            }
            (Some("password"), None) if asked.filled("username").is_some() => {
                let password = asked.get("password").unwrap_or_default();
                let name = asked.get("username").unwrap_or_default();
                self.user(&STANDARD.encode(format!("{name}:{password}")))
            }
            (_, Some(basic)) => without_prefix(basic, "basic ").and_then(|basic| {
                let (name, password) = credentials(basic)?;
                match name.as_str() {
                    NULL_USER => self.refreshed(&password, clock),
                    _ => self.user(basic),
                }
            }),
            (None | Some("password"), None) => self.nobody(),
            _ => None,
        };
        let subject = subject.ok_or(error::UNAUTHORIZED)?;
        let scopes = asked.pairs.iter().filter(|pair| pair.0 == "scope");
        let access: Vec<Value> = scopes
            .flat_map(|pair| Scope::parse_all(&pair.1))
            .map(|scope| scope.granted_by(&subject.grants))
            .filter(|scope| !scope.actions.is_empty())
            .map(|scope| scope.claim())
            .collect();
        let lifetime_ms = i64::try_from(self.lifetime.as_millis()).unwrap_or(i64::MAX / 4);
        let more = json!({ "access": access });
        let token = self.sign(&subject.name, "access_token", lifetime_ms, more, clock);
        let mut answer = json!({ "access_token": token });
        if self.announces_lifetime {
            answer["token"] = answer["access_token"].clone();
            answer["expires_in"] = json!(lifetime_ms / 1000);
            answer["issued_at"] = json!(snapshot_time(clock.tick()));
        }
        if query.get("offline_token") == Some("true") {
            answer["refresh_token"] = self.refresh_token(&subject.name, clock).into();
        }
        Ok(limited(&answer))
    }

    fn nobody(&self) -> Option<Subject> {
        (!self.anonymous.is_empty() || self.is_open())
            .then(|| Subject { name: String::new(), grants: self.anonymous.clone() })
    }

    /// An Entra token for a refresh token.
    pub(super) fn exchange(&self, form: &Query, clock: &Clock) -> Result<Reply, Failure> {
        if form.get("grant_type") != Some("access_token") || form.filled("service").is_none() {
            return Err(Failure::of_status(400, Some("BAD_REQUEST")));
        }
        let token = form.get("access_token").unwrap_or_default();
        let check = self.entra.as_ref().ok_or(error::UNAUTHORIZED)?;
        check(token).map_err(|why| error::UNAUTHORIZED.saying(&why))?;
        Ok(limited(&json!({ "refresh_token": self.refresh_token(ENTRA, clock) })))
    }

    fn refresh_token(&self, subject: &str, clock: &Clock) -> String {
        let more = json!({ "permissions": { "actions": ["read", "write", "delete"] } });
        self.sign(subject, "refresh_token", REFRESH_LIFETIME_MS, more, clock)
    }
}

/// An answer of the token service, which tells how often it may be asked.
fn limited(answer: &Value) -> Reply {
    Reply::new(200).json(answer).header("x-ms-ratelimit-remaining-calls-per-second", "166.65")
}

/// Everything that can be granted.
pub(super) fn all() -> Vec<Scope> {
    Scope::parse_all("repository:*:* registry:catalog:*")
}

/// Grants as they are written.
pub(super) fn scopes(texts: &[String]) -> Vec<Scope> {
    texts.iter().flat_map(|text| Scope::parse_all(text)).collect()
}

/// What follows a scheme, in whichever case it is written.
fn without_prefix<'a>(value: &'a str, scheme: &str) -> Option<&'a str> {
    let (start, rest) = value.split_at_checked(scheme.len())?;
    start.eq_ignore_ascii_case(scheme).then(|| rest.trim())
}

/// User and password.
fn credentials(basic: &str) -> Option<(String, String)> {
    let text = String::from_utf8(STANDARD.decode(basic).ok()?).ok()?;
    let (name, password) = text.split_once(':')?;
    Some((name.to_owned(), password.to_owned()))
}
