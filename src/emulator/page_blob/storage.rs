//! Accounts, containers, blobs and snapshots, in memory and in a directory.
//!
//! ```text
//! DATA/lock                               held while a server uses the directory
//! DATA/ACCOUNT/CONTAINER/container.json   the container
//! DATA/ACCOUNT/CONTAINER/KEY.json         a blob or snapshot; KEY is a hash of its name
//! DATA/ACCOUNT/CONTAINER/KEY.N.data       its bytes, sparse
//! DATA/ACCOUNT/CONTAINER/KEY.N.pages      log of which pages hold data
//! ```
//!
//! A change of size, sequence number, lease, metadata or properties is in its sidecar before it is
//! answered. Page writes touch only the data file and, where they allocate, the page log; the ETag
//! and time they lead to are written at shutdown, and made anew after a kill. There is no fsync: a
//! power failure may lose what a killed process does not.
//!
//! Locks are taken in this order: map of containers, container, map of blobs, blob. A blob's lock is
//! held while a page write is applied, so that conditions and effect are one step; the kernel orders
//! writes to one file in the same way. Knows nothing of requests.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::RwLock;
use sha2::{Digest, Sha256};

use super::buffer::Pool;
use super::clock::Clock;
use super::data_file::{OpenFiles, Staged};
use super::lease::Lease;
use super::record::{self, ContainerInfo, Properties};
use super::version::Version;

/// One block that waits for its list.
#[derive(Debug)]
pub(super) struct Uncommitted {
    pub(super) staged: Staged,
}

/// What one name stands for.
#[derive(Debug, Default)]
pub(super) struct EntryState {
    pub(super) live: Option<Version>,
    pub(super) snapshots: BTreeMap<String, Version>,
    /// What the blob was before it was replaced or deleted, where that is kept.
    pub(super) versions: BTreeMap<String, Version>,
    /// The blob, if it was deleted softly.
    pub(super) deleted: Option<Version>,
    pub(super) deleted_snapshots: BTreeMap<String, Version>,
    pub(super) uncommitted: BTreeMap<String, Uncommitted>,
    /// No longer in the container: look the name up again.
    detached: bool,
}

/// One name in a container.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) name: String,
    pub(super) state: RwLock<EntryState>,
}

/// A container.
#[derive(Debug)]
pub(super) struct Container {
    dir: PathBuf,
    pub(super) info: RwLock<ContainerInfo>,
    pub(super) blobs: RwLock<BTreeMap<String, Arc<Entry>>>,
}

/// The containers of one account.
#[derive(Debug, Default)]
pub(super) struct Account {
    pub(super) containers: RwLock<BTreeMap<String, Arc<Container>>>,
}

/// All that the server keeps.
#[derive(Debug)]
pub(super) struct Storage {
    dir: PathBuf,
    pub(super) clock: Arc<Clock>,
    pub(super) pool: Arc<Pool>,
    open_files: Arc<OpenFiles>,
    pub(super) accounts: HashMap<String, Account>,
    /// Blobs that are replaced or deleted are kept as versions.
    pub(super) versioning: bool,
    serial: AtomicU64,
    /// Kept locked for as long as the directory is used.
    lock: File,
}

