//! Credentials and signatures: Shared Key, shared access signatures, none.
//!
//! Shared Key is signed as "Authorize with Shared Key" of the Blob service's documentation says. A
//! shared access signature is part of the URL and needs nothing here. No secret is shown by `Debug`.

use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering as Atomically};
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use hmac::{Hmac, KeyInit, Mac};
use http::Method;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use parking_lot::Mutex;
use sha2::Sha256;
use url::Url;

use super::errors;
use super::verify::Verifier;
use crate::client::{Answer, Attempt, Checksum, Service, Verdict};

/// The version of the REST interface that is asked for: the newest that every region, every
/// sovereign cloud and both Azurites serve and that has paged page lists.
pub(super) const SERVICE_VERSION: &str = "2021-12-02";

const X_MS_DATE: HeaderName = HeaderName::from_static("x-ms-date");
const X_MS_VERSION: HeaderName = HeaderName::from_static("x-ms-version");
const X_MS_RANGE: HeaderName = HeaderName::from_static("x-ms-range");
const X_MS_REQUEST_ID: HeaderName = HeaderName::from_static("x-ms-request-id");
const X_MS_CLIENT_REQUEST_ID: HeaderName = HeaderName::from_static("x-ms-client-request-id");

/// Who we are to the service.
#[derive(Clone)]
pub(super) enum Credential {
    /// The key of an account.
    SharedKey(SharedKey),
    /// A shared access signature: the query to append, without `?`.
    Sas(Arc<str>),
    /// Nobody: public containers.
    Anonymous,
}

impl Credential {
    /// What it is, in words.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Credential::SharedKey(_) => "account key",
            Credential::Sas(_) => "shared access signature",
            Credential::Anonymous => "anonymous access",
        }
    }
}

/// Shows what it is and nothing of it.
impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// An account and its key, prepared for signing.
#[derive(Clone)]
pub(super) struct SharedKey {
    account: Arc<str>,
    mac: Hmac<Sha256>,
}

impl SharedKey {
    /// A key as the portal shows it; `None` if that is not base64.
    pub(super) fn new(account: &str, key: &str) -> Option<SharedKey> {
        let key = STANDARD.decode(key.trim()).ok()?;
        if key.is_empty() {
            return None;
        }
        Some(SharedKey {
            account: Arc::from(account),
            mac: Hmac::new_from_slice(&key).expect("HMAC takes keys of any length"),
        })
    }

    /// The account that it is the key of.
    pub(super) fn account(&self) -> &str {
        &self.account
    }

    /// The base64 of the MAC of `text`.
    pub(super) fn sign(&self, text: &[u8]) -> String {
        let mut mac = self.mac.clone();
        mac.update(text);
        STANDARD.encode(mac.finalize().into_bytes())
    }
}

/// Shows the account alone.
impl fmt::Debug for SharedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SharedKey({})", self.account)
    }
}

/// Signs requests of the Blob service and reads its errors.
#[derive(Debug)]
pub(super) struct BlobService {
    credential: Credential,
    account: Arc<str>,
    clock: Clock,
    ids: Ids,
    verifier: Arc<Verifier>,
}

impl BlobService {
    /// For requests to `account`; the name is for messages alone.
    pub(super) fn new(
        credential: Credential,
        account: &str,
        verifier: Arc<Verifier>,
    ) -> BlobService {
        BlobService {
            credential,
            account: Arc::from(account),
            clock: Clock::default(),
            ids: Ids::new(),
            verifier,
        }
    }
}

impl Service for BlobService {
    fn sign(&self, attempt: &mut Attempt<'_>) {
        let headers = &mut *attempt.headers;
        headers.insert(X_MS_DATE, self.clock.now());
        headers.insert(X_MS_VERSION, HeaderValue::from_static(SERVICE_VERSION));
        headers.insert(X_MS_CLIENT_REQUEST_ID, self.ids.next());
        if let Credential::SharedKey(key) = &self.credential {
            let text = string_to_sign(
                &key.account,
                attempt.method,
                attempt.url,
                headers,
                attempt.body_len,
            );
            let value = format!("SharedKey {}:{}", key.account, key.sign(&text));
            let mut value = HeaderValue::from_maybe_shared(Bytes::from(value))
                .expect("an account name and base64 are a header value");
            value.set_sensitive(true);
            headers.insert(header::AUTHORIZATION, value);
        }
    }

