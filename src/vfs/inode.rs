//! Inodes: which number stands for which name, what is known of it, and its open file.
//!
//! An inode stands for one line of versions of one name. When somebody else replaces a blob that is
//! open here, the inode is *detached*: its handles go on with the version they opened, and the name
//! gets a new inode, so that neither our caches nor the kernel's can mix the two.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::{Error, ROOT, Result};
use crate::io::file::File;
use crate::io::holes::Holes;
use crate::io::page_cache::ContentId;
use crate::store::{Blob, Kind, RemotePath, Stat};

/// A blob shorter than this is shown as if it had no holes, in bytes: not worth a request.
const LEAST_COUNTED: u64 = 1 << 20;

/// A file that was closed: what its cached bytes are worth is told by whether a version found later
/// continues it.
#[derive(Clone, Debug)]
pub(super) struct Closed {
    pub(super) content: ContentId,
    pub(super) blob: Arc<dyn Blob>,
    pub(super) holes: Option<Holes>,
}

/// A numbered name.
pub(super) struct Inode {
    pub(super) ino: u64,
    state: Mutex<InodeState>,
    /// Held while it is opened, closed or renamed: one at a time.
    pub(super) opening: tokio::sync::Mutex<()>,
}

pub(super) struct InodeState {
    path: RemotePath,
    stat: Stat,
    learnt: Instant,
    lookups: u64,
    detached: bool,
    pub(super) file: Option<Arc<File>>,
    pub(super) handles: usize,
    pub(super) writers: usize,
    pub(super) closed: Option<Closed>,
}

impl Inode {
    fn new(ino: u64, path: RemotePath, stat: Stat) -> Arc<Inode> {
        Arc::new(Inode {
            ino,
            state: Mutex::new(InodeState {
                path,
                stat,
                learnt: Instant::now(),
                lookups: 0,
                detached: false,
                file: None,
                handles: 0,
                writers: 0,
                closed: None,
            }),
            opening: tokio::sync::Mutex::new(()),
        })
    }

    pub(super) fn path(&self) -> RemotePath {
        self.state.lock().path.clone()
    }

    pub(super) fn kind(&self) -> Kind {
        self.state.lock().stat.kind
    }

    /// How long ago its attributes were learnt.
    pub(super) fn age(&self) -> Duration {
        self.state.lock().learnt.elapsed()
    }

    /// Whether the name stands for something else by now.
    pub(super) fn is_detached(&self) -> bool {
        self.state.lock().detached
    }

    pub(super) fn lock(&self) -> parking_lot::MutexGuard<'_, InodeState> {
        self.state.lock()
    }

    /// Looks at what is known of it and at its open file.
    pub(super) fn look<T>(&self, look: impl FnOnce(&Stat, Option<&Arc<File>>) -> T) -> T {
        let state = self.state.lock();
        look(&state.stat, state.file.as_ref())
    }

    /// Its file, if that is written here: then nobody else need be asked about it.
    pub(super) fn writable_file(&self) -> Option<Arc<File>> {
        let state = self.state.lock();
        state.file.as_ref().filter(|file| file.is_writable()).map(Arc::clone)
    }

    /// Whether what it holds is worth asking for and not known.
    pub(super) fn is_uncounted(&self) -> bool {
        let state = self.state.lock();
        match state.file.as_ref().filter(|file| file.is_writable()) {
            Some(file) => file.len() >= LEAST_COUNTED && file.allocated().is_none(),
            None => {
                state.stat.kind == Kind::File
                    && state.stat.len >= LEAST_COUNTED
                    && state.stat.allocated.is_none()
                    && !state.detached
            }
        }
    }

    /// The service has told what takes storage of the version that `stat` describes; `None` is too much
    /// to count.
    pub(super) fn note_allocated(&self, stat: &Stat, allocated: Option<u64>) {
        let mut state = self.state.lock();
        if state.stat.version == stat.version {
            state.stat.allocated = allocated.or(Some(stat.len));
        }
    }

    /// Why its blob cannot be written.
    pub(super) fn read_only(&self) -> Option<&'static str> {
        self.state.lock().stat.read_only
    }

    /// Closes its file if no handle has it and the service has everything: at the last close, or when a
    /// close that had failed was made good.
    pub(super) fn put_away(&self) {
        let mut state = self.state.lock();
        let Some(file) = state.file.as_ref().filter(|_| state.handles == 0).map(Arc::clone) else {
            return;
        };
        if !file.is_settled() {
            return;
        }
        if file.is_writable() {
            state.set_learnt();
        }
        let (content, holes) = (file.content(), file.known_holes());
        state.closed = Some(Closed { content, blob: file.blob(), holes });
        state.learn_from(&file);
        state.file = None;
    }

    /// Takes over what was just learnt, unless the file is written here: then that is newer.
    fn learn(&self, stat: Stat) {
        let mut state = self.state.lock();
        state.learnt = Instant::now();
        if state.file.as_ref().is_none_or(|file| !file.is_writable()) {
            let same = state.closed.as_ref().is_some_and(|closed| {
                stat.version.as_ref().is_some_and(|found| closed.blob.continues(found))
            });
            let same = same || stat.version.is_some() && stat.version == state.stat.version;
            // Nobody has written since, so what we know of its holes holds.
            let allocated = stat.allocated.or(state.stat.allocated.filter(|_| same));
            state.stat = Stat { allocated, ..stat };
        }
    }

    /// Whether `stat` is of a version that is not the one opened here.
    fn is_replaced_by(&self, stat: &Stat) -> bool {
        let state = self.state.lock();
        if state.stat.kind != stat.kind {
            return true;
        }
        match (&state.file, &stat.version) {
            (Some(file), Some(found)) if state.handles > 0 => {
                !file.is_writable() && !file.blob().continues(found)
            }
            _ => false,
        }
    }
}

