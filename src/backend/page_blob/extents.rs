//! Where a page blob holds data, as Get Page Ranges tells.
//!
//! One answer has 10,000 ranges at most, and the service gives up on a window of a fragmented blob that it
//! does not get through in time: so whoever asks is told how far the answer reaches, and asks on.

use std::ops::Range;

use http::header::HeaderValue;

use super::address::Address;
use super::blob::gone;
use super::client::Rest;
use super::length::PAGE;
use crate::store::{ErrorKind, Extents, Result};

/// The smallest window of a page list that is worth halving when the service does not finish in
/// time, in bytes. It holds at most 8192 pages, a single answer.
const SMALLEST_WINDOW: u64 = 4 << 20;

/// How often a page list is tried before its window is halved.
const WINDOW_ATTEMPTS: u32 = 2;

/// Requests spent on counting what a blob holds: 640,000 ranges. A blob in more pieces is not counted.
const MOST_COUNTED: u32 = 64;

/// What one answer tells of the start of `range` in a page blob of `size` bytes, in the version `etag`.
///
/// Errors: `Stale` if that version is gone.
pub(super) async fn extents(
    rest: &Rest,
    at: &Address,
    size: u64,
    range: Range<u64>,
    etag: Option<&HeaderValue>,
) -> Result<Extents> {
    if range.is_empty() {
        return Ok(Extents { data: Vec::new(), end: range.end });
    }
    let start = range.start - range.start % PAGE;
    let mut asked = start..range.end.next_multiple_of(PAGE).min(size).max(start + PAGE);
    let mut found: Vec<Range<u64>> = Vec::new();
    let mut marker: Option<String> = None;
    loop {
        let page = rest.page_ranges(at, &asked, etag, marker.as_deref(), WINDOW_ATTEMPTS).await;
        let page = match page {
            Ok(page) => page,
            Err(error)
                if error.kind() == ErrorKind::TimedOut && asked.end - start > SMALLEST_WINDOW =>
            {
                // It takes the service too long whatever it is asked to wait.
                asked.end = start + ((asked.end - start) / 2).next_multiple_of(PAGE);
                marker = None;
                found.clear();
                continue;
            }
            Err(error) => return Err(gone(error)),
        };
        for part in page.ranges {
            add(&mut found, part.start.max(asked.start)..part.end.min(asked.end));
        }
        let end = match (page.next, found.last()) {
            // The next answer may begin where this one ends.
            (Some(_), Some(last)) => last.end,
            (Some(next), None) => {
                marker = Some(next);
                continue;
            }
            (None, _) => asked.end,
        };
        // Servers give the ranges in order, but not all of them merged, and ours to whole pages.
        found.retain_mut(|part| {
            *part = part.start.max(range.start)..part.end.min(range.end);
            !part.is_empty()
        });
        return Ok(Extents { data: found, end: end.min(range.end) });
    }
}

/// Bytes of pages that a blob of `size` bytes, a multiple of 512, holds in the version `etag`. `None` if it
/// was changed, or is in too many pieces to be counted.
pub(super) async fn count(
    rest: &Rest,
    at: &Address,
    size: u64,
    etag: &HeaderValue,
) -> Result<Option<u64>> {
    let (mut from, mut bytes) = (0, 0);
    for _ in 0..MOST_COUNTED {
        match extents(rest, at, size, from..size, Some(etag)).await {
            Ok(answer) => {
                bytes += answer.data.iter().map(|part| part.end - part.start).sum::<u64>();
                from = answer.end;
            }
            Err(error) if error.kind() == ErrorKind::Stale => return Ok(None),
            Err(error) => return Err(error),
        }
        if from >= size {
            return Ok(Some(bytes));
        }
    }
    Ok(None)
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
