//! Copying between blobs inside the service.
//!
//! Whole sectors that hold data are copied by the service, in pieces, many in flight; holes of the source
//! become holes of the target; and a few bytes before the first whole sector or after the last one pass
//! through memory. Nothing dirty is left under a copy: what the source has is sent before, and what the
//! target has below a piece too, so that the piece is the newer of the two.
//!
//! A piece in flight is in `copies`. No update of the target that overlaps it is sent until it has ended. One
//! call at a time copies to a file, and the room behind its end is not given back meanwhile: what was copied
//! there is part of the file only once all before it is.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime};

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;

use super::file::File;
use super::holes::Kind;
use super::span::{SECTOR, Span};
use super::state::State;
use crate::store::{BlobMut, CopySource, Error, ErrorKind, Outcome, Result};

/// One call copies for this long; whoever wants more calls again, and can be interrupted in between.
const BATCH: Duration = Duration::from_secs(2);

/// A copy of one piece.
struct Piece {
    target: Span,
    result: Result<()>,
}

impl File {
    /// Copies up to `len` bytes of `source` from `from` on to `at`. Gives how many: fewer if that takes long or
    /// the source ends before, and none at its end. The file grows as needed.
    ///
    /// Errors: `Unsupported`, with nothing done, if these bytes must be read and written instead.
    pub async fn copy_from(
        self: &Arc<Self>,
        at: u64,
        source: &Arc<File>,
        from: u64,
        len: u64,
    ) -> Result<u64> {
        self.lock().check_writable()?;
        let len = len.min(source.len().saturating_sub(from));
        if len == 0 {
            return Ok(0);
        }
        if at % SECTOR != from % SECTOR {
            return Err(refused("the two offsets differ within a sector"));
        }
        if at.checked_add(len).is_none_or(|end| end > self.shared.max_len) {
            let why = format!("a blob is at most {} bytes", self.shared.max_len);
            return Err(Error::new(ErrorKind::TooLarge, "copy", format!("to {at}"), why));
        }
        let whole = Span::at(at, len).align_in(SECTOR);
        if whole.start != at || whole.is_empty() {
            let edge = len.min(SECTOR - at % SECTOR);
            let bytes = source.read(Span::at(from, edge)).await?;
            self.write(at, &bytes).await?;
            return Ok(bytes.len() as u64);
        }
        let (file, source) = (Arc::clone(self), Arc::clone(source));
        // In a task: a caller that gives up must not leave pieces behind that nobody waits for.
        let copied =
            self.shared.runtime.spawn(async move { file.copy(whole, &source, from).await });
        copied.await.unwrap_or_else(|_| Err(Error::new(ErrorKind::Other, "copy", "", "broken off")))
    }

    async fn copy(self: &Arc<Self>, target: Span, source: &Arc<File>, from: u64) -> Result<u64> {
        let _one_at_a_time = self.copying.lock().await;
        let started = Instant::now();
        if source.is_writable() {
            source.send_dirty().await?;
        }
        let Some(origin) = source.blob().copy_source().await? else {
            return Err(refused("this source cannot be copied by the service"));
        };
        let writer = self.writer()?;
        let shortened = self.lock().shortened;
        self.make_room(&writer, target.end).await?;
        self.pad_last_sector(target.start).await?;

        let mut flights = FuturesUnordered::new();
        // How far the pieces that were begun reach, and the first of them that failed.
        let mut begun = target.start;
        let mut failed: Option<Piece> = None;
        while begun < target.end && failed.is_none() && started.elapsed() < BATCH {
            let at = from + (begun - target.start);
            // Not by `?`: those in flight are waited for whatever happens.
            let zeroed = match source.next_part(at, target.end - begun).await {
                Ok(Kind::Data(len)) => {
                    let span = Span::at(begun, len);
                    begun = span.end;
                    flights.push(self.copy_piece(&origin, span, at));
                    Ok(())
                }
                Ok(Kind::Hole(len) | Kind::Unknown(len)) => {
                    let span = Span::at(begun, len);
                    begun = span.end;
                    self.zero(span, false).await.map_err(|error| (span, error))
                }
                Err(error) => Err((Span::at(begun, 0), error)),
            };
            if let Err((target, error)) = zeroed {
                failed = first(failed, Piece { target, result: Err(error) });
            }
            // Ended ones are taken out as they come; a full house is waited for.
            while flights.len() >= self.shared.connections {
                match flights.next().await {
                    Some(Piece { result: Ok(()), .. }) => {}
                    Some(piece) => failed = first(failed, piece),
                    None => break,
                }
            }
        }
        while let Some(piece) = flights.next().await {
            if piece.result.is_err() {
                failed = first(failed, piece);
            }
        }
        self.end_copy(Span::between(target.start, begun), failed, shortened)
    }

