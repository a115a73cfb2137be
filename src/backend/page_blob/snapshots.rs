//! Snapshots as directories: `.snapshots/TIME/PATH` at the top of what is mounted of a container.
//!
//! A time is the service's own name of a snapshot, verbatim. What was taken then stands below it under the
//! paths that the blobs have. A known time and path is one request. Which times there are nobody
//! tells but a list of all blobs with their snapshots, in which a delimiter is refused: so a
//! directory in here is read by going through the list of everything below it, one page at a time.
//! Times come in the order of blobs there, so they are put in order [`MOST_TIMES`] at a time, each
//! by going through the list once.
//!
//! Whether any blob has a snapshot of a time is not asked when its directory is looked up: a time in
//! which nothing was taken is an empty directory, and so is a directory in which nothing was taken
//! then. Real blobs whose names begin with `.snapshots/` are hidden by this.

use std::collections::BTreeSet;
use std::str::FromStr as _;
use std::sync::Arc;
use std::time::SystemTime;

use futures_util::future::join_all;
use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use super::address::Address;
use super::blob::PinnedBlob;
use super::listing::{Fold, Found, unshowable};
use super::lookup::brief;
use super::store::{PageBlobStore, is_directory, not_found};
use super::wire::{BlobPage, Item, Properties};
use crate::client::pause_after;
use crate::store::{
    Access, Cursor, Error, ErrorKind, Kind, ListEntry, ListPage, Opened, Outcome, RemotePath,
    Result, Stat,
};

/// The directory's name.
pub(super) const DIR: &str = ".snapshots";

/// Why a snapshot cannot be written, in words.
const READ_ONLY: &str = "snapshot";

/// How many times are held while they are put in order: some 4 MiB.
const MOST_TIMES: usize = 16_384;

/// Deletions under way at once.
const DELETIONS: usize = 16;

/// How often a snapshot is asked for whose answer was lost.
const TAKES: u32 = 3;

/// What a path below [`DIR`] stands for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Spot {
    /// The directory of times.
    Times,
    /// A path among what was taken at a time; the empty one is the time's own directory.
    At(String, String),
}

impl Spot {
    /// What `path`, relative to the mounted directory of a container, stands for. `None` if it is not in
    /// here; `Some(None)` if nothing of this name can be.
    pub(super) fn of(path: &str) -> Option<Option<Spot>> {
        let rest = path.strip_prefix(DIR)?;
        let Some(rest) = rest.strip_prefix('/') else {
            return rest.is_empty().then_some(Some(Spot::Times));
        };
        let (time, below) = rest.split_once('/').unwrap_or((rest, ""));
        Some(taken_at(time).map(|_| Spot::At(time.to_owned(), below.to_owned())))
    }

    /// Time and path of what is no directory of ours.
    fn parts(&self, op: &'static str, path: &RemotePath) -> Result<(&str, &str)> {
        match self {
            Spot::At(time, below) if !below.is_empty() => Ok((time, below)),
            _ => Err(is_directory(op, path)),
        }
    }
}

/// When a snapshot of this name was taken; `None` for what is no such name. The one form that the
/// service gives is the one that is taken, so that no snapshot has two names.
fn taken_at(time: &str) -> Option<SystemTime> {
    const FORM: &[u8] = b"0000-00-00T00:00:00.0000000Z";
    let fits = |(found, wanted): (u8, &u8)| match wanted {
        b'0' => found.is_ascii_digit(),
        other => found == *other,
    };
    if time.len() != FORM.len() || !time.bytes().zip(FORM).all(fits) {
        return None;
    }
    jiff::Timestamp::from_str(time).ok().map(SystemTime::from)
}

/// A directory of a time.
fn directory_of(time: &str) -> Stat {
    Stat { modified: taken_at(time), ..Stat::directory() }
}

/// That nothing in here is changed but by deleting it.
pub(super) fn read_only(op: &'static str, path: &RemotePath) -> Error {
    let why = "snapshots are read-only; they are made by 'blobdir snapshot' and deleted by rm";
    Error::new(ErrorKind::ReadOnly, op, path, why)
}

impl PageBlobStore {
    /// What is there.
    pub(super) async fn stat_snapshot(&self, container: &str, spot: &Spot) -> Result<Stat> {
        let Spot::At(time, below) = spot else {
            return Ok(Stat::directory());
        };
        if below.is_empty() {
            return Ok(directory_of(time));
        }
        let (at, found) = match self.head_snapshot(container, time, below).await? {
            Some((at, found)) if !found.is_directory_marker() => (at, found),
            _ => return Ok(directory_of(time)),
        };
        let mut stat = self.stat_of(at.target(), found);
        stat.read_only = Some(READ_ONLY);
        stat.attributes.push(("snapshot".into(), time.clone()));
        Ok(stat)
    }

