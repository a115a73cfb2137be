//! Calls on names: look up, make, remove and rename.

use std::ffi::OsStr;
use std::sync::Arc;

use super::attr::Attr;
use super::handle::{OpenFlags, Opened};
use super::inode::Inode;
use super::{Result, Vfs};
use crate::store::{Access, Error, ErrorKind, Kind, RemotePath, Replace, Stat};

impl Vfs {
    /// What `name` in directory `parent` is. The kernel then knows of it once more.
    pub async fn lookup(&self, parent: u64, name: &OsStr) -> Result<Attr> {
        let path = self.child(parent, name)?;
        if let Some(inode) = self.inodes.at(&path)
            && let Some(file) = inode.writable_file()
        {
            // Ours alone to change: nobody else knows better.
            let len = file.len();
            let stat = Stat { kind: Kind::File, len, ..inode.look(|stat, _| stat.clone()) };
            return Ok(self.attr(&self.inodes.remember(&path, stat)));
        }
        let stat = self.store.stat(&path).await?;
        Ok(self.attr(&self.inodes.remember(&path, stat)))
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
    ) -> Result<(Attr, Opened)> {
        let path = self.child(parent, name)?;
        self.check_writable(&path)?;
        match self.store.create(&path, Replace::Refused).await {
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
                if let Some(old) = self.inodes.at(&path) {
                    // Somebody removed the blob behind the inode that we still had.
                    self.inodes.detach(&old);
                }
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
            return Ok(self.store.remove(&path, None).await?);
        };
        let _one_at_a_time = inode.opening.lock().await;
        let file = inode.writable_file();
        if let Some(file) = &file {
            file.freeze().await;
        }
        let removed = self.store.remove(&path, None).await;
        if let Some(file) = &file {
            if removed.is_ok() {
                file.orphan().await;
            }
            file.thaw(None);
        }
        removed?;
        self.inodes.detach(&inode);
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
        let Some(inode) = self.inodes.at(&from) else {
            return Ok(self.rename_in_store(&from, &to, replace).await?);
        };
        if inode.kind() == Kind::Directory {
            return Err(directory(&from).into());
        }
        let _one_at_a_time = inode.opening.lock().await;
        match inode.writable_file() {
            None => self.rename_in_store(&from, &to, replace).await?,
            Some(file) => {
                // The service copies what it has: so it must have everything, and get nothing more
                // under the old name.
                file.flush(false).await?;
                file.freeze().await;
                let renamed = self.rename_in_store(&from, &to, replace).await;
                let reopened = match &renamed {
                    Ok(()) => self.store.open(&to, Access::Update).await.map(Some),
                    Err(_) => Ok(None),
                };
                match reopened {
                    Ok(Some(crate::store::Opened::Update(writer))) => file.thaw(Some(writer)),
                    _ => file.thaw(None),
                }
                renamed?;
            }
        }
        self.moved(&inode, &to).await;
        Ok(())
    }

    async fn rename_in_store(
        &self,
        from: &RemotePath,
        to: &RemotePath,
        replace: Replace,
    ) -> crate::store::Result<()> {
        self.store.rename(from, to, replace).await.map_err(|error| {
            let is_directory = error.kind() == ErrorKind::IsDirectory;
            if is_directory && error.target() == from.as_str() { directory(from) } else { error }
        })
    }

    /// Takes note that `inode` has the name `to` now.
    async fn moved(&self, inode: &Arc<Inode>, to: &RemotePath) {
        // Its cached bytes belong to the version under the old name.
        inode.lock().closed = None;
        if let Some(replaced) = self.inodes.rename(inode, to)
            && let Some(file) = replaced.writable_file()
        {
            file.orphan().await;
        }
    }
}

fn directory(path: &RemotePath) -> Error {
    let message = "a directory is renamed by copying what is in it";
    Error::new(ErrorKind::CrossDevice, "rename", path, message)
}
