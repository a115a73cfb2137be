//! Open files: opening, reading, writing, flushing, closing.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;

use super::inode::Inode;
use super::names::freeze;
use super::{Error, Result, Vfs};
use crate::io::fetch::Reader;
use crate::io::file::{Blocked, File};
use crate::io::page_cache::ContentId;
use crate::io::span::{SECTOR, Span};
use crate::store::{self, Access, Blob, BlobMut, ErrorKind, Kind, RemotePath};

/// What a file is opened for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OpenFlags {
    /// Writes will come.
    pub write: bool,
}

/// A file that was opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Opened {
    /// Names the handle in later calls.
    pub handle: u64,
    /// What was cached of this inode before, the kernel's pages included, is still true.
    pub keep_cache: bool,
}

/// Attributes to change; `None` leaves one alone.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SetAttr {
    /// Length in bytes.
    pub size: Option<u64>,
    /// Permission bits.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
}

/// One open handle.
#[derive(Debug)]
pub(super) struct Handle {
    inode: Arc<Inode>,
    pub(super) file: Arc<File>,
    reader: Reader,
    pub(super) writable: bool,
    /// A descriptor of it was closed after something was written.
    flushed: AtomicBool,
}

impl Vfs {
    pub(super) fn handle(&self, handle: u64) -> Result<Arc<Handle>> {
        self.handles.read().get(&handle).map(Arc::clone).ok_or(Error::BadHandle)
    }

    /// Opens a file. The service is asked for its current version, unless it is being written here.
    ///
    /// Errors: `StaleInode` if the name stands for a newer version than handles that are open here:
    /// looking it up again gives another inode.
    pub async fn open(&self, ino: u64, flags: OpenFlags) -> Result<Opened> {
        let inode = self.inode(ino)?;
        let path = inode.path();
        if flags.write {
            self.check_writable(&path)?;
            if let Some(why) = inode.read_only() {
                return Err(read_only(&path, why).into());
            }
        }
        let _one_at_a_time = inode.opening.lock().await;
        if inode.is_detached() {
            return Err(Error::StaleInode);
        }
        inode.put_away();
        if let Some(file) = inode.writable_file() {
            return Ok(self.add_handle(&inode, file, flags.write, true));
        }
        // Opening it for writing gives it another version, which those who read it now must not meet.
        let reading = inode.look(|_, file| file.filter(|_| flags.write).map(Arc::clone));
        let _frozen = freeze(reading.as_ref()).await;
        let access = if flags.write { Access::Update } else { Access::Read };
        let opened = self.store.open(&path, access).await?;
        let (blob, writer) = match opened {
            store::Opened::Read(blob) => (blob, None),
            store::Opened::Update(writer) => (Arc::clone(&writer) as Arc<dyn Blob>, Some(writer)),
        };
        let version = blob.version();
        let live = inode.look(|_, file| file.map(Arc::clone));
        if let Some(file) = live {
            if !file.blob().continues(&version) {
                self.inodes.detach(&inode);
                return Err(Error::StaleInode);
            }
            if let Some(writer) = writer {
                file.make_writable(writer);
            }
            return Ok(self.add_handle(&inode, file, flags.write, true));
        }
        let closed = inode.lock().closed.take().filter(|closed| closed.blob.continues(&version));
        let keep_cache = closed.is_some();
        let len = blob.len();
        let surprising = inode.look(|stat, _| {
            stat.len != len && stat.version.as_ref().is_some_and(|known| *known != version)
        });
        if !keep_cache && surprising {
            // The kernel would go by the length that it knows; a new inode makes it ask.
            self.inodes.detach(&inode);
            return Err(Error::StaleInode);
        }
        let content = closed.as_ref().map_or_else(ContentId::fresh, |closed| closed.content);
        let unused_reserve =
            |writer: &Arc<dyn BlobMut>| writer.capacity() != len.next_multiple_of(SECTOR);
        let left_behind = writer.as_ref().is_some_and(unused_reserve);
        let file = File::new(Arc::clone(&self.io), content, blob, writer);
        if let Some(holes) = closed.and_then(|closed| closed.holes) {
            file.set_known_holes(holes);
        }
        if left_behind {
            // A writer died with room reserved; what may stand there is not part of the file.
            file.flush(true).await?;
        }
        inode.lock().set_stat(|stat| {
            stat.len = len;
            stat.version = Some(version);
        });
        Ok(self.add_handle(&inode, file, flags.write, keep_cache))
    }

