//! Digests of content: `sha256:` and `sha512:` with their hexadecimal digits.
//!
//! Knows how they are written and computed, not what has one.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};

use sha2::{Digest as _, Sha256, Sha512};

/// Bytes of a file that are hashed at a time: 1 MiB.
const PIECE: usize = 1 << 20;

/// The algorithms that a registry knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Algorithm {
    Sha256,
    Sha512,
}

impl Algorithm {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
        }
    }

    fn from_name(name: &str) -> Option<Self> {
        [Self::Sha256, Self::Sha512].into_iter().find(|algorithm| algorithm.name() == name)
    }

    fn digits(self) -> usize {
        match self {
            Self::Sha256 => 64,
            Self::Sha512 => 128,
        }
    }
}

/// A well-formed digest.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Digest {
    pub(super) algorithm: Algorithm,
    /// Lower-case digits, so that it is a name that a file can have.
    pub(super) hex: String,
}

impl Digest {
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (algorithm, hex) = text.split_once(':')?;
        let algorithm = Algorithm::from_name(algorithm)?;
        let is_hex = |c: u8| matches!(c, b'0'..=b'9' | b'a'..=b'f');
        let fits = hex.len() == algorithm.digits() && hex.bytes().all(is_hex);
        fits.then(|| Self { algorithm, hex: hex.to_owned() })
    }

    /// The digest of these bytes.
    pub(super) fn of(algorithm: Algorithm, bytes: &[u8]) -> Self {
        let hex = match algorithm {
            Algorithm::Sha256 => hex(&Sha256::digest(bytes)),
            Algorithm::Sha512 => hex(&Sha512::digest(bytes)),
        };
        Self { algorithm, hex }
    }

    /// The digest of a file from where it is to its end.
    pub(super) fn of_file(algorithm: Algorithm, file: &mut File) -> io::Result<Self> {
        let hex = match algorithm {
            Algorithm::Sha256 => hex(&hash::<Sha256>(file)?),
            Algorithm::Sha512 => hex(&hash::<Sha512>(file)?),
        };
        Ok(Self { algorithm, hex })
    }
}

fn hash<D: sha2::Digest>(file: &mut File) -> io::Result<Vec<u8>> {
    let mut digest = D::new();
    let mut piece = vec![0; PIECE];
    loop {
        match file.read(&mut piece)? {
            0 => return Ok(digest.finalize().to_vec()),
            count => digest.update(&piece[..count]),
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.algorithm.name(), self.hex)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_well_formed_digests_are_digests() {
        let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(Digest::of(Algorithm::Sha256, b"").to_string(), format!("sha256:{empty}"));
        let long = Digest::of(Algorithm::Sha512, b"").to_string();
        assert_eq!(Digest::parse(&long).unwrap().to_string(), long);
        let upper = format!("sha256:{}", empty.to_uppercase());
        let (short, other) = (format!("sha256:{}", &empty[1..]), format!("md5:{empty}"));
        let climbing = format!("sha256:../{}", &empty[3..]);
        for bad in ["", "sha256", "sha256:", &upper, &short, &other, &climbing] {
            assert_eq!(Digest::parse(bad), None, "{bad}");
        }
    }
}
