//! Renewing leases: one task for the whole store, which sleeps while nothing is leased.
//!
//! It makes the confirming of a lease before an update rare; nothing depends on it.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::Notify;

use super::client::Rest;
use super::lease::{Entry, Lease, Leases, now};
use crate::store::{Result, Retry};

/// A lease is renewed after this part of its duration, so that two renewals may fail.
const RENEWALS: u32 = 3;

/// How long one renewal in the background may take: well below a third of the shortest lease.
const RENEWAL_LIMIT: Duration = Duration::from_secs(4);

/// The pause before a renewal that failed for now is tried again.
const RENEWAL_PAUSE: Duration = Duration::from_secs(2);

impl Leases {
    /// Starts the task that renews, unless it runs.
    pub(super) fn keep_renewing(self: &Arc<Self>) {
        if self.renewing.swap(true, Ordering::AcqRel) {
            self.wake.notify_one();
        } else {
            tokio::spawn(renew(Arc::downgrade(self), Arc::clone(&self.wake)));
        }
    }

    /// Those to be renewed by now, and how long it is until the next one is due; `None` if there is
    /// none.
    fn due(&self) -> (Vec<Arc<Lease>>, Option<Duration>) {
        let mut due = Vec::new();
        let mut next: Option<u64> = None;
        let now = now();
        for Entry { lease, .. } in self.held.lock().values() {
            let Some(at) = lease.renew_at() else { continue };
            if at <= now {
                due.push(Arc::clone(lease));
            } else {
                next = Some(next.map_or(at, |next| next.min(at)));
            }
        }
        (due, next.map(|at| Duration::from_millis(at - now)))
    }
}

impl Lease {
    /// When it is to be renewed, or taken after its youth, in milliseconds of [`now`]. One that was refused
    /// is left to the next update.
    fn renew_at(&self) -> Option<u64> {
        let young_until = self.young_until.load(Ordering::Acquire);
        if young_until != 0 {
            return Some(young_until);
        }
        let at = self.confirmed.load(Ordering::Acquire);
        let lasts = self.terms.lasts()?;
        (at != 0).then(|| at + lasts / u64::from(RENEWALS))
    }

    /// Renews or takes it in the background, unless it was given back.
    async fn renew(&self, rest: &Rest) -> Result<()> {
        let lock = self.lock.lock().await;
        if lock.is_none() {
            return Ok(());
        }
        if self.young_until.load(Ordering::Acquire) != 0 {
            return self.take_anew(rest).await;
        }
        self.ask_to_renew(rest).await
    }
}

/// Renews what is due for as long as the store lives.
async fn renew(leases: Weak<Leases>, wake: Arc<Notify>) {
    loop {
        let Some(strong) = leases.upgrade() else { return };
        let (due, next) = strong.due();
        let mut failed = false;
        if !due.is_empty() {
            let rest = &strong.rest;
            let renewed = due.iter().map(|lease| async {
                let renewal = lease.renew(rest);
                match tokio::time::timeout(RENEWAL_LIMIT, renewal).await {
                    Ok(Err(error)) if error.retry() == Retry::Permanent => {
                        log::warn!(target: "lease", "{error}; looked into before the next update");
                        true
                    }
                    Ok(result) => result.is_ok(),
                    Err(_) => false,
                }
            });
            failed = join_all(renewed).await.contains(&false);
        }
        drop(strong);
        match next {
            _ if failed => tokio::time::sleep(RENEWAL_PAUSE).await,
            _ if !due.is_empty() => {}
            None => wake.notified().await,
            Some(pause) => {
                // A lease that is taken meanwhile is due later than those there are.
                tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    () = wake.notified() => {}
                }
            }
        }
    }
}
