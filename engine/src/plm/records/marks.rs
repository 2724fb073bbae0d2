//! The steps around each change of a task that is in the journal: may it be changed, it is about to change, it has changed; and
//! what an answer about it must wait for. A memory task passes all of them.
//!
//! Tested in `engine/tests/rules/journal.rs` and `room.rs`.

use qtf_journal::{Lsn, Record};
use qtf_shm::{Phase, Segment, SlotIndex, SlotWriter, StateWord, TaskId, TaskOptions, TaskSlot};

use super::recorder::{self, Mark};
use crate::lookup::{find, or_expired};
use crate::plm::{Answer, LSN_UNDER_WAY, Plm, Recorder};
use crate::rejection::Rejection;
use crate::turn::Turn;

impl Plm {
    /// The slot of a task that is there for those who ask: not one whose going is durable.
    pub(crate) fn find(
        &self,
        segment: &Segment,
        id: TaskId,
    ) -> Result<(SlotIndex, StateWord), Rejection> {
        let (slot, state) =
            find(segment, id).map_err(|rejection| or_expired(segment, id, rejection))?;
        if state.is_forgotten() && self.is_gone_for_good(segment, slot) {
            return Err(or_expired(segment, id, Rejection::unknown_task(id)));
        }
        Ok((slot, state))
    }

    /// The record of a forgotten task is durable, or there is no journal that could bring it back.
    pub(in crate::plm) fn is_gone_for_good(&self, segment: &Segment, slot: SlotIndex) -> bool {
        let recorder = self.recorder.as_ref();
        recorder.is_none_or(|recorder| recorder.is_durable(segment.task(slot)))
    }

    /// Everything up to this record is on stable storage.
    pub(crate) fn durable_lsn(&self) -> Lsn {
        self.recorder
            .as_ref()
            .map_or(Lsn::NONE, |recorder| recorder.durable)
    }

    /// The task is durable by this engine's journal.
    #[inline]
    pub(in crate::plm) fn is_journalled(&self, task: &TaskSlot) -> bool {
        self.recorder.is_some() && task.options().has(TaskOptions::JOURNAL)
    }

    /// The recorder, if the task is in the journal.
    #[inline]
    pub(in crate::plm) fn recorder_of(&mut self, task: &TaskSlot) -> Option<&mut Recorder> {
        let recorder = self.recorder.as_deref_mut()?;
        task.options().has(TaskOptions::JOURNAL).then_some(recorder)
    }

    /// To be called before the state of a task changes; `None` if that need not be recorded (any more).
    #[inline]
    pub(in crate::plm) fn mark(&mut self, task: SlotWriter<'_>, from: StateWord) -> Option<Mark> {
        let recorder = self.recorder_of(&task)?;
        (!from.is_judged()).then(|| recorder.mark(task))
    }

    /// The state did not change after all.
    #[inline]
    pub(in crate::plm) fn unmark(&mut self, task: SlotWriter<'_>, mark: Option<Mark>) {
        if let (Some(recorder), Some(mark)) = (&mut self.recorder, mark) {
            recorder.unmark(task, mark);
        }
    }

    /// Records a change of a marked task.
    #[inline]
    pub(in crate::plm) fn note(
        &mut self,
        turn: &Turn<'_>,
        slot: SlotIndex,
        mark: Option<Mark>,
        record: &Record<'_>,
    ) {
        if let (Some(recorder), Some(mark)) = (&mut self.recorder, mark) {
            recorder.note(turn, slot, mark, record);
        }
    }

    /// Says why a change of this task cannot be recorded now.
    #[inline]
    pub(in crate::plm) fn check_change(&mut self, task: &TaskSlot) -> Result<(), Rejection> {
        match self.recorder_of(task) {
            Some(recorder) => recorder.check_change(),
            None => Ok(()),
        }
    }

    /// Says why it cannot be recorded now that this task is cancelled, acknowledged or purged.
    #[inline]
    pub(in crate::plm) fn check_letting_go(&mut self, task: &TaskSlot) -> Result<(), Rejection> {
        match self.recorder_of(task) {
            Some(recorder) => recorder.check_letting_go(),
            None => Ok(()),
        }
    }

    /// What a caller must wait for if it depends on what the slot says.
    #[inline]
    pub(in crate::plm) fn awaited(&self, task: &TaskSlot) -> Option<Lsn> {
        let recorder = self.recorder.as_ref()?;
        task.options()
            .has(TaskOptions::JOURNAL)
            .then(|| recorder.awaited(task))?
    }

    /// The same of a task whose record was made in this turn.
    #[inline]
    pub(in crate::plm) fn awaited_just_now(&self, task: &TaskSlot) -> Option<Lsn> {
        let recorder = self.recorder.as_ref()?;
        let is_journalled = task.options().has(TaskOptions::JOURNAL);
        (is_journalled && !recorder.is_written(task)).then(|| Lsn::new(task.lsn()))
    }

    /// An answer that waits for everything the slot says.
    ///
    /// # Errors
    /// What the slot says found no room in the journal: the sweep brings it there, and asking again waits for that.
    pub(crate) fn answer(&self, task: &TaskSlot, phase: Phase) -> Result<Answer, Rejection> {
        match self.awaited(task) {
            Some(lsn) if lsn.get() == LSN_UNDER_WAY => Err(recorder::no_room()),
            durable => Ok(Answer { phase, durable }),
        }
    }

    /// A worker no longer holds a task.
    #[inline]
    pub(in crate::plm) fn count_handed_back(&mut self, task: &TaskSlot) {
        if let Some(recorder) = self.recorder_of(task) {
            recorder.room.handed_back();
        }
    }
}
