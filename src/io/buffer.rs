//! Recycled 1 MiB buffers. A block that is filled, read and dropped gives its memory to the next
//! one, so that streaming touches no fresh page: page faults cost a tenth of the CPU otherwise.

use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use super::span::BLOCK;

/// Idle buffers kept, at most: enough for the window of a stream to turn over, 32 MiB.
const IDLE: usize = 32;

/// A pool of buffers of [`BLOCK`] bytes. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Pool {
    idle: Arc<Mutex<Vec<Box<[u8]>>>>,
}

impl Pool {
    /// An empty pool.
    pub fn new() -> Pool {
        Pool::default()
    }

    /// A buffer with room for [`BLOCK`] bytes and none in it.
    pub fn take(&self) -> Buffer {
        let memory =
            self.idle.lock().pop().unwrap_or_else(|| vec![0; BLOCK as usize].into_boxed_slice());
        Buffer { memory, len: 0, pool: self.clone() }
    }
}

/// A buffer that is being filled from its beginning; frozen, it becomes [`Bytes`] without a copy.
#[derive(Debug)]
pub struct Buffer {
    memory: Box<[u8]>,
    len: usize,
    pool: Pool,
}

impl Buffer {
    /// Bytes filled so far.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing has been filled.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Appends as much of `bytes` as there is room for and returns how much that was.
    pub fn extend(&mut self, bytes: &[u8]) -> usize {
        let take = bytes.len().min(self.memory.len() - self.len);
        self.memory[self.len..self.len + take].copy_from_slice(&bytes[..take]);
        self.len += take;
        take
    }

    /// The filled bytes.
    pub fn filled_mut(&mut self) -> &mut [u8] {
        &mut self.memory[..self.len]
    }

    /// The filled bytes, which do not change any more.
    pub fn freeze(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.memory[..self.len]
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let mut idle = self.pool.idle.lock();
        if idle.len() < IDLE {
            idle.push(std::mem::take(&mut self.memory));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_buffer_is_taken_again() {
        let pool = Pool::new();
        let mut buffer = pool.take();
        assert_eq!(buffer.extend(b"hello"), 5);
        let address = buffer.as_ref().as_ptr();
        let frozen = buffer.freeze();
        assert_eq!(&frozen[..], b"hello");
        drop(frozen);
        let again = pool.take();
        assert_eq!(again.len(), 0);
        assert_eq!(again.memory.as_ptr(), address);
    }

    #[test]
    fn a_full_buffer_takes_no_more() {
        let mut buffer = Pool::new().take();
        assert_eq!(buffer.extend(&vec![1; BLOCK as usize - 1]), BLOCK as usize - 1);
        assert_eq!(buffer.extend(b"ab"), 1);
        assert_eq!(buffer.extend(b"b"), 0);
    }
}
