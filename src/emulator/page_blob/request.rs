//! One request, taken apart: whose it is, what it names, what its headers say.
//!
//! Parses strictly and refuses what the service refuses by form alone. Owns everything, so that a
//! request can also be applied later than it is answered. Knows nothing of stored blobs.

use http::HeaderMap;

use super::auth::Identity;
use super::buffer::Buffer;
use super::data_file::Staged;
use super::encryption::Encryption;
use super::error::{self, Code, Failure, invalid_header, invalid_query, missing_header};
use super::operation::Operation;
pub(super) use super::query::Query;
use super::query::decode;

/// Bytes in a page: what page blobs are made of.
pub(super) const PAGE: u64 = 512;

/// The versions of the service, oldest first.
const VERSIONS: &[&str] = &[
    "2009-09-19",
    "2011-08-18",
    "2012-02-12",
    "2013-08-15",
    "2014-02-14",
    "2015-02-21",
    "2015-04-05",
    "2015-07-08",
    "2015-12-11",
    "2016-05-31",
    "2017-04-17",
    "2017-07-29",
    "2017-11-09",
    "2018-03-28",
    "2018-06-17",
    "2018-11-09",
    "2019-02-02",
    "2019-07-07",
    "2019-10-10",
    "2019-12-12",
    "2020-02-10",
    "2020-04-08",
    "2020-06-12",
    "2020-08-04",
    "2020-10-02",
    "2020-12-06",
    "2021-02-12",
    "2021-04-10",
    "2021-06-08",
    "2021-08-06",
    "2021-10-04",
    "2021-12-02",
    "2022-11-02",
    "2023-01-03",
    "2023-05-03",
    "2023-08-03",
    "2023-11-03",
    "2024-02-04",
    "2024-05-04",
    "2024-08-04",
    "2024-11-04",
    "2025-01-05",
    "2025-05-05",
    "2025-07-05",
    "2025-11-05",
    "2026-02-06",
    "2026-04-06",
    "2026-06-06",
    "2026-10-06",
];

/// What applies to a request that names no version, which only anonymous ones may do.
const VERSION_OF_ANONYMOUS: &str = "2021-12-02";

/// A version of the service that exists. Dates compare as text.
pub(super) fn known_version(text: &str) -> Option<&'static str> {
    VERSIONS.iter().copied().find(|version| *version == text)
}

/// What a path names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) account: String,
    pub(super) container: Option<String>,
    pub(super) blob: Option<String>,
}

impl Target {
    /// `/{account}[/{container}[/{blob}]]`, still encoded.
    pub(super) fn parse(raw: &str, query: &Query) -> Result<Self, Failure> {
        let mut parts = raw.trim_start_matches('/').splitn(3, '/').map(decode);
        let account = parts.next().filter(|name| !name.is_empty()).ok_or(error::INVALID_URI)?;
        let container = parts.next().filter(|name| !name.is_empty());
        let blob = parts.next().filter(|name| !name.is_empty());
        // One name below the account without `restype` is a blob in the root container.
        match (container, blob) {
            (Some(name), None)
                if !matches!(query.get("restype"), Some("container" | "account")) =>
            {
                Ok(Self { account, container: Some("$root".to_owned()), blob: Some(name) })
            }
            (container, blob) => Ok(Self { account, container, blob }),
        }
    }
}

/// The body of a request, complete and verified.
#[derive(Debug, Default)]
pub(super) enum Payload {
    #[default]
    None,
    /// Up to one Put Page, in memory.
    Memory(Buffer),
    /// Larger ones, in a file that becomes the blob or a block.
    Staged(Staged),
}

impl Payload {
    /// What is in memory.
    pub(super) fn bytes(&self) -> &[u8] {
        match self {
            Self::Memory(buffer) => buffer.as_ref(),
            Self::None | Self::Staged(_) => &[],
        }
    }
}

/// One request.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) op: Operation,
    pub(super) target: Target,
    pub(super) query: Query,
    pub(super) headers: HeaderMap,
    pub(super) version: &'static str,
    /// It came over TLS.
    pub(super) secure: bool,
    pub(super) identity: Identity,
    pub(super) payload: Payload,
    /// Checksums of the body, where the caller or the answer needs them.
    pub(super) body_md5: Option<String>,
    pub(super) body_crc64: Option<String>,
}

