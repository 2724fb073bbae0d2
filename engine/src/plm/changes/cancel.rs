//! Cancellation, and change of priority.
//!
//! A waiting task is cancelled at once. One that a worker holds is flagged and its worker is told
//! to stop it (`attempts/stops.rs`); what becomes of it is judged when the attempt ends. Asking again changes
//! nothing, but tells the worker once more.
//! Tested in `engine/tests/rules/cancellation.rs`, `local_takes.rs` and `cut_short.rs`.

use qtf_journal::Record;
use qtf_shm::{Blocked, Counter, Event, FLAG_CANCEL, Key, Phase, SlotIndex, StateWord, TaskId};

use crate::plm::answers::Answer;
use crate::plm::ends::endings::LastStep;
use crate::plm::outcome::{Judgement, Tries, judge};
use crate::plm::{APPLY_TRIES_MAX, Plm};
use crate::register::Workers;
use crate::rejection::Rejection;
use crate::turn::Turn;

impl Plm {
    /// Cancels a task; the answer is its phase after the call.
    pub(crate) fn cancel(
        &mut self,
        turn: &mut Turn<'_>,
        workers: &mut Workers,
        id: TaskId,
    ) -> Result<Answer, Rejection> {
        for _ in 0..APPLY_TRIES_MAX {
            let (slot, state) = turn.find(id)?;
            match state.phase() {
                Phase::Submitted | Phase::Blocked | Phase::Held | Phase::Delayed | Phase::Ready => {
                    self.check_letting_go(turn.segment.task(slot))?;
                    if self.finish(turn, slot, state, LastStep::cancel()) {
                        return self.answer(turn.segment.task(slot), Phase::Cancelled);
                    }
                }
                Phase::Assigned | Phase::Running => {
                    if self.request_stop(turn, slot, state)? {
                        return self.answer(turn.segment.task(slot), state.phase());
                    }
                }
                Phase::Ended if state.is_judged() => {
                    return self.cancel_judged(turn, slot, id, state);
                }
                Phase::Ended => {
                    self.conclude(turn, workers, slot, state);
                }
                Phase::Cancelled => {
                    return self.answer(turn.segment.task(slot), Phase::Cancelled);
                }
                phase @ (Phase::Done | Phase::Failed | Phase::DeadLetter) => {
                    return Err(Rejection::wrong_state(
                        id,
                        phase,
                        "it has ended and cannot be cancelled",
                    ));
                }
                phase @ (Phase::Free | Phase::Claimed | Phase::Quarantine | Phase::Reserved) => {
                    return Err(Rejection::wrong_state(id, phase, "it cannot be cancelled"));
                }
            }
        }
        Err(too_quick(turn, id))
    }

    /// A task that is cancelled or otherwise decided already, and waits for the record of that.
    fn cancel_judged(
        &self,
        turn: &Turn<'_>,
        slot: SlotIndex,
        id: TaskId,
        state: StateWord,
    ) -> Result<Answer, Rejection> {
        let task = turn.segment.task(slot);
        match judge(Tries::of(task, state), task.outcome()) {
            Judgement::Cancelled => self.answer(task, Phase::Cancelled),
            Judgement::Done
            | Judgement::Later
            | Judgement::Again { .. }
            | Judgement::Failed { .. } => {
                let action = "it has ended and cannot be cancelled";
                Err(Rejection::wrong_state(id, state.phase(), action))
            }
        }
    }

    /// Flags a task that a worker holds and tells the worker. Returns whether it is flagged.
    fn request_stop(
        &mut self,
        turn: &mut Turn<'_>,
        slot: SlotIndex,
        state: StateWord,
    ) -> Result<bool, Rejection> {
        let task = turn.write(slot);
        if state.has_flag(FLAG_CANCEL) {
            self.tell_stop(turn, slot, state);
            return Ok(true);
        }
        self.check_letting_go(&task)?;
        let mark = self.mark(task, state);
        let Ok(flagged) = turn.segment.apply(slot, state, Event::RequestCancel) else {
            self.unmark(task, mark);
            return Ok(false);
        };
        let Some(id) = state.id(slot) else {
            return Ok(false);
        };
        self.note(turn, slot, mark, &Record::Cancel { task: id });
        turn.segment.counters().add(Counter::TaskStopped, 1);
        self.tell_stop(turn, slot, flagged);
        Ok(true)
    }

    /// Changes the priority of a waiting task; its place in the order of submission stays.
    pub(crate) fn update_priority(
        &mut self,
        turn: &Turn<'_>,
        id: TaskId,
        priority: u32,
    ) -> Result<Answer, Rejection> {
        let Ok(priority) = u8::try_from(priority) else {
            return Err(Rejection::range("priority", u64::from(priority), 0, 255));
        };
        for _ in 0..APPLY_TRIES_MAX {
            let (slot, state) = turn.find(id)?;
            let phase = state.phase();
            let waits = matches!(
                phase,
                Phase::Submitted | Phase::Blocked | Phase::Held | Phase::Delayed | Phase::Ready
            );
            if !waits {
                let action = "only a waiting task's priority can be changed";
                return Err(Rejection::wrong_state(id, phase, action));
            }
            let task = turn.write(slot);
            self.check_change(&task)?;
            let mark = self.mark(task, state);
            if !set_priority(turn, slot, state, priority) {
                // A local worker was quicker.
                self.unmark(task, mark);
                continue;
            }
            if phase == Phase::Blocked {
                self.note_parked(turn, slot, state);
            }
            turn.segment.counters().add(Counter::TaskUpdated, 1);
            let record = Record::Update { task: id, priority };
            self.note(turn, slot, mark, &record);
            return self.answer(&task, phase);
        }
        Err(too_quick(turn, id))
    }
}

/// Gives a waiting task another key. One that is READY may be taken at this moment: it is out of every worker's reach meanwhile. Returns
/// whether it still waited; if not, nothing of the slot was written.
fn set_priority(turn: &Turn<'_>, slot: SlotIndex, waiting: StateWord, priority: u8) -> bool {
    let task = turn.write(slot);
    let old = task.key();
    let new = Key::ready(priority, old.ready_stamp(), waiting.generation());
    if waiting.phase() != Phase::Ready {
        task.set_key(new);
        return true;
    }
    let why = Blocked::BEING_CHANGED;
    let Ok(aside) = turn.segment.apply(slot, waiting, Event::Park { why }) else {
        return false;
    };
    task.set_key(new);
    turn.segment.unindex_ready_key(slot, old);
    // Should this process be killed here, the sweep releases it as any other that is BLOCKED without a reason.
    if let Ok(ready) = turn.segment.apply(slot, aside, Event::Release) {
        turn.index_ready(slot, ready);
    }
    true
}

/// The answer about a task that another process changes again and again.
pub(in crate::plm) fn too_quick(turn: &Turn<'_>, id: TaskId) -> Rejection {
    match turn.find(id) {
        Ok((_, state)) => {
            Rejection::wrong_state(id, state.phase(), "it changes too quickly: ask again")
        }
        Err(gone) => gone,
    }
}
