//! Reading directories: one page of the store's listing at a time, whatever the directory's size.
//!
//! Offsets are stable within one open directory: `.` and `..` come first, entry `n` of the listing is
//! at `n + FIRST`. Offset 0 begins anew, with what is there by then. Going back fetches the page again from its cursor, so that memory is bounded by
//! one page and one cursor a page.

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

/// Entries in a row.
#[derive(Clone, Debug)]
pub struct DirPage {
    /// The entries; none at the end of the directory.
    pub entries: Vec<DirEntry>,
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
            if index < end {
                return Ok(Some((first, page)));
            }
            let Some(next) = page.content.next.clone() else {
                return Ok(None);
            };
            at += 1;
            if position.starts.len() == at {
                position.starts.push((end, Some(next)));
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
    pub async fn readdir(&self, ino: u64, handle: u64, offset: u64) -> Result<DirPage> {
        let dir = self.dirs.read().get(&handle).map(Arc::clone).ok_or(Error::BadHandle)?;
        let mut entries = Vec::new();
        let inode = self.inode(ino)?;
        let here = self.attr(&inode);
        let mut at = offset;
        if at == 0 {
            dir.rewind().await;
        }
        while at < FIRST {
            // The kernel knows the parent's number itself and does not look at this one.
            let name = if at == 0 { "." } else { ".." };
            entries.push(DirEntry { name: name.to_owned(), attr: here, next_offset: at + 1 });
            at += 1;
        }
        if let Some((first, page)) = dir.page_of(self, at - FIRST).await? {
            for (index, entry) in
                page.content.entries.iter().enumerate().skip((at - FIRST - first) as usize)
            {
                let known = dir.path.join(&entry.name).and_then(|path| self.inodes.at(&path));
                let attr = match known {
                    Some(inode) if inode.kind() == entry.stat.kind => self.attr(&inode),
                    _ => self.attr_of_stat(0, &entry.stat),
                };
                entries.push(DirEntry {
                    name: entry.name.clone(),
                    attr,
                    next_offset: first + index as u64 + 1 + FIRST,
                });
            }
        }
        Ok(DirPage { entries })
    }

    /// Makes the kernel know the entry that ends at `next_offset`, as a lookup would, from what its
    /// listing said. `None` for `.` and `..`.
    pub async fn remember_entry(&self, handle: u64, next_offset: u64) -> Option<Attr> {
        let index = next_offset.checked_sub(FIRST + 1)?;
        let dir = self.dirs.read().get(&handle).map(Arc::clone)?;
        let (first, page) = dir.page_of(self, index).await.ok()??;
        let entry = &page.content.entries[(index - first) as usize];
        let path = dir.path.join(&entry.name)?;
        let inode = self.inodes.remember_listed(&path, entry.stat.clone(), page.listed)?;
        Some(self.attr(&inode))
    }
}
