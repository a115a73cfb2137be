//! Tokens: given, and told good from bad.
//!
//! A token is a JWT with the claims that a service looks at. Only this issuer can tell whether it signed
//! one: the key is shared with nobody, so that services ask it.

use std::fmt;
use std::io;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::json;

use super::jwt::Jwt;

/// Gives tokens and checks them.
pub struct Issuer {
    tenant: String,
    key: [u8; 32],
    lifetime_ms: AtomicU64,
    advanced_ms: AtomicI64,
}

impl fmt::Debug for Issuer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Issuer").field("tenant", &self.tenant).finish_non_exhaustive()
    }
}

/// A token with what its giver says of it.
pub(super) struct Issued {
    pub(super) token: String,
    /// How long it holds, in seconds.
    pub(super) expires_in: u64,
    /// When it ends by the machine's own clock, in seconds since 1970.
    pub(super) expires_on: i64,
}

impl Issuer {
    pub(super) fn new(tenant: &str, lifetime: Duration) -> io::Result<Self> {
        let mut key = [0; 32];
        getrandom::fill(&mut key).map_err(|error| io::Error::other(error.to_string()))?;
        let issuer = Self {
            tenant: tenant.to_owned(),
            key,
            lifetime_ms: AtomicU64::new(0),
            advanced_ms: AtomicI64::new(0),
        };
        issuer.set_lifetime(lifetime);
        Ok(issuer)
    }

    /// A token for `subject` at the service `audience`.
    pub(super) fn issue(&self, subject: &str, audience: &str) -> Issued {
        let now = self.now_ms();
        let lifetime = self.lifetime_ms.load(Ordering::Relaxed);
        let ends = now + lifetime as i64;
        let claims = json!({
            "aud": audience,
            "iss": format!("https://sts.windows.net/{}/", self.tenant),
            "tid": self.tenant,
            "appid": subject,
            "oid": subject,
            "sub": subject,
            "iat": now / 1000,
            "nbf": now / 1000,
            "exp": ends / 1000,
            // Two tokens of the same second are two.
            "uti": super::random_hex().unwrap_or_default(),
            "ver": "1.0",
        });
        Issued {
            token: Jwt::sign(&claims, &self.key),
            expires_in: lifetime / 1000,
            expires_on: (real_ms() + lifetime as i64) / 1000,
        }
    }

    /// Whether a token is one of ours, for one of these services, and holds at `now_ms`; if not, why.
    pub fn check(&self, token: &str, audiences: &[&str], now_ms: i64) -> Result<(), &'static str> {
        let token = Jwt::parse(token).ok_or("Malformed token")?;
        if !token.is_signed_by(&self.key) {
            return Err("Signature validation failed");
        }
        let audience = token.claims["aud"].as_str().unwrap_or_default();
        if !audiences.contains(&audience) {
            return Err("Audience validation failed");
        }
        let (Some(from), Some(until)) = (token.time("nbf"), token.time("exp")) else {
            return Err("The token has no lifetime");
        };
        if !(from..until).contains(&now_ms) {
            return Err("Lifetime validation failed. The token is expired.");
        }
        Ok(())
    }

    /// The one tenant.
    pub fn tenant(&self) -> &str {
        &self.tenant
    }

    /// Milliseconds since 1970 by the clock that can be advanced.
    pub(super) fn now_ms(&self) -> i64 {
        real_ms() + self.advanced_ms.load(Ordering::Relaxed)
    }

    pub(super) fn advance_clock(&self, by: Duration) {
        let ms = i64::try_from(by.as_millis()).unwrap_or(i64::MAX / 4);
        self.advanced_ms.fetch_add(ms, Ordering::Relaxed);
    }

    pub(super) fn set_lifetime(&self, lifetime: Duration) {
        self.lifetime_ms.store(lifetime.as_millis() as u64, Ordering::Relaxed);
    }
}

fn real_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as i64
}

#[cfg(test)]
mod tests {
    use super::*;

    const STORAGE: &str = "https://storage.azure.com";

    #[test]
    fn only_its_own_tokens_for_this_service_and_time_are_good() {
        let issuer = Issuer::new("t", Duration::from_secs(60)).unwrap();
        let other = Issuer::new("t", Duration::from_secs(60)).unwrap();
        let token = issuer.issue("app", STORAGE).token;
        let now = issuer.now_ms();
        assert_eq!(issuer.check(&token, &[STORAGE], now), Ok(()));
        assert!(other.check(&token, &[STORAGE], now).is_err());
        assert!(issuer.check(&token, &["https://vault.azure.net"], now).is_err());
        assert!(issuer.check(&token, &[STORAGE], now + 61_000).is_err());
        assert!(issuer.check(&token, &[STORAGE], now - 5_000).is_err());
        assert!(issuer.check("nonsense", &[STORAGE], now).is_err());
        assert_ne!(issuer.issue("app", STORAGE).token, token);
    }
}
