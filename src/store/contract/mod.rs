//! One suite of tests for every implementation of the port, written from the contracts on its traits.
//!
//! A test calls [`run`] with a store and a directory of it that nobody else uses; what the store
//! cannot do by its [`Capabilities`](super::Capabilities) is not asked of it. A case that
//! fails panics and says which promise was broken. Not for production; outside `cfg(test)` only so
//! that integration tests and wrappers of stores can call it.

#![allow(clippy::unwrap_used, reason = "a broken promise is a panic, as in any test")]

mod content;
mod names;
mod snapshots;

use std::sync::Arc;

use bytes::Bytes;

use super::{
    Access, Blob, BlobMut, BoxFuture, Kind, ListEntry, Opened, RemotePath, Replace, Result, Store,
    WriteModel, read_all,
};

/// One promise, tried in a directory of its own.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// What is promised, as a name for the log and for lists of known gaps.
    pub name: &'static str,
    /// Panics if the promise is broken.
    pub run: fn(Bench) -> BoxFuture<'static, ()>,
}

/// Every case for stores whose blobs are updated in place.
pub fn cases() -> Vec<Case> {
    let mut all = names::CASES.to_vec();
    all.extend_from_slice(content::CASES);
    all.extend_from_slice(snapshots::CASES);
    all
}

/// Runs every case but those of `gaps` in `dir`, one after another.
///
/// Panics if a promise is broken, or if a gap is named that is no case.
pub async fn run(store: Arc<dyn Store>, dir: &RemotePath, gaps: &[&str]) {
    let cases = cases();
    for gap in gaps {
        assert!(cases.iter().any(|case| case.name == *gap), "{gap} is no case");
    }
    if store.capabilities().write == WriteModel::None {
        return;
    }
    let about_snapshots = |name| snapshots::CASES.iter().any(|case| case.name == name);
    for case in cases.iter().filter(|case| !gaps.contains(&case.name)) {
        if about_snapshots(case.name) && !store.capabilities().snapshots {
            continue;
        }
        let name = case.name.replace(' ', "-");
        let bench = Bench {
            store: Arc::clone(&store),
            dir: dir.join(&name).expect("names of cases are file names"),
        };
        eprintln!("contract: {}", case.name);
        (case.run)(bench).await;
    }
}

/// Checks that `path` reads as `bytes`; for stores that tests cannot write.
pub async fn reads_as(store: &dyn Store, path: &RemotePath, bytes: &[u8]) {
    content::reads_as(store, path, bytes).await;
}

/// A store and a directory in it for one case.
#[derive(Clone, Debug)]
pub struct Bench {
    /// The store.
    pub store: Arc<dyn Store>,
    /// The directory; not made yet.
    pub dir: RemotePath,
}

impl Bench {
    fn path(&self, name: &str) -> RemotePath {
        RemotePath::new(&format!("{}/{name}", self.dir)).expect("a path")
    }

    async fn create(&self, name: &str) -> Arc<dyn BlobMut> {
        let path = self.path(name);
        self.store.create(&path, Replace::Refused).await.unwrap()
    }

    /// A blob of these bytes.
    async fn put(&self, name: &str, bytes: &[u8]) {
        let blob = self.create(name).await;
        fill(&*blob, bytes).await;
        blob.close().await.unwrap();
    }

    async fn read(&self, name: &str) -> Arc<dyn Blob> {
        match self.store.open(&self.path(name), Access::Read).await {
            Ok(Opened::Read(blob)) => blob,
            other => panic!("opening {name} for reading gave {other:?}"),
        }
    }

    async fn update(&self, name: &str) -> Arc<dyn BlobMut> {
        match self.store.open(&self.path(name), Access::Update).await {
            Ok(Opened::Update(blob)) => blob,
            other => panic!("opening {name} for updates gave {other:?}"),
        }
    }

    /// What a new reader sees.
    async fn content(&self, name: &str) -> Bytes {
        let blob = self.read(name).await;
        read_all(&*blob, 0..blob.len()).await.unwrap()
    }

    async fn kind(&self, name: &str) -> Result<Kind> {
        Ok(self.store.stat(&self.path(name)).await?.kind)
    }

    /// All entries of a directory, sorted by name, each of which must come once.
    async fn list(&self, dir: &RemotePath) -> Vec<ListEntry> {
        let mut all = Vec::new();
        let mut cursor = None;
        for _ in 0..10_000 {
            let page = self.store.list(dir, cursor).await.unwrap();
            all.extend(page.entries);
            cursor = page.next;
            if cursor.is_none() {
                all.sort_by(|a, b| a.name.cmp(&b.name));
                for two in all.windows(2) {
                    assert_ne!(two[0].name, two[1].name, "a name stands once in a listing");
                }
                return all;
            }
        }
        panic!("the listing of {dir} does not end");
    }

    fn align(&self) -> u64 {
        match self.store.capabilities().write {
            WriteModel::InPlace { align, .. } => align,
            WriteModel::None => 1,
        }
    }

    fn max_update(&self) -> u64 {
        match self.store.capabilities().write {
            WriteModel::InPlace { max, .. } => max,
            WriteModel::None => 0,
        }
    }
}

/// Makes `bytes` the content of an empty blob.
async fn fill(blob: &dyn BlobMut, bytes: &[u8]) {
    let len = bytes.len() as u64;
    blob.set_len(len, false).await.unwrap();
    let mut padded = bytes.to_vec();
    padded.resize(blob.capacity() as usize, 0);
    if !padded.is_empty() {
        blob.write_at(0, vec![padded.into()]).await.unwrap();
    }
}

/// Bytes that tell where they are from.
fn pattern(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 32) as u8
        })
        .collect()
}
