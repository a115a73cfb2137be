//! Sending what is dirty: one flusher task for each file that has something to send.
//!
//! A sector goes through these states; `Rewritten` is a sector that is in `writing` and in `dirty`.
//!
//! | state | write | picked to be sent | confirmed | refused |
//! |---|---|---|---|---|
//! | Clean | Dirty | | | |
//! | Dirty | Dirty | Writing | | |
//! | Writing | Rewritten | | Clean | Dirty |
//! | Rewritten | Rewritten | never | Dirty | Dirty |
//!
//! **Two requests that overlap are never in flight together**: the service applies them in any order.
//! The bytes of a request are frozen when it is picked; a write to them meanwhile makes new ones.
//!
//! Before the service may show a longer file, the sector in which it has the end is sent: what a truncation
//! cut off stands there until then, and a crash would show it.
//!
//! Sent are: windows of [`MAX_PUT`] bytes once they are full, at once; everything, on fsync, close, when
//! it has been dirty for [`MAX_AGE`], and when memory is tight and nothing else is being sent.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::Shared;
use super::coalesce::{self, Action};
use super::dirty::Taken;
use super::file::File;
use super::span::{BLOCK, SECTOR, Span, SpanSet};
use super::state::{Found, State, zeros};
use crate::store::{BlobMut, Error, ErrorKind, Outcome, Result, Retry};

/// Bytes of one Put Page, at most, and the alignment of full ones. The limit of the service.
pub(super) const MAX_PUT: u64 = 4 << 20;
/// What is dirty is sent after this long, though nobody asked.
const MAX_AGE: Duration = Duration::from_secs(5);
/// How often ages are looked at, while anything is dirty.
const SWEEP: Duration = Duration::from_secs(1);
/// A file that grows gets room for this many bytes ahead of the writer, and then for so many times as
/// much: room costs nothing in a page blob, and each step a pause of all updates.
const FIRST_RESERVE: u64 = 64 << 20;
const RESERVE_FACTOR: u64 = 64;
/// Every byte that a file can have.
const EVERYTHING: Span = Span { start: 0, end: u64::MAX };

/// An update in flight.
pub(super) struct Writing {
    pub(super) span: Span,
    pub(super) pieces: Vec<Taken>,
    /// What was cut off meanwhile: not to be served, kept or sent again.
    pub(super) superseded: SpanSet,
    /// What it is charged with, in bytes.
    pub(super) charge: u64,
}

impl Writing {
    /// The bytes at `at`, as far as they reach towards `end`.
    pub(super) fn find(&self, at: u64, end: u64) -> Found<'_> {
        if let Some(cut) = self.superseded.find(at) {
            return Found::Zero(cut.end.min(end) - at);
        }
        let end = end.min(self.superseded.next_start(at).unwrap_or(u64::MAX));
        let index = self.pieces.partition_point(|piece| piece.span.end <= at);
        let piece = &self.pieces[index];
        let part = Span::between(at, end.min(piece.span.end));
        match &piece.bytes {
            Some(bytes) => Found::Clean(bytes.slice(part.within(piece.span.start))),
            None => Found::Zero(part.len()),
        }
    }
}

/// Somebody's wish that all that was dirty at one moment be sent.
pub(super) struct Ticket {
    /// What of it is still to be sent.
    dirty: SpanSet,
    /// What of it is in flight. A span that was written again while in flight is in both: the end of
    /// the older request says nothing of the newer bytes.
    sent: SpanSet,
    done: Option<oneshot::Sender<Result<()>>>,
}

impl Ticket {
    /// A wish for everything that `state` holds of `within`, unless that is nothing.
    fn new(
        state: &State,
        within: Span,
        done: Option<oneshot::Sender<Result<()>>>,
    ) -> Option<Ticket> {
        let mut dirty = SpanSet::new();
        for (span, _) in state.dirty.extents(within) {
            dirty.insert(span.intersect(within));
        }
        let mut sent = SpanSet::new();
        for writing in state.writing.values() {
            for part in writing.superseded.gaps(writing.span.intersect(within)) {
                sent.insert(part);
            }
        }
        let wanted = !dirty.is_empty() || !sent.is_empty();
        wanted.then_some(Ticket { dirty, sent, done })
    }

