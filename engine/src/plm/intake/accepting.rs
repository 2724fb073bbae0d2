//! From SUBMITTED to READY, and everything else that a durable record sets off.
//!
//! A submission's record is appended before its slot becomes SUBMITTED (nobody writes the group in between: both happen
//! in one call). What waits is served in the order of the records, a bounded part in each cycle. A SUBMITTED task that
//! nobody here has appended (a local process submitted it, or there was no room) is met by the sweep.
//! Tested in `engine/tests/rules/journal.rs` and `restart.rs`.

use qtf_journal::{Blob, Lsn, Record, WholeTask};
use qtf_shm::{Counter, Event, FLAG_CANCEL, Now, Outcome, Owner, Phase, SlotIndex, StateWord};

use super::admission::{NewTask, array_of, keep_s, options_of};
use crate::effects::PER_CALL_MAX;
use crate::lookup::find;
use crate::plm::Durability;
use crate::plm::Plm;
use crate::plm::attempts::handing_out::dispatch;
use crate::plm::ends::endings::HandBack;
use crate::plm::ends::retention::release;
use crate::plm::records::pending::{Then, Wait};
use crate::plm::records::whole_task::in_file;
use crate::plm::submission::{Payload, Submission};
use crate::register::Workers;
use crate::rejection::Rejection;
use crate::turn::Turn;
use crate::work_count::WorkCount;

/// LIMIT: so many waits are served for each task that a cycle may assign: accepting costs a fifth of assigning, and
/// submissions come in larger groups.
const WAITS_PER_TASK: u32 = 4;

impl Plm {
    /// Appends the record of a submission; `None` for a memory task.
    pub(super) fn record_submission(
        &mut self,
        turn: &Turn<'_>,
        submission: &Submission<'_>,
        new: NewTask,
    ) -> Result<Option<Lsn>, Rejection> {
        let NewTask { checked, id, stamp } = new;
        if checked.durability != Durability::Journal {
            return Ok(None);
        }
        let Some(recorder) = &mut self.recorder else {
            return Ok(None);
        };
        let whole = WholeTask {
            id,
            // A held one is not accepted before it is released.
            phase: if submission.hold {
                Phase::Held
            } else {
                Phase::Submitted
            },
            cancel_requested: false,
            attempt: 0,
            failures: 0,
            losses: 0,
            max_attempts: checked.max_attempts,
            options: options_of(submission, checked.durability).bits(),
            priority: checked.priority,
            stamp: turn.segment.journal_stamp(stamp),
            timeout_ms: submission.timeout_ms,
            estimate_ms: submission.estimate_ms,
            keep_s: keep_s(submission),
            kind: submission.kind,
            client: turn.clients.named(submission.client),
            submitted_unix_ms: submission.submitted_unix_ms,
            due_unix_ms: match submission.delay_ms {
                0 => 0,
                delay_ms => recorder.wall.unix_ms_at(turn.now).saturating_add(delay_ms),
            },
            ended_unix_ms: 0,
            array: array_of(submission, id),
            key: submission
                .key
                .map(|key| (key, recorder.wall.unix_ms_of_key_end(checked.key_expiry))),
            outcome: Outcome::default(),
            payload: match submission.payload {
                Payload::Bytes(&[]) => Blob::None,
                Payload::Bytes(bytes) => Blob::Bytes(bytes),
                Payload::Stored(blob) => in_file(blob).unwrap_or_default(),
            },
            result: Blob::None,
            lsn: Lsn::NONE,
        };
        recorder.try_append(&Record::Task(whole)).map(Some)
    }

    /// Everything up to this record is durable now.
    pub(crate) fn note_durable(&mut self, turn: &Turn<'_>, lsn: Lsn) {
        if let Some(recorder) = &mut self.recorder {
            let lsn = lsn.min(recorder.appender.last_lsn());
            recorder.durable = recorder.durable.max(lsn);
            if recorder.reservation.durable(turn.segment, recorder.durable) {
                turn.segment.counters().add(Counter::IdsReserved, 1);
            }
        }
    }

    /// Says whether something waits that is durable by now.
    pub(crate) fn has_durable_waits(&self) -> bool {
        self.recorder
            .as_ref()
            .is_some_and(|recorder| recorder.pending.is_due(recorder.durable))
    }

