//! How a blob's content is said to be encrypted: by a key that the customer sends along, or under a
//! scope of the account.
//!
//! The emulator keeps no ciphertext, only whose key it would take. Knows headers, not blobs.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::HeaderMap;
use sha2::{Digest, Sha256};

use super::error::{self, Failure, invalid_header, missing_header};
use super::request::header;

const KEY: &str = "x-ms-encryption-key";
const SHA: &str = "x-ms-encryption-key-sha256";
const ALGORITHM: &str = "x-ms-encryption-algorithm";
const SCOPE: &str = "x-ms-encryption-scope";

/// What a request says about it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Encryption {
    /// Base64 of the key's SHA-256.
    pub(super) key_sha256: Option<String>,
    pub(super) scope: Option<String>,
}

impl Encryption {
    /// Takes the headers of a read or a write. A read may leave the algorithm out. A key is taken only
    /// from who came over TLS: the documents say so, though not how the service refuses others.
    pub(super) fn parse(headers: &HeaderMap, read: bool, secure: bool) -> Result<Self, Failure> {
        let scope = header(headers, SCOPE)?.map(str::to_owned);
        let (sha, algorithm) = (header(headers, SHA)?, header(headers, ALGORITHM)?);
        let Some(key) = header(headers, KEY)? else {
            return match (sha, algorithm) {
                (None, None) => Ok(Self { key_sha256: None, scope }),
                _ => Err(missing_header(KEY)),
            };
        };
        if scope.is_some() {
            return Err(error::INVALID_INPUT.into());
        }
        let sha = sha.ok_or_else(|| missing_header(SHA))?;
        match algorithm {
            Some("AES256") => {}
            Some(other) => return Err(invalid_header(ALGORITHM, other)),
            None if read => {}
            None => return Err(missing_header(ALGORITHM)),
        }
        // The key itself is never echoed.
        let bytes = STANDARD.decode(key).ok().filter(|bytes| bytes.len() == 32 && secure);
        let bytes = bytes.ok_or_else(|| invalid_header(KEY, ""))?;
        if STANDARD.encode(Sha256::digest(&bytes)) != sha {
            return Err(invalid_header(SHA, sha));
        }
        Ok(Self { key_sha256: Some(sha.to_owned()), scope: None })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_customer_key_must_match_its_hash_and_be_secret() {
        let sha = "Zmh6rfhivXdsj8GLjp+OIAiXFIVu4jOzkCpZHQ1fKSU=";
        let key = (KEY, "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=");
        let (right, aes) = ((SHA, sha), (ALGORITHM, "AES256"));
        let parse = |read, secure, pairs: &[(&'static str, &str)]| {
            let pairs = pairs.iter().map(|(n, v)| (n.parse().unwrap(), v.parse().unwrap()));
            Encryption::parse(&pairs.collect(), read, secure).map(|found| found.key_sha256)
        };
        let found = Some(sha.to_owned());
        assert_eq!(parse(false, true, &[key, right, aes]).unwrap(), found);
        assert_eq!(parse(true, true, &[key, right]).unwrap(), found);
        for bad in [
            &[key, right][..],
            &[key, aes],
            &[right, aes],
            &[key, (SHA, key.1), aes],
            &[key, right, (ALGORITHM, "AES128")],
            &[key, right, aes, (SCOPE, "s")],
        ] {
            assert!(parse(false, true, bad).is_err(), "{bad:?}");
        }
        assert!(parse(false, false, &[key, right, aes]).is_err());
        assert_eq!(parse(false, false, &[(SCOPE, "s")]).unwrap(), None);
    }
}
