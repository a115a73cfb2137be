//! Where an opened blob holds data: what callers are told, and when the service is asked.
//!
//! A file that was created here is known from its first byte. Of others the service is asked once a second
//! GET shows that somebody reads on in it, in the background; and whenever a caller seeks a hole or counts
//! what takes storage. An answer comes in bounded pieces, so a seek in a fragmented blob goes from one to
//! the next.

use std::ops::Range;
use std::sync::Arc;

use super::dirty::Piece;
use super::file::File;
use super::holes::Kind;
use super::span::{SECTOR, Span, SpanSet};
use super::state::{Found, State};
use crate::store::{Error, ErrorKind, Result};

/// A blob shorter than this is read without asking for its holes: a request costs as much as its bytes.
const LEAST_ASKED: u64 = 1 << 20;
/// The GET with which a reader has shown that it goes on.
const ASKED_AT_GET: u32 = 2;
/// Requests that counting the bytes of one file may take: 640,000 extents.
const MOST_COUNTED: u32 = 64;

impl File {
    /// Where data (or, if `hole`, a hole; every file ends with one) is found from `at` on, which lies inside
    /// the file. `None`: no data follows.
    ///
    /// What was written and not yet sent counts; zeros count as a hole wherever they will be cleared.
    pub async fn seek(self: &Arc<Self>, at: u64, hole: bool) -> Result<Option<u64>> {
        loop {
            let unknown = {
                let state = self.lock();
                match state.seek(at, hole) {
                    Ok(found) => return Ok(found),
                    Err(unknown) => unknown,
                }
            };
            self.learn_extents(unknown).await?;
        }
    }

    /// Bytes that take storage, unsent ones included; `None` if that is not known without asking. A blob
    /// in too many pieces to be counted is told as if it had no holes.
    pub fn allocated(&self) -> Option<u64> {
        let state = self.lock();
        let whole = Span::between(0, state.len.next_multiple_of(SECTOR));
        if state.uncountable {
            return Some(whole.end);
        }
        if !state.holes.knows(whole) {
            return None;
        }
        // A dirty extent over data that was sent counts once.
        let unsent = state.dirty.extents(whole).filter(|(_, zero)| !zero);
        let unsent = unsent.map(|(span, _)| span.len() - state.holes.data_in(span));
        Some(state.holes.data_in(whole) + unsent.sum::<u64>())
    }

    /// Asks the service for what [`allocated`](File::allocated) needs to know, within bounds.
    pub async fn count_allocated(self: &Arc<Self>) -> Result<()> {
        for _ in 0..MOST_COUNTED {
            let unknown = {
                let state = self.lock();
                let whole = Span::between(0, state.len.next_multiple_of(SECTOR));
                state.holes.first_unknown(whole)
            };
            match unknown {
                None => return Ok(()),
                Some(unknown) => self.learn_extents(unknown.start).await?,
            }
        }
        self.lock().uncountable = true;
        Ok(())
    }

    /// A GET at `at` begins: asks in the background for the holes from there on, once it is worth it.
    pub(super) fn note_get(self: &Arc<Self>, state: &mut State, at: u64) {
        state.gets = state.gets.saturating_add(1);
        let asked = state.gets >= ASKED_AT_GET
            && state.len >= LEAST_ASKED
            && state.touched.is_none()
            && !state.holes.knows(Span::at(at, 1));
        if !asked {
            return;
        }
        // Not again for every GET until the answer is in.
        state.gets = 0;
        let file = Arc::clone(self);
        self.shared.runtime.spawn(async move {
            if let Err(error) = file.learn_extents(at).await {
                log::debug!(target: "io", "holes are read as data: {error}");
                // Whoever needs to know asks again; reads go on without.
                file.lock().gets = ASKED_AT_GET - 1;
            }
        });
    }

