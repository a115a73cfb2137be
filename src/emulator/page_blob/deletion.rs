//! Delete Blob and Undelete Blob, for good, or out of sight with soft delete, or as versions.
//!
//! What is deleted softly is found by nothing but `include=deleted` of a list, until it is undeleted or
//! something is made under its name, which the emulator lets take its place. It is kept for as long
//! as that. Knows nothing of how a version is stored.

use super::access::{self, Guards};
use super::error::{self, Failure, invalid_header};
use super::reply::Reply;
use super::request::Call;
use super::storage::{Container, EntryState, Storage};
use super::version::Version;

/// Days for which deleted blobs are said to be kept.
pub(super) const RETENTION_DAYS: &str = "7";

/// Delete Blob, with or without its snapshots, or one snapshot.
pub(super) fn delete(storage: &Storage, call: &Call, soft: bool) -> Result<Reply, Failure> {
    let guards = Guards::of(call)?;
    let snapshots = match call.header("x-ms-delete-snapshots")? {
        None => None,
        Some("include") => Some(true),
        Some("only") => Some(false),
        Some(other) => return Err(invalid_header("x-ms-delete-snapshots", other)),
    };
    let now = storage.clock.now_ms();
    let container = access::container(storage, call)?;
    let permanent = if soft { "false" } else { "true" };
    let reply = || Reply::new(202).header("x-ms-delete-type-permanent", permanent);
    let mut bin = Bin { container: &container, soft, now };
    container.with_entry(call.blob(), |state| {
        if let Some(time) = call.snapshot() {
            if snapshots.is_some() {
                return Err(error::invalid_query("snapshot", time));
            }
            let version = access::pick(state, Some(time))?;
            guards.conditions.check_write(Some(version.props.current()))?;
            bin.take_snapshot(state, time)?;
            return Ok(reply());
        }
        if let Some(id) = call.version_id() {
            // The one that is the blob now is deleted by its name alone.
            let version = state.versions.get(id).ok_or(error::BLOB_NOT_FOUND)?;
            container.remove(version)?;
            state.versions.remove(id);
            return Ok(reply());
        }
        let live = state.live.as_ref().ok_or(error::BLOB_NOT_FOUND)?;
        guards.check_write(live, now)?;
        if !state.snapshots.is_empty() && snapshots.is_none() {
            return Err(error::SNAPSHOTS_PRESENT.into());
        }
        while let Some(time) = state.snapshots.keys().next().cloned() {
            bin.take_snapshot(state, &time)?;
        }
        if snapshots != Some(false) {
            bin.take_live(state)?;
            state.uncommitted.clear();
        }
        Ok(reply())
    })
}

/// Undelete Blob: the blob, if it was deleted, and its deleted snapshots. One that was never deleted
/// stays as it is.
pub(super) fn undelete(storage: &Storage, call: &Call) -> Result<Reply, Failure> {
    let container = access::container(storage, call)?;
    container.with_entry(call.blob(), |state| {
        if let Some(mut version) = state.deleted.take() {
            version.props.deleted_ms = None;
            container.save(&mut version)?;
            state.live = Some(version);
        }
        if state.live.is_none() {
            return Err(error::BLOB_NOT_FOUND.into());
        }
        while let Some((time, mut version)) = state.deleted_snapshots.pop_first() {
            version.props.deleted_ms = None;
            container.save(&mut version)?;
            state.snapshots.insert(time, version);
        }
        Ok(Reply::new(200))
    })
}

/// Where deleted versions go.
struct Bin<'a> {
    container: &'a Container,
    soft: bool,
    now: i64,
}

impl Bin<'_> {
    fn take_snapshot(&mut self, state: &mut EntryState, time: &str) -> Result<(), Failure> {
        self.put(state.snapshots.get_mut(time).ok_or(error::BLOB_NOT_FOUND)?)?;
        let version = state.snapshots.remove(time).filter(|_| self.soft);
        state.deleted_snapshots.extend(version.map(|version| (time.to_owned(), version)));
        Ok(())
    }

    fn take_live(&mut self, state: &mut EntryState) -> Result<(), Failure> {
        if let Some(live) = state.live.take_if(|live| live.props.version.is_some()) {
            self.container.remove_sidecar(&live)?;
            return Ok(state.keep(self.container, live)?);
        }
        self.put(state.live.as_mut().ok_or(error::BLOB_NOT_FOUND)?)?;
        state.deleted = state.live.take().filter(|_| self.soft);
        Ok(())
    }

    fn put(&mut self, version: &mut Version) -> Result<(), Failure> {
        if self.soft {
            version.props.deleted_ms = Some(self.now);
            version.props.lease = super::lease::Lease::default();
            self.container.save(version)?;
        } else {
            self.container.remove(version)?;
        }
        Ok(())
    }
}
