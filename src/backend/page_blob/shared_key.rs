//! Shared Key: a request is authorized by the MAC of a text that is made of it, as "Authorize with Shared
//! Key" of the Blob service's documentation says. No key is shown by `Debug`.

use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use hmac::{Hmac, KeyInit, Mac};
use http::Method;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use sha2::Sha256;
use url::Url;

use crate::client::Attempt;

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

    /// The account.
    pub(super) fn account(&self) -> &str {
        &self.account
    }

    /// The header that authorizes an attempt, which is complete otherwise.
    pub(super) fn authorization(&self, attempt: &Attempt<'_>) -> HeaderValue {
        let text = string_to_sign(
            &self.account,
            attempt.method,
            attempt.url,
            attempt.headers,
            attempt.body_len,
        );
        let value = format!("SharedKey {}:{}", self.account, self.sign(&text));
        let mut value = HeaderValue::from_maybe_shared(Bytes::from(value))
            .expect("an account name and base64 are a header value");
        value.set_sensitive(true);
        value
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

#[cfg(test)]
mod tests {
    use http::Method;
    use http::header::{HeaderMap, HeaderName, HeaderValue};
    use url::Url;

    use super::{SharedKey, collate, string_to_sign};

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
}
