//! Calls on names: look up, make, remove and rename.

use std::ffi::OsStr;
use std::sync::Arc;

use super::attr::Attr;
use super::handle::OpenFlags;
use super::inode::Inode;
use super::{Result, Vfs};
use crate::io::file::{File, Frozen};
use crate::store::{Access, Error, ErrorKind, Kind, Moved, Opened, RemotePath, Replace, Stat};

impl Vfs {
    /// What `name` in directory `parent` is. The kernel then knows of it once more.
    pub async fn lookup(&self, parent: u64, name: &OsStr) -> Result<Attr> {
        let path = self.child(parent, name)?;
        let known = self.inodes.at(&path);
        if let Some(inode) = &known {
            inode.put_away();
        }
        if let Some(inode) = known
            && let Some(file) = inode.writable_file()
        {
            // Ours alone to change: nobody else knows better.
            let len = file.len();
            let stat = Stat { kind: Kind::File, len, ..inode.look(|stat, _| stat.clone()) };
            return Ok(self.attr(&self.inodes.remember(&path, stat)));
        }
        let stat = self.store.stat(&path).await?;
        let inode = self.inodes.remember(&path, stat);
        self.count(&path, &inode).await;
        Ok(self.attr(&inode))
    }

    /// The kernel forgot an inode `count` times.
    pub fn forget(&self, ino: u64, count: u64) {
        self.inodes.forget(ino, count);
    }

