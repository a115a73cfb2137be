//! The tree over the memory store, driven as the kernel drives it.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::sync::Arc;
use std::time::Duration;

use blobdir::io::{Config as IoConfig, Shared};
use blobdir::store::memory::MemoryStore;
use blobdir::store::{Access, ErrorKind, Opened, RemotePath, Store, read_all};
use blobdir::vfs::{Attr, Config, Error, FileKind, OpenFlags, ROOT, Replace, SetAttr, Vfs};
use tokio::runtime::Runtime;

use super::op::{NAMES, Op, SLOTS};
use super::reference::{Contents, Outcome, Value, pattern};
use super::run::System;

const MIB: u64 = 1 << 20;
/// Far more than any operation takes: what is not done by then hangs.
const PATIENCE: Duration = Duration::from_secs(20);

/// A file that is open. The kernel knows its inode for as long.
struct Slot {
    ino: u64,
    handle: u64,
}

/// A tree, and what the kernel would know of it.
pub(crate) struct Tree {
    runtime: Runtime,
    store: MemoryStore,
    vfs: Arc<Vfs>,
    slots: [Option<Slot>; SLOTS],
    /// Inodes that the kernel was told of, once for each time.
    known: Vec<u64>,
}

impl Tree {
    pub(crate) fn new() -> Tree {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let store = MemoryStore::new();
        store.set_latency(Duration::from_micros(300));
        let vfs = runtime.block_on(async { mount(&store) });
        Tree { runtime, store, vfs, slots: Default::default(), known: Vec::new() }
    }

    async fn lookup(&mut self, parent: u64, name: &str) -> Result<Attr, i32> {
        let attr = self.vfs.lookup(parent, OsStr::new(name)).await.map_err(errno)?;
        self.known.push(attr.ino);
        Ok(attr)
    }

    /// The directory that holds `path`, and the name in it.
    async fn parent(&mut self, path: &'static str) -> Result<(u64, &'static str), i32> {
        match path.rsplit_once('/') {
            None => Ok((ROOT, path)),
            Some((dir, name)) => match self.lookup(ROOT, dir).await? {
                Attr { kind: FileKind::Directory, ino, .. } => Ok((ino, name)),
                _ => Err(libc::ENOTDIR),
            },
        }
    }

    async fn look(&mut self, path: &'static str) -> Result<Attr, i32> {
        let (parent, name) = self.parent(path).await?;
        self.lookup(parent, name).await
    }

    /// A file, where the kernel would not take a directory.
    async fn file(&mut self, path: &'static str) -> Result<Attr, i32> {
        let attr = self.look(path).await?;
        if attr.kind == FileKind::Directory { Err(libc::EISDIR) } else { Ok(attr) }
    }

    /// Opens as the kernel does: if the inode has been replaced it looks the name up again, once.
    async fn open(&mut self, path: &'static str, write: bool) -> Result<Slot, i32> {
        for last in [false, true] {
            let ino = self.file(path).await?.ino;
            match self.vfs.open(ino, OpenFlags { write }).await {
                Ok(opened) => {
                    // Forgotten when it is closed.
                    assert_eq!(self.known.pop(), Some(ino));
                    return Ok(Slot { ino, handle: opened.handle });
                }
                Err(Error::StaleInode) if !last => {}
                Err(error) => return Err(errno(error)),
            }
        }
        unreachable!("the second attempt returns")
    }

    async fn close(&mut self, slot: Slot) -> Outcome {
        let flushed = self.vfs.flush(slot.handle).await;
        self.vfs.release(slot.handle).await;
        self.vfs.forget(slot.ino, 1);
        done(flushed)
    }

    async fn create(&mut self, path: &'static str, exclusive: bool) -> Result<Slot, i32> {
        let (parent, name) = self.parent(path).await?;
        match self.lookup(parent, name).await {
            Ok(_) if exclusive => Err(libc::EEXIST),
            Ok(attr) if attr.kind == FileKind::Directory => Err(libc::EISDIR),
            Ok(_) => self.open(path, true).await,
            Err(libc::ENOENT) => {
                let created = self.vfs.create(parent, OsStr::new(name), exclusive).await;
                let (attr, opened) = created.map_err(errno)?;
                Ok(Slot { ino: attr.ino, handle: opened.handle })
            }
            Err(errno) => Err(errno),
        }
    }

