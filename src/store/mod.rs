//! The port: what blobdir needs of a remote system, and nothing about how it is reached.
//!
//! A [`Store`] is a namespace of directories and blobs. Opening a blob gives a [`Blob`] (one version,
//! read-only) or a [`BlobMut`] (updated in place by its sole writer). Everything above this module
//! is written against these traits; every backend and [`memory`] implement them, and [`contract`]
//! tells whether they do so rightly.
//!
//! This module must not know HTTP, FUSE or any service.

pub mod contract;
mod digest;
mod error;
pub mod memory;
mod path;

use std::any::Any;
use std::borrow::Cow;
use std::fmt::Debug;
use std::future::Future;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;

pub use digest::{Algorithm, BadDigest, Digest, Hasher};
pub use error::{Error, ErrorKind, Outcome, Result, Retry};
pub use path::RemotePath;

/// A future that can be held in a trait object.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Names one version of one object. Opaque: only equality means anything (an ETag, a digest).
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Version(pub Arc<str>);

/// How blobs of a store are written. A value, so that strategy is data.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WriteModel {
    /// The store is read-only.
    None,
    /// Blobs are updated in place.
    InPlace {
        /// Every update starts and ends on a multiple of this many bytes.
        align: u64,
        /// The longest single update, in bytes.
        max: u64,
    },
}

/// What a store can do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Capabilities {
    /// How blobs are written.
    pub write: WriteModel,
    /// Blobs never change once they exist (digest-named content).
    pub immutable: bool,
    /// The longest blob, in bytes.
    pub max_len: u64,
    /// The longest read that costs one request, in bytes; longer ones are allowed.
    pub max_read: u64,
    /// [`Store::snapshot`] and [`Store::changes`] do something.
    pub snapshots: bool,
}

/// What a name stands for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A blob.
    File,
    /// A directory: a marker, a common prefix, or a container.
    Directory,
    /// A symbolic link; its length is that of its target.
    Symlink,
}

/// What is known of one name.
#[derive(Clone, PartialEq, Debug)]
pub struct Stat {
    /// File or directory.
    pub kind: Kind,
    /// Length in bytes as a reader sees it; 0 for a directory.
    pub len: u64,
    /// Bytes that take storage, where that is known without asking further.
    pub allocated: Option<u64>,
    /// Last change, where the service tells.
    pub modified: Option<SystemTime>,
    /// The version that the other fields describe; `None` for directories.
    pub version: Option<Version>,
    /// Why this blob cannot be written although its store can, in words for the log; `None` if it can.
    pub read_only: Option<&'static str>,
    /// Remote metadata by short name (`etag`, `blob_type`, …), shown as `user.blobdir.*`. Listings
    /// leave it empty.
    pub attributes: Vec<(Cow<'static, str>, String)>,
}

impl Stat {
    /// A directory about which nothing more is known.
    pub fn directory() -> Stat {
        Stat {
            kind: Kind::Directory,
            len: 0,
            allocated: None,
            modified: None,
            version: None,
            read_only: None,
            attributes: Vec::new(),
        }
    }
}

/// One name in a directory.
#[derive(Clone, PartialEq, Debug)]
pub struct ListEntry {
    /// The last component of its path: never empty, `.`, `..`, nor holding `/` or NUL.
    pub name: String,
    /// What a [`Store::stat`] would say, without `attributes`.
    pub stat: Stat,
}

/// One page of a directory listing.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct ListPage {
    /// Entries, each name once over all pages; may be empty though more pages follow.
    pub entries: Vec<ListEntry>,
    /// Give this to the next call; `None` after the last page.
    pub next: Option<Cursor>,
}

/// Where a listing goes on. Opaque; valid for the directory it came from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Cursor(pub Arc<str>);

/// What a blob is opened for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// Reads of one version.
    Read,
    /// Reads and updates in place.
    Update,
}

/// An opened blob.
#[derive(Clone, Debug)]
pub enum Opened {
    /// Opened for [`Access::Read`].
    Read(Arc<dyn Blob>),
    /// Opened for [`Access::Update`], or created.
    Update(Arc<dyn BlobMut>),
}

/// How a new name may meet an old one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Replace {
    /// An existing blob of that name is replaced.
    Allowed,
    /// An existing blob of that name is `AlreadyExists`, decided by the service itself.
    Refused,
}

/// A blob that was moved.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Moved {
    /// The version under the old name.
    pub from: Version,
    /// The version under the new name; its content is the same.
    pub to: Version,
}

