//! Recycled memory for page bodies.
//!
//! A fresh 4 MiB allocation costs a thousand page faults; a recycled one costs none. Knows nothing of
//! what is in the bytes.

use std::sync::Arc;

use parking_lot::Mutex;

/// Largest body of a page write, and so the size of a pooled buffer: 4 MiB.
pub(super) const LARGEST: usize = 4 << 20;

/// Up to here a plain allocation is as fast as the pool: 64 KiB.
const SMALL: usize = 64 << 10;

/// Buffers that are kept for reuse: 24 of them are 96 MiB.
const KEPT: usize = 24;

/// Buffers waiting to be used again.
#[derive(Debug, Default)]
pub(super) struct Pool {
    free: Mutex<Vec<Vec<u8>>>,
}

impl Pool {
    /// A buffer of `len` bytes, at most [`LARGEST`], with any content.
    pub(super) fn take(self: &Arc<Self>, len: usize) -> Buffer {
        assert!(len <= LARGEST, "a buffer holds one page write");
        if len <= SMALL {
            return Buffer { bytes: vec![0; len], len, pool: None };
        }
        let bytes = self.free.lock().pop().unwrap_or_else(|| vec![0; LARGEST]);
        Buffer { bytes, len, pool: Some(Arc::clone(self)) }
    }
}

/// Memory that goes back to its pool when dropped.
pub(super) struct Buffer {
    bytes: Vec<u8>,
    len: usize,
    pool: Option<Arc<Pool>>,
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl AsMut<[u8]> for Buffer {
    fn as_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[..self.len]
    }
}

impl std::fmt::Debug for Buffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Buffer({})", self.len)
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Some(pool) = &self.pool {
            let mut free = pool.free.lock();
            if free.len() < KEPT {
                free.push(std::mem::take(&mut self.bytes));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_buffers_come_back() {
        let pool = Arc::new(Pool::default());
        let first = pool.take(LARGEST);
        let address = first.as_ref().as_ptr();
        drop(first);
        let second = pool.take(LARGEST - 1);
        assert_eq!((second.as_ref().as_ptr(), second.as_ref().len()), (address, LARGEST - 1));
        assert_eq!(pool.take(10).as_ref(), [0; 10]);
    }
}
