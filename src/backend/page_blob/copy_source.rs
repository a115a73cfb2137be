//! A blob as the source of a copy that the service makes, and how the service may read it.
//!
//! The service fetches the source as a stranger would, even inside one account: by its URL, which must be
//! public, carry a signature, or come with a token. So the given signature goes along; or one for this blob
//! alone is made with the account's key, to read and for a short time; or the token goes along. It is the
//! credential of the source's own store, as it is in force when a request is made.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::header::{HeaderMap, HeaderName, HeaderValue};
use httpdate::fmt_http_date;
use percent_encoding::utf8_percent_encode;
use tokio::time::Instant;
use url::Url;

use super::address::{Address, QUERY, etag_value};
use super::auth::{Credential, SERVICE_VERSION, add_sas};
use super::entra;
use super::in_force::InForce;
use super::older::Line;
use super::shared_key::SharedKey;

const X_MS_COPY_SOURCE: HeaderName = HeaderName::from_static("x-ms-copy-source");
const X_MS_COPY_SOURCE_AUTHORIZATION: HeaderName =
    HeaderName::from_static("x-ms-copy-source-authorization");
const X_MS_SOURCE_IF_MATCH: HeaderName = HeaderName::from_static("x-ms-source-if-match");

/// How long a signature is good for. A piece of 4 MiB takes seconds, its retries a minute; and clocks
/// differ by minutes.
const VALID: Duration = Duration::from_secs(15 * 60);

/// The longest URL that the service takes, in bytes ("Put Page From URL").
const MAX_URL: usize = 2048;

/// A source that the service may read.
#[derive(Clone)]
pub(super) struct Source {
    at: Address,
    etag: Option<HeaderValue>,
    credential: Arc<InForce>,
}

impl Source {
    /// The blob at `at`, which `credential` opens. In the version `etag`, or whichever it has. `None` if its
    /// URL is too long for the service, and for a version of the account's own, which no signature made here
    /// is for.
    pub(super) fn new(
        at: &Address,
        etag: Option<&str>,
        credential: Arc<InForce>,
    ) -> Option<Source> {
        if matches!(at.time(), Some((Line::Versions, _))) {
            return None;
        }
        let source = Source { at: at.clone(), etag: etag.map(etag_value), credential };
        let url = source.url(&source.credential.get().credential);
        (url.as_str().len() <= MAX_URL).then_some(source)
    }

    /// Waits for a credential if there is none just now. What cannot be had in time will be missed by the
    /// service.
    pub(super) async fn ready(&self, timeout: Duration) {
        if let Some(ready) = self.credential.ready(Instant::now() + timeout) {
            let _ = ready.await;
        }
    }

    /// Puts it into the headers of a request for `target`.
    pub(super) fn put(&self, headers: &mut HeaderMap, target: &Address) {
        let held = self.credential.get();
        let url = self.url(&held.credential);
        if let Ok(mut url) = HeaderValue::from_str(url.as_str()) {
            // It may hold a signature.
            url.set_sensitive(true);
            headers.insert(X_MS_COPY_SOURCE, url);
        }
        if let Credential::Tokens(tokens) = &held.credential
            && let Some(token) = tokens.held()
            && entra::may_go_to(target.url().as_str())
        {
            headers.insert(X_MS_COPY_SOURCE_AUTHORIZATION, token.header.clone());
        }
        if let Some(etag) = &self.etag {
            headers.insert(X_MS_SOURCE_IF_MATCH, etag.clone());
        }
    }

    /// The URL by which the service may read it.
    fn url(&self, credential: &Credential) -> Url {
        let mut url = in_one_account(self.at.url(), credential);
        if let Credential::SharedKey(key) = credential {
            let https = url.scheme() == "https";
            let end = SystemTime::now() + VALID;
            add_sas(&mut url, &read_signature(key, &self.at, https, end));
        }
        url
    }
}

/// The URL of a source that is in the account of the request, which needs no more than that request does.
pub(super) fn in_one_account(url: &Url, credential: &Credential) -> Url {
    let mut url = url.clone();
    if let Credential::Sas(sas) = credential {
        add_sas(&mut url, sas);
    }
    url
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
    let (kind, snapshot) = match at.time() {
        Some((_, time)) => ("bs", time),
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
        Address::new("http://127.0.0.1:1/devstoreaccount1", "vectors", name).unwrap()
    }

    fn source(name: &str, credential: Credential) -> Option<Source> {
        Source::new(&address(name), Some("0x1"), InForce::new(credential, None))
    }

    fn key() -> Credential {
        Credential::SharedKey(SharedKey::new("devstoreaccount1", KEY).unwrap())
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
        let at = blob.older(Line::Snapshots, TIME);
        let query = read_signature(&key, &at, true, end);
        assert!(query.contains("&sr=bs&"), "{query}");
        let other = blob.older(Line::Snapshots, "2026-11-20T06:54:00.0000001Z");
        assert_ne!(query, read_signature(&key, &other, true, end), "it is for one snapshot");
        let credential = InForce::new(Credential::SharedKey(key), None);
        let mut headers = HeaderMap::new();
        Source::new(&at, None, credential).unwrap().put(&mut headers, &blob);
        let sent = headers[X_MS_COPY_SOURCE].to_str().unwrap();
        assert!(sent.contains("?snapshot=2026-11-20T06%3A54%3A00.0000000Z&sp=r&"), "{sent}");
    }

    #[test]
    fn nothing_that_gives_access_is_shown() {
        let source = source("a", key()).unwrap();
        let mut headers = HeaderMap::new();
        source.put(&mut headers, &address("b"));
        let sent = headers[X_MS_COPY_SOURCE].to_str().unwrap();
        assert!(sent.contains("/vectors/a?sp=r&se=") && sent.contains("&sig="), "{sent}");
        let shown = format!("{source:?} {headers:?}");
        assert!(!shown.contains("sig") && shown.contains("0x1"), "{shown}");
    }

    #[test]
    fn a_url_that_is_too_long_is_not_sent() {
        let long = "ä".repeat(500);
        assert!(source(&long, Credential::Anonymous).is_none());
        // The signature counts.
        let nearly = "ä".repeat(320);
        assert!(source(&nearly, Credential::Anonymous).is_some());
        assert!(source(&nearly, key()).is_none());
    }

    #[test]
    fn what_was_given_goes_along() {
        let source = source("a", Credential::Sas("sv=1&sig=x%3D".into())).unwrap();
        let mut headers = HeaderMap::new();
        source.put(&mut headers, &address("b"));
        let sent = headers[X_MS_COPY_SOURCE].to_str().unwrap();
        assert!(sent.ends_with("/vectors/a?sv=1&sig=x%3D"), "{sent}");
        assert!(!headers.contains_key(X_MS_COPY_SOURCE_AUTHORIZATION));
        let bare = in_one_account(address("a").url(), &key());
        assert_eq!(bare.query(), None);
    }
}
