//! A blob as the source of a copy that the service makes, and how the service may read it.
//!
//! The service fetches the source as a stranger would, even inside one account: by its URL, which must be
//! public or carry a signature. So the given signature goes along, or one for this blob alone is made with the
//! account's key, to read and for a short time.

use std::fmt;
use std::time::{Duration, SystemTime};

use http::header::{HeaderMap, HeaderName, HeaderValue};
use httpdate::fmt_http_date;
use percent_encoding::utf8_percent_encode;

use super::address::{Address, QUERY, etag_value};
use super::auth::{SERVICE_VERSION, SharedKey};

const X_MS_COPY_SOURCE: HeaderName = HeaderName::from_static("x-ms-copy-source");
const X_MS_SOURCE_IF_MATCH: HeaderName = HeaderName::from_static("x-ms-source-if-match");

/// How long a signature is good for. A piece of 4 MiB takes seconds, its retries a minute; and clocks
/// differ by minutes.
const VALID: Duration = Duration::from_secs(15 * 60);

/// The longest URL that the service takes, in bytes ("Put Page From URL").
const MAX_URL: usize = 2048;

/// A source that the service may read.
#[derive(Clone)]
pub(super) struct Source {
    url: HeaderValue,
    etag: Option<HeaderValue>,
}

impl Source {
    /// The blob at `at`, whose URL holds what was given to read it, or which `key` opens. In the version
    /// `etag`, or whichever it has. `None` if its URL is too long for the service.
    pub(super) fn new(at: &Address, etag: Option<&str>, key: Option<&SharedKey>) -> Option<Source> {
        let mut url = at.url().clone();
        if let Some(key) = key {
            let https = url.scheme() == "https";
            let signature = read_signature(key, at, https, SystemTime::now() + VALID);
            url.set_query(Some(&at.query(&signature)));
        }
        if url.as_str().len() > MAX_URL {
            return None;
        }
        let mut value = HeaderValue::from_str(url.as_str()).ok()?;
        // It may hold the signature.
        value.set_sensitive(true);
        Some(Source { url: value, etag: etag.map(etag_value) })
    }

    /// Puts it into the headers of a request.
    pub(super) fn put(&self, headers: &mut HeaderMap) {
        headers.insert(X_MS_COPY_SOURCE, self.url.clone());
        if let Some(etag) = &self.etag {
            headers.insert(X_MS_SOURCE_IF_MATCH, etag.clone());
        }
    }
}

/// Shows nothing that gives access.
impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Source").field("etag", &self.etag).finish_non_exhaustive()
    }
}

/// The query of a service SAS to read one blob, or one of its snapshots, until `end` ("Create a service SAS", version 2020-12-06 and
/// later).
fn read_signature(key: &SharedKey, at: &Address, https: bool, end: SystemTime) -> String {
    let end = iso_time(end);
    let protocols = if https { "https" } else { "https,http" };
    let resource = format!("/blob/{}/{}", key.account(), at.blob());
    let (kind, snapshot) = match at.snapshot() {
        Some(time) => ("bs", time),
        None => ("b", ""),
    };
    let fields = [
        "r",
        "",
        &end,
        &resource,
        "",
        "",
        protocols,
        SERVICE_VERSION,
        kind,
        snapshot,
        "",
        "",
        "",
        "",
        "",
        "",
    ];
    let signature = key.sign(fields.join("\n").as_bytes());
    let encode = |text| utf8_percent_encode(text, QUERY).to_string();
    format!(
        "sp=r&se={}&spr={}&sv={SERVICE_VERSION}&sr={kind}&sig={}",
        encode(&end),
        encode(protocols),
        encode(&signature)
    )
}

/// A time as `2026-11-20T07:00:00Z`.
fn iso_time(time: SystemTime) -> String {
    const MONTHS: &str = "JanFebMarAprMayJunJulAugSepOctNovDec";
    // As in `Fri, 20 Nov 2026 07:00:00 GMT`, whose parts all have their places (RFC 9110, 5.6.7).
    let date = fmt_http_date(time);
    let month = MONTHS.find(&date[8..11]).map_or(0, |at| at / 3 + 1);
    format!("{}-{month:02}-{}T{}Z", &date[12..16], &date[5..7], &date[17..25])
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    /// The well-known key of the emulators' account.
    const KEY: &str =
        "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";

    fn address(name: &str) -> Address {
        Address::new("http://127.0.0.1:1/devstoreaccount1", "vectors", name, None).unwrap()
    }

    #[test]
    fn a_signature_that_azurite_has_accepted() {
        let key = SharedKey::new("devstoreaccount1", KEY).unwrap();
        let end = UNIX_EPOCH + Duration::from_secs(4_070_908_800);
        let query = read_signature(&key, &address("disk one.img"), false, end);
        let signature = "sig=5K5HfImFun48Ggq82aVTvyOnbXJb5p48S6CfCiHz5Xk%3D";
        assert!(query.ends_with(signature), "{query}");
        assert!(query.contains("se=2099-01-01T00%3A00%3A00Z"), "{query}");
    }

    #[test]
    fn a_signature_for_a_snapshot_names_it() {
        const TIME: &str = "2026-11-20T06:54:00.0000000Z";
        let key = SharedKey::new("devstoreaccount1", KEY).unwrap();
        let (blob, end) = (address("a"), UNIX_EPOCH);
        let at = blob.at_snapshot(TIME);
        let query = read_signature(&key, &at, true, end);
        assert!(query.contains("&sr=bs&"), "{query}");
        let other = blob.at_snapshot("2026-11-20T06:54:00.0000001Z");
        assert_ne!(query, read_signature(&key, &other, true, end), "it is for one snapshot");
        let mut headers = HeaderMap::new();
        Source::new(&at, None, Some(&key)).unwrap().put(&mut headers);
        let sent = headers[X_MS_COPY_SOURCE].to_str().unwrap();
        assert!(sent.ends_with("&snapshot=2026-11-20T06%3A54%3A00.0000000Z"), "{sent}");
    }

    #[test]
    fn nothing_that_gives_access_is_shown() {
        let key = SharedKey::new("devstoreaccount1", KEY).unwrap();
        let source = Source::new(&address("a"), Some("0x1"), Some(&key)).unwrap();
        let mut headers = HeaderMap::new();
        source.put(&mut headers);
        let sent = headers[X_MS_COPY_SOURCE].to_str().unwrap();
        assert!(sent.contains("/vectors/a?sp=r&se=") && sent.contains("&sig="), "{sent}");
        let shown = format!("{source:?} {headers:?}");
        assert!(!shown.contains("sig") && shown.contains("0x1"), "{shown}");
    }

    #[test]
    fn a_url_that_is_too_long_is_not_sent() {
        let long = "ä".repeat(500);
        assert!(Source::new(&address(&long), None, None).is_none());
    }
}
