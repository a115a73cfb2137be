//! Dirty bytes of one file in their own ordered map, where eviction cannot reach them.
//!
//! Extents are disjoint and sector-aligned. Data extents stay inside one cache block, so that a
//! flushed extent can become clean cache content without a copy; zeros take no memory at all and may
//! be any length. This module moves bytes; when they are sent is not its business.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::buffer::{Buffer, Pool};
use super::span::{BLOCK, SECTOR, Span};

/// An extent at least this long lives in a pooled block; shorter ones are allocated to measure.
/// Half a block, so that at most half of the memory charged is unused.
const POOLED: usize = BLOCK as usize / 2;
/// What the bookkeeping of one extent costs, in bytes.
const OVERHEAD: u64 = 96;

/// Memory of a data extent.
#[derive(Debug)]
enum Memory {
    Small(Vec<u8>),
    Block(Buffer),
}

impl Memory {
    fn new(pool: &Pool, bytes: &[u8]) -> Memory {
        if bytes.len() < POOLED {
            return Memory::Small(bytes.to_vec());
        }
        let mut buffer = pool.take();
        buffer.extend(bytes);
        Memory::Block(buffer)
    }

    fn append(&mut self, pool: &Pool, bytes: &[u8]) {
        if let Memory::Small(small) = self {
            if small.len() + bytes.len() < POOLED {
                small.extend_from_slice(bytes);
                return;
            }
            let mut buffer = pool.take();
            buffer.extend(small);
            *self = Memory::Block(buffer);
        }
        if let Memory::Block(buffer) = self {
            let taken = buffer.extend(bytes);
            debug_assert_eq!(taken, bytes.len(), "an extent stays inside one block");
        }
    }

    fn bytes(&self) -> &[u8] {
        match self {
            Memory::Small(small) => small,
            Memory::Block(buffer) => buffer.as_ref(),
        }
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        match self {
            Memory::Small(small) => small,
            Memory::Block(buffer) => buffer.filled_mut(),
        }
    }

    fn freeze(self) -> Bytes {
        match self {
            Memory::Small(small) => Bytes::from(small),
            Memory::Block(buffer) => buffer.freeze(),
        }
    }

    fn allocated(&self) -> u64 {
        match self {
            Memory::Small(small) => small.capacity() as u64,
            Memory::Block(_) => BLOCK,
        }
    }
}

#[derive(Debug)]
enum Body {
    /// This many zero bytes.
    Zero(u64),
    Data(Memory),
}

impl Body {
    fn len(&self) -> u64 {
        match self {
            Body::Zero(len) => *len,
            Body::Data(memory) => memory.bytes().len() as u64,
        }
    }

    fn charge(&self) -> u64 {
        OVERHEAD + if let Body::Data(memory) = self { memory.allocated() } else { 0 }
    }
}

/// A look at an extent from some offset on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Piece<'a> {
    /// So many zeros.
    Zero(u64),
    /// These bytes.
    Data(&'a [u8]),
}

/// An extent that was taken out, its bytes now unchangeable; `None` for zeros.
#[derive(Clone, Debug)]
pub struct Taken {
    /// Where it was.
    pub span: Span,
    /// What was there.
    pub bytes: Option<Bytes>,
}

/// The map.
#[derive(Debug, Default)]
pub struct DirtyMap {
    extents: BTreeMap<u64, Body>,
    charged: u64,
}

impl DirtyMap {
    /// An empty map.
    pub fn new() -> DirtyMap {
        DirtyMap::default()
    }

    /// Whether nothing is dirty.
    pub fn is_empty(&self) -> bool {
        self.extents.is_empty()
    }

    /// Memory held, in bytes, unused room and bookkeeping included.
    pub fn charged(&self) -> u64 {
        self.charged
    }

