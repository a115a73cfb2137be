//! What is known of where a blob holds data.
//!
//! Every byte is *data*, a *hole* (it reads as zeros and takes no storage), or *unknown*: nobody has
//! asked for it yet. Pure bookkeeping: it neither asks nor reads, and knows nothing of what is dirty.

use std::ops::Range;

use super::span::{Span, SpanSet};

/// Spans remembered at most, of each kind: about 4 MiB of memory. Beyond it everything is forgotten
/// and costs requests again; a blob that fragmented is read as if it had no holes.
const MOST_PIECES: usize = 64 << 10;

/// What a byte is, and up to where its neighbours are the same.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// It may hold anything.
    Data(u64),
    /// It reads as zeros.
    Hole(u64),
    /// Nobody has asked.
    Unknown(u64),
}

/// The holes of one blob.
#[derive(Clone, Default, Debug)]
pub struct Holes {
    zero: SpanSet,
    /// Bytes that are known; those of them that are not in `zero` hold data.
    known: SpanSet,
}

impl Holes {
    /// Nothing is known.
    pub fn unknown() -> Holes {
        Holes::default()
    }

    /// All of it is one hole: a blob that was just created.
    pub fn empty() -> Holes {
        let mut holes = Holes::default();
        holes.add(Span::between(0, u64::MAX));
        holes
    }

    /// What the byte at `at` is, as far as that reaches towards `end`.
    pub fn kind(&self, at: u64, end: u64) -> Kind {
        if let Some(hole) = self.zero.find(at) {
            return Kind::Hole(hole.end.min(end));
        }
        let end = end.min(self.zero.next_start(at).unwrap_or(u64::MAX));
        match self.known.find(at) {
            Some(known) => Kind::Data(known.end.min(end)),
            None => Kind::Unknown(end.min(self.known.next_start(at).unwrap_or(u64::MAX))),
        }
    }

    /// The known holes alone.
    pub fn zero(&self) -> &SpanSet {
        &self.zero
    }

    /// Bytes of `span` that are not known to be in a hole.
    pub fn data_in(&self, span: Span) -> u64 {
        self.zero.gaps(span).iter().map(|data| data.len()).sum()
    }

    /// Whether every byte of `span` is known.
    pub fn knows(&self, span: Span) -> bool {
        self.known.contains(span)
    }

    /// The first part of `span` that nobody has asked about.
    pub fn first_unknown(&self, span: Span) -> Option<Span> {
        self.known.gaps(span).first().copied()
    }

    /// `span` is a hole now.
    pub fn add(&mut self, span: Span) {
        self.zero.insert(span);
        self.known.insert(span);
        self.bound();
    }

    /// `span` holds data now.
    pub fn fill(&mut self, span: Span) {
        self.zero.remove(span);
        self.known.insert(span);
        self.bound();
    }

    /// Takes over an answer of the service: of `asked`, the bytes of `data` (sorted, disjoint) hold data.
    /// Nothing is learnt of what was `touched` while the answer was under way.
    pub fn learn(&mut self, asked: Span, data: &[Range<u64>], touched: &SpanSet) {
        if self.zero.pieces() + 2 * data.len() > MOST_PIECES {
            *self = Holes::default();
        }
        let mut from = asked.start;
        let ends = std::iter::once(asked.end..asked.end);
        for part in data.iter().cloned().chain(ends) {
            for hole in touched.gaps(Span::between(from, part.start.min(asked.end))) {
                self.zero.insert(hole);
            }
            from = part.end;
        }
        for part in touched.gaps(asked) {
            self.known.insert(part);
        }
    }

    /// How many spans are remembered.
    pub fn pieces(&self) -> usize {
        self.zero.pieces() + self.known.pieces()
    }

    fn bound(&mut self) {
        if self.zero.pieces() > MOST_PIECES || self.known.pieces() > MOST_PIECES {
            *self = Holes::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Holes, Kind, Span, SpanSet};

    const END: u64 = 64;

    /// What each byte is, by asking once for each.
    fn kinds(holes: &Holes) -> String {
        let letter = |at| match holes.kind(at, END) {
            Kind::Data(_) => 'd',
            Kind::Hole(_) => '.',
            Kind::Unknown(_) => '?',
        };
        (0..END).map(letter).collect()
    }

    #[test]
    fn an_answer_says_nothing_of_what_was_touched() {
        let mut holes = Holes::unknown();
        holes.fill(Span::between(0, 4));
        let mut touched = SpanSet::new();
        touched.insert(Span::between(10, 14));
        holes.learn(Span::between(0, 20), &[2..6, 16..20], &touched);
        assert_eq!(&kinds(&holes)[..22], "..dddd....????..dddd??");
        holes.add(Span::between(12, 18));
        assert_eq!(&kinds(&holes)[..22], "..dddd....??......dd??");
    }

    #[test]
    fn a_blob_in_too_many_pieces_is_forgotten() {
        let mut holes = Holes::empty();
        for n in 0..super::MOST_PIECES as u64 + 2 {
            holes.fill(Span::at(2 * n, 1));
        }
        assert!(holes.pieces() < 10, "{} pieces", holes.pieces());
        assert_eq!(holes.kind(1, 9), Kind::Unknown(9));
    }

    proptest! {
        #[test]
        fn it_is_a_map_of_bytes(
            steps in prop::collection::vec((0..3u8, 0..END, 0..9u64, any::<u64>()), 0..30)
        ) {
            let mut holes = Holes::unknown();
            let mut model = ['?'; END as usize];
            for (what, start, len, bits) in steps {
                let span = Span::between(start, (start + len).min(END));
                let bytes = span.range().map(|at| at as usize);
                match what {
                    0 => {
                        holes.add(span);
                        bytes.for_each(|at| model[at] = '.');
                    }
                    1 => {
                        holes.fill(span);
                        bytes.for_each(|at| model[at] = 'd');
                    }
                    _ => {
                        // An answer is true: it tells of a hole only where there is one.
                        for at in bytes {
                            if model[at] == '?' {
                                model[at] = if bits & (1 << at) != 0 { 'd' } else { '.' };
                            }
                        }
                        let is_data = |at: &u64| model[*at as usize] == 'd';
                        let data: Vec<_> =
                            span.range().filter(is_data).map(|at| at..at + 1).collect();
                        holes.learn(span, &data, &SpanSet::new());
                    }
                }
                prop_assert_eq!(kinds(&holes), model.iter().collect::<String>());
                let data = model.iter().filter(|kind| **kind != '.').count() as u64;
                prop_assert_eq!(holes.data_in(Span::between(0, END)), data);
            }
        }
    }
}
