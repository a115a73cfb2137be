//! Sizes, times and permission bits as they are typed, and back. Pure functions; a value that makes
//! no sense is `None`, and the caller knows what to say about it.

use std::time::Duration;

/// What a service allows, as typed after `--throttle`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Throttle {
    /// Requests a second.
    pub requests: Option<u32>,
    /// Bytes a second.
    pub bytes: Option<u64>,
}

/// Bytes: a number alone, or with K, M, G, T or KiB, MiB, GiB, TiB, all of them powers of 1024 in
/// either case. `KB` and its like are refused, because nobody knows which of the two they mean.
pub fn parse_size(text: &str) -> Option<u64> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let shift = match unit.to_ascii_lowercase().as_str() {
        "" => 0,
        "k" | "kib" => 10,
        "m" | "mib" => 20,
        "g" | "gib" => 30,
        "t" | "tib" => 40,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(1 << shift)
}

/// Bytes in the largest unit that divides them.
pub fn show_size(bytes: u64) -> String {
    let units = [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")];
    units
        .into_iter()
        .find(|(shift, _)| bytes != 0 && bytes.is_multiple_of(1 << shift))
        .map_or_else(|| bytes.to_string(), |(shift, unit)| format!("{}{unit}", bytes >> shift))
}

/// A time: seconds, or a number with `ms`, `s`, `m` or `h`; fractions are allowed. Nine digits
/// before the point (32 years of seconds) and nine after it are the most that is taken.
pub fn parse_duration(text: &str) -> Option<Duration> {
    let unit_at = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(unit_at);
    let nanos_per_unit: u128 = match unit {
        "ms" => 1_000_000,
        "" | "s" => 1_000_000_000,
        "m" => 60 * 1_000_000_000,
        "h" => 3600 * 1_000_000_000,
        _ => return None,
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.len() > 9 || fraction.len() > 9 || (whole.is_empty() && fraction.is_empty()) {
        return None;
    }
    let digits = |text: &str| match text {
        "" => Some(0),
        text => text.parse::<u128>().ok(),
    };
    let scale = 10u128.pow(u32::try_from(fraction.len()).ok()?);
    let nanos = (digits(whole)? * scale + digits(fraction)?) * nanos_per_unit / scale;
    Some(Duration::new(
        u64::try_from(nanos / 1_000_000_000).ok()?,
        u32::try_from(nanos % 1_000_000_000).ok()?,
    ))
}

/// A time in whole milliseconds or, where that is exact, seconds.
pub fn show_duration(time: Duration) -> String {
    if time.subsec_nanos() == 0 {
        format!("{}s", time.as_secs())
    } else {
        format!("{}ms", time.as_millis())
    }
}

/// Permission bits in octal, at most 0777.
pub fn parse_octal(text: &str) -> Option<u32> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    u32::from_str_radix(text, 8).ok().filter(|bits| digits && *bits <= 0o777)
}

/// `500req,60MiB`: requests a second, bytes a second, or one of them.
pub fn parse_throttle(text: &str) -> Option<Throttle> {
    let mut throttle = Throttle::default();
    for part in text.split(',') {
        let taken = if let Some(number) = part.strip_suffix("req") {
            let requests = number.parse().ok().filter(|requests| *requests > 0)?;
            throttle.requests.replace(requests).is_some()
        } else {
            let bytes = parse_size(part).filter(|bytes| *bytes > 0)?;
            throttle.bytes.replace(bytes).is_some()
        };
        if taken {
            return None;
        }
    }
    Some(throttle)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sizes() {
        for (text, bytes) in [
            ("0", Some(0)),
            ("4096", Some(4096)),
            ("1K", Some(1024)),
            ("1KiB", Some(1024)),
            ("256MiB", Some(256 << 20)),
            ("2g", Some(2 << 30)),
            ("16777215TiB", Some(16_777_215 << 40)),
            ("16777216TiB", None),
            ("", None),
            ("K", None),
            ("1KB", None),
            ("1.5G", None),
            ("-1", None),
            ("+1", None),
            ("1 K", None),
            ("99999999999999999999", None),
        ] {
            assert_eq!(parse_size(text), bytes, "{text:?}");
        }
    }

    #[test]
    fn durations() {
        for (text, millis) in [
            ("0", Some(0)),
            ("1", Some(1000)),
            ("1s", Some(1000)),
            ("0.5", Some(500)),
            (".5s", Some(500)),
            ("2.", Some(2000)),
            ("200ms", Some(200)),
            ("2m", Some(120_000)),
            ("1h", Some(3_600_000)),
            ("", None),
            (".", None),
            ("s", None),
            ("-1", None),
            ("1e3", None),
            ("inf", None),
            ("1.2.3", None),
            ("1000000000", None),
            ("1d", None),
        ] {
            let expected = millis.map(Duration::from_millis);
            assert_eq!(parse_duration(text), expected, "{text:?}");
        }
    }

    #[test]
    fn octals_and_throttles() {
        for (text, bits) in [
            ("022", Some(0o022)),
            ("0", Some(0)),
            ("777", Some(0o777)),
            ("1000", None),
            ("8", None),
            ("+22", None),
            ("", None),
        ] {
            assert_eq!(parse_octal(text), bits, "{text:?}");
        }
        let throttle = |requests, bytes| Some(Throttle { requests, bytes });
        for (text, expected) in [
            ("500req,60MiB", throttle(Some(500), Some(60 << 20))),
            ("60MiB,500req", throttle(Some(500), Some(60 << 20))),
            ("500req", throttle(Some(500), None)),
            ("1G", throttle(None, Some(1 << 30))),
            ("", None),
            ("0req", None),
            ("500req,500req", None),
            ("500 req", None),
            ("1M,2M", None),
        ] {
            assert_eq!(parse_throttle(text), expected, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn a_size_is_read_as_it_is_shown(bytes in any::<u64>(), shift in 0u32..64) {
            let bytes = bytes >> shift << (shift / 2);
            prop_assert_eq!(parse_size(&show_size(bytes)), Some(bytes));
        }

        #[test]
        fn a_duration_is_read_as_it_is_shown(millis in 0u64..900_000_000) {
            let time = Duration::from_millis(millis);
            prop_assert_eq!(parse_duration(&show_duration(time)), Some(time));
        }

        #[test]
        fn anything_is_read_or_refused(text in any::<String>()) {
            let _ = (parse_size(&text), parse_duration(&text), parse_octal(&text), parse_throttle(&text));
        }

        #[test]
        fn likely_text_is_read_or_refused(text in "[0-9.]{0,12}[a-zA-Z,]{0,4}") {
            let _ = (parse_size(&text), parse_duration(&text), parse_octal(&text), parse_throttle(&text));
        }
    }
}