impl Call {
    /// The container's name. Only for operations below the account.
    pub(super) fn container(&self) -> &str {
        self.target.container.as_deref().unwrap_or_default()
    }

    /// The blob's name. Only for operations on blobs.
    pub(super) fn blob(&self) -> &str {
        self.target.blob.as_deref().unwrap_or_default()
    }

    /// The snapshot that a read names.
    pub(super) fn snapshot(&self) -> Option<&str> {
        self.query.filled("snapshot")
    }

    /// The version that a read names.
    pub(super) fn version_id(&self) -> Option<&str> {
        self.query.filled("versionid")
    }

    pub(super) fn header(&self, name: &'static str) -> Result<Option<&str>, Failure> {
        header(&self.headers, name)
    }

    pub(super) fn required(&self, name: &'static str) -> Result<&str, Failure> {
        self.header(name)?.ok_or_else(|| missing_header(name))
    }

    pub(super) fn number(&self, name: &'static str) -> Result<Option<u64>, Failure> {
        let Some(text) = self.header(name)? else {
            return Ok(None);
        };
        text.parse().map(Some).map_err(|_| invalid_header(name, text))
    }

    /// A header that is `true`, `false` or absent.
    pub(super) fn flag(&self, name: &'static str) -> Result<bool, Failure> {
        match self.header(name)? {
            None => Ok(false),
            Some(text) if text.eq_ignore_ascii_case("true") => Ok(true),
            Some(text) if text.eq_ignore_ascii_case("false") => Ok(false),
            Some(text) => Err(invalid_header(name, text)),
        }
    }

    /// `maxresults`, at least 1, at most `cap`.
    pub(super) fn max_results(&self, cap: usize) -> Result<usize, Failure> {
        let Some(text) = self.query.filled("maxresults") else {
            return Ok(cap);
        };
        match text.parse::<i64>() {
            Ok(number) if number <= 0 => Err(error::OUT_OF_RANGE_QUERY
                .with("QueryParameterName", "maxresults")
                .with("QueryParameterValue", text)),
            Ok(number) => Ok(usize::try_from(number).unwrap_or(cap).min(cap)),
            Err(_) => Err(invalid_query("maxresults", text)),
        }
    }

    /// `x-ms-lease-id`, which must be a GUID.
    pub(super) fn lease_id(&self) -> Result<Option<&str>, Failure> {
        guid(&self.headers, "x-ms-lease-id")
    }

    /// The customer's key and the encryption scope that come with the request.
    pub(super) fn encryption(&self) -> Result<Encryption, Failure> {
        Encryption::parse(&self.headers, self.op.is_read(), self.secure)
    }

    /// The scheme by which it came.
    pub(super) fn scheme(&self) -> &'static str {
        if self.secure { "https" } else { "http" }
    }

    /// Metadata of the request, names as given.
    pub(super) fn metadata(&self) -> Result<Vec<(String, String)>, Failure> {
        metadata(&self.headers)
    }

    /// `x-ms-range`, or `Range` where that is absent.
    pub(super) fn range(&self) -> Result<Option<Range>, Failure> {
        for name in ["x-ms-range", "range"] {
            if let Some(text) = self.header(name)? {
                return Range::parse(name, text).map(Some);
            }
        }
        Ok(None)
    }
}

pub(super) fn header<'a>(
    headers: &'a HeaderMap,
    name: &'static str,
) -> Result<Option<&'a str>, Failure> {
    headers.get(name).map(|value| value.to_str().map_err(|_| invalid_header(name, ""))).transpose()
}

/// A header that must be a GUID where it is given.
pub(super) fn guid<'a>(
    headers: &'a HeaderMap,
    name: &'static str,
) -> Result<Option<&'a str>, Failure> {
    let Some(text) = header(headers, name)? else {
        return Ok(None);
    };
    let hex = text.trim_start_matches('{').trim_end_matches('}');
    let digits = hex.bytes().filter(u8::is_ascii_hexdigit).count();
    let dashed = hex.len() == 36
        && hex
            .bytes()
            .enumerate()
            .all(|(at, byte)| (byte == b'-') == matches!(at, 8 | 13 | 18 | 23));
    if digits == 32 && (dashed || hex.len() == 32) {
        Ok(Some(text))
    } else {
        Err(invalid_header(name, text))
    }
}

/// A byte range as headers give it, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) first: u64,
    pub(super) last: Option<u64>,
}

