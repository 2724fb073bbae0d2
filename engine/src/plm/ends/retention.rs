//! How long the end of a task is remembered: until its client acknowledges it, or its time is over.
//!
//! DONE, FAILED and CANCELLED have a time to live (their timer leaf, see `upkeep/timers.rs`), FAILED a longer one, each task its own if its
//! client has asked for that; what goes by it leaves a tombstone.
//! `DEAD_LETTER` is kept until somebody purges it. With the slot go its payload, its result and
//! its side record. A memory task goes at once. Of a journal task a record must be left first, so that a cold start does not
//! bring it back, or a part of it: its word says that it is forgotten, and slot and files go when the record is
//! durable (`docs/adr/0015`). Tested in `engine/tests/rules/retention.rs`, `journal.rs` and `forgetting.rs`.

use qtf_journal::Record;
use qtf_shm::histogram::Stage;
use qtf_shm::{Counter, Event, Now, Phase, SlotIndex, StateWord, TaskId, Tombstone};

use crate::plm::Plm;
use crate::plm::answers::Answer;
use crate::rejection::Rejection;
use crate::turn::Turn;
use crate::wall::WallTime;

/// LIMIT: a full journal is looked at again as often as a spare file is tried to be made.
const LOOK_AGAIN_NS: u64 = 1_000_000_000;

impl Plm {
    /// What time it is for people, for tombstones.
    pub(crate) fn set_wall(&mut self, wall: WallTime) {
        self.ends.wall = wall;
    }

    /// Frees the slot of a task that has ended; that of a journal task when the record of it is durable.
    pub(crate) fn forget(&mut self, turn: &mut Turn<'_>, id: TaskId) -> Result<Answer, Rejection> {
        let (slot, state) = self.find(turn.segment, id)?;
        let phase = state.phase();
        if !phase.is_final() {
            return Err(Rejection::wrong_state(
                id,
                phase,
                "it has not ended: wait for it or cancel it",
            ));
        }
        let task = turn.segment.task(slot);
        if state.is_forgotten() {
            return self.answer(task, phase);
        }
        self.check_letting_go(task)?;
        self.end_automatic_key(turn, slot, id);
        let key = self.key_to_spend(turn, slot, id);
        if self.is_journalled(task) {
            let record = if phase == Phase::DeadLetter {
                Record::Purge { task: id }
            } else {
                Record::Acknowledged { task: id }
            };
            let ended = task.phase_time();
            if !self.begin_to_free(turn, slot, state, &record) {
                return Err(Rejection::unknown_task(id));
            }
            turn.took(Stage::Deliver, ended);
            self.spend_key(turn, key, id);
            return self.answer(task, phase);
        }
        turn.accept_end(slot, state);
        let ended = task.phase_time();
        if !turn.free(slot, state) {
            return Err(Rejection::unknown_task(id));
        }
        self.ends.fresh.acknowledged(id);
        turn.took(Stage::Deliver, ended);
        self.spend_key(turn, key, id);
        Ok(Answer {
            phase,
            durable: None,
        })
    }

    /// DONE .. -> the same, forgotten; the slot is free when the record is durable. Returns whether it changed. A record that
    /// finds no room after all is made up for by the sweep.
    fn begin_to_free(
        &mut self,
        turn: &mut Turn<'_>,
        slot: SlotIndex,
        state: StateWord,
        record: &Record<'_>,
    ) -> bool {
        let task = turn.write(slot);
        let mark = self.mark(task, state);
        let is_forgotten = if cfg!(qtf_mutant = "sim_slot_is_freed_before_its_record") {
            turn.free(slot, state)
        } else {
            turn.segment.apply(slot, state, Event::Forget).is_ok()
        };
        if !is_forgotten {
            self.unmark(task, mark);
            return false;
        }
        turn.clear_timer(slot);
        if let (Some(recorder), Some(id)) = (&mut self.recorder, state.id(slot)) {
            recorder.note_gone(turn, slot, id, record);
        }
        true
    }

    /// The result of an ended task expires, unless its leaf came too early.
    pub(in crate::plm) fn serve_ended(
        &mut self,
        turn: &mut Turn<'_>,
        slot: SlotIndex,
        state: StateWord,
    ) {
        if state.is_forgotten() {
            // Left by a rebuild of the caches: what it waits for is the journal.
            turn.clear_timer(slot);
            return;
        }
        turn.accept_end(slot, state);
        turn.complete_end(slot, state);
        let over = expires_at(turn, slot, state);
        if !turn.now.has_reached(over.stamp()) {
            turn.set_timer(slot, state, over);
            return;
        }
        let task = turn.segment.task(slot);
        if self.check_letting_go(task).is_err() {
            turn.set_timer(slot, state, turn.now.plus_ns(LOOK_AGAIN_NS));
            return;
        }
        let has_expired = match state.id(slot) {
            Some(task_id) if self.is_journalled(task) => {
                let record = Record::Purge { task: task_id };
                self.begin_to_free(turn, slot, state, &record)
            }
            Some(_) | None => turn.free(slot, state),
        };
        if has_expired {
            self.note_expired(turn, slot, state);
        }
    }

    fn note_expired(&self, turn: &Turn<'_>, slot: SlotIndex, ended: StateWord) {
        let counters = turn.segment.counters();
        counters.add(Counter::ResultExpired, 1);
        if ended.phase() == Phase::Failed {
            counters.add(Counter::FailedExpired, 1);
        }
        let tombstone = Tombstone {
            phase: ended.phase(),
            unix_ms: self.ends.wall.unix_ms_at(turn.now),
        };
        if let Some(task) = ended.id(slot) {
            turn.segment.note_expired(turn.right, task, tombstone);
        }
    }

    /// A forgotten task whose record is durable goes, should nobody have seen to it.
    pub(in crate::plm) fn repair_forgotten(
        &self,
        turn: &mut Turn<'_>,
        slot: SlotIndex,
        state: StateWord,
    ) -> bool {
        self.is_gone_for_good(turn.segment, slot) && release(turn, slot, state)
    }
}

/// Frees the slot of a forgotten task. Whoever asked for its end meanwhile is told it.
pub(in crate::plm) fn release(turn: &mut Turn<'_>, slot: SlotIndex, state: StateWord) -> bool {
    let is_free = turn.free(slot, state);
    if let (true, Some(task)) = (is_free, state.id(slot)) {
        let phase = state.phase();
        // Whose client has forgotten it.
        turn.finished(task, phase, None);
    }
    is_free
}

/// When the result of an ended task expires.
pub(in crate::plm) fn expires_at(turn: &Turn<'_>, slot: SlotIndex, ended: StateWord) -> Now {
    let at = Now::from_stamp(turn.segment.task(slot).phase_time());
    at.plus_ns(kept_for_ns(turn, slot, ended))
}

/// How long the result of an ended task is kept: as its client asked, else by its end.
pub(in crate::plm) fn kept_for_ns(turn: &Turn<'_>, slot: SlotIndex, ended: StateWord) -> u64 {
    let side = turn.segment.task(slot).side_unit();
    let side = side.and_then(|unit| turn.segment.read_side_at(ended.id(slot)?, unit));
    match side.map_or(0, |side| side.keep_s) {
        0 if ended.phase() == Phase::Failed => turn.config.failed_result_ttl_ns,
        0 => turn.config.result_ttl_ns,
        keep_s => u64::from(keep_s).saturating_mul(1_000_000_000),
    }
}
