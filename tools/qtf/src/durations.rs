//! Times as people write them (`90`, `1500ms`, `2min 30s`) and as people read them (`3.2s`, `4m05s`).
//!
//! Tested at the end of this file.

use std::time::Duration;

/// Reads a duration; a bare number means seconds, as for `timeout(1)`.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    if let Ok(seconds) = text.parse::<f64>() {
        return Duration::try_from_secs_f64(seconds).map_err(|_| {
            format!("`{text}` seconds is not a time; write it as 90, 1.5, 10s or 2min")
        });
    }
    humantime::parse_duration(text)
        .map_err(|error| format!("{error}; write it as 90, 1.5, 10s, 1500ms or 2min"))
}

/// Reads a duration that the wire carries as milliseconds in 32 bits (49 days); a time that is not
/// zero stays so.
pub(crate) fn parse_duration_ms(text: &str) -> Result<u32, String> {
    let duration = parse_duration(text)?;
    let ms = duration.as_nanos().div_ceil(1_000_000);
    u32::try_from(ms).map_err(|_| format!("`{text}` is longer than the limit of 49 days"))
}

/// Shows an age in at most six characters.
pub(crate) fn age(ms: u64) -> String {
    let seconds = ms / 1000;
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    if ms < 1000 {
        format!("{ms}ms")
    } else if seconds < 10 {
        format!("{seconds}.{}s", ms % 1000 / 100)
    } else if seconds < 60 {
        format!("{seconds}s")
    } else if minutes < 60 {
        format!("{minutes}m{:02}s", seconds % 60)
    } else if hours < 24 {
        format!("{hours}h{:02}m", minutes % 60)
    } else {
        format!("{days}d{:02}h", hours % 24)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_number_is_seconds_and_units_are_understood() {
        assert_eq!(parse_duration_ms("90"), Ok(90_000));
        assert_eq!(parse_duration_ms("1.5"), Ok(1_500));
        assert_eq!(parse_duration_ms("1500ms"), Ok(1_500));
        assert_eq!(parse_duration_ms("2min 30s"), Ok(150_000));
        assert_eq!(parse_duration_ms("0"), Ok(0));
    }

    #[test]
    fn a_time_below_a_millisecond_does_not_become_no_limit() {
        assert_eq!(parse_duration_ms("1us"), Ok(1));
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for text in ["", "-1", "soon", "NaN", "inf", "60 days", "1e300"] {
            assert!(parse_duration_ms(text).is_err(), "{text}");
        }
    }

    #[test]
    fn ages_are_short() {
        let table = [
            (0, "0ms"),
            (999, "999ms"),
            (3_240, "3.2s"),
            (59_999, "59s"),
            (245_000, "4m05s"),
            (7_980_000, "2h13m"),
            (273_600_000, "3d04h"),
        ];
        for (ms, shown) in table {
            assert_eq!(age(ms), shown);
        }
    }
}
