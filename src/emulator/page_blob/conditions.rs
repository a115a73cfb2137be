//! Conditional headers: ETag, time and sequence number.
//!
//! Parses them and judges them against a blob's state. Knows nothing of leases, which are judged
//! beside them, nor of operations, which say which rule set applies.

use http::HeaderMap;

use super::clock::parse_http_date;
use super::error::{self, Code, Failure, invalid_header};

/// The four header names of one side of a request.
struct Names {
    if_match: &'static str,
    if_none_match: &'static str,
    if_modified_since: &'static str,
    if_unmodified_since: &'static str,
}

const TARGET: Names = Names {
    if_match: "if-match",
    if_none_match: "if-none-match",
    if_modified_since: "if-modified-since",
    if_unmodified_since: "if-unmodified-since",
};

const SOURCE: Names = Names {
    if_match: "x-ms-source-if-match",
    if_none_match: "x-ms-source-if-none-match",
    if_modified_since: "x-ms-source-if-modified-since",
    if_unmodified_since: "x-ms-source-if-unmodified-since",
};

/// ETag and time conditions.
#[derive(Debug, Clone, Default)]
pub(super) struct Conditions {
    matches: Option<Vec<String>>,
    none_match: Option<Vec<String>>,
    modified_since: Option<i64>,
    unmodified_since: Option<i64>,
}

/// What conditions are judged against.
#[derive(Debug, Clone, Copy)]
pub(super) struct Current<'a> {
    /// Without quotes.
    pub(super) etag: &'a str,
    pub(super) modified_ms: i64,
}

impl Conditions {
    /// Those on the blob that the request is about. One that writes may carry only one.
    pub(super) fn of_write(headers: &HeaderMap) -> Result<Self, Failure> {
        let found = Self::parse(headers, &TARGET)?;
        found.single()?;
        Ok(found)
    }

    /// Those on a blob that is only read. Any mix is allowed.
    pub(super) fn of_read(headers: &HeaderMap) -> Result<Self, Failure> {
        Self::parse(headers, &TARGET)
    }

    /// Those on the source of a copy.
    pub(super) fn of_source(headers: &HeaderMap) -> Result<Self, Failure> {
        let found = Self::parse(headers, &SOURCE)?;
        found.single()?;
        Ok(found)
    }

    fn parse(headers: &HeaderMap, names: &Names) -> Result<Self, Failure> {
        if headers.contains_key("x-ms-if-tags") || headers.contains_key("x-ms-source-if-tags") {
            return Err(error::UNSUPPORTED_HEADER.with("HeaderName", "x-ms-if-tags"));
        }
        Ok(Self {
            matches: tags(headers, names.if_match)?,
            none_match: tags(headers, names.if_none_match)?,
            modified_since: date(headers, names.if_modified_since)?,
            unmodified_since: date(headers, names.if_unmodified_since)?,
        })
    }

    /// At most one header, but for the two pairs in which the first decides; and one tag in it.
    fn single(&self) -> Result<(), Failure> {
        let given = (
            self.matches.is_some(),
            self.none_match.is_some(),
            self.modified_since.is_some(),
            self.unmodified_since.is_some(),
        );
        let lists = [&self.matches, &self.none_match];
        let one_tag = lists.into_iter().flatten().all(|tags| tags.len() == 1);
        match given {
            (true, false, false, _) | (false, true, _, false) if one_tag => Ok(()),
            (false, false, false, _) | (false, false, true, false) => Ok(()),
            _ => Err(error::MULTIPLE_CONDITIONS.into()),
        }
    }

    /// `If-None-Match: *`: only if there is nothing yet.
    pub(super) fn wants_absent(&self) -> bool {
        self.none_match.as_ref().is_some_and(|tags| tags.iter().any(|tag| tag == "*"))
    }

