//! What lies in the segment, as messages. Every number is checked before it is used, and a task that moves on while it is read counts as
//! gone.
//!
//! Tested through the services.

use bytes::Bytes;
use qtf_proto::limits::INLINE_BYTES_MAX;
use qtf_proto::v1::{self, TaskInfo, WorkerInfo, WorkerState};
use qtf_records::{PREVIEW_BYTES_MAX, Seen, age_ms};
pub(crate) use qtf_records::{
    again_reason, kind_name, last_worker, outcome, outcome_from, outcome_of_freed, state_of,
};
use qtf_shm::segment::WorkerRecord;
use qtf_shm::{Part, Phase, Segment, SlotIndex, TaskId, TaskRecord, WorkerPhase};

/// A task, if it is still there.
pub(crate) fn task(segment: &Segment, id: TaskId) -> Option<TaskRecord> {
    let slot = segment.slot_of(id)?;
    task_in(segment, slot).filter(|record| record.id == Some(id))
}

/// Whatever task is in a slot; `None` when the slot is free or keeps changing.
pub(crate) fn task_in(segment: &Segment, slot: SlotIndex) -> Option<TaskRecord> {
    let reading = segment.read_task(slot)?;
    let state = reading.record.state;
    let is_there = !matches!(state.phase(), Phase::Free | Phase::Claimed) && !state.is_forgotten();
    (!reading.torn && is_there).then_some(reading.record)
}

/// The output of a task, if it fits a message.
pub(crate) fn small_output(segment: &Segment, task: TaskId, bytes: u64) -> Option<Bytes> {
    let length = usize::try_from(bytes)
        .ok()
        .filter(|length| *length <= INLINE_BYTES_MAX)?;
    let mut data = vec![0; length];
    let read = segment.load(task, Part::Result, 0, &mut data).ok()?;
    (read == length).then(|| data.into())
}

fn preview(segment: &Segment, record: &TaskRecord) -> Bytes {
    let Some(task) = record.id else {
        return Bytes::new();
    };
    let length = record.payload.len().min(PREVIEW_BYTES_MAX);
    let mut data = vec![0; usize::try_from(length).unwrap_or(0)];
    match segment.load(task, Part::Payload, 0, &mut data) {
        Ok(count) => data.truncate(count),
        Err(_) => data.clear(),
    }
    data.into()
}

/// Everything that can be said about a task.
pub(crate) fn task_info(
    segment: &Segment,
    record: &TaskRecord,
    with_preview: bool,
) -> Option<TaskInfo> {
    let seen = Seen {
        now: segment.now(),
        // The daemon's to know, as the ordinal of a record is.
        is_offered: false,
        journal_lsn: 0,
        preview: if with_preview {
            preview(segment, record)
        } else {
            Bytes::new()
        },
    };
    qtf_records::task_info(segment, record, seen)
}

/// How the attempts of a task ended that failed or were lost, as far as that is kept.
pub(crate) fn attempt_ends(segment: &Segment, record: &TaskRecord) -> Vec<v1::AttemptEnd> {
    qtf_records::attempt_ends(segment, record, segment.now())
}

/// A worker; `None` in a slot without one.
pub(crate) fn worker_info(segment: &Segment, record: WorkerRecord) -> Option<WorkerInfo> {
    let state = match record.state.phase() {
        WorkerPhase::Live => WorkerState::Live,
        WorkerPhase::Draining => WorkerState::Draining,
        WorkerPhase::Suspect => WorkerState::Suspect,
        WorkerPhase::Lost => WorkerState::Lost,
        WorkerPhase::Free | WorkerPhase::Joining | WorkerPhase::Reserved => return None,
    };
    let now = segment.now();
    let [done, failed, ..] = record.counters;
    Some(WorkerInfo {
        worker_id: record.id.as_raw(),
        name: record.name,
        host: record.host,
        pid: record.pid,
        address: String::new(),
        state: state.into(),
        capacity: record.state.capacity().into(),
        running: record.state.running().into(),
        credits: record.credits,
        heartbeat_age_ms: if record.is_local {
            0
        } else {
            age_ms(now, record.heartbeat)
        },
        registered_age_ms: age_ms(now, record.registered),
        tasks_done: done,
        tasks_failed: failed,
        kinds: record
            .kinds
            .iter()
            .filter_map(|kind| segment.kind_name(kind))
            .collect(),
        load_milli: record.load_milli,
        calls: false,
    })
}
