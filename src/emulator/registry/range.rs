//! What a `Range` header asks of a blob, by the measured habits of docker-registry 2.8.2.
//!
//! Those are the habits of Go's standard library: what it cannot read it refuses, where the RFC would
//! have it ignored. Knows numbers, not blobs.

/// What is to be answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Wanted {
    /// Everything, with 200.
    Whole,
    /// One part, with 206: where it begins, and its length.
    Part(u64, u64),
    /// Several parts, with 206.
    Parts(Vec<(u64, u64)>),
    /// 416. `true`: the size is told.
    Refused(bool),
}

/// Reads the header's value for a blob of `size` bytes.
pub(super) fn wanted(text: &str, size: u64) -> Wanted {
    if text.is_empty() {
        return Wanted::Whole;
    }
    let Some(list) = text.strip_prefix("bytes=") else { return Wanted::Refused(false) };
    let mut parts = Vec::new();
    let mut beyond = false;
    for item in list.split(',').map(str::trim).filter(|item| !item.is_empty()) {
        match part(item, size) {
            None => return Wanted::Refused(false),
            Some(None) => beyond = true,
            Some(Some(part)) => parts.push(part),
        }
    }
    if parts.is_empty() && beyond {
        return Wanted::Refused(true);
    }
    // More than the whole is not worth cutting up.
    if parts.iter().map(|part| part.1).sum::<u64>() > size {
        return Wanted::Whole;
    }
    match parts[..] {
        [] => Wanted::Whole,
        [(start, len)] => Wanted::Part(start, len),
        _ => Wanted::Parts(parts),
    }
}

/// One part; `Some(None)` if it begins at or behind the end, `None` if it cannot be read.
#[expect(clippy::option_option, reason = "unreadable and unsatisfiable are two things")]
fn part(item: &str, size: u64) -> Option<Option<(u64, u64)>> {
    let (first, last) = item.split_once('-')?;
    let (first, last) = (first.trim(), last.trim());
    if first.is_empty() {
        let len = number(last)?.min(size);
        return Some(Some((size - len, len)));
    }
    let first = number(first)?;
    if first >= size {
        return Some(None);
    }
    if last.is_empty() {
        return Some(Some((first, size - first)));
    }
    let last = number(last)?;
    (first <= last).then(|| Some((first, last.min(size - 1) - first + 1)))
}

/// A number of up to 63 bits.
fn number(text: &str) -> Option<u64> {
    text.parse::<u64>().ok().filter(|number| i64::try_from(*number).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The measured matrix, on a blob of 200,293 bytes.
    #[test]
    fn ranges_are_read_as_measured() {
        const SIZE: u64 = 200_293;
        use Wanted::{Part, Parts, Refused, Whole};
        for (text, expected) in [
            ("", Whole),
            ("bytes=0-9", Part(0, 10)),
            ("bytes=200283-", Part(200_283, 10)),
            ("bytes=-10", Part(200_283, 10)),
            ("bytes=0-0", Part(0, 1)),
            ("bytes=200290-999999", Part(200_290, 3)),
            ("bytes=0-99999999", Part(0, SIZE)),
            ("bytes=0-200292", Part(0, SIZE)),
            ("bytes=-999999999", Part(0, SIZE)),
            ("bytes=200293-", Refused(true)),
            ("bytes=999999-9999999", Refused(true)),
            ("bytes=5-2", Refused(false)),
            ("bytes=abc", Refused(false)),
            ("chunks=0-5", Refused(false)),
            ("bytes=0-9223372036854775808", Refused(false)),
            ("bytes=-0", Part(SIZE, 0)),
            ("bytes=0-9,20-29", Parts(vec![(0, 10), (20, 10)])),
            ("bytes=0-9, 999999-", Part(0, 10)),
            ("bytes=0-,0-", Whole),
        ] {
            assert_eq!(wanted(text, SIZE), expected, "{text}");
        }
        assert_eq!(wanted("bytes=0-0", 0), Refused(true));
    }
}
