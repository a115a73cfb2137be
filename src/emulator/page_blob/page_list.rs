//! Get Page Ranges, whole or as a difference to a snapshot.
//!
//! Knows the document and its paging; the page map knows the pages.

use super::access::{self, Guards};
use super::error::{self, Failure};
use super::record::Kind;
use super::reply::Reply;
use super::request::{Call, PAGE};
use super::storage::Storage;
use super::version::Version;
use super::xml::Document;

/// Ranges in one answer at most.
const MOST_RANGES: usize = 10_000;

/// First version that pages its answers.
const PAGED: &str = "2020-10-02";

/// In short pages, the longest range: 1 MiB. Longer ones come in unmerged pieces.
const SHORT_RANGE: u64 = 1 << 20;

/// Get Page Ranges. With `short`, in smaller pages than asked for and in unmerged pieces.
pub(super) fn get(storage: &Storage, call: &Call, short: bool) -> Result<Reply, Failure> {
    let guards = Guards::of(call)?;
    if call.headers.contains_key("x-ms-previous-snapshot-url") {
        return Err(error::NOT_IMPLEMENTED.into());
    }
    let range = call.range()?;
    let paged = call.version >= PAGED;
    let mut most = if paged { call.max_results(MOST_RANGES)? } else { usize::MAX };
    if short && paged {
        most = (most / 3).clamp(1, 7);
    }
    let marker = match call.query.filled("marker") {
        Some(text) if paged => Some(parse_marker(text)?),
        _ => None,
    };
    let now = storage.clock.now_ms();
    let container = access::container(storage, call)?;
    let entry = container.entry(call.blob()).ok_or(error::BLOB_NOT_FOUND)?;
    let state = entry.state.read();
    let version = access::named(&state, call)?;
    if version.props.kind != Kind::Page {
        return Err(error::INVALID_BLOB_TYPE.into());
    }
    guards.check_look(version, now)?;
    let size = version.props.size;
    let (start, end) = match range {
        None => (0, size),
        Some(range) if range.first >= size => {
            let failure = Failure::from(error::INVALID_RANGE);
            return Err(failure.header("content-range", format!("bytes */{size}")));
        }
        Some(range) => {
            let end = range.last.map_or(size, |last| (last + 1).next_multiple_of(PAGE).min(size));
            (range.first - range.first % PAGE, end)
        }
    };
    let start = marker.unwrap_or(start).clamp(start, end);

    let previous = match call.query.filled("prevsnapshot") {
        None => None,
        Some(time) => {
            if call.snapshot().is_some_and(|snapshot| snapshot < time) {
                return Err(error::PREVIOUS_SNAPSHOT_NEWER.into());
            }
            let found = state.snapshots.get(time).ok_or(error::PREVIOUS_SNAPSHOT_NOT_FOUND)?;
            if found.props.incarnation != version.props.incarnation {
                return Err(error::BLOB_OVERWRITTEN.into());
            }
            Some(found)
        }
    };
    let longest = if short { SHORT_RANGE } else { u64::MAX };
    let pieces = runs(version, previous, start, end).flat_map(|run| split(run, longest));
    let document = document(pieces, most);
    let props = &version.props;
    let reply = Reply::new(200)
        .stamps(&props.etag, props.modified_ms)
        .header("x-ms-blob-content-length", size.to_string());
    Ok(reply.xml(document))
}

/// A range, and whether it holds data.
type Run = (u64, u64, bool);

fn runs<'a>(
    version: &'a Version,
    previous: Option<&Version>,
    start: u64,
    end: u64,
) -> Box<dyn Iterator<Item = Run> + 'a> {
    match previous {
        None => Box::new(version.pages.data(start, end).map(|(start, end)| (start, end, true))),
        Some(old) => Box::new(version.pages.changed_since(old.props.generation, start, end)),
    }
}

fn split((start, end, data): Run, longest: u64) -> impl Iterator<Item = Run> {
    let mut at = start;
    std::iter::from_fn(move || {
        let first = at;
        at = if longest == u64::MAX { end } else { end.min((at / longest + 1) * longest) };
        (first < end).then_some((first, at, data))
    })
}

fn document(mut runs: impl Iterator<Item = Run>, most: usize) -> String {
    let mut document = Document::new();
    document.begin("PageList");
    for (start, end, data) in runs.by_ref().take(most) {
        document.begin(if data { "PageRange" } else { "ClearRange" });
        document.element("Start", &start.to_string());
        document.element("End", &(end - 1).to_string());
        document.end();
    }
    let next = runs.next().map(|run| format!("2!{:x}", run.0));
    document.element("NextMarker", next.as_deref().unwrap_or(""));
    document.finish()
}

fn parse_marker(text: &str) -> Result<u64, Failure> {
    text.strip_prefix("2!")
        .and_then(|offset| u64::from_str_radix(offset, 16).ok())
        .ok_or_else(|| error::invalid_query("marker", text))
}
