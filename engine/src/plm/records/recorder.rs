//! The PLM's side of the journal: what is appended, what waits for it, and whether there is room.
//!
//! The engine owns the [`Appender`], which only collects records; writing and syncing them is the caller's.
//! Flow of a task with [`qtf_shm::TaskOptions::JOURNAL`]:
//! ```text
//! SUBMITTED --its record durable--> READY, DELAYED     the submission is answered when it is durable
//! READY --> ASSIGNED                                   the attempt is recorded, nobody waits; a task that runs at most
//!                                                      once is sent to its worker when that is durable
//! RUNNING --> ENDED --judged, its outcome durable--> DONE, FAILED, CANCELLED   the worker is free at ENDED,
//!                                                      its verdict and the notice to clients wait
//! RUNNING --> ENDED --> DELAYED                        a retry is recorded, nobody waits
//! waiting --> CANCELLED; ASSIGNED, RUNNING --> DEAD_LETTER, CANCELLED   at once; the notice waits
//! DONE .. --> forgotten, its record durable--> FREE    the answer waits, and the files of the task stay until then
//! ```
//! Invariants:
//! - I1: the lsn of a slot is that of its last record. It is written after the state, so a reader may meet a newer
//!   state with an older lsn and never the reverse.
//! - I2: before the state of a journal task changes its lsn becomes [`LSN_UNDER_WAY`], and the record's own afterwards.
//!   So a daemon that is killed in between, or that finds no room for the record, leaves a slot that says of itself
//!   that it must be journalled again; a restart and the sweep do so, as a whole task.
//! - I3: nothing is told to anybody that depends on a record which is not durable.
//!
//! Tested in `engine/tests/rules/journal.rs`, `restart.rs`, `room.rs`.

use qtf_journal::{Appender, Blob, Group, Lsn, PushError, Record};
use qtf_shm::{
    Counter, FLAG_CANCEL, Now, Part, Phase, SlotIndex, SlotWriter, TaskId, TaskOptions, TaskSlot,
};

use super::pending::{Pending, Then, Wait};
use super::reservation::Reservation;
use super::room::Room;
use crate::lanes::client_to_tell;
use crate::plm::records::whole_task::{WholeTaskBuffer, load, whole_task_of};
use crate::rejection::{Detail, RejectReason, Rejection};
use crate::turn::Turn;
use crate::wall::WallTime;

/// In place of an lsn: the slot's last change is not in the journal yet.
pub(crate) const LSN_UNDER_WAY: u64 = qtf_journal::LSN_MAX;

/// Appends what happens to journal tasks, and knows what of it is durable.
#[derive(Debug)]
pub(crate) struct Recorder {
    pub(crate) appender: Appender,
    pub(crate) durable: Lsn,
    /// Records up to this one were in the journal when this daemon began.
    pub(crate) found: Lsn,
    pub(crate) pending: Pending,
    pub(crate) room: Room,
    pub(crate) reservation: Reservation,
    pub(crate) wall: WallTime,
    /// Slot at which adoption goes on; `None` when it is done.
    pub(crate) adopting: Option<u32>,
    has_failed: bool,
    result: Vec<u8>,
    whole: WholeTaskBuffer,
}

/// What the lsn of a slot was before a change of its state.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Mark {
    before: u64,
}

impl Mark {
    /// The journal does not have the task, or not as it was before the change: the whole of it is to be written.
    const fn is_unknown(self) -> bool {
        self.before == 0 || self.before == LSN_UNDER_WAY
    }
}

impl Recorder {
    pub(crate) fn new(appender: Appender, reservation: Reservation, wall: WallTime) -> Self {
        let found = appender.last_lsn();
        Self {
            appender,
            durable: found,
            found,
            pending: Pending::new(),
            room: Room::default(),
            reservation,
            wall,
            adopting: Some(0),
            has_failed: false,
            result: Vec::with_capacity(super::whole_task::RECORD_BLOB_BYTES_MAX),
            whole: WholeTaskBuffer::default(),
        }
    }

    /// Says why nothing can be journalled at all now.
    pub(crate) fn check_open(&self) -> Result<(), Rejection> {
        if self.has_failed {
            return Err(Rejection::new(
                RejectReason::JournalFailed,
                Detail::Plain(
                    "the journal cannot be written any more and the daemon stops: ask the next daemon",
                ),
            ));
        }
        if self.adopting.is_some() {
            return Err(Rejection::for_now(
                RejectReason::JournalFull,
                Detail::Plain(
                    "the daemon is writing the tasks it found to its journal: try again later",
                ),
            ));
        }
        Ok(())
    }

    /// Checks that a submission of so many bytes may be appended.
    pub(crate) fn check_submission(&self, bytes: u64) -> Result<(), Rejection> {
        self.check_open()?;
        if self.room.has_for_submission(&self.appender, bytes) {
            Ok(())
        } else {
            Err(no_room())
        }
    }

