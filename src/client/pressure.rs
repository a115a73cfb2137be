//! What may be asked of a target that has refused requests because it is too busy.
//!
//! A page blob serves so many requests and bytes a second and refuses the rest. If each refused request
//! paused by itself, the target would stand idle while all of them sleep, and the one that a
//! reader waits for might sleep longest. So from the first refusal on the requests of a target stand in
//! a line, oldest first, and are let through at a rate that is learned:
//!
//! | event | rate | line |
//! |---|---|---|
//! | served | grows by [`GROWTH`], well below the rate that was last refused by [`RECOVERY`] | |
//! | refused, the first since one was served | shrinks: by half if few were served at this rate, else by [`CUT`] | stands still for [`FIRST_PAUSE`] |
//! | refused again before any was served | stays: the target is working off what it let through | stands still twice as long, up to [`LONGEST_PAUSE`] |
//! | more than [`FREE`] | | dissolves |
//!
//! Targets that never refused anything are not in here and cost one look at an empty map.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

/// What a request costs besides its bytes, in bytes: 500 requests and 60 MiB a second are the limits of a
/// page blob, so that one request weighs as much as 120 KiB.
const OF_REQUEST: u64 = 120 << 10;
/// The rate after the first refusal, in bytes a second: halving it a few times finds any real limit.
const FIRST_RATE: f64 = (512 << 20) as f64;
/// The lowest rate, in bytes a second: one full update a second.
const LOWEST_RATE: f64 = (4 << 20) as f64;
/// Above this rate, in bytes a second, there is nothing to hold back.
const FREE: f64 = (1 << 30) as f64;
/// Growth of the rate with each request served.
const GROWTH: f64 = 1.01;
/// The same after a cut that went too far.
const RECOVERY: f64 = 1.05;
/// What is left of a rate that served many requests and is a little too high.
const CUT: f64 = 0.85;
/// So many requests served tell that a rate is not far off.
const MANY: u32 = 8;
/// How long a line stands still at first.
const FIRST_PAUSE: Duration = Duration::from_millis(40);
/// How long it stands still at most, unless the service asks for more: a target that serves again is
/// noticed by then.
const LONGEST_PAUSE: Duration = Duration::from_millis(320);
/// A line that nobody has used for so long is forgotten.
const FORGOTTEN: Duration = Duration::from_secs(60);

/// The lines of all targets.
#[derive(Debug, Default)]
pub(super) struct Pressure {
    lines: Mutex<HashMap<Arc<str>, Arc<Line>>>,
    tickets: AtomicU64,
}

/// One operation's place in a line, kept over its attempts.
#[derive(Debug)]
pub(super) struct Place<'a> {
    pressure: &'a Pressure,
    target: &'a Arc<str>,
    ticket: u64,
}

struct Line {
    state: Mutex<State>,
    moved: Notify,
}

#[derive(Debug)]
struct State {
    /// Bytes a second.
    rate: f64,
    /// The rate that was last too high.
    refused_at: f64,
    /// When the next one may go.
    next: Instant,
    /// Requests served since the rate was cut.
    served: u32,
    /// Refusals since one was served.
    refusals: u32,
    /// When the rate was cut: refusals of older attempts say nothing about it.
    cut: Instant,
    used: Instant,
    waiting: BTreeSet<u64>,
}

impl Pressure {
    /// A place for a new operation, behind all older ones.
    pub(super) fn place<'a>(&'a self, target: &'a Arc<str>) -> Place<'a> {
        Place { pressure: self, target, ticket: self.tickets.fetch_add(1, Ordering::Relaxed) }
    }

    fn line(&self, target: &Arc<str>) -> Option<Arc<Line>> {
        self.lines.lock().get(target).map(Arc::clone)
    }
}

impl Place<'_> {
    /// Waits until an attempt that moves so many bytes may be made. `false`: not before `deadline`.
    pub(super) async fn turn(&self, bytes: u64, deadline: Instant) -> bool {
        let Some(line) = self.pressure.line(self.target) else {
            return true;
        };
        let waiting = Waiting::join(&line, self.ticket);
        loop {
            let moved = line.moved.notified();
            tokio::pin!(moved);
            moved.as_mut().enable();
            let look_again = match line.state.lock().admit(self.ticket, bytes, Instant::now()) {
                Ok(()) => break,
                Err(at) => at.unwrap_or(deadline).min(deadline),
            };
            if timeout_at(look_again, moved).await.is_err() && Instant::now() >= deadline {
                return false;
            }
        }
        drop(waiting);
        true
    }

    /// The target did what it was asked.
    pub(super) fn served(&self) {
        if let Some(line) = self.pressure.line(self.target)
            && line.state.lock().served()
        {
            self.pressure.lines.lock().remove(self.target);
            line.moved.notify_waiters();
        }
    }

    /// The target refused an attempt made at `began`; it asks for a pause of `asked`.
    pub(super) fn refused(&self, began: Instant, asked: Option<Duration>) {
        let now = Instant::now();
        let line = {
            let mut lines = self.pressure.lines.lock();
            if !lines.contains_key(self.target) {
                lines.retain(|_, line| line.state.lock().used + FORGOTTEN > now);
            }
            let line = lines.entry(Arc::clone(self.target)).or_insert_with(|| {
                log::info!(target: "http", "{} is too busy: asked more slowly", self.target);
                Arc::new(Line { state: Mutex::new(State::new(now)), moved: Notify::new() })
            });
            Arc::clone(line)
        };
        line.state.lock().refused(began, now, asked.unwrap_or_default());
    }
}