/// A part of a blob that differs from an older snapshot of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Change {
    /// Which bytes, in whole sectors but for the end of the blob; never empty.
    pub range: Range<u64>,
    /// It reads as zeros and takes no storage any more; otherwise it was written, perhaps with the same
    /// bytes.
    pub cleared: bool,
}

/// Some of the changes between two versions of a blob.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ChangePage {
    /// In order of their ranges, which do not overlap, over all pages; may be empty though more follow.
    pub changes: Vec<Change>,
    /// Give this to the next call; `None` after the last page.
    pub next: Option<Cursor>,
}

/// A remote namespace. Calls may run concurrently and in any order.
///
/// Every call ends within the store's own deadline. Paths are relative to what was mounted; the
/// empty path is the root, which is a directory as long as the container exists.
pub trait Store: Send + Sync + Debug {
    /// What this store can do; constant for its lifetime.
    fn capabilities(&self) -> Capabilities;

    /// What `path` is. A directory wins over a blob of the same name.
    ///
    /// Errors: `NotFound`; `PermissionDenied`, `Unauthenticated`, `Unavailable`, `TimedOut`.
    fn stat<'a>(&'a self, path: &'a RemotePath) -> BoxFuture<'a, Result<Stat>>;

    /// One page of the entries of directory `dir`, from the beginning or where `cursor` says. A
    /// name stands once in the whole listing: of a blob and a directory of one name, the directory.
    /// Memory is bounded by the page. Listing a directory that does not exist gives no entries.
    fn list<'a>(
        &'a self,
        dir: &'a RemotePath,
        cursor: Option<Cursor>,
    ) -> BoxFuture<'a, Result<ListPage>>;

    /// Bytes that take storage of the blob that `stat` describes, in that version. `None` where that is too
    /// much to ask for: the blob changed, or is in too many pieces.
    fn allocated<'a>(
        &'a self,
        _path: &'a RemotePath,
        stat: &'a Stat,
    ) -> BoxFuture<'a, Result<Option<u64>>> {
        Box::pin(async move { Ok(stat.allocated) })
    }

    /// Where a symbolic link leads, as the kernel is told.
    ///
    /// Errors: `InvalidRange` if it is no link; as [`stat`](Store::stat).
    fn read_link<'a>(&'a self, path: &'a RemotePath) -> BoxFuture<'a, Result<String>> {
        let error = Error::new(ErrorKind::InvalidRange, "readlink", path, "it is no symbolic link");
        Box::pin(async move { Err(error) })
    }

    /// Opens an existing blob in its current version, which the service was asked for now.
    ///
    /// Errors: as [`stat`](Store::stat); `ReadOnly` if it cannot be updated; `IsDirectory`.
    fn open<'a>(&'a self, path: &'a RemotePath, access: Access) -> BoxFuture<'a, Result<Opened>>;

    /// Creates an empty blob, open for [`Access::Update`]. Replacing gives a new, empty version.
    ///
    /// Errors: `AlreadyExists` as `replace` says; `ReadOnly`, `BadName`.
    fn create<'a>(
        &'a self,
        path: &'a RemotePath,
        replace: Replace,
    ) -> BoxFuture<'a, Result<Arc<dyn BlobMut>>>;

    /// Removes a blob. If `version` is given, only in that version (`Stale` otherwise).
    fn remove<'a>(
        &'a self,
        path: &'a RemotePath,
        version: Option<&'a Version>,
    ) -> BoxFuture<'a, Result<()>>;

    /// Moves a blob, and tells which versions that was about. The source is removed only in the version
    /// that was copied, so that nothing written meanwhile is lost (`Stale`; both names exist then).
    ///
    /// Errors: `AlreadyExists` as `replace` says, `IsDirectory` for a directory at either name.
    fn rename<'a>(
        &'a self,
        from: &'a RemotePath,
        to: &'a RemotePath,
        replace: Replace,
    ) -> BoxFuture<'a, Result<Moved>>;

    /// Makes an empty directory. `AlreadyExists` if the name is taken.
    fn make_dir<'a>(&'a self, path: &'a RemotePath) -> BoxFuture<'a, Result<()>>;

    /// Removes an empty directory. `NotEmpty` if anything is in it, `NotDirectory` for a blob.
    fn remove_dir<'a>(&'a self, path: &'a RemotePath) -> BoxFuture<'a, Result<()>>;

    /// Keeps what the blob at `path` holds now, updates confirmed so far included, as a snapshot. Gives
    /// the path at which that can be read from now on. What is there never changes and cannot be updated;
    /// [`remove`](Store::remove) deletes the snapshot alone, and a blob that has snapshots is not
    /// removed (`Busy`). An answer that was lost may leave a snapshot of which nobody was told.
    ///
    /// Errors: `NotFound`, `IsDirectory`; `ReadOnly` for a path that is a snapshot; `Quota` and `Busy` where
    /// the service limits them; `Unsupported` by [`Capabilities::snapshots`].
    fn snapshot<'a>(&'a self, path: &'a RemotePath) -> BoxFuture<'a, Result<RemotePath>> {
        let error = Error::new(ErrorKind::Unsupported, "snapshot", path, NO_SNAPSHOTS);
        Box::pin(async move { Err(error) })
    }

    /// One page of what has changed from the snapshot at `from` to `to`, a later snapshot of the same blob
    /// or the blob as it is now; from the beginning or where `cursor` says. Bytes that both have and no
    /// change names are the same in both. Memory is bounded by the page.
    ///
    /// Errors: `NotFound`; `Unsupported` for two that cannot be compared, a blob that was replaced since
    /// among them; `InvalidRange` if `from` is the newer one; `Stale` if the blob is changed meanwhile.
    fn changes<'a>(
        &'a self,
        from: &'a RemotePath,
        to: &'a RemotePath,
        cursor: Option<Cursor>,
    ) -> BoxFuture<'a, Result<ChangePage>> {
        let _ = (to, cursor);
        let error = Error::new(ErrorKind::Unsupported, "compare", from, NO_SNAPSHOTS);
        Box::pin(async move { Err(error) })
    }

    /// Names that listings have met and cannot show, by why (`blobs with …`); each counts once.
    fn hidden(&self) -> Vec<(&'static str, u64)> {
        Vec::new()
    }

    /// Ends all updates: releases what is held for blobs that are still open, for a mount that ends.
    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {})
    }
}

