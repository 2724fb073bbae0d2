//! Burials: a task that no worker may have any more becomes a dead letter, with the reason.
//!
//! What is taken from a worker is buried where it is handed back (`endings.rs`); here are those that nobody holds: one that a repairer, while no
//! daemon looked, has counted too many losses for, and one that runs at most once and was given back half done by a local worker.
//! What a person may do with dead letters: `changes/dead_letters.rs`. Tested in `engine/tests/rules/losses.rs`, `at_most_once.rs` and `local_takes.rs`.

use qtf_shm::{FLAG_CANCEL, Outcome, OutcomeKind, Owner, Phase, SlotIndex, StateWord, TaskSlot};

use super::endings::{LastStep, outcome};
use super::history::keep_lost;
use crate::plm::Plm;
use crate::plm::outcome::ATTEMPT_MAX;
use crate::plm::records::recorder::is_once;
use crate::register::{AttemptOver, Ending, Workers};
use crate::turn::Turn;

/// Code of the outcome `WorkerLost` of a task that got all the attempts there are; 0 = its workers were lost too often.
pub const ATTEMPTS_USED_UP: u8 = 1;

impl Plm {
    /// READY -> `DEAD_LETTER`.
    pub(crate) fn bury_waiting(&mut self, turn: &mut Turn<'_>, slot: SlotIndex, ready: StateWord) {
        self.finish(turn, slot, ready, LastStep::bury(ready));
    }

    /// READY -> CANCELLED: it was cancelled at a local worker that died while no daemon looked, and whoever took it back kept the
    /// flag. Neither is it handed out again, nor buried for its losses. Returns whether it did.
    pub(crate) fn end_cancelled(
        &mut self,
        turn: &mut Turn<'_>,
        slot: SlotIndex,
        ready: StateWord,
    ) -> bool {
        self.finish(turn, slot, ready, LastStep::cancel())
    }

    /// ENDED -> `DEAD_LETTER`, or CANCELLED if that was asked for.
    pub(super) fn bury_half_done(
        &mut self,
        turn: &mut Turn<'_>,
        workers: &mut Workers,
        slot: SlotIndex,
        ended: StateWord,
    ) -> bool {
        let task = turn.write(slot);
        keep_lost(turn, slot, ended);
        self.ends.graces.forget(slot, ended);
        if let Owner::Worker(worker) = ended.owner() {
            let over = AttemptOver {
                slot,
                phase: Phase::Ended,
                ending: Ending::Neither,
            };
            workers.let_go(turn, worker, over);
            self.count_handed_back(&task);
        }
        let last = if ended.has_flag(FLAG_CANCEL) {
            LastStep::cancel()
        } else {
            task.set_losses(task.losses().max(1));
            LastStep::bury(ended)
        };
        self.finish(turn, slot, ended, last)
    }
}

/// The attempt that has ended is of a task that runs at most once, and its worker has begun it and given it back.
pub(in crate::plm) fn is_half_done(task: &TaskSlot) -> bool {
    is_once(task) && task.outcome().kind == OutcomeKind::WorkerLost
}

/// The reason of a dead letter: its workers were lost too often, or all of its attempts are used up.
pub(in crate::plm) fn buried(held: StateWord) -> Outcome {
    Outcome {
        code: if held.fence() >= ATTEMPT_MAX {
            ATTEMPTS_USED_UP
        } else {
            0
        },
        ..outcome(OutcomeKind::WorkerLost)
    }
}
