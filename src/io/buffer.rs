//! Recycled 1 MiB buffers. A block that is filled, read and dropped gives its memory to the next
//! one, so that streaming touches no fresh page.
//!
//! Memory comes in slabs of the size of a huge page, two buffers each: one page fault instead of 512, and
//! the kernel finds a buffer in one step where it copies from or to it. A free half of a slab is
//! always used before a new slab is made, so that there are never more slabs than were needed at once.

use std::alloc::{Layout, handle_alloc_error};
use std::fmt;
use std::ptr::{self, NonNull};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use super::span::BLOCK;

/// Bytes of a buffer.
const SIZE: usize = BLOCK as usize;
/// Bytes of a slab, and its alignment: a huge page.
const SLAB: usize = 2 * SIZE;
/// Slabs kept though both halves are free, at most: enough for the window of a stream to turn over, 32 MiB.
const IDLE: usize = 16;

/// A pool of buffers of [`BLOCK`] bytes. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Pool {
    free: Arc<Mutex<Free>>,
}

/// Memory that nobody uses.
#[derive(Debug, Default)]
struct Free {
    /// Halves of slabs whose other half is in use.
    halves: Vec<Half>,
    /// Slabs of which both halves are free.
    slabs: Vec<(Half, Half)>,
}

impl Pool {
    /// An empty pool.
    pub fn new() -> Pool {
        Pool::default()
    }

    /// A buffer with room for [`BLOCK`] bytes and none in it.
    pub fn take(&self) -> Buffer {
        let mut free = self.free.lock();
        let memory = free.halves.pop().unwrap_or_else(|| {
            let (first, second) = free.slabs.pop().unwrap_or_else(Slab::halves);
            free.halves.push(second);
            first
        });
        Buffer { memory: Some(memory), len: 0, pool: self.clone() }
    }

    fn give_back(&self, half: Half) {
        let mut free = self.free.lock();
        let other = free.halves.iter().position(|other| Arc::ptr_eq(&other.slab, &half.slab));
        let Some(other) = other else {
            return free.halves.push(half);
        };
        // The half just used is the first to be used again.
        let slab = (half, free.halves.swap_remove(other));
        if free.slabs.len() < IDLE {
            free.slabs.push(slab);
        } else {
            // Giving memory back takes the kernel a while, for which nobody should wait.
            drop(free);
            drop(slab);
        }
    }
}

/// Memory of [`SLAB`] bytes, zeroed at first; given back when both halves are gone.
struct Slab(NonNull<u8>);

// SAFETY: a slab is plain memory that it owns; what may be done with its bytes is the halves' business.
unsafe impl Send for Slab {}
// SAFETY: as above; nothing can be reached through a shared slab but its address.
unsafe impl Sync for Slab {}

impl Slab {
    fn halves() -> (Half, Half) {
        let slab = Arc::new(Slab::map());
        (Half { slab: Arc::clone(&slab), offset: 0 }, Half { slab, offset: SIZE })
    }

    /// Mapped rather than allocated: an allocator would touch the memory before the advice is given.
    fn map() -> Slab {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: a new mapping of memory, wherever the kernel likes; twice the size, so that an aligned
        // slab is in it.
        let whole = unsafe { libc::mmap(ptr::null_mut(), 2 * SLAB, protection, flags, -1, 0) };
        let Some(whole) = NonNull::new(whole).filter(|_| whole != libc::MAP_FAILED) else {
            handle_alloc_error(Layout::new::<[u8; SLAB]>())
        };
        let before = whole.cast::<u8>().align_offset(SLAB);
        // SAFETY: `before` is less than `SLAB`, so that all three parts are inside the new mapping. Only
        // the middle one is used from here on, and only through the slab returned.
        unsafe {
            let slab = whole.cast::<u8>().add(before);
            if before > 0 {
                libc::munmap(whole.as_ptr(), before);
            }
            libc::munmap(slab.add(SLAB).as_ptr().cast(), SLAB - before);
            // Advice changes nothing but speed; a kernel without huge pages may refuse it.
            libc::madvise(slab.as_ptr().cast(), SLAB, libc::MADV_HUGEPAGE);
            Slab(slab)
        }
    }
}

