//! One opened blob: what is in memory of it, and reads and writes against that.
//!
//! All handles of a file share one [`File`], so that a read sees every earlier write. One lock guards what
//! is known of its bytes (the table in `state.rs` says in which order they are looked for). It is
//! never held over I/O, nor while a reply is copied.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;

use super::Shared;
use super::dirty::{DirtyMap, Piece, Taken, is_zero};
use super::holes::Holes;
use super::page_cache::ContentId;
use super::readahead::StreamId;
use super::span::{BLOCK, SECTOR, Span, SpanSet};
use super::state::{Found, State, partial_sectors, read_only, zeros};
use crate::store::{Blob, BlobMut, Error, ErrorKind, Result};

/// Zeros inside one write are told from data in units of this many bytes. Below it they are not
/// worth a request of their own.
const ZERO_UNIT: u64 = 128 << 10;
/// Spans of holes remembered of a closed file, at most: 16 KiB of memory.
const MAX_KEPT_HOLES: usize = 512;
/// Blocks dropped from the cache one by one; for more than that, the file gets a new content name
/// instead and the old bytes age out.
const MAX_DROPPED_BLOCKS: u64 = 64 << 10;

/// An opened blob.
pub struct File {
    pub(super) shared: Arc<Shared>,
    pub(super) state: Mutex<State>,
    /// Wakes those who wait for an update in flight to end.
    pub(super) ended: Notify,
    /// Held while the length is changed or published: one at a time.
    pub(super) length: Arc<tokio::sync::Mutex<()>>,
    /// Held while the service copies to it.
    pub(super) copying: tokio::sync::Mutex<()>,
    /// Held while the service is asked for its extents: one at a time.
    pub(super) asking: tokio::sync::Mutex<()>,
}

/// Why a write cannot be taken at once.
#[derive(Debug)]
pub enum Blocked {
    /// These bytes must be read first: the rest of a sector that is written in part.
    Edges(Vec<Span>),
    /// Too much is dirty.
    Budget,
}

impl File {
    /// A file over a blob opened for reading, or, with `writer`, for updates. `content` names what is
    /// already cached of this version.
    pub fn new(
        shared: Arc<Shared>,
        content: ContentId,
        blob: Arc<dyn Blob>,
        writer: Option<Arc<dyn BlobMut>>,
    ) -> Arc<File> {
        let len = blob.len();
        let state = State {
            blob,
            writer,
            content,
            len,
            modified: None,
            dirty: DirtyMap::new(),
            writing: BTreeMap::new(),
            copies: Vec::new(),
            arrived: BTreeMap::new(),
            fetches: BTreeMap::new(),
            streams: HashMap::new(),
            holes: Holes::unknown(),
            touched: None,
            uncountable: false,
            gets: 0,
            cut: None,
            cutting: false,
            shortened: 0,
            moved: 0,
            ready: VecDeque::new(),
            actions: VecDeque::new(),
            tickets: Vec::new(),
            flusher: false,
            dirty_since: None,
            orphan: false,
            frozen: false,
            left_open: false,
            failed: None,
        };
        Arc::new(File {
            shared,
            state: Mutex::new(state),
            ended: Notify::new(),
            length: Arc::default(),
            copying: tokio::sync::Mutex::default(),
            asking: tokio::sync::Mutex::default(),
        })
    }

    /// A file over a blob that was just created: nothing in it is worth asking for.
    pub fn created(shared: Arc<Shared>, writer: Arc<dyn BlobMut>) -> Arc<File> {
        let blob: Arc<dyn Blob> = Arc::clone(&writer) as Arc<dyn Blob>;
        let file = File::new(shared, ContentId::fresh(), blob, Some(writer));
        file.state.lock().holes = Holes::empty();
        file
    }

    /// What is known of the holes, if it is little enough to keep after closing.
    pub fn known_holes(&self) -> Option<Holes> {
        let state = self.state.lock();
        (state.holes.pieces() <= MAX_KEPT_HOLES).then(|| state.holes.clone())
    }

    /// Takes over what [`known_holes`](File::known_holes) told of the same content before.
    pub fn set_known_holes(&self, holes: Holes) {
        self.state.lock().holes = holes;
    }

    /// Lets a file that was opened for reading be written from now on.
    pub fn make_writable(&self, writer: Arc<dyn BlobMut>) {
        let mut state = self.state.lock();
        state.blob = Arc::clone(&writer) as Arc<dyn Blob>;
        state.writer = Some(writer);
        state.moved += 1;
    }

