//! The idempotent repair of one slot: whatever was left half-done is brought to where its state
//! says.
//!
//! One function serves the sweep's three purposes (lost workers, reconnected workers, parked kinds)
//! and its slow background walk. It may be called for any slot at any time; for a slot that is in
//! order it changes nothing. Tested in `engine/tests/rules/losses.rs` and `repair.rs`.

use qtf_shm::{
    Counter, FLAG_CANCEL, Now, Owner, Phase, SlotIndex, StateWord, TaskOptions, TaskSlot,
    WorkerIndex,
};

use crate::effects::StopReason;
use crate::lookup::{is_to_be_told, stop_reason};
use crate::plm::Plm;
use crate::plm::attempts::stops::overdue_at;
use crate::plm::attempts::stops::push_stop;
use crate::plm::ends::endings::{HandBack, tell_quarantine};
use crate::plm::ends::fresh_ends::is_fresh;
use crate::plm::ends::retention::expires_at;
use crate::plm::records::recorder::is_once;
use crate::register::{Possession, Workers};
use crate::turn::Turn;

/// What a repair of a slot did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Repaired {
    /// It was in order.
    Nothing,
    /// A leaf, a timer or a judgement was missing.
    Index,
    /// A task was taken back from this worker.
    TakenFrom(WorkerIndex),
}

impl Plm {
    /// Brings one slot in order.
    pub(crate) fn repair(
        &mut self,
        turn: &mut Turn<'_>,
        workers: &mut Workers,
        slot: SlotIndex,
    ) -> Repaired {
        let is_recorded = self.repair_record(turn, slot);
        let task = turn.segment.task(slot);
        let state = task.state();
        // Whether its worker has it is certain only if this pass looks.
        if is_recorded && !state.is_with_worker() {
            return Repaired::Index;
        }
        let is_mended = match state.phase() {
            Phase::Ready if state.has_flag(FLAG_CANCEL) => self.end_cancelled(turn, slot, state),
            Phase::Ready => turn.index_ready(slot, state),
            Phase::Blocked => {
                let is_offered = task.kind().is_some_and(|kind| workers.is_offered(kind));
                is_offered && self.may_hand_out(task) && self.release(turn, slot, state)
            }
            Phase::Delayed => restore_timer(turn, slot, state, Now::from_stamp(task.phase_time())),
            Phase::Assigned | Phase::Running => {
                return self.repair_held(turn, workers, slot, state);
            }
            Phase::Submitted if Self::is_unjudged(task, state) => self.judge_met(turn, slot, state),
            Phase::Submitted => self.repair_submitted(turn, slot, state),
            Phase::Ended if state.is_judged() => self.repair_judged(turn, slot, state),
            Phase::Ended => self.conclude(turn, workers, slot, state),
            Phase::Done | Phase::Failed | Phase::Cancelled | Phase::DeadLetter
                if state.is_forgotten() =>
            {
                self.repair_forgotten(turn, slot, state)
            }
            Phase::Done | Phase::Failed | Phase::Cancelled => {
                turn.accept_end(slot, state);
                turn.complete_end(slot, state);
                !is_fresh(turn, slot)
                    && restore_timer(turn, slot, state, expires_at(turn, slot, state))
            }
            Phase::Quarantine => {
                // Another process may have put it there, which tells nobody.
                tell_quarantine(turn, slot, state);
                false
            }
            Phase::DeadLetter => {
                turn.complete_end(slot, state);
                false
            }
            Phase::Held if cfg!(qtf_mutant = "sim_sweep_releases_what_is_held") => {
                self.release(turn, slot, state)
            }
            Phase::Free | Phase::Claimed | Phase::Held | Phase::Reserved => false,
        };
        if is_mended {
            turn.segment.counters().add(Counter::LeafRestored, 1);
            Repaired::Index
        } else {
            Repaired::Nothing
        }
    }

    /// Journals a task again whose last change found no room, or that a local process has submitted. Returns
    /// whether it did.
    fn repair_record(&mut self, turn: &Turn<'_>, slot: SlotIndex) -> bool {
        let task = turn.segment.task(slot);
        let state = task.state();
        let Some(recorder) = self.recorder_of(task) else {
            return false;
        };
        let phase = state.phase();
        let is_task = phase.is_unfinished() || phase.is_final();
        is_task
            && !Self::is_unjudged(task, state)
            && !recorder.has_record_of(task)
            && recorder.check_change().is_ok()
            && recorder.note_again(turn, slot).is_some()
    }