    async fn rename(&mut self, from: &'static str, to: &'static str, replace: bool) -> Outcome {
        let (old_parent, old_name) = self.parent(from).await?;
        let (new_parent, new_name) = self.parent(to).await?;
        let moving = self.lookup(old_parent, old_name).await?;
        let target = match self.lookup(new_parent, new_name).await {
            Ok(attr) => Some(attr),
            Err(libc::ENOENT) => None,
            Err(errno) => return Err(errno),
        };
        if target.is_some() && !replace {
            return Err(libc::EEXIST);
        }
        let is_dir = |attr: &Attr| attr.kind == FileKind::Directory;
        match target {
            _ if moving.ino == new_parent => return Err(libc::EINVAL),
            Some(target) if target.ino == old_parent => return Err(libc::ENOTEMPTY),
            Some(target) if target.ino == moving.ino => return Ok(Value::Done),
            Some(target) if is_dir(&moving) && !is_dir(&target) => return Err(libc::ENOTDIR),
            Some(target) if !is_dir(&moving) && is_dir(&target) => return Err(libc::EISDIR),
            _ => {}
        }
        let replace = if replace { Replace::Allowed } else { Replace::Refused };
        let (old, new) = (OsStr::new(old_name), OsStr::new(new_name));
        done(self.vfs.rename(old_parent, old, new_parent, new, replace).await)
    }

    async fn read(&self, handle: u64, at: u64, len: u64) -> Result<Vec<u8>, i32> {
        match self.vfs.read_now(handle, at, len).map_err(errno)? {
            Some(bytes) => Ok(bytes.to_vec()),
            None => Ok(self.vfs.read(handle, at, len).await.map_err(errno)?.to_vec()),
        }
    }

    async fn write(&self, handle: u64, at: u64, data: &[u8]) -> Outcome {
        if self.vfs.write_now(handle, at, data).map_err(errno)? {
            return Ok(Value::Done);
        }
        done(self.vfs.write(handle, at, data).await)
    }

    async fn names(&mut self, ino: u64) -> Result<BTreeSet<String>, i32> {
        let handle = self.vfs.opendir(ino).map_err(errno)?;
        let mut names = BTreeSet::new();
        let mut offset = 0;
        loop {
            let page = self.vfs.readdir(ino, handle, offset).await.map_err(errno)?;
            let before = offset;
            for entry in page.entries() {
                offset = entry.next_offset;
                if let Some(attr) = page.remember(&entry) {
                    self.known.push(attr.ino);
                }
                if ![".", ".."].contains(&entry.name.as_str()) {
                    let twice = !names.insert(entry.name.clone());
                    assert!(!twice, "{} is listed twice", entry.name);
                }
            }
            if offset == before {
                break;
            }
        }
        self.vfs.releasedir(handle);
        Ok(names)
    }

    async fn remount(&mut self) -> Outcome {
        let flushed = self.vfs.flush_all().await;
        assert_eq!(self.vfs.unconfirmed(), 0, "nothing is charged for nothing");
        self.vfs = mount(&self.store);
        self.known.clear();
        done(flushed)
    }

    fn slot(&self, slot: usize) -> &Slot {
        self.slots[slot].as_ref().expect("the reference has it open")
    }

    async fn run(&mut self, op: &Op) -> Outcome {
        match *op {
            Op::Create { name, slot, exclusive } => {
                self.slots[slot] = Some(self.create(NAMES[name], exclusive).await?);
                Ok(Value::Done)
            }
            Op::Open { name, slot, how } => {
                self.slots[slot] = Some(self.open(NAMES[name], how.writes()).await?);
                Ok(Value::Done)
            }
            Op::Close { slot } => {
                let slot = self.slots[slot].take().expect("the reference has it open");
                self.close(slot).await
            }
            Op::Read { slot, at, len } | Op::MapRead { slot, at, len } => {
                self.read(self.slot(slot).handle, at, len).await.map(Value::Bytes)
            }
            Op::Write { slot, at, len, seed } | Op::MapWrite { slot, at, len, seed } => {
                self.write(self.slot(slot).handle, at, &pattern(len, seed)).await
            }
            Op::Append { name, len, seed } => {
                let slot = self.open(NAMES[name], true).await?;
                let end = self.vfs.getattr(slot.ino).await.map_err(errno)?.size;
                let written = self.write(slot.handle, end, &pattern(len, seed)).await;
                self.close(slot).await?;
                written
            }
            Op::Truncate { name, len } => {
                let attr = self.file(NAMES[name]).await?;
                let change = SetAttr { size: Some(len), ..SetAttr::default() };
                let told = self.vfs.setattr(attr.ino, None, change).await.map_err(errno)?;
                assert_eq!(told.size, len);
                Ok(Value::Done)
            }
            Op::SetLen { slot, len } => {
                let Slot { ino, handle } = *self.slot(slot);
                let change = SetAttr { size: Some(len), ..SetAttr::default() };
                done(self.vfs.setattr(ino, Some(handle), change).await)
            }
            Op::Zero { slot, at, len, grow } => {
                done(self.vfs.zero(self.slot(slot).handle, at, len, grow).await)
            }
            Op::Grow { slot, len } => done(self.vfs.grow(self.slot(slot).handle, len).await),
            Op::Fsync { slot } => done(self.vfs.fsync(self.slot(slot).handle).await),
            Op::Stat { name } => {
                let attr = self.look(NAMES[name]).await?;
                let again = self.vfs.getattr(attr.ino).await.map_err(errno)?;
                assert_eq!(again.size, attr.size);
                Ok(Value::Stat(attr.kind == FileKind::Directory, attr.size))
            }
            Op::List { name } => match self.look(NAMES[name]).await? {
                Attr { kind: FileKind::Directory, ino, .. } => {
                    self.names(ino).await.map(Value::Names)
                }
                _ => Err(libc::ENOTDIR),
            },
            Op::Rename { from, to, replace } => self.rename(NAMES[from], NAMES[to], replace).await,
            Op::Unlink { name } => {
                self.file(NAMES[name]).await?;
                let (parent, name) = self.parent(NAMES[name]).await?;
                done(self.vfs.unlink(parent, OsStr::new(name)).await)
            }
            Op::Mkdir { name } => {
                let (parent, name) = self.parent(NAMES[name]).await?;
                let made = self.vfs.mkdir(parent, OsStr::new(name)).await.map_err(errno)?;
                self.known.push(made.ino);
                Ok(Value::Done)
            }
            Op::Rmdir { name } => {
                if self.look(NAMES[name]).await?.kind != FileKind::Directory {
                    return Err(libc::ENOTDIR);
                }
                let (parent, name) = self.parent(NAMES[name]).await?;
                done(self.vfs.rmdir(parent, OsStr::new(name)).await)
            }
            Op::Remount => self.remount().await,
            Op::Pause => {
                tokio::time::sleep(Duration::from_millis(3)).await;
                Ok(Value::Done)
            }
            Op::Forget => {
                for ino in self.known.drain(..) {
                    self.vfs.forget(ino, 1);
                }
                Ok(Value::Done)
            }
        }
    }
}

