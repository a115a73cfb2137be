//! Ranged answers: whether one is exactly what was asked.

use std::ops::Range;

use http::StatusCode;
use http::header::{CONTENT_LENGTH, CONTENT_RANGE, ETAG, HeaderMap, HeaderValue};

/// What every part of one read must agree with.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pin<'a> {
    /// The ETag that was asked for with `If-Match`; an answer with another one is of another version.
    pub etag: Option<&'a HeaderValue>,
    /// The length of the whole object in bytes.
    pub total: Option<u64>,
}

/// Why an answer must not be used.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Mismatch {
    /// It is of another version.
    Version,
    /// It is not the range that was asked for; the text says what came instead.
    Range(String),
}

/// Parses `bytes FIRST-LAST/TOTAL`, where TOTAL may be `*`, into the range and the total.
pub(super) fn parse_content_range(text: &str) -> Option<(Range<u64>, Option<u64>)> {
    let (range, total) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, last) = (digits(first)?, digits(last)?);
    let end = last.checked_add(1)?;
    let total = match total {
        "*" => None,
        total => Some(digits(total)?),
    };
    if first >= end || total.is_some_and(|total| end > total) {
        return None;
    }
    Some((first..end, total))
}

/// A number of digits alone; `parse` would take a plus sign.
fn digits(text: &str) -> Option<u64> {
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    text.parse().ok()
}

/// Whether a successful answer to a request for `asked` is exactly that.
pub(super) fn check(
    status: StatusCode,
    headers: &HeaderMap,
    asked: &Range<u64>,
    pin: &Pin<'_>,
) -> Result<(), Mismatch> {
    if let (Some(wanted), Some(found)) = (pin.etag, headers.get(ETAG))
        && wanted != found
    {
        return Err(Mismatch::Version);
    }
    let wrong = |what: String| {
        Err(Mismatch::Range(format!(
            "asked for bytes {}-{} and was answered {what}",
            asked.start,
            asked.end - 1
        )))
    };
    let length = asked.end - asked.start;
    match status {
        StatusCode::PARTIAL_CONTENT => {
            let Some(text) = headers.get(CONTENT_RANGE).and_then(|v| v.to_str().ok()) else {
                return wrong("206 without a Content-Range".to_owned());
            };
            match parse_content_range(text) {
                Some((range, total))
                    if range == *asked
                        && (pin.total.is_none() || total.is_none() || pin.total == total) => {}
                _ => return wrong(format!("{text:?}")),
            }
        }
        // A server that knows no ranges gives the whole object; right if that is what was wanted.
        StatusCode::OK if asked.start == 0 && pin.total == Some(asked.end) => {}
        other => return wrong(format!("with status {other}")),
    }
    if let Some(given) = headers.get(CONTENT_LENGTH) {
        let given = given.to_str().ok().and_then(digits);
        if given != Some(length) {
            return wrong(format!("with a body of {given:?} bytes"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use http::header::{CONTENT_RANGE, ETAG, HeaderMap, HeaderValue};
    use http::{StatusCode, header};
    use proptest::prelude::*;

    use super::{Mismatch, Pin, check, parse_content_range};

    #[test]
    fn parses_content_ranges() {
        assert_eq!(parse_content_range("bytes 0-511/1024"), Some((0..512, Some(1024))));
        assert_eq!(parse_content_range("bytes 5-5/*"), Some((5..6, None)));
        for bad in [
            "",
            "bytes",
            "bytes 0-511",
            "bytes */1024",
            "bytes 10-9/20",
            "bytes 0-20/20",
            "bytes +0-1/2",
            "bytes 0-18446744073709551615/*",
            "items 0-1/2",
        ] {
            assert_eq!(parse_content_range(bad), None, "{bad:?}");
        }
    }

    fn answer(range: &'static str, length: &'static str, etag: &'static str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_RANGE, HeaderValue::from_static(range));
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from_static(length));
        headers.insert(ETAG, HeaderValue::from_static(etag));
        headers
    }

    #[test]
    fn takes_only_what_was_asked() {
        let etag = HeaderValue::from_static("\"1\"");
        let pin = Pin { etag: Some(&etag), total: Some(1024) };
        let partial = StatusCode::PARTIAL_CONTENT;
        let right = answer("bytes 512-1023/1024", "512", "\"1\"");
        assert_eq!(check(partial, &right, &(512..1024), &pin), Ok(()));
        let other = answer("bytes 512-1023/1024", "512", "\"2\"");
        assert_eq!(check(partial, &other, &(512..1024), &pin), Err(Mismatch::Version));
        for wrong in [
            answer("bytes 0-511/1024", "512", "\"1\""),
            answer("bytes 512-1023/2048", "512", "\"1\""),
            answer("bytes 512-1023/1024", "511", "\"1\""),
            answer("nonsense", "512", "\"1\""),
        ] {
            assert!(matches!(check(partial, &wrong, &(512..1024), &pin), Err(Mismatch::Range(_))));
        }
        let whole = HeaderMap::new();
        assert_eq!(check(StatusCode::OK, &whole, &(0..1024), &pin), Ok(()));
        assert!(check(StatusCode::OK, &whole, &(0..512), &pin).is_err());
        assert!(check(StatusCode::OK, &whole, &(0..512), &Pin::default()).is_err());
    }

    proptest! {
        #[test]
        fn never_panics(text in ".*") {
            let _ = parse_content_range(&text);
        }

        #[test]
        fn reads_back_what_it_says(first in 0..u64::MAX - 1, more in 0u64..1 << 40) {
            let last = first.saturating_add(more).min(u64::MAX - 2);
            let text = format!("bytes {first}-{last}/{}", last + 1);
            prop_assert_eq!(
                parse_content_range(&text),
                (first <= last).then(|| (first..last + 1, Some(last + 1)))
            );
        }
    }
}