    /// Takes over what was copied up to the first piece that failed.
    fn end_copy(
        self: &Arc<Self>,
        begun: Span,
        failed: Option<Piece>,
        shortened: u64,
    ) -> Result<u64> {
        let done = failed.as_ref().map_or(begun.end, |piece| piece.target.start);
        let mut state = self.lock();
        state.modified = Some(SystemTime::now());
        if state.shortened == shortened && done > state.len {
            let grown = Span::between(state.len, done);
            let holes = state.holes.clone();
            state.extend(done);
            // The service holds what was copied there, not zeros.
            state.restore_data(&holes, grown);
        }
        if begun.end > state.len.next_multiple_of(SECTOR) {
            // Pieces after the one that failed must not come up when the file grows.
            state.cut = Some(state.cut.unwrap_or(u64::MAX).min(state.len));
        }
        drop(state);
        self.shared.note_unsettled(self);
        let error = match failed {
            Some(Piece { result: Err(error), .. }) => error,
            _ => return Ok(done - begun.start),
        };
        if error.kind() == ErrorKind::Fenced {
            self.refuse(&mut self.lock(), begun, &error);
            return Err(error);
        }
        if error.kind() == ErrorKind::Unsupported
            && !self.shared.copies_refused.swap(true, Ordering::Relaxed)
        {
            log::warn!(target: "io", "copied by reading and writing, as further ones may be: {error}");
        }
        if done > begun.start { Ok(done - begun.start) } else { Err(error) }
    }

    /// What the bytes from `at` on hold, `Kind` with a length of at most `len` and one piece.
    async fn next_part(self: &Arc<Self>, at: u64, len: u64) -> Result<Kind> {
        loop {
            let kind = self.lock().kind(at);
            // A piece may begin at any sector, but ends where pieces of its target would best begin.
            let until = |end: u64| end.next_multiple_of(SECTOR).min(at + len) - at;
            match kind {
                Kind::Data(end) => return Ok(Kind::Data(until(end).min(self.shared.max_update))),
                Kind::Hole(end) => {
                    let whole = end - end % SECTOR;
                    // A hole that ends inside a sector shares it with data.
                    return Ok(match whole > at {
                        true => Kind::Hole(until(whole)),
                        false => Kind::Data(until(end).min(SECTOR)),
                    });
                }
                Kind::Unknown(_) => self.learn_extents(at).await?,
            }
        }
    }

    async fn copy_piece(self: &Arc<Self>, origin: &CopySource, target: Span, from: u64) -> Piece {
        let result = self.try_piece(origin, target, from).await;
        Piece { target, result }
    }

    async fn try_piece(
        self: &Arc<Self>,
        origin: &CopySource,
        target: Span,
        from: u64,
    ) -> Result<()> {
        let (_slot, writer) = loop {
            let slot = self.shared.write_slots.acquire().await;
            if let Some(writer) = self.begin_piece(target)? {
                break (slot, writer);
            }
            // The flusher needs slots, too.
            drop(slot);
            // Whatever is dirty there is older, and must not be sent after the copy.
            self.send_dirty().await?;
            self.wait_until(|state| !state.is_in_flight(target)).await;
        };
        let range = from..from + target.len();
        let result = writer.copy_from(target.start, origin, range).await;
        {
            let mut state = self.lock();
            state.copies.retain(|copy| *copy != target);
            // Whether it was applied or not: nothing older is served, and no zeros.
            self.prepare_overwrite(&mut state, target);
            self.drop_cached(&mut state, target);
            state.holes.fill(target);
        }
        self.ended.notify_waiters();
        result
    }

    /// Notes that a piece is in flight, and tells to which blob: another one after a rename. `None`: something
    /// of it is dirty or in flight.
    fn begin_piece(&self, target: Span) -> Result<Option<Arc<dyn BlobMut>>> {
        let mut state = self.lock();
        state.check_writable()?;
        if state.orphan || state.frozen || state.cut.is_some() {
            return Err(refused("the file is being renamed, removed or cut"));
        }
        if state.is_in_flight(target) || state.dirty.extents(target).next().is_some() {
            return Ok(None);
        }
        state.copies.push(target);
        if let Some(touched) = &mut state.touched {
            touched.insert(target);
        }
        Ok(state.writer.clone())
    }

    /// Growth to `at` shows the rest of the last sector, which has been anybody's: it becomes zeros.
    async fn pad_last_sector(self: &Arc<Self>, at: u64) -> Result<()> {
        let len = self.len();
        if at > len && !len.is_multiple_of(SECTOR) {
            let rest = len.next_multiple_of(SECTOR) - len;
            self.write(len, &[0; SECTOR as usize][..rest as usize]).await?;
        }
        Ok(())
    }

    /// Makes room for updates up to `end`.
    async fn make_room(self: &Arc<Self>, writer: &Arc<dyn BlobMut>, end: u64) -> Result<()> {
        self.apply_cut(writer).await?;
        if self.lock().cut.is_some() {
            // What must be sent before may take long, and the cut takes the room away again.
            return Err(refused("the file is being cut"));
        }
        if end > writer.capacity() {
            writer.reserve(self.room_for(writer.capacity(), end)).await?;
        }
        Ok(())
    }
}

impl State {
    /// `part` holds data again wherever it did before the file was extended over it.
    fn restore_data(&mut self, before: &super::holes::Holes, part: Span) {
        let mut at = part.start;
        while at < part.end {
            match before.kind(at, part.end) {
                Kind::Data(end) => {
                    self.holes.fill(Span::between(at, end));
                    at = end;
                }
                Kind::Hole(end) | Kind::Unknown(end) => at = end,
            }
        }
    }
}

/// The piece that failed nearest to the start.
fn first(known: Option<Piece>, piece: Piece) -> Option<Piece> {
    match known {
        Some(known) if known.target.start < piece.target.start => Some(known),
        _ => Some(piece),
    }
}

fn refused(why: &str) -> Error {
    Error::new(ErrorKind::Unsupported, "copy", "", why).with_outcome(Outcome::NotApplied)
}