impl Storage {
    /// Opens a directory, or begins one.
    pub(super) fn open<'a>(
        dir: &Path,
        accounts: impl Iterator<Item = &'a str>,
        clock: Arc<Clock>,
        versioning: bool,
    ) -> io::Result<Self> {
        std::fs::create_dir_all(dir)?;
        let lock = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(dir.join("lock"))?;
        lock.try_lock().map_err(|error| {
            let text = format!("{} is used by another emulator: {error}", dir.display());
            io::Error::new(io::ErrorKind::ResourceBusy, text)
        })?;
        let serial = AtomicU64::new(clock.tick());
        let mut storage = Self {
            dir: dir.to_owned(),
            clock,
            pool: Arc::default(),
            open_files: Arc::default(),
            accounts: HashMap::new(),
            versioning,
            serial,
            lock,
        };
        for name in accounts {
            let account = storage.load_account(&dir.join(name))?;
            storage.accounts.insert(name.to_owned(), account);
        }
        Ok(storage)
    }

    /// Writes what page writes left unwritten.
    fn flush(&self) {
        for account in self.accounts.values() {
            for container in account.containers.read().values() {
                let entries: Vec<_> = container.blobs.read().values().map(Arc::clone).collect();
                for entry in entries {
                    let mut state = entry.state.write();
                    if let Some(live) = &mut state.live
                        && live.stale
                        && let Err(error) = container.save(live)
                    {
                        log::error!(target: "emulator", "cannot write a sidecar: {error}");
                    }
                }
            }
        }
    }

    /// Writes what is left to write and lets another server use the directory.
    pub(super) fn close(&self) {
        self.flush();
        if let Err(error) = self.lock.unlock() {
            log::warn!(target: "emulator", "cannot unlock the data directory: {error}");
        }
    }

    /// A number that was never handed out before.
    pub(super) fn next_serial(&self) -> u64 {
        self.serial.fetch_add(1, Ordering::Relaxed)
    }

    /// A new ETag, without quotes.
    pub(super) fn new_etag(&self) -> String {
        format!("0x{:X}", self.clock.tick())
    }

    pub(super) fn create_container(
        &self,
        account: &str,
        info: ContainerInfo,
    ) -> io::Result<Arc<Container>> {
        let dir = self.dir.join(account).join(&info.name);
        std::fs::create_dir_all(&dir)?;
        record::save(&dir.join("container.json"), &info)?;
        Ok(Arc::new(Container { dir, info: RwLock::new(info), blobs: RwLock::default() }))
    }

    /// Removes a container's directory, once nothing leads to it any more.
    pub(super) fn remove_container(&self, container: &Container) -> io::Result<()> {
        let trash = self.dir.join(format!("trash-{:x}", self.next_serial()));
        std::fs::rename(&container.dir, &trash)?;
        std::fs::remove_dir_all(&trash)
    }

    /// A blob's first version, or the one that replaces another, without content.
    pub(super) fn new_version(&self, container: &Container, mut props: Properties) -> Version {
        props.incarnation = self.next_serial();
        props.data = format!("{}.{:x}", key(&props.name, props.older()), props.incarnation);
        self.version(&container.dir, props)
    }

    /// A file in which a body of this container can be collected.
    pub(super) fn stage(&self, container: &Container) -> io::Result<Staged> {
        Staged::create(container.dir.join(format!("staged-{:x}", self.next_serial())))
    }

    /// Gives a version its new ETag and time, after a change.
    pub(super) fn touch(&self, version: &mut Version) {
        version.props.etag = self.new_etag();
        version.props.modified_ms = self.clock.now_ms();
        version.stale = true;
    }

    fn version(&self, dir: &Path, props: Properties) -> Version {
        Version::new(dir, props, &self.open_files)
    }

    fn load_account(&self, dir: &Path) -> io::Result<Account> {
        let account = Account::default();
        std::fs::create_dir_all(dir)?;
        for item in std::fs::read_dir(dir)? {
            let dir = item?.path();
            let record = dir.join("container.json");
            if !record.exists() {
                // Killed before it was complete: nobody was told of it.
                let _ = std::fs::remove_dir_all(&dir);
                continue;
            }
            let info: ContainerInfo = record::load(&record)?;
            let name = info.name.clone();
            let container = self.load_container(dir, info)?;
            account.containers.write().insert(name, Arc::new(container));
        }
        Ok(account)
    }

    fn load_container(&self, dir: PathBuf, info: ContainerInfo) -> io::Result<Container> {
        let mut blobs: BTreeMap<String, EntryState> = BTreeMap::new();
        let mut files = Vec::new();
        let mut used = HashSet::new();
        for item in std::fs::read_dir(&dir)? {
            let path = item?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if name == "container.json" {
                continue;
            }
            if !name.ends_with(".json") {
                files.push(path);
                continue;
            }
            let props: Properties = record::load(&path)?;
            used.insert(props.data.clone());
            let version = self.load_version(&dir, &path, props)?;
            let state = blobs.entry(version.props.name.clone()).or_default();
            match (version.props.snapshot.clone(), version.props.deleted_ms) {
                _ if version.props.previous => {
                    let id = version.props.version.clone().unwrap_or_default();
                    state.versions.insert(id, version);
                }
                (None, None) => state.live = Some(version),
                (None, Some(_)) => state.deleted = Some(version),
                (Some(time), None) => drop(state.snapshots.insert(time, version)),
                (Some(time), Some(_)) => drop(state.deleted_snapshots.insert(time, version)),
            }
        }
        // What no sidecar names is left over from something that was never answered.
        for path in files {
            let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            let extension = path.extension().unwrap_or_default();
            let known = extension == "data" || extension == "pages";
            if !(known && used.contains(&stem)) {
                std::fs::remove_file(&path)?;
            }
        }
        let entry = |(name, state): (String, EntryState)| {
            (name.clone(), Arc::new(Entry { name, state: RwLock::new(state) }))
        };
        let blobs = blobs.into_iter().map(entry).collect();
        Ok(Container { dir, info: RwLock::new(info), blobs: RwLock::new(blobs) })
    }

    fn load_version(&self, dir: &Path, sidecar: &Path, props: Properties) -> io::Result<Version> {
        let mut version = self.version(dir, props);
        let changed = |path: &Path| std::fs::metadata(path).and_then(|data| data.modified()).ok();
        let written = changed(version.data.path()).max(changed(version.log_path()));
        version.replay_log()?;
        // A kill in the middle of a resize leaves bytes beyond the size that was written first.
        let size = version.props.size;
        if std::fs::metadata(version.data.path()).is_ok_and(|data| data.len() > size) {
            version.data.shrink(size)?;
        }
        version.forget_beyond(size)?;
        self.clock.passed(etag_number(&version.props.etag));
        if written > changed(sidecar) && version.props.older().is_none() {
            self.touch(&mut version);
        }
        Ok(version)
    }
}