    /// Makes it read-only again, over `blob`, a newer view of the same content. Only when settled.
    pub fn make_read_only(&self, blob: Arc<dyn Blob>) {
        let mut state = self.state.lock();
        state.blob = blob;
        state.writer = None;
        state.moved += 1;
    }

    /// The blob's name is being removed: lets what is in flight end and sends nothing more. What was
    /// read or written stays readable here.
    pub async fn orphan(&self) {
        {
            let mut state = self.state.lock();
            state.orphan = true;
            let all = Span::between(0, u64::MAX);
            self.drop_from_tickets(&mut state, all);
        }
        self.wait_until(State::is_quiet).await;
    }

    /// Holds back all that changes the blob, once what is under way has ended, for as long as the result
    /// lives. Reads that find the blob gone or changed meanwhile wait, and look again. Only one at a time.
    pub async fn freeze(self: &Arc<Self>) -> Frozen {
        self.state.lock().frozen = true;
        // Made before the wait: a caller that gives up must not leave it frozen.
        let mut frozen = Frozen { file: Arc::clone(self), renamed: None, length: None };
        // A flusher makes room and cuts as well, and may need the length for it: so it comes first.
        self.wait_until(|state| state.is_quiet() && !state.cutting && !state.flusher).await;
        frozen.length = Some(Arc::clone(&self.length).lock_owned().await);
        frozen
    }

    /// Says whether handles can still write it. If none can, what a failed close has left is sent, and the
    /// length published, as soon as the service takes it.
    pub fn leave_open(self: &Arc<Self>, left: bool) {
        self.state.lock().left_open = left;
        if left {
            self.shared.note_unsettled(self);
        }
    }

    pub(super) async fn wait_until(&self, is_so: impl Fn(&State) -> bool) {
        loop {
            let ended = self.ended.notified();
            tokio::pin!(ended);
            ended.as_mut().enable();
            if is_so(&self.state.lock()) {
                return;
            }
            ended.await;
        }
    }

    /// Whether it can be written.
    pub fn is_writable(&self) -> bool {
        self.state.lock().writer.is_some()
    }

    /// The blob, in the version that reads see.
    pub fn blob(&self) -> Arc<dyn Blob> {
        Arc::clone(&self.state.lock().blob)
    }

    /// The blob to update.
    pub(super) fn writer(&self) -> Result<Arc<dyn BlobMut>> {
        self.state.lock().writer.clone().ok_or_else(read_only)
    }

    /// The blob to update, if it is open for that.
    pub fn writer_handle(&self) -> Option<Arc<dyn BlobMut>> {
        self.state.lock().writer.clone()
    }

    /// What names this file's bytes in the page cache.
    pub fn content(&self) -> ContentId {
        self.state.lock().content
    }

    /// Length in bytes, writes not yet sent included.
    pub fn len(&self) -> u64 {
        self.state.lock().len
    }

    /// Whether there is nothing to read.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// When it was last written here; `None` if it was not.
    pub fn modified(&self) -> Option<SystemTime> {
        self.state.lock().modified
    }

    /// Bytes that the service has not confirmed, bookkeeping included.
    pub fn unconfirmed(&self) -> u64 {
        let state = self.state.lock();
        state.dirty.charged() + state.writing.values().map(|writing| writing.charge).sum::<u64>()
    }

    /// What the service has not confirmed, newest bytes, in order; nothing of a file whose name is gone.
    pub fn unsent(&self) -> Vec<Taken> {
        let state = self.state.lock();
        if state.orphan {
            return Vec::new();
        }
        let mut dirty = SpanSet::new();
        let mut unsent = Vec::new();
        for (span, zero) in state.dirty.extents(Span::between(0, u64::MAX)) {
            dirty.insert(span);
            let bytes = match state.dirty.piece(span.start) {
                Some(Piece::Data(bytes)) if !zero => Some(Bytes::copy_from_slice(bytes)),
                _ => None,
            };
            unsent.push(Taken { span, bytes });
        }
        for piece in state.writing.values().flat_map(|writing| {
            let wanted = |piece: &Taken| writing.superseded.gaps(piece.span);
            writing.pieces.iter().flat_map(move |piece| {
                wanted(piece).into_iter().map(move |part| (piece, part.align_out(SECTOR)))
            })
        }) {
            let (piece, part) = piece;
            for part in dirty.gaps(part.intersect(piece.span)) {
                let bytes = piece.bytes.as_ref();
                let bytes = bytes.map(|bytes| bytes.slice(part.within(piece.span.start)));
                unsent.push(Taken { span: part, bytes });
            }
        }
        unsent.sort_by_key(|taken| taken.span.start);
        unsent
    }