impl Drop for Slab {
    fn drop(&mut self) {
        // SAFETY: mapped by `map` with this size, and no half is left that could use it.
        unsafe { libc::munmap(self.0.as_ptr().cast(), SLAB) };
    }
}

/// One half of a slab, which nobody else has: not clonable, and made once for each offset.
struct Half {
    slab: Arc<Slab>,
    offset: usize,
}

impl Half {
    fn bytes(&self) -> &[u8] {
        // SAFETY: the half's range lies inside the slab, is initialised, lives as long as the slab that
        // is held here, and is written through `&mut self` of this same half only.
        unsafe { std::slice::from_raw_parts(self.slab.0.as_ptr().add(self.offset), SIZE) }
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`; this half is the only way to its range, and is borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.slab.0.as_ptr().add(self.offset), SIZE) }
    }
}

impl fmt::Debug for Half {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Half").field("at", &self.bytes().as_ptr()).finish()
    }
}

/// A buffer that is being filled from its beginning; frozen, it becomes [`Bytes`] without a copy.
#[derive(Debug)]
pub struct Buffer {
    /// `None` once dropped.
    memory: Option<Half>,
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
        let take = bytes.len().min(SIZE - self.len);
        let end = self.len + take;
        self.whole_mut()[end - take..end].copy_from_slice(&bytes[..take]);
        self.len = end;
        take
    }

    /// Forgets all but the first `len` bytes.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// The filled bytes.
    pub fn filled_mut(&mut self) -> &mut [u8] {
        let len = self.len;
        &mut self.whole_mut()[..len]
    }

    fn whole_mut(&mut self) -> &mut [u8] {
        self.memory.as_mut().map_or(&mut [], Half::bytes_mut)
    }

    /// The filled bytes, which do not change any more.
    pub fn freeze(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        self.memory.as_ref().map_or(&[], |memory| &memory.bytes()[..self.len])
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Some(memory) = self.memory.take() {
            self.pool.give_back(memory);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Free halves of slabs in use, and free slabs.
    fn idle(pool: &Pool) -> (usize, usize) {
        let free = pool.free.lock();
        (free.halves.len(), free.slabs.len())
    }

    #[test]
    fn a_dropped_buffer_is_taken_again() {
        let pool = Pool::new();
        let mut buffer = pool.take();
        assert_eq!(buffer.extend(b"hello"), 5);
        let address = buffer.as_ref().as_ptr();
        let frozen = buffer.freeze();
        assert_eq!(&frozen[..], b"hello");
        drop(frozen);
        let mut again = pool.take();
        assert_eq!(again.len(), 0);
        assert_eq!(again.whole_mut().as_ptr(), address);
    }

    #[test]
    fn a_full_buffer_takes_no_more() {
        let mut buffer = Pool::new().take();
        assert_eq!(buffer.extend(&vec![1; BLOCK as usize - 1]), BLOCK as usize - 1);
        assert_eq!(buffer.extend(b"ab"), 1);
        assert_eq!(buffer.extend(b"b"), 0);
    }

    #[test]
    fn both_halves_are_used_and_apart() {
        let pool = Pool::new();
        let mut buffers: Vec<Buffer> = (0..5u8)
            .map(|fill| {
                let mut buffer = pool.take();
                buffer.extend(&vec![fill; SIZE]);
                buffer
            })
            .collect();
        for (fill, buffer) in buffers.iter().enumerate() {
            assert!(buffer.as_ref().iter().all(|byte| usize::from(*byte) == fill));
        }
        assert_eq!(idle(&pool), (1, 0));
        // A free half is used before a free slab.
        buffers.remove(0);
        buffers.remove(0);
        drop(buffers.remove(0));
        assert_eq!(idle(&pool), (2, 1));
        buffers.push(pool.take());
        assert_eq!(idle(&pool), (1, 1));
        drop(buffers);
        assert_eq!(idle(&pool), (0, 3));
    }

    #[test]
    fn no_more_slabs_stay_idle_than_are_useful() {
        let pool = Pool::new();
        let buffers: Vec<Buffer> = (0..4 * IDLE).map(|_| pool.take()).collect();
        drop(buffers);
        assert_eq!(idle(&pool), (0, IDLE));
    }
}