    /// Judges a write. `None`: there is no blob yet.
    pub(super) fn check_write(&self, current: Option<Current<'_>>) -> Result<(), Code> {
        let met = match current {
            None => self.matches.is_none() && self.unmodified_since.is_none(),
            Some(now) => match (&self.matches, &self.none_match) {
                (Some(tags), _) => contains(tags, now.etag),
                (None, Some(tags)) => !contains(tags, now.etag),
                (None, None) => {
                    self.unmodified_since.is_none_or(|at| seconds(now.modified_ms) <= seconds(at))
                        && self
                            .modified_since
                            .is_none_or(|at| seconds(now.modified_ms) > seconds(at))
                }
            },
        };
        if met { Ok(()) } else { Err(error::CONDITION_NOT_MET) }
    }

    /// Judges a read, in which the negative conditions answer 304.
    pub(super) fn check_read(&self, now: Current<'_>) -> Result<(), Code> {
        let same = self.matches.as_ref().is_none_or(|tags| contains(tags, now.etag))
            && self.unmodified_since.is_none_or(|at| seconds(now.modified_ms) <= seconds(at));
        if !same {
            return Err(error::CONDITION_NOT_MET);
        }
        let differs = self.none_match.as_ref().map(|tags| !contains(tags, now.etag));
        let newer = self.modified_since.map(|at| seconds(now.modified_ms) > seconds(at));
        match (differs, newer) {
            (None, None) | (Some(true), _) | (_, Some(true)) => Ok(()),
            _ => Err(error::CONDITION_NOT_MET_READ),
        }
    }
}

/// Conditions on a page blob's sequence number, which only page writes have.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct SequenceConditions {
    le: Option<u64>,
    lt: Option<u64>,
    eq: Option<u64>,
}

impl SequenceConditions {
    pub(super) fn parse(headers: &HeaderMap) -> Result<Self, Failure> {
        Ok(Self {
            le: sequence(headers, "x-ms-if-sequence-number-le")?,
            lt: sequence(headers, "x-ms-if-sequence-number-lt")?,
            eq: sequence(headers, "x-ms-if-sequence-number-eq")?,
        })
    }

    pub(super) fn check(self, current: u64) -> Result<(), Code> {
        let met = self.le.is_none_or(|n| current <= n)
            && self.lt.is_none_or(|n| current < n)
            && self.eq.is_none_or(|n| current == n);
        if met { Ok(()) } else { Err(error::SEQUENCE_CONDITION_NOT_MET) }
    }
}

