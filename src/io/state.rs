//! What is known of an opened blob's bytes, and the order in which they are looked for, newest first:
//!
//! | where | what it is |
//! |---|---|
//! | `dirty` | written here, not yet sent |
//! | `writing` | being sent; unchangeable. Written again, it is in `dirty` too and waits its turn |
//! | (`copies`) | being copied inside the service; what is found of it elsewhere is the older content |
//! | `arrived` | fetched ahead of a stream and not yet read; cannot be evicted |
//! | page cache | clean, of this content alone |
//! | `holes` | whether the service is known to hold zeros there |
//! | `fetches` | on its way |
//!
//! Nothing here waits, sends or fetches: it is what [`super::file::File`] guards with its lock.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use bytes::Bytes;

use super::coalesce::Action;
use super::dirty::{DirtyMap, Piece};
use super::fetch::{Ahead, Fetch};
use super::holes::Holes;
use super::page_cache::{ContentId, PageCache};
use super::readahead::StreamId;
use super::span::{BLOCK, PAGE, SECTOR, Span, SpanSet};
use super::write_back::{MAX_PUT, Ticket, Writing};
use crate::store::{Blob, BlobMut, Error, ErrorKind, Result};

/// Zeros to answer reads of holes from; a read is at most one block, longer ones are put together.
static ZEROS: [u8; BLOCK as usize] = [0; BLOCK as usize];

/// `len` zero bytes, at most a block.
pub(super) fn zeros(len: u64) -> Bytes {
    Bytes::from_static(&ZEROS[..len.min(BLOCK) as usize])
}

/// What [`File`](super::file::File) guards with its lock.
pub(super) struct State {
    pub(super) blob: Arc<dyn Blob>,
    pub(super) writer: Option<Arc<dyn BlobMut>>,
    pub(super) content: ContentId,
    /// Length as readers here see it; the service may not know it yet.
    pub(super) len: u64,
    pub(super) modified: Option<SystemTime>,
    pub(super) dirty: DirtyMap,
    pub(super) writing: BTreeMap<u64, Writing>,
    /// What the service is copying here.
    pub(super) copies: Vec<Span>,
    pub(super) arrived: BTreeMap<u64, (Bytes, StreamId)>,
    pub(super) fetches: BTreeMap<u64, Fetch>,
    pub(super) streams: HashMap<StreamId, Ahead>,
    pub(super) holes: Holes,
    /// What was sent while the service is being asked for its extents: of that the answer says nothing.
    pub(super) touched: Option<SpanSet>,
    /// It is in too many pieces for what it holds to be counted.
    pub(super) uncountable: bool,
    /// GETs so far, as far as it matters whether holes are worth asking for.
    pub(super) gets: u32,
    /// The service's blob must be cut to this length before anything beyond is sent.
    pub(super) cut: Option<u64>,
    /// Someone is busy with `cut`.
    pub(super) cutting: bool,
    /// How often it was shortened.
    pub(super) shortened: u64,
    /// How often its blob got another version or name by what was done here.
    pub(super) moved: u64,
    /// Windows of [`MAX_PUT`] bytes that became wholly dirty, by their start.
    pub(super) ready: VecDeque<u64>,
    pub(super) actions: VecDeque<Action>,
    pub(super) tickets: Vec<Ticket>,
    pub(super) flusher: bool,
    pub(super) dirty_since: Option<Instant>,
    /// The name is gone: nothing is sent any more, and nobody misses it.
    pub(super) orphan: bool,
    /// The name is being changed: nothing is sent until that is done.
    pub(super) frozen: bool,
    /// Nobody has it open for writing any more, and not all of it could be sent: from now on the
    /// sweeper does what a close would.
    pub(super) left_open: bool,
    /// Set once an update may or may not have been applied, or never can be: every later write, fsync
    /// and close fails.
    pub(super) failed: Option<Error>,
}

