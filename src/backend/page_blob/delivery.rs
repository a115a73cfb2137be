//! Delivering page updates: each once, by the only writer, or not at all.
//!
//! What [`Epoch`](super::epoch) and [`lease`](super::lease) know is carried out here. An update is sent
//! in the epoch of the moment under the lease, while the gate is held shared. When its outcome is not
//! known, nothing more is sent to the blob; what is in flight ends, which the exclusive gate waits for; the
//! epoch is raised; and whatever was not surely applied is sent again. A lease that may have run out is
//! confirmed in the same place, before anything is sent.
//!
//! **A failed update is never in doubt for its caller.** When the deadline comes before an answer, the
//! epoch stays in doubt, and nothing is sent to this blob before it was raised, by this opening or, since
//! taking a blob over raises it too, by the next one. What is still on its way is refused from then on:
//! it can be applied only before everything that is sent later, and the caller has the same bytes or newer
//! ones to send. So [`Outcome::NotApplied`] says what counts: sending again is safe, and is all there is
//! to do. A file is failed for good only when somebody else writes its blob.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use http::header::HeaderValue;
use parking_lot::Mutex;

use super::address::{Address, Condition, Fence};
use super::epoch::{Admission, End, Next};
use super::lease::{Hold, Standing};
use super::updates::{UpdatableBlob, check_update};
use crate::client::{Request, pause_after};
use crate::store::{Error, ErrorKind, Outcome, Result, Retry};

/// The blobs of a store of which an update may be applied late, with its epoch. A blob of the same name
/// that is made while one is here begins above that.
#[derive(Debug, Default)]
pub(super) struct Doubts(Mutex<HashMap<Arc<str>, u64>>);

impl Doubts {
    /// The least epoch that nothing of ours can be applied in late.
    pub(super) fn next_epoch(&self, at: &Address) -> u64 {
        self.0.lock().get(at.target()).map_or(0, |number| number + 1)
    }

    /// An update of this epoch may be applied at any time.
    fn add(&self, at: &Address, number: u64) {
        let mut doubts = self.0.lock();
        let known = doubts.entry(Arc::clone(at.target())).or_default();
        *known = number.max(*known);
    }

    /// The blob's sequence number is at least this now.
    pub(super) fn settle(&self, at: &Address, number: u64) {
        let mut doubts = self.0.lock();
        if doubts.get(at.target()).is_some_and(|doubt| *doubt < number) {
            doubts.remove(at.target());
        }
    }
}

/// An update that was admitted. Dropped before its end was told, its outcome is not known.
struct InFlight<'a> {
    blob: &'a UpdatableBlob,
    epoch: u64,
    told: bool,
}

impl InFlight<'_> {
    fn ended(mut self, how: End) -> Next {
        self.told = true;
        self.tell(how)
    }

    fn tell(&self, how: End) -> Next {
        let next = self.blob.state.lock().epoch.ended(self.epoch, how);
        if how == End::Unknown {
            self.blob.doubts.add(&self.blob.at, self.epoch);
        }
        next
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        if !self.told {
            self.tell(End::Unknown);
        }
    }
}

impl UpdatableBlob {
    /// Delivers a page update of `range`, within the deadline of a call.
    ///
    /// Errors: `Fenced` if somebody else writes the blob, for good; as the service says. The outcome is
    /// always `NotApplied`, in the sense of this module.
    pub(super) async fn update(&self, range: &Range<u64>, mut request: Request) -> Result<()> {
        let mut last = None;
        let work = self.deliver(range, &mut request, &mut last);
        let result = tokio::time::timeout(self.rest.timeout, work).await;
        let result = result.unwrap_or_else(|_| {
            let late = || {
                let why = format!("not done within {} s", self.rest.timeout.as_secs());
                Error::new(ErrorKind::TimedOut, request.op, self.at.target(), why)
            };
            Err(last.unwrap_or_else(late).with_retry(Retry::Exhausted))
        });
        result.map_err(|error| error.with_outcome(Outcome::NotApplied))
    }