    fn note_sent(&mut self, span: Span) {
        for part in self.dirty.parts(span) {
            self.sent.insert(part);
        }
        self.dirty.remove(span);
    }

    /// What was sent of `span` was not taken, and is to be sent again.
    fn note_unsent(&mut self, span: Span) {
        for part in self.sent.parts(span) {
            self.dirty.insert(part);
        }
        self.sent.remove(span);
    }

    fn touches(&self, span: Span) -> bool {
        !self.dirty.parts(span).is_empty() || !self.sent.parts(span).is_empty()
    }
}

/// What the flusher does next.
enum Step {
    /// There is nothing to send.
    Stop,
    /// Everything that could be sent overlaps what is in flight.
    Wait,
    /// The blob must be cut first.
    Cut,
    /// Make room: by publishing the length, or by reserving this capacity.
    Publish,
    Reserve(u64),
    Put(Span, Vec<Bytes>),
    Clear(Span),
    /// It took something that need not be sent.
    Again,
}

impl File {
    /// Sends everything that is dirty now and returns when the service has confirmed it and knows the
    /// length. `last`: no handle can write after this, so room reserved for growth is given back.
    ///
    /// Errors: the first one met. What was not sent stays dirty, unless the file has failed for good.
    pub async fn flush(self: &Arc<Self>, last: bool) -> Result<()> {
        let writer = self.lock().writer.clone().filter(|_| last);
        let _closing = writer.as_ref().map(Closing::begin);
        self.send_dirty().await?;
        if self.is_read_only_or_orphan() {
            return Ok(());
        }
        let published = self.publish_len(last).await;
        if let Err(error) = &published {
            self.lock().note_gone(error);
        }
        published
    }

    /// Whether there is nothing to be sent, nor ever will be.
    fn is_read_only_or_orphan(&self) -> bool {
        let state = self.lock();
        state.writer.is_none() || state.orphan
    }

    /// Sends everything that is dirty now and returns when the service has confirmed it. The service may not
    /// know the length yet.
    pub(super) async fn send_dirty(self: &Arc<Self>) -> Result<()> {
        self.send(EVERYTHING).await
    }

    /// The same with what of `within` is dirty.
    async fn send(self: &Arc<Self>, within: Span) -> Result<()> {
        let (done, told) = oneshot::channel();
        {
            let mut state = self.lock();
            if state.writer.is_none() || state.orphan {
                return Ok(());
            }
            state.check_writable()?;
            let Some(ticket) = Ticket::new(&state, within, Some(done)) else { return Ok(()) };
            state.tickets.push(ticket);
            self.wake_flusher(&mut state);
        }
        told.await.unwrap_or_else(|_| {
            let why = "the flusher ended without an answer";
            Err(Error::new(ErrorKind::Other, "flush", "", why))
        })
    }

    /// Does what a close could not do; if it still cannot, the sweeper calls again.
    async fn close_again(self: Arc<Self>) {
        if self.flush(true).await.is_err() && self.failure().is_none() {
            self.leave_open(true);
        }
    }

    /// Makes the service know the length.
    pub(super) async fn publish_len(self: &Arc<Self>, last: bool) -> Result<()> {
        let mut one_at_a_time = self.length.lock().await;
        loop {
            let writer = self.writer()?;
            let (len, cut, end) = {
                let state = self.lock();
                if state.orphan {
                    return Ok(());
                }
                state.check_writable()?;
                (state.len, state.cut, state.unsent_end(writer.len()))
            };
            if let Some(end) = end.filter(|_| writer.len() < cut.unwrap_or(len)) {
                // Whoever sends it may want to make room before.
                drop(one_at_a_time);
                self.send(end).await?;
                one_at_a_time = self.length.lock().await;
                continue;
            }
            if cut.is_some() {
                self.apply_cut(&writer).await?;
                continue;
            }
            // The room of a copy under way holds what is not part of the file yet.
            let no_copy = self.copying.try_lock();
            let trim = last && no_copy.is_ok();
            let trimmed = !trim || writer.capacity() == len.next_multiple_of(SECTOR);
            if writer.len() == len && trimmed {
                break;
            }
            writer.set_len(len, !trim).await?;
        }
        self.shared.note_settled(self);
        Ok(())
    }

