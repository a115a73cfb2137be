//! How many requests may be under way: as many as the service bears, up to what was configured.
//!
//! | the service | concurrency | pause for everybody |
//! |---|---|---|
//! | serves | grows by one for each round of requests | none |
//! | says that it is busy | halved, once for each round | random, longer with each refusal in a row |
//!
//! A request that was refused waits here, together with those that were not sent yet: twenty requests
//! that each back off by themselves would all come back too early, and then all too late.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, sleep_until};

/// The bound of the first pause: short beside the fifth of a second that a page blob's limits are
/// evened out over.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// Refusals in a row after which the bound of the pause doubles.
const REFUSALS_A_STEP: u32 = 4;
/// The bound of every pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(8);
/// Refusals this soon after the concurrency was halved answer requests sent before.
const ROUND: Duration = Duration::from_millis(100);

/// The limit of one client.
#[derive(Debug)]
pub(super) struct Limit {
    slots: Semaphore,
    most: usize,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Requests that may be under way together; from 1 to `most`.
    allowed: usize,
    /// Slots in use beyond what is allowed: they go when they become free.
    surplus: usize,
    /// Requests served since `allowed` grew.
    served: usize,
    refused_in_a_row: u32,
    halved: Option<Instant>,
    /// Nothing is sent before.
    resume: Instant,
}

/// The right to have one request under way; given back when dropped.
#[derive(Debug)]
pub(super) struct Slot<'a> {
    limit: &'a Limit,
    permit: Option<SemaphorePermit<'a>>,
}

impl Limit {
    /// A limit of at most `most` requests, all of them allowed at first.
    pub(super) fn new(most: usize) -> Limit {
        let most = most.max(1);
        Limit {
            slots: Semaphore::new(most),
            most,
            state: Mutex::new(State {
                allowed: most,
                surplus: 0,
                served: 0,
                refused_in_a_row: 0,
                halved: None,
                resume: Instant::now(),
            }),
        }
    }

    /// Waits until a request may be sent.
    pub(super) async fn acquire(&self) -> Slot<'_> {
        loop {
            let permit = self.slots.acquire().await.expect("the semaphore is never closed");
            let slot = Slot { limit: self, permit: Some(permit) };
            let resume = self.state.lock().resume;
            if resume <= Instant::now() {
                return slot;
            }
            // With the slot in hand: those behind need not wake up for a pause.
            sleep_until(resume).await;
            if self.state.lock().resume <= Instant::now() {
                return slot;
            }
        }
    }

    /// A request was served.
    pub(super) fn served(&self) {
        let mut state = self.state.lock();
        state.refused_in_a_row = 0;
        if state.allowed == self.most {
            return;
        }
        state.served += 1;
        if state.served >= state.allowed {
            state.served = 0;
            state.allowed += 1;
            if state.surplus > 0 {
                state.surplus -= 1;
            } else {
                self.slots.add_permits(1);
            }
        }
    }

    /// A request was refused because of load; the service asked to wait so long, if it did.
    pub(super) fn refused(&self, retry_after: Option<Duration>, random: u64) {
        let mut state = self.state.lock();
        let now = Instant::now();
        if state.halved.is_none_or(|halved| now - halved >= ROUND) {
            state.halved = Some(now);
            state.served = 0;
            let fewer = state.allowed - (state.allowed / 2).max(1);
            state.allowed -= fewer;
            let idle = self.slots.forget_permits(fewer);
            state.surplus += fewer - idle;
        }
        let pause = pause(state.refused_in_a_row, retry_after, random);
        state.refused_in_a_row = state.refused_in_a_row.saturating_add(1);
        state.resume = state.resume.max(now + pause);
    }
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        let mut state = self.limit.state.lock();
        if state.surplus > 0 {
            state.surplus -= 1;
            if let Some(permit) = self.permit.take() {
                permit.forget();
            }
        }
    }
}

/// The pause after so many refusals in a row: between half of its bound and all of it, on top of what
/// the service asked for.
fn pause(refusals: u32, retry_after: Option<Duration>, random: u64) -> Duration {
    let doubled = 1u32.checked_shl(refusals / REFUSALS_A_STEP).unwrap_or(u32::MAX);
    let bound = FIRST_PAUSE.saturating_mul(doubled).min(LONGEST_PAUSE);
    let half = (bound.as_micros() / 2) as u64;
    let part = half + (half.saturating_mul(random >> 32) >> 32);
    retry_after.unwrap_or_default() + Duration::from_micros(part)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(limit: &Limit) -> usize {
        limit.state.lock().allowed
    }

    /// Slots that could be taken now, were there no pause.
    fn free(limit: &Limit) -> usize {
        limit.slots.available_permits()
    }

    #[tokio::test(start_paused = true)]
    async fn halves_once_a_round_and_climbs_again() {
        let limit = Limit::new(24);
        for _ in 0..10 {
            limit.refused(None, 0);
        }
        assert_eq!((allowed(&limit), free(&limit)), (12, 12), "one round, one halving");
        tokio::time::advance(ROUND).await;
        limit.refused(None, 0);
        assert_eq!((allowed(&limit), free(&limit)), (6, 6));
        for _ in 0..6 {
            limit.served();
        }
        assert_eq!((allowed(&limit), free(&limit)), (7, 7));
        for _ in 0..1000 {
            limit.served();
        }
        assert_eq!((allowed(&limit), free(&limit)), (24, 24));
    }

    #[tokio::test(start_paused = true)]
    async fn never_allows_less_than_one() {
        let limit = Limit::new(4);
        for _ in 0..20 {
            tokio::time::advance(ROUND).await;
            limit.refused(None, 0);
        }
        assert_eq!(allowed(&limit), 1);
        let slot = limit.acquire().await;
        drop(slot);
        assert_eq!(free(&limit), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn slots_in_use_beyond_the_limit_go_when_they_become_free() {
        let limit = Limit::new(8);
        let mut slots = Vec::new();
        for _ in 0..8 {
            slots.push(limit.acquire().await);
        }
        limit.refused(None, 0);
        assert_eq!((allowed(&limit), free(&limit)), (4, 0));
        slots.truncate(4);
        assert_eq!(free(&limit), 0);
        drop(slots);
        assert_eq!(free(&limit), 4);
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_sent_in_the_pause_that_the_service_asked_for() {
        let limit = Limit::new(8);
        let begun = Instant::now();
        limit.refused(Some(Duration::from_secs(3)), 0);
        drop(limit.acquire().await);
        assert!(begun.elapsed() >= Duration::from_secs(3));
    }

    #[test]
    fn pauses_grow_slowly_and_are_bounded() {
        assert_eq!(pause(0, None, u64::MAX), pause(3, None, u64::MAX));
        assert!(pause(4, None, 0) >= FIRST_PAUSE);
        assert!(pause(u32::MAX, None, u64::MAX) <= LONGEST_PAUSE);
    }
}