/// What is known of a byte.
pub(super) enum Found<'a> {
    /// Dirty bytes, which may change once the lock is released.
    Dirty(&'a [u8]),
    /// Bytes that do not change.
    Clean(Bytes),
    /// So many zeros.
    Zero(u64),
    /// Nothing up to this offset.
    Missing(u64),
}

impl State {
    /// Changes whenever something was done here that a GET on its way may meet.
    pub(super) fn disturbances(&self) -> u64 {
        self.shortened + self.moved
    }

    /// The newest known about the byte at `at`, as far as it reaches towards `end`.
    pub(super) fn find(&self, cache: &PageCache, at: u64, end: u64) -> Found<'_> {
        let mut end = end;
        if !self.dirty.is_empty() {
            match self.dirty.piece(at) {
                Some(Piece::Zero(len)) => return Found::Zero(len.min(end - at)),
                Some(Piece::Data(bytes)) => {
                    return Found::Dirty(&bytes[..bytes.len().min((end - at) as usize)]);
                }
                None => end = end.min(self.dirty.next_start(at).unwrap_or(u64::MAX)),
            }
        }
        if !self.writing.is_empty() {
            if let Some((_, writing)) = self.writing.range(..=at).next_back()
                && at < writing.span.end
            {
                return writing.find(at, end);
            }
            let next = self.writing.range(at + 1..).next().map(|(&start, _)| start);
            end = end.min(next.unwrap_or(u64::MAX));
        }
        if self.cut.is_some_and(|cut| at >= cut) {
            return Found::Zero(end - at);
        }
        if !self.arrived.is_empty() {
            if let Some((&start, (bytes, _))) = self.arrived.range(..=at).next_back() {
                let span = Span::at(start, bytes.len() as u64);
                if at < span.end {
                    let part = Span::between(at, end).intersect(span);
                    return Found::Clean(bytes.slice(part.within(start)));
                }
            }
            let next = self.arrived.range(at + 1..).next().map(|(&start, _)| start);
            end = end.min(next.unwrap_or(u64::MAX));
        }
        if let Some(bytes) = cache.get(self.content, at, end) {
            return Found::Clean(bytes);
        }
        let mut border = at - at % BLOCK + BLOCK;
        let holes = self.holes.zero();
        if let Some(hole) = holes.find(at) {
            // Cached bytes inside a hole are zeros too, so the hole may run over them.
            return Found::Zero(hole.end.min(end) - at);
        }
        if let Some(hole) = holes.next_start(at) {
            border = border.min(hole);
        }
        if let Some(writer) = &self.writer {
            // Beyond its capacity the service has nothing that could be asked for.
            let capacity = writer.capacity();
            if at >= capacity {
                return Found::Zero(end - at);
            }
            border = border.min(capacity);
        }
        Found::Missing(border.min(cache.next_present(self.content, at)).min(end).max(at + 1))
    }

    /// What to fetch for `missing`: whole pages, as far as the service has any.
    pub(super) fn pages(&self, missing: Span) -> Span {
        let capacity = self.writer.as_ref().map_or(u64::MAX, |writer| writer.capacity());
        // The service may be cut at any time, whatever has been written beyond since.
        let there = self.len.min(capacity).min(self.cut.unwrap_or(u64::MAX));
        missing.align_out(PAGE).intersect(Span::between(0, there))
    }

    /// The parts of `span` that are not in memory, in order, neighbours put together.
    pub(super) fn missing(&self, cache: &PageCache, span: Span) -> Vec<Span> {
        let mut missing: Vec<Span> = Vec::new();
        let mut at = span.start;
        while at < span.end {
            at = match self.find(cache, at, span.end) {
                Found::Dirty(bytes) => at + bytes.len() as u64,
                Found::Clean(bytes) => at + bytes.len() as u64,
                Found::Zero(len) => at + len,
                Found::Missing(end) => {
                    match missing.last_mut() {
                        Some(last) if last.end == at => last.end = end,
                        _ => missing.push(Span::between(at, end)),
                    }
                    end
                }
            };
        }
        missing
    }

    /// The bytes of `span`, all of which are in memory.
    pub(super) fn assemble(&self, cache: &PageCache, span: Span) -> Vec<u8> {
        let mut whole = Vec::with_capacity(span.len() as usize);
        while (whole.len() as u64) < span.len() {
            match self.find(cache, span.start + whole.len() as u64, span.end) {
                Found::Dirty(bytes) => whole.extend_from_slice(bytes),
                Found::Clean(bytes) => whole.extend_from_slice(&bytes),
                Found::Zero(len) => whole.resize(whole.len() + len as usize, 0),
                Found::Missing(_) => unreachable!("the caller has made sure of it"),
            }
        }
        whole
    }

    /// The sector at `start`, zeros beyond the end of the file: whatever the service holds there was
    /// cut off or never ours.
    pub(super) fn sector(&self, cache: &PageCache, start: u64) -> [u8; SECTOR as usize] {
        let mut bytes = [0; SECTOR as usize];
        let kept = Span::at(start, SECTOR).intersect(Span::between(0, self.len));
        if !kept.is_empty() {
            bytes[kept.within(start)].copy_from_slice(&self.assemble(cache, kept));
        }
        bytes
    }

    /// Makes the file at least `len` bytes long. The service holds zeros beyond the old end.
    pub(super) fn extend(&mut self, len: u64) {
        if len > self.len {
            let sectors =
                Span::between(self.len.next_multiple_of(SECTOR), len.next_multiple_of(SECTOR));
            self.holes.add(sectors);
            self.len = len;
        }
    }

    /// Whether an update that overlaps `span` is in flight.
    pub(super) fn is_in_flight(&self, span: Span) -> bool {
        let before = self.writing.range(..span.end).next_back();
        before.is_some_and(|(_, writing)| writing.span.end > span.start)
            || self.copies.iter().any(|copy| copy.overlaps(span))
    }

    /// Whether the service has everything, its length included.
    pub(super) fn is_settled(&self) -> bool {
        let published = self.writer.as_ref().is_none_or(|writer| writer.len() == self.len);
        self.dirty.is_empty() && self.is_quiet() && published && self.cut.is_none()
    }

    /// Whether no update is in flight.
    pub(super) fn is_quiet(&self) -> bool {
        self.writing.is_empty() && self.copies.is_empty()
    }

    /// Errors unless the file may be written.
    pub(super) fn check_writable(&self) -> Result<()> {
        if let Some(failed) = &self.failed {
            return Err(failed.clone());
        }
        if self.writer.is_none() {
            return Err(read_only());
        }
        Ok(())
    }

    /// The window of [`MAX_PUT`] bytes that a write ended, if it is wholly dirty now.
    pub(super) fn full_window(&self, written: Span) -> Option<u64> {
        let window = Span::at((written.end - 1) / MAX_PUT * MAX_PUT, MAX_PUT);
        (written.end == window.end && self.dirty.covers(window)).then_some(window.start)
    }
}

/// The sectors that a write of `written` to a file of `len` bytes changes in part only, beginning with
/// the old last sector if the file grows beyond it. Empty writes stand for growth alone.
pub(super) fn partial_sectors(written: Span, len: u64) -> Vec<Span> {
    let mut sectors = Vec::new();
    let mut add = |at: u64| {
        let sector = Span::at(at - at % SECTOR, SECTOR);
        if sectors.last() != Some(&sector) {
            sectors.push(sector);
        }
    };
    if written.start > len && !len.is_multiple_of(SECTOR) {
        add(len);
    }
    if written.is_empty() {
        return sectors;
    }
    if !written.start.is_multiple_of(SECTOR) {
        add(written.start);
    }
    if !written.end.is_multiple_of(SECTOR) {
        add(written.end);
    }
    sectors
}

pub(super) fn read_only() -> Error {
    Error::new(ErrorKind::ReadOnly, "write", "", "not opened for writing")
}
