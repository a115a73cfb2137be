//! The callbacks themselves, in the order of the trait.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use fuser::{
    BsdFileFlags, Errno, FileHandle, Filesystem, FopenFlags, Generation, INodeNo, InitFlags,
    KernelConfig, LockOwner, OpenAccMode, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate,
    ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyLseek, ReplyOpen,
    ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};
use tokio::runtime::Handle;

use super::attr::{file_attr, file_type};
use super::errno::{NO_ROOM, NOT_A_TERMINAL, errno};
use crate::store::ErrorKind;
use crate::vfs::{self, Attr, DirEntry, Error, Opened, Replace, SetAttr, Vfs};

/// The largest write request, in bytes: what the kernel sends at most without special settings.
const MAX_WRITE: u32 = 1 << 20;
/// Requests that the kernel has under way in the background, at most: below this a fast reader waits
/// for slots, above it nothing is gained.
const MAX_BACKGROUND: u16 = 64;
/// Inodes are never reused while the kernel knows them, so one generation is enough.
const GENERATION: Generation = Generation(0);
/// What `statfs` tells: there is no quota to ask for, so a size that no program finds too small.
const STATFS_BLOCKS: u64 = 1 << 40;
const STATFS_BLOCK: u32 = 4096;
/// Modes of `fallocate`, as in linux/falloc.h.
const KEEP_SIZE: i32 = 1;
const PUNCH_HOLE: i32 = 2;
const ZERO_RANGE: i32 = 16;

/// The tree as `fuser` wants it.
pub(super) struct Callbacks {
    vfs: Arc<Vfs>,
    runtime: Handle,
    deadline: Duration,
}

/// Any reply that can be an error.
trait Refuse: Send + 'static {
    fn refuse(self, errno: Errno);
}

macro_rules! refuse {
    ($($reply:ty),*) => {$(
        impl Refuse for $reply {
            fn refuse(self, errno: Errno) {
                self.error(errno);
            }
        }
    )*};
}

refuse!(
    ReplyAttr,
    ReplyCreate,
    ReplyData,
    ReplyDirectory,
    ReplyDirectoryPlus,
    ReplyEmpty,
    ReplyEntry,
    ReplyLseek,
    ReplyOpen,
    ReplyWrite,
    ReplyXattr
);

impl Callbacks {
    pub(super) fn new(vfs: Arc<Vfs>, runtime: Handle, deadline: Duration) -> Callbacks {
        Callbacks { vfs, runtime, deadline }
    }

    /// Answers from a task, within the deadline. A panic drops the reply, which then says EIO.
    fn answer<R: Refuse, T>(
        &self,
        op: &'static str,
        what: impl fmt::Display + Send + 'static,
        reply: R,
        call: impl Future<Output = vfs::Result<T>> + Send + 'static,
        ok: impl FnOnce(R, T) + Send + 'static,
    ) {
        let deadline = self.deadline;
        self.runtime.spawn(async move {
            match bounded(deadline, call).await {
                Ok(value) => ok(reply, value),
                Err(error) => refuse(op, what, reply, &error),
            }
        });
    }

    /// The same for a call that changes something: at the deadline it is answered, but not dropped. It
    /// goes on to its end, so that nothing is left half done.
    fn answer_and_finish<R: Refuse, T: Send + 'static>(
        &self,
        op: &'static str,
        what: impl fmt::Display + Send + 'static,
        reply: R,
        call: impl Future<Output = vfs::Result<T>> + Send + 'static,
        ok: impl FnOnce(R, T) + Send + 'static,
    ) {
        let call = self.runtime.spawn(call);
        // A task that panicked leaves no result; its reply is dropped, which says EIO.
        let finished = async move {
            match call.await {
                Ok(result) => result.map(Some),
                Err(_) => Ok(None),
            }
        };
        self.answer(op, what, reply, finished, |reply, value| {
            if let Some(value) = value {
                ok(reply, value);
            }
        });
    }

    /// Answers from a task that ends by itself: what is flushed goes on while the service takes it, and
    /// each of its requests has its own deadline.
    fn answer_when_flushed(
        &self,
        op: &'static str,
        fh: FileHandle,
        reply: ReplyEmpty,
        call: impl Future<Output = vfs::Result<()>> + Send + 'static,
    ) {
        self.runtime.spawn(async move {
            match call.await {
                Ok(()) => reply.ok(),
                Err(error) => refuse(op, fh, reply, &error),
            }
        });
    }

    fn reply_entry(&self) -> impl FnOnce(ReplyEntry, Attr) + Send + 'static {
        let ttl = self.vfs.attr_timeout();
        move |reply, attr| reply.entry(&ttl, &file_attr(&attr), GENERATION)
    }

    fn reply_attr(&self) -> impl FnOnce(ReplyAttr, Attr) + Send + 'static {
        let ttl = self.vfs.attr_timeout();
        move |reply, attr| reply.attr(&ttl, &file_attr(&attr))
    }
}

