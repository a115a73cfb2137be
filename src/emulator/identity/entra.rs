//! Entra ID's token endpoint for applications: the client credentials grant.
//!
//! Errors are those of the real one, with the numbers by which its messages are known.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use parking_lot::Mutex;
use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::issuer::Issuer;
use super::jwt::Jwt;
use super::{Application, Config, random_hex};

/// How far clocks may differ: five minutes.
const SKEW_MS: i64 = 5 * 60 * 1000;
/// The longest that a statement may hold: a day.
const LONGEST_STATEMENT_MS: i64 = 24 * 3600 * 1000;
/// The audience of tokens that a platform makes for Entra ID.
const EXCHANGE: &str = "api://AzureADTokenExchange";
/// Who signs the platform's tokens.
const PLATFORM: &str = "https://oidc.example/cluster";

/// The applications of a tenant, and the platform that is trusted.
pub(super) struct Directory {
    tenant: String,
    issuer: Arc<Issuer>,
    applications: Mutex<Vec<Application>>,
    platform_key: String,
}

impl fmt::Debug for Directory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Directory").field("tenant", &self.tenant).finish_non_exhaustive()
    }
}

/// A refusal: status, OAuth's word, Entra ID's number, and the beginning of its message.
type Refusal = (u16, &'static str, u32, &'static str);

impl Directory {
    pub(super) fn new(config: &Config, issuer: Arc<Issuer>) -> io::Result<Self> {
        Ok(Self {
            tenant: config.tenant.clone(),
            issuer,
            applications: Mutex::new(config.applications.clone()),
            platform_key: random_hex()?,
        })
    }

    pub(super) fn set_secret(&self, id: &str, secret: &str) {
        for application in self.applications.lock().iter_mut().filter(|known| known.id == id) {
            application.secret = Some(secret.to_owned());
        }
    }

    pub(super) fn federated_token(&self, subject: &str, lifetime: Duration) -> String {
        let now = self.issuer.now_ms() / 1000;
        let claims = json!({
            "aud": [EXCHANGE], "iss": PLATFORM, "sub": subject,
            "iat": now, "nbf": now, "exp": now + lifetime.as_secs() as i64,
        });
        Jwt::sign(&claims, self.platform_key.as_bytes())
    }

    /// Answers a form that was posted to `url`, of which the host is as the client has it.
    pub(super) fn token(&self, tenant: &str, url: &str, form: &[u8]) -> (u16, Value) {
        let form: Vec<(String, String)> = url::form_urlencoded::parse(form).into_owned().collect();
        let field = |name: &str| {
            let mut values = form.iter().filter(|(key, _)| key == name).map(|(_, value)| &**value);
            // Given twice is given wrongly.
            values.next().filter(|_| values.next().is_none())
        };
        match self.judge(tenant, url, &field) {
            Ok((application, audience)) => {
                let issued = self.issuer.issue(&application, &audience);
                let answer = json!({
                    "token_type": "Bearer",
                    "expires_in": issued.expires_in,
                    "ext_expires_in": issued.expires_in,
                    "access_token": issued.token,
                });
                (200, answer)
            }
            Err((status, error, number, message)) => {
                let trace = random_hex().unwrap_or_default();
                let answer = json!({
                    "error": error,
                    "error_description": format!(
                        "AADSTS{number}: {message} Trace ID: {trace} Correlation ID: {trace} \
                         Timestamp: 2026-11-20 07:00:00Z"
                    ),
                    "error_codes": [number],
                    "trace_id": trace,
                    "correlation_id": trace,
                });
                (status, answer)
            }
        }
    }

