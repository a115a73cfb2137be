//! Fetching: single flight for every byte, waiters answered as soon as their own bytes are in, and
//! the tasks that keep a stream's window full.
//!
//! A GET is cut at block borders into segments. Each segment is published when its last byte has arrived
//! and is known to be right, by the task that received it, and is on its way once at most: whoever needs
//! it waits for it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use futures_util::future::try_join_all;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::buffer::{Buffer, Pool};
use super::file::File;
use super::readahead::{Planner, StreamId};
use super::span::{BLOCK, Span, SpanSet};
use super::state::State;
use crate::store::{Error, ErrorKind, Result, Retry, Sink};

/// The shortest GET of a stream, in bytes.
const SHORTEST_GET: u64 = 1 << 20;
/// The longest GET of a stream, in bytes: at 60 MiB/s a connection it lasts about ten times its first
/// byte's time; longer ones waste what is not consumed.
const LONGEST_GET: u64 = 8 << 20;
/// GETs of a stream before the next longer size is used: the reader waits for the first ones to their
/// end, so they are short as long as there are fewer of them than connections.
const GETS_OF_ONE_SIZE: u64 = 8;
/// A segment at least this long fills a pooled block; shorter ones are allocated to measure.
const POOLED: u64 = BLOCK / 2;

/// A segment on its way.
pub(super) struct Fetch {
    pub(super) span: Span,
    /// What was written since, or is not sent yet: the bytes that arrive for it are old.
    pub(super) overwritten: SpanSet,
    waiters: Vec<oneshot::Sender<Result<()>>>,
    /// How often the file had been disturbed when it was sent.
    disturbed: u64,
    /// The stream it is fetched for, if nobody has asked for it yet.
    stream: Option<StreamId>,
}

/// The window of a stream.
pub(super) struct Ahead {
    /// Where the next GET begins.
    next: u64,
    /// Where the window ends.
    end: u64,
    gets: u64,
    tasks: usize,
}

/// Memory for bytes that were fetched ahead and not read yet, of all files together.
#[derive(Debug)]
pub struct AheadBudget {
    limit: u64,
    used: AtomicU64,
}

impl AheadBudget {
    /// A budget of `limit` bytes.
    pub fn new(limit: u64) -> AheadBudget {
        AheadBudget { limit, used: AtomicU64::new(0) }
    }

    fn take(&self, bytes: u64) -> bool {
        let fits = |used| (used + bytes <= self.limit).then_some(used + bytes);
        self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits).is_ok()
    }

    /// Gives back what the window held.
    pub(super) fn release(&self, bytes: u64) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// One open handle's view of a file: what it has been reading.
#[derive(Debug)]
pub struct Reader {
    planner: Mutex<Planner>,
}

impl File {
    /// A reader for one more handle.
    pub fn reader(&self) -> Reader {
        Reader { planner: Mutex::new(Planner::new(self.shared.max_window)) }
    }

    /// Notes a read of `reader` and starts what should be fetched ahead of it; then answers it from
    /// memory if possible. Never waits. `None`: [`read`](File::read) is needed.
    pub fn read_at(self: &Arc<Self>, reader: &Reader, span: Span) -> Option<Bytes> {
        let found = self.read_now(span).ok();
        if found.is_some() {
            self.look_ahead(reader, span);
        }
        found
    }

    /// Reads what [`read_at`](File::read_at) did not find, and then looks ahead.
    pub async fn read_missing(self: &Arc<Self>, reader: &Reader, span: Span) -> Result<Bytes> {
        // The read's own GET goes first: a window that opens must not be in its way.
        let before = self.lock().disturbances();
        let claimed = self.claim(span, |file| file.look_ahead(reader, span)).await;
        self.unless_disturbed(before, claimed).await?;
        self.read(span).await
    }

    /// Ends a reader: nothing more is fetched for it.
    pub fn end_reader(&self, reader: &Reader) {
        let mut state = self.lock();
        for stream in reader.planner.lock().streams() {
            self.drop_stream(&mut state, stream);
        }
    }

    fn look_ahead(self: &Arc<Self>, reader: &Reader, span: Span) {
        let mut state = self.lock();
        let ids = &self.shared.stream_ids;
        let plan =
            reader.planner.lock().next(span, state.len, || ids.fetch_add(1, Ordering::Relaxed));
        if let Some(dropped) = plan.dropped {
            self.drop_stream(&mut state, dropped);
        }
        let Some((stream, window)) = plan.ahead else {
            return;
        };
        let ahead = state.streams.entry(stream).or_insert(Ahead {
            next: window.start,
            end: window.end,
            gets: 0,
            tasks: 0,
        });
        ahead.next = ahead.next.max(window.start);
        ahead.end = ahead.end.max(window.end);
        self.start_tasks(&mut state, stream);
    }