    /// The extent that holds the byte at `at`, from there on.
    pub fn piece(&self, at: u64) -> Option<Piece<'_>> {
        let (&start, body) = self.extents.range(..=at).next_back()?;
        if start + body.len() <= at {
            return None;
        }
        Some(match body {
            Body::Zero(len) => Piece::Zero(start + len - at),
            Body::Data(memory) => Piece::Data(&memory.bytes()[(at - start) as usize..]),
        })
    }

    /// Where the first extent after `at` begins.
    pub fn next_start(&self, at: u64) -> Option<u64> {
        self.extents.range(at + 1..).next().map(|(&start, _)| start)
    }

    /// The extents that begin in or reach into `span`, in order, each with whether it is zeros.
    pub fn extents(&self, span: Span) -> impl Iterator<Item = (Span, bool)> {
        let before = self.extents.range(..span.start).next_back();
        let first = before.filter(|(start, body)| *start + body.len() > span.start);
        first
            .into_iter()
            .chain(self.extents.range(span.start..span.end.max(span.start)))
            .map(|(&start, body)| (Span::at(start, body.len()), matches!(body, Body::Zero(_))))
    }

    /// Whether every byte of `span` is dirty.
    pub fn covers(&self, span: Span) -> bool {
        let mut at = span.start;
        for (extent, _) in self.extents(span) {
            if extent.start > at {
                return false;
            }
            at = extent.end;
        }
        at >= span.end
    }

    /// Writes bytes at `start`; both ends are sector-aligned.
    pub fn write(&mut self, pool: &Pool, start: u64, bytes: &[u8]) {
        for piece in Span::at(start, bytes.len() as u64).split(BLOCK) {
            self.write_in_block(pool, piece, &bytes[piece.within(start)]);
        }
    }

    fn write_in_block(&mut self, pool: &Pool, span: Span, bytes: &[u8]) {
        debug_assert!(span.start.is_multiple_of(SECTOR) && span.end.is_multiple_of(SECTOR));
        self.remove_zeros(span);
        let mut at = span.start;
        while at < span.end {
            let source = &bytes[(at - span.start) as usize..];
            // Over an extent: in place.
            if let Some((&start, Body::Data(memory))) = self.extents.range_mut(..=at).next_back() {
                let into = (at - start) as usize;
                let present = memory.bytes().len();
                if into < present {
                    let take = source.len().min(present - into);
                    memory.bytes_mut()[into..into + take].copy_from_slice(&source[..take]);
                    at += take as u64;
                    continue;
                }
            }
            let gap_end = self.next_start(at).unwrap_or(u64::MAX).min(span.end);
            let gap = &source[..(gap_end - at) as usize];
            self.fill_gap(pool, at, gap);
            at = gap_end;
        }
    }

    /// Puts bytes where nothing is, growing the extent before them if they continue it.
    fn fill_gap(&mut self, pool: &Pool, at: u64, bytes: &[u8]) {
        if let Some((&start, body)) = self.extents.range_mut(..at).next_back()
            && start / BLOCK == at / BLOCK
            && start + body.len() == at
        {
            let before = body.charge();
            if let Body::Data(memory) = body {
                memory.append(pool, bytes);
                self.charged = self.charged - before + body.charge();
                return;
            }
        }
        self.insert(at, Body::Data(Memory::new(pool, bytes)));
    }

    /// Makes `span`, sector-aligned, read as zeros.
    pub fn zero(&mut self, span: Span) {
        if span.is_empty() {
            return;
        }
        drop(self.take(span));
        let (mut start, mut end) = (span.start, span.end);
        if let Some((&before, Body::Zero(len))) = self.extents.range(..start).next_back()
            && before + len == start
        {
            start = before;
            self.remove(before);
        }
        if let Some(Body::Zero(len)) = self.extents.get(&end) {
            let after = end;
            end += len;
            self.remove(after);
        }
        self.insert(start, Body::Zero(end - start));
    }

    /// Puts back what [`take`](DirtyMap::take) took, except where newer bytes are by now.
    pub fn restore(&mut self, pool: &Pool, taken: &Taken) {
        let mut at = taken.span.start;
        while at < taken.span.end {
            if let Some(piece) = self.piece(at) {
                at += match piece {
                    Piece::Zero(len) => len,
                    Piece::Data(bytes) => bytes.len() as u64,
                };
                continue;
            }
            let end = self.next_start(at).unwrap_or(u64::MAX).min(taken.span.end);
            match &taken.bytes {
                Some(bytes) => {
                    self.write(pool, at, &bytes[Span::between(at, end).within(taken.span.start)]);
                }
                None => self.zero(Span::between(at, end)),
            }
            at = end;
        }
    }

    /// Takes the extents of `span` out, cutting those that reach beyond it.
    pub fn take(&mut self, span: Span) -> Vec<Taken> {
        let mut taken = Vec::new();
        let starts: Vec<u64> = self.extents(span).map(|(extent, _)| extent.start).collect();
        for start in starts {
            let Some(body) = self.remove(start) else {
                continue;
            };
            let whole = Span::at(start, body.len());
            let inside = whole.intersect(span);
            let outside =
                [Span::between(whole.start, inside.start), Span::between(inside.end, whole.end)];
            let bytes = match body {
                Body::Zero(_) => {
                    for rest in outside.into_iter().filter(|rest| !rest.is_empty()) {
                        self.insert(rest.start, Body::Zero(rest.len()));
                    }
                    None
                }
                Body::Data(memory) => {
                    for rest in outside.into_iter().filter(|rest| !rest.is_empty()) {
                        let copy = memory.bytes()[rest.within(start)].to_vec();
                        self.insert(rest.start, Body::Data(Memory::Small(copy)));
                    }
                    Some(memory.freeze().slice(inside.within(start)))
                }
            };
            if !inside.is_empty() {
                taken.push(Taken { span: inside, bytes });
            }
        }
        taken
    }

    /// Cuts everything from `len` on; in the sector that holds `len`, dirty bytes beyond become zeros.
    pub fn truncate(&mut self, len: u64) {
        drop(self.take(Span::between(len.next_multiple_of(SECTOR), u64::MAX)));
        if let Some((&start, Body::Data(memory))) = self.extents.range_mut(..len).next_back() {
            let bytes = memory.bytes_mut();
            if start + bytes.len() as u64 > len {
                bytes[(len - start) as usize..].fill(0);
            }
        }
    }

    fn remove_zeros(&mut self, span: Span) {
        let zeros: Vec<u64> =
            self.extents(span).filter(|(_, zero)| *zero).map(|(extent, _)| extent.start).collect();
        for start in zeros {
            let Some(body) = self.remove(start) else {
                continue;
            };
            let whole = Span::at(start, body.len());
            for rest in [
                Span::between(whole.start, span.start).intersect(whole),
                Span::between(span.end, whole.end).intersect(whole),
            ] {
                if !rest.is_empty() {
                    self.insert(rest.start, Body::Zero(rest.len()));
                }
            }
        }
    }

    fn insert(&mut self, start: u64, body: Body) {
        self.charged += body.charge();
        let old = self.extents.insert(start, body);
        debug_assert!(old.is_none(), "extents are disjoint");
    }

    fn remove(&mut self, start: u64) -> Option<Body> {
        let body = self.extents.remove(&start)?;
        self.charged -= body.charge();
        Some(body)
    }
}