    /// Opens a snapshot.
    pub(super) async fn open_snapshot(
        &self,
        path: &RemotePath,
        (container, spot): (&str, &Spot),
        access: Access,
    ) -> Result<Opened> {
        let (time, below) = spot.parts("open", path)?;
        let (at, found) = match self.head_snapshot(container, time, below).await? {
            Some((at, found)) if !found.is_directory_marker() => (at, found),
            _ => return Err(is_directory("open", path)),
        };
        if access == Access::Update {
            return Err(read_only("open", path));
        }
        self.check_mark(at.target(), found.extent());
        Ok(Opened::Read(Arc::new(PinnedBlob::new(Arc::clone(&self.rest), at, &found))))
    }

    /// The snapshot of a blob; `None` if it is a directory.
    async fn head_snapshot(
        &self,
        container: &str,
        time: &str,
        below: &str,
    ) -> Result<Option<(Address, Properties)>> {
        let at = match self.address_below(container, below) {
            // What cannot be a name is not there.
            Err(error) if error.kind() == ErrorKind::BadName => {
                return Err(error.with_kind(ErrorKind::NotFound));
            }
            at => at?.at_snapshot(time),
        };
        match self.rest.head(&at).await {
            Ok((found, _)) => Ok(Some((at, found))),
            Err(error) if error.kind() == ErrorKind::NotFound && self.root.only.is_none() => {
                // Whether any of them was taken at that time would be known at the end of the list.
                let folder = format!("{}{below}/", self.root.prefix);
                let mut marker: Option<String> = None;
                loop {
                    let page = self
                        .rest
                        .list_snapshots(container, &folder, marker.as_deref(), Some(1))
                        .await
                        .map_err(|_| error.clone())?;
                    match page.next {
                        _ if !page.items.is_empty() => return Ok(None),
                        Some(next) => marker = Some(next),
                        None => return Err(error),
                    }
                }
            }
            Err(error) => Err(error),
        }
    }

    /// The blob at a path below the mounted directory of a container.
    pub(super) fn address_below(&self, container: &str, below: &str) -> Result<Address> {
        if self.root.only.as_deref().is_some_and(|only| only != below) {
            return Err(not_found("stat", below, "only one blob is mounted here"));
        }
        self.rest.address(container, &format!("{}{below}", self.root.prefix))
    }

    /// One page of a directory.
    pub(super) async fn list_snapshots(
        &self,
        container: &str,
        spot: &Spot,
        cursor: Option<Cursor>,
    ) -> Result<ListPage> {
        match spot {
            Spot::Times => self.list_times(container, cursor).await,
            Spot::At(time, below) => self.list_taken(container, time, below, cursor).await,
        }
    }

    /// The next times after the one in the cursor. Goes through the whole list.
    async fn list_times(&self, container: &str, cursor: Option<Cursor>) -> Result<ListPage> {
        let mut times = Times::after(cursor, MOST_TIMES);
        let mut marker: Option<String> = None;
        loop {
            let page = self.page_below(container, "", marker.as_deref()).await?;
            for (name, found) in self.taken(page.items) {
                let Some(time) = found.snapshot else { continue };
                if taken_at(&time).is_some() {
                    times.add(time);
                } else if self.notes.first("times") {
                    log::warn!(
                        target: "http",
                        "{container}: snapshots whose times have another form are not shown, such as \
                         {time:?} of {name:?}"
                    );
                }
            }
            marker = page.next;
            if marker.is_none() {
                break;
            }
        }
        let (times, next) = times.finish();
        let entry = |time: Box<str>| ListEntry { stat: directory_of(&time), name: time.into() };
        Ok(ListPage { entries: times.into_iter().map(entry).collect(), next })
    }