    /// Starts tasks while there are GETs for them.
    fn start_tasks(self: &Arc<Self>, state: &mut State, stream: StreamId) {
        loop {
            match state.streams.get(&stream) {
                Some(ahead) if ahead.tasks < self.shared.connections => {}
                _ => return,
            }
            let Some(chunk) = self.take_chunk(state, stream) else {
                return;
            };
            if let Some(ahead) = state.streams.get_mut(&stream) {
                ahead.tasks += 1;
            }
            let file = Arc::clone(self);
            self.shared.runtime.spawn(async move { file.keep_full(stream, chunk).await });
        }
    }

    /// Fetches GET after GET while the window has room.
    async fn keep_full(self: Arc<Self>, stream: StreamId, first: GetOfFile) {
        let mut chunk = Some(first);
        while let Some(get) = chunk {
            let fetched = {
                let slot = self.shared.read_slots.acquire().await;
                debug_assert!(slot.is_ok(), "the semaphore is never closed");
                get.run().await
            };
            let mut state = self.lock();
            if fetched.is_err() {
                // The reader will meet the error itself; guessing on would only repeat it.
                state.streams.remove(&stream);
                return;
            }
            chunk = self.take_chunk(&mut state, stream);
            if chunk.is_none()
                && let Some(ahead) = state.streams.get_mut(&stream)
            {
                // A stream given up and taken up again does not know of older tasks.
                ahead.tasks = ahead.tasks.saturating_sub(1);
            }
        }
    }

    /// The next GET of a stream, if its window and the memory have room for a whole one.
    fn take_chunk(self: &Arc<Self>, state: &mut State, stream: StreamId) -> Option<GetOfFile> {
        loop {
            let ahead = state.streams.get(&stream)?;
            let (next, end) = (ahead.next, ahead.end.min(state.len));
            if next >= end {
                return None;
            }
            let longest = self.shared.longest_get;
            let size = (SHORTEST_GET * (1 + ahead.gets / GETS_OF_ONE_SIZE)).min(longest);
            let wanted = Span::between(next, (next + size - next % BLOCK).min(end));
            if wanted.len() < size - next % BLOCK && end < state.len {
                return None;
            }
            // Up to the first byte that is here or on its way; past it, if that is the very first.
            let missing = self.unclaimed(state, wanted);
            let Some(&first) = missing.first() else {
                state.streams.get_mut(&stream)?.next = wanted.end;
                continue;
            };
            let get = *not_under_way(&state.fetches, state.pages(first)).first()?;
            if !self.shared.ahead.take(get.len()) {
                return None;
            }
            let ahead = state.streams.get_mut(&stream)?;
            ahead.next = first.end;
            ahead.gets += 1;
            return Some(self.begin(state, get, Some(stream)));
        }
    }

    fn drop_stream(&self, state: &mut State, stream: StreamId) {
        state.streams.remove(&stream);
        self.settle_arrived(state, |_, _, of| of == stream);
    }

    /// The parts of `span` that are neither in memory nor on their way.
    fn unclaimed(&self, state: &State, span: Span) -> Vec<Span> {
        let missing = state.missing(&self.shared.cache, span);
        if state.fetches.is_empty() {
            return missing;
        }
        missing.into_iter().flat_map(|part| not_under_way(&state.fetches, part)).collect()
    }

    /// Notes that `get` is on its way, segment by segment. The caller runs the result.
    fn begin(
        self: &Arc<Self>,
        state: &mut State,
        get: Span,
        stream: Option<StreamId>,
    ) -> GetOfFile {
        self.note_get(state, get.start);
        for segment in get.split(BLOCK) {
            let mut overwritten = SpanSet::new();
            for (dirty, _) in state.dirty.extents(segment) {
                overwritten.insert(dirty.intersect(segment));
            }
            for writing in state.writing.values() {
                overwritten.insert(writing.span.intersect(segment));
            }
            let disturbed = state.disturbances();
            let fetch =
                Fetch { span: segment, overwritten, waiters: Vec::new(), disturbed, stream };
            let old = state.fetches.insert(segment.start, fetch);
            debug_assert!(old.is_none(), "a byte is on its way once at most");
        }
        GetOfFile { file: Arc::clone(self), rest: get, blob: Arc::clone(&state.blob) }
    }

    /// Sees to it that `spans` are in memory: fetches what nobody fetches yet and waits for the rest.
    /// If the file was disturbed meanwhile they may not be: who needs them looks again.
    pub(super) async fn load(self: &Arc<Self>, spans: &[Span]) -> Result<()> {
        for span in spans {
            let before = self.lock().disturbances();
            let claimed = self.claim(*span, |_| ()).await;
            self.unless_disturbed(before, claimed).await?;
        }
        Ok(())
    }

