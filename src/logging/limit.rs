//! Keeps a flood of like lines from filling the log: each place in the source may write a burst,
//! then a line a second.

use std::collections::HashMap;
use std::time::{Duration, Instant};

/// Lines that a place may write at once after a quiet time: enough to see what is going on.
const BURST: u32 = 20;
/// After a burst, one line in this time.
const REFILL: Duration = Duration::from_secs(1);

/// The state of every place that has logged.
#[derive(Debug, Default)]
pub(super) struct Limiter {
    sites: HashMap<(&'static str, u32), Site>,
}

#[derive(Debug)]
struct Site {
    allowance: u32,
    refilled: Instant,
    left_out: u64,
}

impl Limiter {
    /// Whether a line of `site` may be written now, and if so, how many before it were not.
    pub(super) fn admit(&mut self, site: (&'static str, u32), now: Instant) -> Option<u64> {
        let site =
            self.sites.entry(site).or_insert(Site { allowance: BURST, refilled: now, left_out: 0 });
        let seconds = now.duration_since(site.refilled).as_secs() / REFILL.as_secs();
        if seconds > 0 {
            let more = u32::try_from(seconds).unwrap_or(BURST);
            site.allowance = site.allowance.saturating_add(more).min(BURST);
            site.refilled += Duration::from_secs(seconds);
        }
        if site.allowance == 0 {
            site.left_out += 1;
            return None;
        }
        site.allowance -= 1;
        Some(std::mem::take(&mut site.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_then_a_line_a_second() {
        let mut limiter = Limiter::default();
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        for _ in 0..BURST {
            assert_eq!(limiter.admit(("here", 1), at(0)), Some(0));
        }
        for _ in 0..5 {
            assert_eq!(limiter.admit(("here", 1), at(999)), None);
        }
        assert_eq!(limiter.admit(("there", 1), at(999)), Some(0));
        assert_eq!(limiter.admit(("here", 1), at(1000)), Some(5));
        assert_eq!(limiter.admit(("here", 1), at(1999)), None);
        // A long quiet time gives one burst and no more.
        let admitted =
            (0..100).filter(|_| limiter.admit(("here", 1), at(1_000_000)).is_some()).count();
        assert_eq!(admitted, BURST as usize);
    }
}