    async fn deliver(
        &self,
        range: &Range<u64>,
        request: &mut Request,
        last: &mut Option<Error>,
    ) -> Result<()> {
        let mut unanswered = 0;
        let mut distrusted = false;
        loop {
            let hold = self.hold()?;
            let shared = self.gate.read().await;
            let (admission, ticket) = {
                let mut state = self.state.lock();
                check_update(request.op, &self.at, range, state.extent.size)?;
                let admission = match &hold {
                    Some(hold) if !self.is_ours(hold) => Admission::RaiseFirst,
                    _ => state.epoch.admit(),
                };
                (admission, state.etags.start())
            };
            let epoch = match admission {
                Admission::Send(epoch) => epoch,
                Admission::RaiseFirst => {
                    drop(shared);
                    let _alone = self.gate.write().await;
                    self.settle_alone().await?;
                    continue;
                }
                Admission::Fenced => return Err(self.fence_for_good(self.taken_over())),
            };
            let flight = InFlight { blob: self, epoch, told: false };
            let fence =
                Fence { lease: hold.and_then(|hold| hold.id()), sequence_below: Some(epoch + 1) };
            let error = match self.rest.send_update(request, &fence).await {
                Ok(etag) => {
                    flight.ended(End::Known);
                    self.state.lock().etags.applied(ticket, etag);
                    return Ok(());
                }
                Err(error) => error,
            };
            let how = match (error.outcome(), error.kind()) {
                (Outcome::Unknown, _) => End::Unknown,
                (Outcome::NotApplied, ErrorKind::Fenced) => End::Refused,
                (Outcome::NotApplied, _) => End::Known,
            };
            let next = flight.ended(how);
            drop(shared);
            match next {
                // It may be about the lease, which tells whether it is worth a second try.
                Next::Done if error.kind() == ErrorKind::Busy && self.leased && !distrusted => {
                    distrusted = true;
                    self.distrust_lease();
                }
                Next::Done => return Err(removed(error)),
                Next::Fenced => return Err(self.fence_for_good(self.taken_over())),
                // The service will never do it; before anything else is sent, the epoch is raised.
                Next::Again if error.kind() == ErrorKind::Unsupported => return Err(error),
                Next::Again => {
                    if how == End::Unknown {
                        if unanswered > 0 {
                            tokio::time::sleep(pause_after(unanswered)).await;
                        }
                        unanswered += 1;
                    }
                    *last = Some(error);
                }
            }
        }
    }

    /// Makes sure that the lease is ours and that no update can be applied late. The caller holds the
    /// gate exclusively.
    pub(super) async fn settle_alone(&self) -> Result<()> {
        let mut distrusted = false;
        loop {
            self.confirm_lease().await?;
            let (asked, ticket) = {
                let mut state = self.state.lock();
                if state.epoch.is_fenced() {
                    drop(state);
                    return Err(self.fence_for_good(self.taken_over()));
                }
                let Some(asked) = state.epoch.raise() else { return Ok(()) };
                (asked, state.etags.start())
            };
            let fence = self.fence(None)?;
            let raised = self.rest.raise_sequence(&self.at, asked, &Condition::None, &fence).await;
            match raised {
                Ok((etag, found)) => {
                    let mut state = self.state.lock();
                    state.etags.applied(ticket, etag);
                    let still_ours = state.epoch.raised(asked, found);
                    drop(state);
                    if !still_ours {
                        return Err(self.fence_for_good(self.taken_over()));
                    }
                    if found < asked {
                        let why = format!("raised to {asked}, the sequence number is {found}");
                        let op = "Set Blob Properties";
                        return Err(Error::new(ErrorKind::Corrupt, op, self.at.target(), why));
                    }
                    self.doubts.settle(&self.at, found);
                    log::info!(
                        target: "lease",
                        "{}: an update was not answered; fenced it off in epoch {found}",
                        self.at.target()
                    );
                    return Ok(());
                }
                Err(error) if error.kind() == ErrorKind::Busy && self.leased && !distrusted => {
                    distrusted = true;
                    self.distrust_lease();
                }
                Err(error) => return Err(removed(error)),
            }
        }
    }

