//! A real mount over the emulator, used through system calls.

use std::collections::BTreeSet;
use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd as _, IntoRawFd as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use blobdir::emulator::page_blob::Rule;
use blobdir::store::{Access, ErrorKind, Opened, RemotePath, Store, read_all};

use super::op::{How, NAMES, Op, SLOTS};
use super::reference::{Contents, Outcome, Value, pattern};
use super::run::System;
use super::support::Mount;
use super::support::service::Service;

/// A mount, and the service below it.
pub(crate) struct Mounted {
    // In the order in which they are to end.
    slots: [Option<File>; SLOTS],
    mount: Option<Mount>,
    store: Arc<dyn Store>,
    service: Service,
    faults: Vec<Rule>,
}

impl Mounted {
    /// A mount of an empty container whose server goes by these rules.
    pub(crate) fn new(faults: &[Rule]) -> Mounted {
        let service = Service::start();
        let store = service.store();
        let faults = faults.to_vec();
        let mut mounted =
            Mounted { slots: Default::default(), mount: None, store, service, faults };
        mounted.mount();
        mounted
    }

    /// Mounts. The rules come after: a service that cannot be reached at once is not mounted.
    fn mount(&mut self) {
        self.service.server().clear_faults();
        self.mount = Some(self.service.mount(&[]));
        for rule in &self.faults {
            self.service.server().inject(rule.clone()).unwrap();
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.mount.as_ref().expect("mounted but for a moment").path().join(name)
    }

    fn file(&self, slot: usize) -> &File {
        self.slots[slot].as_ref().expect("the reference has it open")
    }

    fn run(&mut self, op: &Op) -> io::Result<Value> {
        match *op {
            Op::Create { name, slot, exclusive } => {
                self.slots[slot] = Some(create(&self.path(NAMES[name]), exclusive)?);
            }
            Op::Open { name, slot, how } => {
                let mut options = OpenOptions::new();
                options.read(true).write(how.writes());
                if how == How::Direct {
                    options.custom_flags(libc::O_DIRECT);
                }
                self.slots[slot] = Some(options.open(self.path(NAMES[name]))?);
            }
            Op::Close { slot } => {
                close(self.slots[slot].take().expect("the reference has it open"))?;
            }
            Op::Read { slot, at, len } => return read(self.file(slot), at, len).map(Value::Bytes),
            Op::Write { slot, at, len, seed } => {
                self.file(slot).write_all_at(&pattern(len, seed), at)?;
            }
            Op::MapRead { slot, at, len } => {
                let map = Map::new(self.file(slot), at + len, false)?;
                return Ok(Value::Bytes(map.bytes()[at as usize..].to_vec()));
            }
            Op::MapWrite { slot, at, len, seed } => {
                let mut map = Map::new(self.file(slot), at + len, true)?;
                map.bytes_mut()[at as usize..].copy_from_slice(&pattern(len, seed));
                map.sync()?;
            }
            Op::Append { name, len, seed } => {
                use std::io::Write as _;
                let mut file = OpenOptions::new().append(true).open(self.path(NAMES[name]))?;
                file.write_all(&pattern(len, seed))?;
                close(file)?;
            }
            Op::Truncate { name, len } => truncate(&self.path(NAMES[name]), len)?,
            Op::SetLen { slot, len } => self.file(slot).set_len(len)?,
            Op::Zero { slot, at, len, grow } => {
                let mode = if grow {
                    libc::FALLOC_FL_ZERO_RANGE
                } else {
                    libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE
                };
                fallocate(self.file(slot), mode, at, len)?;
            }
            Op::Grow { slot, len } => fallocate(self.file(slot), 0, 0, len)?,
            Op::Fsync { slot } => self.file(slot).sync_all()?,
            Op::Stat { name } => {
                let found = fs::symlink_metadata(self.path(NAMES[name]))?;
                let len = if found.is_dir() { 0 } else { found.len() };
                return Ok(Value::Stat(found.is_dir(), len));
            }
            Op::List { name } => return list(&self.path(NAMES[name])).map(Value::Names),
            Op::Rename { from, to, replace } => {
                rename(&self.path(NAMES[from]), &self.path(NAMES[to]), replace)?;
            }
            Op::Unlink { name } => fs::remove_file(self.path(NAMES[name]))?,
            Op::Mkdir { name } => fs::create_dir(self.path(NAMES[name]))?,
            Op::Rmdir { name } => fs::remove_dir(self.path(NAMES[name]))?,
            Op::Remount => {
                self.mount.take().expect("mounted but for a moment").unmount();
                self.mount();
            }
            Op::Pause => std::thread::sleep(Duration::from_millis(5)),
            // It forgets when it likes to; attributes at least are soon asked for again.
            Op::Forget => {}
        }
        Ok(Value::Done)
    }
}

impl System for Mounted {
    fn apply(&mut self, op: &Op) -> Outcome {
        self.run(op).map_err(|error| error.raw_os_error().unwrap_or_else(|| panic!("{error:?}")))
    }

