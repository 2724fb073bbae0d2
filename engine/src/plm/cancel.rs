//! Cancellation, and change of priority.
//!
//! A waiting task is cancelled at once. One that a worker holds is flagged and its worker is told
//! to stop it; what becomes of it is judged when the attempt ends. Asking again changes nothing.
//! Tested in `engine/tests/rules/cancellation.rs`.

use qtf_shm::{
    Counter, Event, FLAG_CANCEL, Key, OutcomeKind, Owner, Phase, SlotIndex, StateWord, TaskId,
};

use super::endings::outcome;
use super::{APPLY_TRIES_MAX, Plm};
use crate::answers::Answer;
use crate::effects::{Effect, StopReason};
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
                    turn.segment
                        .task(slot)
                        .set_outcome(outcome(OutcomeKind::Cancelled));
                    if self.finish(turn, slot, state, Event::Cancel) {
                        return Ok(Answer::at_once(Phase::Cancelled));
                    }
                }
                Phase::Assigned | Phase::Running => {
                    if request_stop(turn, slot, state, id) {
                        return Ok(Answer::at_once(state.phase()));
                    }
                }
                Phase::Ended => {
                    self.conclude(turn, workers, slot, state);
                }
                Phase::Cancelled => return Ok(Answer::at_once(Phase::Cancelled)),
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
        let (_, state) = turn.find(id)?;
        Err(Rejection::wrong_state(
            id,
            state.phase(),
            "it changes too quickly: ask again",
        ))
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
        let (slot, state) = turn.find(id)?;
        let phase = state.phase();
        let waits = matches!(
            phase,
            Phase::Submitted | Phase::Blocked | Phase::Held | Phase::Delayed | Phase::Ready
        );
        if !waits {
            return Err(Rejection::wrong_state(
                id,
                phase,
                "only a waiting task's priority can be changed",
            ));
        }
        let task = turn.segment.task(slot);
        let old = task.key();
        let new = Key::ready(priority, old.ready_stamp(), state.generation());
        task.set_key(new);
        if phase == Phase::Ready && !turn.segment.ready().rekey(slot.get(), old, new) {
            turn.index_ready(slot, state);
        }
        turn.segment.counters().add(Counter::TaskUpdated, 1);
        Ok(Answer::at_once(phase))
    }
}

/// Flags a task that a worker holds and tells the worker, once. Returns whether it is flagged.
fn request_stop(turn: &mut Turn<'_>, slot: SlotIndex, state: StateWord, id: TaskId) -> bool {
    if state.has_flag(FLAG_CANCEL) {
        return true;
    }
    if turn
        .segment
        .apply(slot, state, Event::RequestCancel)
        .is_err()
    {
        return false;
    }
    turn.segment.counters().add(Counter::TaskStopped, 1);
    if let Owner::Worker(worker) = state.owner() {
        turn.effects.push(Effect::Stop {
            worker: turn.worker_id(worker),
            task: id,
            attempt: state.attempt(),
            reason: StopReason::Cancelled,
        });
    }
    true
}
