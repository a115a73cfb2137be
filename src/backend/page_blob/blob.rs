//! One version of a blob, read-only; and what reading has in common with blobs that are updated.

use std::ops::Range;
use std::sync::Arc;

use http::header::HeaderValue;

use super::address::{Address, etag_value};
use super::client::Rest;
use super::length::PAGE;
use super::wire::{BlobType, Properties};
use crate::client::Pin;
use crate::store::{Blob, BoxFuture, Error, ErrorKind, Result, Sink, Version};

/// The smallest window of a page list that is worth halving when the service does not finish in
/// time, in bytes. It holds at most 8192 pages, a single answer.
const SMALLEST_WINDOW: u64 = 4 << 20;

/// How often a page list is tried before its window is halved.
const WINDOW_ATTEMPTS: u32 = 2;

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

    fn allocated(&self, range: Range<u64>) -> BoxFuture<'_, Result<Vec<Range<u64>>>> {
        Box::pin(async move {
            check_inside("Get Page Ranges", &self.at, &range, self.len)?;
            match self.blob_type {
                BlobType::Page => {
                    let etag = Some(&self.etag);
                    allocated(&self.rest, &self.at, self.size, range, etag).await
                }
                // Other blobs have no holes.
                _ if range.is_empty() => Ok(Vec::new()),
                _ => Ok(vec![range]),
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

/// The parts of `range` that hold data, sorted, disjoint and merged, in a page blob of `size` bytes.
pub(super) async fn allocated(
    rest: &Rest,
    at: &Address,
    size: u64,
    range: Range<u64>,
    etag: Option<&HeaderValue>,
) -> Result<Vec<Range<u64>>> {
    let mut found: Vec<Range<u64>> = Vec::new();
    if range.is_empty() {
        return Ok(found);
    }
    let end = range.end.next_multiple_of(PAGE).min(size);
    let mut start = range.start - range.start % PAGE;
    let mut window = end - start;
    let mut marker: Option<String> = None;
    while start < end {
        let asked = start..end.min(start.saturating_add(window));
        let page = rest.page_ranges(at, &asked, etag, marker.as_deref(), WINDOW_ATTEMPTS).await;
        let page = match page {
            Ok(page) => page,
            // A fragmented blob takes the service too long whatever it is asked to wait.
            Err(error) if error.kind() == ErrorKind::TimedOut && window > SMALLEST_WINDOW => {
                window = (window / 2).next_multiple_of(PAGE);
                marker = None;
                found.retain(|old| old.start < start);
                if let Some(last) = found.last_mut() {
                    last.end = last.end.min(start);
                }
                continue;
            }
            Err(error) => return Err(gone(error)),
        };
        for part in page.ranges {
            add(&mut found, part.start.max(asked.start)..part.end.min(asked.end));
        }
        marker = page.next;
        if marker.is_none() {
            start = asked.end;
        }
    }
    // Servers give the ranges in order, but not all of them merged, and ours to whole pages.
    found.retain_mut(|part| {
        *part = part.start.max(range.start)..part.end.min(range.end);
        !part.is_empty()
    });
    Ok(found)
}

/// Adds a range to sorted, disjoint ones; cheap at the end, where it nearly always belongs.
fn add(found: &mut Vec<Range<u64>>, mut part: Range<u64>) {
    if part.is_empty() {
        return;
    }
    let mut from = found.len();
    while from > 0 && found[from - 1].end >= part.start {
        from -= 1;
    }
    let mut to = from;
    while to < found.len() && found[to].start <= part.end {
        part = part.start.min(found[to].start)..part.end.max(found[to].end);
        to += 1;
    }
    found.splice(from..to, [part]);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::add;

    proptest! {
        #[test]
        fn merging_keeps_every_byte_and_the_order(
            parts in prop::collection::vec((0..60u64, 0..9u64), 0..20)
        ) {
            let mut found = Vec::new();
            let mut bytes = [false; 80];
            for (start, len) in parts {
                add(&mut found, start..start + len);
                bytes[start as usize..(start + len) as usize].fill(true);
            }
            prop_assert!(found.windows(2).all(|two| two[0].end < two[1].start));
            for (at, held) in bytes.iter().enumerate() {
                let inside = found.iter().any(|part| part.contains(&(at as u64)));
                prop_assert_eq!(inside, *held);
            }
        }
    }
}
