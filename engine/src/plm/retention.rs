//! How long the end of a task is remembered: until its client acknowledges it, or its time is over.
//!
//! DONE, FAILED and CANCELLED have a time to live (their timer leaf, see `timers.rs`);
//! `DEAD_LETTER` is kept until somebody forgets it. With the slot go its payload, its result and
//! its side record. Tested in `engine/tests/rules/retention.rs`.

use qtf_shm::TaskId;

use super::Plm;
use crate::answers::Answer;
use crate::rejection::Rejection;
use crate::turn::Turn;

impl Plm {
    /// Frees the slot of a task that has ended.
    pub(crate) fn forget(&mut self, turn: &mut Turn<'_>, id: TaskId) -> Result<Answer, Rejection> {
        let (slot, state) = turn.find(id)?;
        if !state.phase().is_final() {
            return Err(Rejection::wrong_state(
                id,
                state.phase(),
                "it has not ended: wait for it or cancel it",
            ));
        }
        if turn.free(slot, state) {
            Ok(Answer::at_once(state.phase()))
        } else {
            Err(Rejection::unknown_task(id))
        }
    }
}
