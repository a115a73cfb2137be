//! Looking at the namespace: what a name is, and what is in a directory.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::address::Address;
use super::client::Listing;
use super::length::{self, Extent};
use super::listing::{Fold, Found, SHADOWED, SLASH_AT_END, unshowable};
use super::older::Line;
use super::store::{PageBlobStore, not_found};
use super::wire::{Item, Properties};
use crate::store::{
    Cursor, Error, ErrorKind, Kind, ListEntry, ListPage, RemotePath, Result, Stat, Store as _,
    Version,
};

/// The most names that the service gives in one page.
const LARGEST_PAGE: u32 = 5000;

/// How many names a look asks for: the blob, a few that sort before its directory (`a-b`,
/// `a.b`), and the directory.
const STAT_PAGE: u32 = 8;

impl PageBlobStore {
    /// What a name is: a directory wins. One request, unless many names sort between `name` and
    /// `name/`.
    pub(super) async fn look(&self, container: &str, name: &str) -> Result<Stat> {
        // What cannot be a name is not there.
        let at = match self.rest.address(container, name) {
            Err(error) if error.kind() == ErrorKind::BadName => {
                return Err(error.with_kind(ErrorKind::NotFound));
            }
            at => at?,
        };
        if self.no_listing.load(Ordering::Relaxed) {
            return self.look_without_listing(&at).await;
        }
        match self.look_by_listing(container, name, &at).await {
            Err(error)
                if self.may_lack_listing
                    && matches!(
                        error.kind(),
                        ErrorKind::PermissionDenied | ErrorKind::Unauthenticated
                    ) =>
            {
                let found = self.look_without_listing(&at).await;
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

    async fn look_without_listing(&self, at: &Address) -> Result<Stat> {
        let (found, _) = self.rest.head(at).await?;
        if found.is_directory_marker() {
            return Ok(Stat::directory());
        }
        Ok(self.stat_of(at.target(), found))
    }

    async fn look_by_listing(&self, container: &str, name: &str, at: &Address) -> Result<Stat> {
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
            None => Err(not_found("stat", at.target(), "there is no such blob or directory")),
        }
    }

    /// Whether any name begins with `prefix`.
    pub(super) async fn has_below(&self, container: &str, prefix: &str) -> Result<bool> {
        Ok(!self.first_names(container, prefix, 1).await?.is_empty())
    }

    /// The first names that begin with `prefix`, at least `count` of them if there are as many.
    pub(super) async fn first_names(
        &self,
        container: &str,
        prefix: &str,
        count: u32,
    ) -> Result<Vec<String>> {
        let items = self.first_items(container, prefix, count).await?;
        Ok(items.iter().map(|item| item.name().to_owned()).collect())
    }

    /// The same, with what is known of them.
    pub(super) async fn first_items(
        &self,
        container: &str,
        prefix: &str,
        count: u32,
    ) -> Result<Vec<Item>> {
        let mut items = Vec::new();
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
            items.extend(page.items);
            match page.next {
                Some(next) if items.len() < count as usize => marker = Some(next),
                _ => return Ok(items),
            }
        }
    }

    pub(super) fn stat_of(&self, target: &str, found: Properties) -> Stat {
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
    pub(super) fn check_mark(&self, target: &str, extent: Extent) {
        if !extent.mark.is_valid(extent.size) && self.notes.first(&format!("mark {target}")) {
            log::warn!(
                target: "http",
                "{target}: metadata {} does not fit its size of {} bytes, which is shown instead; \
                 another program has resized it, or a writer was ended while it did",
                length::KEY,
                extent.size
            );
        }
    }

    pub(super) async fn list_containers(&self, cursor: Option<Cursor>) -> Result<ListPage> {
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

    pub(super) async fn list_names(
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
        let is_top = prefix == self.root.prefix;
        if is_top && cursor.is_none() {
            entries.extend(self.older_entries());
        }
        for item in page.items {
            let Some(name) = item.name().strip_prefix(prefix) else {
                continue;
            };
            let found = match &item {
                // The marker of this very directory, or what looks like one.
                Item::Blob(full, properties) if name.is_empty() && !prefix.is_empty() => {
                    if properties.size > 0 {
                        self.note_hidden(SLASH_AT_END, container, full);
                    }
                    continue;
                }
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
            if let Some(line) = Line::ALL.iter().find(|line| is_top && line.dir() == shown) {
                self.hidden.note(SHADOWED, &format!("{container}/{}", item.name()));
                if self.notes.first(line.dir()) {
                    log::warn!(
                        target: "http",
                        "{container}: {:?} is not shown, because the directory of {} has this name",
                        item.name(),
                        line.included()
                    );
                }
                continue;
            }
            if let Some(why) = unshowable(shown) {
                self.note_hidden(why, container, item.name());
                continue;
            }
            fold.take(found, &mut entries, |hidden| {
                self.hidden.note(SHADOWED, &format!("{container}/{prefix}{hidden}"));
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

    /// The directories of snapshots and versions in a listing, if they are to be there.
    fn older_entries(&self) -> impl Iterator<Item = ListEntry> {
        let entry = |line: Line| ListEntry { name: line.dir().to_owned(), stat: Stat::directory() };
        Line::ALL.into_iter().filter(|_| self.root.show_snapshots).map(entry)
    }

    /// Counts a name that cannot be shown, and says so of the first one of its kind.
    fn note_hidden(&self, why: &'static str, container: &str, name: &str) {
        if self.hidden.note(why, &format!("{container}/{name}")) {
            log::warn!(target: "http", "{container}: blobs with {why} are not shown, such as {name:?}");
        }
    }

    /// The one entry of a mount of one blob.
    pub(super) async fn list_only(&self, only: &str) -> Result<ListPage> {
        let path = RemotePath::root().join(only);
        let path = path.ok_or_else(|| not_found("stat", only, "it cannot be shown"))?;
        let mut page = ListPage::default();
        page.entries.extend(self.older_entries());
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
}

/// What listings show of a blob.
pub(super) fn brief(found: &Properties) -> Stat {
    Stat {
        kind: Kind::File,
        len: found.extent().shown(),
        // Only page blobs have holes, and the service counts those on request only.
        allocated: found.blob_type.read_only().map(|_| found.size),
        modified: found.modified,
        version: Some(Version(Arc::clone(&found.etag))),
        read_only: found.blob_type.read_only(),
        attributes: Vec::new(),
    }
}
