//! JSON Web Tokens (RFC 7519), as far as they are signed: taken apart, put together, verified.
//!
//! Knows signatures, not what is claimed.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use serde_json::{Value, json};
use sha2::Sha256;

/// A token in its parts; nothing of it is to be believed before it is verified.
#[derive(Debug)]
pub(super) struct Jwt<'a> {
    pub(super) header: Value,
    pub(super) claims: Value,
    signed: &'a str,
    signature: Vec<u8>,
}

impl<'a> Jwt<'a> {
    pub(super) fn parse(text: &'a str) -> Option<Self> {
        let (signed, signature) = text.rsplit_once('.')?;
        let (header, claims) = signed.split_once('.')?;
        let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).ok();
        let value = |part: &str| {
            let value: Value = serde_json::from_slice(&decode(part)?).ok()?;
            value.is_object().then_some(value)
        };
        Some(Self {
            header: value(header)?,
            claims: value(claims)?,
            signed,
            signature: decode(signature)?,
        })
    }

    /// Signs claims with a key that is shared: HS256.
    pub(super) fn sign(claims: &Value, key: &[u8]) -> String {
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", part(&json!({"alg": "HS256", "typ": "JWT"})), part(claims));
        let signature = mac(key, &signed).finalize().into_bytes();
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    /// Whether the shared key has signed it.
    pub(super) fn is_signed_by(&self, key: &[u8]) -> bool {
        self.header["alg"] == "HS256" && mac(key, self.signed).verify_slice(&self.signature).is_ok()
    }

    /// Whether the key of a certificate has signed it, by one of the two ways that Entra ID takes.
    pub(super) fn is_signed_by_certificate(&self, der: &[u8]) -> bool {
        let algorithm = match self.header["alg"].as_str() {
            Some("PS256") => webpki::ring::RSA_PSS_2048_8192_SHA256_LEGACY_KEY,
            Some("RS256") => webpki::ring::RSA_PKCS1_2048_8192_SHA256,
            _ => return false,
        };
        let der = der.into();
        webpki::EndEntityCert::try_from(&der).is_ok_and(|certificate| {
            let signed = self.signed.as_bytes();
            certificate.verify_signature(algorithm, signed, &self.signature).is_ok()
        })
    }

    /// A claim that is a time, in milliseconds since 1970.
    pub(super) fn time(&self, claim: &str) -> Option<i64> {
        // A number of seconds, whole or not.
        let seconds = self.claims[claim].as_f64().filter(|seconds| seconds.is_finite())?;
        Some((seconds * 1000.0) as i64)
    }
}

/// HMAC-SHA256 of a text.
pub(super) fn mac(key: &[u8], text: &str) -> Hmac<Sha256> {
    let mut mac = Hmac::new_from_slice(key).expect("HMAC takes keys of any length");
    mac.update(text.as_bytes());
    mac
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_changed_is_not_verified() {
        let token = Jwt::sign(&json!({"aud": "a", "exp": 5}), b"key");
        let parsed = Jwt::parse(&token).unwrap();
        assert!(parsed.is_signed_by(b"key") && !parsed.is_signed_by(b"other"));
        assert_eq!(parsed.time("exp"), Some(5000));
        let forged = URL_SAFE_NO_PAD.encode(r#"{"aud":"b","exp":5}"#);
        let parts: Vec<&str> = token.split('.').collect();
        let text = format!("{}.{forged}.{}", parts[0], parts[2]);
        assert!(!Jwt::parse(&text).unwrap().is_signed_by(b"key"));
        let none = URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#);
        assert!(!Jwt::parse(&format!("{none}.{}.", parts[1])).unwrap().is_signed_by(b"key"));
        for bad in ["", "a", "a.b.c", "..", "e30.e30", "e30.e30.=", "W10.e30.e30"] {
            assert!(Jwt::parse(bad).is_none(), "{bad}");
        }
    }
}