impl State {
    fn new(now: Instant) -> State {
        State {
            rate: FIRST_RATE,
            refused_at: FIRST_RATE,
            next: now + FIRST_PAUSE,
            served: 0,
            refusals: 0,
            cut: now,
            used: now,
            waiting: BTreeSet::new(),
        }
    }

    /// Lets the holder of a ticket through, or says when that may be worth another try; `None` if
    /// somebody else is first.
    fn admit(&mut self, ticket: u64, bytes: u64, now: Instant) -> Result<(), Option<Instant>> {
        if self.waiting.first() != Some(&ticket) {
            return Err(None);
        }
        if now < self.next {
            return Err(Some(self.next));
        }
        let cost = (bytes + OF_REQUEST) as f64;
        // A wait that ends late is made up for, so that the rate is kept on a busy machine.
        let late = (now - self.next).min(FIRST_PAUSE);
        self.next = now - late + Duration::from_secs_f64(cost / self.rate);
        self.used = now;
        Ok(())
    }

    /// Whether the line is not needed any more.
    fn served(&mut self) -> bool {
        self.served += 1;
        self.refusals = 0;
        self.rate *= if self.rate < CUT * self.refused_at { RECOVERY } else { GROWTH };
        self.rate > FREE
    }

    fn refused(&mut self, began: Instant, now: Instant, asked: Duration) {
        self.used = now;
        if began >= self.cut {
            if self.served > 0 {
                self.refused_at = self.rate;
                let left = if self.served < MANY { 0.5 } else { CUT };
                self.rate = (self.rate * left).max(LOWEST_RATE);
                self.served = 0;
            }
            self.cut = now;
            self.refusals += 1;
        }
        let pause = FIRST_PAUSE * (1 << self.refusals.saturating_sub(1).min(8));
        self.next = self.next.max(now + asked + pause.min(LONGEST_PAUSE));
    }
}

/// Stands in the line until dropped.
struct Waiting<'a> {
    line: &'a Line,
    ticket: u64,
}

impl<'a> Waiting<'a> {
    fn join(line: &'a Line, ticket: u64) -> Waiting<'a> {
        line.state.lock().waiting.insert(ticket);
        Waiting { line, ticket }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.line.state.lock().waiting.remove(&self.ticket);
        self.line.moved.notify_waiters();
    }
}

impl fmt::Debug for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.state.lock().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Serves `limit` bytes a second, and a fifth of that at once.
    struct Bucket {
        limit: f64,
        level: f64,
        at: Instant,
    }

    impl Bucket {
        fn admit(&mut self, bytes: f64, now: Instant) -> bool {
            let earned = (now - self.at).as_secs_f64() * self.limit;
            self.level = (self.level + earned).min(self.limit / 5.0);
            self.at = now;
            if self.level <= 0.0 {
                return false;
            }
            self.level -= bytes;
            true
        }
    }

    #[test]
    fn finds_the_rate_that_is_served() {
        const PUT: u64 = 4 << 20;
        let limit = (60 << 20) as f64;
        let start = Instant::now();
        // The burst before the first refusal has left a debt of two seconds.
        let mut bucket = Bucket { limit, level: -2.0 * limit, at: start };
        let mut state = State::new(start);
        state.waiting.insert(1);
        let (mut served, mut refused) = (0u64, 0u64);
        let mut now = start;
        while now < start + Duration::from_secs(32) {
            match state.admit(1, PUT, now) {
                Err(at) => now = at.expect("first in the line"),
                Ok(()) if bucket.admit(PUT as f64, now) => {
                    served += 1;
                    assert!(!state.served(), "far from free");
                }
                Ok(()) => {
                    refused += 1;
                    state.refused(now, now, Duration::ZERO);
                }
            }
        }
        let rate = (served * PUT) as f64 / 30.0;
        assert!(rate > 0.95 * limit, "{rate} of {limit}");
        assert!(refused * 8 < served, "{refused} refused, {served} served");
    }

    #[tokio::test]
    async fn the_oldest_goes_first_and_others_are_not_held_up() {
        let pressure = Pressure::default();
        let (busy, idle): (Arc<str>, Arc<str>) = (Arc::from("busy"), Arc::from("idle"));
        let deadline = Instant::now() + Duration::from_secs(20);
        let old = pressure.place(&busy);
        let new = pressure.place(&busy);
        assert!(old.turn(1, deadline).await);
        new.refused(Instant::now(), None);
        let other = pressure.place(&idle);
        assert!(other.turn(1, Instant::now()).await);
        let order = Mutex::new(Vec::new());
        let take = |place: &'static str, of| {
            let (order, of): (_, &Place<'_>) = (&order, of);
            async move {
                assert!(of.turn(1, deadline).await);
                order.lock().push(place);
            }
        };
        futures_util::future::join(take("new", &new), take("old", &old)).await;
        assert_eq!(*order.lock(), ["old", "new"]);
    }

    #[tokio::test]
    async fn a_turn_that_does_not_come_ends_with_the_deadline() {
        let pressure = Pressure::default();
        let target: Arc<str> = Arc::from("busy");
        let place = pressure.place(&target);
        place.refused(Instant::now(), Some(Duration::from_secs(600)));
        assert!(!place.turn(1, Instant::now() + Duration::from_millis(20)).await);
        assert!(pressure.line(&target).unwrap().state.lock().waiting.is_empty());
    }
}
