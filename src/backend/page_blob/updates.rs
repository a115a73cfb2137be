//! A page blob that is updated in place.
//!
//! Two kinds of requests change it:
//!
//! * **Page updates** (write, clear) run side by side, each holding the gate shared. All of them pass
//!   through [`delivery`](super::delivery), which sees to it that this is the only writer and that no late
//!   duplicate undoes anything.
//! * **Changes of the whole blob** (resize, metadata) take no fence that a late duplicate would break
//!   on, so each runs alone, holding the gate exclusively, under the condition that the blob is still in
//!   the version that we left it in. All of them pass through [`UpdatableBlob::step`].
//!
//! After a burst of page updates nobody knows which of them was last (see [`Etags`]), so the first
//! step after one asks; that is one request, where a condition on a guess would mostly be three.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use bytes::Bytes;
use http::header::{HeaderName, HeaderValue};
use parking_lot::Mutex;
use tokio::sync::RwLock;

use super::address::{Address, Condition};
use super::blob::{check_inside, gone};
use super::client::Rest;
use super::copy_source::Source;
use super::delivery::{Doubts, removed};
use super::epoch::Epoch;
use super::etags::Etags;
use super::extents::extents;
use super::lease::Hold;
use super::length::{Extent, KEY, Mark, PAGE, Step, plan, plan_reserve};
use super::wire::{META, Properties};
use crate::client::Pin;
use crate::store::{
    Blob, BlobMut, BoxFuture, CopySource, Error, ErrorKind, Extents, Outcome, Result, Sink, Version,
};

/// The longest page blob, in bytes.
pub(super) const MAX_LEN: u64 = 8 << 40;

/// The longest single update, in bytes.
pub(super) const MAX_UPDATE: u64 = 4 << 20;

/// How often a step begins again because the service shows one of our own versions. Once is
/// enough for a lost race against our own answers.
const STEP_TRIES: u32 = 3;

/// How many steps of unknown outcome are remembered; more than a caller would try without asking
/// what is there.
const MOST_DOUBTS: usize = 8;

/// A page blob and its only writer.
#[derive(Debug)]
pub(super) struct UpdatableBlob {
    pub(super) rest: Arc<Rest>,
    pub(super) at: Address,
    /// Page updates hold it shared, changes of the whole blob and raises of the epoch exclusively.
    pub(super) gate: RwLock<()>,
    pub(super) state: Mutex<State>,
    /// The right to write; `None` if blobs are not leased, and once it was given back.
    pub(super) hold: Mutex<Option<Arc<Hold>>>,
    pub(super) leased: bool,
    /// How many of those who flush it now do so to close it.
    pub(super) closing: AtomicU32,
    pub(super) doubts: Arc<Doubts>,
}

/// What is known of the blob.
#[derive(Debug)]
pub(super) struct State {
    pub(super) extent: Extent,
    /// What steps whose outcome is not known would have made of it; mostly none.
    doubtful: Vec<Extent>,
    pub(super) etags: Etags<Arc<str>>,
    /// Metadata as it was found; the mark of the length may be among it.
    metadata: Vec<(HeaderName, HeaderValue)>,
    pub(super) epoch: Epoch,
    /// Why it cannot be written any more.
    pub(super) fenced: Option<Error>,
}

/// A page blob as its writer has found it.
#[derive(Debug)]
pub(super) struct Found {
    /// Where it is.
    pub(super) at: Address,
    /// The version whose content it has.
    pub(super) etag: Arc<str>,
    /// The version that taking it over has made of that.
    pub(super) renamed: Option<Arc<str>>,
    /// Its size and length.
    pub(super) extent: Extent,
    /// Its metadata.
    pub(super) metadata: Vec<(HeaderName, HeaderValue)>,
    /// Its sequence number, which nobody else uses.
    pub(super) epoch: u64,
    /// The right to write; `None` if blobs are not leased.
    pub(super) hold: Option<Hold>,
}

