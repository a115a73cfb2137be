//! Moving a blob: Copy Blob on the service's side, then Delete Blob of the version that was copied. Where Copy
//! Blob cannot do it, the pages are copied ([`transfer`](super::transfer)).

use std::time::Duration;

use tokio::time::Instant;

use super::address::{Address, Condition};
use super::client::{Copy, Rest};
use super::store::{PageBlobStore, is_directory};
use super::transfer::transfer;
use crate::store::{
    Error, ErrorKind, Kind, Moved, Outcome, RemotePath, Replace, Result, Retry, Version,
};

/// How long a copy may stay pending. Inside one account copies are done at once or within seconds;
/// what takes longer is given up while the caller still waits.
const LONGEST_COPY: Duration = Duration::from_secs(50);

/// The pauses between two looks at a pending copy.
const FIRST_LOOK: Duration = Duration::from_millis(50);
const LATER_LOOKS: Duration = Duration::from_secs(2);

/// Moves `from` to `to`.
pub(super) async fn rename(
    store: &PageBlobStore,
    from: &RemotePath,
    to: &RemotePath,
    replace: Replace,
) -> Result<Moved> {
    let (source, found) = store.look_at("rename", from).await?;
    let found = found?;
    let version = match (found.kind, found.version) {
        (Kind::File, Some(version)) => version,
        _ => return Err(is_directory("rename", from)),
    };
    if from == to {
        return Ok(Moved { from: version.clone(), to: version });
    }
    if store.has_snapshots(&source).await? {
        let why = "it has snapshots, which stay where they are; remove them first";
        return Err(Error::new(ErrorKind::Busy, "rename", from, why));
    }
    let (target, existing) = store.look_at("rename", to).await?;
    let replaced = match existing {
        Ok(stat) if stat.kind == Kind::Directory => return Err(is_directory("rename", to)),
        Ok(_) if replace == Replace::Refused => return Err(taken(to)),
        Ok(stat) => stat.version,
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        Err(error) => return Err(error),
    };
    let copied = if store.rest.encryption.allows_copies() {
        copy(store, &source, &version, &target, replaced).await?
    } else {
        let replace = if replaced.is_some() { Replace::Allowed } else { Replace::Refused };
        transfer(store, &source, &version, &target, replace).await?
    };
    store.remove_at(&source, Some(&version)).await?;
    Ok(Moved { from: version, to: copied })
}

fn taken(path: &RemotePath) -> Error {
    Error::new(ErrorKind::AlreadyExists, "rename", path, "the name is taken")
}

/// Copies `source` in `version` over `target`, which is in version `replaced` or absent, and waits for
/// the end of it. Gives the version that it made.
async fn copy(
    store: &PageBlobStore,
    source: &Address,
    version: &Version,
    target: &Address,
    replaced: Option<Version>,
) -> Result<Version> {
    let condition = match &replaced {
        Some(version) => Condition::etag(&version.0),
        None => Condition::Absent,
    };
    let rest = &store.rest;
    let lease = replaced.as_ref().and_then(|_| store.leases.id_of(target));
    let mut made = rest.copy(source, &version.0, target, &condition, lease).await;
    if let Err(error) = &made
        && error.kind() == ErrorKind::Busy
        && replaced.is_some()
    {
        // A lease that this host has left behind is its own; so is the blob that we make of it.
        if let Some(hold) = store.leases.take(target).await? {
            made = rest.copy(source, &version.0, target, &condition, hold.id()).await;
            let _ = hold.release().await;
        }
    }
    let mut copy = match made {
        Ok(copy) => copy,
        Err(error) => resolve(rest, source, target, &condition, error).await?,
    };
    let deadline = Instant::now() + LONGEST_COPY;
    let mut pause = FIRST_LOOK;
    loop {
        match &*copy.status {
            "success" => return Ok(Version(copy.etag)),
            "pending" if Instant::now() < deadline => {
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LATER_LOOKS);
                let now = rest.copy_state(target).await?;
                if now.id != copy.id {
                    return Err(failed(target, "another copy took its place"));
                }
                copy = now;
            }
            "pending" => return Err(give_up(rest, target, &copy).await),
            status => {
                let why = format!("the copy ended as {status:?}");
                return Err(failed(target, &why));
            }
        }
    }
}

/// Tells what became of a copy that was refused: that an earlier attempt of it was applied, that the
/// name was taken meanwhile, or what the service said.
async fn resolve(
    rest: &Rest,
    source: &Address,
    target: &Address,
    condition: &Condition,
    error: Error,
) -> Result<Copy> {
    if !matches!(error.kind(), ErrorKind::Stale | ErrorKind::AlreadyExists) {
        return Err(error);
    }
    match rest.copy_state(target).await {
        Ok(copy) if error.outcome() == Outcome::Unknown && source.is_at(&copy.source) => Ok(copy),
        // The service may call the condition or the name the trouble.
        Ok(_) if matches!(condition, Condition::Absent) => {
            Err(error.with_kind(ErrorKind::AlreadyExists))
        }
        _ => Err(error),
    }
}

/// Ends a copy that takes too long; the target stays behind empty.
async fn give_up(rest: &Rest, target: &Address, copy: &Copy) -> Error {
    let aborted = rest.abort_copy(target, &copy.id).await.is_ok();
    let rest_of_it = if aborted {
        "it was stopped and has left an empty blob at the new name"
    } else {
        "it goes on"
    };
    let why = format!("the copy was not done within {} s; {rest_of_it}", LONGEST_COPY.as_secs());
    failed(target, &why).with_kind(ErrorKind::TimedOut).with_retry(Retry::Exhausted)
}

fn failed(target: &Address, why: &str) -> Error {
    Error::new(ErrorKind::Unavailable, "Copy Blob", target.target(), why)
        .with_outcome(Outcome::Unknown)
}