    fn judge(&self, answer: &Answer<'_>) -> Verdict {
        errors::judge(answer, &self.account, &self.credential)
    }

    fn checksum(&self, asked: &HeaderMap, told: &HeaderMap) -> Option<Box<dyn Checksum>> {
        let answer = self.verifier.of_answer(asked, told)?;
        Some(Box::new(answer))
    }

    fn range_header(&self) -> HeaderName {
        X_MS_RANGE
    }

    fn request_id_header(&self) -> Option<HeaderName> {
        Some(X_MS_REQUEST_ID)
    }

    fn client_request_id_header(&self) -> Option<HeaderName> {
        Some(X_MS_CLIENT_REQUEST_ID)
    }
}

/// The standard headers that are signed, in their order; `None` stands for the length of the body.
const SIGNED: [Option<HeaderName>; 11] = [
    Some(header::CONTENT_ENCODING),
    Some(header::CONTENT_LANGUAGE),
    None,
    Some(HeaderName::from_static("content-md5")),
    Some(header::CONTENT_TYPE),
    Some(header::DATE),
    Some(header::IF_MODIFIED_SINCE),
    Some(header::IF_MATCH),
    Some(header::IF_NONE_MATCH),
    Some(header::IF_UNMODIFIED_SINCE),
    Some(header::RANGE),
];

/// The text whose MAC authorizes a request.
fn string_to_sign(
    account: &str,
    method: &Method,
    url: &Url,
    headers: &HeaderMap,
    body_len: u64,
) -> Vec<u8> {
    // Typical texts have 250 to 450 bytes.
    let mut text = Vec::with_capacity(512);
    text.extend_from_slice(method.as_str().as_bytes());
    text.push(b'\n');
    for name in &SIGNED {
        match name {
            Some(name) => {
                if let Some(value) = headers.get(name) {
                    text.extend_from_slice(value.as_bytes());
                }
            }
            None if body_len > 0 => text.extend_from_slice(body_len.to_string().as_bytes()),
            None => {}
        }
        text.push(b'\n');
    }

    let mut ours: Vec<(&str, &HeaderValue)> = Vec::with_capacity(12);
    ours.extend(
        headers
            .iter()
            .map(|(name, value)| (name.as_str(), value))
            .filter(|(name, _)| name.starts_with("x-ms-")),
    );
    ours.sort_by(|(a, _), (b, _)| collate(a, b));
    for (name, value) in ours {
        text.extend_from_slice(name.as_bytes());
        text.push(b':');
        text.extend_from_slice(value.as_bytes().trim_ascii());
        text.push(b'\n');
    }

    // In path style the path begins with the account, which then stands there twice; so it must.
    text.push(b'/');
    text.extend_from_slice(account.as_bytes());
    text.extend_from_slice(url.path().as_bytes());
    if url.query().is_some() {
        let mut pairs: Vec<(String, String)> = url
            .query_pairs()
            .map(|(name, value)| (name.to_lowercase(), value.into_owned()))
            .collect();
        pairs.sort();
        let mut last: Option<&str> = None;
        for (name, value) in &pairs {
            if last == Some(name) {
                text.push(b',');
            } else {
                text.push(b'\n');
                text.extend_from_slice(name.as_bytes());
                text.push(b':');
                last = Some(name);
            }
            text.extend_from_slice(value.as_bytes());
        }
    }
    text
}

