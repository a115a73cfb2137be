//! A complete store in memory: the reference that other implementations are compared with, and the
//! inner store of tests above the port. It keeps the contract strictly: an update that is not
//! aligned, too long or outside the capacity is refused, and two overlapping updates in flight panic.

mod snapshots;

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use parking_lot::Mutex;

use super::{
    Access, Blob, BlobMut, BoxFuture, Capabilities, ChangePage, CopySource, Cursor, Error,
    ErrorKind, Extents, Kind, ListEntry, ListPage, Moved, Opened, Outcome, RemotePath, Replace,
    Result, Retry, Sink, Stat, Store, Version, WriteModel,
};

/// Unit of storage, in bytes: a sector, so that clearing one gives it back.
const SECTOR: u64 = 512;
/// Longest single update, in bytes; that of page blobs, so that callers learn to split.
const MAX_UPDATE: u64 = 4 << 20;
/// Longest read that is said to cost one request, in bytes.
const MAX_READ: u64 = 4 << 20;
/// Every so many reads, bytes are given wrong at first, so that nobody uses them unconfirmed.
const DAMAGED: u64 = 3;
/// Longest blob, in bytes.
const MAX_LEN: u64 = 8 << 40;
/// Reads give pieces of this many bytes: an odd number, so that callers put them together.
const PIECE: usize = 3001;
/// Extents in one answer: so few that asking on is needed.
const MOST_EXTENTS: usize = 3;
/// Entries of one listing page: small, so that tests meet page borders.
const LIST_PAGE: usize = 3;

/// The store. Clones share their contents.
#[derive(Clone, Default)]
pub struct MemoryStore {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    names: Mutex<BTreeMap<String, Node>>,
    versions: AtomicU64,
    latency: Mutex<Duration>,
    failure: Mutex<Option<(ErrorKind, Outcome)>>,
    requests: AtomicU64,
}

#[derive(Clone)]
enum Node {
    Directory,
    File(Arc<Mutex<Content>>),
}

struct Content {
    len: u64,
    capacity: u64,
    version: u64,
    modified: SystemTime,
    sectors: BTreeMap<u64, [u8; SECTOR as usize]>,
    in_flight: Vec<Range<u64>>,
}

impl MemoryStore {
    /// An empty store.
    pub fn new() -> MemoryStore {
        MemoryStore::default()
    }

    /// Makes every later call take this long before it is applied; reads and updates as long again after
    /// it.
    pub fn set_latency(&self, latency: Duration) {
        *self.shared.latency.lock() = latency;
    }

    /// Makes every later call fail so, until it is told otherwise. Nothing of it is applied.
    pub fn set_failure(&self, failure: Option<(ErrorKind, Outcome)>) {
        *self.shared.failure.lock() = failure;
    }

    /// Reads and updates so far; other calls are not counted.
    pub fn requests(&self) -> u64 {
        self.shared.requests.load(Ordering::Relaxed)
    }

    /// Replaces the content of a blob as somebody else would, giving it a new version. Sectors of zeros are
    /// holes.
    pub fn put(&self, path: &str, bytes: &[u8]) {
        let content = Content {
            len: bytes.len() as u64,
            capacity: (bytes.len() as u64).next_multiple_of(SECTOR),
            version: self.shared.next_version(),
            modified: SystemTime::now(),
            sectors: BTreeMap::new(),
            in_flight: Vec::new(),
        };
        let mut names = self.shared.names.lock();
        let content = match names.get(path) {
            Some(Node::File(old)) => {
                *old.lock() = content;
                Arc::clone(old)
            }
            _ => {
                let new = Arc::new(Mutex::new(content));
                names.insert(path.to_owned(), Node::File(Arc::clone(&new)));
                new
            }
        };
        let mut content = content.lock();
        content.store(0, bytes);
        content.sectors.retain(|_, sector| sector.iter().any(|byte| *byte != 0));
    }

