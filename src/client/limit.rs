//! How many requests are under way at once: as many as were allowed, and fewer while the service says
//! that it is too many.
//!
//! Additive increase, multiplicative decrease, as TCP finds the rate of a path that it knows nothing of: an
//! answer that the service is busy halves the limit, once for all the requests that were under way when
//! it came; every limit's worth of good answers raises it by one. The limit is shared fairly: those who
//! wait are served in the order in which they came.

use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use tokio::sync::{Semaphore, SemaphorePermit};

/// The permits of one client.
#[derive(Debug)]
pub(super) struct Limit {
    permits: Semaphore,
    most: usize,
    state: Mutex<State>,
    /// Attempts so far, to know which were under way at a decrease.
    attempts: AtomicU64,
}

#[derive(Debug)]
struct State {
    /// What is allowed.
    allowed: usize,
    /// Permits that exist; while there are more than allowed, those that come back are not given out.
    existing: usize,
    /// Good answers since the limit was changed.
    good: usize,
    /// Attempts begun before the last decrease say nothing new.
    decreased_at: u64,
}

/// The right to have one request under way.
#[derive(Debug)]
pub(super) struct Slot<'a> {
    limit: &'a Limit,
    permit: Option<SemaphorePermit<'a>>,
    attempt: u64,
}

impl Limit {
    /// At most this many; at least one.
    pub(super) fn new(most: usize) -> Limit {
        let most = most.max(1);
        Limit {
            permits: Semaphore::new(most),
            most,
            state: Mutex::new(State { allowed: most, existing: most, good: 0, decreased_at: 0 }),
            attempts: AtomicU64::new(0),
        }
    }

    /// Waits for the turn of one request.
    pub(super) async fn slot(&self) -> Slot<'_> {
        let permit = self.permits.acquire().await.expect("the semaphore is never closed");
        let attempt = self.attempts.fetch_add(1, Ordering::Relaxed) + 1;
        Slot { limit: self, permit: Some(permit), attempt }
    }

    #[cfg(test)]
    fn allowed(&self) -> usize {
        self.state.lock().allowed
    }
}

impl Slot<'_> {
    /// The service has answered, and not that it is busy.
    pub(super) fn went_well(&self) {
        let mut state = self.limit.state.lock();
        if state.allowed == self.limit.most {
            return;
        }
        state.good += 1;
        if state.good >= state.allowed {
            state.good = 0;
            state.allowed += 1;
            if state.existing < state.allowed {
                state.existing += 1;
                self.limit.permits.add_permits(1);
            }
        }
    }

    /// The service has answered that it is busy.
    pub(super) fn was_too_much(&self) {
        let mut state = self.limit.state.lock();
        if self.attempt <= state.decreased_at {
            return;
        }
        state.decreased_at = self.limit.attempts.load(Ordering::Relaxed);
        state.good = 0;
        let before = state.allowed;
        state.allowed = (before / 2).max(1);
        // Those that nobody holds go at once, the others when they come back.
        let unused = self.limit.permits.forget_permits(state.existing - state.allowed);
        state.existing -= unused;
        if state.allowed < before {
            log::debug!(target: "http", "the service is busy: {} requests at once instead of {before}", state.allowed);
        }
    }
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        let mut state = self.limit.state.lock();
        if state.existing > state.allowed {
            state.existing -= 1;
            if let Some(permit) = self.permit.take() {
                permit.forget();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use futures_util::future::join_all;

    use super::{Limit, Slot};

    /// As many slots as there are.
    fn all(limit: &Limit) -> Vec<Slot<'_>> {
        std::iter::from_fn(|| limit.slot().now_or_never()).collect()
    }

    #[test]
    fn halves_once_for_those_under_way_and_climbs_again() {
        let limit = Limit::new(8);
        let slots = all(&limit);
        assert_eq!(slots.len(), 8);
        for slot in &slots {
            slot.was_too_much();
        }
        assert_eq!(limit.allowed(), 4, "they were under way together");
        drop(slots);
        let slots = all(&limit);
        assert_eq!(slots.len(), 4);
        slots[0].was_too_much();
        drop(slots);
        for _ in 0..5 {
            all(&limit)[0].was_too_much();
        }
        assert_eq!((limit.allowed(), all(&limit).len()), (1, 1), "never none");
        for expected in 2..=8 {
            for _ in 1..expected {
                assert_eq!(limit.allowed(), expected - 1);
                all(&limit)[0].went_well();
            }
            assert_eq!((limit.allowed(), all(&limit).len()), (expected, expected));
        }
        all(&limit)[0].went_well();
        assert_eq!(all(&limit).len(), 8, "never more than at first");
    }

    #[tokio::test]
    async fn permits_are_neither_lost_nor_made() {
        let limit = Limit::new(6);
        let work = (0..600).map(|n| {
            let limit = &limit;
            async move {
                let slot = limit.slot().await;
                tokio::task::yield_now().await;
                match n % 7 {
                    0 => slot.was_too_much(),
                    _ => slot.went_well(),
                }
            }
        });
        join_all(work).await;
        assert_eq!(all(&limit).len(), limit.allowed());
        for _ in 0..100 {
            limit.slot().await.went_well();
        }
        assert_eq!(all(&limit).len(), 6);
    }
}
