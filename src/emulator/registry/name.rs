//! The grammar of repository names and tags.

/// Longest name of a repository, in bytes.
const LONGEST_NAME: usize = 255;
/// Longest tag, in bytes.
const LONGEST_TAG: usize = 128;

/// Whether components of letters and digits, joined by one dot, one or two underscores or any number of
/// hyphens, are joined by slashes.
pub(super) fn is_repository(name: &str) -> bool {
    name.len() <= LONGEST_NAME && name.split('/').all(is_component)
}

fn is_component(text: &str) -> bool {
    let alphanumeric = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    if !text.starts_with(alphanumeric) || !text.ends_with(alphanumeric) {
        return false;
    }
    text.split(alphanumeric).all(|separator| {
        matches!(separator, "" | "." | "_" | "__") || separator.bytes().all(|c| c == b'-')
    })
}

/// Whether it is a word of up to 128 letters, digits, dots, underscores and hyphens, that begins with none of
/// the last two.
pub(super) fn is_tag(text: &str) -> bool {
    let word = |c: u8| c.is_ascii_alphanumeric() || c == b'_';
    let inner = |c: u8| word(c) || matches!(c, b'.' | b'-');
    text.len() <= LONGEST_TAG && text.bytes().next().is_some_and(word) && text.bytes().all(inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_keep_to_the_grammar() {
        for good in ["a", "prod/bash", "a.b_c__d---e/0", "library/hello-world"] {
            assert!(is_repository(good), "{good}");
        }
        for bad in ["", "A", "a/", "/a", "a//b", "a..b", "a___b", "-a", "a_", "..", "a/../b", "a:b"]
        {
            assert!(!is_repository(bad), "{bad}");
        }
        assert!(!is_repository(&"a".repeat(256)));
        for good in ["v1", "_", "1.0-rc.1", "LATEST"] {
            assert!(is_tag(good), "{good}");
        }
        for bad in ["", ".v", "-v", "a/b", "a:b", &"v".repeat(129)] {
            assert!(!is_tag(bad), "{bad}");
        }
    }
}
