//! What model checks may do that programs may not: write a slot without a segment that says whose it is.
//!
//! Exists under loom only. Used by `shm/tests/loom_*.rs`.

use crate::client::ClientSlot;
use crate::lane::Missed;
use crate::layout::attach::{AttachRecord, AttachState, FileIdentity};
use crate::sync::Ordering;
use crate::task::slot::TaskSlot;
use crate::task::state::StateWord;
use crate::task::writer::SlotWriter;
use crate::worker::{WorkerSlot, WorkerWriter};

/// The right to write a task slot.
#[must_use]
pub const fn task_writer(slot: &TaskSlot) -> SlotWriter<'_> {
    SlotWriter::of(slot)
}

/// Empties a task slot that the caller has just claimed, as `Segment::claim_task` does.
pub fn empty_claimed(slot: &TaskSlot) {
    SlotWriter::of(slot).clear(slot.state().era());
}

/// Changes the state of a task, as `Segment::apply` does; false if it has moved on.
#[must_use]
pub fn change_task(slot: &TaskSlot, from: StateWord, to: StateWord) -> bool {
    slot.exchange(from, to).is_ok()
}

/// The number of a task's last record, as `SegmentView::read_task` copies it: before everything else.
#[must_use]
pub fn lsn_before_fields(slot: &TaskSlot) -> u64 {
    slot.lsn_before_fields()
}

/// The right to write a worker slot.
#[must_use]
pub const fn worker_writer(slot: &WorkerSlot) -> WorkerWriter<'_> {
    WorkerWriter::of(slot)
}

/// The first word of a client's name: a model of all of them would take minutes.
#[must_use]
pub fn head_of_name(slot: &ClientSlot) -> u64 {
    // ORDERING: published by [client.state], as the name is.
    slot.name[0].load(Ordering::Relaxed)
}

/// Changes the state of an attach record; false if it has moved on.
#[must_use]
pub fn change_attach(record: &AttachRecord, from: AttachState, to: AttachState) -> bool {
    record.change(from, to)
}

/// Writes two fields of an attach record, which is the caller's.
pub fn set_lock_file(record: &AttachRecord, file: FileIdentity) {
    record.set_lock_file(file);
}

/// Reads them.
#[must_use]
pub fn lock_file(record: &AttachRecord) -> FileIdentity {
    record.lock_file()
}

/// Says that the lane of an attach record is open, as its process does.
pub fn open_lane(record: &AttachRecord, live: AttachState) {
    record.open_lane(live);
}

/// Whether it is, as the core asks.
#[must_use]
pub fn has_lane(record: &AttachRecord, found: AttachState) -> bool {
    record.has_lane(found)
}

/// Notes that an owner has missed something, as the core does.
pub fn miss(missed: &Missed<'_>) {
    missed.note();
}

/// Takes note of that, as the owner does.
#[must_use]
pub fn take_missed(missed: &Missed<'_>) -> bool {
    missed.take()
}