/// Whether every byte is zero.
pub fn is_zero(bytes: &[u8]) -> bool {
    // In chunks, which the compiler turns into wide words.
    let (chunks, rest) = bytes.as_chunks::<64>();
    chunks.iter().all(|chunk| chunk.iter().fold(0, |all, byte| all | byte) == 0)
        && rest.iter().all(|byte| *byte == 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECTORS: usize = 40;
    /// Around a block border.
    const BASE: u64 = BLOCK - 16 * SECTOR;

    #[derive(Clone, Debug)]
    enum Op {
        Write(usize, usize, u8),
        Zero(usize, usize),
        Take(usize, usize),
        TakeAndRestore(usize, usize, Vec<(usize, u8)>),
        Truncate(usize, u64),
    }

    fn op() -> impl Strategy<Value = Op> {
        let place = || (0..SECTORS - 1, 1..SECTORS);
        prop_oneof![
            4 => (place(), 1u8..255).prop_map(|((a, n), fill)| Op::Write(a, n, fill)),
            2 => place().prop_map(|(a, n)| Op::Zero(a, n)),
            1 => place().prop_map(|(a, n)| Op::Take(a, n)),
            1 => (place(), prop::collection::vec((0..SECTORS, 1u8..255), 0..4))
                .prop_map(|((a, n), writes)| Op::TakeAndRestore(a, n, writes)),
            1 => (0..SECTORS, 0..SECTOR).prop_map(|(a, rest)| Op::Truncate(a, rest)),
        ]
    }

    fn span(first: usize, count: usize) -> Span {
        let last = (first + count).min(SECTORS);
        Span::between(BASE + first as u64 * SECTOR, BASE + last as u64 * SECTOR)
    }

    fn look(map: &DirtyMap, at: u64) -> Option<u8> {
        map.piece(at).map(|piece| match piece {
            Piece::Zero(_) => 0,
            Piece::Data(bytes) => bytes[0],
        })
    }

    proptest! {
        #[test]
        fn behaves_like_an_array(ops in prop::collection::vec(op(), 1..30)) {
            let pool = Pool::new();
            let mut map = DirtyMap::new();
            let mut model = vec![None::<u8>; SECTORS * SECTOR as usize];
            for op in ops {
                match op {
                    Op::Write(a, n, fill) => {
                        let span = span(a, n);
                        map.write(&pool, span.start, &vec![fill; span.len() as usize]);
                        model[span.within(BASE)].fill(Some(fill));
                    }
                    Op::Zero(a, n) => {
                        map.zero(span(a, n));
                        model[span(a, n).within(BASE)].fill(Some(0));
                    }
                    Op::Take(a, n) => {
                        for taken in map.take(span(a, n)) {
                            let want = &mut model[taken.span.within(BASE)];
                            let got = taken.bytes.unwrap_or(vec![0; want.len()].into());
                            prop_assert!(want.iter().zip(&got).all(|(want, got)| *want == Some(*got)));
                            want.fill(None);
                        }
                        prop_assert!(model[span(a, n).within(BASE)].iter().all(Option::is_none));
                    }
                    Op::TakeAndRestore(a, n, writes) => {
                        let taken = map.take(span(a, n));
                        for (a, fill) in writes {
                            map.write(&pool, span(a, 1).start, &[fill; SECTOR as usize]);
                            model[span(a, 1).within(BASE)].fill(Some(fill));
                        }
                        for taken in &taken {
                            map.restore(&pool, taken);
                        }
                    }
                    Op::Truncate(a, rest) => {
                        let len = BASE + a as u64 * SECTOR + rest;
                        map.truncate(len);
                        let (cut, end) = ((len - BASE) as usize, len.next_multiple_of(SECTOR) - BASE);
                        for byte in &mut model[cut..end as usize] {
                            *byte = byte.map(|_| 0);
                        }
                        model[end as usize..].fill(None);
                    }
                }
            }
            for (index, want) in model.iter().enumerate() {
                prop_assert_eq!(look(&map, BASE + index as u64), *want, "byte {}", index);
            }
            let held: u64 = map.extents.values().map(Body::charge).sum();
            prop_assert_eq!(map.charged(), held);
            for (start, body) in &map.extents {
                if let Body::Data(memory) = body {
                    prop_assert_eq!(start / BLOCK, (start + memory.bytes().len() as u64 - 1) / BLOCK);
                }
            }
        }
    }

    #[test]
    fn streaming_fills_one_block_at_a_time() {
        let pool = Pool::new();
        let mut map = DirtyMap::new();
        for index in 0..512u64 {
            map.write(&pool, index * PAGE_BYTES, &[1; PAGE_BYTES as usize]);
        }
        assert_eq!(map.extents.len(), 2);
        assert_eq!(map.charged(), 2 * (BLOCK + OVERHEAD));
        assert!(map.covers(Span::at(0, 2 * BLOCK)));
        assert!(!map.covers(Span::at(0, 2 * BLOCK + 1)));
    }

    const PAGE_BYTES: u64 = 4096;

    #[test]
    fn sees_zeros() {
        assert!(is_zero(&[]) && is_zero(&[0; 1000]));
        for index in [0, 63, 64, 999] {
            let mut bytes = [0; 1000];
            bytes[index] = 1;
            assert!(!is_zero(&bytes));
        }
    }
}
