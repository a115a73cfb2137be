//! Names of repositories and tags (OCI distribution specification, "Pulling manifests"). A name that has been
//! parsed is safe in a URL and, component by component, as a file name.

use std::fmt;
use std::sync::Arc;

/// Host, `/` and name of a repository are at most this long together, in bytes; the specification asks
/// registries to expect it.
const LONGEST_NAME: usize = 255;
/// The longest tag, in bytes.
const LONGEST_TAG: usize = 128;

/// A repository: components of lower-case letters and digits, joined by `/`; within a component `.`, `_`, `__`
/// and dashes may stand between letters.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Repository(Arc<str>);

impl Repository {
    /// A name that a registry may have; `None` for all others.
    pub fn parse(name: &str) -> Option<Repository> {
        let good = name.len() <= LONGEST_NAME && name.split('/').all(is_component);
        good.then(|| Repository(Arc::from(name)))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whether `text` is one component of a repository's name:
/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`.
pub fn is_component(text: &str) -> bool {
    let is_letter = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = text.as_bytes();
    let (Some(&first), Some(&last)) = (bytes.first(), bytes.last()) else { return false };
    if !is_letter(first) || !is_letter(last) {
        return false;
    }
    bytes.split(|byte| is_letter(*byte)).all(|between| match between {
        [] | [b'.'] | [b'_'] | [b'_', b'_'] => true,
        dashes => dashes.iter().all(|byte| *byte == b'-'),
    })
}

/// Whether `text` is a tag: `[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}`.
pub fn is_tag(text: &str) -> bool {
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let bytes = text.as_bytes();
    bytes.first().is_some_and(|first| is_word(*first))
        && bytes.len() <= LONGEST_TAG
        && bytes.iter().all(|byte| is_word(*byte) || b".-".contains(byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_the_specification() {
        for good in
            ["a", "0", "a.b", "a_b", "a__b", "a-b", "a----b", "team/app", "a/b/c/d", "x1/2y"]
        {
            assert!(Repository::parse(good).is_some(), "{good}");
        }
        let long = "a".repeat(256);
        for bad in [
            "", "/", "a/", "/a", "a//b", "A", "a.", ".a", "_a", "a_", "-a", "a-", "a..b", "a___b",
            "a._b", "a.-b", "..", ".", "a/../b", "a b", "ä", "a\0b", "a%2Fb", &long,
        ] {
            assert!(Repository::parse(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn tags_of_the_specification() {
        for good in ["v1", "_", "A", "1.0-rc.1_x", &"t".repeat(128)] {
            assert!(is_tag(good), "{good}");
        }
        for bad in ["", ".", "-a", "a/b", "a:b", "..", "a b", "ä", &"t".repeat(129)] {
            assert!(!is_tag(bad), "{bad}");
        }
    }
}
