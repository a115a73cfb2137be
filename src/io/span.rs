//! Byte spans: the arithmetic of the data path, pure and property-tested. Nothing here knows what
//! the bytes are.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

/// Bytes of one cache block: the largest FUSE request, so that nearly every reply is one slice.
pub const BLOCK: u64 = 1 << 20;
/// Unit of reads from the service: the kernel's page, and the finest read worth a request.
pub const PAGE: u64 = 4096;
/// Unit of updates: a page-blob sector.
pub const SECTOR: u64 = 512;

/// The bytes from `start` up to, not including, `end`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Span {
    /// First byte.
    pub start: u64,
    /// One past the last byte; never below `start`.
    pub end: u64,
}

impl Span {
    /// The span of `len` bytes from `start`.
    pub fn at(start: u64, len: u64) -> Span {
        Span { start, end: start.saturating_add(len) }
    }

    /// The span between two offsets; empty if they are in the wrong order.
    pub fn between(start: u64, end: u64) -> Span {
        Span { start, end: end.max(start) }
    }

    /// Length in bytes.
    pub fn len(self) -> u64 {
        self.end - self.start
    }

    /// Whether there are no bytes in it.
    pub fn is_empty(self) -> bool {
        self.start == self.end
    }

    /// The bytes in both; empty if there are none.
    pub fn intersect(self, other: Span) -> Span {
        Span::between(self.start.max(other.start), self.end.min(other.end))
    }

    /// Whether a byte is in both.
    pub fn overlaps(self, other: Span) -> bool {
        self.start < other.end && other.start < self.end
    }

    /// Whether every byte of `other` is in this span.
    pub fn contains(self, other: Span) -> bool {
        self.start <= other.start && other.end <= self.end
    }

    /// The smallest span with both ends on multiples of `unit` that holds this one.
    pub fn align_out(self, unit: u64) -> Span {
        Span { start: self.start - self.start % unit, end: self.end.next_multiple_of(unit) }
    }

    /// The largest span with both ends on multiples of `unit` inside this one; may be empty.
    pub fn align_in(self, unit: u64) -> Span {
        Span::between(self.start.next_multiple_of(unit), self.end - self.end % unit)
    }

    /// The parts of this span in consecutive windows of `unit` bytes.
    pub fn split(self, unit: u64) -> impl Iterator<Item = Span> {
        let mut rest = self;
        std::iter::from_fn(move || {
            if rest.is_empty() {
                return None;
            }
            let border = rest.start - rest.start % unit + unit;
            let piece = Span { start: rest.start, end: rest.end.min(border) };
            rest.start = piece.end;
            Some(piece)
        })
    }

    /// The span as offsets into a buffer that begins at `origin`.
    pub fn within(self, origin: u64) -> Range<usize> {
        (self.start - origin) as usize..(self.end - origin) as usize
    }

    /// The span as the port wants it.
    pub fn range(self) -> Range<u64> {
        self.start..self.end
    }
}

impl fmt::Debug for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}..{}", self.start, self.end)
    }
}

/// A set of bytes as sorted, disjoint spans that do not touch.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct SpanSet {
    /// End by start.
    spans: BTreeMap<u64, u64>,
}

impl SpanSet {
    /// The empty set.
    pub fn new() -> SpanSet {
        SpanSet::default()
    }

    /// Adds the bytes of `span`.
    pub fn insert(&mut self, span: Span) {
        if span.is_empty() {
            return;
        }
        let Span { mut start, mut end } = span;
        while let Some((&at, &until)) = self.spans.range(..=end).next_back() {
            if until < start {
                break;
            }
            start = start.min(at);
            end = end.max(until);
            self.spans.remove(&at);
        }
        self.spans.insert(start, end);
    }

    /// Takes the bytes of `span` out.
    pub fn remove(&mut self, span: Span) {
        if span.is_empty() {
            return;
        }
        while let Some((&at, &until)) = self.spans.range(..span.end).next_back() {
            if until <= span.start {
                break;
            }
            self.spans.remove(&at);
            if at < span.start {
                self.spans.insert(at, span.start);
            }
            if until > span.end {
                self.spans.insert(span.end, until);
            }
        }
    }