/// The result of `call`, or `Deadline` if that takes longer.
async fn bounded<T>(
    deadline: Duration,
    call: impl Future<Output = vfs::Result<T>>,
) -> vfs::Result<T> {
    tokio::time::timeout(deadline, call).await.unwrap_or(Err(Error::Deadline))
}

fn refuse<R: Refuse>(op: &'static str, what: impl fmt::Display, reply: R, error: &Error) {
    let errno = errno(error);
    match error {
        Error::NoAttribute | Error::StaleInode | Error::NoSuchOffset => {
            log::debug!(target: "fuse", "{op} {what}: {error}");
        }
        Error::Store(inner) if expected(inner.kind()) => {
            log::debug!(target: "fuse", "{op} {what}: {error}");
        }
        _ => log::warn!(target: "fuse", "{op} {what}: {error} ({errno:?})"),
    }
    reply.refuse(errno);
}

/// What happens all the time and needs no line in the log.
fn expected(kind: ErrorKind) -> bool {
    use ErrorKind::{AlreadyExists, CrossDevice, IsDirectory, NotDirectory, NotEmpty, NotFound};
    matches!(kind, NotFound | AlreadyExists | NotEmpty | NotDirectory | IsDirectory | CrossDevice)
}

/// Runs a callback that answers at once. If it panics its reply is dropped, which then says EIO.
fn guarded(op: &'static str, call: impl FnOnce()) {
    if catch_unwind(AssertUnwindSafe(call)).is_err() {
        log::error!(target: "fuse", "{op}: a bug, answered with EIO");
    }
}

fn open_flags(opened: Opened, writable: bool) -> FopenFlags {
    let mut flags = FopenFlags::empty();
    if opened.keep_cache {
        flags |= FopenFlags::FOPEN_KEEP_CACHE;
    }
    if writable {
        // The data path orders writes itself.
        flags |= FopenFlags::FOPEN_PARALLEL_DIRECT_WRITES;
    } else {
        // Nothing to flush: spares a round trip at each close.
        flags |= FopenFlags::FOPEN_NOFLUSH;
    }
    flags
}

/// A number for an entry that has no inode; `d_ino` must not be 0.
fn stand_in_ino(entry: &DirEntry) -> INodeNo {
    if entry.attr.ino != 0 {
        return INodeNo(entry.attr.ino);
    }
    let mut hasher = DefaultHasher::new();
    entry.name.hash(&mut hasher);
    INodeNo(hasher.finish() | 1 << 63)
}