    /// The result of a request that was sent when the file had been disturbed `before` times.
    pub(super) async fn unless_disturbed(&self, before: u64, result: Result<()>) -> Result<()> {
        let Err(error) = result else { return Ok(()) };
        if error.kind() == ErrorKind::Stale {
            // Its blob may be getting another version or name just now.
            self.wait_until(|state| !state.frozen).await;
        }
        if is_moot(&error, before, &self.lock()) { Ok(()) } else { Err(error) }
    }

    /// Fetches what is missing of `span`; `started` is called once the GETs are noted, before they run.
    async fn claim(self: &Arc<Self>, span: Span, started: impl FnOnce(&Arc<Self>)) -> Result<()> {
        let (gets, waits) = {
            let mut state = self.lock();
            let mut waits = Vec::new();
            let mut gets = Vec::new();
            let span = span.intersect(Span::between(0, state.len));
            for missing in state.missing(&self.shared.cache, span) {
                for fetch in overlapping(&mut state.fetches, missing) {
                    let (tell, told) = oneshot::channel();
                    fetch.waiters.push(tell);
                    waits.push(told);
                }
                let wanted = state.pages(missing);
                for get in not_under_way(&state.fetches, wanted) {
                    gets.push(self.begin(&mut state, get, None));
                }
            }
            (gets, waits)
        };
        started(self);
        try_join_all(gets.into_iter().map(GetOfFile::run)).await?;
        for told in waits {
            told.await.unwrap_or_else(|_| Err(abandoned()))?;
        }
        Ok(())
    }

    /// Publishes a segment that has arrived.
    fn publish(&self, segment: Span, bytes: Bytes) {
        let waiters = {
            let mut state = self.lock();
            let Some(fetch) = state.fetches.remove(&segment.start) else {
                return;
            };
            let content = state.content;
            // Held for its stream even if somebody waits for it: the cache might let go of it before
            // that somebody looks again.
            let wanted = fetch.stream.is_some_and(|stream| {
                fetch.overwritten.is_empty() && state.streams.contains_key(&stream)
            });
            match fetch.stream {
                Some(stream) if wanted => {
                    state.arrived.insert(segment.start, (bytes, stream));
                }
                stream => {
                    if stream.is_some() {
                        self.shared.ahead.release(segment.len());
                    }
                    let cache = &self.shared.cache;
                    cache.insert_except(content, segment.start, &bytes, &fetch.overwritten);
                }
            }
            fetch.waiters
        };
        for waiter in waiters {
            // A waiter that has given up does not listen.
            let _ = waiter.send(Ok(()));
        }
    }

    /// Gives up the segments of `rest`.
    fn give_up(&self, rest: Span, error: &Error) {
        let mut waiters = Vec::new();
        {
            let mut state = self.lock();
            for segment in rest.split(BLOCK) {
                if let Some(fetch) = state.fetches.remove(&segment.start) {
                    if fetch.stream.is_some() {
                        self.shared.ahead.release(fetch.span.len());
                    }
                    let told = match is_moot(error, fetch.disturbed, &state) {
                        true => Ok(()),
                        false => Err(error.clone()),
                    };
                    waiters.extend(fetch.waiters.into_iter().map(|waiter| (waiter, told.clone())));
                }
            }
        }
        for (waiter, told) in waiters {
            let _ = waiter.send(told);
        }
    }
}

/// The segments on their way that overlap `span`.
fn overlapping(fetches: &mut BTreeMap<u64, Fetch>, span: Span) -> impl Iterator<Item = &mut Fetch> {
    let first = span.start.saturating_sub(BLOCK);
    fetches
        .range_mut(first..span.end)
        .map(|(_, fetch)| fetch)
        .filter(move |fetch| fetch.span.overlaps(span))
}

/// The parts of `span` that are not on their way.
fn not_under_way(fetches: &BTreeMap<u64, Fetch>, span: Span) -> Vec<Span> {
    let mut parts = Vec::new();
    let mut at = span.start;
    for fetch in fetches.range(span.start.saturating_sub(BLOCK)..span.end).map(|(_, fetch)| fetch) {
        if !fetch.span.overlaps(span) {
            continue;
        }
        if fetch.span.start > at {
            parts.push(Span::between(at, fetch.span.start));
        }
        at = at.max(fetch.span.end);
    }
    if at < span.end {
        parts.push(Span::between(at, span.end));
    }
    parts
}

/// Whether a GET only failed because it met something that was done here. It reached beyond the blob's new
/// end, where nobody needs anything, or its version or name is not the blob's any more: who waits for it
/// asks again.
fn is_moot(error: &Error, disturbed_before: u64, state: &State) -> bool {
    state.disturbances() != disturbed_before
        && matches!(error.kind(), ErrorKind::InvalidRange | ErrorKind::Stale)
}

