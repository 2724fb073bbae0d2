//! Says once a day that the segment's stamps will run out, from 700 of their 833 days on: a restart moves the origin.
//!
//! Tested in `tests/daemon/origin.rs`.

use qtf_shm::Now;
use qtf_shm::time::{STAMP_DAYS, STAMP_WARN};

/// What has been said.
#[derive(Debug, Default)]
pub(crate) struct Age {
    day: Option<u64>,
}

impl Age {
    /// Looks at the time.
    pub(crate) fn look(&mut self, now: Now) {
        if now.stamp() < STAMP_WARN || self.day == Some(now.days()) {
            return;
        }
        self.day = Some(now.days());
        let days = now.days();
        if now.is_out_of_stamps() {
            tracing::error!(
                days,
                "the segment's stamps are used up: no task is taken in, no lease, delay, time limit or result runs out; restart qtfd while no local process is attached, nothing is lost"
            );
        } else {
            tracing::warn!(
                days,
                "the segment's stamps end {STAMP_DAYS} days after its origin: restart qtfd before, while no local process is attached; it goes on where it was"
            );
        }
    }
}
