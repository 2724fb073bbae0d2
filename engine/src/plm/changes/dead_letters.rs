//! Dead letters: tasks that took their workers down until nobody gave them another one.
//!
//! A dead letter stays until an operator purges it ([`crate::Engine::forget`]) or gives it new attempts
//! here. Its attempts count on, so that a result of an earlier one stays stale; its losses start over.
//! Tested in `engine/tests/rules/dead_letters.rs`.

use qtf_shm::{Counter, Event, Outcome, Phase, TaskId, TaskOptions};

use crate::plm::Plm;
use crate::plm::answers::Answer;
use crate::plm::outcome::ATTEMPT_MAX;
use crate::rejection::Rejection;
use crate::turn::Turn;

impl Plm {
    /// `DEAD_LETTER` -> READY, at its old place in the order.
    pub(crate) fn revive(&mut self, turn: &mut Turn<'_>, id: TaskId) -> Result<Answer, Rejection> {
        let (slot, state) = turn.find(id)?;
        if state.phase() != Phase::DeadLetter {
            let action = "only a dead letter can be revived";
            return Err(Rejection::wrong_state(id, state.phase(), action));
        }
        if state.is_forgotten() {
            let action = "it is being purged: submit it anew";
            return Err(Rejection::wrong_state(id, state.phase(), action));
        }
        if state.fence() >= ATTEMPT_MAX {
            let action = "all of its 4,095 attempts are used up: purge it and submit it anew";
            return Err(Rejection::wrong_state(id, state.phase(), action));
        }
        let task = turn.write(slot);
        self.check_change(&task)?;
        let mark = self.mark(task, state);
        turn.drop_result(slot, state);
        // The outcome stays until the next one, as with every task that waits again: a kill right before the change leaves a dead letter
        // that says why it is one.
        if !cfg!(qtf_mutant = "sim_revival_keeps_losses") {
            task.set_losses(0);
        }
        if cfg!(qtf_mutant = "sim_reason_goes_before_the_state") {
            task.set_outcome(Outcome::default());
        }
        let Some(ready) = turn.advance(slot, state, Event::Revive) else {
            self.unmark(task, mark);
            return Err(Rejection::unknown_task(id));
        };
        // Its client was told of its end, and has it counted.
        task.drop_options(TaskOptions::TELLS_LANE);
        turn.clients.task_revived(turn.segment, task.client());
        turn.index_ready(slot, ready);
        turn.segment.counters().add(Counter::TaskRevived, 1);
        let durable = if cfg!(qtf_mutant = "sim_revival_is_not_recorded") {
            self.unmark(task, mark);
            None
        } else {
            self.note_requeue(turn, slot, mark, ready)
        };
        Ok(Answer {
            phase: Phase::Ready,
            durable,
        })
    }
}
