//! Who asks: the dialogue by which a registry hands out tokens (OCI distribution "Authentication", Docker's
//! token specification, and the OAuth2 endpoints of Azure Container Registry).
//!
//! Everything is taken from the registry's own challenge: realm, service and scope. For each scope there
//! are [`Tokens`], so that one is fetched by one request at a time, well before the old one ends.
//!
//! | the registry wants | we have | what is sent |
//! |---|---|---|
//! | Basic | user and password | them |
//! | Bearer | nothing | GET realm, for an anonymous token |
//! | Bearer | user and password | GET realm with them |
//! | Bearer | a refresh token | POST realm, `grant_type=refresh_token` |
//! | Bearer | an Entra identity | POST `/oauth2/exchange`, then as with a refresh token |

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use http::{Method, StatusCode};
use parking_lot::Mutex;
use serde_json::Value;
use tokio::time::Instant;
use url::Url;
use url::form_urlencoded::Serializer;

use super::challenge::{self, Challenge};
use crate::client::http::Client;
use crate::client::is_loopback;
use crate::client::request::{Effect, Reply, Request};
use crate::client::token::{Audience, Grant, Identity, NoToken, Tokens};
use crate::store::{Error, ErrorKind, Result};

/// How long a token holds of which nothing is said (Docker's token specification).
const DEFAULT_LIFETIME: Duration = Duration::from_secs(60);

/// The user that a refresh token of Azure Container Registry stands for as a password.
const NULL_USER: &str = "00000000-0000-0000-0000-000000000000";

/// What we are to a registry.
#[derive(Clone)]
pub enum Credential {
    /// Nobody.
    Anonymous,
    /// A user and a password.
    Basic(Arc<str>, Arc<str>),
    /// What stands for a user at the token service (`identitytoken` of Docker's configuration).
    RefreshToken(Arc<str>),
    /// An identity of Entra ID, whose tokens the registry exchanges.
    Entra(Arc<Tokens>),
}

/// Shows what it is and nothing of it.
impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Credential::Anonymous => "anonymous",
            Credential::Basic(..) => "user and password",
            Credential::RefreshToken(_) => "refresh token",
            Credential::Entra(_) => "Entra identity",
        })
    }
}

impl Credential {
    /// What a user and a password of somebody's configuration are.
    pub fn of_user(user: &str, password: &str) -> Credential {
        match user {
            NULL_USER | "<token>" => Credential::RefreshToken(Arc::from(password)),
            _ => Credential::Basic(Arc::from(user), Arc::from(password)),
        }
    }

    fn basic(&self) -> Option<HeaderValue> {
        let Credential::Basic(user, password) = self else { return None };
        let text = format!("Basic {}", STANDARD.encode(format!("{user}:{password}")));
        Some(secret(text))
    }
}

/// Who we are to one registry, and the tokens that it has given.
#[derive(Debug)]
pub struct Access {
    credential: Credential,
    /// What asks token services.
    asker: Arc<Client>,
    /// What requests of each purpose are signed with, as far as that is known.
    known: Mutex<HashMap<Arc<str>, Signature>>,
}

#[derive(Clone, Debug)]
enum Signature {
    Basic(HeaderValue),
    Tokens { tokens: Arc<Tokens>, scopes: Vec<String> },
}

impl Access {
    /// For a registry to which we are `credential`; `asker` sends the questions to its token service.
    pub fn new(credential: Credential, asker: Arc<Client>) -> Access {
        Access { credential, asker, known: Mutex::default() }
    }

    /// Signs a request of this purpose (a repository, or the catalog), if it is known how.
    ///
    /// Errors: there is no token until `deadline`.
    pub async fn sign(
        &self,
        purpose: &str,
        request: &mut Request,
        deadline: Instant,
    ) -> Result<()> {
        let known = self.known.lock().get(purpose).cloned();
        let header = match known {
            None => return Ok(()),
            Some(Signature::Basic(header)) => header,
            Some(Signature::Tokens { tokens, .. }) => match tokens.get(deadline).await {
                Ok(token) => token.header.clone(),
                Err(why) => {
                    let verdict = why.verdict();
                    return Err(Error::new(
                        verdict.kind,
                        request.op,
                        &request.target,
                        verdict.message,
                    ));
                }
            },
        };
        request.headers.insert(AUTHORIZATION, header);
        Ok(())
    }

    /// A request of this purpose was refused. Asks the registry what it wants and learns to sign for it.
    ///
    /// Errors: `PermissionDenied` if what it wants is more than we may, or cannot be had.
    pub async fn learn(&self, purpose: &str, request: &Request) -> Result<()> {
        let denied = |why: &str| {
            Err(Error::new(ErrorKind::PermissionDenied, request.op, &request.target, why))
        };
        let sent = request.headers.get(AUTHORIZATION);
        let reply = match self.asker.exchange(request).await {
            Ok(reply) => reply,
            Err(failure) => {
                return Err(Error::new(failure.kind, request.op, &request.target, failure.message));
            }
        };
        if reply.status != StatusCode::UNAUTHORIZED {
            // It has changed its mind: the next attempt tells.
            return Ok(());
        }
        let challenges = challenges(&reply.headers);
        let find = |scheme: &str| challenges.iter().find(|found| found.scheme == scheme);
        if let Some(bearer) = find("bearer") {
            return self.learn_bearer(purpose, request, bearer, sent.is_some()).await;
        }
        if find("basic").is_some() {
            let Some(header) = self.credential.basic() else {
                return denied(
                    "the registry wants a user and a password; see -o credentials= or docker login",
                );
            };
            if sent == Some(&header) {
                return denied("the registry does not know this user and password");
            }
            self.known.lock().insert(Arc::from(purpose), Signature::Basic(header));
            return Ok(());
        }
        denied("the registry wants to know who asks in a way that is not known here")
    }

