//! How the service is to encrypt blobs: under a key that is sent along, under a named scope, or as the
//! account does.
//!
//! A key goes with every request that reads or writes what it encrypts, over HTTPS and to the endpoint
//! alone: nothing here is ever put into a URL, a message or the request of a copy's source. No secret is
//! shown by `Debug`.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use sha2::{Digest as _, Sha256};

const X_MS_ENCRYPTION_KEY: HeaderName = HeaderName::from_static("x-ms-encryption-key");
const X_MS_ENCRYPTION_KEY_SHA256: HeaderName =
    HeaderName::from_static("x-ms-encryption-key-sha256");
const X_MS_ENCRYPTION_ALGORITHM: HeaderName = HeaderName::from_static("x-ms-encryption-algorithm");
const X_MS_ENCRYPTION_SCOPE: HeaderName = HeaderName::from_static("x-ms-encryption-scope");

/// Bytes of an AES-256 key.
const KEY_LEN: usize = 32;
/// The longest name of a scope ("Encryption scopes for Blob storage").
const LONGEST_SCOPE: usize = 63;

/// How blobs of a mount are encrypted.
#[derive(Clone, Debug, Default)]
pub(super) enum Encryption {
    /// As the account, or the container, says.
    #[default]
    Default,
    /// Under a key of ours.
    Key(CustomerKey),
    /// Under a scope of the account.
    Scope(HeaderValue),
}

/// A key that the service is told with each request, and forgets.
#[derive(Clone)]
pub(super) struct CustomerKey {
    key: HeaderValue,
    sha256: HeaderValue,
}

/// Shows nothing of it, not even its hash.
impl fmt::Debug for CustomerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CustomerKey")
    }
}

impl CustomerKey {
    /// A key in base64, as the service's own tools write it; `None` if it is not 32 bytes.
    pub(super) fn new(text: &str) -> Option<CustomerKey> {
        let key = STANDARD.decode(text.trim()).ok().filter(|key| key.len() == KEY_LEN)?;
        let secret = |text: String| {
            let mut value = HeaderValue::try_from(text).expect("base64 is a header value");
            value.set_sensitive(true);
            value
        };
        Some(CustomerKey {
            sha256: secret(STANDARD.encode(Sha256::digest(&key))),
            key: secret(STANDARD.encode(&key)),
        })
    }

    fn put(&self, headers: &mut HeaderMap) {
        headers.insert(X_MS_ENCRYPTION_KEY, self.key.clone());
        headers.insert(X_MS_ENCRYPTION_KEY_SHA256, self.sha256.clone());
        headers.insert(X_MS_ENCRYPTION_ALGORITHM, HeaderValue::from_static("AES256"));
    }
}

/// The name of a scope as a header value; `None` if no scope can have it.
pub(super) fn scope(name: &str) -> Option<HeaderValue> {
    let sound = (3..=LONGEST_SCOPE).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    HeaderValue::from_str(name).ok().filter(|_| sound)
}

impl Encryption {
    /// Completes a request that reads content, properties or metadata.
    pub(super) fn of_read(&self, headers: &mut HeaderMap) {
        if let Encryption::Key(key) = self {
            key.put(headers);
        }
    }

    /// Completes a request that writes content, size or metadata, or takes a snapshot.
    pub(super) fn of_write(&self, headers: &mut HeaderMap) {
        match self {
            Encryption::Default => {}
            Encryption::Key(key) => key.put(headers),
            Encryption::Scope(scope) => {
                headers.insert(X_MS_ENCRYPTION_SCOPE, scope.clone());
            }
        }
    }

    /// Whether a copy that the service makes by itself is encrypted as it should be. It takes neither
    /// key nor scope for one.
    pub(super) fn allows_copies(&self) -> bool {
        matches!(self, Encryption::Default)
    }
}

#[cfg(test)]
mod tests {
    use http::header::HeaderMap;

    use super::{CustomerKey, Encryption, scope};

    const KEY: &str = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
    const SHA: &str = "Zmh6rfhivXdsj8GLjp+OIAiXFIVu4jOzkCpZHQ1fKSU=";

    #[test]
    fn a_key_is_three_headers_of_reads_and_writes() {
        let encryption = Encryption::Key(CustomerKey::new(&format!(" {KEY}\n")).unwrap());
        let (mut read, mut write) = (HeaderMap::new(), HeaderMap::new());
        encryption.of_read(&mut read);
        encryption.of_write(&mut write);
        assert_eq!(read, write);
        let mut all: Vec<_> =
            read.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
        all.sort_unstable();
        assert_eq!(
            all,
            [
                ("x-ms-encryption-algorithm", "AES256"),
                ("x-ms-encryption-key", KEY),
                ("x-ms-encryption-key-sha256", SHA),
            ]
        );
        assert!(!encryption.allows_copies());
    }

    #[test]
    fn nothing_of_a_key_is_shown() {
        let encryption = Encryption::Key(CustomerKey::new(KEY).unwrap());
        let mut headers = HeaderMap::new();
        encryption.of_write(&mut headers);
        let shown = format!("{encryption:?} {headers:?}");
        assert!(!shown.contains("AAAA") && !shown.contains("Zmh6"), "{shown}");
    }

    #[test]
    fn a_scope_is_named_in_writes_alone() {
        let encryption = Encryption::Scope(scope("finance").unwrap());
        let (mut read, mut write) = (HeaderMap::new(), HeaderMap::new());
        encryption.of_read(&mut read);
        encryption.of_write(&mut write);
        assert_eq!((read.len(), write.len()), (0, 1));
        assert_eq!(write["x-ms-encryption-scope"], "finance");
        let mut none = HeaderMap::new();
        Encryption::Default.of_write(&mut none);
        assert!(none.is_empty() && Encryption::Default.allows_copies());
    }

    #[test]
    fn what_can_be_neither_is_refused() {
        for bad in ["", "short", &KEY[..40], &KEY[1..], "AAAA AAAA", &KEY.repeat(2)] {
            assert!(CustomerKey::new(bad).is_none(), "{bad:?}");
        }
        for bad in ["", "ab", "a b", "a_b", "ü12", "a\n1", &"x".repeat(64)] {
            assert!(scope(bad).is_none(), "{bad:?}");
        }
        assert!(scope("Scope-1").is_some());
    }
}
