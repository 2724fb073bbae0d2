//! The wall clock beside the segment's time.
//!
//! Decisions use the segment's time only. What must keep its meaning over a reboot (delays, times to live) is written
//! to the journal as milliseconds since 1970 and converted back at a cold start; a step of the wall clock in between
//! moves those times and nothing else. Tested at the end of this file.

use core::fmt;

use qtf_shm::Now;
use qtf_shm::time::STAMP_MAX;

const NS_PER_MS: u64 = 1_000_000;
/// A key whose end lies beyond the last stamp is known for so long, as after a move of the origin.
const KEY_GRACE_MS: u64 = 30 * 24 * 3_600_000;

/// The same moment on both clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct WallTime {
    /// Since the segment's origin.
    pub now: Now,
    /// Milliseconds since 1970-01-01 UTC.
    pub unix_ms: u64,
}

impl WallTime {
    /// The wall clock at a moment of the segment's time.
    #[must_use]
    pub fn unix_ms_at(self, moment: Now) -> u64 {
        let later = moment.since_ns(self.now) / NS_PER_MS;
        let earlier = self.now.since_ns(moment) / NS_PER_MS;
        self.unix_ms.saturating_add(later).saturating_sub(earlier)
    }

    /// The same for a stamp.
    #[must_use]
    pub fn unix_ms_of(self, stamp: u64) -> u64 {
        self.unix_ms_at(Now::from_stamp(stamp))
    }

    /// The same for the end of a key. One that was noted as the last stamp lies anywhere beyond it: rather late than early.
    #[must_use]
    pub fn unix_ms_of_key_end(self, stamp: u64) -> u64 {
        if stamp < STAMP_MAX {
            return self.unix_ms_of(stamp);
        }
        let last = self.now.max(Now::from_stamp(STAMP_MAX));
        self.unix_ms_at(last).saturating_add(KEY_GRACE_MS)
    }

    /// The segment's time at a moment of the wall clock; its beginning for what lies before it.
    #[must_use]
    pub fn moment_of(self, unix_ms: u64) -> Now {
        let later = unix_ms.saturating_sub(self.unix_ms);
        let earlier = self.unix_ms.saturating_sub(unix_ms);
        let moment = self.now.plus_ns(later.saturating_mul(NS_PER_MS));
        Now::from_ns(moment.ns.saturating_sub(earlier.saturating_mul(NS_PER_MS)))
    }
}

/// A moment of the wall clock as people write it, in UTC.
pub(crate) struct Utc(pub(crate) u64);

impl fmt::Display for Utc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0 / 1_000;
        let (days, second) = (seconds / 86_400, seconds % 86_400);
        // Years of March to February, in cycles of 400: the leap day is the last one of each.
        let days = days + 719_468;
        let (cycle, day) = (days / 146_097, days % 146_097);
        let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
        let day = day - (365 * year + year / 4 - year / 100);
        let month = (5 * day + 2) / 153;
        let day = day - (153 * month + 2) / 5 + 1;
        let (month, is_next) = if month < 10 {
            (month + 3, 0)
        } else {
            (month - 9, 1)
        };
        let year = year + cycle * 400 + is_next;
        let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
        write!(
            f,
            "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_written_as_the_calendar_has_them() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_709_251_199, "2024-02-29T23:59:59Z"),
            (1_798_761_599, "2026-12-31T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(Utc(seconds * 1_000 + 7).to_string(), text);
        }
        let _any = Utc(u64::MAX).to_string();
    }

    #[test]
    fn both_clocks_run_at_the_same_speed_and_never_overflow() {
        let wall = WallTime {
            now: Now::from_ns(5_000 * NS_PER_MS),
            unix_ms: 1_000_000,
        };
        for ms in [0, 1, 4_999, 5_000, 5_001, 9_000] {
            let moment = Now::from_ns(ms * NS_PER_MS);
            assert_eq!(wall.unix_ms_at(moment), 995_000 + ms);
            assert_eq!(wall.moment_of(995_000 + ms), moment);
        }
        assert_eq!(wall.moment_of(0).ns, 0);
        assert!(wall.moment_of(u64::MAX) > wall.now);
        assert!(wall.unix_ms_of(u64::MAX) > wall.unix_ms);
        assert_eq!(WallTime::default().unix_ms_at(Now::from_ns(0)), 0);
    }

    #[test]
    fn key_whose_end_lies_beyond_the_last_stamp_is_known_for_a_month_also_when_the_stamps_have_run_out()
     {
        const WEEK_MS: u64 = 7 * 24 * 3_600_000;
        let last = Now::from_stamp(STAMP_MAX);
        let before = Now::from_ns(last.ns - NS_PER_MS);
        for now in [before, last, last.plus_ns(1 << 55)] {
            let unix_ms = 1_800_000_000_000;
            let wall = WallTime { now, unix_ms };
            assert!(wall.unix_ms_of_key_end(STAMP_MAX) > unix_ms + WEEK_MS);
        }
        let wall = WallTime {
            now: before,
            unix_ms: 1_000_000,
        };
        assert_eq!(wall.unix_ms_of_key_end(before.stamp()), 1_000_000);
    }
}