    /// Makes the service know the length as it is by now, which makes room for what is dirty below it.
    async fn publish_growth(&self) -> Result<()> {
        // A length read before somebody else's change must not arrive after it.
        let _one_at_a_time = self.length.lock().await;
        let writer = self.writer()?;
        let (len, must_wait) = {
            let state = self.lock();
            (state.len, state.cut.is_some() || state.unsent_end(writer.len()).is_some())
        };
        if must_wait || writer.len() == len {
            return Ok(());
        }
        writer.set_len(len, true).await
    }

    /// Takes note that `written` became dirty, and sends what should not wait.
    pub(super) fn note_dirty(self: &Arc<Self>, state: &mut State, written: Span) {
        if state.dirty_since.is_none() {
            state.dirty_since = Some(Instant::now());
            self.shared.note_unsettled(self);
        }
        if let Some(window) = state.full_window(written) {
            state.ready.push_back(window);
            self.wake_flusher(state);
        } else if self.shared.budget.is_tight() {
            self.send_unless_busy(state);
        }
    }

    /// Memory is needed: sends everything, unless something is being sent already.
    pub(super) fn relieve(self: &Arc<Self>) {
        self.send_unless_busy(&mut self.lock());
    }

    fn send_unless_busy(self: &Arc<Self>, state: &mut State) {
        if state.writing.is_empty() && state.ready.is_empty() && state.tickets.is_empty() {
            self.send_everything(state);
        }
    }

    fn send_everything(self: &Arc<Self>, state: &mut State) {
        if state.may_send()
            && let Some(ticket) = Ticket::new(state, EVERYTHING, None)
        {
            state.tickets.push(ticket);
            self.wake_flusher(state);
        }
    }

    pub(super) fn wake_flusher(self: &Arc<Self>, state: &mut State) {
        if !state.flusher && state.may_send() {
            state.flusher = true;
            let file = Arc::clone(self);
            self.shared.runtime.spawn(async move { file.run_flusher().await });
        }
    }

    async fn run_flusher(self: Arc<Self>) {
        loop {
            let permit = Arc::clone(&self.shared.write_slots).acquire_owned().await;
            let permit = permit.expect("the semaphore is never closed");
            let ended = self.ended.notified();
            tokio::pin!(ended);
            ended.as_mut().enable();
            let (step, writer) = {
                let mut state = self.lock();
                // Asked anew each time: it is another one after a rename.
                let writer = state.writer.clone();
                let step = match &writer {
                    Some(writer) => self.next_step(&mut state, writer),
                    None => Step::Stop,
                };
                state.flusher = !matches!(step, Step::Stop);
                (step, writer)
            };
            let Some(writer) = writer.filter(|_| !matches!(step, Step::Stop)) else {
                self.ended.notify_waiters();
                return;
            };
            let result = match step {
                Step::Stop | Step::Again => Ok(()),
                Step::Wait => {
                    drop(permit);
                    ended.await;
                    Ok(())
                }
                Step::Cut => self.apply_cut(&writer).await,
                Step::Publish => self.publish_growth().await,
                Step::Reserve(capacity) => writer.reserve(capacity).await,
                Step::Put(span, body) => {
                    self.spawn_update(&writer, permit, span, Some(body));
                    Ok(())
                }
                Step::Clear(span) => {
                    self.spawn_update(&writer, permit, span, None);
                    Ok(())
                }
            };
            if let Err(error) = result {
                let mut state = self.lock();
                let all = Span::between(0, u64::MAX);
                self.refuse(&mut state, all, &error);
            }
        }
    }

