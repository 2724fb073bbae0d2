//! Time inside the project: nanoseconds since the segment's origin, and 48-bit stamps of 256 ns.
//!
//! Invariant: nothing here reads a clock except [`monotonic_ns`] and [`wall_ns`], which the processes call and hand
//! on as a value. Tested at the end of this file.

use nix::time::{ClockId, clock_gettime};

/// Bits of a stamp.
pub const STAMP_BITS: u32 = 48;
/// Highest stamp: 833 days after the segment's origin. Later times saturate here.
pub const STAMP_MAX: u64 = (1 << STAMP_BITS) - 1;
/// A stamp counts units of 2^8 = 256 ns.
pub const STAMP_SHIFT: u32 = 8;
/// A start moves the origin when the time is past this stamp: 625 days. So at least 208 are left to a daemon that has just started.
pub const REBASE_FROM: u64 = (1 << 47) + (1 << 46);
/// Stamps before the present that a move of the origin keeps: 208 days.
pub const STAMPS_KEPT: u64 = 1 << 46;
/// From this stamp on a running daemon asks to be started anew: 700 days.
pub const STAMP_WARN: u64 = (700 * 86_400 * 1_000_000_000) >> STAMP_SHIFT;
/// Days until the last stamp.
pub const STAMP_DAYS: u64 = (STAMP_MAX << STAMP_SHIFT) / NS_PER_DAY;
const NS_PER_DAY: u64 = 86_400 * 1_000_000_000;

/// A moment: nanoseconds of the monotonic clock since the segment's origin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Now {
    /// Nanoseconds since the origin that the segment's header holds.
    pub ns: u64,
}

impl Now {
    /// A moment `ns` nanoseconds after the origin.
    #[must_use]
    pub const fn from_ns(ns: u64) -> Self {
        Self { ns }
    }

    /// The moment in units of 256 ns, 48 bits; saturates.
    #[must_use]
    pub const fn stamp(self) -> u64 {
        let stamp = self.ns >> STAMP_SHIFT;
        if stamp > STAMP_MAX { STAMP_MAX } else { stamp }
    }

    /// A time that was noted as a stamp has come. One that was noted as the last stamp never does: it may lie anywhere beyond. So when
    /// the stamps have run out, time stands still for everything that is decided by them.
    #[must_use]
    pub const fn has_reached(self, stamp: u64) -> bool {
        stamp <= self.stamp() && stamp < STAMP_MAX
    }

    /// No stamp is left: the order of what comes in cannot be noted any more.
    #[must_use]
    pub const fn is_out_of_stamps(self) -> bool {
        self.stamp() >= STAMP_MAX
    }

    /// Whole days since the origin.
    #[must_use]
    pub const fn days(self) -> u64 {
        self.ns / NS_PER_DAY
    }

    /// The first moment of a stamp; bits above the 48 are ignored.
    #[must_use]
    pub const fn from_stamp(stamp: u64) -> Self {
        Self {
            ns: (stamp & STAMP_MAX) << STAMP_SHIFT,
        }
    }

    /// The moment `ns` later; saturates.
    #[must_use]
    pub const fn plus_ns(self, ns: u64) -> Self {
        Self {
            ns: self.ns.saturating_add(ns),
        }
    }

    /// Nanoseconds since `earlier`; 0 when that lies in the future.
    #[must_use]
    pub const fn since_ns(self, earlier: Self) -> u64 {
        self.ns.saturating_sub(earlier.ns)
    }
}

/// The moment of a reading of `CLOCK_MONOTONIC`, for a segment with this origin. The only way from one to the other.
///
/// Origins wrap: that of a segment which goes on after restored stamps lies before the machine's start. A clock before the
/// origin (which no process of the same boot sees) is moment 0.
#[must_use]
pub const fn since_origin(monotonic_ns: u64, origin_ns: u64) -> Now {
    let ns = monotonic_ns.wrapping_sub(origin_ns);
    Now {
        ns: if ns >> 63 != 0 { 0 } else { ns },
    }
}

