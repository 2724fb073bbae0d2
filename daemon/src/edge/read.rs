//! Records of the segment as messages. What is read was written by others: every number is checked before it
//! is used, and a task that moves on while it is read counts as gone.
//!
//! Tested at the end of this file and through the services.

use qtf_proto::limits::INLINE_BYTES_MAX;
use qtf_proto::v1::{self, TaskInfo, TaskState};
use qtf_shm::{
    BlobRef, Blocked, FLAG_CANCEL, KindIndex, KindSet, Now, Outcome, OutcomeKind, Part, Phase,
    ShortText, SideRecord, SlotIndex, TaskId, TaskOptions, TaskRecord, WorkerIndex,
};

use crate::core::Core;

/// LIMIT: bytes of a payload in a list.
const PREVIEW_BYTES_MAX: u64 = 4096;

/// A task, if it is still there.
pub(crate) fn task(core: &Core, id: TaskId) -> Option<TaskRecord> {
    let slot = core.segment().slot_of(id)?;
    task_in(core, slot).filter(|record| record.id == Some(id))
}

/// Whatever task is in a slot; `None` when the slot is free or keeps changing.
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
    let id = record.id?;
    let side = core.segment().read_side(record);
    let idempotency_key = key_of(core, record, side.as_ref());
    let side = side.unwrap_or_default();
    let worker = last_worker(core, record);
    let kind_index = KindIndex::new_checked(record.kind, core.segment().geometry().kinds());
    let kind = kind_index.and_then(|kind| core.segment().kind_name(kind));
    let phase = record.state.phase();
    let (worker_id, worker_name, worker_host) = worker.unwrap_or_default();
    let submitted = record.key.ready_stamp();
    let is_journalled = record.options.has(TaskOptions::JOURNAL);
    let is_offered = kind_index.is_some_and(|kind| core.engine.is_offered(kind));
    Some(TaskInfo {
        task_id: id.as_raw(),
        state: state_of(phase).into(),
        kind: kind.unwrap_or_default(),
        priority: record.priority.into(),
        attempt: record.state.fence().into(),
        max_attempts: record.max_attempts.into(),
        failures: record.failures.into(),
        losses: record.losses.into(),
        worker_id,
        worker_name,
        worker_host,
        age_ms: age_ms(core, submitted),
        state_age_ms: age_ms(core, record.phase_time),
        timeout_ms: record.timeout_ms,
        estimate_ms: side.estimate_ms,
        outcome: (record.outcome.kind != OutcomeKind::None).then(|| outcome(record.outcome)),
        payload_bytes: record.payload.len(),
        payload_preview: if with_preview {
            preview(core, record).into()
        } else {
            Vec::new().into()
        },
        output_bytes: record.result.len(),
        array_id: side.array_id,
        array_index: side.array_index,
        client_id: record.client.into(),
        discard_result: record.options.has(TaskOptions::DISCARD_RESULT),
        cancel_requested: record.state.has_flag(FLAG_CANCEL),
        blocked_on: blocked_on(record, is_offered).to_owned(),
        durability: if is_journalled {
            v1::Durability::Journal.into()
        } else {
            v1::Durability::Memory.into()
        },
        journal_lsn: journal_lsn(record),
        idempotency_key,
        at_most_once: record.options.has(TaskOptions::AT_MOST_ONCE),
        ends: Vec::new(),
        due_in_ms: if phase == Phase::Delayed {
            Now::from_stamp(record.phase_time).since_ns(core.now()) / 1_000_000
        } else {
            0
        },
        again_reason: String::new(),
    })
}

/// What a task waits for that is not a worker's capacity.
fn blocked_on(record: &TaskRecord, is_offered: bool) -> &'static str {
    let has_no_room = match record.state.blocked() {
        Some(why) => why == Blocked::NO_JOURNAL_ROOM,
        None => is_offered && record.options.has(TaskOptions::JOURNAL),
    };
    match record.state.phase() {
        Phase::Held => "its release",
        Phase::Blocked if has_no_room => "room in the journal",
        Phase::Blocked => "a worker that offers its kind",
        Phase::Free
        | Phase::Claimed
        | Phase::Submitted
        | Phase::Delayed
        | Phase::Ready
        | Phase::Assigned
        | Phase::Running
        | Phase::Ended
        | Phase::Done
        | Phase::Failed
        | Phase::Cancelled
        | Phase::DeadLetter
        | Phase::Quarantine
        | Phase::Reserved => "",
    }
}

/// How the attempts of a task ended that failed or were lost, as far as that is kept.
pub(crate) fn attempt_ends(core: &Core, record: &TaskRecord) -> Vec<v1::AttemptEnd> {
    let Some(task) = record.id else {
        return Vec::new();
    };
    let kept = core.segment().attempts_kept(task).into_iter();
    kept.map(|kept| v1::AttemptEnd {
        attempt: kept.attempt.into(),
        worker_id: kept.worker.map_or(0, qtf_shm::WorkerId::as_raw),
        worker_name: kept.worker_name,
        age_ms: age_ms(core, kept.ended),
        outcome: Some(outcome(kept.outcome)),
        message: kept.message,
        stderr_tail: kept.stderr_tail.into(),
    })
    .collect()
}

/// Why the last attempt of a waiting task was put off, by the word of its worker.
pub(crate) fn again_reason(record: &TaskRecord, ends: &[v1::AttemptEnd]) -> String {
    let waits = matches!(
        record.state.phase(),
        Phase::Delayed | Phase::Ready | Phase::Blocked | Phase::Held
    );
    let last = ends
        .last()
        .filter(|end| end.attempt == u32::from(record.state.fence()));
    match last {
        Some(end) if waits && record.outcome.kind == OutcomeKind::Again => end.message.clone(),
        Some(_) | None => String::new(),
    }
}

