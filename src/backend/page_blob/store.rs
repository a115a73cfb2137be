//! The namespace: blobs and directories of a container, or of all containers of an account.
//!
//! A flat namespace has no directories, only names with slashes. A directory is there if blobs are
//! below it, or a marker: an empty blob `dir/` or `dir` with metadata `hdi_isfolder=true`, as other
//! tools make them. This module makes `dir/`.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::address::{Address, Condition, etag_value};
use super::blob::PinnedBlob;
use super::client::Rest;
use super::config::is_container_name;
use super::delivery::Doubts;
use super::lease::Leases;
use super::listing::{Hidden, Notes};
use super::older::Spot;
use super::updates::{MAX_LEN, MAX_UPDATE};
use super::wire::Item;
use super::{extents, length, rename};
use crate::store::{
    Access, BlobMut, BoxFuture, Capabilities, ChangePage, Cursor, Error, ErrorKind, Kind, ListPage,
    Moved, Opened, RemotePath, Replace, Result, Stat, Store, Version, WriteModel,
};

/// The part of an account that is mounted.
#[derive(Clone, Debug)]
pub(super) struct Root {
    /// The container; `None` for all of them as directories.
    pub(super) container: Option<String>,
    /// What all names begin with: empty, or ends with a slash.
    pub(super) prefix: String,
    /// The only name in it, where one blob is mounted.
    pub(super) only: Option<String>,
    /// Listings show the directories of snapshots and versions; they are there in any case.
    pub(super) show_snapshots: bool,
}

/// Where a path leads.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Place {
    /// The list of containers.
    Account,
    /// The mounted directory of a container.
    Top(String),
    /// A name in a container.
    Name(String, String),
    /// Among the snapshots or versions of what is mounted of a container.
    Snapshots(String, Spot),
}

/// Azure page blobs as a store.
#[derive(Debug)]
pub(super) struct PageBlobStore {
    pub(super) rest: Arc<Rest>,
    /// The right to write blobs.
    pub(super) leases: Arc<Leases>,
    /// What may be applied late.
    pub(super) doubts: Arc<Doubts>,
    pub(super) root: Root,
    /// The credential is a signature, which may be for one blob or not allow listing.
    pub(super) may_lack_listing: bool,
    /// It did not allow listing.
    pub(super) no_listing: AtomicBool,
    /// What was said in the log.
    pub(super) notes: Notes,
    /// What cannot be shown.
    pub(super) hidden: Hidden,
}

impl PageBlobStore {
    /// The part `root` of what `rest` reaches.
    pub(super) fn new(
        rest: Arc<Rest>,
        leases: Leases,
        root: Root,
        may_lack_listing: bool,
    ) -> PageBlobStore {
        PageBlobStore {
            rest,
            leases: Arc::new(leases),
            doubts: Arc::default(),
            root,
            may_lack_listing,
            no_listing: AtomicBool::new(false),
            notes: Notes::default(),
            hidden: Hidden::default(),
        }
    }

    /// Where a path leads.
    ///
    /// Errors: `NotFound` for what can be neither a container, a blob nor a snapshot.
    pub(super) fn place(&self, path: &RemotePath) -> Result<Place> {
        let text = path.as_str();
        let (container, below) = match &self.root.container {
            Some(container) => (container.as_str(), text),
            None if text.is_empty() => return Ok(Place::Account),
            None => text.split_once('/').unwrap_or((text, "")),
        };
        if self.root.container.is_none() && !is_container_name(container) {
            return Err(not_found("stat", path, "no container can have this name"));
        }
        let container = container.to_owned();
        if below.is_empty() {
            return Ok(Place::Top(container));
        }
        match Spot::of(below) {
            Some(Some(spot)) => return Ok(Place::Snapshots(container, spot)),
            Some(None) => {
                return Err(not_found("stat", path, "no snapshot or version can have this name"));
            }
            None => {}
        }
        if self.root.only.as_deref().is_some_and(|only| only != below) {
            return Err(not_found("stat", path, "only one blob is mounted here"));
        }
        Ok(Place::Name(container, format!("{}{below}", self.root.prefix)))
    }

    /// The container and name of a path that is to be changed.
    pub(super) fn name(&self, op: &'static str, path: &RemotePath) -> Result<(String, String)> {
        match self.place(path)? {
            Place::Name(container, name) => Ok((container, name)),
            Place::Snapshots(_, spot) => Err(spot.read_only(op, path)),
            Place::Top(_) | Place::Account if path.is_root() => Err(Error::new(
                ErrorKind::IsDirectory,
                op,
                path,
                "it is the mounted directory itself",
            )),
            Place::Top(_) | Place::Account => Err(Error::new(
                ErrorKind::PermissionDenied,
                op,
                path,
                "it would be a container; make and delete containers with az storage container, \
                 or mount one with az://ACCOUNT/CONTAINER to write in it",
            )),
        }
    }