    fn contents(&mut self) -> Contents {
        let mut contents = Contents::new();
        let mut dirs = vec![String::new()];
        while let Some(dir) = dirs.pop() {
            for name in list(&self.path(&dir)).unwrap() {
                let path = format!("{dir}{name}");
                if self.path(&path).is_dir() {
                    dirs.push(format!("{path}/"));
                    contents.insert(path, None);
                } else {
                    let bytes = fs::read(self.path(&path)).unwrap();
                    contents.insert(path, Some(bytes));
                }
            }
        }
        contents
    }

    fn elsewhere(&mut self, name: &str) -> Option<Vec<u8>> {
        let path = RemotePath::new(name).unwrap();
        self.service.block_on(async {
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

fn c_path(path: &Path) -> CString {
    CString::new(path.as_os_str().as_bytes()).expect("no NUL in a path")
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// open(2) with `O_CREAT`, perhaps `O_EXCL`; never `O_TRUNC`, which would be another operation.
fn create(path: &Path, exclusive: bool) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    if exclusive {
        options.create_new(true);
    } else {
        options.create(true).truncate(false);
    }
    options.open(path)
}

/// close(2), whose error `File` would swallow.
fn close(file: File) -> io::Result<()> {
    let descriptor = file.into_raw_fd();
    // SAFETY: the descriptor was just given up by its only owner.
    check(unsafe { libc::close(descriptor) }).map(drop)
}

fn read(file: &File, at: u64, len: u64) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; len as usize];
    let mut filled = 0;
    while filled < bytes.len() {
        match file.read_at(&mut bytes[filled..], at + filled as u64)? {
            0 => break,
            count => filled += count,
        }
    }
    bytes.truncate(filled);
    Ok(bytes)
}

fn truncate(path: &Path, len: u64) -> io::Result<()> {
    let path = c_path(path);
    // SAFETY: the path ends with NUL and outlives the call.
    check(unsafe { libc::truncate(path.as_ptr(), len as libc::off_t) }).map(drop)
}

fn fallocate(file: &File, mode: libc::c_int, at: u64, len: u64) -> io::Result<()> {
    let (at, len) = (at as libc::off_t, len as libc::off_t);
    // SAFETY: no pointers are passed, and the descriptor is open.
    check(unsafe { libc::fallocate(file.as_raw_fd(), mode, at, len) }).map(drop)
}

fn rename(from: &Path, to: &Path, replace: bool) -> io::Result<()> {
    let (from, to) = (c_path(from), c_path(to));
    let flags = if replace { 0 } else { libc::RENAME_NOREPLACE };
    let here = libc::AT_FDCWD;
    // SAFETY: both paths end with NUL and outlive the call.
    check(unsafe { libc::renameat2(here, from.as_ptr(), here, to.as_ptr(), flags) }).map(drop)
}

fn list(path: &Path) -> io::Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(path)? {
        let name = entry?.file_name().into_string().expect("only plain names are made");
        assert!(names.insert(name.clone()), "{name} is listed twice");
    }
    Ok(names)
}

/// A shared mapping of the beginning of a file.
struct Map {
    start: *mut libc::c_void,
    len: usize,
}

impl Map {
    fn new(file: &File, len: u64, write: bool) -> io::Result<Map> {
        let len = len as usize;
        let access = if write { libc::PROT_READ | libc::PROT_WRITE } else { libc::PROT_READ };
        // SAFETY: a new mapping at an address that the kernel chooses touches no memory of ours.
        let start = unsafe {
            libc::mmap(std::ptr::null_mut(), len, access, libc::MAP_SHARED, file.as_raw_fd(), 0)
        };
        if start == libc::MAP_FAILED {
            Err(io::Error::last_os_error())
        } else {
            Ok(Map { start, len })
        }
    }

    /// Touching a page that cannot be read is SIGBUS, which ends the test.
    fn bytes(&self) -> &[u8] {
        // SAFETY: the mapping is readable, `len` bytes long and lives as long as `self`; nobody
        // changes the file meanwhile.
        unsafe { std::slice::from_raw_parts(self.start.cast(), self.len) }
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`; only writers of writable mappings call this, and `self` is borrowed
        // alone.
        unsafe { std::slice::from_raw_parts_mut(self.start.cast(), self.len) }
    }

    fn sync(&self) -> io::Result<()> {
        // SAFETY: the range is the whole of this mapping.
        check(unsafe { libc::msync(self.start, self.len, libc::MS_SYNC) }).map(drop)
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: the range is the whole of this mapping, and no slice of it outlives it.
        unsafe { libc::munmap(self.start, self.len) };
    }
}
