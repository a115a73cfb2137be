//! The Blob service's operations on snapshots and versions, one thin method each, as in [`client`](super::client).

use std::fmt::Write as _;
use std::ops::Range;

use http::Method;
use http::header::{HeaderName, HeaderValue, IF_MATCH};
use percent_encoding::utf8_percent_encode;

use super::address::{Address, QUERY};
use super::client::{Listing, Rest, corrupt, range_value};
use super::older::Line;
use super::wire::{self, BlobPage, RangePage};
use crate::client::Effect;
use crate::store::{ErrorKind, Outcome, Result};

const X_MS_RANGE: HeaderName = HeaderName::from_static("x-ms-range");
const X_MS_SNAPSHOT: HeaderName = HeaderName::from_static("x-ms-snapshot");

/// The most entries that the service gives in one page.
const LARGEST_PAGE: u32 = 5000;

impl Rest {
    /// Snapshot Blob. Gives the time by which the snapshot is named.
    pub(super) async fn take_snapshot(&self, at: &Address) -> Result<String> {
        let mut request = self.at("Snapshot Blob", at, Method::PUT, Effect::Update);
        self.query(&mut request, "comp=snapshot");
        self.encryption.of_write(&mut request.headers);
        let reply = self.http.call(&request).await?;
        let time = reply.headers.get(X_MS_SNAPSHOT).and_then(|value| value.to_str().ok());
        time.map(str::to_owned).ok_or_else(|| {
            let error = corrupt(request.op, &request.target, "it has no x-ms-snapshot");
            error.with_outcome(Outcome::Unknown)
        })
    }

    /// Delete Blob: one snapshot or version. Its time never comes again, so that a duplicate does nothing.
    pub(super) async fn delete_older(&self, at: &Address) -> Result<()> {
        let request = self.at("Delete Blob", at, Method::DELETE, Effect::Guarded);
        match self.http.call(&request).await {
            Ok(_) => Ok(()),
            // An earlier attempt of this very request has done it.
            Err(error)
                if error.kind() == ErrorKind::NotFound && error.outcome() == Outcome::Unknown =>
            {
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// List Blobs: blobs whose names begin with `prefix`, each with its snapshots or versions; those come
    /// before it, in order of their times. At most `max` of all, and as many as the service gives if that is
    /// `None`.
    ///
    /// The service refuses a delimiter here.
    pub(super) async fn list_older(
        &self,
        line: Line,
        container: &str,
        prefix: &str,
        marker: Option<&str>,
        max: Option<u32>,
    ) -> Result<BlobPage> {
        let max = max.unwrap_or(LARGEST_PAGE);
        let listing = Listing { prefix, folded: false, marker, max, attributes: false };
        let include = format!("metadata%2C{}", line.included());
        self.list_including(&include, container, &listing).await
    }

    /// Get Page Ranges: one page of what has changed inside `range` since the snapshot of `previous`, in
    /// version `etag`. Tried at most `attempts` times.
    pub(super) async fn changed_ranges(
        &self,
        at: &Address,
        previous: &str,
        range: &Range<u64>,
        etag: HeaderValue,
        marker: Option<&str>,
        attempts: u32,
    ) -> Result<RangePage> {
        let mut request = self.at("Get Page Ranges", at, Method::GET, Effect::Read);
        request.attempts = attempts;
        let mut query = at.query("comp=pagelist");
        let _ = write!(query, "&prevsnapshot={}", utf8_percent_encode(previous, QUERY));
        if let Some(marker) = marker {
            let _ = write!(query, "&marker={}", utf8_percent_encode(marker, QUERY));
        }
        self.query(&mut request, &query);
        request.headers.insert(X_MS_RANGE, range_value(range));
        request.headers.insert(IF_MATCH, etag);
        self.read_document(&request, wire::parse_ranges).await
    }
}
