//! Which ETags of a blob are our own, and which of them can be the current one.
//!
//! Every update gives the blob a new ETag and tells it in its answer. Updates that are in flight
//! together are applied in an order that nobody tells: the order of answers is not that of
//! processing. But an update that was *started* after another one was answered came later. So an
//! ETag can be the current one unless some answered update was started after its answer. With one
//! update at a time exactly one is left and a condition can be made of it; after a burst the
//! service has to be asked, and its answer is ours if it is among those left.
//!
//! This module must not know requests.

use std::collections::VecDeque;

/// How many of our own ETags are remembered. A name that was looked up while updates went on shows one
/// of the last few; more than the largest number of updates in flight.
const REMEMBERED: usize = 64;

/// When an update was started.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ticket(u64);

/// The ETags of one opened blob.
#[derive(Clone, Debug)]
pub(super) struct Etags<T> {
    clock: u64,
    /// The newest by answer.
    newest: T,
    /// Those that can be the current one, with the time of their answer; never empty.
    current: Vec<(u64, T)>,
    recent: VecDeque<T>,
}

impl<T: Clone + PartialEq> Etags<T> {
    /// The blob is at `etag`, and no update is in flight.
    pub(super) fn new(etag: T) -> Etags<T> {
        Etags {
            clock: 0,
            newest: etag.clone(),
            current: vec![(0, etag.clone())],
            recent: VecDeque::from([etag]),
        }
    }

    /// An update is about to be sent.
    pub(super) fn start(&mut self) -> Ticket {
        self.clock += 1;
        Ticket(self.clock)
    }

    /// The update of `ticket` was applied and made `etag`.
    pub(super) fn applied(&mut self, ticket: Ticket, etag: T) {
        self.clock += 1;
        self.current.retain(|(answered, _)| *answered > ticket.0);
        self.current.push((self.clock, etag.clone()));
        self.newest = etag.clone();
        if self.recent.len() == REMEMBERED {
            self.recent.pop_front();
        }
        self.recent.push_back(etag);
    }

    /// The blob was found at `etag`, one of our own, with no update in flight.
    pub(super) fn settled(&mut self, etag: T) {
        self.clock += 1;
        self.newest = etag.clone();
        self.current = vec![(self.clock, etag)];
    }

    /// The version is called `etag` now, though its content is the same.
    pub(super) fn renamed(&mut self, etag: T) {
        self.clock += 1;
        self.current = vec![(self.clock, etag.clone())];
        self.recent.push_back(etag);
    }

    /// The one that was answered last. Not surely the current one.
    pub(super) fn newest(&self) -> &T {
        &self.newest
    }

    /// The current one, if there is only one that can be.
    pub(super) fn certain(&self) -> Option<&T> {
        match &self.current[..] {
            [(_, etag)] => Some(etag),
            _ => None,
        }
    }

    /// Whether it can be the current one.
    pub(super) fn may_be_current(&self, etag: &T) -> bool {
        self.current.iter().any(|(_, known)| known == etag)
    }

    /// Whether it is one of our own of late.
    pub(super) fn is_ours(&self, etag: &T) -> bool {
        self.recent.contains(etag) || self.may_be_current(etag)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::Etags;

    #[test]
    fn one_at_a_time_is_certain() {
        let mut etags = Etags::new("a");
        for etag in ["b", "c", "d"] {
            let ticket = etags.start();
            etags.applied(ticket, etag);
            assert_eq!(etags.certain(), Some(&etag));
        }
        assert!(etags.is_ours(&"a") && !etags.is_ours(&"x"));
    }

    #[test]
    fn those_in_flight_together_are_not() {
        let mut etags = Etags::new("a");
        let (first, second) = (etags.start(), etags.start());
        etags.applied(second, "c");
        etags.applied(first, "b");
        assert_eq!(etags.certain(), None);
        assert!(etags.may_be_current(&"b") && etags.may_be_current(&"c"));
        assert!(!etags.may_be_current(&"a"));
        etags.settled("c");
        assert_eq!(etags.certain(), Some(&"c"));
    }

    proptest! {
        /// The service applies each update at some moment between start and answer; the one that it
        /// applied last is always among those that can be current.
        #[test]
        fn the_truth_is_always_a_candidate(moves in prop::collection::vec((0..3u8, 0..8usize), 1..60)) {
            let mut etags = Etags::new(0u32);
            let (mut sent, mut applied, mut truth, mut next) = (vec![], vec![], 0u32, 1u32);
            for (kind, pick) in moves {
                match kind {
                    0 => { sent.push((etags.start(), next)); next += 1; }
                    1 if !sent.is_empty() => {
                        let update = sent.remove(pick % sent.len());
                        truth = update.1;
                        applied.push(update);
                    }
                    2 if !applied.is_empty() => {
                        let (ticket, etag) = applied.remove(pick % applied.len());
                        etags.applied(ticket, etag);
                    }
                    _ => {}
                }
                if applied.is_empty() {
                    prop_assert!(etags.may_be_current(&truth));
                }
            }
        }
    }
}