    /// Confirms the lease if it may have run out. If it was lost and could be taken again, we go on only
    /// if the blob is as we left it.
    async fn confirm_lease(&self) -> Result<()> {
        let Some(hold) = self.hold()? else { return Ok(()) };
        if self.is_ours(&hold) {
            return Ok(());
        }
        let taking = match hold.confirm().await {
            Ok(Standing::Kept) => return Ok(()),
            Ok(Standing::Retaken(taking)) => taking,
            Err(error) if error.kind() == ErrorKind::Fenced => {
                return Err(self.fence_for_good(error));
            }
            Err(error) => return Err(error),
        };
        {
            // Nothing is written to an empty blob before there is room, which is made in this version.
            let state = self.state.lock();
            if state.extent.size == 0 && state.etags.certain().is_some() {
                hold.accept(taking);
                return Ok(());
            }
        }
        let (found, _) = self.rest.head(&self.at).await.map_err(removed)?;
        let untouched = {
            let state = self.state.lock();
            found.sequence == Some(state.epoch.number())
                && state.etags.may_be_current(&found.etag)
                && found.extent() == state.extent
        };
        if untouched {
            log::warn!(target: "lease", "{}: the lease was lost and is ours again; nobody has written meanwhile", self.at.target());
            hold.accept(taking);
            return Ok(());
        }
        let error = self.taken_over();
        if let Err(error) = hold.release().await {
            log::debug!(target: "lease", "{error}");
        }
        Err(self.fence_for_good(error))
    }

    /// Ends the writing for good, and says so once.
    pub(super) fn fence_for_good(&self, why: Error) -> Error {
        let mut state = self.state.lock();
        state.epoch.fence();
        if let Some(first) = &state.fenced {
            return first.clone();
        }
        let why = why
            .with_kind(ErrorKind::Fenced)
            .with_retry(Retry::Permanent)
            .with_outcome(Outcome::NotApplied);
        state.fenced = Some(why.clone());
        drop(state);
        log::error!(
            target: "lease",
            "{why}; this host writes it no more; blobdir recover or the storage account's logs tell who does"
        );
        why
    }

    /// That somebody else writes.
    pub(super) fn taken_over(&self) -> Error {
        Error::new(
            ErrorKind::Fenced,
            "write",
            self.at.target(),
            "another writer has taken over this blob; see who else mounts it for writing",
        )
    }

    /// What a request must carry to be ours: the lease, and the condition if it takes one.
    ///
    /// Errors: it was closed.
    pub(super) fn fence(&self, sequence_below: Option<u64>) -> Result<Fence> {
        let lease: Option<HeaderValue> = self.hold()?.and_then(|hold| hold.id());
        Ok(Fence { lease, sequence_below })
    }

    /// The lease, if blobs are leased.
    fn hold(&self) -> Result<Option<Arc<Hold>>> {
        let hold = self.hold.lock().clone();
        if self.leased && hold.is_none() {
            let why = "it was closed, and its lease given back";
            return Err(Error::new(ErrorKind::Fenced, "write", self.at.target(), why));
        }
        Ok(hold)
    }

    /// Whether something may be sent without asking for the lease.
    fn is_ours(&self, hold: &Hold) -> bool {
        hold.is_fresh() || hold.may_wait() && self.closing.load(Ordering::Acquire) > 0
    }

    /// The service has refused something as if the lease were not ours.
    pub(super) fn distrust_lease(&self) {
        if let Some(hold) = &*self.hold.lock() {
            hold.distrust();
        }
    }
}

/// An update of a blob that is not there: somebody else removed it.
pub(super) fn removed(error: Error) -> Error {
    match error.kind() {
        ErrorKind::NotFound => error.with_kind(ErrorKind::Stale),
        _ => error,
    }
}