    /// Takes the time of a call; fails if calls are to fail.
    async fn pause(&self, op: &'static str, path: &RemotePath) -> Result<()> {
        let latency = *self.shared.latency.lock();
        if !latency.is_zero() {
            tokio::time::sleep(latency).await;
        }
        match *self.shared.failure.lock() {
            None => Ok(()),
            Some((kind, outcome)) => Err(Error::new(kind, op, path, "as the test wants it")
                .with_retry(Retry::Temporary)
                .with_outcome(outcome)),
        }
    }

    /// The time that the answer to a read or an update takes, after it was applied.
    async fn way_back(&self) {
        let latency = *self.shared.latency.lock();
        if !latency.is_zero() {
            tokio::time::sleep(latency).await;
        }
    }

    fn blob(&self, path: &RemotePath, content: Arc<Mutex<Content>>, update: bool) -> MemoryBlob {
        let (version, len) = {
            let content = content.lock();
            (content.version, content.len)
        };
        MemoryBlob {
            store: self.clone(),
            path: path.clone(),
            content,
            version,
            len,
            update,
            gate: Arc::default(),
        }
    }
}

impl Shared {
    fn next_version(&self) -> u64 {
        self.versions.fetch_add(1, Ordering::Relaxed) + 1
    }

    fn node(&self, path: &RemotePath) -> Option<Node> {
        let names = self.names.lock();
        let prefix = format!("{path}/");
        if path.is_root()
            || names.range(prefix.clone()..).next().is_some_and(|(k, _)| k.starts_with(&prefix))
        {
            return Some(Node::Directory);
        }
        names.get(path.as_str()).cloned()
    }
}

impl Content {
    fn store(&mut self, at: u64, bytes: &[u8]) {
        for (index, chunk) in bytes.chunks(SECTOR as usize).enumerate() {
            let sector = self.sectors.entry(at / SECTOR + index as u64).or_insert([0; 512]);
            sector[..chunk.len()].copy_from_slice(chunk);
        }
    }

    fn load(&self, range: Range<u64>) -> Vec<u8> {
        let mut bytes = Vec::with_capacity((range.end - range.start) as usize);
        let mut at = range.start;
        while at < range.end {
            let skip = (at % SECTOR) as usize;
            let take = (SECTOR as usize - skip).min((range.end - at) as usize);
            let sector = self.sectors.get(&(at / SECTOR)).copied().unwrap_or([0; SECTOR as usize]);
            bytes.extend_from_slice(&sector[skip..skip + take]);
            at += take as u64;
        }
        bytes
    }

    fn drop_from(&mut self, range: Range<u64>) {
        let first = range.start / SECTOR;
        let last = range.end.div_ceil(SECTOR);
        let doomed: Vec<u64> = self.sectors.range(first..last).map(|(&at, _)| at).collect();
        for at in doomed {
            self.sectors.remove(&at);
        }
    }

    fn stat(&self) -> Stat {
        Stat {
            kind: Kind::File,
            len: self.len,
            allocated: Some(self.sectors.len() as u64 * SECTOR),
            modified: Some(self.modified),
            version: Some(version(self.version)),
            read_only: None,
            attributes: Vec::new(),
        }
    }
}

fn give(sink: &mut dyn Sink, bytes: &[u8]) {
    bytes.chunks(PIECE).for_each(|piece| sink.put(piece));
}

fn version(number: u64) -> Version {
    Version(Arc::from(number.to_string()))
}

fn fail<T>(kind: ErrorKind, op: &'static str, path: &RemotePath) -> Result<T> {
    Err(Error::new(kind, op, path, format!("{kind:?}")))
}

