//! How long the end of a task is remembered: until its client acknowledges it, or its time is over.
//!
//! DONE, FAILED and CANCELLED have a time to live (their timer leaf, see `timers.rs`);
//! `DEAD_LETTER` is kept until somebody purges it. With the slot go its payload, its result and
//! its side record. Of a journal task that goes a record is left, so that a cold start does not bring
//! it back; an acknowledgement is answered when that is durable. Tested in
//! `engine/tests/rules/retention.rs` and `journal.rs`.

use qtf_journal::Record;
use qtf_shm::{Counter, Phase, SlotIndex, StateWord, TaskId};

use super::Plm;
use super::timers::expires_at;
use crate::answers::Answer;
use crate::rejection::Rejection;
use crate::turn::Turn;

/// LIMIT: a full journal is looked at again as often as a spare file is tried to be made.
const LOOK_AGAIN_NS: u64 = 1_000_000_000;

impl Plm {
    /// Frees the slot of a task that has ended.
    pub(crate) fn forget(&mut self, turn: &mut Turn<'_>, id: TaskId) -> Result<Answer, Rejection> {
        let (slot, state) = turn.find(id)?;
        let phase = state.phase();
        if !phase.is_final() {
            return Err(Rejection::wrong_state(
                id,
                phase,
                "it has not ended: wait for it or cancel it",
            ));
        }
        let task = turn.segment.task(slot);
        self.check_change(task)?;
        let is_journalled = self.is_journalled(task);
        if !turn.free(slot, state) {
            return Err(Rejection::unknown_task(id));
        }
        let record = if phase == Phase::DeadLetter {
            Record::Purge { task: id }
        } else {
            Record::Acknowledged { task: id }
        };
        let durable = match &mut self.journal {
            Some(journal) if is_journalled => journal.append(&record),
            Some(_) | None => None,
        };
        Ok(Answer { phase, durable })
    }

    /// The result of an ended task expires, unless its leaf came too early.
    pub(super) fn serve_ended(&mut self, turn: &mut Turn<'_>, slot: SlotIndex, state: StateWord) {
        let over = expires_at(turn, slot);
        if over.stamp() > turn.now.stamp() {
            turn.set_timer(slot, state, over);
            return;
        }
        let task = turn.segment.task(slot);
        if self.check_change(task).is_err() {
            turn.set_timer(slot, state, turn.now.plus_ns(LOOK_AGAIN_NS));
            return;
        }
        let is_journalled = self.is_journalled(task);
        if !turn.free(slot, state) {
            return;
        }
        turn.segment.counters().add(Counter::ResultExpired, 1);
        if let (true, Some(journal), Some(task)) =
            (is_journalled, &mut self.journal, state.id(slot))
        {
            journal.append(&Record::Purge { task });
        }
    }
}