    /// Checks that a small record may be appended and the outcomes of what runs still find room.
    pub(crate) fn check_change(&self) -> Result<(), Rejection> {
        self.check_open()?;
        if self.room.has_for_change(&self.appender) {
            Ok(())
        } else {
            Err(no_room())
        }
    }

    /// Checks that the record may be appended by which a task is ended from outside, or let go.
    pub(crate) fn check_letting_go(&self) -> Result<(), Rejection> {
        self.check_open()?;
        if self.room.has_for_letting_go(&self.appender) {
            Ok(())
        } else {
            Err(no_room())
        }
    }

    /// One more journal task may be handed out.
    pub(crate) fn may_hand_out(&self) -> bool {
        self.check_change().is_ok()
    }

    /// An outcome with so many bytes of output finds room.
    pub(crate) fn has_room_for_outcome(&self, bytes: u64) -> bool {
        !self.has_failed && self.room.has_for_outcome(&self.appender, bytes)
    }

    pub(crate) fn fail(&mut self) {
        self.has_failed = true;
    }

    pub(crate) fn take_group(&mut self) -> Option<Group> {
        let group = self.appender.take_group();
        if cfg!(qtf_mutant = "sim_acknowledges_before_the_sync") {
            self.durable = group.as_ref().map_or(self.durable, Group::last);
        }
        group
    }

    /// What a caller must wait for if it depends on everything that the slot says.
    pub(crate) fn awaited(&self, task: &TaskSlot) -> Option<Lsn> {
        let lsn = Lsn::new(task.lsn());
        if self.is_unsure_of(lsn) {
            return Some(Lsn::new(LSN_UNDER_WAY));
        }
        (lsn > self.durable).then_some(lsn)
    }

    /// While tasks are being adopted, a number behind the end that was found may be of the daemon before, whose record was
    /// lost: the number is another record's now.
    fn is_unsure_of(&self, lsn: Lsn) -> bool {
        self.adopting.is_some() && lsn > self.found
    }

    /// The last record that was appended.
    pub(crate) const fn last(&self) -> Lsn {
        self.appender.last_lsn()
    }

    /// The slot's last change is in the journal, or on its way.
    pub(crate) fn has_record_of(&self, task: &TaskSlot) -> bool {
        let lsn = task.lsn();
        lsn != 0 && lsn <= self.last().get()
    }

    /// Everything that the slot says is durable.
    pub(crate) fn is_durable(&self, task: &TaskSlot) -> bool {
        self.is_written(task) && !self.is_unsure_of(Lsn::new(task.lsn()))
    }

    /// The same, if the number is of a record of this daemon.
    pub(crate) fn is_written(&self, task: &TaskSlot) -> bool {
        Lsn::new(task.lsn()) <= self.durable
    }

    /// To be called before the state of a journal task changes (I2).
    pub(crate) fn mark(&self, task: SlotWriter<'_>) -> Mark {
        let before = task.lsn();
        if !cfg!(qtf_mutant = "sim_change_is_not_marked") {
            task.set_lsn(LSN_UNDER_WAY);
        }
        Mark { before }
    }

    /// The state did not change after all.
    pub(crate) fn unmark(&self, task: SlotWriter<'_>, mark: Mark) {
        task.set_lsn(mark.before);
    }

    /// To be called after the state of a marked task has changed: appends the record of the change, or the whole
    /// task if an earlier change of it is not in the journal. `None` if there is no room: the slot stays marked.
    pub(crate) fn note(
        &mut self,
        turn: &Turn<'_>,
        slot: SlotIndex,
        mark: Mark,
        record: &Record<'_>,
    ) -> Option<Lsn> {
        if mark.is_unknown() {
            return self.note_whole(turn, slot);
        }
        let lsn = self.append(record)?;
        turn.write(slot).set_lsn(lsn.get());
        Some(lsn)
    }

    /// Appends the outcome of a task, whose output lies in the segment.
    pub(crate) fn note_outcome(
        &mut self,
        turn: &Turn<'_>,
        slot: SlotIndex,
        mark: Mark,
        end: End,
    ) -> Option<Lsn> {
        if mark.is_unknown() {
            return self.note_whole(turn, slot);
        }
        let task = turn.write(slot);
        let blob = task.result();
        let result = load(blob, &mut self.result, |out| {
            turn.segment.load(end.task, Part::Result, 0, out).ok()
        });
        let mut outcome = task.outcome();
        outcome.result_dropped |= result.is_none();
        let result = result.unwrap_or(Blob::None);
        let record = Record::Outcome {
            task: end.task,
            attempt: task.state().fence(),
            phase: end.phase,
            outcome,
            failures: end.failures,
            losses: task.losses(),
            ended_unix_ms: self.wall.unix_ms_at(turn.now),
            result,
        };
        let before = self.appender.pending_bytes();
        let lsn = append(&mut self.appender, &record)?;
        let written = self.appender.pending_bytes().saturating_sub(before);
        self.room.note_outcome(written);
        task.set_lsn(lsn.get());
        Some(lsn)
    }

