//! Results that were there before the engine could take them: they waited for the daemon to come back, or for room. How long they
//! waited is no part of how long their attempts ran.
//!
//! Tested in `engine/tests/rules/timers.rs`.

use qtf_shm::WorkerIndex;

use super::workers::Workers;
use crate::lookup::TaskRef;

/// LIMIT: what the largest worker runs, and as many results that it has not delivered yet.
const WAITING_MAX: usize = 2 * 65_535;

impl Workers {
    /// The worker has come back: of what it holds and owns, these have ended.
    pub(super) fn came_with(&mut self, worker: WorkerIndex, mut ended: Vec<TaskRef>) {
        ended.sort_unstable();
        // A hello may name an attempt many times.
        ended.dedup();
        ended.shrink_to_fit();
        self.notes[worker.position()].in_time = ended;
    }

    /// A result came and could not be taken. One beyond the limit counts as if it had come when it is taken.
    pub(crate) fn note_in_time(&mut self, worker: WorkerIndex, one: TaskRef) {
        let in_time = &mut self.notes[worker.position()].in_time;
        if let Err(place) = in_time.binary_search(&one)
            && in_time.len() < WAITING_MAX
        {
            in_time.insert(place, one);
        }
    }

    /// Whether its result was there before.
    pub(crate) fn was_in_time(&self, worker: WorkerIndex, one: TaskRef) -> bool {
        self.notes[worker.position()]
            .in_time
            .binary_search(&one)
            .is_ok()
    }

    /// Its result has been taken.
    pub(crate) fn forget_in_time(&mut self, worker: WorkerIndex, one: TaskRef) {
        let in_time = &mut self.notes[worker.position()].in_time;
        if let Ok(place) = in_time.binary_search(&one) {
            in_time.remove(place);
        }
    }
}