/// What stores say that have none.
const NO_SNAPSHOTS: &str = "sources of this kind have no snapshots";

/// Where a part of a blob holds data.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Extents {
    /// What holds data, sorted and disjoint; everything else up to `end` reads as zeros.
    pub data: Vec<Range<u64>>,
    /// Where the answer ends; what follows was not looked at.
    pub end: u64,
}

impl Extents {
    /// All of `range` holds data.
    pub fn all(range: Range<u64>) -> Extents {
        let end = range.end;
        Extents { data: if range.is_empty() { Vec::new() } else { vec![range] }, end }
    }
}

/// All extents of a range, however many: for tests, and ranges that are known to be small.
pub async fn all_extents(blob: &dyn Blob, range: Range<u64>) -> Result<Vec<Range<u64>>> {
    let mut all: Vec<Range<u64>> = Vec::new();
    let mut at = range.start;
    while at < range.end {
        let answer = blob.extents(at..range.end).await?;
        debug_assert!(answer.end > at, "an answer reaches somewhere");
        at = answer.end;
        for part in answer.data {
            match all.last_mut() {
                Some(last) if last.end == part.start => last.end = part.end,
                _ => all.push(part),
            }
        }
    }
    Ok(all)
}

/// Takes the bytes of a read, in order. They may turn out to be damaged: only what was confirmed counts.
pub trait Sink: Send {
    /// The next bytes. Pieces are consecutive, never empty, and come from any buffer size.
    fn put(&mut self, piece: &[u8]);

    /// All bytes so far are right.
    fn confirm(&mut self);

    /// The bytes since the last confirmation are not: what comes next begins where they did.
    fn retract(&mut self);
}

/// One version of one object.
pub trait Blob: Send + Sync + Debug {
    /// The version that reads are pinned to. For a [`BlobMut`], the newest known one.
    fn version(&self) -> Version;

    /// Whether `found`, seen at this name just now, is the version of this blob, or one made by
    /// this blob's own updates alone. Caches of its content stay valid then.
    fn continues(&self, found: &Version) -> bool;

    /// Length in bytes as a reader sees it, at the time of opening or of the last
    /// [`BlobMut::set_len`].
    fn len(&self) -> u64;

    /// Whether there is nothing to read.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Gives `sink` exactly the bytes of `range`, which lies inside the blob (for a [`BlobMut`],
    /// inside [`capacity`](BlobMut::capacity)), and confirms all of them. A temporary failure in the
    /// middle goes on behind what was confirmed. On an error that is a prefix.
    ///
    /// Errors: `Stale` if the pinned version is gone; never bytes of two versions.
    fn read<'a>(&'a self, range: Range<u64>, sink: &'a mut dyn Sink) -> BoxFuture<'a, Result<()>>;

    /// Where `range` holds data, from its start on as far as one answer of the service reaches: at least
    /// one byte unless `range` is empty, so that asking on ends. Memory is bounded by the answer.
    fn extents(&self, range: Range<u64>) -> BoxFuture<'_, Result<Extents>>;

