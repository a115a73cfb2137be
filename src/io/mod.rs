//! The data path over opened blobs: page cache, readahead, write-back.
//!
//! It knows the port ([`crate::store`]) and nothing of HTTP, names or FUSE. One [`Shared`] serves all
//! files of a mount; a [`file::File`] is one opened blob.

pub mod budget;
pub mod buffer;
pub mod coalesce;
mod copy;
pub mod dirty;
mod extents;
pub mod fetch;
pub mod file;
pub mod holes;
pub mod page_cache;
pub mod readahead;
pub mod recovery;
pub mod span;
mod state;
#[cfg(test)]
mod tests;
mod write_back;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;

use budget::Budget;
use buffer::Pool;
use fetch::AheadBudget;
use file::File;
use page_cache::PageCache;

use crate::store::{Capabilities, Error, ErrorKind, Outcome, Result, Retry, WriteModel};

/// The most memory that windows of streams take, in bytes: 24 connections of 8 MiB.
const MAX_AHEAD: u64 = 192 << 20;

/// What a mount lets its data path use.
#[derive(Clone, Debug)]
pub struct Config {
    /// Bytes of clean data and readahead together.
    pub cache_size: u64,
    /// Bytes of dirty data.
    pub dirty_limit: u64,
    /// Requests in flight for one kind of work: reading ahead, and writing back.
    pub connections: usize,
    /// How long a writer waits for room when nothing moves.
    pub timeout: Duration,
}

/// What all files of a mount share.
#[derive(Debug)]
pub struct Shared {
    cache: PageCache,
    pool: Pool,
    budget: Budget,
    ahead: AheadBudget,
    max_window: u64,
    longest_get: u64,
    connections: usize,
    read_slots: Semaphore,
    write_slots: Arc<Semaphore>,
    stream_ids: AtomicU64,
    runtime: Handle,
    timeout: Duration,
    max_len: u64,
    max_update: u64,
    /// Files that hold what the service has not confirmed, by address. Kept alive by this alone if
    /// need be: nothing acknowledged is dropped because a close failed.
    unsettled: Mutex<HashMap<usize, Arc<File>>>,
    /// Wakes the sweeper when `unsettled` is not empty any more.
    sweep: tokio::sync::Notify,
    /// The service has refused to copy, and the log says so.
    copies_refused: AtomicBool,
}

impl Shared {
    /// The data path of one mount. Its tasks run on the current tokio runtime.
    pub fn new(config: &Config, store: Capabilities) -> Arc<Shared> {
        let ahead = (config.cache_size / 2).min(MAX_AHEAD);
        let connections = config.connections.max(1);
        let max_update = match store.write {
            WriteModel::None => 0,
            WriteModel::InPlace { max, .. } => max.min(write_back::MAX_PUT),
        };
        let shared = Arc::new(Shared {
            cache: PageCache::new(config.cache_size - ahead),
            pool: Pool::new(),
            budget: Budget::new(config.dirty_limit),
            ahead: AheadBudget::new(ahead),
            max_window: ahead,
            longest_get: fetch::longest_get(ahead, connections, store.max_read),
            connections,
            read_slots: Semaphore::new(connections),
            write_slots: Arc::new(Semaphore::new(connections)),
            stream_ids: AtomicU64::new(1),
            runtime: Handle::current(),
            timeout: config.timeout,
            max_len: store.max_len,
            max_update,
            unsettled: Mutex::new(HashMap::new()),
            sweep: tokio::sync::Notify::new(),
            copies_refused: AtomicBool::new(false),
        });
        if max_update > 0 {
            shared.runtime.spawn(write_back::sweep(Arc::downgrade(&shared)));
        }
        shared
    }

    /// Bytes that the service has not confirmed, of all files.
    pub fn unconfirmed(&self) -> u64 {
        self.budget.used()
    }

    /// Files that are not settled: written, and not wholly confirmed.
    pub fn unsettled(&self) -> Vec<Arc<File>> {
        self.unsettled.lock().values().map(Arc::clone).collect()
    }

    /// Waits until `bytes` more may be dirty.
    async fn wait_for_room(&self, bytes: u64) -> Result<()> {
        loop {
            let freed = self.budget.freed();
            tokio::pin!(freed);
            freed.as_mut().enable();
            if self.budget.admits(bytes) {
                return Ok(());
            }
            for file in self.unsettled() {
                file.relieve();
            }
            if tokio::time::timeout(self.timeout, freed).await.is_err() {
                return Err(Error::new(
                    ErrorKind::TimedOut,
                    "write",
                    "",
                    "the service has not taken any of the data written before; the write was not done",
                )
                .with_retry(Retry::Exhausted)
                .with_outcome(Outcome::NotApplied));
            }
        }
    }
}