    /// A judged task whose outcome is durable goes on, should nobody have seen to it.
    fn repair_judged(&mut self, turn: &mut Turn<'_>, slot: SlotIndex, state: StateWord) -> bool {
        let task = turn.segment.task(slot);
        let is_durable = match self.recorder_of(task) {
            Some(recorder) => recorder.is_durable(task),
            None => true,
        };
        is_durable && self.settle(turn, slot, state)
    }

    fn repair_held(
        &mut self,
        turn: &mut Turn<'_>,
        workers: &mut Workers,
        slot: SlotIndex,
        state: StateWord,
    ) -> Repaired {
        let Owner::Worker(worker) = state.owner() else {
            // Held by nobody: cannot come from the table. Reported, and kept for inspection.
            return if self.quarantine(turn, slot, state) {
                Repaired::Index
            } else {
                Repaired::Nothing
            };
        };
        let possession = state.id(slot).map_or(Possession::Gone, |id| {
            workers.possession(turn.segment, worker, id)
        });
        let task = turn.segment.task(slot);
        let why = match possession {
            Possession::Holds if self.takes_unstarted_back(turn, workers, slot, state) => {
                turn.segment.counters().add(Counter::TaskRequeued, 1);
                return Repaired::TakenFrom(worker);
            }
            Possession::Holds => {
                let is_flagged = stop_reason(state).is_some();
                let watched = if is_to_be_told(turn.segment, state) {
                    Some(turn.now)
                } else if state.phase() == Phase::Running && !is_flagged {
                    overdue_at(turn, slot)
                } else {
                    None
                };
                return match watched {
                    Some(at) if restore_timer(turn, slot, state, at) => Repaired::Index,
                    Some(_) | None => Repaired::Nothing,
                };
            }
            // Its order never went out, so nobody has lost it.
            Possession::Doubtful if self.waits_for_its_record(task) => HandBack::Returned,
            Possession::Unnamed if state.phase() == Phase::Assigned => HandBack::Returned,
            Possession::Unnamed | Possession::Doubtful | Possession::Gone => HandBack::WorkerLost,
            Possession::Returned => HandBack::Returned,
        };
        if !self.hand_back(turn, workers, slot, why) {
            return Repaired::Nothing;
        }
        turn.segment.counters().add(Counter::TaskRequeued, 1);
        if matches!(possession, Possession::Unnamed | Possession::Doubtful) {
            turn.segment
                .counters()
                .add(Counter::AssignmentReconciled, 1);
            // Should it run there after all, it is another's now.
            push_stop(turn, slot, state, StopReason::Stale);
        }
        Repaired::TakenFrom(worker)
    }

    /// Takes an attempt back that its worker lets lie, and that could run elsewhere. A task that runs at most once stays, as the
    /// worker may be about to begin it. Returns whether it did.
    fn takes_unstarted_back(
        &mut self,
        turn: &mut Turn<'_>,
        workers: &mut Workers,
        slot: SlotIndex,
        state: StateWord,
    ) -> bool {
        let Owner::Worker(worker) = state.owner() else {
            return false;
        };
        if state.phase() != Phase::Assigned || stop_reason(state).is_some() {
            return false;
        }
        let task = turn.segment.task(slot);
        let since = Now::from_stamp(task.phase_time());
        if task.options().has(TaskOptions::AT_MOST_ONCE)
            || cfg!(qtf_mutant = "sim_unstarted_attempt_is_kept")
            || !workers.has_let_lie(turn, worker, since, task.kind())
            || !self.hand_back(turn, workers, slot, HandBack::Returned)
        {
            return false;
        }
        push_stop(turn, slot, state, StopReason::Stale);
        workers.note_let_lie(turn.segment, worker);
        true
    }

    /// The task may run once only, and its order goes out when the record of it is durable, which it is not.
    fn waits_for_its_record(&self, task: &TaskSlot) -> bool {
        is_once(task)
            && self.recorder.as_ref().is_some_and(|recorder| {
                task.options().has(TaskOptions::JOURNAL) && !recorder.is_durable(task)
            })
    }
}

fn restore_timer(turn: &Turn<'_>, slot: SlotIndex, state: StateWord, at: Now) -> bool {
    if turn.segment.timers().leaf(slot.get()).is_some() {
        return false;
    }
    turn.set_timer(slot, state, at);
    true
}