    /// The span of the set that holds the byte at `at`.
    pub fn find(&self, at: u64) -> Option<Span> {
        let (&start, &end) = self.spans.range(..=at).next_back()?;
        (at < end).then_some(Span { start, end })
    }

    /// Where the first span that begins after `at` begins.
    pub fn next_start(&self, at: u64) -> Option<u64> {
        self.spans.range(at + 1..).next().map(|(&start, _)| start)
    }

    /// Whether every byte of `span` is in the set.
    pub fn contains(&self, span: Span) -> bool {
        span.is_empty() || self.find(span.start).is_some_and(|found| found.end >= span.end)
    }

    /// The parts of `span` that are not in the set, in order.
    pub fn gaps(&self, span: Span) -> Vec<Span> {
        let mut gaps = Vec::new();
        let mut at = span.start;
        while at < span.end {
            match self.find(at) {
                Some(found) => at = found.end,
                None => {
                    let end = self.next_start(at).unwrap_or(u64::MAX).min(span.end);
                    gaps.push(Span { start: at, end });
                    at = end;
                }
            }
        }
        gaps
    }

    /// The parts of `span` that are in the set, in order.
    pub fn parts(&self, span: Span) -> Vec<Span> {
        let mut parts = Vec::new();
        let mut at = span.start;
        while at < span.end {
            match self.find(at) {
                Some(found) => {
                    let part = Span { start: at, end: found.end.min(span.end) };
                    parts.push(part);
                    at = part.end;
                }
                None => at = self.next_start(at).unwrap_or(u64::MAX).min(span.end),
            }
        }
        parts
    }

    /// Whether nothing is in the set.
    pub fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    /// How many spans the set is made of.
    pub fn pieces(&self) -> usize {
        self.spans.len()
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.spans.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::{Span, SpanSet};
    use proptest::prelude::*;

    const SPACE: u64 = 64;

    fn span() -> impl Strategy<Value = Span> {
        (0..SPACE, 0..SPACE).prop_map(|(a, b)| Span::between(a.min(b), a.max(b)))
    }

    proptest! {
        #[test]
        fn alignment_brackets(span in span(), unit in 1u64..9) {
            let (out, inside) = (span.align_out(unit), span.align_in(unit));
            prop_assert!(out.contains(span));
            prop_assert!(out.start % unit == 0 && out.end % unit == 0);
            prop_assert!(out.start + unit > span.start && out.end < span.end + unit);
            prop_assert!(inside.is_empty() || span.contains(inside));
            prop_assert!(inside.is_empty() || (inside.start % unit == 0 && inside.end % unit == 0));
        }

        #[test]
        fn split_covers_in_order_within_windows(span in span(), unit in 1u64..9) {
            let mut at = span.start;
            for piece in span.split(unit) {
                prop_assert_eq!(piece.start, at);
                prop_assert!(!piece.is_empty());
                prop_assert_eq!(piece.start / unit, (piece.end - 1) / unit);
                at = piece.end;
            }
            prop_assert_eq!(at, span.end);
        }

        #[test]
        fn set_is_a_bitmap(ops in prop::collection::vec((any::<bool>(), span()), 0..40), probe in span()) {
            let mut set = SpanSet::new();
            let mut bits = [false; SPACE as usize];
            for (insert, span) in ops {
                bits[span.within(0)].fill(insert);
                if insert { set.insert(span) } else { set.remove(span) }
            }
            for at in 0..SPACE {
                prop_assert_eq!(set.find(at).is_some(), bits[at as usize], "byte {}", at);
            }
            prop_assert_eq!(set.contains(probe), bits[probe.within(0)].iter().all(|bit| *bit));
            let missing: u64 = set.gaps(probe).iter().map(|gap| gap.len()).sum();
            prop_assert_eq!(missing, bits[probe.within(0)].iter().filter(|bit| !**bit).count() as u64);
            let present: u64 = set.parts(probe).iter().map(|part| part.len()).sum();
            prop_assert_eq!(present + missing, probe.len());
            let runs = bits.iter().zip(std::iter::once(&false).chain(&bits)).filter(|(now, before)| **now && !**before).count();
            prop_assert_eq!(set.pieces(), runs, "spans that touch are one");
        }
    }
}
