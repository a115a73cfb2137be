//! Attributes, and the calls that read or change them.

use std::ffi::OsStr;
use std::time::{Duration, SystemTime};

use super::handle::{OpenFlags, SetAttr};
use super::inode::Inode;
use super::{Error, ROOT, Result, Vfs, XATTR_PREFIX};
use crate::store::{Kind, RemotePath, Stat};

/// How long a call for attributes waits to learn what takes storage; they are shown without it then.
const PATIENCE: Duration = Duration::from_secs(5);

/// What an inode is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FileKind {
    /// A blob.
    Regular,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
}

/// Attributes of an inode.
#[derive(Clone, Copy, Debug)]
pub struct Attr {
    /// Inode number.
    pub ino: u64,
    /// File or directory.
    pub kind: FileKind,
    /// Length in bytes.
    pub size: u64,
    /// Bytes that take storage; the length, where the service would have to be asked for it.
    pub allocated: u64,
    /// Last change of content; that of attributes is the same.
    pub modified: SystemTime,
    /// Permission bits.
    pub perm: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

impl Vfs {
    /// Attributes that are known well enough not to ask. Never waits.
    pub fn getattr_now(&self, ino: u64) -> Option<Attr> {
        let inode = self.inodes.get(ino)?;
        inode.put_away();
        let known = ino == ROOT
            || inode.is_detached()
            || inode.writable_file().is_some()
            || inode.age() <= self.config.attr_timeout;
        (known && !inode.is_uncounted()).then(|| self.attr(&inode))
    }

    /// Attributes of an inode.
    pub async fn getattr(&self, ino: u64) -> Result<Attr> {
        let inode = self.inode(ino)?;
        if let Some(attr) = self.getattr_now(ino) {
            return Ok(attr);
        }
        let path = inode.path();
        if inode.writable_file().is_none() && inode.age() > self.config.attr_timeout {
            let stat = self.store.stat(&path).await?;
            self.inodes.refresh(&inode, stat)?;
        }
        self.count(&path, &inode).await;
        Ok(self.attr(&inode))
    }

    /// Learns what takes storage of a file, by asking the service once for a version.
    ///
    /// Only whoever asks for one file pays for that: a listing takes a blob's holes for data instead of
    /// sending a request for each name.
    pub(super) async fn count(&self, path: &RemotePath, inode: &Inode) {
        if !inode.is_uncounted() {
            return;
        }
        let counted = match inode.writable_file() {
            Some(file) => tokio::time::timeout(PATIENCE, file.count_allocated()).await,
            None => {
                let stat = inode.look(|stat, _| stat.clone());
                let found = tokio::time::timeout(PATIENCE, self.store.allocated(path, &stat)).await;
                found.map(|found| found.map(|found| inode.note_allocated(&stat, found)))
            }
        };
        let why = match counted {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error.to_string(),
            Err(_) => "the service takes long to tell".to_owned(),
        };
        log::debug!(target: "vfs", "{path}: shown as if it had no holes: {why}");
    }

    /// Changes attributes: the length; times are the service's own and are taken without effect.
    /// Ownership and mode are those of the mount and cannot be changed.
    pub async fn setattr(&self, ino: u64, handle: Option<u64>, change: SetAttr) -> Result<Attr> {
        let inode = self.inode(ino)?;
        let now = self.attr(&inode);
        let asks = change.mode.is_some_and(|mode| mode & 0o7777 != u32::from(now.perm))
            || change.uid.is_some_and(|uid| uid != now.uid)
            || change.gid.is_some_and(|gid| gid != now.gid);
        if asks {
            return Err(Error::Unsupported(
                "owner, group and mode belong to the mount; set them with -o uid=, gid= and umask=",
            ));
        }
        if let Some(size) = change.size {
            self.check_writable(&inode.path())?;
            match handle.map(|handle| self.handle(handle)).transpose()? {
                Some(handle) if handle.writable => handle.file.set_len(size).await?,
                _ => {
                    let opened = self.open(ino, OpenFlags { write: true }).await?;
                    let file = self.handle(opened.handle)?;
                    let result = match file.file.set_len(size).await {
                        Ok(()) => self.flush(opened.handle).await,
                        Err(error) => Err(error.into()),
                    };
                    self.release(opened.handle).await;
                    result?;
                }
            }
        }
        Ok(self.attr(&inode))
    }

    /// Whether a file can have an extended attribute of this name. Never waits; `ls -l` asks every file
    /// for some that none can have.
    pub fn may_have_xattr(name: &OsStr) -> bool {
        property(name).is_some()
    }

    /// The value of an extended attribute: `user.blobdir.<property>`, read-only.
    pub async fn getxattr(&self, ino: u64, name: &OsStr) -> Result<Vec<u8>> {
        let wanted = property(name).ok_or(Error::NoAttribute)?;
        let attributes = self.properties(ino).await?;
        let found = attributes.into_iter().find(|(name, _)| *name == wanted);
        found.map(|(_, value)| value.into_bytes()).ok_or(Error::NoAttribute)
    }

    /// The names of the extended attributes, each ended by NUL.
    pub async fn listxattr(&self, ino: u64) -> Result<Vec<u8>> {
        let attributes = self.properties(ino).await?;
        let name = |(name, _)| format!("{XATTR_PREFIX}{name}\0");
        Ok(attributes.into_iter().map(name).collect::<String>().into_bytes())
    }

    /// Where a symbolic link leads.
    pub async fn readlink(&self, ino: u64) -> Result<String> {
        Ok(self.store.read_link(&self.inode(ino)?.path()).await?)
    }

    async fn properties(&self, ino: u64) -> Result<Vec<(std::borrow::Cow<'static, str>, String)>> {
        let inode = self.inode(ino)?;
        if inode.kind() == Kind::Directory || inode.is_detached() {
            return Ok(Vec::new());
        }
        Ok(self.store.stat(&inode.path()).await?.attributes)
    }

    pub(super) fn attr(&self, inode: &Inode) -> Attr {
        inode.look(|stat, file| {
            let mut attr = self.attr_of_stat(inode.ino, stat);
            if let Some(file) = file.filter(|file| file.is_writable()) {
                attr.size = file.len();
                attr.allocated = file.allocated().unwrap_or(attr.size);
                attr.modified = file.modified().unwrap_or(attr.modified);
            }
            attr
        })
    }

    /// Attributes of an entry about which `stat` is all that is known.
    pub(super) fn attr_of_stat(&self, ino: u64, stat: &Stat) -> Attr {
        let (kind, mode) = match stat.kind {
            Kind::File => (FileKind::Regular, 0o666),
            Kind::Directory => (FileKind::Directory, 0o777),
            Kind::Symlink => (FileKind::Symlink, 0o777),
        };
        let fixed = self.config.read_only || stat.read_only.is_some();
        let denied = if fixed { 0o222 } else { 0 };
        Attr {
            ino,
            kind,
            size: stat.len,
            allocated: stat.allocated.unwrap_or(stat.len),
            modified: stat.modified.unwrap_or(self.mounted_at),
            // The kernel never looks at those of a link.
            perm: if kind == FileKind::Symlink {
                mode as u16
            } else {
                (mode & !self.config.umask & !denied) as u16
            },
            uid: self.config.uid,
            gid: self.config.gid,
        }
    }
}

/// The property that an extended attribute stands for, if it can be one.
fn property(name: &OsStr) -> Option<&str> {
    name.to_str()?.strip_prefix(XATTR_PREFIX)
}
