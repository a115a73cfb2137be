//! Clean bytes, shared by all files of a mount: a byte budget and scan-resistant eviction.
//!
//! The key is (content, block): a content is one version of one blob, so that bytes of two versions
//! cannot be mixed. A block holds only the segments that were fetched or written and is charged for
//! those. Dirty bytes are never here, where eviction could reach them.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use quick_cache::sync::Cache;
use quick_cache::{OptionsBuilder, Weighter};

use super::span::{BLOCK, Span, SpanSet};

/// What the bookkeeping of one block and one segment costs, in bytes.
const OVERHEAD: u64 = 96;
/// Typical weight of a block, in bytes, from which the number of entries is estimated.
const TYPICAL: u64 = 64 << 10;

/// Names one version of one blob, for as long as its bytes may be served.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ContentId(u64);

impl ContentId {
    /// A name never used before.
    pub fn fresh() -> ContentId {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        ContentId(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

/// Bytes of a block that are present, from `start` (an offset in the blob).
#[derive(Clone, Debug)]
struct Segment {
    start: u64,
    bytes: Bytes,
}

impl Segment {
    fn span(&self) -> Span {
        Span::at(self.start, self.bytes.len() as u64)
    }

    fn slice(&self, span: Span) -> Bytes {
        self.bytes.slice(span.within(self.start))
    }
}

/// The segments of one block, sorted and disjoint. Replaced as a whole, so that a reader needs no lock.
type Block = Arc<[Segment]>;

#[derive(Clone)]
struct Weigh;

impl Weighter<(ContentId, u64), Block> for Weigh {
    fn weight(&self, _: &(ContentId, u64), block: &Block) -> u64 {
        OVERHEAD + block.iter().map(|segment| segment.bytes.len() as u64 + OVERHEAD).sum::<u64>()
    }
}

/// The cache.
pub struct PageCache {
    blocks: Cache<(ContentId, u64), Block, Weigh>,
}

impl PageCache {
    /// A cache of at most `capacity` bytes.
    pub fn new(capacity: u64) -> PageCache {
        let options = OptionsBuilder::new()
            .estimated_items_capacity((capacity / TYPICAL).max(16) as usize)
            .weight_capacity(capacity)
            // A shard must have room for many blocks, or blocks would be refused.
            .shards((capacity / (64 * BLOCK)).clamp(1, 8) as usize)
            .build()
            .expect("every option is given");
        let blocks = Cache::with_options(
            options,
            Weigh,
            Default::default(),
            quick_cache::sync::DefaultLifecycle::default(),
        );
        PageCache { blocks }
    }

    /// The longest run of present bytes that starts at `at` and ends by `end`, inside one segment.
    pub fn get(&self, content: ContentId, at: u64, end: u64) -> Option<Bytes> {
        let block = self.blocks.get(&(content, at / BLOCK))?;
        let index = block.partition_point(|segment| segment.start <= at).checked_sub(1)?;
        let segment = &block[index];
        let span = segment.span().intersect(Span::between(at, end));
        (span.start == at && !span.is_empty()).then(|| segment.slice(span))
    }

    /// Where the next present byte in the block of `at` is, at or after `at`; the end of the block
    /// if there is none.
    pub fn next_present(&self, content: ContentId, at: u64) -> u64 {
        let border = at - at % BLOCK + BLOCK;
        let Some(block) = self.blocks.peek(&(content, at / BLOCK)) else {
            return border;
        };
        let next = block.iter().find(|segment| segment.span().end > at);
        next.map_or(border, |segment| segment.start.max(at))
    }

    /// Adds bytes at `start`, all in one block, replacing what was there. Calls for one content must
    /// not run together; the file's lock sees to that.
    pub fn insert(&self, content: ContentId, start: u64, bytes: Bytes) {
        debug_assert!(!bytes.is_empty() && start % BLOCK + bytes.len() as u64 <= BLOCK);
        let new = Segment { start, bytes };
        let key = (content, start / BLOCK);
        let mut segments = self.without(&key, new.span());
        let index = segments.partition_point(|segment| segment.start < start);
        segments.insert(index, new);
        self.blocks.insert(key, segments.into());
    }

    /// Adds those parts of the bytes at `start` that are not in `except`.
    pub fn insert_except(&self, content: ContentId, start: u64, bytes: &Bytes, except: &SpanSet) {
        for part in except.gaps(Span::at(start, bytes.len() as u64)) {
            self.insert(content, part.start, bytes.slice(part.within(start)));
        }
    }

    /// Drops the bytes of `span`. As for [`insert`](PageCache::insert), not together with another call.
    pub fn remove(&self, content: ContentId, span: Span) {
        for piece in span.split(BLOCK) {
            let key = (content, piece.start / BLOCK);
            if self.blocks.peek(&key).is_some() {
                let rest = self.without(&key, piece);
                if rest.is_empty() {
                    self.blocks.remove(&key);
                } else {
                    self.blocks.insert(key, rest.into());
                }
            }
        }
    }

    /// Bytes held, bookkeeping included.
    pub fn weight(&self) -> u64 {
        self.blocks.weight()
    }

    /// The segments of a block with the bytes of `span` cut out.
    fn without(&self, key: &(ContentId, u64), span: Span) -> Vec<Segment> {
        let Some(block) = self.blocks.peek(key) else {
            return Vec::new();
        };
        let mut rest = Vec::with_capacity(block.len() + 1);
        for segment in block.iter() {
            let whole = segment.span();
            if !whole.overlaps(span) {
                rest.push(segment.clone());
                continue;
            }
            for part in [Span::between(whole.start, span.start), Span::between(span.end, whole.end)]
            {
                let part = part.intersect(whole);
                if !part.is_empty() {
                    rest.push(Segment { start: part.start, bytes: segment.slice(part) });
                }
            }
        }
        rest
    }
}

impl fmt::Debug for PageCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PageCache").field("weight", &self.weight()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Everything present in `0..2 * BLOCK`, by asking as a reader does.
    fn present(cache: &PageCache, content: ContentId) -> Vec<(u64, Vec<u8>)> {
        let mut found = Vec::new();
        let mut at = 0;
        while at < 2 * BLOCK {
            at = cache.next_present(content, at);
            if let Some(bytes) = cache.get(content, at, 2 * BLOCK) {
                found.push((at, bytes.to_vec()));
                at += bytes.len() as u64;
            }
        }
        found
    }

    proptest! {
        #[test]
        fn holds_the_last_bytes_put(
            ops in prop::collection::vec((any::<bool>(), 0u64..32, 1u64..32, any::<u8>()), 1..40),
        ) {
            // Offsets around a block border, so that both sides are met.
            let base = BLOCK - 16;
            let cache = PageCache::new(64 << 20);
            let content = ContentId::fresh();
            let mut model = [None; 64];
            for (insert, start, len, fill) in ops {
                let span = Span::at(base + start, len);
                if insert {
                    for piece in span.split(BLOCK) {
                        cache.insert(content, piece.start, Bytes::from(vec![fill; piece.len() as usize]));
                    }
                } else {
                    cache.remove(content, span);
                }
                model[span.within(base)].fill(insert.then_some(fill));
            }
            let mut seen = [None; 64];
            for (at, bytes) in present(&cache, content) {
                for (index, byte) in bytes.into_iter().enumerate() {
                    seen[(at - base) as usize + index] = Some(byte);
                }
            }
            prop_assert_eq!(seen, model);
        }
    }

    #[test]
    fn stays_within_its_budget() {
        let cache = PageCache::new(8 << 20);
        let content = ContentId::fresh();
        for block in 0..64 {
            cache.insert(content, block * BLOCK, Bytes::from(vec![1; BLOCK as usize]));
            assert!(cache.weight() <= 8 << 20);
        }
        assert!(cache.weight() >= 4 << 20, "a budget is there to be used");
    }
}
