//! The lease of one blob or container.
//!
//! A pure state machine over a time given in milliseconds. Knows nothing of clocks, blobs or
//! requests; a lease is stored with its blob.
//!
//! | state     | acquire A    | acquire B | renew A   | change A→B | release A | break      | write A     | write, no id |
//! |-----------|--------------|-----------|-----------|------------|-----------|------------|-------------|--------------|
//! | available | leased       | leased    | mismatch  | no lease   | mismatch  | no lease   | not present | yes          |
//! | leased A  | leased       | present   | leased    | leased B   | available | breaking   | yes         | id missing   |
//! | breaking A| is breaking  | present   | is broken | is breaking| available | not later  | yes         | id missing   |
//! | broken A  | leased       | leased    | is broken | no lease   | available | broken     | lost        | yes, wiped   |
//! | expired A | leased       | leased    | leased    | no lease   | available | broken     | lost        | yes, wiped   |

use serde::{Deserialize, Serialize};

use super::error::{self, Code};

/// What is known of a lease. Which state that is depends on the time.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Lease {
    held: Option<Held>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Held {
    id: String,
    /// `None`: infinite.
    duration_ms: Option<i64>,
    /// When it ends by itself.
    expires_ms: Option<i64>,
    /// When it is broken, once someone has asked for that.
    broken_ms: Option<i64>,
}

/// The state of a lease at some time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Available,
    Leased,
    Expired,
    Breaking,
    Broken,
}

impl State {
    /// As `x-ms-lease-state` spells it.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Available => "available",
            Self::Leased => "leased",
            Self::Expired => "expired",
            Self::Breaking => "breaking",
            Self::Broken => "broken",
        }
    }
}

/// What a lease is on: some codes differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Leased {
    Blob,
    Container,
}

impl Leased {
    fn mismatch(self) -> Code {
        match self {
            Self::Blob => error::LEASE_ID_MISMATCH_BLOB_OP,
            Self::Container => error::LEASE_ID_MISMATCH_CONTAINER_OP,
        }
    }

    fn not_present(self) -> Code {
        match self {
            Self::Blob => error::LEASE_NOT_PRESENT_BLOB_OP,
            Self::Container => error::LEASE_NOT_PRESENT_CONTAINER_OP,
        }
    }
}

impl Lease {
    pub(super) fn state(&self, now: i64) -> State {
        let Some(held) = &self.held else {
            return State::Available;
        };
        match (held.broken_ms, held.expires_ms) {
            (Some(at), _) if now >= at => State::Broken,
            (Some(_), _) => State::Breaking,
            (None, Some(at)) if now >= at => State::Expired,
            (None, _) => State::Leased,
        }
    }