    async fn learn_bearer(
        &self,
        purpose: &str,
        request: &Request,
        challenge: &Challenge,
        was_signed: bool,
    ) -> Result<()> {
        let denied = |why: String| {
            Err(Error::new(ErrorKind::PermissionDenied, request.op, &request.target, why))
        };
        let realm = challenge.get("realm").and_then(|realm| Url::parse(realm).ok());
        let Some(realm) = realm else {
            return denied("the registry names no token service".to_owned());
        };
        let secure =
            realm.scheme() == "https" || is_loopback(&realm) || request.url.scheme() == "http";
        if !secure {
            return denied(format!("its token service {} is not asked without TLS", host(&realm)));
        }
        let wanted: Vec<String> = challenge.get("scope").map(split_scopes).unwrap_or_default();
        let known = self.known.lock().get(purpose).cloned();
        let mut scopes = Vec::new();
        if let Some(Signature::Tokens { tokens, scopes: had }) = known {
            let enough = wanted.iter().all(|scope| had.contains(scope));
            if was_signed && enough {
                if challenge.get("error") == Some("insufficient_scope") {
                    return denied(format!("not allowed: {}", wanted.join(" ")));
                }
                if tokens.replace(tokens.credential()).await {
                    return Ok(());
                }
                return denied(
                    "the registry does not take the tokens of its token service".to_owned(),
                );
            }
            scopes = had;
        }
        for scope in wanted {
            if !scopes.contains(&scope) {
                scopes.push(scope);
            }
        }
        let giver = TokenService {
            realm,
            service: challenge.get("service").unwrap_or_default().to_owned(),
            scopes: scopes.clone(),
            credential: self.credential.clone(),
            asker: Arc::clone(&self.asker),
        };
        let audience = Audience::new(&giver.service);
        let tokens = Tokens::new(Arc::new(giver), audience);
        self.known.lock().insert(Arc::from(purpose), Signature::Tokens { tokens, scopes });
        Ok(())
    }
}

/// Who gives tokens for some scopes of a registry.
struct TokenService {
    realm: Url,
    service: String,
    scopes: Vec<String>,
    credential: Credential,
    asker: Arc<Client>,
}

impl fmt::Debug for TokenService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenService")
            .field("realm", &host(&self.realm))
            .field("scopes", &self.scopes)
            .finish_non_exhaustive()
    }
}

impl Identity for TokenService {
    fn name(&self) -> String {
        format!("{} for {:?} at {}", self.scopes.join(" "), self.credential, host(&self.realm))
    }

    fn fetch<'a>(
        &'a self,
        _audience: &'a Audience,
    ) -> BoxFuture<'a, std::result::Result<Grant, NoToken>> {
        Box::pin(async move {
            let request = match &self.credential {
                Credential::Anonymous => self.get(None),
                Credential::Basic(..) => self.get(self.credential.basic()),
                Credential::RefreshToken(token) => self.refresh(token),
                Credential::Entra(tokens) => {
                    let token = self.exchange(tokens).await?;
                    self.refresh(&token)
                }
            };
            let document = self.ask(&request).await?;
            let text = |name: &str| document.get(name).and_then(Value::as_str);
            let Some(token) = text("token").or_else(|| text("access_token")) else {
                let why = format!("{}: its answer holds no token", self.name());
                return Err(NoToken::Unreachable(why));
            };
            let told = document.get("expires_in").and_then(Value::as_u64).map(Duration::from_secs);
            let lifetime = told.or_else(|| life_of_jwt(token)).unwrap_or(DEFAULT_LIFETIME);
            Ok(Grant { token: token.to_owned(), lifetime, refresh_in: None })
        })
    }
}

impl TokenService {
    /// GET of the realm: Docker's token specification.
    fn get(&self, authorization: Option<HeaderValue>) -> Request {
        let mut url = self.realm.clone();
        {
            let mut pairs = url.query_pairs_mut();
            if !self.service.is_empty() {
                pairs.append_pair("service", &self.service);
            }
            for scope in &self.scopes {
                pairs.append_pair("scope", scope);
            }
        }
        let mut request = self.request(Method::GET, url);
        if let Some(value) = authorization {
            request.headers.insert(AUTHORIZATION, value);
        }
        request
    }

