//! Credentials, and how a request is signed with them: by Shared Key, a shared access signature, a token of
//! Entra ID, or not at all.
//!
//! Each attempt is signed anew, so that a request that is sent again has what is in force by then. No
//! secret is shown by `Debug`.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use parking_lot::Mutex;
use tokio::time::Instant;
use url::Url;

use super::errors;
use super::in_force::InForce;
use super::shared_key::SharedKey;
use super::verify::Verifier;
use crate::client::token::Tokens;
use crate::client::{Answer, Attempt, Checksum, Ready, Refused, Service, Verdict};
use crate::store::BoxFuture;

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
    /// Tokens of an Entra identity.
    Tokens(Arc<Tokens>),
    /// Nobody: public containers.
    Anonymous,
}

impl Credential {
    /// What it is, in words.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Credential::SharedKey(_) => "account key",
            Credential::Sas(_) => "shared access signature",
            Credential::Tokens(_) => "Entra token",
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

/// Signs requests of the Blob service and reads its errors.
#[derive(Debug)]
pub(super) struct BlobService {
    credential: Arc<InForce>,
    account: Arc<str>,
    clock: Clock,
    ids: Ids,
    verifier: Arc<Verifier>,
}

impl BlobService {
    /// For requests to `account`; the name is for messages alone.
    pub(super) fn new(
        credential: Arc<InForce>,
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
    fn ready(&self, deadline: Instant) -> Option<Ready<'_>> {
        self.credential.ready(deadline)
    }

    fn renew(&self, refused: Refused) -> BoxFuture<'_, bool> {
        Box::pin(self.credential.renew(refused))
    }

    fn sign(&self, attempt: &mut Attempt<'_>) {
        let held = self.credential.get();
        attempt.credential = Some(held.id);
        let headers = &mut *attempt.headers;
        headers.insert(X_MS_DATE, self.clock.now());
        headers.insert(X_MS_VERSION, HeaderValue::from_static(SERVICE_VERSION));
        headers.insert(X_MS_CLIENT_REQUEST_ID, self.ids.next());
        match &held.credential {
            // Last: it signs what the others have put there.
            Credential::SharedKey(key) => {
                let value = key.authorization(attempt);
                attempt.headers.insert(header::AUTHORIZATION, value);
            }
            Credential::Sas(sas) => add_sas(attempt.url, sas),
            Credential::Tokens(tokens) => match tokens.held() {
                Some(token) => {
                    attempt.credential = Some(token.id);
                    headers.insert(header::AUTHORIZATION, token.header.clone());
                }
                // It ended just now; the service says so, and there is another try.
                None => attempt.credential = tokens.credential(),
            },
            Credential::Anonymous => {}
        }
    }

    fn judge(&self, answer: &Answer<'_>) -> Verdict {
        errors::judge(answer, &self.account, &self.credential.get().credential)
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

/// Appends a shared access signature to a query.
pub(super) fn add_sas(url: &mut Url, sas: &str) {
    match url.query() {
        Some(query) if !query.is_empty() => {
            let query = format!("{query}&{sas}");
            url.set_query(Some(&query));
        }
        _ => url.set_query(Some(sas)),
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
        let count = self.next.fetch_add(0x9E37_79B9_7F4A_7C15, Ordering::Relaxed);
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

    use super::{Credential, Ids};
    use crate::backend::page_blob::shared_key::SharedKey;

    #[test]
    fn debug_shows_no_secret() {
        let key = SharedKey::new("acct", "RWJ5OHZlcnlzZWNyZXQ=").unwrap();
        let shown = format!(
            "{:?} {:?} {key:?}",
            Credential::SharedKey(key.clone()),
            Credential::Sas("sig=verysecret".into())
        );
        assert!(!shown.contains("RWJ5") && !shown.contains("verysecret"), "{shown}");
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
