//! Copying a blob page by page, where the service's own Copy Blob cannot: it takes neither a customer's
//! key nor an encryption scope. Under a scope the service still reads the pages, under a key this host does.
//!
//! Until all of it is there, the copy shows a length of zero.

use std::ops::Range;
use std::sync::Arc;

use futures_util::stream::{StreamExt as _, TryStreamExt as _, iter};

use super::address::Address;
use super::blob::PinnedBlob;
use super::length::{KEY, PAGE};
use super::store::PageBlobStore;
use super::updates::MAX_UPDATE;
use super::wire::{BlobType, META, metadata_headers};
use crate::store::{Blob, BlobMut, Error, ErrorKind, Replace, Result, Version, read_all};

/// The most data that a rename copies so, in bytes: some seconds of it at the rate of a
/// standard page blob. For more there is a call that takes its time, which `mv` makes when told so.
const MOST: u64 = 256 << 20;
/// Pieces under way at once.
const TOGETHER: usize = 4;

/// Copies the page blob at `source` in `version` to `target`, over what is there if `replace` allows it.
/// Gives the version that it made.
///
/// Errors: `CrossDevice` if the caller had better copy it by itself; a copy that fails leaves nothing, nor
/// what it was to replace.
pub(super) async fn transfer(
    store: &PageBlobStore,
    source: &Address,
    version: &Version,
    target: &Address,
    replace: Replace,
) -> Result<Version> {
    let (found, headers) = store.rest.head(source).await?;
    if found.etag != version.0 {
        let why = "the source was changed by somebody else";
        return Err(Error::new(ErrorKind::Stale, "rename", source.target(), why));
    }
    let by_caller = |why: &str| Error::new(ErrorKind::CrossDevice, "rename", source.target(), why);
    if found.blob_type != BlobType::Page {
        return Err(by_caller("under a key or scope only page blobs are renamed"));
    }
    let blob = PinnedBlob::new(Arc::clone(&store.rest), source.clone(), &found);
    let Some(data) = data_of(&blob).await? else {
        return Err(by_caller("under a key or scope more than 256 MiB are renamed by copying"));
    };
    let mut metadata = metadata_headers(&headers);
    // The copy has a length of its own.
    metadata.retain(|(name, _)| name.as_str().strip_prefix(META) != Some(KEY));
    let made = store.create_at(target.clone(), replace, metadata).await?;
    let filled = fill(&blob, data, &*made).await;
    let closed = made.close().await;
    match filled.and(closed) {
        Ok(()) => Ok(Version(store.rest.head(target).await?.0.etag)),
        Err(error) => {
            if let Err(error) = store.remove_at(target, None).await {
                log::warn!(target: "http", "a copy that failed is left behind: {error}");
            }
            Err(error)
        }
    }
}

/// Where a blob holds data; `None` if that is more than [`MOST`].
async fn data_of(blob: &dyn Blob) -> Result<Option<Vec<Range<u64>>>> {
    let (mut data, mut bytes, mut at) = (Vec::new(), 0, 0);
    while at < blob.len() {
        let answer = blob.extents(at..blob.len()).await?;
        bytes += answer.data.iter().map(|part| part.end - part.start).sum::<u64>();
        if bytes > MOST {
            return Ok(None);
        }
        data.extend(answer.data);
        at = answer.end;
    }
    Ok(Some(data))
}

async fn fill(from: &dyn Blob, data: Vec<Range<u64>>, to: &dyn BlobMut) -> Result<()> {
    to.reserve(from.len().next_multiple_of(PAGE)).await?;
    let source = &from.copy_source().await?;
    let pieces = data.into_iter().flat_map(|part| {
        // Whole pages but for the last one, of which the rest counts for nothing.
        let (start, end) = (part.start - part.start % PAGE, part.end);
        (start..end).step_by(MAX_UPDATE as usize).map(move |at| at..end.min(at + MAX_UPDATE))
    });
    let copies = pieces.map(|piece| async move {
        if let Some(source) = source {
            let pages = piece.start..piece.end.next_multiple_of(PAGE);
            match to.copy_from(pages.start, source, pages).await {
                Err(error) if error.kind() == ErrorKind::Unsupported => {}
                result => return result,
            }
        }
        let mut bytes = read_all(from, piece.clone()).await?.to_vec();
        bytes.resize(bytes.len().next_multiple_of(PAGE as usize), 0);
        to.write_at(piece.start, vec![bytes.into()]).await
    });
    iter(copies).buffer_unordered(TOGETHER).try_collect::<()>().await?;
    to.set_len(from.len(), false).await
}
