//! Records of the segment as messages. What is read was written by others: every number is checked before it
//! is used, and a task that moves on while it is read counts as gone.
//!
//! What a record says stands in `qtf_records`; here is what only the daemon knows beside it. Tested through the services.

use bytes::Bytes;
use qtf_proto::limits::INLINE_BYTES_MAX;
use qtf_proto::v1::{self, TaskInfo};
use qtf_records::{PREVIEW_BYTES_MAX, Seen};
pub(crate) use qtf_records::{again_reason, outcome, outcome_from, outcome_of_freed, state_of};
use qtf_shm::{
    BlobRef, KindIndex, KindSet, Part, Phase, ShortText, SlotIndex, TaskId, TaskOptions, TaskRecord,
};

use crate::core::Core;

/// A task, if it is still there.
#[inline]
pub(crate) fn task(core: &Core, id: TaskId) -> Option<TaskRecord> {
    let slot = core.segment().slot_of(id)?;
    task_in(core, slot).filter(|record| record.id == Some(id))
}

/// Whatever task is in a slot; `None` when the slot is free or keeps changing.
#[inline]
pub(crate) fn task_in(core: &Core, slot: SlotIndex) -> Option<TaskRecord> {
    let reading = core.segment().read_task(slot)?;
    let state = reading.record.state;
    let is_there = !state.is_forgotten()
        || reading
            .record
            .id
            .is_some_and(|id| core.engine.check(id).is_ok());
    (!reading.torn && is_there && state.phase() != Phase::Free).then_some(reading.record)
}

/// Where a task's bytes lie, if it is still there.
pub(crate) fn blob_of(core: &Core, task: TaskId, part: Part) -> Option<BlobRef> {
    let slot = core.segment().slot_of(task)?;
    let record = core.segment().task(slot);
    let blob = match part {
        Part::Payload => record.payload(),
        Part::Result => record.result(),
    };
    record.state().is_of(task).then_some(blob)
}

/// How many bytes of a blob go into a message: all or none. More than fit, or what is in a file, is to be fetched: nobody waits for a
/// disk here.
pub(crate) fn length_in_message(blob: BlobRef) -> usize {
    let length = usize::try_from(blob.len()).unwrap_or(usize::MAX);
    let is_in_file = matches!(blob, BlobRef::Spill { .. });
    if is_in_file || length > INLINE_BYTES_MAX {
        0
    } else {
        length
    }
}

/// Copies bytes of a task that are not in a file, as many as there is room for; false when there are not so many.
pub(crate) fn fill(core: &Core, part: Part, task: TaskId, bytes: &mut [u8]) -> bool {
    let read = core.segment().load(task, part, 0, bytes);
    read.is_ok_and(|read| read == bytes.len())
}

/// How much of a payload is shown.
pub(super) fn preview_length(payload: BlobRef) -> usize {
    usize::try_from(payload.len().min(PREVIEW_BYTES_MAX)).unwrap_or(0)
}

/// The task and its payload, if that lies in a file: its preview is for [`super::previews`].
pub(super) fn payload_in_file(record: &TaskRecord) -> Option<(TaskId, BlobRef)> {
    let is_in_file = matches!(record.payload, BlobRef::Spill { .. });
    record
        .id
        .filter(|_| is_in_file)
        .map(|id| (id, record.payload))
}

fn preview(core: &Core, record: &TaskRecord) -> Vec<u8> {
    let Some(task) = record.id.filter(|_| payload_in_file(record).is_none()) else {
        return Vec::new();
    };
    let mut data = vec![0; preview_length(record.payload)];
    match core.segment().load(task, Part::Payload, 0, &mut data) {
        Ok(count) => data.truncate(count),
        Err(_) => data.clear(),
    }
    data
}

/// Everything that can be said about a task without touching a disk.
pub(crate) fn task_info(core: &Core, record: &TaskRecord, with_preview: bool) -> Option<TaskInfo> {
    let kind = KindIndex::new_checked(record.kind, core.segment().geometry().kinds());
    let seen = Seen {
        now: core.now(),
        is_offered: kind.is_some_and(|kind| core.engine.is_offered(kind)),
        journal_lsn: journal_lsn(record),
        preview: if with_preview {
            preview(core, record).into()
        } else {
            Bytes::new()
        },
    };
    qtf_records::task_info(core.segment(), record, seen)
}

/// How the attempts of a task ended that failed or were lost, as far as that is kept.
pub(crate) fn attempt_ends(core: &Core, record: &TaskRecord) -> Vec<v1::AttemptEnd> {
    qtf_records::attempt_ends(core.segment(), record, core.now())
}

/// Ordinal of the last record of a task; 0 while that is on its way.
fn journal_lsn(record: &TaskRecord) -> u64 {
    let is_known = record.options.has(TaskOptions::JOURNAL) && record.lsn < qtf_journal::LSN_MAX;
    if is_known { record.lsn } else { 0 }
}

/// The name of the worker of a task's last attempt, if it is still known.
pub(crate) fn name_of_last_worker(core: &Core, record: &TaskRecord) -> Option<ShortText> {
    qtf_records::name_of_last_worker(core.segment(), record)
}

/// Names of the kinds in a set.
pub(crate) fn kind_names(core: &Core, kinds: KindSet) -> Vec<String> {
    kinds
        .iter()
        .filter_map(|kind| core.segment().kind_name(kind))
        .collect()
}

/// Milliseconds since a stamp.
pub(crate) fn age_ms(core: &Core, stamp: u64) -> u64 {
    qtf_records::age_ms(core.now(), stamp)
}

/// Nanoseconds of the configuration as milliseconds of the wire.
pub(crate) fn ms_of_ns(ns: u64) -> u32 {
    u32::try_from(ns / 1_000_000).unwrap_or(u32::MAX)
}