    /// POST to the realm: OAuth2 as registries have it.
    fn refresh(&self, token: &str) -> Request {
        let form = Serializer::new(String::new())
            .append_pair("grant_type", "refresh_token")
            .append_pair("service", &self.service)
            .append_pair("client_id", "blobdir")
            .append_pair("scope", &self.scopes.join(" "))
            .append_pair("refresh_token", token)
            .finish();
        self.post(self.realm.clone(), form)
    }

    /// Changes a token of Entra ID for a refresh token of the registry.
    async fn exchange(&self, tokens: &Arc<Tokens>) -> std::result::Result<String, NoToken> {
        let deadline = Instant::now() + DEFAULT_LIFETIME;
        let token = tokens.get(deadline).await?;
        let token = token.header.to_str().unwrap_or_default();
        let form = Serializer::new(String::new())
            .append_pair("grant_type", "access_token")
            .append_pair("service", &self.service)
            .append_pair("access_token", token.trim_start_matches("Bearer "))
            .finish();
        let mut url = self.realm.clone();
        url.set_path("/oauth2/exchange");
        url.set_query(None);
        let document = self.ask(&self.post(url, form)).await?;
        let refresh = document.get("refresh_token").and_then(Value::as_str);
        refresh
            .map(str::to_owned)
            .ok_or_else(|| NoToken::Refused(format!("{}: it gives no refresh token", self.name())))
    }

    fn post(&self, url: Url, form: String) -> Request {
        let mut request = self.request(Method::POST, url);
        let kind = HeaderValue::from_static("application/x-www-form-urlencoded");
        request.headers.insert(CONTENT_TYPE, kind);
        request.body = vec![Bytes::from(form)];
        request
    }

    fn request(&self, method: Method, url: Url) -> Request {
        let target = host(&url).into();
        // Asking for a token twice gives two tokens, which does no harm.
        Request::new("get a token", target, method, url, Effect::Read)
    }

    async fn ask(&self, request: &Request) -> std::result::Result<Value, NoToken> {
        let named = |why: String| format!("{}: {why}", self.name());
        let reply: Reply = match self.asker.exchange(request).await {
            Ok(reply) => reply,
            Err(failure) => return Err(NoToken::Unreachable(named(failure.message))),
        };
        if !reply.status.is_success() {
            let why = named(format!("it answers {}", reply.status));
            return Err(match reply.status.is_client_error() && reply.status.as_u16() != 429 {
                true => NoToken::Refused(why),
                false => NoToken::Unreachable(why),
            });
        }
        serde_json::from_slice(&reply.body)
            .map_err(|_| NoToken::Unreachable(named("its answer is no JSON".to_owned())))
    }
}

/// All challenges of an answer.
fn challenges(headers: &HeaderMap) -> Vec<Challenge> {
    let values = headers.get_all(WWW_AUTHENTICATE).into_iter();
    values.filter_map(|value| value.to_str().ok()).flat_map(challenge::parse).collect()
}

/// The scopes of a list that is separated by blanks.
fn split_scopes(text: &str) -> Vec<String> {
    text.split_ascii_whitespace().map(str::to_owned).collect()
}

/// How long a JWT still holds by its own account (RFC 7519, `exp`).
fn life_of_jwt(token: &str) -> Option<Duration> {
    let claims = token.split('.').nth(1)?;
    let bytes = URL_SAFE_NO_PAD.decode(claims.trim_end_matches('=')).ok()?;
    let claims: Value = serde_json::from_slice(&bytes).ok()?;
    let ends = UNIX_EPOCH.checked_add(Duration::from_secs(claims.get("exp")?.as_u64()?))?;
    ends.duration_since(SystemTime::now()).ok()
}

/// A URL as it may be shown.
fn host(url: &Url) -> String {
    url.host_str().map_or_else(
        || "?".to_owned(),
        |host| match url.port() {
            Some(port) => format!("{host}:{port}"),
            None => host.to_owned(),
        },
    )
}

fn secret(text: String) -> HeaderValue {
    let value = HeaderValue::from_maybe_shared(Bytes::from(text));
    let mut value = value.unwrap_or_else(|_| HeaderValue::from_static(""));
    value.set_sensitive(true);
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_jwt_tells_its_end() {
        let ends = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() + 1000;
        let claims = URL_SAFE_NO_PAD.encode(format!(r#"{{"exp":{ends}}}"#));
        let life = life_of_jwt(&format!("e30.{claims}.sig")).unwrap();
        assert!((998..=1000).contains(&life.as_secs()), "{life:?}");
        for other in ["", "opaque", "a.b.c", "e30.e30.x"] {
            assert_eq!(life_of_jwt(other), None, "{other}");
        }
    }

    #[test]
    fn nothing_of_a_credential_is_shown() {
        let basic = Credential::of_user("me", "hunter2");
        let token = Credential::of_user(NULL_USER, "hunter2");
        assert_eq!(basic.basic().unwrap(), "Basic bWU6aHVudGVyMg==");
        let shown = format!("{basic:?} {token:?} {:?}", basic.basic());
        assert!(!shown.contains("hunter") && !shown.contains("bWU6"), "{shown}");
        assert!(matches!(token, Credential::RefreshToken(_)));
    }
}