impl UpdatableBlob {
    /// The blob that was taken over. `doubts` is the store's.
    pub(super) fn new(rest: Arc<Rest>, found: Found, doubts: Arc<Doubts>) -> UpdatableBlob {
        let mut etags = Etags::new(found.etag);
        if let Some(etag) = found.renamed {
            etags.renamed(etag);
        }
        UpdatableBlob {
            rest,
            at: found.at,
            gate: RwLock::new(()),
            state: Mutex::new(State {
                extent: found.extent,
                doubtful: Vec::new(),
                etags,
                metadata: found.metadata,
                epoch: Epoch::new(found.epoch),
                fenced: None,
            }),
            leased: found.hold.is_some(),
            closing: AtomicU32::new(0),
            hold: Mutex::new(found.hold.map(Arc::new)),
            doubts,
        }
    }

    /// Makes the steps that `plan` wants, alone, once no update can be applied late. The deadline covers
    /// the wait for updates in flight and all steps; a change that is broken off shows the old length or
    /// the new one.
    ///
    /// A failure counts as not applied: what was sent may yet be, but only until the next change, which
    /// looks what became of it and makes its own condition of that.
    async fn change(&self, plan: impl Fn(Extent) -> Vec<Step>) -> Result<()> {
        let work = async {
            let _alone = self.gate.write().await;
            let mut distrusted = false;
            loop {
                self.settle_alone().await?;
                let steps = plan(self.state.lock().extent);
                match self.make_steps(steps).await {
                    Err(error) if error.kind() == ErrorKind::Busy && !distrusted => {
                        distrusted = true;
                        self.distrust_lease();
                    }
                    result => return result,
                }
            }
        };
        let result = self.rest.within("Set Blob Properties", self.at.target(), work).await;
        result.map_err(|error| error.with_outcome(Outcome::NotApplied))
    }

    async fn make_steps(&self, steps: Vec<Step>) -> Result<()> {
        for step in steps {
            self.step(step).await?;
        }
        Ok(())
    }

    /// Makes one step under the condition that nobody else has changed the blob. Sent again after an
    /// unknown outcome, because the condition lets at most one of the duplicates through.
    async fn step(&self, step: Step) -> Result<()> {
        let mut etag = self.current().await?;
        for _ in 0..STEP_TRIES {
            let fence = self.fence(None)?;
            let (ticket, wanted, metadata) = {
                let mut state = self.state.lock();
                let wanted = state.extent.after(step);
                // Until there is an answer, even if this future is dropped.
                state.doubt(wanted);
                let metadata = with_mark(&state.metadata, wanted.mark);
                (state.etags.start(), wanted, metadata)
            };
            let condition = Condition::etag(&etag);
            let sent = match step {
                Step::Resize(size) => self.rest.resize(&self.at, size, &condition, &fence).await,
                Step::Mark(_) => {
                    let rest = &self.rest;
                    rest.set_metadata(&self.at, &metadata, &condition, &fence).await
                }
            };
            let error = match sent {
                Ok(etag) => {
                    let mut state = self.state.lock();
                    state.etags.applied(ticket, etag);
                    state.settle(wanted, metadata);
                    return Ok(());
                }
                Err(error) => error,
            };
            if error.outcome() == Outcome::NotApplied {
                self.state.lock().doubtful.pop();
            }
            if error.kind() != ErrorKind::Stale {
                return Err(removed(error));
            }
            // Either somebody else has changed the blob, or we did and do not know it.
            let found = self.look().await?;
            let mut state = self.state.lock();
            if self.is_as_we_left_it(&state, &found) {
                state.etags.settled(Arc::clone(&found.etag));
                etag = found.etag;
                continue;
            }
            let ours = found.extent();
            if !state.doubtful.contains(&ours) {
                return Err(error);
            }
            // The answer was lost, now or of a step before, and it was applied after all.
            state.etags.applied(ticket, Arc::clone(&found.etag));
            let metadata = with_mark(&state.metadata, ours.mark);
            state.settle(ours, metadata);
            if ours == wanted {
                return Ok(());
            }
            etag = found.etag;
        }
        Err(self.stale("its version does not settle"))
    }