    /// Whether the service has everything, its length included.
    pub fn is_settled(&self) -> bool {
        self.state.lock().is_settled()
    }

    /// Why the file has failed for good, if it has.
    pub fn failure(&self) -> Option<Error> {
        self.state.lock().failed.clone()
    }

    /// Reads from memory if all of it is there. Never waits. `Err` lists what is missing.
    pub(super) fn read_now(&self, span: Span) -> std::result::Result<Bytes, Vec<Span>> {
        let mut state = self.state.lock();
        let span = span.intersect(Span::between(0, state.len));
        if span.is_empty() {
            return Ok(Bytes::new());
        }
        let cache = &self.shared.cache;
        let first = match state.find(cache, span.start, span.end) {
            Found::Clean(bytes) if bytes.len() as u64 == span.len() => Some(bytes),
            Found::Zero(len) if len == span.len() && len <= BLOCK => Some(zeros(len)),
            _ => None,
        };
        let bytes = match first {
            Some(bytes) => bytes,
            None => {
                let missing = state.missing(cache, span);
                if !missing.is_empty() {
                    return Err(missing);
                }
                state.assemble(cache, span).into()
            }
        };
        self.consume(&mut state, span);
        Ok(bytes)
    }

    /// Takes a write if memory allows it at once. Never waits, and either takes all or nothing.
    ///
    /// Errors: the file's own failure, `ReadOnly`, `TooLarge`.
    pub fn write_now(
        self: &Arc<Self>,
        at: u64,
        data: &[u8],
    ) -> Result<std::result::Result<(), Blocked>> {
        let mut state = self.state.lock();
        state.check_writable()?;
        let written = Span::at(at, data.len() as u64);
        if written.end > self.shared.max_len {
            return Err(Error::new(
                ErrorKind::TooLarge,
                "write",
                format!("at {at}"),
                format!("a blob is at most {} bytes", self.shared.max_len),
            ));
        }
        if written.is_empty() {
            return Ok(Ok(()));
        }
        if !self.shared.budget.admits(written.len()) {
            return Ok(Err(Blocked::Budget));
        }
        let cache = &self.shared.cache;
        let missing: Vec<Span> = partial_sectors(written, state.len)
            .into_iter()
            .flat_map(|sector| state.missing(cache, sector.intersect(Span::between(0, state.len))))
            .collect();
        if !missing.is_empty() {
            return Ok(Err(Blocked::Edges(missing)));
        }
        let before = state.dirty.charged();
        self.put_dirty(&mut state, written, data);
        self.shared.budget.adjust(before, state.dirty.charged());
        state.modified = Some(SystemTime::now());
        self.note_dirty(&mut state, written);
        Ok(Ok(()))
    }

    /// Makes the bytes of `written` dirty; partly written sectors are completed from what is there.
    fn put_dirty(&self, state: &mut State, written: Span, data: &[u8]) {
        let pool = &self.shared.pool;
        self.prepare_overwrite(state, written.align_out(SECTOR));
        for sector in partial_sectors(written, state.len) {
            let mut bytes = state.sector(&self.shared.cache, sector.start);
            let part = written.intersect(sector);
            if !part.is_empty() {
                bytes[part.within(sector.start)].copy_from_slice(&data[part.within(written.start)]);
            }
            self.prepare_overwrite(state, sector);
            if is_zero(&bytes) {
                state.dirty.zero(sector);
            } else {
                state.dirty.write(pool, sector.start, &bytes);
            }
        }
        let whole = written.align_in(SECTOR);
        if !whole.is_empty() {
            let mut data_from = whole.start;
            for unit in whole.split(ZERO_UNIT) {
                if is_zero(&data[unit.within(written.start)]) {
                    let before = Span::between(data_from, unit.start);
                    state.dirty.write(pool, before.start, &data[before.within(written.start)]);
                    state.dirty.zero(unit);
                    data_from = unit.end;
                }
            }
            let rest = Span::between(data_from, whole.end);
            state.dirty.write(pool, rest.start, &data[rest.within(written.start)]);
        }
        state.extend(written.end);
    }

    /// Sees to it that older bytes of `span`, on their way or arrived, do not come up again.
    pub(super) fn prepare_overwrite(&self, state: &mut State, span: Span) {
        for fetch in state.fetches.values_mut().filter(|fetch| fetch.span.overlaps(span)) {
            fetch.overwritten.insert(span);
        }
        self.settle_arrived(state, |at, len, _| Span::at(at, len).overlaps(span));
    }