    /// This version as the source of [`BlobMut::copy_from`]; `None` if its service cannot copy from it.
    fn copy_source(&self) -> BoxFuture<'_, Result<Option<CopySource>>> {
        Box::pin(async { Ok(None) })
    }
}

/// A blob that the service is to copy from. Opaque: only blobs of the same store know what is in it.
#[derive(Clone)]
pub struct CopySource(pub Arc<dyn Any + Send + Sync>);

/// Shows nothing of it: it may hold what gives access.
impl std::fmt::Debug for CopySource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("CopySource")
    }
}

/// In-place update by one writer.
///
/// Updates may be in flight together and reach the service in any order, so **the caller never has
/// two that overlap in flight**. `reserve`, `set_len` and `close` wait for updates in flight
/// and hold later ones back, so they may be called at any time.
///
/// An update that fails says through [`Error::outcome`] whether it may be sent again. With `NotApplied`
/// it may: it was not applied, or it can be applied only before anything that is sent later, which is
/// the same to whoever still has the bytes. With `Unknown` it may be applied after what is sent later, so
/// that nothing can safely be sent any more.
pub trait BlobMut: Blob {
    /// Bytes that can be written without [`reserve`](BlobMut::reserve); a multiple of the write alignment,
    /// at least [`len`](Blob::len). Bytes between the two read as zeros or as what was written there.
    fn capacity(&self) -> u64;

    /// Writes the pieces one after another from `at`. Start and total length are aligned and the
    /// total is at most the store's `max`; all of it lies inside the capacity.
    fn write_at(&self, at: u64, pieces: Vec<Bytes>) -> BoxFuture<'_, Result<()>>;

    /// Makes an aligned range inside the capacity read as zeros and gives its storage back.
    fn clear(&self, range: Range<u64>) -> BoxFuture<'_, Result<()>>;

    /// Writes the bytes of `range` of `source` from `at` on, without their passing through this host. Start
    /// and length, of both ranges, are aligned as for [`write_at`](BlobMut::write_at), and bounded so. The
    /// service reads them at some time during the call.
    ///
    /// Errors: `Unsupported`, with nothing written, if this source can only be read: it was changed, or the
    /// service refuses to.
    fn copy_from<'a>(
        &'a self,
        _at: u64,
        _source: &'a CopySource,
        _range: Range<u64>,
    ) -> BoxFuture<'a, Result<()>> {
        Box::pin(async {
            Err(Error::new(ErrorKind::Unsupported, "copy", "", "this store does not copy")
                .with_outcome(Outcome::NotApplied))
        })
    }

    /// Makes room up to `capacity` (rounded up to the alignment; never shrinks) without
    /// changing the length that others see.
    ///
    /// Errors: as [`set_len`](BlobMut::set_len).
    fn reserve(&self, capacity: u64) -> BoxFuture<'_, Result<()>>;

    /// Sets the length that readers see, durably. Cuts the capacity to it unless `keep_reserve`.
    /// Bytes of the last, partial sector beyond `len` are unspecified.
    ///
    /// Errors: `TooLarge`, and `Stale` if somebody else changed the blob.
    fn set_len(&self, len: u64, keep_reserve: bool) -> BoxFuture<'_, Result<()>>;

    /// Says whether what is sent now is likely to be the last before [`close`](BlobMut::close): then a right
    /// to write that was not claimed yet need not be. Calls with `true` and `false` come in pairs.
    fn set_closing(&self, _closing: bool) {}

    /// Ends the updates: releases what was held for them. Reads go on working.
    fn close(&self) -> BoxFuture<'_, Result<()>>;
}

/// Reads a range into one buffer. For small ranges and tests; the data path streams.
pub async fn read_all(blob: &dyn Blob, range: Range<u64>) -> Result<Bytes> {
    struct Collect {
        bytes: Vec<u8>,
        confirmed: usize,
    }
    impl Sink for Collect {
        fn put(&mut self, piece: &[u8]) {
            self.bytes.extend_from_slice(piece);
        }

        fn confirm(&mut self) {
            self.confirmed = self.bytes.len();
        }

        fn retract(&mut self) {
            self.bytes.truncate(self.confirmed);
        }
    }
    let expected = usize::try_from(range.end - range.start).expect("range fits memory");
    let mut sink = Collect { bytes: Vec::with_capacity(expected), confirmed: 0 };
    blob.read(range, &mut sink).await?;
    debug_assert_eq!(sink.confirmed, expected, "a read gives exactly its range");
    Ok(sink.bytes.into())
}