    /// Appends a task as it is, and what has to happen when that is durable.
    pub(crate) fn note_again(&mut self, turn: &Turn<'_>, slot: SlotIndex) -> Option<Lsn> {
        let state = turn.segment.task(slot).state();
        if state.is_forgotten() {
            let task = state.id(slot)?;
            return self.note_gone(turn, slot, task, &Record::Purge { task });
        }
        let lsn = self.note_whole(turn, slot)?;
        let state = turn.segment.task(slot).state();
        let phase = state.phase();
        let then = if phase == Phase::Submitted {
            Some(Then::Accept)
        } else if state.is_judged() {
            Some(Then::Settle)
        } else if phase == Phase::Assigned
            && is_once(turn.segment.task(slot))
            && !state.has_flag(FLAG_CANCEL)
        {
            // Without the flag what the journal lacks is the attempt, so that was not sent. With it, it may be the cancellation.
            Some(Then::Dispatch(state.fence()))
        } else {
            let client = client_to_tell(turn.segment.task(slot));
            phase.is_final().then_some(Then::Tell(phase, client))
        };
        if let (Some(then), Some(task)) = (then, state.id(slot)) {
            self.pending.push(Wait { lsn, task, then });
        }
        Some(lsn)
    }

    /// Appends that a task is forgotten; its slot is free when that is durable.
    pub(crate) fn note_gone(
        &mut self,
        turn: &Turn<'_>,
        slot: SlotIndex,
        task: TaskId,
        record: &Record<'_>,
    ) -> Option<Lsn> {
        let lsn = self.append(record)?;
        turn.write(slot).set_lsn(lsn.get());
        self.wait(lsn, task, Then::Free);
        Some(lsn)
    }

    fn note_whole(&mut self, turn: &Turn<'_>, slot: SlotIndex) -> Option<Lsn> {
        turn.complete_end(slot, turn.segment.task(slot).state());
        let task = turn.segment.read_task(slot)?.record;
        let wall = self.wall;
        let mut whole = whole_task_of(turn.segment, &task, wall, &mut self.whole)?;
        whole.lsn = Lsn::NONE;
        let lsn = append(&mut self.appender, &Record::Task(whole))?;
        turn.write(slot).set_lsn(lsn.get());
        turn.segment.counters().add(Counter::TaskJournalledAgain, 1);
        Some(lsn)
    }

    /// Appends what cannot be refused any more.
    pub(crate) fn append(&mut self, record: &Record<'_>) -> Option<Lsn> {
        append(&mut self.appender, record)
    }

    /// Appends what can still be refused.
    pub(crate) fn try_append(&mut self, record: &Record<'_>) -> Result<Lsn, Rejection> {
        self.appender.push(record).map_err(|error| match error {
            PushError::Full { .. } => no_room(),
            PushError::TooLarge { .. } => Rejection::invalid(
                "the task is larger than a record of the journal: upload its payload",
            ),
        })
    }

    /// Reserves ids if it is time to. A full group means later.
    pub(crate) fn reserve_ids(&mut self, highest: u64) {
        if let Some(gen_limit) = self.reservation.wanted(highest)
            && let Some(lsn) = append(&mut self.appender, &Record::Reserve { gen_limit })
        {
            self.reservation.asked(lsn, gen_limit);
        }
    }

    pub(crate) fn wait(&mut self, lsn: Lsn, task: TaskId, then: Then) {
        self.pending.push(Wait { lsn, task, then });
    }

    pub(crate) fn set_wall(&mut self, now: Now, unix_ms: u64) {
        self.wall = WallTime { now, unix_ms };
    }
}

/// The task runs at most once: its attempts go out only when they are durable.
pub(crate) fn is_once(task: &TaskSlot) -> bool {
    task.options().has(TaskOptions::AT_MOST_ONCE)
}

/// How a task ends, where its slot does not say so yet.
#[derive(Debug, Clone, Copy)]
pub(crate) struct End {
    pub(crate) task: TaskId,
    pub(crate) phase: Phase,
    pub(crate) failures: u8,
}

fn append(appender: &mut Appender, record: &Record<'_>) -> Option<Lsn> {
    appender.push_always(record).ok()
}

pub(in crate::plm) fn no_room() -> Rejection {
    Rejection::for_now(
        RejectReason::JournalFull,
        Detail::Plain(
            "the journal has no room now: try again later, or submit with durability memory; if it stays, make room on the disk of the data directory",
        ),
    )
}