    fn judge<'a>(
        &self,
        tenant: &str,
        url: &str,
        field: &dyn Fn(&str) -> Option<&'a str>,
    ) -> Result<(String, String), Refusal> {
        if tenant != self.tenant {
            return Err((400, "invalid_request", 90002, "Tenant not found."));
        }
        if field("grant_type") != Some("client_credentials") {
            let message = "The app requested an unsupported grant type.";
            return Err((400, "unsupported_grant_type", 70003, message));
        }
        let id = field("client_id").unwrap_or_default();
        let known = self.applications.lock().iter().find(|known| known.id == id).cloned();
        let message = "Application was not found in the directory.";
        let application = known.ok_or((400, "unauthorized_client", 700016, message))?;
        let scope = field("scope").unwrap_or_default();
        let audience = scope.strip_suffix("/.default").filter(|audience| !audience.is_empty());
        let message = "The provided value for the input parameter 'scope' is not valid.";
        let audience = audience.ok_or((400, "invalid_scope", 70011, message))?;
        match (field("client_secret"), field("client_assertion")) {
            (Some(secret), None) if application.secret.as_deref() == Some(secret) => {}
            (Some(_), None) => {
                let message = "Invalid client secret provided. Ensure the secret being sent in the \
                               request is the client secret value, not the client secret ID.";
                return Err((401, "invalid_client", 7000215, message));
            }
            (None, Some(statement)) => {
                let kind = field("client_assertion_type");
                if kind != Some("urn:ietf:params:oauth:client-assertion-type:jwt-bearer") {
                    let message = "The client_assertion_type is not known.";
                    return Err((400, "invalid_request", 900144, message));
                }
                self.judge_statement(&application, url, statement)?;
            }
            _ => {
                let message = "The request body must contain the following parameter: \
                               'client_assertion' or 'client_secret'.";
                return Err((401, "invalid_client", 7000218, message));
            }
        }
        Ok((application.id, audience.to_owned()))
    }

    fn judge_statement(
        &self,
        application: &Application,
        url: &str,
        text: &str,
    ) -> Result<(), Refusal> {
        let refuse = |number, message| Err((401, "invalid_client", number, message));
        let Some(statement) = Jwt::parse(text) else {
            return refuse(50027, "JWT token is invalid or malformed.");
        };
        let now = self.issuer.now_ms();
        // The official clients say only when it was made.
        let from = statement.time("nbf").or(statement.time("iat"));
        let holds = match (from, statement.time("exp")) {
            (Some(from), Some(until)) => {
                from <= now + SKEW_MS
                    && now < until + SKEW_MS
                    && until - from <= LONGEST_STATEMENT_MS
            }
            _ => false,
        };
        if !holds {
            return refuse(700024, "Client assertion is not within its valid time range.");
        }
        if statement.claims["iss"] == PLATFORM {
            let subject = application.federated_subject.as_deref();
            let is_known = subject.is_some_and(|subject| statement.claims["sub"] == subject)
                && statement.claims["aud"] == json!([EXCHANGE]);
            if !is_known || !statement.is_signed_by(self.platform_key.as_bytes()) {
                return refuse(
                    70021,
                    "No matching federated identity record found for presented assertion.",
                );
            }
            return Ok(());
        }
        let Some(certificate) = &application.certificate else {
            return refuse(700027, "The certificate is not registered on application.");
        };
        let is_named = |by: &str, hash: &[u8]| {
            // The official clients pad what the standard leaves bare.
            let given = statement.header[by].as_str().unwrap_or_default().trim_end_matches('=');
            given == URL_SAFE_NO_PAD.encode(hash)
        };
        let sha1 = digest(&SHA1_FOR_LEGACY_USE_ONLY, certificate);
        let is_named = is_named("x5t#S256", &Sha256::digest(certificate))
            // Some clients still name it so.
            || is_named("x5t", sha1.as_ref());
        if !is_named || statement.header["typ"] != "JWT" {
            return refuse(
                700027,
                "The certificate with identifier used to sign the client assertion is not registered on application.",
            );
        }
        if !statement.is_signed_by_certificate(certificate) {
            return refuse(700027, "Client assertion failed signature validation.");
        }
        // The scheme is that of whoever stands before the directory.
        let bare = |url: &str| url.split_once("://").map(|(_, rest)| rest.to_owned());
        let audience = statement.claims["aud"].as_str().and_then(bare);
        if audience.is_none() || audience != bare(url) {
            return refuse(700023, "Client assertion audience claim does not match Realm issuer.");
        }
        let is_own = |claim: &str| statement.claims[claim] == *application.id;
        if !is_own("iss") || !is_own("sub") {
            return refuse(
                700021,
                "Client assertion application identifier doesn't match 'client_id' parameter.",
            );
        }
        // One statement may be used again: the official clients do so until it ends.
        if statement.claims["jti"].as_str().is_none_or(str::is_empty) {
            return refuse(50027, "JWT token is invalid or malformed.");
        }
        Ok(())
    }
}