/// Ordinal of the last record of a task; 0 while that is on its way.
fn journal_lsn(record: &TaskRecord) -> u64 {
    let is_known = record.options.has(TaskOptions::JOURNAL) && record.lsn < qtf_journal::LSN_MAX;
    if is_known { record.lsn } else { 0 }
}

/// The key that a task was submitted with; empty if there is none, or it is not known any more.
fn key_of(core: &Core, record: &TaskRecord, side: Option<&SideRecord>) -> bytes::Bytes {
    if record.options.has(TaskOptions::AUTOMATIC_KEY) {
        // Nobody chose it, and nobody can use it.
        return bytes::Bytes::new();
    }
    let key = core.segment().key_of(record, side);
    key.map_or_else(bytes::Bytes::new, |(key, _)| {
        bytes::Bytes::copy_from_slice(&key.to_bytes())
    })
}

/// Slot of the worker of a task's last attempt.
fn slot_of_last_worker(record: &TaskRecord) -> Option<WorkerIndex> {
    match record.state.owner() {
        qtf_shm::Owner::Worker(worker) => Some(worker),
        qtf_shm::Owner::None | qtf_shm::Owner::Attach(_) => record.state.last_worker(),
    }
}

/// Whether a worker registered too late to be that of the task's last attempt: it has the slot of another, of which the task knows
/// nothing.
fn is_another(record: &TaskRecord, registered: u64) -> bool {
    record.state.phase().is_final() && registered > record.phase_time
}

/// Raw id, name and host of the worker of a task's last attempt, if it is still known.
pub(crate) fn last_worker(core: &Core, record: &TaskRecord) -> Option<(u64, String, String)> {
    let slot = slot_of_last_worker(record)?;
    let worker = core.segment().read_worker(slot)?.record;
    (!is_another(record, worker.registered)).then_some((
        worker.id.as_raw(),
        worker.name,
        worker.host,
    ))
}

/// As [`last_worker`], the name alone.
pub(crate) fn name_of_last_worker(core: &Core, record: &TaskRecord) -> Option<ShortText> {
    let slot = slot_of_last_worker(record)?;
    let worker = core.segment().read_worker_name(slot)?.record;
    (!is_another(record, worker.registered)).then_some(worker.name)
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
    core.now().since_ns(Now::from_stamp(stamp)) / 1_000_000
}

/// Nanoseconds of the configuration as milliseconds of the wire.
pub(crate) fn ms_of_ns(ns: u64) -> u32 {
    u32::try_from(ns / 1_000_000).unwrap_or(u32::MAX)
}

/// The state that a client sees.
pub(crate) fn state_of(phase: Phase) -> TaskState {
    match phase {
        Phase::Free | Phase::Claimed | Phase::Reserved => TaskState::Unspecified,
        Phase::Submitted => TaskState::Submitted,
        Phase::Blocked => TaskState::Blocked,
        Phase::Held => TaskState::Held,
        Phase::Delayed => TaskState::Delayed,
        Phase::Ready => TaskState::Ready,
        Phase::Assigned => TaskState::Assigned,
        Phase::Running => TaskState::Running,
        Phase::Ended => TaskState::Ended,
        Phase::Done => TaskState::Done,
        Phase::Failed => TaskState::Failed,
        Phase::Cancelled => TaskState::Cancelled,
        Phase::DeadLetter => TaskState::DeadLetter,
        Phase::Quarantine => TaskState::Quarantine,
    }
}

/// An outcome on the wire. The numbers are the same.
pub(crate) fn outcome(outcome: Outcome) -> v1::Outcome {
    let kind = v1::OutcomeKind::try_from(i32::from(outcome.kind as u8));
    v1::Outcome {
        kind: kind.unwrap_or(v1::OutcomeKind::Unspecified).into(),
        code: outcome.code.into(),
        result_dropped: outcome.result_dropped,
        output_cut: outcome.output_cut,
        again_after_ms: 0,
    }
}

/// What is known of the outcome of a task whose slot is free: one that succeeded and whose output was not
/// wanted.
pub(crate) fn outcome_of_freed(phase: Phase) -> Option<v1::Outcome> {
    (phase == Phase::Done).then(|| v1::Outcome {
        kind: v1::OutcomeKind::Exited.into(),
        code: 0,
        result_dropped: false,
        output_cut: false,
        again_after_ms: 0,
    })
}

/// An outcome from the wire; what is out of range becomes the nearest that is not.
pub(crate) fn outcome_from(outcome: Option<&v1::Outcome>) -> Outcome {
    let Some(outcome) = outcome else {
        return Outcome::default();
    };
    Outcome {
        kind: u8::try_from(outcome.kind).map_or(OutcomeKind::Unknown, OutcomeKind::from_number),
        code: u8::try_from(outcome.code).unwrap_or(u8::MAX),
        result_dropped: outcome.result_dropped,
        output_cut: outcome.output_cut,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcome_goes_over_the_wire_and_back_unchanged() {
        for number in 0..=11 {
            let kind = OutcomeKind::from_number(number);
            let there = Outcome {
                kind,
                code: 7,
                result_dropped: true,
                output_cut: false,
            };
            assert_eq!(outcome_from(Some(&outcome(there))), there);
        }
    }

    #[test]
    fn outcome_out_of_range_is_bounded_not_believed() {
        let wild = v1::Outcome {
            kind: 9_000,
            code: 1 << 20,
            result_dropped: false,
            output_cut: false,
            ..v1::Outcome::default()
        };
        let read = outcome_from(Some(&wild));
        assert_eq!((read.kind, read.code), (OutcomeKind::Unknown, 255));
    }
}
