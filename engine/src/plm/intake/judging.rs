//! Tasks that local processes have submitted for judgement: a key, the journal, or both.
//!
//! The submitter has filled in the slot and made it SUBMITTED; its command comes by its lane, or never, if it was killed. So whoever meets a SUBMITTED task that
//! was not judged judges it: the command, else its timer leaf or the sweep, which leave it a moment to a submitter that has a lane.
//!
//! Order, as in `admission.rs`: the key is reserved before the task exists and confirmed after, the record is appended before the task is accepted. A refused
//! one is SUBMITTED -> FREE. Judged twice is as good as once: the key stands for this very task then.
//!
//! Tested in `engine/tests/rules/lanes.rs`.

use qtf_shm::{
    AttachIndex, Counter, KeyId, Now, Owner, Phase, SlotIndex, StateWord, TaskId, TaskOptions,
    TaskSlot,
};

use super::accepting::accept;
use crate::clients::arena_bytes;
use crate::plm::keys::entries::NamedTask;
use crate::plm::records::recorder;
use crate::plm::{Accepted, Plm};
use crate::rejection::Rejection;
use crate::turn::Turn;

/// How long a submitter that has a lane may take from its submission to its command.
const COMMAND_COMES_NS: u64 = 1_000_000_000;

impl Plm {
    /// A local process has submitted it, and it was not judged yet: no record of it was ever made. Memory tasks are accepted when they are judged.
    pub(crate) fn is_unjudged(task: &TaskSlot, state: StateWord) -> bool {
        let is_local =
            matches!(state.owner(), Owner::Attach(attach) if attach != AttachIndex::DAEMON);
        let has_record = task.lsn() != 0 && task.options().has(TaskOptions::JOURNAL);
        state.phase() == Phase::Submitted && is_local && !has_record
    }

    /// Judges a SUBMITTED task of a local process.
    ///
    /// # Errors
    /// It is refused, and still SUBMITTED.
    fn judge_submitted(
        &mut self,
        turn: &mut Turn<'_>,
        slot: SlotIndex,
        state: StateWord,
    ) -> Result<Accepted, Rejection> {
        let id = state
            .id(slot)
            .ok_or(Rejection::invalid("the slot names no task"))?;
        let judged = self.judge_checked(turn, slot, state, id);
        match &judged {
            Ok(accepted) if accepted.is_repeat => turn.drop_submitted(slot, state),
            Ok(_) => {
                let task = turn.segment.task(slot);
                if !task.options().has(TaskOptions::TELLS_LANE) {
                    turn.clients.arena_taken(task.client(), arena_bytes(task));
                    turn.clients.task_accepted(turn.segment, task.client());
                }
            }
            Err(_) => {}
        }
        judged
    }

    /// Judges it, and gives its slot back if it is refused.
    ///
    /// # Errors
    /// It is refused.
    pub(crate) fn judge_or_drop(
        &mut self,
        turn: &mut Turn<'_>,
        slot: SlotIndex,
        state: StateWord,
    ) -> Result<Accepted, Rejection> {
        let judged = self.judge_submitted(turn, slot, state);
        if judged.is_err() {
            turn.drop_submitted(slot, state);
            turn.segment.counters().add(Counter::RefusedOther, 1);
        }
        judged
    }

    fn judge_checked(
        &mut self,
        turn: &mut Turn<'_>,
        slot: SlotIndex,
        state: StateWord,
        id: TaskId,
    ) -> Result<Accepted, Rejection> {
        if let Some(recorder) = &self.recorder {
            recorder.check_open()?;
        }
        let task = turn.segment.task(slot);
        let side = task
            .side_unit()
            .and_then(|unit| turn.segment.read_side_at(id, unit));
        let key = side.and_then(|side| Some((KeyId::from_words(side.key)?, side.key_expiry)));
        let mut place = None;
        if let Some((key, expiry)) = key {
            match self.repeated(turn.segment, turn.now, key)? {
                Some(first) if first.task != id => return Ok(first),
                Some(_) => {}
                None => {
                    let named = NamedTask {
                        key,
                        expiry,
                        task: id,
                        client: task.client(),
                    };
                    place = Some(self.reserve_key(turn, named)?);
                }
            }
        }
        let accepted = self.accept_judged(turn, slot, state, id);
        match (&accepted, place) {
            (Ok(_), Some(place)) => {
                turn.segment.keys().confirm(place);
            }
            (Err(_), Some(place)) => self.forget_key(turn, place, id),
            (_, None) => {}
        }
        accepted
    }

    fn accept_judged(
        &mut self,
        turn: &Turn<'_>,
        slot: SlotIndex,
        state: StateWord,
        id: TaskId,
    ) -> Result<Accepted, Rejection> {
        let task = turn.segment.task(slot);
        let names_kind = |kind| turn.segment.kind_name(kind).is_some();
        if !task.kind().is_some_and(names_kind) {
            return Err(Rejection::invalid(
                "the task names no kind: take its number from the segment's table of kinds",
            ));
        }
        turn.clients.check_task_share(turn.segment, task.client())?;
        if !task.options().has(TaskOptions::JOURNAL) {
            accept(turn, slot, state);
            return Ok(Accepted::once(id, None));
        }
        let Some(recorder) = &mut self.recorder else {
            return Err(Rejection::no_journal());
        };
        recorder.check_submission(task.payload().len())?;
        let lsn = recorder.note_again(turn, slot);
        let lsn = lsn.ok_or_else(recorder::no_room)?;
        turn.segment.counters().add(Counter::TaskJournalled, 1);
        Ok(Accepted::once(id, Some(lsn)))
    }

    /// A SUBMITTED task that was met without a command of its submitter. Returns whether it changed.
    pub(in crate::plm) fn judge_met(
        &mut self,
        turn: &mut Turn<'_>,
        slot: SlotIndex,
        state: StateWord,
    ) -> bool {
        let since = Now::from_stamp(turn.segment.task(slot).key().ready_stamp());
        if has_lane(turn, state) && turn.now.since_ns(since) < COMMAND_COMES_NS {
            turn.set_timer(slot, state, turn.now.plus_ns(COMMAND_COMES_NS));
            return false;
        }
        match self.judge_submitted(turn, slot, state) {
            Ok(_) => true,
            // For want of room: it waits, as nobody is there who would ask again.
            Err(refused) if refused.retry_after_ms > 0 => false,
            Err(_) => {
                turn.drop_submitted(slot, state);
                turn.segment.counters().add(Counter::RefusedOther, 1);
                true
            }
        }
    }
}

impl Turn<'_> {
    /// SUBMITTED -> FREE: what was submitted comes to nothing.
    fn drop_submitted(&mut self, slot: SlotIndex, state: StateWord) {
        if let Ok(files) = self.segment.free_task_but_files(slot, state) {
            for file in files {
                self.lost_files.push(self.segment, file);
            }
        }
    }
}

/// The submitter has a lane, so its command comes.
fn has_lane(turn: &Turn<'_>, state: StateWord) -> bool {
    match state.owner() {
        Owner::Attach(attach) => turn.segment.lane(turn.right, attach).is_some(),
        Owner::None | Owner::Worker(_) => false,
    }
}
