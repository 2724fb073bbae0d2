//! Handing a task out to a worker.
//!
//! Tested in `engine/tests/rules/scheduling.rs`, `journal.rs` and `room.rs`.

use qtf_journal::Record;
use qtf_shm::histogram::Stage;
use qtf_shm::{Event, Owner, SlotIndex, StateWord, TaskId, TaskSlot, WorkerIndex};

use crate::effects::Effect;
use crate::plm::Plm;
use crate::plm::records::pending::Then;
use crate::plm::records::recorder;
use crate::turn::Turn;

impl Plm {
    /// The task may be handed out: its outcome will find room.
    #[inline]
    pub(crate) fn may_hand_out(&mut self, task: &TaskSlot) -> bool {
        self.recorder_of(task)
            .is_none_or(|recorder| recorder.may_hand_out())
    }

    /// READY -> ASSIGNED, and the order to the worker; the attempt of a journal task is recorded. Nobody waits for that, but for
    /// a task that runs at most once: a reboot must not find it as one that was never handed out.
    #[inline]
    pub(crate) fn hand_out(
        &mut self,
        turn: &mut Turn<'_>,
        slot: SlotIndex,
        state: StateWord,
        worker: WorkerIndex,
    ) -> Option<StateWord> {
        let task = turn.write(slot);
        let mark = self.mark(task, state);
        let ready_since = task.phase_time();
        let Some(assigned) = turn.advance(slot, state, Event::Assign { worker }) else {
            self.unmark(task, mark);
            return None;
        };
        turn.took(Stage::Wait, ready_since);
        turn.segment.unindex_ready_key(slot, task.key());
        let Some(id) = assigned.id(slot) else {
            return Some(assigned);
        };
        let (Some(mark), Some(recorder)) = (mark, &mut self.recorder) else {
            dispatch(turn, id, assigned);
            return Some(assigned);
        };
        recorder.room.handed_out();
        let record = Record::Attempt {
            task: id,
            attempt: assigned.fence(),
            worker: turn.worker_id(worker).as_raw(),
        };
        let noted = recorder.note(turn, slot, mark, &record);
        if !recorder::is_once(&task) {
            dispatch(turn, id, assigned);
        } else if let Some(lsn) = noted {
            recorder.wait(lsn, id, Then::Dispatch(assigned.fence()));
        }
        Some(assigned)
    }
}

/// The order for an attempt that its worker holds goes out.
pub(in crate::plm) fn dispatch(turn: &mut Turn<'_>, task: TaskId, assigned: StateWord) {
    if let Owner::Worker(worker) = assigned.owner() {
        turn.effects.push(Effect::Dispatch {
            worker: turn.worker_id(worker),
            task,
            attempt: assigned.fence(),
        });
    }
}