impl InodeState {
    /// What is known of it is true now.
    pub(super) fn set_learnt(&mut self) {
        self.learnt = Instant::now();
    }

    /// What its file says of itself, which will not be asked any more.
    pub(super) fn learn_from(&mut self, file: &File) {
        self.stat.len = file.len();
        self.stat.allocated = file.allocated();
        self.stat.modified = file.modified().or(self.stat.modified);
        self.stat.version = Some(file.blob().version());
    }

    /// What is known of it now, after an open or a close.
    pub(super) fn set_stat(&mut self, change: impl FnOnce(&mut Stat)) {
        change(&mut self.stat);
    }
}

impl fmt::Debug for Inode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Inode({} {:?})", self.ino, self.path())
    }
}

struct Tables {
    by_ino: HashMap<u64, Arc<Inode>>,
    by_path: HashMap<RemotePath, u64>,
    last: u64,
    /// When a name was last removed here.
    names_changed: Instant,
}

/// All inodes of a tree that the kernel knows or that are open.
pub(super) struct Inodes {
    tables: Mutex<Tables>,
}

impl Inodes {
    pub(super) fn new() -> Inodes {
        let root = Inode::new(ROOT, RemotePath::root(), Stat::directory());
        let tables = Tables {
            by_ino: HashMap::from([(ROOT, root)]),
            by_path: HashMap::from([(RemotePath::root(), ROOT)]),
            last: ROOT,
            names_changed: Instant::now(),
        };
        Inodes { tables: Mutex::new(tables) }
    }

    pub(super) fn get(&self, ino: u64) -> Option<Arc<Inode>> {
        self.tables.lock().by_ino.get(&ino).map(Arc::clone)
    }

    /// The inode that stands for `path` now.
    pub(super) fn at(&self, path: &RemotePath) -> Option<Arc<Inode>> {
        let tables = self.tables.lock();
        tables.by_path.get(path).and_then(|ino| tables.by_ino.get(ino)).map(Arc::clone)
    }

    /// The inode for `path`, about which `stat` was just learnt, made if need be; the kernel is told
    /// of it once more.
    pub(super) fn remember(&self, path: &RemotePath, stat: Stat) -> Arc<Inode> {
        let mut tables = self.tables.lock();
        let known = tables.by_path.get(path).and_then(|ino| tables.by_ino.get(ino)).map(Arc::clone);
        let inode = match known {
            Some(inode) if !inode.is_replaced_by(&stat) => {
                inode.learn(stat);
                inode
            }
            old => {
                if let Some(old) = old {
                    tables.detach(&old);
                }
                tables.last += 1;
                let inode = Inode::new(tables.last, path.clone(), stat);
                tables.by_path.insert(path.clone(), inode.ino);
                tables.by_ino.insert(inode.ino, Arc::clone(&inode));
                inode
            }
        };
        inode.state.lock().lookups += 1;
        inode
    }

    /// The same for what a listing said at `listed`, where nothing newer is known. `None` for a name that
    /// may have been removed since.
    pub(super) fn remember_listed(
        &self,
        path: &RemotePath,
        stat: Stat,
        listed: Instant,
    ) -> Option<Arc<Inode>> {
        match self.at(path) {
            Some(known) if known.state.lock().learnt >= listed => {
                known.state.lock().lookups += 1;
                Some(known)
            }
            None if self.tables.lock().names_changed >= listed => None,
            _ => Some(self.remember(path, stat)),
        }
    }

