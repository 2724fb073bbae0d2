//! Records of the segment, copied out: what an inspector shows.
//!
//! A record is read as state, fields, state again: see `reading.rs`.

use crate::arena::ChunkState;
use crate::blob::BlobRef;
use crate::id::{ClientIndex, SlotIndex, TaskId, WorkerId, WorkerIndex};
use crate::keys::KeyId;
use crate::kind_set::KindSet;
use crate::layout::text::ShortText;
use crate::reading::{Reading, read_between};
use crate::segment::SegmentView;
use crate::segment::completion::Completion;
use crate::segment::free::chunk_owner;
use crate::task::side::{SIDE_BYTES, SIDE_BYTES_SHORT, SideRecord};
use crate::task::slot::{Outcome, OutcomeKind, TaskOptions, TaskSlot};
use crate::task::state::{FENCE_MAX, Phase, StateWord};
use crate::tree::Key;
use crate::worker::{WorkerCounter, WorkerSlot, WorkerState};

/// Which bytes of a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// What the task is to work on.
    Payload,
    /// What it has left.
    Result,
}

/// A task, copied out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskRecord {
    /// Its slot.
    pub slot: SlotIndex,
    /// Its id; `None` in a slot that was never used.
    pub id: Option<TaskId>,
    /// Its state.
    pub state: StateWord,
    /// Its key in the task heap, whether it is there or not.
    pub key: Key,
    /// 0 to 255, higher first.
    pub priority: u8,
    /// Stamp of its last change of phase; in DELAYED the stamp at which it is due.
    pub phase_time: u64,
    /// Stamp at which the last attempt began that has begun; 0 = none has.
    pub started: u64,
    /// The principal that submitted it; 0 = not known.
    pub principal: u16,
    /// Log sequence number of its record in the journal; 0 = none.
    pub lsn: u64,
    /// Number of its line, which is its kind; look it up with [`SegmentView::kind_name`].
    pub kind: u16,
    /// Longest run time of one attempt; 0 = no limit.
    pub timeout_ms: u32,
    /// Attempts that failures may use.
    pub max_attempts: u8,
    /// Attempts that ended badly.
    pub failures: u8,
    /// Attempts whose worker was lost.
    pub losses: u8,
    /// What was asked for.
    pub options: TaskOptions,
    /// Where its payload lies.
    pub payload: BlobRef,
    /// Where its result lies.
    pub result: BlobRef,
    /// Number of the client that submitted it.
    pub client: u16,
    /// How it or its last attempt ended.
    pub outcome: Outcome,
    /// Unit of its side record.
    pub side_unit: Option<u32>,
    /// Place of its key in the table of keys, where it has no side record.
    pub key_place: Option<u32>,
}

/// A worker, copied out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerRecord {
    /// Slot and incarnation.
    pub id: WorkerId,
    /// Its state.
    pub state: WorkerState,
    /// Its key in the worker heap, whether it is there or not.
    pub key: Key,
    /// Name for people.
    pub name: String,
    /// Node.
    pub host: String,
    /// Process id on that node.
    pub pid: u32,
    /// User; `u32::MAX` when not known.
    pub uid: u32,
    /// Tasks that may still be sent to it.
    pub credits: u32,
    /// The kinds it can run.
    pub kinds: KindSet,
    /// Load of its machine: run-queue length per core, times 1000.
    pub load_milli: u32,
    /// Stamp of its registration.
    pub registered: u64,
    /// Stamp of its last heartbeat.
    pub heartbeat: u64,
    /// Stamp at which its lease ends.
    pub lease_end: u64,
    /// It is a process at the segment, without heartbeats and lease: the kernel tells whether it lives.
    pub is_local: bool,
    /// Tasks ended well, attempts ended badly, attempts taken from it, stale results.
    pub counters: [u64; 4],
}

/// Who a worker is, copied out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WorkerName {
    /// Slot and incarnation.
    pub id: WorkerId,
    /// Name for people.
    pub name: ShortText,
    /// Stamp of its registration.
    pub registered: u64,
}