    /// A page of what was taken at `time` in the directory `below`: whatever one page of the list holds.
    async fn list_taken(
        &self,
        container: &str,
        time: &str,
        below: &str,
        cursor: Option<Cursor>,
    ) -> Result<ListPage> {
        let dir = if below.is_empty() { String::new() } else { format!("{below}/") };
        let mut position = match &cursor {
            None => Position::default(),
            Some(cursor) => Position::resume(cursor).ok_or_else(|| {
                Error::new(ErrorKind::Other, "List Blobs", &dir, "this cursor is not ours")
            })?,
        };
        let page = self.page_below(container, &dir, position.marker.as_deref()).await?;
        let mut entries = Vec::new();
        let skip = self.root.prefix.len() + dir.len();
        for (name, found) in self.taken(page.items) {
            if found.snapshot.as_deref() != Some(time) {
                continue;
            }
            let rest = &name[skip..];
            let (first, is_below) = match rest.split_once('/') {
                Some((first, _)) => (first, true),
                None => (rest, false),
            };
            if unshowable(first).is_some() || is_below && first == position.last_dir {
                continue;
            }
            let found = if is_below {
                first.clone_into(&mut position.last_dir);
                Found::Directory(first)
            } else if found.is_directory_marker() {
                Found::Blob(first, Stat::directory())
            } else {
                Found::Blob(first, brief(&found))
            };
            position.fold.take(found, &mut entries, |_| {});
        }
        let next = match page.next {
            Some(next) => Some(position.suspend(&next)),
            None => {
                position.fold.finish(&mut entries);
                None
            }
        };
        for ListEntry { stat, .. } in &mut entries {
            match stat.kind {
                Kind::File | Kind::Symlink => stat.read_only = Some(READ_ONLY),
                Kind::Directory => stat.modified = taken_at(time),
            }
        }
        Ok(ListPage { entries, next })
    }

    /// A page of the list of what is below `dir`, which is empty or ends with a slash.
    async fn page_below(
        &self,
        container: &str,
        dir: &str,
        marker: Option<&str>,
    ) -> Result<BlobPage> {
        let only = self.root.only.as_deref().unwrap_or_default();
        let prefix = format!("{}{dir}{only}", self.root.prefix);
        self.rest.list_snapshots(container, &prefix, marker, None).await
    }

    /// The snapshots among `items`, with the blobs' names.
    fn taken(&self, items: Vec<Item>) -> impl Iterator<Item = (String, Properties)> {
        items.into_iter().filter_map(|item| match item {
            Item::Blob(name, found) if found.snapshot.is_some() => {
                let inner = name.strip_prefix(&*self.root.prefix)?;
                let shown = self.root.only.as_deref().is_none_or(|only| only == inner);
                shown.then_some((name, *found))
            }
            _ => None,
        })
    }

    /// Deletes the snapshot of one blob.
    pub(super) async fn remove_snapshot(
        &self,
        path: &RemotePath,
        container: &str,
        spot: &Spot,
    ) -> Result<()> {
        self.rest.delete_snapshot(&self.snapshot_at("unlink", path, container, spot)?).await
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
        Ok(self.address_below(container, below)?.at_snapshot(time))
    }