impl Store for MemoryStore {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            write: WriteModel::InPlace { align: SECTOR, max: MAX_UPDATE },
            immutable: false,
            max_len: MAX_LEN,
            max_read: MAX_READ,
            snapshots: true,
        }
    }

    fn stat<'a>(&'a self, path: &'a RemotePath) -> BoxFuture<'a, Result<Stat>> {
        Box::pin(async move {
            self.pause("stat", path).await?;
            match self.shared.node(path) {
                None => fail(ErrorKind::NotFound, "stat", path),
                Some(Node::Directory) => Ok(Stat::directory()),
                Some(Node::File(content)) => Ok(snapshots::stat(path, &content.lock())),
            }
        })
    }

    fn list<'a>(
        &'a self,
        dir: &'a RemotePath,
        cursor: Option<Cursor>,
    ) -> BoxFuture<'a, Result<ListPage>> {
        Box::pin(async move {
            self.pause("list", dir).await?;
            let prefix = if dir.is_root() { String::new() } else { format!("{dir}/") };
            let mut entries: BTreeMap<String, Stat> = BTreeMap::new();
            for (name, node) in self.shared.names.lock().range(prefix.clone()..) {
                let Some(rest) = name.strip_prefix(&prefix) else {
                    break;
                };
                let (first, stat) = match (rest.split_once('/'), node) {
                    (Some((first, _)), _) => (first, Stat::directory()),
                    (None, Node::Directory) => (rest, Stat::directory()),
                    (None, Node::File(content)) => (rest, snapshots::stat(dir, &content.lock())),
                };
                if dir.is_root() && first == snapshots::DIR {
                    continue;
                }
                if !entries.contains_key(first) || stat.kind == Kind::Directory {
                    entries.insert(first.to_owned(), stat);
                }
            }
            let after = cursor.map(|cursor| cursor.0.to_string()).unwrap_or_default();
            let mut rest = entries
                .into_iter()
                .filter(|(name, _)| *name > after)
                .map(|(name, stat)| ListEntry { name, stat });
            let entries: Vec<ListEntry> = rest.by_ref().take(LIST_PAGE).collect();
            let more = rest.next().is_some();
            let next = entries.last().filter(|_| more).map(|last| Cursor(Arc::from(&*last.name)));
            Ok(ListPage { entries, next })
        })
    }

    fn open<'a>(&'a self, path: &'a RemotePath, access: Access) -> BoxFuture<'a, Result<Opened>> {
        Box::pin(async move {
            self.pause("open", path).await?;
            match self.shared.node(path) {
                None => fail(ErrorKind::NotFound, "open", path),
                Some(Node::Directory) => fail(ErrorKind::IsDirectory, "open", path),
                Some(Node::File(content)) => Ok(match access {
                    Access::Read => Opened::Read(Arc::new(self.blob(path, content, false))),
                    Access::Update if snapshots::holds(path) => {
                        return fail(ErrorKind::ReadOnly, "open", path);
                    }
                    Access::Update => Opened::Update(Arc::new(self.blob(path, content, true))),
                }),
            }
        })
    }

    fn create<'a>(
        &'a self,
        path: &'a RemotePath,
        replace: Replace,
    ) -> BoxFuture<'a, Result<Arc<dyn BlobMut>>> {
        Box::pin(async move {
            self.pause("create", path).await?;
            snapshots::refuse("create", path)?;
            match self.shared.node(path) {
                Some(Node::Directory) => return fail(ErrorKind::IsDirectory, "create", path),
                Some(Node::File(_)) if replace == Replace::Refused => {
                    return fail(ErrorKind::AlreadyExists, "create", path);
                }
                _ => self.put(path.as_str(), &[]),
            }
            match self.shared.node(path) {
                Some(Node::File(content)) => {
                    Ok(Arc::new(self.blob(path, content, true)) as Arc<dyn BlobMut>)
                }
                _ => fail(ErrorKind::NotFound, "create", path),
            }
        })
    }

    fn remove<'a>(
        &'a self,
        path: &'a RemotePath,
        expected: Option<&'a Version>,
    ) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            self.pause("remove", path).await?;
            match self.shared.node(path) {
                None => fail(ErrorKind::NotFound, "remove", path),
                Some(Node::Directory) => fail(ErrorKind::IsDirectory, "remove", path),
                Some(Node::File(content)) => {
                    // Names before contents, as everywhere: so nobody waits for each other.
                    let mut names = self.shared.names.lock();
                    let mut content = content.lock();
                    if expected.is_some_and(|expected| *expected != version(content.version)) {
                        return fail(ErrorKind::Stale, "remove", path);
                    }
                    if snapshots::exist(&names, path) {
                        return fail(ErrorKind::Busy, "remove", path);
                    }
                    content.version = 0;
                    names.remove(path.as_str());
                    Ok(())
                }
            }
        })
    }

    fn rename<'a>(
        &'a self,
        from: &'a RemotePath,
        to: &'a RemotePath,
        replace: Replace,
    ) -> BoxFuture<'a, Result<Moved>> {
        Box::pin(async move {
            self.pause("rename", from).await?;
            snapshots::refuse("rename", from)?;
            snapshots::refuse("rename", to)?;
            if snapshots::exist(&self.shared.names.lock(), from) {
                return fail(ErrorKind::Busy, "rename", from);
            }
            let content = match self.shared.node(from) {
                None => return fail(ErrorKind::NotFound, "rename", from),
                Some(Node::Directory) => return fail(ErrorKind::IsDirectory, "rename", from),
                Some(Node::File(content)) => content,
            };
            match self.shared.node(to) {
                Some(Node::Directory) => return fail(ErrorKind::IsDirectory, "rename", to),
                Some(Node::File(_)) if replace == Replace::Refused => {
                    return fail(ErrorKind::AlreadyExists, "rename", to);
                }
                _ => {}
            }
            let mut names = self.shared.names.lock();
            let (copy, moved) = {
                let mut old = content.lock();
                let copy = Content {
                    len: old.len,
                    capacity: old.capacity,
                    version: self.shared.next_version(),
                    modified: SystemTime::now(),
                    sectors: old.sectors.clone(),
                    in_flight: Vec::new(),
                };
                let moved = Moved { from: version(old.version), to: version(copy.version) };
                old.version = 0;
                (copy, moved)
            };
            names.remove(from.as_str());
            match names.get(to.as_str()) {
                // Writers know a blob by its name: a late one would write into what has it now.
                Some(Node::File(replaced)) => *replaced.lock() = copy,
                _ => {
                    let copy = Node::File(Arc::new(Mutex::new(copy)));
                    names.insert(to.as_str().to_owned(), copy);
                }
            }
            Ok(moved)
        })
    }

    fn make_dir<'a>(&'a self, path: &'a RemotePath) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            self.pause("make_dir", path).await?;
            snapshots::refuse("make_dir", path)?;
            if self.shared.node(path).is_some() {
                return fail(ErrorKind::AlreadyExists, "make_dir", path);
            }
            self.shared.names.lock().insert(path.as_str().to_owned(), Node::Directory);
            Ok(())
        })
    }

    fn remove_dir<'a>(&'a self, path: &'a RemotePath) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            self.pause("remove_dir", path).await?;
            if snapshots::holds(path) {
                return self.remove_snapshots(path);
            }
            match self.shared.node(path) {
                None => fail(ErrorKind::NotFound, "remove_dir", path),
                Some(Node::File(_)) => fail(ErrorKind::NotDirectory, "remove_dir", path),
                Some(Node::Directory) => {
                    let mut names = self.shared.names.lock();
                    let prefix = format!("{path}/");
                    let below = names.range(prefix.clone()..).next();
                    if below.is_some_and(|(name, _)| name.starts_with(&prefix)) {
                        return fail(ErrorKind::NotEmpty, "remove_dir", path);
                    }
                    names.remove(path.as_str());
                    Ok(())
                }
            }
        })
    }

    fn snapshot<'a>(&'a self, path: &'a RemotePath) -> BoxFuture<'a, Result<RemotePath>> {
        Box::pin(async move {
            self.pause("snapshot", path).await?;
            self.take_snapshot(path)
        })
    }

    fn changes<'a>(
        &'a self,
        from: &'a RemotePath,
        to: &'a RemotePath,
        cursor: Option<Cursor>,
    ) -> BoxFuture<'a, Result<ChangePage>> {
        Box::pin(async move {
            self.pause("changes", to).await?;
            self.compare(from, to, cursor)
        })
    }
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryStore").field("names", &self.shared.names.lock().len()).finish()
    }
}