    /// Runs an update in a task of its own: a Put of `body`, or a Clear.
    fn spawn_update(
        self: &Arc<Self>,
        writer: &Arc<dyn BlobMut>,
        permit: OwnedSemaphorePermit,
        span: Span,
        body: Option<Vec<Bytes>>,
    ) {
        let file = Arc::clone(self);
        let writer = Arc::clone(writer);
        self.shared.runtime.spawn(async move {
            let clear = body.is_none();
            let result = match body {
                Some(body) => writer.write_at(span.start, body).await,
                None => writer.clear(span.range()).await,
            };
            drop(permit);
            file.end_update(span, clear, result);
        });
    }

    fn end_update(self: &Arc<Self>, span: Span, clear: bool, result: Result<()>) {
        {
            let mut state = self.lock();
            let Some(writing) = state.writing.remove(&span.start) else {
                return;
            };
            match &result {
                Ok(()) => {
                    self.confirm(&mut state, &writing, clear);
                    self.shared.budget.adjust(writing.charge, 0);
                }
                Err(error) => {
                    let before = state.dirty.charged() + writing.charge;
                    for piece in &writing.pieces {
                        for part in writing.superseded.gaps(piece.span) {
                            let bytes = piece.bytes.as_ref();
                            let bytes = bytes.map(|all| all.slice(part.within(piece.span.start)));
                            restore(&self.shared, &mut state, part, bytes);
                        }
                    }
                    self.shared.budget.adjust(before, state.dirty.charged());
                    let capacity = state.writer.as_ref().map_or(0, |writer| writer.capacity());
                    if error.kind() == ErrorKind::InvalidRange && span.end > capacity {
                        // A close of another descriptor has given its room back meanwhile; it is made
                        // again, and these bytes are sent then.
                        for ticket in &mut state.tickets {
                            ticket.note_unsent(span);
                        }
                        self.send_everything(&mut state);
                    } else {
                        self.refuse(&mut state, span, error);
                    }
                }
            }
            if state.dirty.is_empty() && state.writing.is_empty() {
                state.dirty_since = None;
            }
        }
        self.ended.notify_waiters();
    }

    /// An update was applied: what was sent is clean now.
    fn confirm(&self, state: &mut State, writing: &Writing, clear: bool) {
        let cache = &self.shared.cache;
        if clear {
            // Of what was cut off meanwhile, too, the service has zeros or nothing.
            state.holes.add(writing.span);
            self.forget_clean(state, writing.span);
        } else {
            for piece in &writing.pieces {
                for part in piece.span.split(BLOCK) {
                    let sent = match &piece.bytes {
                        Some(bytes) => bytes.slice(part.within(piece.span.start)),
                        None => zeros(part.len()),
                    };
                    cache.insert_except(state.content, part.start, &sent, &writing.superseded);
                }
            }
        }
        for ticket in &mut state.tickets {
            ticket.sent.remove(writing.span);
        }
        end_tickets(state);
    }

    fn forget_clean(&self, state: &mut State, span: Span) {
        self.settle_arrived(state, |at, len, _| Span::at(at, len).overlaps(span));
        self.drop_cached(state, span);
    }

    /// An update, or what had to be done before one, failed: tells those who wait for it.
    pub(super) fn refuse(self: &Arc<Self>, state: &mut State, span: Span, error: &Error) {
        if error.outcome() == Outcome::Unknown || error.kind() == ErrorKind::Fenced {
            let why = match error.kind() {
                ErrorKind::Fenced => "somebody else writes it",
                // Sending again could overwrite newer data later, when this is applied after all.
                _ => "it may or may not have been applied",
            };
            let error = error.clone().with_kind(ErrorKind::Fenced).with_retry(Retry::Permanent);
            log::error!(
                target: "io",
                "{error}; {why}, so every later write, fsync and close of this file fails; {} bytes \
                 are not confirmed",
                state.dirty.charged()
            );
            state.failed = Some(error);
        }
        state.note_gone(error);
        let failed = state.failed.clone();
        let tickets = std::mem::take(&mut state.tickets);
        for mut ticket in tickets {
            if failed.is_some() || ticket.touches(span) {
                if let Some(done) = ticket.done.take() {
                    let _ = done.send(Err(failed.clone().unwrap_or_else(|| error.clone())));
                }
            } else {
                state.tickets.push(ticket);
            }
        }
        // Nobody waits for a full window; it is sent with the next sweep.
        state.ready.clear();
        state.actions.clear();
        state.dirty_since.get_or_insert_with(Instant::now);
        log::warn!(target: "io", "write-back: {error}");
    }

