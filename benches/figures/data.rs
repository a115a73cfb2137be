//! The bytes of the test blobs: incompressible, never a block of zeros, and each MiB says which one it
//! is, so that a mount that is fast because it gives wrong bytes is found out.

use bytes::Bytes;

/// Bytes in a MiB, the unit of everything here.
pub(crate) const MIB: u64 = 1 << 20;
/// The smallest unit that is read or written, in bytes.
pub(crate) const PAGE: u64 = 4 << 10;

/// Random numbers that are the same in every run (splitmix64).
#[derive(Clone, Debug)]
pub(crate) struct Random(pub(crate) u64);

impl Random {
    /// The next 64 bits.
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }
}

/// `mibs` MiB of random bytes, without marks.
pub(crate) fn noise(mibs: u64) -> Vec<u8> {
    let mut random = Random(1);
    (0..mibs * MIB / 8).flat_map(|_| random.next().to_le_bytes()).collect()
}

/// Marks a MiB as the one that begins at `at`.
pub(crate) fn mark(mib: &mut [u8], at: u64) {
    mib[..8].copy_from_slice(&mark_of(at));
}

/// What [`mark`] puts at `at`.
pub(crate) fn mark_of(at: u64) -> [u8; 8] {
    Random(at).next().to_le_bytes()
}

/// Panics unless the marks of `bytes`, which begin at `at`, are right.
pub(crate) fn check(bytes: &[u8], at: u64) {
    let mut offset = at.next_multiple_of(MIB) - at;
    while let Some(found) = bytes.get(offset as usize..offset as usize + 8) {
        assert_eq!(found, mark_of(at + offset), "wrong bytes at {}", at + offset);
        offset += MIB;
    }
}

/// The body of an update at `at`: noise with marks.
pub(crate) fn marked(noise: &Bytes, at: u64) -> Vec<Bytes> {
    let mut pieces = Vec::new();
    for (index, mib) in noise.chunks(MIB as usize).enumerate() {
        let start = index * MIB as usize;
        pieces.push(Bytes::copy_from_slice(&mark_of(at + start as u64)));
        pieces.push(noise.slice(start + 8..start + mib.len()));
    }
    pieces
}

/// `count` different pages of a blob of `len` bytes, in random order, as offsets.
pub(crate) fn random_pages(len: u64, count: usize, seed: u64) -> Vec<u64> {
    let mut pages: Vec<u64> = (0..len / PAGE).map(|page| page * PAGE).collect();
    let mut random = Random(seed);
    let count = count.min(pages.len());
    for index in 0..count {
        let other = index + (random.next() % (pages.len() - index) as u64) as usize;
        pages.swap(index, other);
    }
    pages.truncate(count);
    pages
}
