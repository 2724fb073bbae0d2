//! The wall clock beside the segment's time.
//!
//! Decisions use the segment's time only. What must keep its meaning over a reboot (delays, times to live) is written
//! to the journal as milliseconds since 1970 and converted back at a cold start; a step of the wall clock in between
//! moves those times and nothing else. Tested at the end of this file.

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

#[cfg(test)]
mod tests {
    use super::*;

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