impl Range {
    pub(super) fn parse(name: &'static str, text: &str) -> Result<Self, Failure> {
        let bad = || invalid_header(name, text);
        let (first, last) = text
            .trim()
            .strip_prefix("bytes=")
            .and_then(|range| range.split_once('-'))
            .ok_or_else(bad)?;
        let number = |digits: &str| {
            let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
            if plain { digits.parse::<u64>().map_err(|_| bad()) } else { Err(bad()) }
        };
        let first = number(first)?;
        let last = if last.is_empty() { None } else { Some(number(last)?) };
        if last.is_some_and(|last| last < first || last == u64::MAX) {
            return Err(error::INVALID_RANGE.into());
        }
        Ok(Self { first, last })
    }

    /// A range of whole pages, both ends given. `(start, end)` with `end` exclusive.
    pub(super) fn pages(self, name: &'static str) -> Result<(u64, u64), Failure> {
        let last = self.last.ok_or_else(|| invalid_header(name, "no end"))?;
        let end = last + 1;
        if !self.first.is_multiple_of(PAGE) || !end.is_multiple_of(PAGE) {
            return Err(error::INVALID_PAGE_RANGE.into());
        }
        Ok((self.first, end))
    }
}

/// Longest metadata, names and values together, in bytes.
const METADATA_LIMIT: usize = 8 * 1024;

pub(super) fn metadata(headers: &HeaderMap) -> Result<Vec<(String, String)>, Failure> {
    let mut found = Vec::new();
    let mut size = 0;
    for (name, value) in headers {
        let Some(name) = name.as_str().strip_prefix("x-ms-meta-") else {
            continue;
        };
        if name.is_empty() {
            return Err(error::EMPTY_METADATA_KEY.into());
        }
        let mut characters = name.bytes();
        let first = characters.next().is_some_and(|c| c.is_ascii_alphabetic() || c == b'_');
        if !first || !characters.all(|c| c.is_ascii_alphanumeric() || c == b'_') {
            return Err(error::INVALID_METADATA.into());
        }
        let value = value.to_str().map_err(|_| Failure::from(error::INVALID_METADATA))?;
        size += name.len() + value.len();
        found.push((name.to_owned(), value.to_owned()));
    }
    if size > METADATA_LIMIT {
        return Err(error::METADATA_TOO_LARGE.into());
    }
    Ok(found)
}

/// The version that applies to a request, and whether it was named in it.
pub(super) fn version(headers: &HeaderMap, query: &Query) -> Result<(&'static str, bool), Failure> {
    if let Some(text) = header(headers, "x-ms-version")? {
        let known = known_version(text).ok_or_else(|| invalid_header("x-ms-version", text))?;
        return Ok((known, true));
    }
    let named = query.filled("api-version").or_else(|| query.filled("sv"));
    match named {
        Some(text) => match known_version(text) {
            Some(version) => Ok((version, true)),
            None => Err(invalid_query("api-version", text)),
        },
        None => Ok((VERSION_OF_ANONYMOUS, false)),
    }
}

/// `[a-z0-9-]`, 3 to 63, no dash at an end or beside another; or one of the reserved names.
pub(super) fn valid_container_name(name: &str) -> bool {
    if matches!(name, "$root" | "$web" | "$logs") {
        return true;
    }
    let characters = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
    (3..=63).contains(&name.len())
        && name.bytes().all(characters)
        && !name.starts_with('-')
        && !name.ends_with('-')
        && !name.contains("--")
}

