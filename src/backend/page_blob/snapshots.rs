//! Snapshots and versions as files in directories of their own, at the top of what is mounted of a container:
//! looking at them, opening, deleting and taking them.
//!
//! A known time and path is one request. Whether anything was taken at a time is not asked when its directory
//! is looked up: a time in which nothing was taken is an empty directory, and so is a directory in which
//! nothing was taken then. Real blobs in directories of these names are hidden by this.

use std::sync::Arc;

use futures_util::future::join_all;
use http::header::{HeaderName, HeaderValue};

use super::address::Address;
use super::blob::PinnedBlob;
use super::older::{Line, Spot, directory_of};
use super::store::{PageBlobStore, is_directory, not_found};
use super::wire::{Item, Properties};
use crate::client::pause_after;
use crate::store::{Access, Error, ErrorKind, Kind, Opened, Outcome, RemotePath, Result, Stat};

const X_MS_IS_CURRENT_VERSION: HeaderName = HeaderName::from_static("x-ms-is-current-version");

/// Deletions under way at once.
const DELETIONS: usize = 16;

/// How often a snapshot is asked for whose answer was lost.
const TAKES: u32 = 3;

fn is_true(value: &HeaderValue) -> bool {
    value.as_bytes().eq_ignore_ascii_case(b"true")
}

impl PageBlobStore {
    /// What is there.
    pub(super) async fn stat_snapshot(&self, container: &str, spot: &Spot) -> Result<Stat> {
        let Some((time, below)) = &spot.place else {
            return Ok(Stat::directory());
        };
        if below.is_empty() {
            return Ok(directory_of(time));
        }
        let (at, found) = match self.head_snapshot(spot.line, container, (time, below)).await? {
            Some((at, found)) if !found.is_directory_marker() => (at, found),
            _ => return Ok(directory_of(time)),
        };
        let mut stat = self.stat_of(at.target(), found);
        stat.read_only = Some(spot.line.word());
        stat.attributes.push((spot.line.word().into(), time.clone()));
        Ok(stat)
    }

    /// Opens a snapshot.
    pub(super) async fn open_snapshot(
        &self,
        path: &RemotePath,
        (container, spot): (&str, &Spot),
        access: Access,
    ) -> Result<Opened> {
        let parts = spot.parts("open", path)?;
        let (at, found) = match self.head_snapshot(spot.line, container, parts).await? {
            Some((at, found)) if !found.is_directory_marker() => (at, found),
            _ => return Err(is_directory("open", path)),
        };
        if access == Access::Update {
            return Err(spot.read_only("open", path));
        }
        self.check_mark(at.target(), found.extent());
        Ok(Opened::Read(Arc::new(PinnedBlob::new(Arc::clone(&self.rest), at, &found))))
    }

    /// The snapshot of a blob; `None` if it is a directory.
    async fn head_snapshot(
        &self,
        line: Line,
        container: &str,
        (time, below): (&str, &str),
    ) -> Result<Option<(Address, Properties)>> {
        let at = match self.address_below(container, below) {
            // What cannot be a name is not there.
            Err(error) if error.kind() == ErrorKind::BadName => {
                return Err(error.with_kind(ErrorKind::NotFound));
            }
            at => at?.older(line, time),
        };
        match self.rest.head(&at).await {
            // The version that is the blob itself is not an older one.
            Ok((_, headers)) if headers.get(X_MS_IS_CURRENT_VERSION).is_some_and(is_true) => {
                Err(not_found("stat", at.target(), "it is the blob as it is now"))
            }
            Ok((found, _)) => Ok(Some((at, found))),
            Err(error) if error.kind() == ErrorKind::NotFound && self.root.only.is_none() => {
                // Whether any of them was taken at that time would be known at the end of the list.
                let folder = format!("{}{below}/", self.root.prefix);
                match self.first_older(line, container, &folder).await? {
                    Some(_) => Ok(None),
                    None => Err(error),
                }
            }
            Err(error) => Err(error),
        }
    }

    /// The first of the blobs that begin with `prefix` and of those of `line`; `None` also where listing is not
    /// allowed.
    async fn first_older(&self, line: Line, container: &str, prefix: &str) -> Result<Option<Item>> {
        let mut marker: Option<String> = None;
        loop {
            let page =
                self.rest.list_older(line, container, prefix, marker.as_deref(), Some(1)).await;
            let page = match page {
                Err(error)
                    if matches!(
                        error.kind(),
                        ErrorKind::PermissionDenied | ErrorKind::Unauthenticated
                    ) =>
                {
                    return Ok(None);
                }
                page => page?,
            };
            match (page.items.into_iter().next(), page.next) {
                (None, Some(next)) => marker = Some(next),
                (first, _) => return Ok(first),
            }
        }
    }

