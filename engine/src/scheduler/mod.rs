//! Main scheduler: takes the best ready task, picks the best worker, assigns.
//!
//! Strict priority, then order of submission; a retry and a task of a lost worker keep their stamp,
//! and with it their place. The order of steps of an assignment is fixed, so that whatever is cut
//! off in the middle can be told and mended: state READY -> ASSIGNED (the take linearizes here),
//! leaf removed, dispatch effect (of a journal task that runs at most once: when its record is durable), worker counted. Its leaf is re-keyed when
//! another worker is the least loaded, or the cycle ends.
//!
//! There is one ready tree (`docs/adr/0004`): a task whose kind nobody offers is parked, so that no
//! other waits behind it, and so is a journal task while the journal has no room for its records; when its workers are all
//! busy, the head waits, and the rest with it.
//! Tested in `engine/tests/rules/scheduling.rs`.

mod placement;
mod sleepers;

use qtf_shm::tree::Second;
use qtf_shm::{
    Blocked, Counter, Event, FLAG_CANCEL, Key, MinTree, Phase, SlotIndex, StateWord, TaskOptions,
    TaskSlot,
};

use crate::plm::{ATTEMPT_MAX, Plm};
use crate::register::Workers;
use crate::turn::Turn;
use crate::work_count::WorkCount;
use placement::{Pick, STEPS_PER_CYCLE_MAX, pick};

/// From this slot on the next task is looked for while the best one is placed: what fewer slots take stays in the caches.
const LOOK_AHEAD_FROM: u32 = 1 << 16;

/// The scheduler keeps nothing between cycles: what it needs is in the segment.
#[derive(Debug, Default)]
pub(crate) struct Scheduler {
    /// Where the second-best task lay while the best one was placed.
    second: Option<Second>,
}

/// What became of the head of the task heap.
enum Step {
    /// It was assigned, parked, or taken out of the heap: on to the next.
    Moved,
    /// It has to wait, and so have the others.
    Waits,
}

/// A leaf of the task heap.
#[derive(Debug, Clone, Copy)]
struct Leaf {
    slot: SlotIndex,
    key: Key,
}

impl Scheduler {
    /// Assigns what can be assigned, up to a number of tasks.
    pub(crate) fn duty_cycle(
        &mut self,
        turn: &mut Turn<'_>,
        plm: &mut Plm,
        workers: &mut Workers,
    ) -> WorkCount {
        let mut work = WorkCount::NONE;
        let mut steps_left = STEPS_PER_CYCLE_MAX;
        if !cfg!(qtf_mutant = "sim_second_best_is_taken_unseen") {
            self.second = None;
        }
        workers.mend_leaves(turn.segment);
        for _ in 0..turn.config.tasks_per_cycle_max {
            if !turn.effects.has_room(1) || !workers.has_free(turn.segment) {
                break;
            }
            plm.release_best_waiting(turn);
            let Some((leaf, key)) = head_of(turn.segment.ready(), self.second) else {
                break;
            };
            let Some(slot) = SlotIndex::new_checked(leaf, turn.segment.geometry().tasks()) else {
                turn.segment.ready().remove(leaf, key);
                continue;
            };
            self.second = if leaf >= LOOK_AHEAD_FROM
                || cfg!(qtf_mutant = "sim_second_best_is_taken_unseen")
            {
                turn.segment.ready().second_beside(leaf)
            } else {
                None
            };
            match place_head(turn, plm, workers, Leaf { slot, key }, &mut steps_left) {
                Step::Moved => work += WorkCount::ONE,
                Step::Waits => break,
            }
            if let Some(second) = self.second {
                turn.segment.fetch_second_ahead(second);
            }
        }
        workers.put_down(turn.segment);
        sleepers::ring_sleepers(turn);
        work
    }
}

/// The best entry. What was the second best when the one before was placed is a hint for memory, and no more: a better one may have come.
#[inline]
fn head_of(ready: MinTree<'_>, second: Option<Second>) -> Option<(u32, Key)> {
    if cfg!(qtf_mutant = "sim_second_best_is_taken_unseen")
        && let Some(leaf) = second.and_then(|second| ready.leaf_of_second(second))
    {
        return Some((leaf, ready.leaf(leaf)?));
    }
    ready.locate()
}

/// Tries to place the task at the head of the heap.
fn place_head(
    turn: &mut Turn<'_>,
    plm: &mut Plm,
    workers: &mut Workers,
    head: Leaf,
    steps_left: &mut u32,
) -> Step {
    let Leaf { slot, key } = head;
    let task = turn.segment.task(slot);
    let state = task.state();
    if state.phase() != Phase::Ready || task.key() != key {
        // A leaf that its slot has moved on from; a READY slot gets its own back.
        turn.segment.unindex_ready_key(slot, key);
        turn.index_ready(slot, state);
        turn.segment.counters().add(Counter::LeafStale, 1);
        return Step::Moved;
    }
    if state.has_flag(FLAG_CANCEL) {
        plm.end_cancelled(turn, slot, state);
        return Step::Moved;
    }
    // One that has used up its fence nobody can take: at the head it would stop all others.
    if state.fence() >= ATTEMPT_MAX || is_spent(task, turn.config.losses_max) {
        plm.bury_waiting(turn, slot, state);
        return Step::Moved;
    }
    match pick(turn.segment, workers, task.kind(), steps_left) {
        Pick::Worker(worker) if plm.may_hand_out(task) => {
            if cfg!(qtf_mutant = "sim_leaf_goes_before_the_state") {
                turn.segment.unindex_ready_key(slot, key);
            }
            if plm.hand_out(turn, slot, state, worker).is_some() {
                workers.take(turn, worker);
            }
            Step::Moved
        }
        Pick::Worker(_) => {
            turn.segment.counters().add(Counter::DispatchPutOff, 1);
            if plm.park_for_room(turn, slot, state) {
                Step::Moved
            } else {
                Step::Waits
            }
        }
        Pick::NobodyOffers => {
            park(turn, plm, head, state);
            Step::Moved
        }
        Pick::AllBusy => Step::Waits,
    }
}

/// No worker may have it any more: more were lost with it than may be, or one that may have begun what runs at most once. A
/// repairer counts that while no daemon looks, and leaves the burial to us; the workers of local processes leave such a task alone, so
/// at the head it would stop all others.
fn is_spent(task: &TaskSlot, losses_max: u8) -> bool {
    let losses = task.losses();
    task.options().has(TaskOptions::AT_MOST_ONCE) && losses > 0 || losses > losses_max
}

fn park(turn: &mut Turn<'_>, plm: &mut Plm, head: Leaf, ready: StateWord) {
    let Leaf { slot, key } = head;
    let why = Blocked::NO_WORKER_OFFERS;
    if turn.advance(slot, ready, Event::Park { why }).is_some() {
        turn.segment.unindex_ready_key(slot, key);
        if let Some(kind) = turn.segment.task(slot).kind() {
            plm.count_parked(kind);
        }
    }
}