/// 1 to 1024 characters, at most 254 segments, no control characters.
pub(super) fn check_blob_name(name: &str) -> Result<(), Code> {
    let long = name.chars().count() > 1024 || name.split('/').count() > 254;
    // The C1 controls are refused along with the C0 ones, and so are U+FFFE and U+FFFF.
    let odd = |c: char| c.is_control() || matches!(c, '\u{FFFE}' | '\u{FFFF}');
    if name.is_empty() || long || name.chars().any(odd) {
        return Err(error::INVALID_RESOURCE_NAME);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    #[test]
    fn paths_name_accounts_containers_and_blobs() {
        let parse = |path: &str, query: &str| Target::parse(path, &Query::parse(query)).unwrap();
        let full = parse("/acc/con/a%20b/c%2Fd", "");
        assert_eq!((full.account.as_str(), full.container.as_deref()), ("acc", Some("con")));
        assert_eq!(full.blob.as_deref(), Some("a b/c/d"));
        assert_eq!(parse("/acc/con", "restype=container").blob, None);
        assert_eq!(parse("/acc/con/", "restype=container").blob, None);
        assert_eq!(parse("/acc", "comp=list").container, None);
        assert_eq!(parse("/acc/file", "").container.as_deref(), Some("$root"));
        assert!(Target::parse("/", &Query::default()).is_err());
    }

    #[test]
    fn ranges_are_single_and_ordered() {
        let parse = |text| Range::parse("x-ms-range", text).map_err(|failure| failure.code);
        assert_eq!(parse("bytes=0-511"), Ok(Range { first: 0, last: Some(511) }));
        assert_eq!(parse("bytes=512-"), Ok(Range { first: 512, last: None }));
        for bad in ["bytes=-512", "bytes=abc", "bytes=0-1,2-3", "0-511", "bytes=+1-2", "bytes= 0-1"]
        {
            assert_eq!(parse(bad).unwrap_err(), "InvalidHeaderValue", "{bad}");
        }
        assert_eq!(parse("bytes=512-0").unwrap_err(), "InvalidRange");
        let pages = |text| parse(text).unwrap().pages("x-ms-range").map_err(|failure| failure.code);
        assert_eq!(pages("bytes=0-511"), Ok((0, 512)));
        assert_eq!(pages("bytes=1-511").unwrap_err(), "InvalidPageRange");
        assert_eq!(pages("bytes=0-99").unwrap_err(), "InvalidPageRange");
        assert_eq!(pages("bytes=0-").unwrap_err(), "InvalidHeaderValue");
    }

    #[test]
    fn metadata_names_and_size_are_checked() {
        let code = |pairs: &[(&'static str, &str)]| {
            metadata(&headers(pairs)).map(|found| found.len()).map_err(|failure| failure.code)
        };
        assert_eq!(code(&[("x-ms-meta-a1", "x"), ("x-ms-meta-_b", ""), ("host", "h")]), Ok(2));
        assert_eq!(code(&[("x-ms-meta-a-b", "x")]).unwrap_err(), "InvalidMetadata");
        assert_eq!(code(&[("x-ms-meta-1a", "x")]).unwrap_err(), "InvalidMetadata");
        assert_eq!(code(&[("x-ms-meta-", "x")]).unwrap_err(), "EmptyMetadataKey");
        assert_eq!(code(&[("x-ms-meta-a", &"x".repeat(8191))]), Ok(1));
        assert_eq!(code(&[("x-ms-meta-a", &"x".repeat(8192))]).unwrap_err(), "MetadataTooLarge");
    }

    #[test]
    fn names_are_checked() {
        for good in ["abc", "a-b-c", "123", "$root", &"a".repeat(63)] {
            assert!(valid_container_name(good), "{good}");
        }
        for bad in ["ab", "Abc", "a--b", "-abc", "abc-", "a_b", &"a".repeat(64)] {
            assert!(!valid_container_name(bad), "{bad}");
        }
        assert!(check_blob_name("a/b c/ü").is_ok());
        assert!(check_blob_name(&"ü".repeat(1024)).is_ok());
        for bad in ["", "a\u{7}", "a\u{85}b", &"a".repeat(1025), &"a/".repeat(254)] {
            assert!(check_blob_name(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn lease_ids_are_guids() {
        let check = |id: &str| guid(&headers(&[("x-ms-lease-id", id)]), "x-ms-lease-id").is_ok();
        assert!(check("1f812371-a41d-49e6-b123-f4b542e851c5"));
        assert!(check("1F812371A41D49E6B123F4B542E851C5"));
        assert!(!check("1f812371-a41d-49e6-b123-f4b542e851c"));
        assert!(!check("lease"));
    }

    #[test]
    fn versions_must_exist() {
        let check = |pairs: &[(&'static str, &str)], query: &str| {
            version(&headers(pairs), &Query::parse(query)).map_err(|failure| failure.code)
        };
        assert_eq!(check(&[("x-ms-version", "2021-12-02")], ""), Ok(("2021-12-02", true)));
        assert_eq!(check(&[], "sv=2020-12-06"), Ok(("2020-12-06", true)));
        assert_eq!(check(&[], ""), Ok((VERSION_OF_ANONYMOUS, false)));
        assert_eq!(check(&[("x-ms-version", "2021-12-03")], "").unwrap_err(), "InvalidHeaderValue");
    }
}