    /// Asks the service for the extents from `at` on, as far as one answer reaches, unless they are known.
    /// If the file was disturbed meanwhile they may not be: who needs them looks again.
    pub(super) async fn learn_extents(self: &Arc<Self>, at: u64) -> Result<()> {
        let before = self.lock().disturbances();
        let file = Arc::clone(self);
        // In a task: a caller that gives up must not leave `touched` behind.
        let asked = self.shared.runtime.spawn(async move { file.ask_extents(at).await });
        let broken_off = |_| Err(Error::new(ErrorKind::Other, "seek", "", "broken off"));
        let learnt = asked.await.unwrap_or_else(broken_off);
        self.unless_disturbed(before, learnt).await
    }

    async fn ask_extents(&self, at: u64) -> Result<()> {
        let _one_at_a_time = self.asking.lock().await;
        let (blob, asked) = {
            let mut state = self.lock();
            let there = state.of_service();
            if at >= there.end {
                let beyond = Span::between(at, state.len.next_multiple_of(SECTOR));
                state.holes.add(beyond);
                return Ok(());
            }
            let wanted = there.intersect(Span::between(at - at % SECTOR, u64::MAX));
            let Some(asked) = state.holes.first_unknown(wanted) else {
                return Ok(());
            };
            let mut touched = SpanSet::new();
            state.writing.values().for_each(|writing| touched.insert(writing.span));
            state.copies.iter().for_each(|copy| touched.insert(*copy));
            state.touched = Some(touched);
            (Arc::clone(&state.blob), asked)
        };
        let answer = blob.extents(asked.range()).await;
        let mut state = self.lock();
        let touched = state.touched.take().unwrap_or_default();
        let answer = answer?;
        // Holes are made of whole sectors; a blob's length may end inside of one.
        let told = Span::between(asked.start, answer.end).align_out(SECTOR);
        let whole =
            |part: Range<u64>| Span::between(part.start, part.end).align_out(SECTOR).range();
        let data: Vec<_> = answer.data.into_iter().map(whole).collect();
        state.holes.learn(told, &data, &touched);
        // What was touched is not a hole for sure; it is asked for again only once it is forgotten.
        for part in touched.parts(told) {
            if !state.holes.knows(part) {
                state.holes.fill(part);
            }
        }
        Ok(())
    }
}

impl State {
    /// What the service can be asked about.
    fn of_service(&self) -> Span {
        let capacity = self.writer.as_ref().map(|writer| writer.capacity());
        Span::between(0, capacity.unwrap_or_else(|| self.blob.len()))
    }

    /// See [`File::seek`]; the error is where nobody knows.
    fn seek(&self, from: u64, hole: bool) -> std::result::Result<Option<u64>, u64> {
        let mut at = from;
        while at < self.len {
            match self.kind(at) {
                Kind::Data(_) if !hole => return Ok(Some(at)),
                Kind::Hole(_) if hole => return Ok(Some(at)),
                Kind::Data(end) | Kind::Hole(end) => at = end,
                Kind::Unknown(_) => return Err(at),
            }
        }
        Ok(hole.then_some(self.len))
    }

    /// Whether the byte at `at` is data for those who ask now, and how far that reaches.
    pub(super) fn kind(&self, at: u64) -> Kind {
        let mut end = self.len;
        match self.dirty.piece(at) {
            Some(Piece::Zero(len)) => return Kind::Hole(at + len),
            Some(Piece::Data(bytes)) => return Kind::Data(at + bytes.len() as u64),
            None => end = end.min(self.dirty.next_start(at).unwrap_or(u64::MAX)),
        }
        if let Some((_, writing)) = self.writing.range(..=at).next_back()
            && at < writing.span.end
        {
            return match writing.find(at, end) {
                Found::Zero(len) => Kind::Hole(at + len),
                Found::Clean(bytes) => Kind::Data(at + bytes.len() as u64),
                Found::Dirty(_) | Found::Missing(_) => unreachable!("it is being sent"),
            };
        }
        let next = self.writing.range(at + 1..).next().map(|(&start, _)| start);
        end = end.min(next.unwrap_or(u64::MAX));
        let there = self.of_service().end;
        if self.cut.is_some_and(|cut| at >= cut) || at >= there {
            return Kind::Hole(end);
        }
        self.holes.kind(at, end.min(there))
    }
}
