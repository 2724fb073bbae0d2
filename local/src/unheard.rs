//! What was acknowledged by commands that a daemon may not have taken yet.
//!
//! An acknowledgement has no answer, and the daemon that it was meant for may be dead by then. A worker may wait for the room of those tasks, and whoever
//! waits for its next ones with it: so they are freed without a daemon when it is seen that none lives. Its successor meets the commands as
//! well, and ids that are gone.
//!
//! Invariant: bounded: a lane has room for so many commands, and what was said before those was taken.
//! Tested at the end of this file, and in `tests/tests/local.rs` (`memory_tasks_go_on_while_no_daemon_lives_..`).

use std::collections::VecDeque;

use qtf_shm::TaskId;
use qtf_shm::lane::ACKNOWLEDGED_MAX;

/// LIMIT: commands that a lane has room for.
const COMMANDS_MAX: usize = 32;

/// See the head of this file.
#[derive(Debug, Default)]
pub(crate) struct Unheard(VecDeque<TaskId>);

impl Unheard {
    /// A command says that these were received; so many commands wait for room in the lane, it among them.
    pub(crate) fn said(&mut self, tasks: impl IntoIterator<Item = TaskId>, waiting: usize) {
        self.0.extend(tasks);
        let most = (COMMANDS_MAX + waiting) * ACKNOWLEDGED_MAX;
        self.0.drain(..self.0.len().saturating_sub(most));
    }

    /// All commands were taken.
    pub(crate) fn were_taken(&mut self) {
        self.0.clear();
    }

    /// All of them, for a daemon that is dead.
    pub(crate) fn take(&mut self) -> VecDeque<TaskId> {
        std::mem::take(&mut self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_lane_and_those_that_wait_for_it_can_hold_is_kept_and_the_latest_of_it() {
        let tasks: Vec<TaskId> = (1..=200)
            .filter_map(|generation| TaskId::from_raw(generation << 24))
            .collect();
        assert_eq!(tasks.len(), 200);
        let mut unheard = Unheard::default();
        for some in tasks.chunks(ACKNOWLEDGED_MAX) {
            unheard.said(some.iter().copied(), 2);
        }
        let most = (COMMANDS_MAX + 2) * ACKNOWLEDGED_MAX;
        assert_eq!(unheard.take(), &tasks[200 - most..]);
        unheard.said(tasks[..1].iter().copied(), 0);
        unheard.were_taken();
        assert!(unheard.take().is_empty());
    }
}