    /// Takes `span` out of every ticket and tells those that are done.
    pub(super) fn drop_from_tickets(&self, state: &mut State, span: Span) {
        for ticket in &mut state.tickets {
            ticket.dirty.remove(span);
            ticket.sent.remove(span);
        }
        end_tickets(state);
    }

    fn next_step(&self, state: &mut State, writer: &Arc<dyn BlobMut>) -> Step {
        if !state.may_send() {
            return Step::Stop;
        }
        let mut blocked = false;
        loop {
            while let Some(action) = state.actions.pop_front() {
                if let Some(step) = self.start(state, writer, action, &mut blocked) {
                    return step;
                }
            }
            match self.pick(state) {
                Some(actions) => state.actions.extend(actions),
                None if blocked || !state.tickets.is_empty() => {
                    debug_assert!(
                        !state.is_quiet() || state.cutting,
                        "a flusher waits for something"
                    );
                    return Step::Wait;
                }
                None => return Step::Stop,
            }
        }
    }

    /// Actions for something that should be sent and can be.
    fn pick(&self, state: &mut State) -> Option<Vec<Action>> {
        while let Some(window) = state.ready.pop_front() {
            let window = Span::at(window, MAX_PUT);
            if state.dirty.covers(window) && !state.is_in_flight(window) {
                return Some(self.plan(state, window));
            }
        }
        for ticket in &state.tickets {
            let mut at = 0;
            // Windows with something pending, in order; those whose actions all wait are passed over.
            while let Some(span) = ticket
                .dirty
                .find(at)
                .or_else(|| ticket.dirty.next_start(at).and_then(|start| ticket.dirty.find(start)))
            {
                let from = span.start.max(at);
                let window = Span::at(from - from % MAX_PUT, MAX_PUT);
                let actions: Vec<Action> = self
                    .plan(state, window)
                    .into_iter()
                    .filter(|action| !state.is_in_flight(action.span()))
                    .collect();
                if !actions.is_empty() {
                    return Some(actions);
                }
                // Zeros reach beyond the window; nothing of them can start before it.
                at = window.end;
            }
        }
        None
    }

    /// What the dirty extents of `window` become, those that reach beyond it whole if they are zeros.
    fn plan(&self, state: &State, window: Span) -> Vec<Action> {
        let extents = state
            .dirty
            .extents(window)
            .map(|(span, zero)| (if zero { span } else { span.intersect(window) }, zero));
        coalesce::plan(extents, state.holes.zero(), self.shared.max_update.min(MAX_PUT))
    }

    /// The capacity to reserve when updates up to `end` do not fit into `capacity`.
    pub(super) fn room_for(&self, capacity: u64, end: u64) -> u64 {
        let room = (capacity * RESERVE_FACTOR).max(FIRST_RESERVE).max(end);
        room.min(self.shared.max_len)
    }