    /// Moves arrived bytes that `which` picks into the page cache.
    pub(super) fn settle_arrived(
        &self,
        state: &mut State,
        which: impl Fn(u64, u64, StreamId) -> bool,
    ) {
        if state.arrived.is_empty() {
            return;
        }
        let picked: Vec<u64> = state
            .arrived
            .iter()
            .filter(|(at, (bytes, stream))| which(**at, bytes.len() as u64, *stream))
            .map(|(&at, _)| at)
            .collect();
        for at in picked {
            if let Some((bytes, _)) = state.arrived.remove(&at) {
                self.shared.ahead.release(bytes.len() as u64);
                self.shared.cache.insert(state.content, at, bytes);
            }
        }
    }

    /// Bytes that were read to their end need not be held for the reader any more.
    fn consume(&self, state: &mut State, read: Span) {
        if state.arrived.is_empty() {
            return;
        }
        let spans = state.arrived.range(..read.end).rev();
        let done: Vec<u64> = spans
            .map(|(&at, (bytes, _))| Span::at(at, bytes.len() as u64))
            .take_while(|span| span.end > read.start)
            .filter(|span| span.end <= read.end)
            .map(|span| span.start)
            .collect();
        for at in done {
            if let Some((bytes, _)) = state.arrived.remove(&at) {
                self.shared.ahead.release(bytes.len() as u64);
                self.shared.cache.insert(state.content, at, bytes);
            }
        }
    }

    /// Writes, waiting for the bytes around the edges and for room as needed.
    ///
    /// Errors: as [`write_now`](File::write_now); `TimedOut` if no room came free within the deadline.
    pub async fn write(self: &Arc<Self>, at: u64, data: &[u8]) -> Result<()> {
        loop {
            match self.write_now(at, data)? {
                Ok(()) => return Ok(()),
                Err(Blocked::Edges(spans)) => self.load(&spans).await?,
                Err(Blocked::Budget) => self.shared.wait_for_room(data.len() as u64).await?,
            }
        }
    }

    /// Reads `span`, cut at the end of the file.
    pub async fn read(self: &Arc<Self>, span: Span) -> Result<Bytes> {
        loop {
            match self.read_now(span) {
                Ok(bytes) => return Ok(bytes),
                Err(missing) => self.load(&missing).await?,
            }
        }
    }

    /// Makes the bytes of `span` zero, without sending or keeping any; the file grows to hold them if
    /// `grow`, and they are cut at its end otherwise.
    pub async fn zero(self: &Arc<Self>, span: Span, grow: bool) -> Result<()> {
        let span = if grow { span } else { span.intersect(Span::between(0, self.len())) };
        let whole = span.align_in(SECTOR);
        if whole.is_empty() {
            return self.write(span.start, &vec![0; span.len() as usize]).await;
        }
        for edge in [Span::between(span.start, whole.start), Span::between(whole.end, span.end)] {
            self.write(edge.start, &[0; SECTOR as usize][..edge.len() as usize]).await?;
        }
        if grow && self.len() < span.end {
            self.set_len(span.end).await?;
        }
        let mut state = self.state.lock();
        state.check_writable()?;
        let before = state.dirty.charged();
        self.prepare_overwrite(&mut state, whole);
        state.dirty.zero(whole);
        self.shared.budget.adjust(before, state.dirty.charged());
        state.modified = Some(SystemTime::now());
        self.note_dirty(&mut state, whole);
        Ok(())
    }

    /// Changes the length. The service knows it when this returns.
    pub async fn set_len(self: &Arc<Self>, len: u64) -> Result<()> {
        if len > self.shared.max_len {
            return Err(Error::new(
                ErrorKind::TooLarge,
                "truncate",
                format!("to {len}"),
                format!("a blob is at most {} bytes", self.shared.max_len),
            ));
        }
        let one_at_a_time = self.length.lock().await;
        self.writer()?;
        loop {
            let missing = {
                let mut state = self.state.lock();
                state.check_writable()?;
                let old = state.len;
                if len <= old {
                    self.shorten(&mut state, len);
                    Vec::new()
                } else {
                    let tail = Span::between(old - old % SECTOR, old);
                    let missing = state.missing(&self.shared.cache, tail);
                    if missing.is_empty() {
                        let before = state.dirty.charged();
                        self.put_dirty(&mut state, Span::at(len, 0), &[]);
                        self.shared.budget.adjust(before, state.dirty.charged());
                        if state.dirty.charged() != before {
                            self.note_dirty(&mut state, tail);
                        }
                    }
                    missing
                }
            };
            if missing.is_empty() {
                break;
            }
            self.load(&missing).await?;
        }
        {
            let mut state = self.state.lock();
            state.modified = Some(SystemTime::now());
            if state.orphan {
                // The service has nothing that could be shorter or longer.
                return Ok(());
            }
        }
        // Until the service knows: what fails here is tried again at the latest by the unmount.
        self.shared.note_unsettled(self);
        drop(one_at_a_time);
        self.publish_len(false).await
    }