    /// `x-ms-lease-status`.
    pub(super) fn status(&self, now: i64) -> &'static str {
        match self.state(now) {
            State::Leased | State::Breaking => "locked",
            State::Available | State::Expired | State::Broken => "unlocked",
        }
    }

    /// `x-ms-lease-duration`, given only while leased.
    pub(super) fn duration(&self, now: i64) -> Option<&'static str> {
        let held = self.held.as_ref().filter(|_| self.state(now) == State::Leased)?;
        Some(if held.duration_ms.is_some() { "fixed" } else { "infinite" })
    }

    pub(super) fn acquire(
        &mut self,
        id: &str,
        duration_ms: Option<i64>,
        now: i64,
    ) -> Result<(), Code> {
        match self.state(now) {
            State::Leased if !self.is(id) => return Err(error::LEASE_ALREADY_PRESENT),
            State::Breaking if self.is(id) => return Err(error::LEASE_IS_BREAKING_ACQUIRE),
            State::Breaking => return Err(error::LEASE_ALREADY_PRESENT),
            _ => {}
        }
        self.held = Some(Held {
            id: id.to_owned(),
            duration_ms,
            expires_ms: duration_ms.map(|ms| now + ms),
            broken_ms: None,
        });
        Ok(())
    }

    pub(super) fn renew(&mut self, id: &str, now: i64) -> Result<(), Code> {
        let state = self.state(now);
        let Some(held) = self.held.as_mut().filter(|held| held.id.eq_ignore_ascii_case(id)) else {
            return Err(error::LEASE_ID_MISMATCH_LEASE_OP);
        };
        if matches!(state, State::Breaking | State::Broken) {
            return Err(error::LEASE_IS_BROKEN_RENEW);
        }
        held.expires_ms = held.duration_ms.map(|ms| now + ms);
        Ok(())
    }

    /// Succeeds again when repeated after a success, with the old id still given as the current.
    pub(super) fn change(&mut self, id: &str, proposed: &str, now: i64) -> Result<(), Code> {
        let state = self.state(now);
        let matches = self.is(id) || self.is(proposed);
        let held = match (&mut self.held, state) {
            (Some(held), State::Leased | State::Breaking) => held,
            _ => return Err(error::LEASE_NOT_PRESENT_LEASE_OP),
        };
        if !matches {
            return Err(error::LEASE_ID_MISMATCH_LEASE_OP);
        }
        if state == State::Breaking {
            return Err(error::LEASE_IS_BREAKING_CHANGE);
        }
        proposed.clone_into(&mut held.id);
        held.expires_ms = held.duration_ms.map(|ms| now + ms);
        Ok(())
    }

    pub(super) fn release(&mut self, id: &str) -> Result<(), Code> {
        if !self.is(id) {
            return Err(error::LEASE_ID_MISMATCH_LEASE_OP);
        }
        self.held = None;
        Ok(())
    }

    /// Returns the seconds after which the lease is broken.
    pub(super) fn break_lease(&mut self, period_ms: Option<i64>, now: i64) -> Result<i64, Code> {
        let state = self.state(now);
        let Some(held) = &mut self.held else {
            return Err(error::LEASE_NOT_PRESENT_LEASE_OP);
        };
        let wait = match state {
            State::Leased => {
                let rest = held.expires_ms.map(|at| at - now);
                match (period_ms, rest) {
                    (Some(period), Some(rest)) => period.min(rest),
                    (Some(period), None) => period,
                    (None, Some(rest)) => rest,
                    (None, None) => 0,
                }
            }
            State::Breaking => {
                let rest = held.broken_ms.map_or(0, |at| at - now);
                period_ms.map_or(rest, |period| period.min(rest))
            }
            State::Available | State::Expired | State::Broken => 0,
        };
        held.broken_ms = Some(now + wait);
        Ok((wait + 999) / 1000)
    }

    /// Whether a write may go on that carries this lease id. `wiped` follows with a write that did.
    pub(super) fn check_write(&self, id: Option<&str>, on: Leased, now: i64) -> Result<(), Code> {
        match (self.state(now), id) {
            (State::Leased | State::Breaking, None) => Err(error::LEASE_ID_MISSING),
            (_, None) => Ok(()),
            (_, Some(_)) => self.check_read(id, on, now),
        }
    }

    /// Whether a read may go on: it needs no id, but one that is given must be right.
    pub(super) fn check_read(&self, id: Option<&str>, on: Leased, now: i64) -> Result<(), Code> {
        let Some(id) = id else { return Ok(()) };
        match self.state(now) {
            State::Leased | State::Breaking if self.is(id) => Ok(()),
            State::Leased | State::Breaking => Err(on.mismatch()),
            State::Expired | State::Broken if self.is(id) => Err(error::LEASE_LOST),
            State::Available | State::Expired | State::Broken => Err(on.not_present()),
        }
    }

    /// A write without an id ends an expired or broken lease for good. Returns whether it did.
    pub(super) fn wipe(&mut self, now: i64) -> bool {
        let over = matches!(self.state(now), State::Expired | State::Broken);
        if over {
            self.held = None;
        }
        over
    }

    fn is(&self, id: &str) -> bool {
        self.held.as_ref().is_some_and(|held| held.id.eq_ignore_ascii_case(id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "00000000-0000-0000-0000-00000000000a";
    const B: &str = "00000000-0000-0000-0000-00000000000b";
    const C: &str = "00000000-0000-0000-0000-00000000000c";
    const NOW: i64 = 1_000_000;

    fn in_state(state: State) -> Lease {
        let mut lease = Lease::default();
        if state == State::Available {
            return lease;
        }
        let start = if state == State::Expired { NOW - 60_000 } else { NOW - 10_000 };
        lease.acquire(A, Some(60_000), start).unwrap();
        match state {
            State::Breaking => drop(lease.break_lease(Some(20_000), NOW - 5_000)),
            State::Broken => drop(lease.break_lease(Some(0), NOW - 5_000)),
            _ => {}
        }
        assert_eq!(lease.state(NOW), state);
        lease
    }

    const ALL: [State; 5] =
        [State::Available, State::Leased, State::Breaking, State::Broken, State::Expired];

    /// One row of the table for each state, in the order of [`ALL`].
    fn table(run: impl Fn(&mut Lease) -> Result<(), Code>) -> [Result<State, &'static str>; 5] {
        ALL.map(|state| {
            let mut lease = in_state(state);
            match run(&mut lease) {
                Ok(()) => Ok(lease.state(NOW)),
                Err(code) => {
                    assert_eq!(lease, in_state(state), "a refusal changes nothing");
                    Err(code.name)
                }
            }
        })
    }

    #[test]
    fn lease_operations_follow_the_table() {
        use State::{Available, Breaking, Broken, Leased};
        assert_eq!(
            table(|l| l.acquire(A, None, NOW)),
            [
                Ok(Leased),
                Ok(Leased),
                Err("LeaseIsBreakingAndCannotBeAcquired"),
                Ok(Leased),
                Ok(Leased),
            ]
        );
        assert_eq!(
            table(|l| l.acquire(B, None, NOW)),
            [
                Ok(Leased),
                Err("LeaseAlreadyPresent"),
                Err("LeaseAlreadyPresent"),
                Ok(Leased),
                Ok(Leased),
            ]
        );
        let mismatch = Err("LeaseIdMismatchWithLeaseOperation");
        let none = Err("LeaseNotPresentWithLeaseOperation");
        let broken = Err("LeaseIsBrokenAndCannotBeRenewed");
        let breaking = Err("LeaseIsBreakingAndCannotBeChanged");
        assert_eq!(table(|l| l.renew(A, NOW)), [mismatch, Ok(Leased), broken, broken, Ok(Leased)]);
        assert_eq!(table(|l| l.renew(B, NOW)), [mismatch; 5]);
        assert_eq!(table(|l| l.change(A, B, NOW)), [none, Ok(Leased), breaking, none, none]);
        assert_eq!(table(|l| l.change(B, A, NOW)), [none, Ok(Leased), breaking, none, none]);
        assert_eq!(table(|l| l.change(B, C, NOW)), [none, mismatch, mismatch, none, none]);
        assert_eq!(
            table(|l| l.release(A)),
            [mismatch, Ok(Available), Ok(Available), Ok(Available), Ok(Available),]
        );
        assert_eq!(table(|l| l.release(B)), [mismatch; 5]);
        assert_eq!(
            table(|l| l.break_lease(None, NOW).map(drop)),
            [none, Ok(Breaking), Ok(Breaking), Ok(Broken), Ok(Broken),]
        );
        assert_eq!(
            table(|l| l.break_lease(Some(0), NOW).map(drop)),
            [none, Ok(Broken), Ok(Broken), Ok(Broken), Ok(Broken),]
        );
    }

    #[test]
    fn writes_and_reads_follow_the_table() {
        let check = |id: Option<&'static str>| {
            ALL.map(|state| in_state(state).check_write(id, Leased::Blob, NOW).map_err(|c| c.name))
        };
        let missing = Err("LeaseIdMissing");
        let mismatch = Err("LeaseIdMismatchWithBlobOperation");
        let absent = Err("LeaseNotPresentWithBlobOperation");
        let lost = Err("LeaseLost");
        assert_eq!(check(None), [Ok(()), missing, missing, Ok(()), Ok(())]);
        assert_eq!(check(Some(A)), [absent, Ok(()), Ok(()), lost, lost]);
        assert_eq!(check(Some(B)), [absent, mismatch, mismatch, absent, absent]);
        for state in ALL {
            let lease = in_state(state);
            assert_eq!(lease.check_read(None, Leased::Blob, NOW), Ok(()));
            assert_eq!(
                lease.check_read(Some(A), Leased::Blob, NOW),
                lease.check_write(Some(A), Leased::Blob, NOW)
            );
        }
    }

    #[test]
    fn only_an_expired_lease_that_nobody_wrote_over_is_renewed() {
        let mut lease = in_state(State::Expired);
        assert!(lease.wipe(NOW));
        assert_eq!(
            lease.renew(A, NOW).map_err(|c| c.name),
            Err("LeaseIdMismatchWithLeaseOperation")
        );
        assert!(!in_state(State::Leased).wipe(NOW));
    }

    #[test]
    fn break_never_waits_longer_than_the_lease() {
        let rest = |duration: Option<i64>, period: Option<i64>| {
            let mut lease = Lease::default();
            lease.acquire(A, duration, NOW).unwrap();
            lease.break_lease(period, NOW + 10_000).unwrap()
        };
        assert_eq!(rest(Some(60_000), None), 50);
        assert_eq!(rest(Some(60_000), Some(20_000)), 20);
        assert_eq!(rest(Some(15_000), Some(20_000)), 5);
        assert_eq!(rest(None, None), 0);
        assert_eq!(rest(None, Some(60_000)), 60);
    }

    #[test]
    fn a_repeated_change_and_acquire_succeed() {
        let mut lease = in_state(State::Leased);
        lease.change(A, B, NOW).unwrap();
        lease.change(A, B, NOW).unwrap();
        lease.acquire(B, Some(15_000), NOW).unwrap();
        assert_eq!(lease.state(NOW + 14_999), State::Leased);
        assert_eq!(lease.state(NOW + 15_000), State::Expired);
        assert_eq!(lease.duration(NOW), Some("fixed"));
        assert_eq!((lease.status(NOW), lease.status(NOW + 15_000)), ("locked", "unlocked"));
    }
}