/// The service's order of header names, which is not that of bytes: `-` counts only between names that
/// are the same without it, and `_` stands before digits, digits before letters.
fn collate(a: &str, b: &str) -> Ordering {
    let weights = |name: &str| {
        name.bytes()
            .filter(|byte| *byte != b'-')
            .map(|byte| if byte == b'_' { 0 } else { byte })
            .collect::<Vec<u8>>()
    };
    // Names that differ before any such character, which is nearly all, need no second look.
    let same = a.bytes().zip(b.bytes()).take_while(|(a, b)| a == b).count();
    match (a.as_bytes().get(same), b.as_bytes().get(same)) {
        (Some(a), Some(b)) if a.is_ascii_lowercase() && b.is_ascii_lowercase() => a.cmp(b),
        _ => weights(a).cmp(&weights(b)).then_with(|| a.cmp(b)),
    }
}

/// The date as a header, made once a second.
#[derive(Debug)]
struct Clock(Mutex<(u64, HeaderValue)>);

impl Default for Clock {
    fn default() -> Clock {
        Clock(Mutex::new((0, HeaderValue::from_static(""))))
    }
}

impl Clock {
    fn now(&self) -> HeaderValue {
        let now = SystemTime::now();
        let second = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let mut cached = self.0.lock();
        if cached.0 != second || cached.1.is_empty() {
            let text = httpdate::fmt_http_date(now);
            *cached = (
                second,
                HeaderValue::from_maybe_shared(Bytes::from(text))
                    .expect("a date is a header value"),
            );
        }
        cached.1.clone()
    }
}

/// Names for requests, of the form that the service's logs expect. Unique, not secret.
#[derive(Debug)]
struct Ids {
    seed: u64,
    next: AtomicU64,
}

