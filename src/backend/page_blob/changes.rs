//! What has changed in a page blob since one of its snapshots: Get Page Ranges with `prevsnapshot`.
//!
//! The cursor holds everything that the next page needs, the version that is compared included, so that
//! a blob that is written meanwhile is `Stale` and never half old and half new.

use std::sync::Arc;

use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use super::address::{Address, etag_value};
use super::length::PAGE;
use super::older::Line;
use super::store::PageBlobStore;
use super::wire::BlobType;
use crate::store::{Change, ChangePage, Cursor, Error, ErrorKind, RemotePath, Result};

/// The smallest window that is worth halving when the service does not finish in time, in bytes. It holds
/// at most 8192 pages, a single answer.
const SMALLEST_WINDOW: u64 = 4 << 20;

/// How often a page is asked for before its window is halved.
const WINDOW_ATTEMPTS: u32 = 2;

/// How far a comparison has come.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Progress {
    /// What comes before was told.
    start: u64,
    /// How much is asked for at once.
    window: u64,
    /// Size of the newer one as the service counts, and length as a reader sees it.
    size: u64,
    len: u64,
    /// Its version.
    etag: Arc<str>,
}

impl Progress {
    /// Where the next page begins; `None` at the end.
    fn suspend(&self) -> Option<Cursor> {
        let Progress { start, window, size, len, etag } = self;
        let etag = utf8_percent_encode(etag, NON_ALPHANUMERIC);
        (start < size).then(|| Cursor(format!("{start} {window} {size} {len} {etag}").into()))
    }

    fn resume(cursor: &Cursor) -> Option<Progress> {
        let words: Vec<&str> = cursor.0.split(' ').collect();
        let [start, window, size, len, etag] = words[..] else {
            return None;
        };
        let etag = percent_decode_str(etag).decode_utf8().ok()?;
        let number = |text: &str| text.parse::<u64>().ok();
        Some(Progress {
            start: number(start)?,
            window: number(window)?,
            size: number(size)?,
            len: number(len)?,
            etag: etag.into(),
        })
    }
}

impl PageBlobStore {
    /// One page of what has changed from the snapshot `from` to `to`.
    pub(super) async fn compare(
        &self,
        from: &RemotePath,
        to: &RemotePath,
        cursor: Option<Cursor>,
    ) -> Result<ChangePage> {
        let unsupported =
            |path: &RemotePath, why: &str| Error::new(ErrorKind::Unsupported, "compare", path, why);
        let (older, at) = (self.readable("compare", from)?, self.readable("compare", to)?);
        let Some((Line::Snapshots, previous)) = older.time() else {
            return Err(unsupported(from, "it is no snapshot, and the older one must be one"));
        };
        if matches!(at.time(), Some((Line::Versions, _))) {
            return Err(unsupported(
                to,
                "it is a version, and the service compares snapshots alone",
            ));
        }
        if at.blob() != older.blob() {
            return Err(unsupported(
                to,
                "it is another blob; a blob is compared with its snapshots",
            ));
        }
        let progress = match &cursor {
            Some(cursor) => Progress::resume(cursor).ok_or_else(|| {
                Error::new(ErrorKind::Other, "compare", to, "this cursor is not ours")
            })?,
            None => {
                let (found, _) = self.rest.head(&at).await?;
                if found.blob_type != BlobType::Page {
                    return Err(unsupported(to, "it is no page blob, and only those are compared"));
                }
                let (size, len) = (found.size, found.extent().shown());
                Progress { start: 0, window: size, size, len, etag: found.etag }
            }
        };
        if progress.start >= progress.size {
            return Ok(ChangePage::default());
        }
        self.compare_from(&at, previous, progress).await
    }

    async fn compare_from(
        &self,
        at: &Address,
        previous: &str,
        mut progress: Progress,
    ) -> Result<ChangePage> {
        let Progress { start, window, size, len, .. } = progress;
        let etag = etag_value(&progress.etag);
        let asked = start..start.saturating_add(window.max(PAGE)).min(size);
        let mut changes: Vec<Change> = Vec::new();
        let mut marker: Option<String> = None;
        let page = loop {
            let (etag, marker_text) = (etag.clone(), marker.as_deref());
            let page =
                self.rest.changed_ranges(at, previous, &asked, etag, marker_text, WINDOW_ATTEMPTS);
            match page.await {
                Ok(page) => match page.next {
                    Some(next) if page.ranges.is_empty() && page.cleared.is_empty() => {
                        marker = Some(next);
                    }
                    _ => break page,
                },
                // A fragmented blob takes the service too long whatever it is asked to wait.
                Err(error) if error.kind() == ErrorKind::TimedOut && window > SMALLEST_WINDOW => {
                    progress.window = (window / 2).next_multiple_of(PAGE);
                    return Ok(ChangePage { changes, next: progress.suspend() });
                }
                Err(error) => return Err(error),
            }
        };
        let told = page.ranges.iter().chain(&page.cleared).map(|range| range.end).max();
        progress.start = match (page.next, told) {
            // The next page may begin where this one ends.
            (Some(_), Some(told)) if told > start => told.min(asked.end),
            _ => asked.end,
        };
        for (ranges, cleared) in [(page.ranges, false), (page.cleared, true)] {
            for range in ranges {
                let range = range.start.max(start)..range.end.min(asked.end).min(len);
                if !range.is_empty() {
                    changes.push(Change { range, cleared });
                }
            }
        }
        changes.sort_unstable_by_key(|change| change.range.start);
        Ok(ChangePage { changes, next: progress.suspend() })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::Progress;

    proptest! {
        #[test]
        fn cursors_go_both_ways(
            start in 0..u64::MAX, window: u64, size: u64, len: u64, etag in ".*"
        ) {
            let size = size.max(start + 1);
            let progress = Progress { start, window, size, len, etag: etag.into() };
            let cursor = progress.suspend().unwrap();
            prop_assert_eq!(Progress::resume(&cursor), Some(progress));
        }

        #[test]
        fn cursors_from_elsewhere_do_no_harm(text in ".*") {
            let _ = Progress::resume(&crate::store::Cursor(text.into()));
        }
    }
}
