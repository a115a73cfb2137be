//! Reading directories: one page of the store's listing at a time, whatever the directory's size.
//!
//! Offsets are stable within one open directory: `.` and `..` come first, entry `n` of the listing is
//! at `n + FIRST`. Offset 0 begins anew, with what is there by then. Going back fetches the page again
//! from its cursor, so that memory is bounded by one page and one cursor a page. A page that comes back
//! changed is the new truth: what follows it is counted from there.

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::Mutex;

use super::attr::Attr;
use super::{Error, Result, Vfs};
use crate::store::{Cursor, ListPage, RemotePath};

/// The offset of the first entry of the listing; `.` and `..` are before it.
pub(super) const FIRST: u64 = 2;

/// One entry of a directory.
#[derive(Clone, Debug)]
pub struct DirEntry {
    /// Its name.
    pub name: String,
    /// Its attributes; the inode number is 0 if it has no inode yet.
    pub attr: Attr,
    /// Where reading goes on behind it.
    pub next_offset: u64,
}

/// Entries in a row, made as they are asked for: the kernel takes a part of a page at a time.
#[derive(Debug)]
pub struct DirPage<'a> {
    vfs: &'a Vfs,
    path: RemotePath,
    /// Attributes of the directory.
    here: Attr,
    at: u64,
    /// The index of its first entry, and the page; `None` at the end of the directory.
    page: Option<(u64, Page)>,
}

/// An open directory.
#[derive(Debug)]
pub(super) struct DirHandle {
    path: RemotePath,
    position: Mutex<Position>,
}

#[derive(Debug)]
struct Position {
    /// Where each page seen so far begins: the index of its first entry, and the cursor it comes from.
    starts: Vec<(u64, Option<Cursor>)>,
    /// The page in memory, by its index in `starts`.
    page: Option<(usize, Page)>,
}

/// A page, and when the service was asked for it: what was learnt since is newer.
#[derive(Clone, Debug)]
struct Page {
    listed: Instant,
    content: Arc<ListPage>,
}

impl DirHandle {
    /// Begins anew: the directory as it is now is what rewinddir(3) promises.
    async fn rewind(&self) {
        let mut position = self.position.lock().await;
        position.starts.truncate(1);
        position.page = None;
    }

    /// The page that holds entry `index`, and the index of its first entry; `None` past the end.
    async fn page_of(&self, vfs: &Vfs, index: u64) -> Result<Option<(u64, Page)>> {
        let mut position = self.position.lock().await;
        let mut at = position.starts.partition_point(|(first, _)| *first <= index) - 1;
        loop {
            let (first, cursor) = position.starts[at].clone();
            let page = match &position.page {
                Some((held, page)) if *held == at => page.clone(),
                _ => {
                    let listed = Instant::now();
                    let content = Arc::new(vfs.store.list(&self.path, cursor).await?);
                    let page = Page { listed, content };
                    position.page = Some((at, page.clone()));
                    page
                }
            };
            let end = first + page.content.entries.len() as u64;
            // By names that came or went, if it was seen before.
            let follows = (end, page.content.next.clone());
            if position.starts.get(at + 1).is_some_and(|known| *known != follows) {
                position.starts.truncate(at + 1);
            }
            if index < end {
                return Ok(Some((first, page)));
            }
            if follows.1.is_none() {
                return Ok(None);
            }
            at += 1;
            if position.starts.len() == at {
                position.starts.push(follows);
            }
        }
    }
}

impl Vfs {
    /// Opens a directory for reading.
    pub fn opendir(&self, ino: u64) -> Result<u64> {
        let path = self.inode(ino)?.path();
        let position = Mutex::new(Position { starts: vec![(0, None)], page: None });
        let handle = self.fresh_handle();
        self.dirs.write().insert(handle, Arc::new(DirHandle { path, position }));
        Ok(handle)
    }

    /// Closes a directory.
    pub fn releasedir(&self, handle: u64) {
        self.dirs.write().remove(&handle);
    }

    /// Entries from `offset` on: some, or none at the end. `ino` is the directory's own.
    pub async fn readdir(&self, ino: u64, handle: u64, offset: u64) -> Result<DirPage<'_>> {
        let dir = self.dirs.read().get(&handle).map(Arc::clone).ok_or(Error::BadHandle)?;
        let here = self.attr(&*self.inode(ino)?);
        if offset == 0 {
            dir.rewind().await;
        }
        let page = dir.page_of(self, offset.saturating_sub(FIRST)).await?;
        Ok(DirPage { vfs: self, path: dir.path.clone(), here, at: offset, page })
    }
}

impl DirPage<'_> {
    /// The entries.
    pub fn entries(&self) -> impl Iterator<Item = DirEntry> {
        // The kernel knows the parent's number itself and does not look at this one.
        let own = [".", ".."].into_iter().zip(1..).skip(self.at.min(FIRST) as usize);
        let own = own.map(|(name, next_offset)| DirEntry {
            name: name.to_owned(),
            attr: self.here,
            next_offset,
        });
        let listed = self.page.iter().flat_map(|(first, page)| {
            let from = self.at.max(FIRST) - FIRST - first;
            (*first..).zip(&page.content.entries).skip(from as usize)
        });
        own.chain(listed.map(|(index, entry)| {
            let known = self.path.join(&entry.name).and_then(|path| self.vfs.inodes.at(&path));
            let attr = match known {
                Some(inode) if inode.kind() == entry.stat.kind => self.vfs.attr(&inode),
                _ => self.vfs.attr_of_stat(0, &entry.stat),
            };
            DirEntry { name: entry.name.clone(), attr, next_offset: index + 1 + FIRST }
        }))
    }

    /// Makes the kernel know an entry, as a lookup would, from what its listing said. `None` for `.` and
    /// `..`, and for one that may have been removed since.
    pub fn remember(&self, entry: &DirEntry) -> Option<Attr> {
        let index = entry.next_offset.checked_sub(FIRST + 1)?;
        let (first, page) = self.page.as_ref()?;
        let entry = page.content.entries.get(index.checked_sub(*first)? as usize)?;
        let path = self.path.join(&entry.name)?;
        let inode = self.vfs.inodes.remember_listed(&path, entry.stat.clone(), page.listed)?;
        Some(self.vfs.attr(&inode))
    }
}