    /// Starts an action if it still fits what is dirty. `None`: it was dropped, or must wait (`blocked`).
    fn start(
        &self,
        state: &mut State,
        writer: &Arc<dyn BlobMut>,
        action: Action,
        blocked: &mut bool,
    ) -> Option<Step> {
        let span = action.span();
        if state.is_in_flight(span) {
            *blocked = true;
            return None;
        }
        let put = matches!(action, Action::Put(_));
        let zeros_only = state.dirty.extents(span).all(|(_, zero)| zero);
        if !state.dirty.covers(span) || (!put && !zeros_only) {
            return None;
        }
        if let Some(cut) = state.cut.filter(|cut| span.end > cut.next_multiple_of(SECTOR)) {
            state.actions.push_front(action);
            return Some(if state.cutting {
                Step::Wait
            } else if writer.len() < cut {
                self.send_end_first(state, writer).unwrap_or(Step::Cut)
            } else {
                Step::Cut
            });
        }
        if let Action::Skip(_) = action {
            let before = state.dirty.charged();
            drop(state.dirty.take(span));
            self.shared.budget.adjust(before, state.dirty.charged());
            self.forget_clean(state, span);
            self.drop_from_tickets(state, span);
            if state.dirty.is_empty() && state.writing.is_empty() {
                state.dirty_since = None;
            }
            return Some(Step::Again);
        }
        let capacity = writer.capacity();
        if span.end > capacity {
            if !put && span.start >= capacity {
                // Zeros where there is nothing at all yet.
                state.actions.push_front(Action::Skip(span));
                return Some(Step::Again);
            }
            state.actions.push_front(action);
            let len = state.len;
            let wanted = state.tickets.iter().any(|ticket| ticket.done.is_some());
            if wanted && len.next_multiple_of(SECTOR) >= span.end {
                let room = match state.cut {
                    None => Step::Publish,
                    // The length is not published before that is done, perhaps by nobody else.
                    Some(_) if state.cutting => Step::Wait,
                    Some(_) => Step::Cut,
                };
                return Some(self.send_end_first(state, writer).unwrap_or(room));
            }
            return Some(Step::Reserve(self.room_for(capacity, span.end)));
        }
        let before = state.dirty.charged();
        let pieces = state.dirty.take(span);
        // Cutting an extent may cost bookkeeping, so that taking gives nothing back.
        let charge = before.saturating_sub(state.dirty.charged());
        self.shared.budget.adjust(before, state.dirty.charged() + charge);
        let body = put.then(|| {
            state.holes.fill(span);
            pieces.iter().flat_map(body_of).collect()
        });
        if let Some(touched) = &mut state.touched {
            touched.insert(span);
        }
        for ticket in &mut state.tickets {
            ticket.note_sent(span);
        }
        let writing = Writing { span, pieces, superseded: SpanSet::new(), charge };
        state.writing.insert(span.start, writing);
        Some(match body {
            Some(body) => Step::Put(span, body),
            None => Step::Clear(span),
        })
    }
}

impl File {
    /// What is to be done before the service may show a longer file.
    fn send_end_first(&self, state: &mut State, writer: &Arc<dyn BlobMut>) -> Option<Step> {
        let end = state.unsent_end(writer.len())?;
        if state.is_in_flight(end) {
            return Some(Step::Wait);
        }
        // There is room for it already.
        state.actions.push_front(Action::Put(end));
        Some(Step::Again)
    }
}

impl State {
    /// A blob that was removed or replaced by somebody else takes no update any more: what is dirty has
    /// nowhere to go, so the file fails for good instead of being tried for ever.
    fn note_gone(&mut self, error: &Error) {
        if error.kind() == ErrorKind::Stale && self.failed.is_none() && !self.orphan {
            self.fail(error.clone());
        }
    }

    /// From now on every write, fsync and close fails for this reason.
    pub(super) fn fail(&mut self, error: Error) {
        log::error!(
            target: "io",
            "{error}; every later write, fsync and close of this file fails; {} bytes are not confirmed",
            self.dirty.charged()
        );
        self.failed = Some(error);
    }

    /// The sector that the service has the end of the file in, where a longer length would show what was
    /// cut off behind it; `None` once the zeros that belong there are confirmed. Who makes the file longer
    /// has made that sector dirty.
    pub(super) fn unsent_end(&self, published: u64) -> Option<Span> {
        let sector = Span::at(published - published % SECTOR, SECTOR);
        let in_flight = || self.writing.values().any(|writing| writing.span.overlaps(sector));
        let unsent = !published.is_multiple_of(SECTOR)
            && (self.dirty.extents(sector).next().is_some() || in_flight());
        unsent.then_some(sector)
    }