impl Filesystem for Callbacks {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        // Each returns the nearest value that it would take; that is then not worth refusing to mount.
        let _ = config.set_max_write(MAX_WRITE);
        let _ = config.set_max_background(MAX_BACKGROUND);
        let _ = config.set_congestion_threshold(MAX_BACKGROUND / 4 * 3);
        for wanted in [
            InitFlags::FUSE_ASYNC_DIO,
            InitFlags::FUSE_PARALLEL_DIROPS,
            InitFlags::FUSE_DO_READDIRPLUS,
            InitFlags::FUSE_READDIRPLUS_AUTO,
            // Without it every buffered write costs a getxattr. No file here has a setuid bit.
            InitFlags::FUSE_HANDLE_KILLPRIV_V2,
        ] {
            if config.add_capabilities(wanted).is_err() {
                log::info!(target: "fuse", "this kernel does not offer {wanted:?}");
            }
        }
        Ok(())
    }

    fn lookup(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let (vfs, name) = (Arc::clone(&self.vfs), name.to_owned());
        let what = name.display().to_string();
        let call = async move { vfs.lookup(parent.0, &name).await };
        self.answer("lookup", what, reply, call, self.reply_entry());
    }

    fn forget(&self, _req: &Request, ino: INodeNo, nlookup: u64) {
        guarded("forget", || self.vfs.forget(ino.0, nlookup));
    }

    fn getattr(&self, _req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        guarded("getattr", || {
            if let Some(attr) = self.vfs.getattr_now(ino.0) {
                return self.reply_attr()(reply, attr);
            }
            let vfs = Arc::clone(&self.vfs);
            let call = async move { vfs.getattr(ino.0).await };
            self.answer("getattr", ino, reply, call, self.reply_attr());
        });
    }

    fn setattr(
        &self,
        _req: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        _atime: Option<TimeOrNow>,
        _mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let vfs = Arc::clone(&self.vfs);
        let change = SetAttr { size, mode, uid, gid };
        let call = async move { vfs.setattr(ino.0, fh.map(|fh| fh.0), change).await };
        self.answer_and_finish("setattr", ino, reply, call, self.reply_attr());
    }

    fn mkdir(
        &self,
        _req: &Request,
        parent: INodeNo,
        name: &OsStr,
        _mode: u32,
        _umask: u32,
        reply: ReplyEntry,
    ) {
        let (vfs, name) = (Arc::clone(&self.vfs), name.to_owned());
        let what = name.display().to_string();
        let call = async move { vfs.mkdir(parent.0, &name).await };
        self.answer("mkdir", what, reply, call, self.reply_entry());
    }

    fn unlink(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (vfs, name) = (Arc::clone(&self.vfs), name.to_owned());
        let what = name.display().to_string();
        let call = async move { vfs.unlink(parent.0, &name).await };
        self.answer_and_finish("unlink", what, reply, call, |reply, ()| reply.ok());
    }

    fn rmdir(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (vfs, name) = (Arc::clone(&self.vfs), name.to_owned());
        let what = name.display().to_string();
        let call = async move { vfs.rmdir(parent.0, &name).await };
        self.answer_and_finish("rmdir", what, reply, call, |reply, ()| reply.ok());
    }

    fn rename(
        &self,
        _req: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let replace = if flags.is_empty() {
            Replace::Allowed
        } else if flags == RenameFlags::RENAME_NOREPLACE {
            Replace::Refused
        } else {
            let error = Error::Invalid("the service cannot exchange two names");
            return refuse("rename", name.display(), reply, &error);
        };
        let vfs = Arc::clone(&self.vfs);
        let (from, to): (OsString, OsString) = (name.to_owned(), newname.to_owned());
        let what = format!("{} to {}", name.display(), newname.display());
        // The service copies; for a large blob that takes as long as it takes.
        self.runtime.spawn(async move {
            match vfs.rename(parent.0, &from, newparent.0, &to, replace).await {
                Ok(()) => reply.ok(),
                Err(error) => refuse("rename", what, reply, &error),
            }
        });
    }

    fn readlink(&self, _req: &Request, ino: INodeNo, reply: ReplyData) {
        let vfs = Arc::clone(&self.vfs);
        let call = async move { vfs.readlink(ino.0).await };
        self.answer("readlink", ino, reply, call, |reply, target| reply.data(target.as_bytes()));
    }

    fn open(&self, _req: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let vfs = Arc::clone(&self.vfs);
        let write = flags.acc_mode() != OpenAccMode::O_RDONLY;
        let call = async move { vfs.open(ino.0, vfs::OpenFlags { write }).await };
        self.answer("open", ino, reply, call, move |reply, opened| {
            reply.opened(FileHandle(opened.handle), open_flags(opened, write));
        });
    }

    fn read(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        guarded("read", || match self.vfs.read_now(fh.0, offset, size.into()) {
            Ok(Some(bytes)) => reply.data(&bytes),
            Ok(None) => {
                let vfs = Arc::clone(&self.vfs);
                let call = async move { vfs.read(fh.0, offset, size.into()).await };
                let what = format!("{size} bytes at {offset}");
                self.answer("read", what, reply, call, |reply, bytes| reply.data(&bytes));
            }
            Err(error) => refuse("read", fh, reply, &error),
        });
    }

    fn write(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        guarded("write", || match self.vfs.write_now(fh.0, offset, data) {
            Ok(true) => reply.written(data.len() as u32),
            Ok(false) => {
                let (vfs, data) = (Arc::clone(&self.vfs), data.to_vec());
                let written = data.len() as u32;
                let what = format!("{written} bytes at {offset}");
                let call = async move { vfs.write(fh.0, offset, &data).await };
                self.answer_and_finish("write", what, reply, call, move |reply, ()| {
                    reply.written(written)
                });
            }
            Err(error) => refuse("write", fh, reply, &error),
        });
    }

    fn flush(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        _lock_owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        let vfs = Arc::clone(&self.vfs);
        self.answer_when_flushed("close", fh, reply, async move { vfs.flush(fh.0).await });
    }

    fn release(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        let vfs = Arc::clone(&self.vfs);
        self.answer_when_flushed("release", fh, reply, async move {
            vfs.release(fh.0).await;
            Ok(())
        });
    }

    fn fsync(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        _datasync: bool,
        reply: ReplyEmpty,
    ) {
        let vfs = Arc::clone(&self.vfs);
        self.answer_when_flushed("fsync", fh, reply, async move { vfs.fsync(fh.0).await });
    }

    fn opendir(&self, _req: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        guarded("opendir", || match self.vfs.opendir(ino.0) {
            Ok(handle) => reply.opened(FileHandle(handle), FopenFlags::empty()),
            Err(error) => refuse("opendir", ino, reply, &error),
        });
    }

    fn readdir(
        &self,
        _req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let vfs = Arc::clone(&self.vfs);
        let deadline = self.deadline;
        self.runtime.spawn(async move {
            let page = match bounded(deadline, vfs.readdir(ino.0, fh.0, offset)).await {
                Ok(page) => page,
                Err(error) => return refuse("readdir", ino, reply, &error),
            };
            for entry in page.entries() {
                let kind = file_type(entry.attr.kind);
                if reply.add(stand_in_ino(&entry), entry.next_offset, kind, &entry.name) {
                    break;
                }
            }
            reply.ok();
        });
    }

    fn readdirplus(
        &self,
        _req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let vfs = Arc::clone(&self.vfs);
        let (ttl, deadline) = (vfs.attr_timeout(), self.deadline);
        self.runtime.spawn(async move {
            let page = match bounded(deadline, vfs.readdir(ino.0, fh.0, offset)).await {
                Ok(page) => page,
                Err(error) => return refuse("readdir", ino, reply, &error),
            };
            for entry in page.entries() {
                let mut known = page.remember(&entry);
                if known.is_none() && entry.attr.ino == 0 {
                    // Something was removed since it was listed; perhaps this.
                    let found = vfs.lookup(ino.0, OsStr::new(&entry.name)).await;
                    let Ok(found) = found else { continue };
                    known = Some(found);
                }
                // `.` and `..` have no entry to remember; the kernel does not count those.
                let attr = known.unwrap_or(entry.attr);
                let (number, offset) = (INodeNo(attr.ino), entry.next_offset);
                let attr = file_attr(&attr);
                if reply.add(number, offset, &entry.name, &ttl, &attr, GENERATION) {
                    if let Some(known) = known {
                        vfs.forget(known.ino, 1);
                    }
                    break;
                }
            }
            reply.ok();
        });
    }

    fn releasedir(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        reply: ReplyEmpty,
    ) {
        guarded("releasedir", || {
            self.vfs.releasedir(fh.0);
            reply.ok();
        });
    }

    fn fsyncdir(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _datasync: bool,
        reply: ReplyEmpty,
    ) {
        // Names are made and removed in the service before the call that does it returns.
        reply.ok();
    }

    fn statfs(&self, _req: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        let free = STATFS_BLOCKS;
        let names = vfs::NAME_MAX as u32;
        reply.statfs(STATFS_BLOCKS, free, free, 0, 0, STATFS_BLOCK, names, STATFS_BLOCK);
    }

    fn setxattr(
        &self,
        _req: &Request,
        _ino: INodeNo,
        name: &OsStr,
        _value: &[u8],
        _flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        let error = Error::Unsupported("extended attributes are read-only");
        log::debug!(target: "fuse", "setxattr {}: {error}", name.display());
        reply.error(errno(&error));
    }

    fn removexattr(&self, _req: &Request, _ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let error = Error::Unsupported("extended attributes are read-only");
        log::debug!(target: "fuse", "removexattr {}: {error}", name.display());
        reply.error(errno(&error));
    }

    fn getxattr(&self, _req: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        if !Vfs::may_have_xattr(name) {
            return reply.error(errno(&Error::NoAttribute));
        }
        let (vfs, name) = (Arc::clone(&self.vfs), name.to_owned());
        let what = name.display().to_string();
        let call = async move { vfs.getxattr(ino.0, &name).await };
        self.answer("getxattr", what, reply, call, move |reply, value| {
            reply_xattr(reply, &value, size);
        });
    }

    fn listxattr(&self, _req: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        let vfs = Arc::clone(&self.vfs);
        let call = async move { vfs.listxattr(ino.0).await };
        self.answer("listxattr", ino, reply, call, move |reply, names| {
            reply_xattr(reply, &names, size);
        });
    }

    fn create(
        &self,
        _req: &Request,
        parent: INodeNo,
        name: &OsStr,
        _mode: u32,
        _umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let (vfs, name) = (Arc::clone(&self.vfs), name.to_owned());
        let exclusive = flags & libc::O_EXCL != 0;
        let ttl = vfs.attr_timeout();
        let what = name.display().to_string();
        let call = async move { vfs.create(parent.0, &name, exclusive).await };
        self.answer("create", what, reply, call, move |reply, (attr, opened)| {
            let handle = FileHandle(opened.handle);
            let flags = open_flags(opened, true);
            reply.created(&ttl, &file_attr(&attr), GENERATION, handle, flags);
        });
    }

    fn fallocate(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let vfs = Arc::clone(&self.vfs);
        let keep = mode & KEEP_SIZE != 0;
        let zeroes = match mode & !KEEP_SIZE {
            0 => false,
            PUNCH_HOLE | ZERO_RANGE => true,
            _ => {
                let error = Error::Unsupported("blobs can be allocated, zeroed and punched only");
                return refuse("fallocate", fh, reply, &error);
            }
        };
        let call = async move {
            if zeroes {
                vfs.zero(fh.0, offset, length, !keep).await
            } else if keep {
                // Space is never reserved: a page blob has it all, up to its length.
                Ok(())
            } else {
                vfs.grow(fh.0, offset.saturating_add(length)).await
            }
        };
        self.answer_and_finish("fallocate", fh, reply, call, |reply, ()| reply.ok());
    }

    fn lseek(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        let hole = match whence {
            libc::SEEK_DATA => false,
            libc::SEEK_HOLE => true,
            _ => return refuse("lseek", fh, reply, &Error::Invalid("unknown way to seek")),
        };
        let Ok(offset) = u64::try_from(offset) else {
            return refuse("lseek", fh, reply, &Error::NoSuchOffset);
        };
        let vfs = Arc::clone(&self.vfs);
        let call = async move { vfs.seek(fh.0, offset, hole).await };
        self.answer("lseek", fh, reply, call, |reply, found| reply.offset(found as i64));
    }

    fn ioctl(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _flags: fuser::IoctlFlags,
        _cmd: u32,
        _in_data: &[u8],
        _out_size: u32,
        reply: fuser::ReplyIoctl,
    ) {
        // Programs ask files for what devices offer, and go on without.
        reply.error(NOT_A_TERMINAL);
    }

    fn copy_file_range(
        &self,
        _req: &Request,
        _ino_in: INodeNo,
        fh_in: FileHandle,
        offset_in: u64,
        _ino_out: INodeNo,
        fh_out: FileHandle,
        offset_out: u64,
        len: u64,
        _flags: fuser::CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        let vfs = Arc::clone(&self.vfs);
        // As much as the answer can tell.
        let len = len.min(u64::from(u32::MAX >> 1));
        let call = async move { vfs.copy((fh_in.0, offset_in), (fh_out.0, offset_out), len).await };
        // When this is not supported the kernel reads and writes instead.
        self.answer("copy", fh_out, reply, call, |reply, copied| reply.written(copied as u32));
    }
}

/// Answers with a value, or with its size if the caller asks for that by giving no room.
fn reply_xattr(reply: ReplyXattr, value: &[u8], size: u32) {
    if size == 0 {
        reply.size(value.len() as u32);
    } else if value.len() > size as usize {
        reply.error(NO_ROOM);
    } else {
        reply.data(value);
    }
}