    /// A handle for a blob that was just created.
    pub(super) fn opened_new(&self, inode: &Arc<Inode>, writer: Arc<dyn BlobMut>) -> Opened {
        let file = File::created(Arc::clone(&self.io), writer);
        self.add_handle(inode, file, true, false)
    }

    fn add_handle(
        &self,
        inode: &Arc<Inode>,
        file: Arc<File>,
        writable: bool,
        keep_cache: bool,
    ) -> Opened {
        {
            let mut state = inode.lock();
            state.handles += 1;
            state.writers += usize::from(writable);
            state.file = Some(Arc::clone(&file));
        }
        if writable {
            file.leave_open(false);
        }
        let handle = self.fresh_handle();
        let reader = file.reader();
        let flushed = AtomicBool::new(false);
        let opened = Handle { inode: Arc::clone(inode), file, reader, writable, flushed };
        self.handles.write().insert(handle, Arc::new(opened));
        Opened { handle, keep_cache }
    }

    /// Reads from memory. Never waits; `None` if the service must be asked.
    pub fn read_now(&self, handle: u64, offset: u64, len: u64) -> Result<Option<Bytes>> {
        let handle = self.handle(handle)?;
        Ok(handle.file.read_at(&handle.reader, Span::at(offset, len)))
    }

    /// Reads what [`read_now`](Vfs::read_now) did not find.
    pub async fn read(&self, handle: u64, offset: u64, len: u64) -> Result<Bytes> {
        let handle = self.handle(handle)?;
        Ok(handle.file.read_missing(&handle.reader, Span::at(offset, len)).await?)
    }

    /// Takes a write if memory allows it at once. Never waits. `false`: [`write`](Vfs::write) is needed.
    pub fn write_now(&self, handle: u64, offset: u64, data: &[u8]) -> Result<bool> {
        let handle = self.handle(handle)?;
        handle.check_writable()?;
        Ok(match handle.file.write_now(offset, data)? {
            Ok(()) => true,
            Err(Blocked::Edges(_) | Blocked::Budget) => false,
        })
    }

    /// Writes, waiting as needed.
    pub async fn write(&self, handle: u64, offset: u64, data: &[u8]) -> Result<()> {
        let handle = self.handle(handle)?;
        handle.check_writable()?;
        Ok(handle.file.write(offset, data).await?)
    }

    /// Makes a range zero; the file grows to hold it if `grow`.
    pub async fn zero(&self, handle: u64, offset: u64, len: u64, grow: bool) -> Result<()> {
        let handle = self.handle(handle)?;
        handle.check_writable()?;
        Ok(handle.file.zero(Span::at(offset, len), grow).await?)
    }

    /// Makes the file at least `len` bytes long.
    pub async fn grow(&self, handle: u64, len: u64) -> Result<()> {
        let handle = self.handle(handle)?;
        handle.check_writable()?;
        if handle.file.len() < len {
            handle.file.set_len(len).await?;
        }
        Ok(())
    }

    /// Where data (or, if `hole`, a hole or the end) is found from `offset` on.
    pub async fn seek(&self, handle: u64, offset: u64, hole: bool) -> Result<u64> {
        let file = Arc::clone(&self.handle(handle)?.file);
        if offset >= file.len() {
            return Err(Error::NoSuchOffset);
        }
        file.seek(offset, hole).await?.ok_or(Error::NoSuchOffset)
    }

    /// Copies between two open files inside the service. Gives how many bytes, which may be fewer than asked
    /// for.
    ///
    /// Errors: `Unsupported` from the store if they must be read and written instead.
    pub async fn copy(
        &self,
        (source, from): (u64, u64),
        (target, at): (u64, u64),
        len: u64,
    ) -> Result<u64> {
        let (source, target) = (self.handle(source)?, self.handle(target)?);
        target.check_writable()?;
        Ok(target.file.copy_from(at, &source.file, from, len).await?)
    }