    fn may_send(&self) -> bool {
        self.failed.is_none() && !self.orphan && !self.frozen
    }
}

/// The blob is told that its last updates come, until this is dropped.
struct Closing(Arc<dyn BlobMut>);

impl Closing {
    fn begin(writer: &Arc<dyn BlobMut>) -> Closing {
        writer.set_closing(true);
        Closing(Arc::clone(writer))
    }
}

impl Drop for Closing {
    fn drop(&mut self) {
        self.0.set_closing(false);
    }
}

/// The bytes of a piece as a body is made of them.
fn body_of(piece: &Taken) -> Vec<Bytes> {
    match &piece.bytes {
        Some(bytes) => vec![bytes.clone()],
        None => piece.span.split(BLOCK).map(|part| zeros(part.len())).collect(),
    }
}

fn restore(shared: &Shared, state: &mut State, span: Span, bytes: Option<Bytes>) {
    state.dirty.restore(&shared.pool, &Taken { span, bytes });
}

/// Tells those whose wish is fulfilled.
fn end_tickets(state: &mut State) {
    for ticket in &mut state.tickets {
        if ticket.dirty.is_empty()
            && ticket.sent.is_empty()
            && let Some(done) = ticket.done.take()
        {
            let _ = done.send(Ok(()));
        }
    }
    state.tickets.retain(|ticket| !ticket.dirty.is_empty() || !ticket.sent.is_empty());
}

impl Shared {
    pub(super) fn note_unsettled(&self, file: &Arc<File>) {
        let mut unsettled = self.unsettled.lock();
        if unsettled.is_empty() {
            self.sweep.notify_one();
        }
        unsettled.insert(Arc::as_ptr(file).addr(), Arc::clone(file));
    }

    pub(super) fn note_settled(&self, file: &Arc<File>) {
        // Under the file's lock, so that a write in between is not forgotten; and the next one is noted,
        // also if what was dirty was cut off and never sent.
        let mut state = file.lock();
        if state.is_settled() {
            state.dirty_since = None;
            self.unsettled.lock().remove(&Arc::as_ptr(file).addr());
        }
    }

    /// Forgets a file with all that it has not sent: only for one that has failed for good, or whose
    /// name is gone. Returns the bytes dropped.
    pub fn abandon(&self, file: &Arc<File>) -> u64 {
        self.unsettled.lock().remove(&Arc::as_ptr(file).addr());
        let mut state = file.lock();
        for writing in state.writing.values_mut() {
            // What is still in flight and fails is not wanted back.
            writing.superseded.insert(Span::between(0, u64::MAX));
        }
        let dropped = state.dirty.charged();
        drop(state.dirty.take(Span::between(0, u64::MAX)));
        self.budget.adjust(dropped, state.dirty.charged());
        dropped
    }
}

/// Sends what has been dirty for long, for as long as the mount lives. Sleeps while nothing is dirty.
pub(super) async fn sweep(shared: Weak<Shared>) {
    loop {
        let Some(strong) = shared.upgrade() else {
            return;
        };
        let files = strong.unsettled();
        if files.is_empty() {
            let woken = strong.sweep.notified();
            // A mount that ends drops its runtime, and this task with it.
            woken.await;
            continue;
        }
        for file in files {
            strong.note_settled(&file);
            let mut state = file.lock();
            if state.dirty_since.is_some_and(|since| since.elapsed() < MAX_AGE) {
                continue;
            }
            if std::mem::take(&mut state.left_open) {
                let file = Arc::clone(&file);
                strong.runtime.spawn(async move { file.close_again().await });
            } else if state.tickets.is_empty() {
                file.send_everything(&mut state);
            }
            if state.dirty_since.is_some() {
                state.dirty_since = Some(Instant::now());
            }
        }
        drop(strong);
        tokio::time::sleep(SWEEP).await;
    }
}
