//! The clocks as the daemon sees them: a monotonic one that decides, and a wall clock that is told to people and
//! written where a reboot must not lose the meaning of a time.
//!
//! Everything that decides asks the [`Clock`] of the settings, so that a test can step either clock by hours or
//! years. Tested in `tests/daemon/clock.rs`.

use std::fmt;

use qtf_shm::time::{monotonic_ns, wall_ns};

/// Where the daemon reads the time.
pub trait Clock: fmt::Debug + Send + Sync {
    /// Nanoseconds of the monotonic clock.
    fn monotonic_ns(&self) -> u64;

    /// Nanoseconds since 1970-01-01 UTC.
    fn wall_ns(&self) -> u64;
}

/// The system's clocks.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn monotonic_ns(&self) -> u64 {
        monotonic_ns()
    }

    fn wall_ns(&self) -> u64 {
        wall_ns()
    }
}
