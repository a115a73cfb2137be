//! The operations that make a writer the only one: Lease Blob, and raising the sequence number.

use std::sync::Arc;

use http::Method;
use http::header::{HeaderName, HeaderValue};

use super::address::{Address, Condition, Fence, X_MS_LEASE_ID};
use super::client::{Rest, X_MS_BLOB_SEQUENCE_NUMBER, corrupt, etag_of};
use super::lease::Terms;
use crate::client::{Effect, Request};
use crate::store::{ErrorKind, Outcome, Result};

const X_MS_LEASE_ACTION: HeaderName = HeaderName::from_static("x-ms-lease-action");
const X_MS_LEASE_BREAK_PERIOD: HeaderName = HeaderName::from_static("x-ms-lease-break-period");
const X_MS_LEASE_DURATION: HeaderName = HeaderName::from_static("x-ms-lease-duration");
const X_MS_PROPOSED_LEASE_ID: HeaderName = HeaderName::from_static("x-ms-proposed-lease-id");
const X_MS_SEQUENCE_NUMBER_ACTION: HeaderName =
    HeaderName::from_static("x-ms-sequence-number-action");

impl Rest {
    /// A Lease Blob. All of them may be repeated: taking a lease with the id that has it, renewing it,
    /// and giving it back change nothing the second time.
    fn lease(&self, at: &Address, action: &'static str) -> Request {
        let mut request = self.at("Lease Blob", at, Method::PUT, Effect::Guarded);
        self.query(&mut request, "comp=lease");
        request.headers.insert(X_MS_LEASE_ACTION, HeaderValue::from_static(action));
        request.expected = &[ErrorKind::Busy, ErrorKind::Fenced];
        request
    }

    /// Lease Blob, acquire.
    pub(super) async fn acquire_lease(
        &self,
        at: &Address,
        id: &HeaderValue,
        terms: Terms,
    ) -> Result<()> {
        let mut request = self.lease(at, "acquire");
        request.headers.insert(X_MS_PROPOSED_LEASE_ID, id.clone());
        // There is no default, and Azurite breaks the blob without it.
        request.headers.insert(X_MS_LEASE_DURATION, terms.header());
        self.http.call(&request).await.map(drop)
    }

    /// Lease Blob, renew.
    pub(super) async fn renew_lease(&self, at: &Address, id: &HeaderValue) -> Result<()> {
        let mut request = self.lease(at, "renew");
        request.headers.insert(X_MS_LEASE_ID, id.clone());
        self.http.call(&request).await.map(drop)
    }

    /// Lease Blob, release.
    pub(super) async fn release_lease(&self, at: &Address, id: &HeaderValue) -> Result<()> {
        let mut request = self.lease(at, "release");
        request.headers.insert(X_MS_LEASE_ID, id.clone());
        self.http.call(&request).await.map(drop)
    }

    /// Lease Blob, break, without waiting for the rest of it.
    pub(super) async fn break_lease(&self, at: &Address) -> Result<()> {
        let mut request = self.lease(at, "break");
        request.headers.insert(X_MS_LEASE_BREAK_PERIOD, HeaderValue::from_static("0"));
        self.http.call(&request).await.map(drop)
    }

    /// Set Blob Properties: raises the sequence number to `number`, unless it is higher. Gives the new
    /// ETag and the number that it has now. Repeated after an unknown outcome: raising to the same
    /// number twice is raising once.
    pub(super) async fn raise_sequence(
        &self,
        at: &Address,
        number: u64,
        condition: &Condition,
        fence: &Fence,
    ) -> Result<(Arc<str>, u64)> {
        let mut request = self.at("Set Blob Properties", at, Method::PUT, Effect::Guarded);
        self.query(&mut request, "comp=properties");
        let headers = &mut request.headers;
        headers.insert(X_MS_SEQUENCE_NUMBER_ACTION, HeaderValue::from_static("max"));
        headers.insert(X_MS_BLOB_SEQUENCE_NUMBER, HeaderValue::from(number));
        condition.put(headers);
        fence.put(headers);
        request.expected = &[ErrorKind::Stale];
        let reply = self.http.call(&request).await?;
        let found = reply.headers.get(X_MS_BLOB_SEQUENCE_NUMBER);
        let found = found.and_then(|value| value.to_str().ok()?.parse().ok()).ok_or_else(|| {
            corrupt(request.op, at.target(), "it has no sequence number")
                .with_outcome(Outcome::Unknown)
        })?;
        Ok((etag_of(&request, &reply)?, found))
    }
}