fn abandoned() -> Error {
    Error::new(ErrorKind::TimedOut, "read", "", "the read that this one waited for was given up")
        .with_retry(Retry::Temporary)
}

/// A GET that has been noted. Dropped before it is done, it gives its segments up.
struct GetOfFile {
    file: Arc<File>,
    rest: Span,
    blob: Arc<dyn crate::store::Blob>,
}

impl GetOfFile {
    async fn run(mut self) -> Result<()> {
        let blob = Arc::clone(&self.blob);
        let range = self.rest.range();
        let mut sink = Receive {
            segments: VecDeque::new(),
            filled: range.start,
            confirmed: range.start,
            get: &mut self,
        };
        let result = blob.read(range, &mut sink).await;
        if let Err(error) = &result {
            let rest = self.take_rest();
            self.file.give_up(rest, error);
        }
        debug_assert!(result.is_err() || self.rest.is_empty(), "a read gives its whole range");
        result
    }

    fn take_rest(&mut self) -> Span {
        let nothing = Span::at(self.rest.end, 0);
        std::mem::replace(&mut self.rest, nothing)
    }
}

impl Drop for GetOfFile {
    fn drop(&mut self) {
        let rest = self.take_rest();
        if !rest.is_empty() {
            self.file.give_up(rest, &abandoned());
        }
    }
}

/// Memory that a segment is received into.
enum Receiving {
    Small(Vec<u8>),
    Block(Buffer),
}

impl Receiving {
    fn new(pool: &Pool, len: u64) -> Receiving {
        if len < POOLED {
            Receiving::Small(Vec::with_capacity(len as usize))
        } else {
            Receiving::Block(pool.take())
        }
    }

    fn truncate(&mut self, len: u64) {
        match self {
            Receiving::Small(small) => small.truncate(len as usize),
            Receiving::Block(buffer) => buffer.truncate(len as usize),
        }
    }

    fn extend(&mut self, bytes: &[u8]) {
        match self {
            Receiving::Small(small) => small.extend_from_slice(bytes),
            Receiving::Block(buffer) => {
                buffer.extend(bytes);
            }
        }
    }

    fn len(&self) -> u64 {
        match self {
            Receiving::Small(small) => small.len() as u64,
            Receiving::Block(buffer) => buffer.len() as u64,
        }
    }

    fn freeze(self) -> Bytes {
        match self {
            Receiving::Small(small) => small.into(),
            Receiving::Block(buffer) => buffer.freeze(),
        }
    }
}

/// Cuts what a GET receives into segments, and keeps them back until they are confirmed.
struct Receive<'a> {
    /// What is not published yet, in order; only the last one may have room.
    segments: VecDeque<(Span, Receiving)>,
    /// Where the next byte belongs.
    filled: u64,
    /// Where the first byte belongs that was not confirmed.
    confirmed: u64,
    get: &'a mut GetOfFile,
}

impl Receive<'_> {
    /// The segment that the next byte belongs to.
    fn segment(&mut self) -> &mut (Span, Receiving) {
        if self.segments.back().is_none_or(|(span, _)| span.end == self.filled) {
            let rest = Span::between(self.filled, self.get.rest.end);
            let span = rest.split(BLOCK).next().expect("no more than was asked for");
            let receiving = Receiving::new(&self.get.file.shared.pool, span.len());
            self.segments.push_back((span, receiving));
        }
        self.segments.back_mut().expect("there is one now")
    }
}

impl Sink for Receive<'_> {
    fn put(&mut self, mut piece: &[u8]) {
        while !piece.is_empty() {
            let (span, receiving) = self.segment();
            let take = piece.len().min((span.len() - receiving.len()) as usize);
            receiving.extend(&piece[..take]);
            piece = &piece[take..];
            self.filled += take as u64;
        }
    }

    fn confirm(&mut self) {
        self.confirmed = self.filled;
        while self.segments.front().is_some_and(|(span, _)| span.end <= self.confirmed)
            && let Some((span, receiving)) = self.segments.pop_front()
        {
            self.get.rest.start = span.end;
            self.get.file.publish(span, receiving.freeze());
        }
    }

    fn retract(&mut self) {
        self.filled = self.confirmed;
        while self.segments.back().is_some_and(|(span, _)| span.start >= self.confirmed) {
            self.segments.pop_back();
        }
        if let Some((span, receiving)) = self.segments.back_mut() {
            receiving.truncate(self.confirmed - span.start);
        }
    }
}

/// The longest GET for windows of `window` bytes over so many connections, at most `max` bytes.
pub(super) fn longest_get(window: u64, connections: usize, max: u64) -> u64 {
    let share = max.min(window / connections.max(1) as u64);
    (share - share % BLOCK).clamp(SHORTEST_GET, LONGEST_GET)
}