    /// A name was removed that may have no inode.
    pub(super) fn note_removed(&self) {
        self.tables.lock().names_changed = Instant::now();
    }

    /// Takes over what was learnt of an inode that the kernel has.
    ///
    /// Errors: `StaleInode` if the name stands for another version than the one open here.
    pub(super) fn refresh(&self, inode: &Arc<Inode>, stat: Stat) -> Result<()> {
        if inode.is_replaced_by(&stat) {
            self.detach(inode);
            return Err(Error::StaleInode);
        }
        inode.learn(stat);
        Ok(())
    }

    /// Parts an inode from its name.
    pub(super) fn detach(&self, inode: &Arc<Inode>) {
        self.tables.lock().detach(inode);
    }

    /// Gives an inode another name; whatever had that name is parted from it.
    pub(super) fn rename(&self, inode: &Arc<Inode>, to: &RemotePath) {
        let mut tables = self.tables.lock();
        let replaced = tables.by_path.get(to).and_then(|ino| tables.by_ino.get(ino));
        if let Some(replaced) = replaced.map(Arc::clone) {
            tables.detach(&replaced);
        }
        let from = std::mem::replace(&mut inode.state.lock().path, to.clone());
        tables.by_path.remove(&from);
        tables.by_path.insert(to.clone(), inode.ino);
    }

    /// The kernel has forgotten `count` of the times it was told of an inode.
    pub(super) fn forget(&self, ino: u64, count: u64) {
        let mut tables = self.tables.lock();
        let Some(inode) = tables.by_ino.get(&ino).map(Arc::clone) else {
            return;
        };
        {
            let mut state = inode.state.lock();
            state.lookups = state.lookups.saturating_sub(count);
        }
        tables.drop_if_unused(&inode);
    }

    /// A handle of it was closed.
    pub(super) fn settle(&self, inode: &Arc<Inode>) {
        self.tables.lock().drop_if_unused(inode);
    }

    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        self.tables.lock().by_ino.len()
    }

    /// How many inodes there is room for without growing.
    #[cfg(test)]
    pub(super) fn room(&self) -> usize {
        let tables = self.tables.lock();
        tables.by_ino.capacity().max(tables.by_path.capacity())
    }

    /// Files that hold what the service has not confirmed, with their names, in the order of those.
    pub(super) fn unflushed_files(&self) -> Vec<(RemotePath, Arc<File>)> {
        let inodes: Vec<Arc<Inode>> = self.tables.lock().by_ino.values().map(Arc::clone).collect();
        let mut files = Vec::new();
        for inode in inodes {
            let state = inode.state.lock();
            if let Some(file) = state.file.as_ref().filter(|file| file.unconfirmed() > 0) {
                files.push((state.path.clone(), Arc::clone(file)));
            }
        }
        files.sort_by(|(one, _), (other, _)| one.cmp(other));
        files
    }

    pub(super) fn unflushed(&self) -> Vec<(String, u64)> {
        let inodes: Vec<Arc<Inode>> = self.tables.lock().by_ino.values().map(Arc::clone).collect();
        let mut unflushed = Vec::new();
        for inode in inodes {
            let state = inode.state.lock();
            let bytes = state.file.as_ref().map_or(0, |file| file.unconfirmed());
            if bytes > 0 {
                unflushed.push((state.path.to_string(), bytes));
            }
        }
        unflushed
    }
}

impl Tables {
    fn detach(&mut self, inode: &Arc<Inode>) {
        let path = {
            let mut state = inode.state.lock();
            state.detached = true;
            state.path.clone()
        };
        if self.by_path.get(&path) == Some(&inode.ino) {
            self.by_path.remove(&path);
        }
        self.drop_if_unused(inode);
    }

    fn drop_if_unused(&mut self, inode: &Arc<Inode>) {
        let path = {
            let state = inode.state.lock();
            if state.lookups > 0 || state.handles > 0 || state.file.is_some() {
                return;
            }
            state.path.clone()
        };
        if inode.ino == ROOT {
            return;
        }
        self.by_ino.remove(&inode.ino);
        if self.by_path.get(&path) == Some(&inode.ino) {
            self.by_path.remove(&path);
        }
        // Seldom, so that it costs nothing for each: after a listing of a million names, say.
        if self.by_ino.len() < self.by_ino.capacity() / 8 {
            let room = 2 * self.by_ino.len();
            self.by_ino.shrink_to(room);
            self.by_path.shrink_to(room);
        }
    }
}

impl fmt::Debug for Inodes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inodes").field("count", &self.tables.lock().by_ino.len()).finish()
    }
}