fn mount(store: &MemoryStore) -> Arc<Vfs> {
    let io =
        IoConfig { cache_size: 16 * MIB, dirty_limit: 4 * MIB, connections: 4, timeout: PATIENCE };
    let config = Config {
        read_only: false,
        uid: 0,
        gid: 0,
        umask: 0,
        // Everything is asked anew: what is believed wrongly shows.
        attr_timeout: Duration::ZERO,
        keep: None,
    };
    let io = Shared::new(&io, store.capabilities());
    Arc::new(Vfs::new(Arc::new(store.clone()), io, config))
}

fn done<T>(result: blobdir::vfs::Result<T>) -> Outcome {
    result.map(|_| Value::Done).map_err(errno)
}

fn errno(error: Error) -> i32 {
    match error {
        Error::StaleInode => libc::ESTALE,
        Error::Store(error) => match error.kind() {
            ErrorKind::NotFound => libc::ENOENT,
            ErrorKind::AlreadyExists => libc::EEXIST,
            ErrorKind::IsDirectory => libc::EISDIR,
            ErrorKind::NotDirectory => libc::ENOTDIR,
            ErrorKind::NotEmpty => libc::ENOTEMPTY,
            ErrorKind::CrossDevice => libc::EXDEV,
            ErrorKind::Stale => libc::ESTALE,
            _ => panic!("{error:?}"),
        },
        other => panic!("{other:?}"),
    }
}

impl System for Tree {
    fn apply(&mut self, op: &Op) -> Outcome {
        let runtime = tokio::runtime::Handle::clone(self.runtime.handle());
        runtime.block_on(async {
            let ended = tokio::time::timeout(PATIENCE, self.run(op)).await;
            ended.unwrap_or_else(|_| panic!("{op:?} hangs"))
        })
    }

    fn contents(&mut self) -> Contents {
        let runtime = tokio::runtime::Handle::clone(self.runtime.handle());
        runtime.block_on(async {
            let mut contents = Contents::new();
            let mut dirs = vec![(ROOT, String::new())];
            while let Some((dir, prefix)) = dirs.pop() {
                for name in self.names(dir).await.unwrap() {
                    let attr = self.lookup(dir, &name).await.unwrap();
                    let path = format!("{prefix}{name}");
                    if attr.kind == FileKind::Directory {
                        dirs.push((attr.ino, format!("{path}/")));
                        contents.insert(path, None);
                        continue;
                    }
                    let opened = self.vfs.open(attr.ino, OpenFlags { write: false }).await.unwrap();
                    let bytes = self.read(opened.handle, 0, attr.size + 1).await.unwrap();
                    self.vfs.release(opened.handle).await;
                    contents.insert(path, Some(bytes));
                }
            }
            contents
        })
    }

    fn elsewhere(&mut self, name: &str) -> Option<Vec<u8>> {
        let path = RemotePath::new(name).unwrap();
        self.runtime.block_on(async {
            match self.store.open(&path, Access::Read).await {
                Ok(Opened::Read(blob)) => {
                    Some(read_all(&*blob, 0..blob.len()).await.unwrap().to_vec())
                }
                Ok(Opened::Update(_)) => panic!("opened for reading"),
                Err(error) if error.kind() == ErrorKind::NotFound => None,
                Err(error) => panic!("{error}"),
            }
        })
    }
}
