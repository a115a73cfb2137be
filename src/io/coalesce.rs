//! How dirty extents become requests. Pure: spans in, actions out.
//!
//! Neighbouring data goes into one Put Page, up to the service's limit and cut at multiples of it, so
//! that streaming gives full requests whatever the writes were. Zeros go into one Clear of any
//! length; over an area already clear, into nothing. Short zeros between data are sent with it: one
//! request costs the service as much as 120 KiB (500 requests and 60 MiB a second of a page blob).

use super::span::{Span, SpanSet};

/// Zeros between data that are shorter than this, in bytes, are sent as data.
const WORTH_A_REQUEST: u64 = 128 << 10;

/// What to do with one span.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    /// Send its bytes.
    Put(Span),
    /// Clear it.
    Clear(Span),
    /// Nothing: zeros where the service has none but zeros.
    Skip(Span),
}

impl Action {
    /// The span that it deals with.
    pub fn span(self) -> Span {
        match self {
            Action::Put(span) | Action::Clear(span) | Action::Skip(span) => span,
        }
    }
}

/// Turns extents (sorted, disjoint; `true` for zeros) into actions that cover them exactly, in order.
/// `holes` is where the service is known to hold zeros; a Put is at most `max` bytes.
pub fn plan(extents: impl Iterator<Item = (Span, bool)>, holes: &SpanSet, max: u64) -> Vec<Action> {
    let mut actions = Vec::new();
    let mut data: Option<Span> = None;
    let mut zeros: Option<Span> = None;
    for (span, zero) in extents {
        let end = zeros.or(data).map_or(span.start, |last| last.end);
        if end != span.start {
            finish(&mut actions, &mut data, &mut zeros, holes, max);
        }
        let grow = |old: Option<Span>| Span {
            start: old.map_or(span.start, |old| old.start),
            end: span.end,
        };
        if zero {
            zeros = Some(grow(zeros));
            continue;
        }
        if let Some(between) = zeros {
            let short = between.len() < WORTH_A_REQUEST;
            if short && data.is_some() {
                zeros = None;
            } else {
                finish(&mut actions, &mut data, &mut zeros, holes, max);
            }
        }
        data = Some(grow(data));
    }
    finish(&mut actions, &mut data, &mut zeros, holes, max);
    actions
}

/// Ends a run: its data and then the zeros behind it.
fn finish(
    actions: &mut Vec<Action>,
    data: &mut Option<Span>,
    zeros: &mut Option<Span>,
    holes: &SpanSet,
    max: u64,
) {
    if let Some(data) = data.take() {
        actions.extend(data.split(max).map(Action::Put));
    }
    if let Some(zeros) = zeros.take() {
        let mut at = zeros.start;
        for gap in holes.gaps(zeros) {
            if at < gap.start {
                actions.push(Action::Skip(Span::between(at, gap.start)));
            }
            actions.push(Action::Clear(gap));
            at = gap.end;
        }
        if at < zeros.end {
            actions.push(Action::Skip(Span::between(at, zeros.end)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const UNIT: u64 = 32 << 10;
    const MAX: u64 = 4 << 20;

    fn cells(pattern: &str) -> Vec<(Span, bool)> {
        let cell = |(index, kind)| match kind {
            '.' => None,
            kind => Some((Span::at(index as u64 * UNIT, UNIT), kind == '0')),
        };
        pattern.chars().enumerate().filter_map(cell).collect()
    }

    fn planned(pattern: &str, holes: &[Span]) -> Vec<Action> {
        let mut set = SpanSet::new();
        holes.iter().for_each(|hole| set.insert(*hole));
        plan(cells(pattern).into_iter(), &set, MAX)
    }

    fn span(first: u64, end: u64) -> Span {
        Span::between(first * UNIT, end * UNIT)
    }

    #[test]
    fn neighbours_are_one_request() {
        assert_eq!(planned("dd.d", &[]), [Action::Put(span(0, 2)), Action::Put(span(3, 4))]);
    }

    #[test]
    fn short_zeros_go_with_the_data_and_long_ones_do_not() {
        assert_eq!(planned("d000d", &[]), [Action::Put(span(0, 5))]);
        assert_eq!(
            planned("d0000d", &[]),
            [Action::Put(span(0, 1)), Action::Clear(span(1, 5)), Action::Put(span(5, 6))]
        );
    }

    #[test]
    fn zeros_over_a_hole_cost_nothing() {
        assert_eq!(planned("00", &[span(0, 2)]), [Action::Skip(span(0, 2))]);
        assert_eq!(
            planned("0000", &[span(1, 2)]),
            [Action::Clear(span(0, 1)), Action::Skip(span(1, 2)), Action::Clear(span(2, 4))]
        );
    }

    #[test]
    fn puts_end_on_multiples_of_the_limit() {
        let extents = [(Span::between(MAX - 512, 2 * MAX + 512), false)];
        let puts = plan(extents.into_iter(), &SpanSet::new(), MAX);
        assert_eq!(
            puts,
            [
                Action::Put(Span::between(MAX - 512, MAX)),
                Action::Put(Span::between(MAX, 2 * MAX)),
                Action::Put(Span::between(2 * MAX, 2 * MAX + 512)),
            ]
        );
    }

    proptest! {
        #[test]
        fn covers_exactly_and_never_loses_data(
            pattern in "[d0.]{0,300}",
            holes in prop::collection::vec((0u64..300, 1u64..50), 0..5),
        ) {
            let holes: Vec<Span> = holes.into_iter().map(|(at, len)| span(at, at + len)).collect();
            let mut set = SpanSet::new();
            holes.iter().for_each(|hole| set.insert(*hole));
            let mut covered = SpanSet::new();
            let mut last = 0;
            for action in planned(&pattern, &holes) {
                let span = action.span();
                prop_assert!(!span.is_empty() && span.start >= last, "in order and disjoint");
                last = span.end;
                covered.insert(span);
                for (cell, zero) in cells(&pattern).into_iter().filter(|(cell, _)| cell.overlaps(span)) {
                    match action {
                        Action::Put(span) => prop_assert!(span.len() <= MAX),
                        Action::Clear(_) => prop_assert!(zero, "{:?} holds data", cell),
                        Action::Skip(_) => prop_assert!(zero && set.contains(cell.intersect(span))),
                    }
                }
            }
            let mut wanted = SpanSet::new();
            cells(&pattern).into_iter().for_each(|(cell, _)| wanted.insert(cell));
            prop_assert_eq!(covered, wanted);
        }
    }
}