/// The origin of a segment whose time starts after `first_stamp`, made at this reading of `CLOCK_MONOTONIC`.
#[must_use]
pub const fn origin_after(monotonic_ns: u64, first_stamp: u64) -> u64 {
    let start = if first_stamp == 0 {
        0
    } else if first_stamp >= STAMP_MAX {
        STAMP_MAX
    } else {
        first_stamp + 1
    };
    monotonic_ns.wrapping_sub(start << STAMP_SHIFT)
}

/// Reads `CLOCK_MONOTONIC`. 0 if the clock cannot be read, which Linux does not do.
#[must_use]
pub fn monotonic_ns() -> u64 {
    #[cfg(any(test, feature = "kill-points"))]
    if let Some(ns) = simulated::reading() {
        return ns;
    }
    read(ClockId::CLOCK_MONOTONIC)
}

/// The monotonic clock of a simulation, thread by thread: for tests only.
#[cfg(any(test, feature = "kill-points"))]
pub mod simulated {
    use core::cell::Cell;

    std::thread_local! {
        static READING: Cell<Option<u64>> = const { Cell::new(None) };
    }

    /// From now on the monotonic clock of this thread says this; with `None` what the kernel says.
    pub fn set_monotonic_ns(ns: Option<u64>) {
        READING.set(ns);
    }

    pub(super) fn reading() -> Option<u64> {
        READING.get()
    }
}

/// Reads the wall clock: nanoseconds since 1970-01-01 UTC. For display only.
#[must_use]
pub fn wall_ns() -> u64 {
    read(ClockId::CLOCK_REALTIME)
}

fn read(clock: ClockId) -> u64 {
    let Ok(time) = clock_gettime(clock) else {
        return 0;
    };
    let seconds = u64::try_from(time.tv_sec()).unwrap_or(0);
    let nanos = u64::try_from(time.tv_nsec()).unwrap_or(0);
    seconds.saturating_mul(1_000_000_000).saturating_add(nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamp_counts_units_of_256_ns() {
        assert_eq!(Now::from_ns(255).stamp(), 0);
        assert_eq!(Now::from_ns(256).stamp(), 1);
        assert_eq!(Now::from_stamp(7).ns, 7 * 256);
        assert_eq!(Now::from_stamp(Now::from_ns(1_000_000).stamp()).ns, 999_936);
    }

    #[test]
    fn time_beyond_48_bits_saturates() {
        assert_eq!(Now::from_ns(u64::MAX).stamp(), STAMP_MAX);
        assert_eq!(Now::from_ns(u64::MAX).plus_ns(5).ns, u64::MAX);
        assert_eq!(Now::from_ns(3).since_ns(Now::from_ns(9)), 0);
    }

    #[test]
    fn time_goes_on_after_restored_stamps_also_on_a_machine_that_has_just_started() {
        for clock in [0, 1, 12_345_678, 1 << 55] {
            for first in [0, 1, 77, 1 << 40, STAMP_MAX - 1, STAMP_MAX, u64::MAX] {
                let origin = origin_after(clock, first);
                let start = since_origin(clock, origin);
                let first = first.min(STAMP_MAX - 1);
                assert!(start.stamp() > first || first == 0, "{clock} {first}");
                assert!(start.stamp() <= first + 1);
                let later = since_origin(clock + 1_000, origin);
                assert_eq!(later.since_ns(start), 1_000);
            }
        }
    }

    #[test]
    fn last_stamp_is_never_reached_and_the_limits_are_days() {
        let late = Now::from_ns(u64::MAX);
        assert!(late.is_out_of_stamps() && !late.has_reached(STAMP_MAX));
        assert!(late.has_reached(STAMP_MAX - 1));
        assert!(!Now::from_stamp(5).has_reached(6) && Now::from_stamp(6).has_reached(6));
        let days = [STAMPS_KEPT, REBASE_FROM, STAMP_WARN, STAMP_MAX]
            .map(|stamp| Now::from_stamp(stamp).days());
        assert_eq!(days, [208, 625, 700, 833]);
    }

    #[test]
    fn clock_before_the_origin_is_moment_zero() {
        assert_eq!(since_origin(5, 9).ns, 0);
        assert_eq!(since_origin(9, 5).ns, 4);
    }

    #[test]
    fn clocks_advance() {
        let first = monotonic_ns();
        assert!(first > 0);
        assert!(monotonic_ns() >= first);
        assert!(wall_ns() > 1_600_000_000_000_000_000);
    }
}