impl Ids {
    fn new() -> Ids {
        let fallback = || {
            SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |since| since.as_nanos() as u64)
        };
        Ids {
            seed: getrandom::u64().unwrap_or_else(|_| fallback()),
            next: AtomicU64::new(getrandom::u64().unwrap_or_else(|_| fallback())),
        }
    }

    fn next(&self) -> HeaderValue {
        // Splitmix64 of a counter: as good as random here, without a system call for each request.
        let mix = |mut z: u64| {
            z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            z ^ (z >> 31)
        };
        let count = self.next.fetch_add(0x9E37_79B9_7F4A_7C15, Atomically::Relaxed);
        let (high, low) = (mix(count), mix(count ^ self.seed));
        let hex =
            |value: u64, digits: u32, shift: u32| (value >> shift) & ((1 << (4 * digits)) - 1);
        let text = format!(
            "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
            hex(high, 8, 32),
            hex(high, 4, 16),
            hex(high, 4, 0),
            hex(low, 4, 48),
            hex(low, 12, 0)
        );
        HeaderValue::from_maybe_shared(Bytes::from(text)).expect("hex is a header value")
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use http::Method;
    use http::header::{HeaderMap, HeaderName, HeaderValue};
    use url::Url;

    use super::{Credential, Ids, SharedKey, collate, string_to_sign};

    /// The public key of the emulators' account.
    const KEY: &str =
        "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";

    fn signature(method: Method, resource: &str, body: u64, headers: &[(&str, &str)]) -> String {
        let url = format!("http://127.0.0.1:10000/devstoreaccount1{resource}");
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(HeaderName::try_from(*name).unwrap(), HeaderValue::from_str(value).unwrap());
        }
        map.insert("x-ms-date", HeaderValue::from_static("Fri, 20 Nov 2026 07:00:00 GMT"));
        map.insert("x-ms-version", HeaderValue::from_static("2021-12-02"));
        let key = SharedKey::new("devstoreaccount1", KEY).unwrap();
        key.sign(&string_to_sign(
            "devstoreaccount1",
            &method,
            &Url::parse(&url).unwrap(),
            &map,
            body,
        ))
    }

    #[test]
    fn signs_as_azurite_accepts() {
        assert_eq!(
            signature(
                Method::PUT,
                "/vectors/disk%20one.img?comp=page&timeout=30",
                512,
                &[
                    ("content-md5", "v2GerAzfP2jUluqTRBN+iw=="),
                    ("content-type", "application/octet-stream"),
                    ("x-ms-page-write", "update"),
                    ("x-ms-range", "bytes=0-511"),
                    ("x-ms-if-sequence-number-lt", "1"),
                    ("x-ms-client-request-id", "00000000-0000-0000-0000-000000000001"),
                ],
            ),
            "LiyPAFGaYrsWVucwog522yXv/NVTdkpLFPaVLF46u1o="
        );
        assert_eq!(
            signature(
                Method::GET,
                "/vectors/disk%20one.img",
                0,
                &[("x-ms-range", "bytes=0-511"), ("if-match", "*")],
            ),
            "XV6aKFWVCBG/AMpS91G6Si1cvvwFVTv2OYg5umk4f0I="
        );
        assert_eq!(
            signature(
                Method::GET,
                "/vectors?restype=container&comp=list&prefix=disk%20one&delimiter=%2F\
                 &include=metadata%2Csnapshots&maxresults=10",
                0,
                &[],
            ),
            "6IVHqYmXUNHxcPJsej/mN3Y/7xQwusUpx/sXHElS9Hk="
        );
        assert_eq!(
            signature(
                Method::PUT,
                "/vectors/disk%20one.img?comp=page",
                0,
                &[("x-ms-page-write", "clear"), ("x-ms-range", "bytes=0-4095")],
            ),
            "0R2yp0Imc/yWVHH7h1FY5tw4E341w0fq1wupueGs1/0="
        );
    }

    /// The signature of a service SAS uses the same MAC over another text.
    #[test]
    fn signs_a_service_sas() {
        let key = SharedKey::new("devstoreaccount1", KEY).unwrap();
        let fields = [
            "r",
            "",
            "2099-01-01T00:00:00Z",
            "/blob/devstoreaccount1/vectors/disk one.img",
            "",
            "",
            "https,http",
            "2021-12-02",
            "b",
            "",
            "",
            "",
            "",
            "",
            "",
            "",
        ];
        assert_eq!(
            key.sign(fields.join("\n").as_bytes()),
            "5K5HfImFun48Ggq82aVTvyOnbXJb5p48S6CfCiHz5Xk="
        );
    }

    #[test]
    fn several_values_of_one_parameter_are_joined() {
        let url = Url::parse("https://a.blob.core.windows.net/c?B=2&a=%2F&b=1").unwrap();
        let text = string_to_sign("a", &Method::GET, &url, &HeaderMap::new(), 0);
        let text = String::from_utf8(text).unwrap();
        assert!(text.ends_with("\n/a/c\na:/\nb:1,2"), "{text:?}");
    }

    #[test]
    fn names_sort_as_the_service_sorts_them() {
        let mut names = [
            "x-ms-version",
            "x-ms-meta-a1",
            "x-ms-meta-a_b",
            "x-ms-meta-ab",
            "x-ms-date",
            "x-ms-meta-a",
        ];
        names.sort_by(|a, b| collate(a, b));
        assert_eq!(
            names,
            [
                "x-ms-date",
                "x-ms-meta-a",
                "x-ms-meta-a_b",
                "x-ms-meta-a1",
                "x-ms-meta-ab",
                "x-ms-version",
            ]
        );
    }

    #[test]
    fn keys_that_are_not_base64_are_refused() {
        assert!(SharedKey::new("a", "not base64!").is_none());
        assert!(SharedKey::new("a", "").is_none());
    }

    #[test]
    fn debug_shows_no_secret() {
        let key = SharedKey::new("acct", KEY).unwrap();
        let shown = format!(
            "{:?} {:?} {key:?}",
            Credential::SharedKey(key.clone()),
            Credential::Sas("sig=verysecret".into())
        );
        assert!(!shown.contains("Eby8") && !shown.contains("verysecret"), "{shown}");
    }

    #[test]
    fn ids_differ_and_have_the_form_of_a_guid() {
        let ids = Ids::new();
        let some: HashSet<_> = (0..1000).map(|_| ids.next()).collect();
        assert_eq!(some.len(), 1000);
        let one = ids.next();
        let parts: Vec<_> = one.to_str().unwrap().split('-').map(str::len).collect();
        assert_eq!(parts, [8, 4, 4, 4, 12]);
    }
}