    /// Deletes all snapshots of a time, if the directory is one of a time; others must be empty.
    pub(super) async fn remove_snapshots(
        &self,
        path: &RemotePath,
        container: &str,
        spot: &Spot,
    ) -> Result<()> {
        let Spot::At(time, below) = spot else {
            return Err(read_only("rmdir", path));
        };
        let dir = if below.is_empty() { String::new() } else { format!("{below}/") };
        let mut deleted = 0;
        let mut marker: Option<String> = None;
        loop {
            let page = self.page_below(container, &dir, marker.as_deref()).await?;
            let of_time = |(name, found): (String, Properties)| {
                (found.snapshot.as_deref() == Some(time)).then_some(name)
            };
            let names: Vec<String> = self.taken(page.items).filter_map(of_time).collect();
            if !dir.is_empty() && !names.is_empty() {
                let why = "the directory is not empty";
                return Err(Error::new(ErrorKind::NotEmpty, "rmdir", path, why));
            }
            for names in names.chunks(DELETIONS) {
                let delete = |name: &String| {
                    let at = self.rest.address(container, name);
                    async move { self.rest.delete_snapshot(&at?.at_snapshot(time)).await }
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
        log::info!(target: "http", "{container}: {deleted} snapshots of {time} were deleted");
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
        let below = &path.as_str()[top.len()..];
        RemotePath::new(&format!("{top}{DIR}/{time}/{below}")).ok_or_else(|| {
            Error::new(ErrorKind::Corrupt, "snapshot", path, "its time cannot be part of a path")
        })
    }

    /// Whether a blob has snapshots; `false` also where listing is not allowed.
    pub(super) async fn has_snapshots(&self, at: &Address) -> Result<bool> {
        let (container, name) = at.blob().split_once('/').unwrap_or((at.blob(), ""));
        let mut marker: Option<String> = None;
        loop {
            let page = self.rest.list_snapshots(container, name, marker.as_deref(), Some(1)).await;
            let page = match page {
                Err(error)
                    if matches!(
                        error.kind(),
                        ErrorKind::PermissionDenied | ErrorKind::Unauthenticated
                    ) =>
                {
                    return Ok(false);
                }
                page => page?,
            };
            // The blob's own name is the first that begins with it, and its snapshots come before it.
            match (page.items.first(), page.next) {
                (Some(Item::Blob(found, properties)), _) => {
                    return Ok(found == name && properties.snapshot.is_some());
                }
                (Some(Item::Prefix(_)), _) | (None, None) => return Ok(false),
                (None, Some(next)) => marker = Some(next),
            }
        }
    }
}

/// The first so many times after one, put in order.
#[derive(Debug)]
struct Times {
    after: Option<Arc<str>>,
    most: usize,
    kept: BTreeSet<Box<str>>,
    more: bool,
}

impl Times {
    fn after(cursor: Option<Cursor>, most: usize) -> Times {
        let after = cursor.map(|cursor| cursor.0);
        Times { after, most, kept: BTreeSet::new(), more: false }
    }

    fn add(&mut self, time: Box<str>) {
        if self.after.as_ref().is_some_and(|after| *time <= **after) {
            return;
        }
        self.kept.insert(time);
        if self.kept.len() > self.most {
            self.kept.pop_last();
            self.more = true;
        }
    }

    fn finish(self) -> (BTreeSet<Box<str>>, Option<Cursor>) {
        let last = self.kept.last().filter(|_| self.more);
        let next = last.map(|last| Cursor(Arc::from(&**last)));
        (self.kept, next)
    }
}

/// Where reading a directory of a time goes on.
#[derive(Debug, Default)]
struct Position {
    marker: Option<String>,
    /// The directory that was met last; what is below it comes in a row.
    last_dir: String,
    fold: Fold,
}

impl Position {
    fn suspend(self, marker: &str) -> Cursor {
        let last_dir = utf8_percent_encode(&self.last_dir, NON_ALPHANUMERIC);
        Cursor(format!("{last_dir}/{}", self.fold.suspend(marker).0).into())
    }

    fn resume(cursor: &Cursor) -> Option<Position> {
        let (last_dir, rest) = cursor.0.split_once('/')?;
        let last_dir = percent_decode_str(last_dir).decode_utf8().ok()?.into_owned();
        let (marker, fold) = Fold::resume(&Cursor(rest.into()))?;
        Some(Position { marker: Some(marker), last_dir, fold })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::time::{Duration, UNIX_EPOCH};

    use proptest::prelude::*;

    use super::{Position, Spot, Times, taken_at};
    use crate::store::Cursor;

    #[test]
    fn paths_are_told_apart() {
        const TIME: &str = "2026-11-20T06:54:00.0000000Z";
        let at = |below: &str| Some(Some(Spot::At(TIME.to_owned(), below.to_owned())));
        assert_eq!(Spot::of(".snapshots"), Some(Some(Spot::Times)));
        assert_eq!(Spot::of(&format!(".snapshots/{TIME}")), at(""));
        assert_eq!(Spot::of(&format!(".snapshots/{TIME}/vm/root.vhd")), at("vm/root.vhd"));
        assert_eq!(Spot::of(".snapshots/soon/a"), Some(None));
        for other in ["", "a", "a/.snapshots", ".snapshotsx", ".snapshot", ".snapshots.old/a"] {
            assert_eq!(Spot::of(other), None, "{other:?}");
        }
    }

    #[test]
    fn a_time_has_one_form() {
        let time = taken_at("2020-10-01T22:57:35.7356785Z");
        assert_eq!(time, Some(UNIX_EPOCH + Duration::new(1_601_593_055, 735_678_500)));
        for bad in [
            "",
            "2020-10-01T22:57:35Z",
            "2020-10-01T22:57:35.735678Z",
            "2020-10-01T22:57:35.7356785z",
            "2020-10-01T22:57:35.7356785+",
            "2020-13-01T22:57:35.7356785Z",
            "2020-02-30T22:57:35.7356785Z",
            "2020-10-01 22:57:35.7356785Z",
            "2020-10-01T22:57:35.735678éZ",
        ] {
            assert_eq!(taken_at(bad), None, "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn every_time_comes_once_and_in_order(
            met in prop::collection::vec("[a-f]{1,2}", 0..40), most in 1..9usize
        ) {
            let mut told: Vec<Box<str>> = Vec::new();
            let mut cursor = None;
            loop {
                let mut times = Times::after(cursor, most);
                for time in &met {
                    times.add(time.as_str().into());
                    prop_assert!(times.kept.len() <= most);
                }
                let (page, next) = times.finish();
                told.extend(page);
                cursor = next;
                if cursor.is_none() {
                    break;
                }
            }
            let expected: BTreeSet<&str> = met.iter().map(|time| &**time).collect();
            prop_assert_eq!(told.iter().map(|time| &**time).collect::<Vec<_>>(), Vec::from_iter(expected));
        }

        #[test]
        fn cursors_from_elsewhere_do_no_harm(text in ".*") {
            let _ = Position::resume(&Cursor(text.into()));
        }
    }
}