/// An opened blob of a [`MemoryStore`].
struct MemoryBlob {
    store: MemoryStore,
    path: RemotePath,
    content: Arc<Mutex<Content>>,
    /// The version at opening; reads of a read-only blob are pinned to it.
    version: u64,
    /// The length at opening.
    len: u64,
    update: bool,
    /// Updates share it; what must not meet an update in flight takes it alone.
    gate: Arc<tokio::sync::RwLock<()>>,
}

/// What copies are made from: a version, or the newest if it is updated here.
struct MemorySource {
    content: Arc<Mutex<Content>>,
    version: Option<u64>,
}

impl MemoryBlob {
    /// Applies an update to `range` after the store's latency, refusing what the contract forbids.
    async fn update(
        &self,
        op: &'static str,
        range: Range<u64>,
        apply: impl FnOnce(&mut Content) + Send,
    ) -> Result<()> {
        if !range.start.is_multiple_of(SECTOR)
            || !range.end.is_multiple_of(SECTOR)
            || range.is_empty()
        {
            return fail(ErrorKind::InvalidRange, op, &self.path);
        }
        let _shared = self.gate.read().await;
        self.store.shared.requests.fetch_add(1, Ordering::Relaxed);
        {
            let mut content = self.content.lock();
            if range.end > content.capacity {
                return fail(ErrorKind::InvalidRange, op, &self.path);
            }
            let clash = |other: &Range<u64>| other.start < range.end && range.start < other.end;
            assert!(!content.in_flight.iter().any(clash), "overlapping updates in flight");
            content.in_flight.push(range.clone());
        }
        let passed = self.store.pause(op, &self.path).await;
        let applied = passed.and_then(|()| {
            let mut content = self.content.lock();
            if content.version == 0 {
                return fail(ErrorKind::NotFound, op, &self.path);
            }
            apply(&mut content);
            content.version = self.store.shared.next_version();
            content.modified = SystemTime::now();
            Ok(())
        });
        self.store.way_back().await;
        self.content.lock().in_flight.retain(|other| *other != range);
        applied
    }
}

