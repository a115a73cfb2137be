//! The limits of a single blob: requests and bytes a second.
//!
//! Token buckets that may go into debt, so that one large request is admitted whole and paid for
//! afterwards, and the rate is exact in the long run. Knows names, not requests.

use std::collections::HashMap;
use std::time::Instant;

use parking_lot::Mutex;

/// Seconds of the rate that may be used at once: the service tolerates a short burst.
const BURST_SECONDS: f64 = 0.2;

/// Names that are remembered; beyond that, those that have recovered are forgotten.
const REMEMBERED: usize = 10_000;

/// Limits of each blob by itself. A standard page blob serves 500 requests and 60 MiB a second.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Throttle {
    /// Requests a second.
    pub requests: f64,
    /// Bytes a second, both ways together.
    pub bytes: f64,
}

impl Throttle {
    /// What a standard page blob serves.
    pub const STANDARD: Self = Self { requests: 500.0, bytes: 60.0 * 1024.0 * 1024.0 };
}

/// What each blob has left.
#[derive(Debug)]
pub(super) struct Buckets {
    limits: Throttle,
    blobs: Mutex<HashMap<String, Levels>>,
}

#[derive(Debug, Clone, Copy)]
struct Levels {
    at: Instant,
    requests: f64,
    bytes: f64,
}

impl Levels {
    fn refill(&mut self, limits: Throttle, now: Instant) {
        let seconds = now.saturating_duration_since(self.at).as_secs_f64();
        self.at = now;
        self.requests = (self.requests + seconds * limits.requests)
            .min((limits.requests * BURST_SECONDS).max(1.0));
        self.bytes = (self.bytes + seconds * limits.bytes).min(limits.bytes * BURST_SECONDS);
    }
}

impl Buckets {
    pub(super) fn new(limits: Throttle) -> Self {
        Self { limits, blobs: Mutex::default() }
    }

    /// Admits a request, or not.
    pub(super) fn admit(&self, name: &str, now: Instant) -> bool {
        let mut blobs = self.blobs.lock();
        if blobs.len() > REMEMBERED {
            blobs.retain(|_, levels| now.saturating_duration_since(levels.at).as_secs() < 10);
        }
        let limits = self.limits;
        let levels = blobs.entry(name.to_owned()).or_insert(Levels {
            at: now,
            requests: f64::INFINITY,
            bytes: f64::INFINITY,
        });
        levels.refill(limits, now);
        let admitted = levels.requests >= 1.0 && levels.bytes > 0.0;
        if admitted {
            levels.requests -= 1.0;
        }
        admitted
    }

    /// Takes account of bytes that an admitted request moves.
    pub(super) fn charge(&self, name: &str, bytes: u64) {
        if let Some(levels) = self.blobs.lock().get_mut(name) {
            levels.bytes -= bytes as f64;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn rates_hold_in_the_long_run() {
        let start = Instant::now();
        let buckets = Buckets::new(Throttle::STANDARD);
        let count = |len: u64, step: Duration| {
            let mut admitted = 0;
            let mut now = start;
            while now < start + Duration::from_secs(10) {
                let name = len.to_string();
                if buckets.admit(&name, now) {
                    buckets.charge(&name, len);
                    admitted += 1;
                }
                now += step;
            }
            admitted
        };
        let small = count(4096, Duration::from_micros(500));
        assert!((5000..=5110).contains(&small), "{small}");
        let large = count(4 << 20, Duration::from_millis(10));
        assert!((150..=155).contains(&large), "{large}");
    }
}