    /// A descriptor is being closed: returns when the service has confirmed all that was written.
    pub async fn flush(&self, handle: u64) -> Result<()> {
        let handle = self.handle(handle)?;
        if !handle.writable {
            return Ok(());
        }
        // Duplicates of the descriptor may be open, in a child that is about to run a program too. The first
        // one that has something to flush is taken for the last; if it was not, the release tells.
        let unsettled = !handle.file.is_settled();
        let flushed = handle.flushed.fetch_or(unsettled, Ordering::Relaxed);
        let last = !flushed && handle.inode.lock().writers == 1;
        Ok(handle.file.flush(last).await?)
    }

    /// Returns when the service has confirmed all that was written.
    pub async fn fsync(&self, handle: u64) -> Result<()> {
        Ok(self.handle(handle)?.file.flush(false).await?)
    }

    /// Ends a handle. What a failed close could not send stays and is tried again.
    pub async fn release(&self, handle: u64) {
        let Some(handle) = self.handles.write().remove(&handle) else {
            return;
        };
        self.closing.send_modify(|count| *count += 1);
        let _closed = Closing(&self.closing);
        handle.file.end_reader(&handle.reader);
        let inode = Arc::clone(&handle.inode);
        let _one_at_a_time = inode.opening.lock().await;
        let (handles, writers) = {
            let mut state = inode.lock();
            state.handles -= 1;
            state.writers -= usize::from(handle.writable);
            (state.handles, state.writers)
        };
        let file = Arc::clone(&handle.file);
        if file.is_writable() && writers == 0 {
            self.end_writing(&inode, &file, handles).await;
        }
        inode.put_away();
        self.inodes.settle(&inode);
    }

    /// Parts with a file that nothing can be written to any more, and with what was not written.
    pub(super) fn give_up(&self, inode: &Arc<Inode>, file: &Arc<File>) {
        let path = inode.path();
        inode.lock().file = None;
        // Those who read on see what was not written; who opens the name must not, from now on.
        self.inodes.detach(inode);
        let failure = file.failure();
        if let Some(failure) = &failure {
            self.keep(&path, file, &failure.to_string());
        }
        let dropped = self.io.abandon(file);
        if let Some(failure) = failure {
            log::error!(target: "vfs", "{path}: {dropped} bytes were not written: {failure}");
        }
    }

    /// The last handle that could write is gone.
    async fn end_writing(&self, inode: &Arc<Inode>, file: &Arc<File>, readers: usize) {
        let path = inode.path();
        if inode.is_detached() || file.failure().is_some() {
            self.give_up(inode, file);
            close(&path, file).await;
            return;
        }
        if let Err(error) = file.flush(true).await {
            if file.failure().is_some() {
                self.give_up(inode, file);
            } else {
                log::error!(target: "vfs", "{path}: kept in memory and tried again: {error}");
                file.leave_open(true);
            }
            return;
        }
        close(&path, file).await;
        if readers == 0 {
            return;
        }
        // Those who still read are pinned to the version that was written.
        match self.store.open(&path, Access::Read).await {
            Ok(store::Opened::Read(blob)) if file.blob().continues(&blob.version()) => {
                file.make_read_only(blob);
                let mut state = inode.lock();
                state.learn_from(file);
                state.set_learnt();
            }
            Ok(_) => self.inodes.detach(inode),
            Err(error) => log::warn!(target: "vfs", "{path}: {error}"),
        }
    }
}

/// Counts as being closed until dropped.
struct Closing<'a>(&'a tokio::sync::watch::Sender<usize>);

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

impl Handle {
    fn check_writable(&self) -> Result<()> {
        if self.writable {
            return Ok(());
        }
        Err(Error::BadHandle)
    }
}

/// Gives the right to write back.
async fn close(path: &RemotePath, file: &File) {
    if let Some(writer) = file.writer_handle()
        && let Err(error) = writer.close().await
    {
        log::warn!(target: "vfs", "{path}: {error}");
    }
}

fn read_only(path: &RemotePath, why: &str) -> store::Error {
    debug_assert!(!path.is_root(), "a {:?} is never opened for writing", Kind::Directory);
    let message = format!("it is a {why}, and only page blobs are written in place");
    store::Error::new(ErrorKind::ReadOnly, "open", path, message)
}
