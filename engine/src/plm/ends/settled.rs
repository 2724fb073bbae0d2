//! Whether the end of a task may be told.
//!
//! Tested in `engine/tests/rules/journal.rs` and `lanes.rs`.

use qtf_shm::{Phase, Segment, TaskId, TaskOptions};

use crate::plm::Plm;
use crate::rejection::Rejection;

impl Plm {
    /// The phase in which a task has ended, once that may be told: see [`crate::Engine::settled_end`].
    pub(crate) fn settled_end(
        &self,
        segment: &Segment,
        task: TaskId,
    ) -> Result<Option<Phase>, Rejection> {
        let (slot, state) = match self.find(segment, task) {
            Ok(found) => found,
            Err(_) if self.is_unkept(task) => return Ok(Some(Phase::Done)),
            // What it has printed is gone, and how it ended is known all the same.
            Err(_) if self.has_expired_done(segment, task) => return Ok(Some(Phase::Done)),
            Err(refused) => return Err(refused),
        };
        let phase = state.phase();
        let is_told = match &self.recorder {
            Some(recorder) => {
                let task = segment.task(slot);
                !task.options().has(TaskOptions::JOURNAL) || recorder.is_durable(task)
            }
            None => true,
        };
        // Of a task in quarantine no record says so.
        let has_ended = phase == Phase::Quarantine || phase.is_final() && is_told;
        Ok(has_ended.then_some(phase))
    }

    /// The task has ended well, and its result has expired, as far as that is known.
    pub(crate) fn has_expired_done(&self, segment: &Segment, task: TaskId) -> bool {
        // Looked for only where nothing else tells: of tasks that keep no result there are many.
        let expired = Some(task).filter(|task| !self.is_unkept(*task));
        let expired = expired.and_then(|task| segment.expired(task));
        expired.is_some_and(|tombstone| tombstone.phase == Phase::Done)
    }
}