/// A client, copied out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientRecord {
    /// Its number.
    pub index: ClientIndex,
    /// The record belongs to an identity.
    pub used: bool,
    /// Open connections.
    pub connections: u32,
    /// Program name.
    pub name: String,
    /// Node.
    pub host: String,
    /// Address of its first connection.
    pub address: String,
    /// Process id of its first connection.
    pub pid: u32,
    /// User; `u32::MAX` when not known.
    pub uid: u32,
    /// Stamp of its registration.
    pub registered: u64,
    /// Stamp of its last heartbeat.
    pub heartbeat: u64,
    /// Tasks accepted and not ended.
    pub unfinished: u64,
    /// Finished tasks whose results are kept.
    pub kept: u64,
    /// Tasks ever accepted.
    pub submitted: u64,
}

impl SegmentView {
    /// Copies a task out; `None` beyond the last slot.
    #[inline]
    #[must_use]
    pub fn read_task(&self, slot: SlotIndex) -> Option<Reading<TaskRecord>> {
        let task = self.parts.tasks.get(slot.position())?;
        Some(read_between(
            || task.state(),
            |state| self.copy_task(slot, task, state),
        ))
    }

    #[inline]
    fn copy_task(&self, slot: SlotIndex, task: &TaskSlot, state: StateWord) -> TaskRecord {
        // Before the slot's own: whoever finds nothing beside the slot any more finds it there.
        let beside = self.completion(slot, state);
        // First of all fields: a change of priority does not move the state word, so only this order keeps a reader from
        // meeting the number of that change with the priority before it.
        let lsn = task.lsn_before_fields();
        let mut record = TaskRecord {
            slot,
            id: state.id(slot),
            state,
            key: task.key(),
            priority: task.priority(),
            phase_time: task.phase_time(),
            started: task.started(),
            principal: task.principal(),
            lsn,
            kind: task.line(),
            timeout_ms: task.timeout_ms(),
            max_attempts: task.max_attempts(),
            failures: task.failures(),
            losses: task.losses(),
            options: task.options(),
            payload: task.payload(),
            result: task.result(),
            client: task.client_number(),
            outcome: task.outcome(),
            side_unit: task.side_unit(),
            key_place: task.key_place(),
        };
        record.take_in(beside);
        if let Some(outcome) = implied_outcome(state, record.options, lsn) {
            record.outcome = outcome;
        }
        record
    }

    /// Copies a worker out; `None` beyond the last slot.
    #[must_use]
    pub fn read_worker(&self, worker: WorkerIndex) -> Option<Reading<WorkerRecord>> {
        let slot = self.parts.workers.get(worker.position())?;
        Some(read_between(
            || slot.state(),
            |state| copy_worker(worker, slot, state),
        ))
    }

    /// Copies out who a worker is, without memory of its own; `None` beyond the last slot.
    #[must_use]
    pub fn read_worker_name(&self, worker: WorkerIndex) -> Option<Reading<WorkerName>> {
        let slot = self.parts.workers.get(worker.position())?;
        Some(read_between(
            || slot.state(),
            |state| WorkerName {
                id: WorkerId::new(worker, state.incarnation()),
                name: slot.short_name(),
                registered: slot.registered(),
            },
        ))
    }

    /// Copies a client out; `None` beyond the last record.
    #[must_use]
    pub fn read_client(&self, client: ClientIndex) -> Option<Reading<ClientRecord>> {
        let slot = self.parts.clients.get(client.position())?;
        Some(read_between(
            || slot.state_word(),
            |_| ClientRecord {
                index: client,
                used: slot.is_used(),
                connections: slot.connections(),
                name: slot.name(),
                host: slot.host(),
                address: slot.address(),
                pid: slot.pid(),
                uid: slot.uid(),
                registered: slot.registered(),
                heartbeat: slot.heartbeat(),
                unfinished: slot.unfinished(),
                kept: slot.kept(),
                submitted: slot.submitted(),
            },
        ))
    }

    /// Copies a task's side record out; `None` when it has none, or the task is gone.
    #[must_use]
    pub fn read_side(&self, task: &TaskRecord) -> Option<SideRecord> {
        self.read_side_at(task.id?, task.side_unit?)
    }

