//! The namespace: blobs and directories of a container, or of all containers of an account.
//!
//! A flat namespace has no directories, only names with slashes. A directory is there if blobs are
//! below it, or a marker: an empty blob `dir/` or `dir` with metadata `hdi_isfolder=true`, as other
//! tools make them. This module makes `dir/`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::blob::PinnedBlob;
use super::client::{Address, Condition, Listing, Rest};
use super::length::{Extent, Mark};
use super::listing::{Fold, Found, Notes, unshowable};
use super::updates::{MAX_LEN, MAX_UPDATE, UpdatableBlob};
use super::wire::{Item, Properties, metadata_headers};
use super::{length, rename};
use crate::store::{
    Access, BlobMut, BoxFuture, Capabilities, Cursor, Error, ErrorKind, Kind, ListEntry, ListPage,
    Opened, RemotePath, Replace, Result, Stat, Store, Version, WriteModel,
};

/// The most names that the service gives in one page.
const LARGEST_PAGE: u32 = 5000;

/// How many names a [`Store::stat`] asks for: the blob, a few that sort before its directory (`a-b`,
/// `a.b`), and the directory.
const STAT_PAGE: u32 = 8;

/// How often replacing a blob begins again because somebody else is replacing it too.
const REPLACE_TRIES: u32 = 4;

/// The sequence number of a blob that we create: its first epoch.
const FIRST_EPOCH: u64 = 1;

/// The part of an account that is mounted.
#[derive(Clone, Debug)]
pub(super) struct Root {
    /// The container; `None` for all of them as directories.
    pub(super) container: Option<String>,
    /// What all names begin with: empty, or ends with a slash.
    pub(super) prefix: String,
    /// The only name in it, where one blob is mounted.
    pub(super) only: Option<String>,
}

/// Where a path leads.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Place {
    /// The list of containers.
    Account,
    /// The mounted directory of a container.
    Top(String),
    /// A name in a container.
    Name(String, String),
}

/// Azure page blobs as a store.
#[derive(Debug)]
pub(super) struct PageBlobStore {
    pub(super) rest: Arc<Rest>,
    root: Root,
    /// The credential is a signature, which may be for one blob or not allow listing.
    may_lack_listing: bool,
    /// It did not allow listing.
    no_listing: AtomicBool,
    notes: Notes,
}

impl PageBlobStore {
    /// The part `root` of what `rest` reaches.
    pub(super) fn new(rest: Arc<Rest>, root: Root, may_lack_listing: bool) -> PageBlobStore {
        PageBlobStore {
            rest,
            root,
            may_lack_listing,
            no_listing: AtomicBool::new(false),
            notes: Notes::default(),
        }
    }

    fn place(&self, path: &RemotePath) -> Result<Place> {
        let text = path.as_str();
        match &self.root.container {
            Some(container) if text.is_empty() => Ok(Place::Top(container.clone())),
            Some(container) => {
                if self.root.only.as_deref().is_some_and(|only| only != text) {
                    return Err(not_found("stat", path, "only one blob is mounted here"));
                }
                Ok(Place::Name(container.clone(), format!("{}{text}", self.root.prefix)))
            }
            None if text.is_empty() => Ok(Place::Account),
            None => Ok(match text.split_once('/') {
                Some((container, name)) => Place::Name(container.to_owned(), name.to_owned()),
                None => Place::Top(text.to_owned()),
            }),
        }
    }