    /// The version that the blob is in, which must be one that we made.
    async fn current(&self) -> Result<Arc<str>> {
        if let Some(etag) = self.state.lock().etags.certain() {
            return Ok(Arc::clone(etag));
        }
        let found = self.look().await?;
        let mut state = self.state.lock();
        if !self.is_as_we_left_it(&state, &found) {
            return Err(self.stale("the blob was changed by somebody else"));
        }
        state.etags.settled(Arc::clone(&found.etag));
        Ok(found.etag)
    }

    /// What the service has now.
    ///
    /// Errors: `Fenced` if somebody else has raised the sequence number.
    async fn look(&self) -> Result<Properties> {
        let lease = self.fence(None)?.lease;
        let (found, _) = self.rest.head_leased(&self.at, lease).await.map_err(removed)?;
        let epoch = self.state.lock().epoch.number();
        if found.sequence.is_some_and(|number| number > epoch) {
            return Err(self.fence_for_good(self.taken_over()));
        }
        Ok(found)
    }

    /// Whether the blob, found so with no update in flight, is in a version of ours. While the lease is
    /// ours nobody else changes it; a version that we do not know is then one that a late duplicate of
    /// a raise has made, which changes nothing else.
    fn is_as_we_left_it(&self, state: &State, found: &Properties) -> bool {
        state.etags.may_be_current(&found.etag)
            || self.hold.lock().as_ref().is_some_and(|hold| !hold.is_young())
                && found.sequence == Some(state.epoch.number())
                && found.extent() == state.extent
    }

    fn stale(&self, why: &str) -> Error {
        Error::new(ErrorKind::Stale, "Set Blob Properties", self.at.target(), why)
    }
}

impl State {
    /// A step is about to be sent that would make this of the blob.
    fn doubt(&mut self, wanted: Extent) {
        if self.doubtful.len() == MOST_DOUBTS {
            self.doubtful.remove(0);
        }
        self.doubtful.push(wanted);
    }

    /// A step has been applied, which also settles what came of those before it.
    fn settle(&mut self, extent: Extent, metadata: Vec<(HeaderName, HeaderValue)>) {
        self.extent = extent;
        self.metadata = metadata;
        self.doubtful.clear();
    }
}

/// The metadata with this mark instead of the one that may be there. An unreadable mark stays as it is
/// until another one takes its place.
fn with_mark(metadata: &[(HeaderName, HeaderValue)], mark: Mark) -> Vec<(HeaderName, HeaderValue)> {
    if mark == Mark::Unreadable {
        return metadata.to_vec();
    }
    let is_mark = |name: &HeaderName| name.as_str().strip_prefix(META) == Some(KEY);
    let mut all: Vec<_> = metadata.iter().filter(|(name, _)| !is_mark(name)).cloned().collect();
    if let Some(value) = mark.value() {
        let name = HeaderName::try_from(format!("{META}{KEY}")).expect("letters are a header name");
        let value = HeaderValue::try_from(value).expect("digits are a header value");
        all.push((name, value));
    }
    all
}

/// Whether a page update may be sent at all.
pub(super) fn check_update(
    op: &'static str,
    at: &Address,
    range: &Range<u64>,
    size: u64,
) -> Result<()> {
    check_inside(op, at, range, size)?;
    if range.is_empty() || !range.start.is_multiple_of(PAGE) || !range.end.is_multiple_of(PAGE) {
        return Err(Error::new(
            ErrorKind::InvalidRange,
            op,
            at.target(),
            format!("bytes {range:?} are not whole pages of {PAGE}"),
        ));
    }
    Ok(())
}

impl Blob for UpdatableBlob {
    fn version(&self) -> Version {
        Version(Arc::clone(self.state.lock().etags.newest()))
    }

    fn continues(&self, found: &Version) -> bool {
        self.state.lock().etags.is_ours(&found.0)
    }

    fn len(&self) -> u64 {
        self.state.lock().extent.shown()
    }

