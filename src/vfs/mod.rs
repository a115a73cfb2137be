//! What a file system means, over a store: names, inodes, handles, lengths and times.
//!
//! It knows the port and the data path, and nothing of FUSE or of any service. Calls named `…_now`
//! never wait; the others may go to the service.

mod attr;
mod dir;
mod error;
mod handle;
mod inode;
mod keep;
mod names;
mod snapshot;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::ffi::OsStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use parking_lot::RwLock;

pub use attr::{Attr, FileKind};
pub use dir::{DirEntry, DirPage};
pub use error::{Error, Result};
pub use handle::{OpenFlags, Opened, SetAttr};
pub use keep::Keep;

pub use crate::store::Replace;

use crate::io::Shared;
use crate::store::{self, RemotePath, Store, WriteModel};
use dir::DirHandle;
use handle::Handle;
use inode::{Inode, Inodes};

/// The inode number of the root, as FUSE wants it.
pub const ROOT: u64 = 1;
/// The longest name, in bytes, that Linux can hand over.
pub const NAME_MAX: usize = 255;
/// Before the name of a remote property in an extended attribute.
const XATTR_PREFIX: &str = "user.blobdir.";

/// How a tree looks.
#[derive(Clone, Debug)]
pub struct Config {
    /// No call changes anything.
    pub read_only: bool,
    /// Owner of everything.
    pub uid: u32,
    /// Group of everything.
    pub gid: u32,
    /// Permission bits that nothing has.
    pub umask: u32,
    /// How long what was learnt of a name is believed.
    pub attr_timeout: Duration,
    /// Where dirty sectors go that cannot be sent; `None` drops them, with a line in the log.
    pub keep: Option<Keep>,
}

/// One mounted tree.
#[derive(Debug)]
pub struct Vfs {
    store: Arc<dyn Store>,
    io: Arc<Shared>,
    config: Config,
    inodes: Inodes,
    handles: RwLock<HashMap<u64, Arc<Handle>>>,
    dirs: RwLock<HashMap<u64, Arc<DirHandle>>>,
    next_handle: AtomicU64,
    /// Handles that are being closed.
    closing: tokio::sync::watch::Sender<usize>,
    /// Stands in where the service does not tell a time.
    mounted_at: SystemTime,
}

impl Vfs {
    /// A tree over `store`.
    pub fn new(store: Arc<dyn Store>, io: Arc<Shared>, mut config: Config) -> Vfs {
        config.read_only |= store.capabilities().write == WriteModel::None;
        Vfs {
            store,
            io,
            config,
            inodes: Inodes::new(),
            handles: RwLock::default(),
            dirs: RwLock::default(),
            next_handle: AtomicU64::new(1),
            closing: tokio::sync::watch::Sender::new(0),
            mounted_at: SystemTime::now(),
        }
    }

    /// How long attributes may be kept by whoever asked.
    pub fn attr_timeout(&self) -> Duration {
        self.config.attr_timeout
    }

    /// Bytes written here that the service has not confirmed.
    pub fn unconfirmed(&self) -> u64 {
        self.io.unconfirmed()
    }

    /// Gives back what is held at the service for files that are still open. Nothing can be written after
    /// this.
    pub async fn close(&self) {
        self.store.close().await;
    }

    /// Sends everything that is dirty, of open files too, and returns when all of it is confirmed.
    ///
    /// Errors: the first one met; the others are logged.
    pub async fn flush_all(&self) -> Result<()> {
        let mut first = Ok(());
        // A handle that is being closed flushes its file itself, and gives back what it holds.
        let mut closing = self.closing.subscribe();
        let _ = closing.wait_for(|count| *count == 0).await;
        for file in self.io.unsettled() {
            if let Err(error) = file.flush(true).await {
                log::error!(target: "vfs", "not flushed: {error}");
                if first.is_ok() {
                    first = Err(error.into());
                }
            }
        }
        first
    }

    /// Names, with the bytes at stake, of what is not flushed: for a message to whoever interrupts.
    pub fn unflushed(&self) -> Vec<(String, u64)> {
        self.inodes.unflushed()
    }

    /// Names that were met and cannot be shown, by why.
    pub fn hidden(&self) -> Vec<(&'static str, u64)> {
        self.store.hidden()
    }

    fn fresh_handle(&self) -> u64 {
        self.next_handle.fetch_add(1, Ordering::Relaxed)
    }

    fn inode(&self, ino: u64) -> Result<Arc<Inode>> {
        self.inodes.get(ino).ok_or(Error::StaleInode)
    }

    /// The path of `name` in directory `parent`.
    fn child(&self, parent: u64, name: &OsStr) -> Result<RemotePath> {
        if name.len() > NAME_MAX {
            return Err(Error::NameTooLong);
        }
        let parent = self.inode(parent)?.path();
        name.to_str().and_then(|name| parent.join(name)).ok_or_else(|| {
            store::Error::new(
                store::ErrorKind::BadName,
                "name",
                parent,
                format!("{} is not UTF-8, which names in the service are", name.display()),
            )
            .into()
        })
    }

    fn check_writable(&self, path: &RemotePath) -> Result<()> {
        if self.config.read_only {
            return Err(store::Error::new(
                store::ErrorKind::ReadOnly,
                "write",
                path,
                "the tree is mounted read-only",
            )
            .into());
        }
        Ok(())
    }
}
