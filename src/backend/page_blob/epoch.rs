//! The epochs of one blob: what a writer may send, and what it must do first.
//!
//! An update whose outcome is not known may be applied at any later time, after newer ones of the same
//! bytes, and would undo them. The cure is the service's own ("Use the page blob sequence number to
//! retry requests"): every update carries the condition that the blob's sequence number is less than
//! its **epoch** plus one, and before anything is sent again the number is raised to the next epoch,
//! so that whatever is still on its way is refused when it arrives.
//!
//! The number is only ever raised, with the action `max`: a late duplicate of a raise changes nothing,
//! where one of `update` would lower the number and one of `increment` overshoot. `less than epoch + 1`
//! therefore says the same as `equal to epoch`, and is what the document uses.
//!
//! | state | may send | answered | refused, in this epoch | outcome unknown | raise answered as asked | raise answered higher |
//! |---|---|---|---|---|---|---|
//! | Steady | yes, in this epoch | Steady | **Fenced** | Doubt | | |
//! | Doubt | after a raise | Doubt | **Fenced** | Doubt | | |
//! | Raising | after a raise | Raising | Raising | Raising | Steady, next epoch | **Fenced** |
//! | Fenced | never | Fenced | Fenced | Fenced | Fenced | Fenced |
//!
//! *Refused* is an answer that the condition on the sequence number was not met: that update was not
//! applied. If a raise of ours may have been applied, or the update was of an older epoch, we did it
//! ourselves and send it again; otherwise somebody else has raised the number. A raise is sent only
//! when no update is in flight. It leaves the state Raising until one is answered, however often it is
//! sent and whether or not those who sent it still wait.
//!
//! This module must not know requests, leases or tasks: it is driven by `updates`, and by a model of an
//! unreliable service in its tests.

/// The largest sequence number of a blob: the service holds it in 63 bits.
pub(super) const LAST: u64 = (1 << 63) - 1;

/// Where the writer stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// Every update that was sent has ended, or will, with a known outcome.
    Steady,
    /// An update of this epoch may be applied at any time.
    Doubt,
    /// So it may, and the number may have been raised already.
    Raising,
    /// Somebody else writes. For good.
    Fenced,
}

/// Whether an update may be sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Admission {
    /// Now, in this epoch; it counts as in flight until [`Epoch::ended`].
    Send(u64),
    /// After [`Epoch::raise`].
    RaiseFirst,
    /// Never.
    Fenced,
}

/// How an update ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum End {
    /// Applied, or surely not applied for a reason that has nothing to do with epochs.
    Known,
    /// The condition on the sequence number was not met.
    Refused,
    /// It may have been applied, or may yet be.
    Unknown,
}

/// What to do about an update that has ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Next {
    /// Nothing: its outcome stands.
    Done,
    /// Send it again, once that is admitted.
    Again,
    /// Give up: somebody else writes.
    Fenced,
}

/// The epochs of one blob and its writer.
#[derive(Clone, Debug)]
pub(super) struct Epoch {
    number: u64,
    state: State,
    in_flight: u32,
}

impl Epoch {
    /// The blob's sequence number is `number`, by a raise of ours or because we made the blob.
    pub(super) fn new(number: u64) -> Epoch {
        let epoch = Epoch { number, state: State::Steady, in_flight: 0 };
        epoch.check_invariants();
        epoch
    }

    /// The epoch that updates are sent in.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// Whether an update may still be applied without our knowing.
    pub(super) fn is_in_doubt(&self) -> bool {
        matches!(self.state, State::Doubt | State::Raising)
    }

    /// Whether somebody else writes.
    pub(super) fn is_fenced(&self) -> bool {
        self.state == State::Fenced
    }

    /// Asks whether an update may be sent.
    pub(super) fn admit(&mut self) -> Admission {
        match self.state {
            State::Steady => {
                self.in_flight += 1;
                Admission::Send(self.number)
            }
            State::Doubt | State::Raising => Admission::RaiseFirst,
            State::Fenced => Admission::Fenced,
        }
    }

    /// An update that was admitted in the epoch `sent` has ended, or nobody waits for it any more.
    pub(super) fn ended(&mut self, sent: u64, how: End) -> Next {
        self.in_flight -= 1;
        let ours = sent < self.number || self.state == State::Raising;
        let next = match how {
            End::Known => Next::Done,
            _ if self.state == State::Fenced => Next::Fenced,
            End::Refused if ours => Next::Again,
            End::Refused => {
                self.state = State::Fenced;
                Next::Fenced
            }
            End::Unknown => {
                // Of an older epoch it can do nothing any more.
                if sent == self.number && self.state == State::Steady {
                    self.state = State::Doubt;
                }
                Next::Again
            }
        };
        self.check_invariants();
        next
    }

    /// What the sequence number must be raised to before anything is sent; `None` if nothing need be.
    /// No update may be in flight.
    pub(super) fn raise(&mut self) -> Option<u64> {
        if !self.is_in_doubt() {
            return None;
        }
        self.state = State::Raising;
        self.check_invariants();
        Some(self.number + 1)
    }

    /// A raise to `asked` was answered with the number `found`. Whether we are still the writer.
    pub(super) fn raised(&mut self, asked: u64, found: u64) -> bool {
        if self.state == State::Raising && asked == self.number + 1 && found >= asked {
            if found == asked {
                self.number = asked;
                self.state = State::Steady;
            } else {
                self.state = State::Fenced;
            }
        }
        self.check_invariants();
        !self.is_fenced()
    }

    /// Somebody else writes, as was found out otherwise.
    pub(super) fn fence(&mut self) {
        self.state = State::Fenced;
    }

    /// What holds in every state. Called after every change, in debug builds.
    pub(super) fn check_invariants(&self) {
        debug_assert!(self.number <= LAST, "an epoch is a sequence number");
        debug_assert!(
            self.state != State::Raising || self.in_flight == 0,
            "a raise is sent when no update is in flight, and none is sent during it"
        );
    }
}

#[cfg(test)]
#[path = "epoch_tests.rs"]
mod tests;