/// The number inside an ETag.
fn etag_number(etag: &str) -> u64 {
    u64::from_str_radix(etag.trim_start_matches("0x"), 16).unwrap_or(0)
}

/// Name of a sidecar: names are longer than file names may be, and hold slashes.
fn key(name: &str, older: Option<&str>) -> String {
    let mut hash = Sha256::new();
    hash.update(name);
    hash.update([0]);
    hash.update(older.unwrap_or_default());
    hash.finalize()[..16].iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Container {
    pub(super) fn entry(&self, name: &str) -> Option<Arc<Entry>> {
        self.blobs.read().get(name).map(Arc::clone)
    }

    /// Runs `change` on what a name stands for, which may be nothing yet.
    pub(super) fn with_entry<T>(&self, name: &str, change: impl FnOnce(&mut EntryState) -> T) -> T {
        loop {
            let entry = self.entry(name).unwrap_or_else(|| {
                let fresh = || Entry { name: name.to_owned(), state: RwLock::default() };
                let mut blobs = self.blobs.write();
                Arc::clone(blobs.entry(name.to_owned()).or_insert_with(|| Arc::new(fresh())))
            });
            let mut state = entry.state.write();
            if state.detached {
                continue;
            }
            let done = change(&mut state);
            state.detached = state.is_empty();
            if state.detached {
                drop(state);
                self.forget(&entry);
            }
            return done;
        }
    }

    fn forget(&self, entry: &Arc<Entry>) {
        let mut blobs = self.blobs.write();
        if blobs.get(&entry.name).is_some_and(|found| Arc::ptr_eq(found, entry)) {
            blobs.remove(&entry.name);
        }
    }

    /// Writes a version's sidecar.
    pub(super) fn save(&self, version: &mut Version) -> io::Result<()> {
        let props = &version.props;
        let name = key(&props.name, props.older());
        record::save(&self.dir.join(name + ".json"), props)?;
        version.stale = false;
        Ok(())
    }

    /// Writes the container's own sidecar.
    pub(super) fn save_info(&self, info: &ContainerInfo) -> io::Result<()> {
        record::save(&self.dir.join("container.json"), info)
    }

    /// Removes a version's files, sidecar first.
    pub(super) fn remove(&self, version: &Version) -> io::Result<()> {
        self.remove_sidecar(version)?;
        version.remove_files();
        Ok(())
    }

    /// Removes a version's sidecar.
    pub(super) fn remove_sidecar(&self, version: &Version) -> io::Result<()> {
        let props = &version.props;
        let name = key(&props.name, props.older());
        std::fs::remove_file(self.dir.join(name + ".json"))
    }
}

impl EntryState {
    /// Keeps what was the blob as one of its versions. Its sidecar is another one's by now, or none's.
    pub(super) fn keep(&mut self, container: &Container, mut version: Version) -> io::Result<()> {
        version.props.previous = true;
        version.props.lease = Lease::default();
        container.save(&mut version)?;
        let id = version.props.version.clone().unwrap_or_default();
        self.versions.insert(id, version);
        Ok(())
    }

    fn is_empty(&self) -> bool {
        self.live.is_none()
            && self.snapshots.is_empty()
            && self.versions.is_empty()
            && self.uncommitted.is_empty()
            && self.deleted.is_none()
            && self.deleted_snapshots.is_empty()
    }
}