    /// Does what waited for records that are durable by now, up to a number of tasks.
    pub(crate) fn serve_durable(
        &mut self,
        turn: &mut Turn<'_>,
        workers: &mut Workers,
    ) -> WorkCount {
        let mut work = WorkCount::NONE;
        if self.recorder.is_none() {
            return work;
        }
        for _ in 0..turn
            .config
            .tasks_per_cycle_max
            .saturating_mul(WAITS_PER_TASK)
        {
            if !turn.effects.has_room(PER_CALL_MAX) {
                break;
            }
            let Some(wait) = self
                .recorder
                .as_mut()
                .and_then(|recorder| recorder.pending.pop(recorder.durable))
            else {
                break;
            };
            self.go_on(turn, workers, wait);
            work += WorkCount::ONE;
        }
        work
    }

    fn go_on(&mut self, turn: &mut Turn<'_>, workers: &mut Workers, Wait { task, then, .. }: Wait) {
        let found = find(turn.segment, task);
        if let Then::Tell(phase, client) = then {
            // Its slot may be free by now; a dead letter that was revived meanwhile has not ended, or in another way.
            if found.is_err() || found.is_ok_and(|(_, state)| state.phase() == phase) {
                turn.finished(task, phase, client);
            }
            if found.is_err() && phase == Phase::Done {
                self.note_unkept(task);
            }
            return;
        }
        let Ok((slot, state)) = found else {
            return;
        };
        match (then, state.phase()) {
            (Then::Accept, Phase::Submitted) => {
                accept(turn, slot, state);
            }
            (Then::Settle, Phase::Ended) if state.is_judged() => {
                self.settle(turn, slot, state);
            }
            (Then::Dispatch(attempt), Phase::Assigned) if state.fence() == attempt => {
                self.send_order(turn, workers, slot, state);
            }
            (Then::Free, _) if state.is_forgotten() => {
                release(turn, slot, state);
            }
            // Cancelled meanwhile, for example: that has a record of its own.
            _ => {}
        }
    }

    /// The order for an attempt whose record is durable goes out, for the first time. Not if the task was cancelled meanwhile, and
    /// not to a worker that came back without it: the sweep takes it from that one, as never sent.
    fn send_order(
        &mut self,
        turn: &mut Turn<'_>,
        workers: &mut Workers,
        slot: SlotIndex,
        assigned: StateWord,
    ) {
        let (Owner::Worker(worker), Some(task)) = (assigned.owner(), assigned.id(slot)) else {
            return;
        };
        if assigned.has_flag(FLAG_CANCEL) {
            self.hand_back(turn, workers, slot, HandBack::Returned);
        } else if workers.begin_to_send(turn, worker) {
            dispatch(turn, task, assigned);
        }
    }

    /// Judges a SUBMITTED task that the sweep has met and whose record is appended. Returns whether it changed.
    pub(in crate::plm) fn repair_submitted(
        &mut self,
        turn: &Turn<'_>,
        slot: SlotIndex,
        state: StateWord,
    ) -> bool {
        let task = turn.segment.task(slot);
        let Some(recorder) = self.recorder_of(task) else {
            return accept(turn, slot, state);
        };
        recorder.has_record_of(task) && recorder.is_durable(task) && accept(turn, slot, state)
    }
}

/// SUBMITTED -> READY, or DELAYED if its start is later. Returns whether it did.
pub(in crate::plm) fn accept(turn: &Turn<'_>, slot: SlotIndex, state: StateWord) -> bool {
    let task = turn.segment.task(slot);
    let due = task.phase_time();
    // Without a later start this is the moment of submission, which is the stamp of the key.
    if due > task.key().ready_stamp() && !turn.now.has_reached(due) {
        let Ok(delayed) = turn.segment.apply(slot, state, Event::AcceptDelayed) else {
            return false;
        };
        turn.set_timer(slot, delayed, Now::from_stamp(due));
        return true;
    }
    let Some(ready) = turn.advance(slot, state, Event::Accept) else {
        return false;
    };
    turn.index_ready(slot, ready);
    true
}