impl Blob for MemoryBlob {
    fn version(&self) -> Version {
        version(if self.update { self.content.lock().version } else { self.version })
    }

    fn continues(&self, found: &Version) -> bool {
        *found == self.version()
    }

    fn len(&self) -> u64 {
        if self.update { self.content.lock().len } else { self.len }
    }

    fn read<'a>(&'a self, range: Range<u64>, sink: &'a mut dyn Sink) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let count = self.store.shared.requests.fetch_add(1, Ordering::Relaxed);
            self.store.pause("read", &self.path).await?;
            let bytes = {
                let content = self.content.lock();
                if content.version == 0 || (!self.update && content.version != self.version) {
                    return fail(ErrorKind::Stale, "read", &self.path);
                }
                if range.end > content.capacity {
                    return fail(ErrorKind::InvalidRange, "read", &self.path);
                }
                content.load(range)
            };
            self.store.way_back().await;
            let (before, after) = bytes.split_at(bytes.len() / 3);
            give(sink, before);
            sink.confirm();
            if count.is_multiple_of(DAMAGED) {
                let wrong: Vec<u8> = after.iter().map(|byte| !byte).collect();
                give(sink, &wrong);
                sink.retract();
            }
            give(sink, after);
            sink.confirm();
            Ok(())
        })
    }

    fn copy_source(&self) -> BoxFuture<'_, Result<Option<CopySource>>> {
        let version = (!self.update).then_some(self.version);
        let source = MemorySource { content: Arc::clone(&self.content), version };
        Box::pin(async { Ok(Some(CopySource(Arc::new(source)))) })
    }

    fn extents(&self, range: Range<u64>) -> BoxFuture<'_, Result<Extents>> {
        Box::pin(async move {
            self.store.pause("extents", &self.path).await?;
            let content = self.content.lock();
            let mut more = false;
            let mut extents: Vec<Range<u64>> = Vec::new();
            for &sector in content
                .sectors
                .range(range.start / SECTOR..range.end.div_ceil(SECTOR))
                .map(|(at, _)| at)
            {
                let (start, end) = (sector * SECTOR, (sector + 1) * SECTOR);
                let full = extents.len() == MOST_EXTENTS;
                match extents.last_mut() {
                    Some(last) if last.end == start => last.end = end,
                    _ if full => {
                        more = true;
                        break;
                    }
                    _ => extents.push(start..end),
                }
            }
            for extent in &mut extents {
                *extent = extent.start.max(range.start)..extent.end.min(range.end);
            }
            let end = extents.last().filter(|_| more).map_or(range.end, |last| last.end);
            Ok(Extents { data: extents, end })
        })
    }
}