    /// Creates a file and opens it for writing; an existing one is opened instead, unless `exclusive`.
    pub async fn create(
        &self,
        parent: u64,
        name: &OsStr,
        exclusive: bool,
    ) -> Result<(Attr, super::Opened)> {
        let path = self.child(parent, name)?;
        self.check_writable(&path)?;
        let old = self.inodes.at(&path);
        let old_file = old.as_ref().and_then(|old| old.writable_file());
        let frozen = freeze(old_file.as_ref()).await;
        let created = self.store.create(&path, Replace::Refused).await;
        if let Some(old) = old.filter(|_| created.is_ok()) {
            // Somebody removed the blob behind the inode that we still had.
            self.lose(&old).await;
        }
        drop(frozen);
        match created {
            Ok(writer) => {
                let stat = Stat {
                    kind: Kind::File,
                    len: 0,
                    allocated: Some(0),
                    modified: Some(std::time::SystemTime::now()),
                    version: Some(writer.version()),
                    read_only: None,
                    attributes: Vec::new(),
                };
                let inode = self.inodes.remember(&path, stat);
                let opened = self.opened_new(&inode, writer);
                Ok((self.attr(&inode), opened))
            }
            Err(error) if error.kind() == ErrorKind::AlreadyExists && !exclusive => {
                let attr = self.lookup(parent, name).await?;
                let opened = self.open(attr.ino, OpenFlags { write: true }).await;
                if opened.is_err() {
                    self.forget(attr.ino, 1);
                }
                Ok((attr, opened?))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Makes a directory.
    pub async fn mkdir(&self, parent: u64, name: &OsStr) -> Result<Attr> {
        let path = self.child(parent, name)?;
        self.check_writable(&path)?;
        self.store.make_dir(&path).await?;
        Ok(self.attr(&self.inodes.remember(&path, Stat::directory())))
    }

    /// Removes a file. Handles that are open keep what they have in memory; what they write goes nowhere.
    pub async fn unlink(&self, parent: u64, name: &OsStr) -> Result<()> {
        let path = self.child(parent, name)?;
        self.check_writable(&path)?;
        let inode = self.inodes.at(&path);
        let Some(inode) = inode else {
            self.store.remove(&path, None).await?;
            self.inodes.note_removed();
            return Ok(());
        };
        let _one_at_a_time = inode.opening.lock().await;
        let file = inode.writable_file();
        let _frozen = freeze(file.as_ref()).await;
        self.store.remove(&path, None).await?;
        self.lose(&inode).await;
        Ok(())
    }

    /// Removes an empty directory.
    pub async fn rmdir(&self, parent: u64, name: &OsStr) -> Result<()> {
        let path = self.child(parent, name)?;
        self.check_writable(&path)?;
        let inode = self.inodes.at(&path);
        match self.store.remove_dir(&path).await {
            // A directory that only existed through its contents went with the last of them; whoever
            // removes a tree from the leaves up still asks for it.
            Err(error) if error.kind() == ErrorKind::NotFound && inode.is_some() => {}
            removed => removed?,
        }
        self.inodes.note_removed();
        if let Some(inode) = inode {
            self.inodes.detach(&inode);
        }
        Ok(())
    }

    /// Renames a file. A directory is refused in the way that makes `mv` copy and delete.
    pub async fn rename(
        &self,
        parent: u64,
        name: &OsStr,
        new_parent: u64,
        new_name: &OsStr,
        replace: Replace,
    ) -> Result<()> {
        let from = self.child(parent, name)?;
        let to = self.child(new_parent, new_name)?;
        self.check_writable(&from)?;
        if from == to {
            return Ok(());
        }
        let inode = self.inodes.at(&from);
        if inode.as_ref().is_some_and(|inode| inode.kind() == Kind::Directory) {
            return Err(directory(&from).into());
        }
        let replaced = self.inodes.at(&to);
        // In the order of their numbers, so that two renames never wait for each other.
        let mut both: Vec<&Arc<Inode>> = inode.iter().chain(&replaced).collect();
        both.sort_unstable_by_key(|inode| inode.ino);
        let mut one_at_a_time = Vec::with_capacity(both.len());
        for inode in both {
            one_at_a_time.push(inode.opening.lock().await);
        }
        let open = inode.as_ref().and_then(|inode| inode.look(|_, file| file.map(Arc::clone)));
        let writing = open.as_ref().filter(|file| file.is_writable());
        if let Some(file) = writing {
            // The service copies what it has: so it must have everything, and get nothing more under
            // the old name.
            file.flush(false).await?;
        }
        let writing = writing.is_some();
        let frozen = freeze(open.as_ref()).await;
        // Nor must anything written to the file that goes come down upon the one that comes.
        let lost = replaced.as_ref().and_then(|replaced| replaced.writable_file());
        let _lost_frozen = freeze(lost.as_ref()).await;
        let moved = self.rename_in_store(&from, &to, replace).await?;
        self.inodes.note_removed();
        if let Some(replaced) = &replaced {
            self.lose(replaced).await;
        }
        let Some(inode) = &inode else { return Ok(()) };
        {
            let mut state = inode.lock();
            // Its cached bytes belong to the version under the old name.
            state.closed = None;
            state.set_stat(|stat| stat.version = Some(moved.to.clone()));
        }
        self.inodes.rename(inode, &to);
        match (frozen, open) {
            (Some(frozen), _) if writing => self.follow_writing(&to, &moved, frozen).await,
            (_frozen, Some(open)) => self.follow_reading(inode, &to, &moved, &open).await,
            (_, None) => {}
        }
        Ok(())
    }

    /// Lets a file go on being written under its new name.
    async fn follow_writing(&self, to: &RemotePath, moved: &Moved, frozen: Frozen) {
        match self.store.open(to, Access::Update).await {
            Ok(Opened::Update(writer)) if writer.version() == moved.to => {
                frozen.thaw_renamed(writer);
            }
            Ok(_) => frozen.fail(Error::new(
                ErrorKind::Stale,
                "rename",
                to,
                "the blob was changed by somebody else right after",
            )),
            Err(error) => frozen.fail(error),
        }
    }

    /// Lets those who read a file go on under its new name, if that has the content which they read.
    async fn follow_reading(
        &self,
        inode: &Arc<Inode>,
        to: &RemotePath,
        moved: &Moved,
        file: &Arc<File>,
    ) {
        if file.blob().continues(&moved.from)
            && let Ok(Opened::Read(blob)) = self.store.open(to, Access::Read).await
            && blob.version() == moved.to
        {
            file.make_read_only(blob);
        } else {
            self.inodes.detach(inode);
        }
    }

    async fn rename_in_store(
        &self,
        from: &RemotePath,
        to: &RemotePath,
        replace: Replace,
    ) -> crate::store::Result<Moved> {
        self.store.rename(from, to, replace).await.map_err(|error| {
            let is_directory = error.kind() == ErrorKind::IsDirectory;
            if is_directory && error.target() == from.as_str() { directory(from) } else { error }
        })
    }

    /// An inode has lost its name. Handles that are open keep what is in memory; if there are none,
    /// nobody misses what was not sent.
    async fn lose(&self, inode: &Arc<Inode>) {
        self.inodes.detach(inode);
        if let Some(file) = inode.writable_file() {
            file.orphan().await;
            if inode.lock().handles == 0 {
                self.give_up(inode, &file);
            }
        }
    }
}

/// Holds back what changes the blob of a file that is open, and the reads that a change of ours makes fail.
pub(super) async fn freeze(file: Option<&Arc<File>>) -> Option<Frozen> {
    match file {
        Some(file) => Some(file.freeze().await),
        None => None,
    }
}

fn directory(path: &RemotePath) -> Error {
    let message = "a directory is renamed by copying what is in it";
    Error::new(ErrorKind::CrossDevice, "rename", path, message)
}