    /// Forgets everything from `len` on and notes that the service must be cut there.
    fn shorten(&self, state: &mut State, len: u64) {
        let old = state.len;
        let gone = Span::between(len, u64::MAX);
        if len == old {
            return;
        }
        for writing in state.writing.values_mut() {
            writing.superseded.insert(gone);
        }
        for fetch in state.fetches.values_mut() {
            fetch.overwritten.insert(gone);
        }
        let before = state.dirty.charged();
        state.dirty.truncate(len);
        self.shared.budget.adjust(before, state.dirty.charged());
        self.settle_arrived(state, |at, bytes, _| at + bytes > len);
        self.drop_cached(state, Span::between(len, old));
        let sectors = Span::between(len.next_multiple_of(SECTOR), old.next_multiple_of(SECTOR));
        state.holes.add(sectors);
        state.shortened += 1;
        state.len = len;
        state.cut = Some(state.cut.map_or(len, |cut| cut.min(len)));
        self.drop_from_tickets(state, Span::between(sectors.start, u64::MAX));
    }

    /// Drops clean bytes of `span`; all of them, if looking for those would take long.
    pub(super) fn drop_cached(&self, state: &mut State, span: Span) {
        if span.len() / BLOCK > MAX_DROPPED_BLOCKS {
            state.content = ContentId::fresh();
        } else {
            self.shared.cache.remove(state.content, span);
        }
    }

    /// Cuts the service's blob as `cut` says, once nothing beyond is in flight. Does nothing if that would
    /// show more of the file and its end must be sent first.
    pub(super) async fn apply_cut(&self, writer: &Arc<dyn BlobMut>) -> Result<()> {
        loop {
            let ended = self.ended.notified();
            let cut = {
                let mut state = self.state.lock();
                let Some(cut) = state.cut else { return Ok(()) };
                if writer.len() < cut && state.unsent_end(writer.len()).is_some() {
                    return Ok(());
                }
                let beyond = |span: &Span| span.end > cut;
                let mut updates = state.writing.values().map(|writing| &writing.span);
                let waits = updates.any(beyond) || state.copies.iter().any(beyond);
                if state.cutting || waits {
                    None
                } else {
                    state.cutting = true;
                    Some(cut)
                }
            };
            let Some(cut) = cut else {
                ended.await;
                continue;
            };
            let _cutting = Cutting(self);
            writer.set_len(cut, false).await?;
            let mut state = self.state.lock();
            if state.cut == Some(cut) {
                state.cut = None;
            }
        }
    }

    /// Locks the state, for tests and for the other parts of the data path.
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }
}

/// Busy with the cut. Dropped in the middle too, when a caller gives up: others then do it.
struct Cutting<'a>(&'a File);

impl Drop for Cutting<'_> {
    fn drop(&mut self) {
        self.0.state.lock().cutting = false;
        self.0.ended.notify_waiters();
    }
}

/// Whatever changes the blob is held back until this is dropped.
#[derive(Debug)]
pub struct Frozen {
    file: Arc<File>,
    renamed: Option<Arc<dyn BlobMut>>,
    /// Those who change the length wait for it, and ask for the writer when they have it.
    length: Option<tokio::sync::OwnedMutexGuard<()>>,
}

impl Frozen {
    /// Lets updates go on, under the blob's new name.
    pub fn thaw_renamed(mut self, writer: Arc<dyn BlobMut>) {
        self.renamed = Some(writer);
    }

    /// Nothing can be sent under any name: every later write, fsync and close fails.
    pub fn fail(self, error: Error) {
        self.file.state.lock().fail(error);
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        let mut state = self.file.state.lock();
        state.frozen = false;
        if let Some(writer) = self.renamed.take() {
            state.blob = Arc::clone(&writer) as Arc<dyn Blob>;
            state.writer = Some(writer);
            state.moved += 1;
        }
        self.file.wake_flusher(&mut state);
        drop(state);
        self.file.ended.notify_waiters();
    }
}

impl fmt::Debug for File {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.state.lock();
        f.debug_struct("File")
            .field("blob", &state.blob)
            .field("len", &state.len)
            .field("dirty", &state.dirty.charged())
            .finish_non_exhaustive()
    }
}
