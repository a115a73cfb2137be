//! The memory that dirty bytes of all files may take together. A writer that would go beyond waits
//! for bytes to be confirmed: dirty memory is bounded whatever the network does.

use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Notify;

/// Dirty bytes in use, and their limit.
#[derive(Debug)]
pub struct Budget {
    limit: u64,
    used: AtomicU64,
    freed: Notify,
}

impl Budget {
    /// A budget of `limit` bytes.
    pub fn new(limit: u64) -> Budget {
        Budget { limit, used: AtomicU64::new(0), freed: Notify::new() }
    }

    /// Whether `bytes` more fit. Nothing is taken yet: what a write costs is known after it, and may
    /// go beyond the limit by one request for each thread.
    pub fn admits(&self, bytes: u64) -> bool {
        self.used() + bytes <= self.limit
    }

    /// Whether so much is dirty that files should send what they would rather keep for a while.
    pub fn is_tight(&self) -> bool {
        self.used() > self.limit / 2
    }

    /// Bytes in use.
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// Takes note that the charge of something went from `before` to `after`. Whoever waits is woken even if
    /// nothing is given back: an update that ends so may have been what kept the rest from being sent.
    pub fn adjust(&self, before: u64, after: u64) {
        if after > before {
            self.used.fetch_add(after - before, Ordering::Relaxed);
        } else {
            self.used.fetch_sub(before - after, Ordering::Relaxed);
            self.freed.notify_waiters();
        }
    }

    /// Ends when bytes were given back after this was called.
    pub fn freed(&self) -> tokio::sync::futures::Notified<'_> {
        self.freed.notified()
    }
}
