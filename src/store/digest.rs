//! Digests: names of content by its own bytes (OCI image specification, "Digests").
//!
//! Whoever has all bytes of a blob that is named so can tell whether they are the right ones. This module
//! must not know where bytes come from.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use sha2::{Digest as _, Sha256, Sha512};

/// How a digest was computed. Both are registered by the specification; others cannot be checked.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Algorithm {
    /// SHA-256, 64 hexadecimal digits.
    Sha256,
    /// SHA-512, 128 hexadecimal digits.
    Sha512,
}

impl Algorithm {
    /// All of them.
    pub const ALL: [Algorithm; 2] = [Algorithm::Sha256, Algorithm::Sha512];

    /// The word before the colon.
    pub fn name(self) -> &'static str {
        match self {
            Algorithm::Sha256 => "sha256",
            Algorithm::Sha512 => "sha512",
        }
    }

    /// Hexadecimal digits after the colon.
    fn digits(self) -> usize {
        match self {
            Algorithm::Sha256 => 64,
            Algorithm::Sha512 => 128,
        }
    }

    /// Begins to compute a digest.
    pub fn hasher(self) -> Hasher {
        match self {
            Algorithm::Sha256 => Hasher::Sha256(Sha256::new()),
            Algorithm::Sha512 => Hasher::Sha512(Box::new(Sha512::new())),
        }
    }
}

/// A digest, as `sha256:` and lower-case hexadecimal digits.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest {
    algorithm: Algorithm,
    text: Arc<str>,
}

impl Digest {
    /// The digest of `bytes`.
    pub fn of(algorithm: Algorithm, bytes: &[u8]) -> Digest {
        let mut hasher = algorithm.hasher();
        hasher.update(bytes);
        hasher.finish()
    }

    /// A digest by its parts, as a directory `blobs/<algorithm>/<hex>` has them; `None` if they make none.
    pub fn from_parts(algorithm: &str, hex: &str) -> Option<Digest> {
        format!("{algorithm}:{hex}").parse().ok()
    }

    /// How it was computed.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The digits after the colon.
    pub fn hex(&self) -> &str {
        &self.text[self.algorithm.name().len() + 1..]
    }

    /// The whole, `sha256:…`.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The same, shared.
    pub fn shared(&self) -> Arc<str> {
        Arc::clone(&self.text)
    }
}

/// Why a text is no digest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BadDigest {
    /// It has no algorithm, or not the digits that this one gives.
    Malformed,
    /// Its algorithm cannot be checked here.
    UnknownAlgorithm,
}

impl fmt::Display for BadDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            BadDigest::Malformed => "it is no digest, which is sha256: and 64 lower-case digits",
            BadDigest::UnknownAlgorithm => "only sha256 and sha512 digests can be checked",
        })
    }
}

impl FromStr for Digest {
    type Err = BadDigest;

    fn from_str(text: &str) -> Result<Digest, BadDigest> {
        let (name, hex) = text.split_once(':').ok_or(BadDigest::Malformed)?;
        let Some(algorithm) = Algorithm::ALL.into_iter().find(|known| known.name() == name) else {
            let word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
            let plausible =
                !name.is_empty() && name.bytes().all(|byte| word(byte) || b"+._-".contains(&byte));
            return Err(if plausible { BadDigest::UnknownAlgorithm } else { BadDigest::Malformed });
        };
        let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        if hex.len() != algorithm.digits() || !hex.bytes().all(is_digit) {
            return Err(BadDigest::Malformed);
        }
        Ok(Digest { algorithm, text: Arc::from(text) })
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// A digest that is being computed.
#[derive(Clone, Debug)]
pub enum Hasher {
    /// SHA-256.
    Sha256(Sha256),
    /// SHA-512.
    Sha512(Box<Sha512>),
}

impl Hasher {
    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        match self {
            Hasher::Sha256(state) => state.update(bytes),
            Hasher::Sha512(state) => state.update(bytes),
        }
    }

    /// The digest of all bytes so far.
    pub fn finish(self) -> Digest {
        let (algorithm, sum) = match self {
            Hasher::Sha256(state) => (Algorithm::Sha256, state.finalize().to_vec()),
            Hasher::Sha512(state) => (Algorithm::Sha512, state.finalize().to_vec()),
        };
        let mut text = String::with_capacity(algorithm.name().len() + 1 + algorithm.digits());
        text.push_str(algorithm.name());
        text.push(':');
        for byte in sum {
            for half in [byte >> 4, byte & 15] {
                text.push(char::from_digit(half.into(), 16).expect("half a byte is a digit"));
            }
        }
        Digest { algorithm, text: text.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_examples_of_the_specification() {
        // FIPS 180-4, "abc".
        let digest = Digest::of(Algorithm::Sha256, b"abc");
        let hex = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!((digest.hex(), digest.to_string()), (hex, format!("sha256:{hex}")));
        let digest = Digest::of(Algorithm::Sha512, b"abc");
        assert!(digest.as_str().starts_with("sha512:ddaf35a193617abacc417349ae204131"), "{digest}");
        assert_eq!(Digest::from_parts("sha512", digest.hex()), Some(digest));
    }

    #[test]
    fn only_digests_are_digests() {
        let hex = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        for bad in [
            "",
            ":",
            "sha256",
            "sha256:",
            hex,
            "sha256:zz",
            &format!("sha256:{}", hex.to_uppercase()),
            &format!("sha256:{hex}0"),
            &format!("sha512:{hex}"),
            &format!("SHA256:{hex}"),
            &format!("../sha256:{hex}"),
        ] {
            assert_eq!(bad.parse::<Digest>(), Err(BadDigest::Malformed), "{bad}");
        }
        let other: Result<Digest, _> = "blake3:00".parse();
        assert_eq!(other, Err(BadDigest::UnknownAlgorithm));
    }
}
