//! One version of a blob, read-only; and what reading has in common with blobs that are updated.

use std::ops::Range;
use std::sync::Arc;

use http::header::HeaderValue;

use super::address::{Address, etag_value};
use super::client::Rest;
use super::extents::extents;
use super::wire::{BlobType, Properties};
use crate::client::Pin;
use crate::store::{Blob, BoxFuture, CopySource, Error, ErrorKind, Extents, Result, Sink, Version};

/// A blob in the version it had when it was opened.
#[derive(Debug)]
pub(super) struct PinnedBlob {
    rest: Arc<Rest>,
    at: Address,
    blob_type: BlobType,
    version: Version,
    /// The version as a condition.
    etag: HeaderValue,
    /// Size as the service counts.
    size: u64,
    /// Length as a reader sees it.
    len: u64,
}

impl PinnedBlob {
    /// The blob at `at` as it was found.
    pub(super) fn new(rest: Arc<Rest>, at: Address, found: &Properties) -> PinnedBlob {
        PinnedBlob {
            rest,
            at,
            blob_type: found.blob_type,
            version: Version(Arc::clone(&found.etag)),
            etag: etag_value(&found.etag),
            size: found.size,
            len: found.extent().shown(),
        }
    }
}

impl Blob for PinnedBlob {
    fn version(&self) -> Version {
        self.version.clone()
    }

    fn continues(&self, found: &Version) -> bool {
        *found == self.version
    }

    fn len(&self) -> u64 {
        self.len
    }

    fn read<'a>(&'a self, range: Range<u64>, sink: &'a mut dyn Sink) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            check_inside("Get Blob", &self.at, &range, self.len)?;
            let pin = Pin { etag: Some(&self.etag), total: Some(self.size) };
            self.rest.get(&self.at, range, pin, sink).await.map_err(gone)
        })
    }

    fn copy_source(&self) -> BoxFuture<'_, Result<Option<CopySource>>> {
        let source = self.rest.authorize_source(&self.at, Some(&self.version.0));
        let source = source.map(|source| CopySource(Arc::new(source)));
        Box::pin(async { Ok(source) })
    }

    fn extents(&self, range: Range<u64>) -> BoxFuture<'_, Result<Extents>> {
        Box::pin(async move {
            check_inside("Get Page Ranges", &self.at, &range, self.len)?;
            match self.blob_type {
                BlobType::Page => {
                    let etag = Some(&self.etag);
                    extents(&self.rest, &self.at, self.size, range, etag).await
                }
                // Other blobs have no holes.
                _ => Ok(Extents::all(range)),
            }
        })
    }
}

/// That a blob that was open is there no more is not that its name is wrong: it is another version.
pub(super) fn gone(error: Error) -> Error {
    match error.kind() {
        ErrorKind::NotFound | ErrorKind::InvalidRange => error.with_kind(ErrorKind::Stale),
        _ => error,
    }
}

/// Whether a range lies inside the first `len` bytes.
pub(super) fn check_inside(
    op: &'static str,
    at: &Address,
    range: &Range<u64>,
    len: u64,
) -> Result<()> {
    if range.start <= range.end && range.end <= len {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::InvalidRange,
        op,
        at.target(),
        format!("bytes {range:?} are not inside the blob's {len}"),
    ))
}