    /// The blob at a path below the mounted directory of a container.
    pub(super) fn address_below(&self, container: &str, below: &str) -> Result<Address> {
        if self.root.only.as_deref().is_some_and(|only| only != below) {
            return Err(not_found("stat", below, "only one blob is mounted here"));
        }
        self.rest.address(container, &format!("{}{below}", self.root.prefix))
    }

    /// Deletes the snapshot of one blob.
    pub(super) async fn remove_snapshot(
        &self,
        path: &RemotePath,
        container: &str,
        spot: &Spot,
    ) -> Result<()> {
        self.rest.delete_older(&self.snapshot_at("unlink", path, container, spot)?).await
    }

    /// The address of the snapshot at `path`, which is at `spot`.
    pub(super) fn snapshot_at(
        &self,
        op: &'static str,
        path: &RemotePath,
        container: &str,
        spot: &Spot,
    ) -> Result<Address> {
        let (time, below) = spot.parts(op, path)?;
        Ok(self.address_below(container, below)?.older(spot.line, time))
    }

    /// Deletes all snapshots of a time, if the directory is one of a time; others must be empty.
    pub(super) async fn remove_snapshots(
        &self,
        path: &RemotePath,
        container: &str,
        spot: &Spot,
    ) -> Result<()> {
        let Some((time, below)) = &spot.place else {
            return Err(spot.read_only("rmdir", path));
        };
        let line = spot.line;
        let dir = if below.is_empty() { String::new() } else { format!("{below}/") };
        let mut deleted = 0;
        let mut marker: Option<String> = None;
        loop {
            let page = self.page_below(line, container, &dir, marker.as_deref()).await?;
            let taken = self.taken(line, page.items).filter(|(_, at, _)| **at == **time);
            let names: Vec<String> = taken.map(|(name, ..)| name).collect();
            if !dir.is_empty() && !names.is_empty() {
                let why = "the directory is not empty";
                return Err(Error::new(ErrorKind::NotEmpty, "rmdir", path, why));
            }
            for names in names.chunks(DELETIONS) {
                let delete = |name: &String| {
                    let at = self.rest.address(container, name);
                    async move { self.rest.delete_older(&at?.older(line, time)).await }
                };
                for result in join_all(names.iter().map(delete)).await {
                    match result {
                        // Somebody else was faster.
                        Err(error) if error.kind() == ErrorKind::NotFound => {}
                        result => result?,
                    }
                    deleted += 1;
                }
            }
            marker = page.next;
            if marker.is_none() {
                break;
            }
        }
        if deleted == 0 {
            return Err(not_found("rmdir", path, "nothing was taken then"));
        }
        log::info!(target: "http", "{container}: {deleted} {} of {time} were deleted", line.included());
        Ok(())
    }

    /// Takes a snapshot of a blob; gives its path.
    pub(super) async fn take_snapshot(&self, path: &RemotePath) -> Result<RemotePath> {
        let (container, name) = self.name("snapshot", path)?;
        if self.look(&container, &name).await?.kind == Kind::Directory {
            let why = "it is a directory, and snapshots are of single blobs";
            return Err(Error::new(ErrorKind::IsDirectory, "snapshot", path, why));
        }
        let at = self.rest.address(&container, &name)?;
        let mut takes = 0;
        let time = loop {
            takes += 1;
            match self.rest.take_snapshot(&at).await {
                Err(error) if error.outcome() == Outcome::Unknown && takes < TAKES => {
                    log::warn!(target: "http", "{error}; taken again, so that there may be one more");
                    tokio::time::sleep(pause_after(takes)).await;
                }
                taken => break taken?,
            }
        };
        let top =
            if self.root.container.is_none() { format!("{container}/") } else { String::new() };
        let (dir, below) = (Line::Snapshots.dir(), &path.as_str()[top.len()..]);
        RemotePath::new(&format!("{top}{dir}/{time}/{below}")).ok_or_else(|| {
            Error::new(ErrorKind::Corrupt, "snapshot", path, "its time cannot be part of a path")
        })
    }

    /// Whether a blob has snapshots; `false` also where listing is not allowed.
    pub(super) async fn has_snapshots(&self, at: &Address) -> Result<bool> {
        let (container, name) = at.blob().split_once('/').unwrap_or((at.blob(), ""));
        // The blob's own name is the first that begins with it, and its snapshots come before it.
        Ok(match self.first_older(Line::Snapshots, container, name).await? {
            Some(Item::Blob(found, properties)) => found == name && properties.snapshot.is_some(),
            _ => false,
        })
    }
}