    /// The side record at a unit of the arena; `None` when it is not (any more) that task's.
    #[must_use]
    pub fn read_side_at(&self, task: TaskId, unit: u32) -> Option<SideRecord> {
        let owner = chunk_owner(task);
        let arena = self.parts.arena();
        let mut bytes = [0; SIDE_BYTES];
        let (first, second) = bytes.split_first_chunk_mut::<SIDE_BYTES_SHORT>()?;
        arena.read(unit, owner, 0, first).ok()?;
        if !SideRecord::is_short(first) {
            arena.read(unit, owner, SIDE_BYTES_SHORT, second).ok()?;
        }
        Some(SideRecord::decode(&bytes))
    }

    /// The idempotency key of a task, and the stamp at which it may be forgotten: from its side record (given if it has
    /// one), else from the table for as long as it is known there.
    #[must_use]
    pub fn key_of(&self, task: &TaskRecord, side: Option<&SideRecord>) -> Option<(KeyId, u64)> {
        if let Some(side) = side {
            return Some((KeyId::from_words(side.key)?, side.key_expiry));
        }
        let entry = self.keys().at_place(task.key_place?, task.id?)?;
        Some((entry.key, entry.expiry))
    }

    /// Whose the chunk at a unit of the arena is; `None` beyond the arena.
    #[must_use]
    pub fn chunk_state(&self, unit: u32) -> Option<ChunkState> {
        self.parts.arena().state(unit)
    }
}

/// A change of the task is not in its journal yet.
const LSN_UNDER_WAY: u64 = crate::time::STAMP_MAX;
/// Code of the outcome of a task that has used up its fence.
const FENCE_USED_UP: u8 = 1;

/// What follows from the state word of a task that ended while it waited: its outcome is written after the word, and a daemon may be killed
/// in between. One that a journal has recorded since may have come from there, with another outcome, and no worker's name.
fn implied_outcome(state: StateWord, options: TaskOptions, lsn: u64) -> Option<Outcome> {
    let is_recorded = options.has(TaskOptions::JOURNAL) && lsn != LSN_UNDER_WAY;
    if is_recorded || !state.ended_while_waiting() {
        return None;
    }
    let buried = state.phase() == Phase::DeadLetter;
    let is_used_up = buried && state.fence() == FENCE_MAX;
    Some(Outcome {
        kind: if buried {
            OutcomeKind::WorkerLost
        } else {
            OutcomeKind::Cancelled
        },
        code: if is_used_up { FENCE_USED_UP } else { 0 },
        result_dropped: false,
        output_cut: false,
    })
}

impl SegmentView {
    /// The outcome that a task has by its state word and that its slot does not say: the daemon that ended it was killed before it wrote
    /// that. For the next one to write, before a record of the task is made.
    #[must_use]
    pub fn missing_outcome(&self, slot: SlotIndex, state: StateWord) -> Option<Outcome> {
        let task = self.parts.tasks.get(slot.position())?;
        implied_outcome(state, task.options(), task.lsn())
            .filter(|&outcome| outcome != task.outcome())
    }
}

impl TaskRecord {
    /// With what a local worker has handed over beside the slot.
    fn take_in(&mut self, beside: Option<Completion>) {
        let Some(completion) = beside else {
            return;
        };
        self.started = completion.started;
        match completion.end {
            Some(end) if self.state.phase() != Phase::Running => {
                self.phase_time = end.ended;
                self.outcome = end.outcome;
                self.result = end.result;
            }
            Some(_) | None => self.phase_time = completion.started,
        }
    }
}

fn copy_worker(worker: WorkerIndex, slot: &WorkerSlot, state: WorkerState) -> WorkerRecord {
    WorkerRecord {
        id: WorkerId::new(worker, state.incarnation()),
        state,
        key: slot.key(),
        name: slot.name(),
        host: slot.host(),
        pid: slot.pid(),
        uid: slot.uid(),
        credits: slot.credits(),
        kinds: slot.kinds(),
        load_milli: slot.load_milli(),
        registered: slot.registered(),
        heartbeat: slot.heartbeat(),
        lease_end: slot.lease_end(),
        is_local: slot.local().is_some(),
        counters: [
            WorkerCounter::Done,
            WorkerCounter::Failed,
            WorkerCounter::Lost,
            WorkerCounter::Stale,
        ]
        .map(|counter| slot.counter(counter)),
    }
}
