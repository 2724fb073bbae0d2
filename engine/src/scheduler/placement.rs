//! Which worker gets the task at the head: the least loaded one that offers its kind.
//!
//! The worker heap holds exactly the workers that may be given a task now (live, not draining,
//! below their capacity, with a credit), the least loaded first, then the one assigned to longest
//! ago. In the usual case its first entry offers the kind; else all workers are looked through, so
//! many times a cycle at most. Tested in `engine/tests/rules/scheduling.rs`.

use qtf_shm::{KindIndex, Segment, WorkerIndex};

use crate::register::Workers;

/// LIMIT: workers that are looked at in one cycle, each some nanoseconds: 32 looks through 4,096 of them, 2 through all that there can
/// be (the second may begin while fewer are left).
pub(super) const STEPS_PER_CYCLE_MAX: u32 = 32 * STEPS_PER_LOOK_MIN;
/// Fewer workers count as so many.
const STEPS_PER_LOOK_MIN: u32 = 4_096;

/// Where the head goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pick {
    /// To this worker.
    Worker(WorkerIndex),
    /// Nowhere: no worker offers its kind.
    NobodyOffers,
    /// Nowhere yet: those that offer its kind are busy, or were not looked for any more in this
    /// cycle.
    AllBusy,
}

pub(super) fn pick(
    segment: &Segment,
    workers: &mut Workers,
    kind: Option<KindIndex>,
    steps_left: &mut u32,
) -> Pick {
    let Some(kind) = kind.filter(|&kind| workers.is_offered(kind)) else {
        return Pick::NobodyOffers;
    };
    let offers = |worker: WorkerIndex| segment.worker(worker).kinds().contains(kind);
    let Some(first) = workers.first_free(segment) else {
        return Pick::AllBusy;
    };
    if offers(first) {
        return Pick::Worker(first);
    }
    if *steps_left == 0 {
        return Pick::AllBusy;
    }
    let steps = workers.slots_in_use().max(STEPS_PER_LOOK_MIN);
    *steps_left = steps_left.saturating_sub(steps);
    workers
        .free(segment)
        .filter(|&(_, worker)| offers(worker))
        .min()
        .map_or(Pick::AllBusy, |(_, worker)| Pick::Worker(worker))
}
