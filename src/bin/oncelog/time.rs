//! Times and durations as operators write and read them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use oncelog::{Clock, SystemClock};

pub(crate) fn now() -> SystemTime {
    SystemClock.wall()
}

/// Time since some point of this process.
pub(crate) fn monotonic() -> Duration {
    SystemClock.monotonic()
}

/// A time of RFC 3339, a date (its beginning, UTC), or how long ago.
pub(crate) fn parse(text: &str) -> Result<SystemTime, String> {
    if let Ok(ago) = humantime::parse_duration(text) {
        return now().checked_sub(ago).ok_or_else(|| format!("{text} is before all time"));
    }
    let whole =
        if text.len() == "2026-11-24".len() { format!("{text}T00:00:00Z") } else { text.into() };
    humantime::parse_rfc3339_weak(&whole).map_err(|_| {
        "neither a time such as 2026-11-24T12:00:00Z nor a duration ago such as 2h".into()
    })
}

pub(crate) fn rfc3339(time: SystemTime) -> String {
    let ms = time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis());
    let ms = u64::try_from(ms).unwrap_or(u64::MAX);
    // The formatter knows the years up to 9999, in seconds since 1970.
    const LAST_MS: u64 = 253_402_300_799_000;
    humantime::format_rfc3339_millis(UNIX_EPOCH + Duration::from_millis(ms.min(LAST_MS)))
        .to_string()
}

/// In the two largest units: `3d 4h`.
pub(crate) fn span(duration: Duration) -> String {
    if duration < Duration::from_secs(1) {
        return latency(duration);
    }
    let whole = humantime::format_duration(Duration::from_secs(duration.as_secs())).to_string();
    let short = |part: &str| {
        let digits = part.trim_end_matches(|letter: char| letter.is_alphabetic());
        let unit = match part[digits.len()..].trim_end_matches('s') {
            "year" => "y",
            "month" => "mo",
            "day" => "d",
            "" => "s",
            unit => unit,
        };
        format!("{digits}{unit}")
    };
    whole.split(' ').take(2).map(short).collect::<Vec<_>>().join(" ")
}

/// In the unit that shows three digits.
pub(crate) fn latency(duration: Duration) -> String {
    let (seconds, digits) = (duration.as_secs_f64(), 3);
    let (value, unit) = match duration.as_nanos() {
        0..1_000 => (seconds * 1e9, "ns"),
        1_000..1_000_000 => (seconds * 1e6, "us"),
        1_000_000..1_000_000_000 => (seconds * 1e3, "ms"),
        _ => (seconds, "s"),
    };
    let before = if value >= 100.0 {
        3
    } else if value >= 10.0 {
        2
    } else {
        1
    };
    format!("{value:.*} {unit}", if unit == "ns" { 0 } else { digits - before })
}

/// How long ago, or how long from now.
pub(crate) fn distance(time: SystemTime, now: SystemTime) -> String {
    match now.duration_since(time) {
        Ok(ago) if ago < Duration::from_secs(1) => "now".to_owned(),
        Ok(ago) => format!("{} ago", span(ago)),
        Err(ahead) => format!("in {}", span(ahead.duration())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_people_write_them() {
        let day = UNIX_EPOCH + Duration::from_secs(20_000 * 86_400);
        assert_eq!(parse("2024-10-04").unwrap(), day);
        assert_eq!(parse("2024-10-04T00:00:00Z").unwrap(), day);
        let hours = now().duration_since(parse("2h").unwrap()).unwrap();
        assert!(hours.abs_diff(Duration::from_secs(7200)) < Duration::from_secs(5), "{hours:?}");
        assert!(parse("yesterday").is_err() && parse("2024-13-04").is_err());
    }

    #[test]
    fn times_and_durations_are_printed_in_few_letters() {
        let secs = Duration::from_secs;
        assert_eq!(rfc3339(UNIX_EPOCH + secs(1)), "1970-01-01T00:00:01.000Z");
        assert_eq!(rfc3339(UNIX_EPOCH + secs(1 << 62)), "9999-12-31T23:59:59.000Z");
        assert_eq!(span(secs(3 * 86_400 + 3_600 + 5)), "3d 1h");
        assert_eq!(span(secs(59)), "59s");
        assert_eq!(span(secs(400 * 86_400)), "1y 1mo");
        assert_eq!(latency(Duration::from_nanos(1_234_567)), "1.23 ms");
        assert_eq!(latency(Duration::from_nanos(123_456)), "123 us");
        assert_eq!(latency(Duration::from_nanos(999)), "999 ns");
    }
}