impl BlobMut for MemoryBlob {
    fn capacity(&self) -> u64 {
        self.content.lock().capacity
    }

    fn write_at(&self, at: u64, pieces: Vec<Bytes>) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            let total: u64 = pieces.iter().map(|piece| piece.len() as u64).sum();
            if total > MAX_UPDATE {
                return fail(ErrorKind::TooLarge, "write_at", &self.path);
            }
            self.update("write_at", at..at + total, |content| {
                content.store(at, &pieces.concat());
            })
            .await
        })
    }

    fn copy_from<'a>(
        &'a self,
        at: u64,
        source: &'a CopySource,
        range: Range<u64>,
    ) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let Some(source) = source.0.downcast_ref::<MemorySource>() else {
                return fail(ErrorKind::Unsupported, "copy_from", &self.path);
            };
            let bytes = {
                let content = source.content.lock();
                if source.version.is_some_and(|version| version != content.version) {
                    return fail(ErrorKind::Unsupported, "copy_from", &self.path);
                }
                content.load(range.clone())
            };
            let target = at..at + (range.end - range.start);
            self.update("copy_from", target, |content| content.store(at, &bytes)).await
        })
    }

    fn clear(&self, range: Range<u64>) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            self.update("clear", range.clone(), |content| content.drop_from(range)).await
        })
    }

    fn reserve(&self, capacity: u64) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            if capacity > MAX_LEN {
                return fail(ErrorKind::TooLarge, "reserve", &self.path);
            }
            let _alone = self.gate.write().await;
            self.store.pause("reserve", &self.path).await?;
            let mut content = self.content.lock();
            content.capacity = content.capacity.max(capacity.next_multiple_of(SECTOR));
            content.version = self.store.shared.next_version();
            Ok(())
        })
    }

    fn set_len(&self, len: u64, keep_reserve: bool) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            if len > MAX_LEN {
                return fail(ErrorKind::TooLarge, "set_len", &self.path);
            }
            let _alone = self.gate.write().await;
            self.store.pause("set_len", &self.path).await?;
            let mut content = self.content.lock();
            let needed = len.next_multiple_of(SECTOR);
            let capacity = if keep_reserve { content.capacity.max(needed) } else { needed };
            content.drop_from(capacity..u64::MAX);
            content.capacity = capacity;
            content.len = len;
            content.version = self.store.shared.next_version();
            content.modified = SystemTime::now();
            Ok(())
        })
    }

    fn close(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async { Ok(()) })
    }
}

impl fmt::Debug for MemoryBlob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryBlob").field("path", &self.path).finish_non_exhaustive()
    }
}
