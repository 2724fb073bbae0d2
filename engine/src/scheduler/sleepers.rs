//! Local workers that sleep for want of work are rung for tasks that no remote worker has got in this turn.
//!
//! Nothing is kept for them: a task is whose who takes it first, and one that a rung worker does not take (it is stopped, or was killed) a remote one gets as
//! soon as it has room. Tested in `engine/tests/rules/lane_workers.rs`.

use qtf_shm::SlotIndex;

use crate::turn::Turn;

/// LIMIT: tasks at the head of the heap that are looked at, in a turn that finds a sleeper.
const LOOKED_AT_MAX: usize = 16;

/// Notes who is to be rung: one sleeper for a task of a kind that it runs.
pub(crate) fn ring_sleepers(turn: &mut Turn<'_>) {
    let segment = turn.segment;
    if segment.idle_worker_bits() == 0 {
        return;
    }
    let tasks = segment.geometry().tasks();
    for (leaf, _) in segment.ready().entries_in_order().take(LOOKED_AT_MAX) {
        let kind = SlotIndex::new_checked(leaf, tasks).and_then(|slot| segment.task(slot).kind());
        if let Some(attach) = segment.take_idle_worker(kind) {
            turn.lanes.ring(attach);
        }
        if segment.idle_worker_bits() == 0 {
            return;
        }
    }
}