    /// The container and name of a path that is to be changed.
    fn name(&self, op: &'static str, path: &RemotePath) -> Result<(String, String)> {
        match self.place(path)? {
            Place::Name(container, name) => Ok((container, name)),
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

    fn address(&self, op: &'static str, path: &RemotePath) -> Result<Address> {
        let (container, name) = self.name(op, path)?;
        self.rest.address(&container, &name)
    }

    /// What a name is: a directory wins. One request, unless many names sort between `name` and
    /// `name/`.
    async fn look(&self, container: &str, name: &str) -> Result<Stat> {
        if self.no_listing.load(Ordering::Relaxed) {
            return self.look_without_listing(container, name).await;
        }
        match self.look_by_listing(container, name).await {
            Err(error)
                if self.may_lack_listing
                    && matches!(
                        error.kind(),
                        ErrorKind::PermissionDenied | ErrorKind::Unauthenticated
                    ) =>
            {
                let found = self.look_without_listing(container, name).await;
                // Without listing all names are files; only if that works is it so.
                if found.is_ok() {
                    self.no_listing.store(true, Ordering::Relaxed);
                    return found;
                }
                Err(error)
            }
            result => result,
        }
    }

    async fn look_without_listing(&self, container: &str, name: &str) -> Result<Stat> {
        let at = self.rest.address(container, name)?;
        let (found, _) = self.rest.head(&at).await?;
        if found.is_directory_marker() {
            return Ok(Stat::directory());
        }
        Ok(self.stat_of(at.target(), found))
    }

    async fn look_by_listing(&self, container: &str, name: &str) -> Result<Stat> {
        // The same checks as for every other use of the name.
        let at = self.rest.address(container, name)?;
        let folder = format!("{name}/");
        let mut blob: Option<Properties> = None;
        let mut marker: Option<String> = None;
        let settled = loop {
            let page = self
                .rest
                .list(
                    container,
                    &Listing {
                        prefix: name,
                        folded: true,
                        marker: marker.as_deref(),
                        max: STAT_PAGE,
                        attributes: true,
                    },
                )
                .await?;
            let mut passed = false;
            for item in page.items {
                passed |= item.name() > folder.as_str();
                match item {
                    Item::Prefix(found) if found == folder => return Ok(Stat::directory()),
                    Item::Blob(found, properties) if found == name => blob = Some(*properties),
                    // A server that does not fold shows what is below.
                    Item::Blob(found, _) if found.starts_with(&folder) => {
                        return Ok(Stat::directory());
                    }
                    _ => {}
                }
            }
            match page.next {
                None => break true,
                Some(_) if passed => break true,
                // Other names come between; asking for what is below is shorter than going on.
                Some(_) if blob.is_some() => break false,
                Some(next) => marker = Some(next),
            }
        };
        if let Some(found) = &blob
            && found.is_directory_marker()
        {
            return Ok(Stat::directory());
        }
        if !settled && self.has_below(container, &folder).await? {
            return Ok(Stat::directory());
        }
        match blob {
            Some(found) => Ok(self.stat_of(at.target(), found)),
            None => Err(not_found("List Blobs", at.target(), "there is no such blob or directory")),
        }
    }

    /// Whether any name begins with `prefix`.
    async fn has_below(&self, container: &str, prefix: &str) -> Result<bool> {
        Ok(!self.first_names(container, prefix, 1).await?.is_empty())
    }

    /// The first names that begin with `prefix`, at least `count` of them if there are as many.
    async fn first_names(&self, container: &str, prefix: &str, count: u32) -> Result<Vec<String>> {
        let mut names = Vec::new();
        let mut marker: Option<String> = None;
        loop {
            let listing = Listing {
                prefix,
                folded: false,
                marker: marker.as_deref(),
                max: count,
                attributes: false,
            };
            let page = self.rest.list(container, &listing).await?;
            names.extend(page.items.iter().map(|item| item.name().to_owned()));
            match page.next {
                Some(next) if names.len() < count as usize => marker = Some(next),
                _ => return Ok(names),
            }
        }
    }

    fn stat_of(&self, target: &str, found: Properties) -> Stat {
        self.check_mark(target, found.extent());
        let mut stat = brief(&found);
        stat.attributes = found.attributes;
        for (name, value) in found.metadata {
            let name = format!("metadata.{name}").into();
            stat.attributes.push((name, value));
        }
        stat
    }

    /// Says so once if a mark of the length cannot be true.
    fn check_mark(&self, target: &str, extent: Extent) {
        if !extent.mark.is_valid(extent.size) && self.notes.first(&format!("mark {target}")) {
            log::warn!(
                target: "http",
                "{target}: metadata {} does not fit its size of {} bytes, which is shown instead; \
                 another program has resized it",
                length::KEY,
                extent.size
            );
        }
    }

    async fn list_containers(&self, cursor: Option<Cursor>) -> Result<ListPage> {
        let marker = cursor.map(|cursor| cursor.0);
        let page = self.rest.list_containers(marker.as_deref(), LARGEST_PAGE).await?;
        Ok(ListPage {
            entries: page
                .containers
                .into_iter()
                .map(|(name, modified)| ListEntry {
                    name,
                    stat: Stat { modified, ..Stat::directory() },
                })
                .collect(),
            next: page.next.map(|next| Cursor(next.into())),
        })
    }

    async fn list_names(
        &self,
        container: &str,
        prefix: &str,
        cursor: Option<Cursor>,
    ) -> Result<ListPage> {
        let (marker, mut fold) = match &cursor {
            None => (None, Fold::default()),
            Some(cursor) => {
                let (marker, fold) = Fold::resume(cursor).ok_or_else(|| {
                    Error::new(ErrorKind::Other, "List Blobs", prefix, "this cursor is not ours")
                })?;
                (Some(marker), fold)
            }
        };
        let page = self
            .rest
            .list(
                container,
                &Listing {
                    prefix,
                    folded: true,
                    marker: marker.as_deref(),
                    max: LARGEST_PAGE,
                    attributes: false,
                },
            )
            .await?;
        let mut entries = Vec::with_capacity(page.items.len());
        for item in page.items {
            let Some(name) = item.name().strip_prefix(prefix) else {
                continue;
            };
            let found = match &item {
                // The marker of this very directory.
                Item::Blob(..) if name.is_empty() && !prefix.is_empty() => continue,
                Item::Blob(full, properties) => {
                    if properties.is_directory_marker() {
                        Found::Blob(name, Stat::directory())
                    } else {
                        self.check_mark(full, properties.extent());
                        Found::Blob(name, brief(properties))
                    }
                }
                Item::Prefix(_) => Found::Directory(name.strip_suffix('/').unwrap_or(name)),
            };
            let shown = match &found {
                Found::Blob(name, _) | Found::Directory(name) => *name,
            };
            if let Some(why) = unshowable(shown) {
                if self.notes.first(why) {
                    log::warn!(target: "http", "{container}: blobs with {why} are not shown, such as {:?}", item.name());
                }
                continue;
            }
            fold.take(found, &mut entries, |hidden| {
                if self.notes.first(&format!("shadow {container}/{prefix}{hidden}")) {
                    log::warn!(
                        target: "http",
                        "{container}/{prefix}{hidden}: the blob is not shown, because there is a directory of this name"
                    );
                }
            });
        }
        let next = match page.next {
            Some(next) => Some(fold.suspend(&next)),
            None => {
                fold.finish(&mut entries);
                None
            }
        };
        Ok(ListPage { entries, next })
    }

    /// The one entry of a mount of one blob.
    async fn list_only(&self, only: &str) -> Result<ListPage> {
        let path = RemotePath::root().join(only);
        let path = path.ok_or_else(|| not_found("stat", only, "it cannot be shown"))?;
        let mut page = ListPage::default();
        match self.stat(&path).await {
            Ok(mut stat) => {
                stat.attributes.clear();
                page.entries.push(ListEntry { name: only.to_owned(), stat });
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        Ok(page)
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
        let rest = Arc::clone(&self.rest);
        match access {
            Access::Read => Ok(Opened::Read(Arc::new(PinnedBlob::new(rest, at, &found)))),
            Access::Update => {
                if let Some(why) = found.blob_type.read_only() {
                    return Err(Error::new(
                        ErrorKind::ReadOnly,
                        "open",
                        at.target(),
                        format!("it is a {why}; only page blobs can be written in place"),
                    ));
                }
                let extent = found.extent();
                let metadata = metadata_headers(&headers);
                let blob = UpdatableBlob::new(rest, at, found.etag, extent, metadata);
                Ok(Opened::Update(Arc::new(blob)))
            }
        }
    }

    async fn create_at(&self, at: Address, replace: Replace) -> Result<Arc<dyn BlobMut>> {
        let mut condition = Condition::Absent;
        let mut tries = 0;
        let etag = loop {
            tries += 1;
            let made = self.rest.create_page_blob(&at, FIRST_EPOCH, &condition).await;
            match made {
                Ok(etag) => break etag,
                // The documented answer to `If-None-Match: *` is AlreadyExists; both say the same.
                Err(error)
                    if matches!(error.kind(), ErrorKind::AlreadyExists | ErrorKind::Stale) =>
                {
                    if replace == Replace::Refused {
                        return Err(error.with_kind(ErrorKind::AlreadyExists));
                    }
                    if tries == REPLACE_TRIES {
                        return Err(error);
                    }
                }
                Err(error) => return Err(error),
            }
            // Replaced in the version it is in: a late duplicate of the request would otherwise wipe
            // what is written later.
            condition = match self.rest.head(&at).await {
                Ok((found, _)) => Condition::etag(&found.etag),
                Err(error) if error.kind() == ErrorKind::NotFound => Condition::Absent,
                Err(error) => return Err(error),
            };
        };
        let extent = Extent { size: 0, mark: Mark::Absent };
        let rest = Arc::clone(&self.rest);
        Ok(Arc::new(UpdatableBlob::new(rest, at, etag, extent, Vec::new())))
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
        let names = self.first_names(&container, &folder, 2).await?;
        if names.iter().any(|found| *found != folder) {
            return Err(Error::new(
                ErrorKind::NotEmpty,
                "rmdir",
                path,
                "the directory is not empty",
            ));
        }
        if names.is_empty() && self.look(&container, &name).await?.kind == Kind::File {
            return Err(Error::new(ErrorKind::NotDirectory, "rmdir", path, "it is a blob"));
        }
        if !names.is_empty() {
            let marker = self.rest.address(&container, &folder)?;
            self.rest.delete(&marker, &Condition::None).await?;
        }
        // The marker without a slash that other tools make.
        let bare = self.rest.address(&container, &name)?;
        match self.rest.head(&bare).await {
            Ok((found, _)) if found.is_directory_marker() => {
                self.rest.delete(&bare, &Condition::etag(&found.etag)).await
            }
            Ok(_) => Ok(()),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn remove_blob(&self, path: &RemotePath, version: Option<&Version>) -> Result<()> {
        let at = self.address("unlink", path)?;
        let condition = match version {
            Some(version) => Condition::etag(&version.0),
            None => Condition::None,
        };
        let error = match self.rest.delete(&at, &condition).await {
            Ok(()) => return Ok(()),
            Err(error) => error,
        };
        // Whether an unanswered request did it can be seen: once it is gone, the request was used up.
        if error.outcome() == crate::store::Outcome::Unknown
            && let Err(now) = self.rest.head(&at).await
            && now.kind() == ErrorKind::NotFound
        {
            return Ok(());
        }
        Err(error)
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

/// What listings show of a blob.
fn brief(found: &Properties) -> Stat {
    Stat {
        kind: Kind::File,
        len: found.extent().shown(),
        allocated: None,
        modified: found.modified,
        version: Some(Version(Arc::clone(&found.etag))),
        read_only: found.blob_type.read_only(),
        attributes: Vec::new(),
    }
}

fn not_found(op: &'static str, target: impl std::fmt::Display, why: &str) -> Error {
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
                Place::Name(container, name) => self.look(&container, &name).await,
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
            }
        })
    }

    fn open<'a>(&'a self, path: &'a RemotePath, access: Access) -> BoxFuture<'a, Result<Opened>> {
        Box::pin(async move {
            if matches!(self.place(path)?, Place::Account | Place::Top(_)) {
                return Err(is_directory("open", path));
            }
            self.open_name(path, access).await
        })
    }

    fn create<'a>(
        &'a self,
        path: &'a RemotePath,
        replace: Replace,
    ) -> BoxFuture<'a, Result<Arc<dyn BlobMut>>> {
        Box::pin(async move {
            let at = self.address("create", path)?;
            self.create_at(at, replace).await
        })
    }

    fn remove<'a>(
        &'a self,
        path: &'a RemotePath,
        version: Option<&'a Version>,
    ) -> BoxFuture<'a, Result<()>> {
        Box::pin(self.remove_blob(path, version))
    }

    fn rename<'a>(
        &'a self,
        from: &'a RemotePath,
        to: &'a RemotePath,
        replace: Replace,
    ) -> BoxFuture<'a, Result<()>> {
        Box::pin(rename::rename(self, from, to, replace))
    }

    fn make_dir<'a>(&'a self, path: &'a RemotePath) -> BoxFuture<'a, Result<()>> {
        Box::pin(self.make_directory(path))
    }

    fn remove_dir<'a>(&'a self, path: &'a RemotePath) -> BoxFuture<'a, Result<()>> {
        Box::pin(self.remove_directory(path))
    }
}
