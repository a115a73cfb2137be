//! The time as the emulated service sees it: the machine's, plus whatever a test has advanced it by.
//!
//! Also hands out what must never repeat: ETags and snapshot times. Knows nothing of requests.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// 100 ns steps from year 1, where the service counts from, to 1970.
const TICKS_TO_UNIX: u64 = 621_355_968_000_000_000;
/// Steps of 100 ns in a second.
const TICKS_PER_SECOND: u64 = 10_000_000;

/// A clock that tests can advance.
#[derive(Debug, Default)]
pub(super) struct Clock {
    advanced_ms: AtomicI64,
    last_tick: AtomicU64,
}

impl Clock {
    /// Milliseconds since 1970.
    pub(super) fn now_ms(&self) -> i64 {
        real_ms() + self.advanced_ms.load(Ordering::Relaxed)
    }

    /// Makes everything that waits for time to pass older by `by`: leases, tokens, signatures.
    pub(super) fn advance(&self, by: Duration) {
        let ms = i64::try_from(by.as_millis()).unwrap_or(i64::MAX / 4);
        self.advanced_ms.fetch_add(ms, Ordering::Relaxed);
    }

    /// A number greater than any that was returned before, near the time in 100 ns steps.
    pub(super) fn tick(&self) -> u64 {
        let now =
            u64::try_from(self.now_ms()).unwrap_or(0) * 10_000 + sub_ms_ticks() + TICKS_TO_UNIX;
        let mut last = self.last_tick.load(Ordering::Relaxed);
        loop {
            let next = now.max(last + 1);
            match self.last_tick.compare_exchange_weak(
                last,
                next,
                Ordering::Relaxed,
                Ordering::Relaxed,
            ) {
                Ok(_) => return next,
                Err(seen) => last = seen,
            }
        }
    }

    /// Never returns this number or a smaller one again.
    pub(super) fn passed(&self, tick: u64) {
        self.last_tick.fetch_max(tick, Ordering::Relaxed);
    }
}

/// Milliseconds since 1970 by the machine's own clock.
pub(super) fn real_ms() -> i64 {
    since_epoch().as_millis() as i64
}

fn since_epoch() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

fn sub_ms_ticks() -> u64 {
    u64::from(since_epoch().subsec_nanos() % 1_000_000) / 100
}

/// `Fri, 20 Nov 2026 07:00:00 GMT`
pub(super) fn http_date(ms: i64) -> String {
    httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_millis(ms.max(0) as u64))
}

/// Milliseconds since 1970 of an RFC 1123 date.
pub(super) fn parse_http_date(text: &str) -> Option<i64> {
    let time = httpdate::parse_http_date(text).ok()?;
    Some(time.duration_since(UNIX_EPOCH).ok()?.as_millis() as i64)
}

/// `2026-11-20T07:00:00.1234567Z`, the form of snapshot times.
pub(super) fn snapshot_time(tick: u64) -> String {
    let unix = tick.saturating_sub(TICKS_TO_UNIX);
    let (seconds, fraction) = (unix / TICKS_PER_SECOND, unix % TICKS_PER_SECOND);
    let (year, month, day) = civil((seconds / 86_400) as i64);
    let in_day = seconds % 86_400;
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{fraction:07}Z",
        in_day / 3600,
        in_day / 60 % 60,
        in_day % 60
    )
}

/// Milliseconds since 1970 of the ISO 8601 forms that a SAS may carry.
pub(super) fn parse_iso(text: &str) -> Option<i64> {
    let text = text.strip_suffix('Z').unwrap_or(text);
    let (date, time) = text.split_once('T').unwrap_or((text, "00:00"));
    let mut date = date.split('-').map(|part| part.parse::<i64>().ok());
    let (year, month, day) = (date.next()??, date.next()??, date.next()??);
    if date.next().is_some() || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    let mut time = time.split(':');
    let hour: i64 = time.next()?.parse().ok()?;
    let minute: i64 = time.next()?.parse().ok()?;
    let second: f64 = time.next().map_or(Ok(0.0), str::parse).ok()?;
    let days = days_from_civil(year, month, day);
    Some(((days * 24 + hour) * 60 + minute) * 60_000 + (second * 1000.0) as i64)
}

/// The date of a day counted from 1970, by Hinnant's algorithm for the Gregorian calendar.
fn civil(days: i64) -> (i64, i64, i64) {
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let doe = z.rem_euclid(146_097);
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    (yoe + era * 400 + i64::from(month <= 2), month, doy - (153 * mp + 2) / 5 + 1)
}

/// The inverse of [`civil`].
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let yoe = year.rem_euclid(400);
    let mp = if month > 2 { month - 3 } else { month + 9 };
    let doe = yoe * 365 + yoe / 4 - yoe / 100 + (153 * mp + 2) / 5 + day - 1;
    era * 146_097 + doe - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_go_both_ways() {
        assert_eq!(parse_iso("1970-01-01T00:00:00Z"), Some(0));
        assert_eq!(
            parse_iso("2026-11-20T07:00:00Z"),
            parse_http_date("Fri, 20 Nov 2026 07:00:00 GMT")
        );
        assert_eq!(parse_iso("2024-02-29"), parse_http_date("Thu, 29 Feb 2024 00:00:00 GMT"));
        assert_eq!(parse_iso("2020-10-01T22:57:35.7356785Z").map(|ms| ms % 1000), Some(735));
        assert_eq!(parse_iso("soon"), None);
        for days in [-1, 0, 59, 11_016, 20_000, 47_540] {
            let (year, month, day) = civil(days);
            assert_eq!(days_from_civil(year, month, day), days);
        }
    }

    #[test]
    fn ticks_rise_and_format_as_snapshot_times() {
        let clock = Clock::default();
        let first = clock.tick();
        assert!(clock.tick() > first);
        clock.passed(first + 1_000_000_000_000);
        assert!(clock.tick() > first + 1_000_000_000_000);
        assert_eq!(snapshot_time(TICKS_TO_UNIX + 7), "1970-01-01T00:00:00.0000007Z");
        let tick =
            TICKS_TO_UNIX + parse_iso("2020-10-01T22:57:35Z").unwrap() as u64 * 10_000 + 7_356_785;
        assert_eq!(snapshot_time(tick), "2020-10-01T22:57:35.7356785Z");
    }

    #[test]
    fn an_advanced_clock_is_ahead() {
        let clock = Clock::default();
        clock.advance(Duration::from_secs(60));
        assert!(clock.now_ms() >= real_ms() + 59_900);
    }
}