/// A sequence number: 0 to 2^63-1.
pub(super) fn sequence(headers: &HeaderMap, name: &'static str) -> Result<Option<u64>, Failure> {
    let Some(text) = text(headers, name)? else {
        return Ok(None);
    };
    match text.parse::<u64>() {
        Ok(number) if number <= i64::MAX as u64 && !text.starts_with('+') => Ok(Some(number)),
        _ => Err(invalid_header(name, text)),
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &'static str) -> Result<Option<&'a str>, Failure> {
    headers.get(name).map(|value| value.to_str().map_err(|_| invalid_header(name, ""))).transpose()
}

fn date(headers: &HeaderMap, name: &'static str) -> Result<Option<i64>, Failure> {
    let Some(text) = text(headers, name)? else {
        return Ok(None);
    };
    parse_http_date(text).map(Some).ok_or_else(|| invalid_header(name, text))
}

fn tags(headers: &HeaderMap, name: &'static str) -> Result<Option<Vec<String>>, Failure> {
    let Some(text) = text(headers, name)? else {
        return Ok(None);
    };
    let tags: Vec<String> = text
        .split(',')
        .map(|tag| tag.trim().trim_start_matches("W/").trim_matches('"').to_owned())
        .collect();
    if tags.iter().any(String::is_empty) {
        return Err(invalid_header(name, text));
    }
    Ok(Some(tags))
}

fn contains(tags: &[String], etag: &str) -> bool {
    tags.iter().any(|tag| tag == "*" || tag == etag)
}

/// Times are compared at the resolution at which they are shown.
fn seconds(ms: i64) -> i64 {
    ms.div_euclid(1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: &str = "Fri, 20 Nov 2026 07:00:00 GMT";
    const NEW: &str = "Fri, 20 Nov 2026 08:00:00 GMT";

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    fn now() -> Current<'static> {
        Current { etag: "0x8D1", modified_ms: parse_http_date(OLD).unwrap() + 900 }
    }

    #[test]
    fn writes_answer_412() {
        let check = |pairs: &[(&'static str, &str)]| {
            Conditions::of_write(&headers(pairs)).unwrap().check_write(Some(now())).is_ok()
        };
        assert!(check(&[]));
        assert!(check(&[("if-match", "\"0x8D1\"")]));
        assert!(check(&[("if-match", "*")]));
        assert!(!check(&[("if-match", "\"0x8D2\"")]));
        assert!(!check(&[("if-none-match", "\"0x8D1\"")]));
        assert!(!check(&[("if-none-match", "*")]));
        assert!(check(&[("if-none-match", "\"0x8D2\"")]));
        assert!(check(&[("if-unmodified-since", OLD)]));
        assert!(!check(&[("if-modified-since", OLD)]));
        assert!(check(&[("if-unmodified-since", NEW)]));
        assert!(!check(&[("if-modified-since", NEW)]));
        assert!(check(&[("if-match", "\"0x8D1\""), ("if-unmodified-since", OLD)]));
        let absent = Conditions::of_write(&headers(&[("if-match", "*")])).unwrap();
        assert!(absent.check_write(None).is_err());
    }

    #[test]
    fn a_write_carries_one_condition() {
        for pairs in [
            &[("if-match", "\"a\""), ("if-none-match", "\"b\"")][..],
            &[("if-match", "\"a\""), ("if-modified-since", OLD)],
            &[("if-modified-since", OLD), ("if-unmodified-since", OLD)],
            &[("if-match", "\"a\", \"b\"")],
        ] {
            let error = Conditions::of_write(&headers(pairs)).unwrap_err();
            assert_eq!(error.code, "MultipleConditionHeadersNotSupported", "{pairs:?}");
            assert!(Conditions::of_read(&headers(pairs)).is_ok());
        }
        assert_eq!(
            Conditions::of_write(&headers(&[("if-modified-since", "yesterday")])).unwrap_err().code,
            "InvalidHeaderValue"
        );
    }

    #[test]
    fn reads_combine_and_answer_304() {
        let check = |pairs: &[(&'static str, &str)]| {
            let conditions = Conditions::of_read(&headers(pairs)).unwrap();
            conditions.check_read(now()).map_err(|code| code.status)
        };
        assert_eq!(check(&[("if-none-match", "\"0x8D1\"")]), Err(304));
        assert_eq!(check(&[("if-none-match", "\"0x8D1\", \"x\"")]), Err(304));
        assert_eq!(check(&[("if-modified-since", NEW)]), Err(304));
        assert_eq!(check(&[("if-match", "\"0x8D2\"")]), Err(412));
        assert_eq!(
            check(&[("if-match", "\"x\", \"0x8D1\""), ("if-unmodified-since", NEW)]),
            Ok(())
        );
        assert_eq!(check(&[("if-match", "\"0x8D1\""), ("if-none-match", "\"0x8D1\"")]), Err(304));
        assert_eq!(check(&[("if-none-match", "\"x\""), ("if-modified-since", NEW)]), Ok(()));
    }

    #[test]
    fn sequence_conditions_are_exact_to_the_last_bit() {
        let max = i64::MAX as u64;
        let check = |name, value: &str, current| {
            SequenceConditions::parse(&headers(&[(name, value)])).unwrap().check(current).is_ok()
        };
        assert!(check("x-ms-if-sequence-number-lt", "9223372036854775807", max - 1));
        assert!(!check("x-ms-if-sequence-number-lt", "9223372036854775807", max));
        assert!(check("x-ms-if-sequence-number-le", "9223372036854775807", max));
        assert!(check("x-ms-if-sequence-number-eq", "9007199254740993", 9_007_199_254_740_993));
        assert!(!check("x-ms-if-sequence-number-eq", "9007199254740992", 9_007_199_254_740_993));
        for bad in ["9223372036854775808", "-1", "+1", "one", ""] {
            let map = headers(&[("x-ms-if-sequence-number-lt", bad)]);
            assert!(SequenceConditions::parse(&map).is_err(), "{bad}");
        }
    }
}
