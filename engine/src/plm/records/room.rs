//! Whether the journal has room: for submissions, for small changes, for outcomes of what runs.
//!
//! Room on the disk is told by the caller each turn; what waits in the appender is taken off. Submissions leave the
//! reserve alone. When the room would not hold the outcomes of what runs, nothing more is handed out and no small
//! change is taken, so that running tasks can finish. Outcomes leave the last quarter of the reserve alone, which is for what makes the next
//! snapshot smaller: cancellations, acknowledgements, purges. Without it a journal whose disk is full of results could never be given room
//! again. An outcome that finds no room is put off, and its worker keeps it. Tested in `engine/tests/rules/room.rs`.

use qtf_journal::Appender;

/// LIMIT: head, fixed part, key, array, three names of 63 bytes and padding are less than 512 bytes.
const RECORD_OVERHEAD: u64 = 512;
/// An outcome is believed to be at least as large as this.
const OUTCOME_BYTES_MIN: u64 = 256;
/// LIMIT: this part of the reserve is for cancellations, acknowledgements and purges alone.
const LETTING_GO_SHARE: u64 = 4;
/// New outcomes count for a sixteenth of the mean.
const MEAN_SHIFT: u32 = 4;

/// Room on the disk, and how much of it what runs will need.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Room {
    bytes: u64,
    reserve_bytes: u64,
    /// Journal tasks that workers hold.
    running: u64,
    mean_outcome: u64,
}

impl Default for Room {
    /// Without limits, until the first one is told.
    fn default() -> Self {
        Self {
            bytes: u64::MAX,
            reserve_bytes: 0,
            running: 0,
            mean_outcome: OUTCOME_BYTES_MIN,
        }
    }
}

impl Room {
    pub(crate) fn set(&mut self, bytes: u64, reserve_bytes: u64) {
        self.bytes = bytes;
        self.reserve_bytes = reserve_bytes;
    }

    /// There is no file that anything could be written to.
    pub(crate) const fn is_none(&self) -> bool {
        self.bytes == 0
    }

    pub(crate) fn handed_out(&mut self) {
        self.running = self.running.saturating_add(1);
    }

    pub(crate) fn handed_back(&mut self) {
        self.running = self.running.saturating_sub(1);
    }

    /// Learns how large outcomes are.
    pub(crate) fn note_outcome(&mut self, bytes: usize) {
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX).min(1 << 20);
        let rest = self.mean_outcome - (self.mean_outcome >> MEAN_SHIFT);
        self.mean_outcome = (rest + (bytes >> MEAN_SHIFT)).max(OUTCOME_BYTES_MIN);
    }

    pub(crate) fn has_for_submission(&self, appender: &Appender, bytes: u64) -> bool {
        let needed = bytes.saturating_add(RECORD_OVERHEAD);
        fits(needed, appender.free_bytes())
            && self.left(appender) >= self.reserve_bytes.saturating_add(needed)
    }

    pub(crate) fn has_for_change(&self, appender: &Appender) -> bool {
        // Twice the mean: outcomes differ in size.
        let outcomes = self
            .running
            .saturating_add(1)
            .saturating_mul(self.mean_outcome.saturating_mul(2));
        fits(RECORD_OVERHEAD, appender.free_bytes())
            && self.left_for_outcomes(appender) >= outcomes.saturating_add(RECORD_OVERHEAD)
    }

    /// For what ends a task or lets it go: nothing needs so little room, and only it gives room back.
    pub(crate) fn has_for_letting_go(&self, appender: &Appender) -> bool {
        fits(RECORD_OVERHEAD, appender.free_reserve_bytes())
            && self.left(appender) >= RECORD_OVERHEAD
    }

    /// A restart may use the reserve of the group: it writes nothing else.
    pub(crate) fn has_for_adoption(&self, appender: &Appender) -> bool {
        let largest = u64::try_from(qtf_journal::RECORD_BYTES_MAX).unwrap_or(u64::MAX);
        fits(largest, appender.free_reserve_bytes())
    }

    pub(crate) fn has_for_outcome(&self, appender: &Appender, bytes: u64) -> bool {
        let needed = bytes.saturating_add(RECORD_OVERHEAD);
        fits(needed, appender.free_reserve_bytes()) && self.left_for_outcomes(appender) >= needed
    }

    /// Without the part that outcomes leave alone.
    fn left_for_outcomes(&self, appender: &Appender) -> u64 {
        self.left(appender)
            .saturating_sub(self.reserve_bytes / LETTING_GO_SHARE)
    }

    fn left(&self, appender: &Appender) -> u64 {
        let waiting = u64::try_from(appender.pending_bytes()).unwrap_or(u64::MAX);
        self.bytes.saturating_sub(waiting)
    }
}

fn fits(bytes: u64, free: usize) -> bool {
    u64::try_from(free).is_ok_and(|free| bytes <= free)
}