    /// Not pinned: our own updates change the version all the time.
    fn read<'a>(&'a self, range: Range<u64>, sink: &'a mut dyn Sink) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            check_inside("Get Blob", &self.at, &range, self.capacity())?;
            self.rest.get(&self.at, range, Pin::default(), sink).await.map_err(gone)
        })
    }

    /// Not pinned: while it is leased nobody but us changes it. Without a lease it cannot be said what the
    /// service would read.
    fn copy_source(&self) -> BoxFuture<'_, Result<Option<CopySource>>> {
        let source = self.rest.authorize_source(&self.at, None).filter(|_| self.leased);
        let source = source.map(|source| CopySource(Arc::new(source)));
        Box::pin(async { Ok(source) })
    }

    fn extents(&self, range: Range<u64>) -> BoxFuture<'_, Result<Extents>> {
        Box::pin(async move {
            let size = self.capacity();
            check_inside("Get Page Ranges", &self.at, &range, size)?;
            extents(&self.rest, &self.at, size, range, None).await
        })
    }
}

impl BlobMut for UpdatableBlob {
    fn capacity(&self) -> u64 {
        self.state.lock().extent.size
    }

    fn write_at(&self, at: u64, pieces: Vec<Bytes>) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            let op = "Put Page";
            let length: u64 = pieces.iter().map(|piece| piece.len() as u64).sum();
            if length > MAX_UPDATE {
                return Err(Error::new(
                    ErrorKind::TooLarge,
                    op,
                    self.at.target(),
                    format!("{length} bytes in one update; at most {MAX_UPDATE} are possible"),
                ));
            }
            let range = at..at.saturating_add(length);
            // Before a header is made of it.
            check_update(op, &self.at, &range, self.capacity())?;
            self.update(&range, self.rest.put_pages(&self.at, at, pieces)).await
        })
    }

    fn copy_from<'a>(
        &'a self,
        at: u64,
        source: &'a CopySource,
        range: Range<u64>,
    ) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let op = "Put Page From URL";
            let target = at..at.saturating_add(range.end.saturating_sub(range.start));
            check_update(op, &self.at, &target, self.capacity())?;
            let Some(source) = source.0.downcast_ref::<Source>() else {
                let why = "the source is in another store";
                return Err(Error::new(ErrorKind::Unsupported, op, self.at.target(), why));
            };
            source.ready(self.rest.timeout).await;
            let request = self.rest.put_pages_from(&self.at, at, source, &range);
            self.update(&target, request).await.map_err(|error| match error.kind() {
                ErrorKind::Fenced
                | ErrorKind::Busy
                | ErrorKind::TimedOut
                | ErrorKind::Unavailable
                | ErrorKind::RateLimited => error,
                // About the source, or about the target: reading the one and writing the other tells.
                _ => error.with_kind(ErrorKind::Unsupported),
            })
        })
    }

    fn clear(&self, range: Range<u64>) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            check_update("Clear Pages", &self.at, &range, self.capacity())?;
            self.update(&range, self.rest.clear_pages(&self.at, &range)).await
        })
    }

    fn reserve(&self, capacity: u64) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            check_len(&self.at, capacity)?;
            self.change(|extent| plan_reserve(extent, capacity)).await
        })
    }

    fn set_len(&self, len: u64, keep_reserve: bool) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            check_len(&self.at, len)?;
            self.change(|extent| plan(extent, len, keep_reserve)).await
        })
    }

    fn set_closing(&self, closing: bool) {
        if closing {
            self.closing.fetch_add(1, Ordering::AcqRel);
        } else {
            self.closing.fetch_sub(1, Ordering::AcqRel);
        }
    }

    fn close(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            let _alone = self.gate.write().await;
            let hold = self.hold.lock().take();
            match hold {
                Some(hold) => hold.release().await,
                None => Ok(()),
            }
        })
    }
}

fn check_len(at: &Address, len: u64) -> Result<()> {
    if len <= MAX_LEN {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::TooLarge,
        "Set Blob Properties",
        at.target(),
        format!("{len} bytes; a page blob has at most {MAX_LEN}"),
    ))
}