    pub(super) fn address(&self, op: &'static str, path: &RemotePath) -> Result<Address> {
        let (container, name) = self.name(op, path)?;
        self.rest.address(&container, &name)
    }

    /// The address of a blob or of a snapshot.
    pub(super) fn readable(&self, op: &'static str, path: &RemotePath) -> Result<Address> {
        match self.place(path)? {
            Place::Snapshots(container, spot) => self.snapshot_at(op, path, &container, &spot),
            _ => self.address(op, path),
        }
    }

    async fn open_name(&self, path: &RemotePath, access: Access) -> Result<Opened> {
        let (container, name) = self.name("open", path)?;
        let at = self.rest.address(&container, &name)?;
        let (found, headers) = match self.rest.head(&at).await {
            Ok(found) => found,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let below = format!("{name}/");
                return Err(match self.has_below(&container, &below).await {
                    Ok(true) => is_directory("open", path),
                    _ => error,
                });
            }
            Err(error) => return Err(error),
        };
        if found.is_directory_marker() {
            return Err(is_directory("open", path));
        }
        self.check_mark(at.target(), found.extent());
        match access {
            Access::Read => {
                let rest = Arc::clone(&self.rest);
                Ok(Opened::Read(Arc::new(PinnedBlob::new(rest, at, &found))))
            }
            Access::Update => {
                Ok(Opened::Update(self.open_for_updates(at, (found, headers)).await?))
            }
        }
    }

    async fn make_directory(&self, path: &RemotePath) -> Result<()> {
        let (container, name) = self.name("mkdir", path)?;
        match self.look(&container, &name).await {
            Ok(_) => {
                return Err(Error::new(
                    ErrorKind::AlreadyExists,
                    "mkdir",
                    path,
                    "the name is taken",
                ));
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let marker = self.rest.address(&container, &format!("{name}/"))?;
        self.rest.create_directory_marker(&marker).await
    }

    async fn remove_directory(&self, path: &RemotePath) -> Result<()> {
        let (container, name) = self.name("rmdir", path)?;
        let folder = format!("{name}/");
        // The marker and one more, if there is one.
        let items = self.first_items(&container, &folder, 2).await?;
        let not_empty = |why| Err(Error::new(ErrorKind::NotEmpty, "rmdir", path, why));
        match &items[..] {
            [] if self.look(&container, &name).await?.kind == Kind::File => {
                return Err(Error::new(ErrorKind::NotDirectory, "rmdir", path, "it is a blob"));
            }
            [] => {}
            [Item::Blob(found, marker)] if *found == folder && marker.size == 0 => {
                let condition = Condition::etag(&marker.etag);
                let marker = self.rest.address(&container, &folder)?;
                self.rest.delete(&marker, &condition, None).await?;
            }
            [Item::Blob(found, _)] if *found == folder => {
                return not_empty(
                    "a blob whose name ends with a slash is in it; it cannot be shown",
                );
            }
            _ => return not_empty("the directory is not empty"),
        }
        // The marker without a slash that other tools make.
        let bare = self.rest.address(&container, &name)?;
        match self.rest.head(&bare).await {
            Ok((found, _)) if found.is_directory_marker() => {
                self.rest.delete(&bare, &Condition::etag(&found.etag), None).await
            }
            Ok(_) => Ok(()),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn remove_blob(&self, path: &RemotePath, version: Option<&Version>) -> Result<()> {
        if let Place::Snapshots(container, spot) = self.place(path)? {
            return self.remove_snapshot(path, &container, &spot).await;
        }
        let at = self.address("unlink", path)?;
        self.remove_at(&at, version).await
    }

    /// What a path is, for [`rename`].
    pub(super) async fn look_at(
        &self,
        op: &'static str,
        path: &RemotePath,
    ) -> Result<(Address, Result<Stat>)> {
        let (container, name) = self.name(op, path)?;
        let found = self.look(&container, &name).await;
        Ok((self.rest.address(&container, &name)?, found))
    }
}

pub(super) fn not_found(op: &'static str, target: impl std::fmt::Display, why: &str) -> Error {
    Error::new(ErrorKind::NotFound, op, target, why)
}

pub(super) fn is_directory(op: &'static str, path: &RemotePath) -> Error {
    Error::new(ErrorKind::IsDirectory, op, path, "it is a directory")
}

impl Store for PageBlobStore {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            write: WriteModel::InPlace { align: length::PAGE, max: MAX_UPDATE },
            immutable: false,
            max_len: MAX_LEN,
            max_read: self.rest.verifier.longest_read(),
            snapshots: true,
        }
    }

    fn stat<'a>(&'a self, path: &'a RemotePath) -> BoxFuture<'a, Result<Stat>> {
        Box::pin(async move {
            match self.place(path)? {
                Place::Account => Ok(Stat::directory()),
                Place::Top(_) if path.is_root() => Ok(Stat::directory()),
                Place::Top(container) => {
                    self.first_names(&container, "", 1).await?;
                    Ok(Stat::directory())
                }
                Place::Name(container, name) => {
                    let look = self.look(&container, &name);
                    self.rest.within("stat", path, look).await
                }
                Place::Snapshots(container, spot) => {
                    let look = self.stat_snapshot(&container, &spot);
                    self.rest.within("stat", path, look).await
                }
            }
        })
    }

    fn list<'a>(
        &'a self,
        dir: &'a RemotePath,
        cursor: Option<Cursor>,
    ) -> BoxFuture<'a, Result<ListPage>> {
        Box::pin(async move {
            if let Some(only) = &self.root.only
                && dir.is_root()
            {
                return self.list_only(only).await;
            }
            match self.place(dir)? {
                Place::Account => self.list_containers(cursor).await,
                Place::Top(container) => {
                    self.list_names(&container, &self.root.prefix, cursor).await
                }
                Place::Name(container, name) => {
                    self.list_names(&container, &format!("{name}/"), cursor).await
                }
                Place::Snapshots(container, spot) => {
                    self.list_snapshots(&container, &spot, cursor).await
                }
            }
        })
    }

    fn allocated<'a>(
        &'a self,
        path: &'a RemotePath,
        stat: &'a Stat,
    ) -> BoxFuture<'a, Result<Option<u64>>> {
        Box::pin(async move {
            let (Some(version), None) = (&stat.version, stat.allocated) else {
                return Ok(stat.allocated);
            };
            let (at, etag) = (self.readable("stat", path)?, etag_value(&version.0));
            let size = stat.len.next_multiple_of(length::PAGE);
            self.rest.within("stat", path, extents::count(&self.rest, &at, size, &etag)).await
        })
    }

    fn open<'a>(&'a self, path: &'a RemotePath, access: Access) -> BoxFuture<'a, Result<Opened>> {
        Box::pin(async move {
            match self.place(path)? {
                Place::Account | Place::Top(_) => return Err(is_directory("open", path)),
                Place::Snapshots(container, spot) => {
                    let open = self.open_snapshot(path, (&container, &spot), access);
                    return self.rest.within("open", path, open).await;
                }
                Place::Name(..) => {}
            }
            let open = self.open_name(path, access);
            self.rest.within("open", path, open).await
        })
    }

    fn create<'a>(
        &'a self,
        path: &'a RemotePath,
        replace: Replace,
    ) -> BoxFuture<'a, Result<Arc<dyn BlobMut>>> {
        Box::pin(async move {
            let at = self.address("create", path)?;
            let create = self.create_at(at, replace, Vec::new());
            self.rest.within("create", path, create).await
        })
    }

    fn remove<'a>(
        &'a self,
        path: &'a RemotePath,
        version: Option<&'a Version>,
    ) -> BoxFuture<'a, Result<()>> {
        Box::pin(self.rest.within("unlink", path, self.remove_blob(path, version)))
    }

    fn rename<'a>(
        &'a self,
        from: &'a RemotePath,
        to: &'a RemotePath,
        replace: Replace,
    ) -> BoxFuture<'a, Result<Moved>> {
        Box::pin(self.rest.within("rename", from, rename::rename(self, from, to, replace)))
    }

    fn make_dir<'a>(&'a self, path: &'a RemotePath) -> BoxFuture<'a, Result<()>> {
        Box::pin(self.rest.within("mkdir", path, self.make_directory(path)))
    }

    fn remove_dir<'a>(&'a self, path: &'a RemotePath) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            if let Place::Snapshots(container, spot) = self.place(path)? {
                // As long as the list is; each request has a deadline of its own.
                return self.remove_snapshots(path, &container, &spot).await;
            }
            self.rest.within("rmdir", path, self.remove_directory(path)).await
        })
    }

    fn snapshot<'a>(&'a self, path: &'a RemotePath) -> BoxFuture<'a, Result<RemotePath>> {
        Box::pin(self.rest.within("snapshot", path, self.take_snapshot(path)))
    }

    fn changes<'a>(
        &'a self,
        from: &'a RemotePath,
        to: &'a RemotePath,
        cursor: Option<Cursor>,
    ) -> BoxFuture<'a, Result<ChangePage>> {
        Box::pin(self.rest.within("compare", to, self.compare(from, to, cursor)))
    }

    fn hidden(&self) -> Vec<(&'static str, u64)> {
        self.hidden.counts()
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.leases.release_all())
    }
}
