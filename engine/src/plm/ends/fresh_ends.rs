//! Tasks that have ended a moment ago: most are acknowledged at once, and need no leaf in the timer heap for their time to live.
//!
//! What is still there after [`LET_BE_NS`] gets its leaf then, in the order of the ends; the sweep leaves younger ends alone.
//! What is remembered here can be lost: the start of a daemon builds the timer heap from the slots, and the sweep puts back what is missing.
//! Invariant: an ended task whose time to live runs has a leaf, is remembered here, or was met by neither a start nor the sweep yet.
//! Tested in `engine/tests/rules/retention.rs`.

use std::collections::VecDeque;

use qtf_shm::{Now, Phase, SlotIndex, StateWord, TaskId};

use super::retention::expires_at;
use crate::plm::Plm;
use crate::turn::Turn;
use crate::work_count::WorkCount;

/// LIMIT: ends that are remembered; with more, the oldest gets its leaf before its time. 384 KiB.
const FRESH_MAX: usize = 16_384;

/// How long an ended task goes without a leaf.
const LET_BE_NS: u64 = 1_000_000_000;

/// LIMIT: a time to live that is shorter gets its leaf at once, so that it is never late.
pub(super) const LET_BE_IF_KEPT_NS: u64 = 2 * LET_BE_NS;

/// The ends of the last moment, oldest first.
#[derive(Debug)]
pub(super) struct FreshEnds {
    ends: VecDeque<(TaskId, Now)>,
    /// By slot, those that nobody has acknowledged: most of them are, and their slots need not be looked at again. An end that finds its place taken
    /// has the one there looked at before its time.
    there: Box<[Option<TaskId>]>,
}

impl FreshEnds {
    pub(super) fn new() -> Self {
        Self {
            ends: VecDeque::with_capacity(FRESH_MAX),
            there: vec![None; FRESH_MAX].into_boxed_slice(),
        }
    }

    fn place(&mut self, task: TaskId) -> &mut Option<TaskId> {
        &mut self.there[task.slot().position() % FRESH_MAX]
    }

    /// The task has been acknowledged.
    pub(super) fn acknowledged(&mut self, task: TaskId) {
        self.place(task).take_if(|there| *there == task);
    }

    /// Takes the oldest; it, if it may still be there.
    fn pop(&mut self) -> Option<TaskId> {
        let (oldest, _) = self.ends.pop_front()?;
        self.place(oldest).take_if(|there| *there == oldest)
    }

    /// When the oldest is to be looked at.
    fn due(&self) -> Option<Now> {
        let &(_, ended) = self.ends.front()?;
        Some(ended.plus_ns(LET_BE_NS))
    }
}

impl Plm {
    /// A task has ended that has no leaf, and is kept for so long.
    pub(super) fn note_fresh_end(&mut self, turn: &Turn<'_>, slot: SlotIndex, ended: StateWord) {
        let Some(task) = ended.id(slot) else {
            return;
        };
        if self.ends.fresh.ends.len() >= FRESH_MAX
            && let Some(oldest) = self.ends.fresh.pop()
        {
            give_leaf(turn, oldest);
        }
        if let Some(before) = self.ends.fresh.place(task).replace(task) {
            give_leaf(turn, before);
        }
        self.ends.fresh.ends.push_back((task, turn.now));
    }

    /// Gives those their leaves that are still there after their moment.
    pub(crate) fn serve_fresh_ends(&mut self, turn: &Turn<'_>) -> WorkCount {
        let mut work = WorkCount::NONE;
        for _ in 0..turn.config.tasks_per_cycle_max {
            let due = self.ends.fresh.due();
            if !due.is_some_and(|due| turn.now.has_reached(due.stamp())) {
                break;
            }
            if let Some(task) = self.ends.fresh.pop() {
                if !cfg!(qtf_mutant = "sim_fresh_end_is_forgotten") {
                    give_leaf(turn, task);
                }
                work += WorkCount::ONE;
            }
        }
        work
    }

    /// When an end is to be looked at next.
    pub(crate) fn next_fresh_end(&self) -> Option<Now> {
        self.ends.fresh.due()
    }
}

/// Whether the sweep is to leave this end alone, as it may be remembered.
pub(in crate::plm) fn is_fresh(turn: &Turn<'_>, slot: SlotIndex) -> bool {
    let ended = Now::from_stamp(turn.segment.task(slot).phase_time());
    turn.now.since_ns(ended) < LET_BE_IF_KEPT_NS || cfg!(qtf_mutant = "sim_fresh_end_is_forgotten")
}

/// The task's time to live runs on in the timer heap, if it is still there.
fn give_leaf(turn: &Turn<'_>, task: TaskId) {
    let slot = task.slot();
    let state = turn.segment.task(slot).state();
    let is_kept = matches!(
        state.phase(),
        Phase::Done | Phase::Failed | Phase::Cancelled
    );
    if state.is_of(task)
        && is_kept
        && !state.is_forgotten()
        && turn.segment.timers().leaf(slot.get()).is_none()
    {
        turn.set_timer(slot, state, expires_at(turn, slot, state));
    }
}
