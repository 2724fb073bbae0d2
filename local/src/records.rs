//! What lies in the segment, as messages. Every number is checked before it is used, and a task that moves on while it is read counts as
//! gone.
//!
//! Tested through the services.

use bytes::Bytes;
use qtf_proto::limits::INLINE_BYTES_MAX;
use qtf_proto::v1::{self, TaskInfo, TaskState, WorkerInfo, WorkerState};
use qtf_shm::segment::WorkerRecord;
use qtf_shm::{
    FLAG_CANCEL, KindIndex, Now, Outcome, OutcomeKind, Owner, Part, Phase, Segment, SlotIndex,
    TaskId, TaskOptions, TaskRecord, WorkerId, WorkerPhase,
};

/// LIMIT: bytes of a payload in a list.
const PREVIEW_BYTES_MAX: u64 = 4096;

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

/// The name of a kind by its number in a slot.
pub(crate) fn kind_name(segment: &Segment, number: u16) -> String {
    let kind = KindIndex::new_checked(number, segment.geometry().kinds());
    kind.and_then(|kind| segment.kind_name(kind))
        .unwrap_or_default()
}

/// Everything that can be said about a task.
pub(crate) fn task_info(
    segment: &Segment,
    record: &TaskRecord,
    with_preview: bool,
) -> Option<TaskInfo> {
    let id = record.id?;
    let now = segment.now();
    let side = segment.read_side(record);
    let is_automatic = record.options.has(TaskOptions::AUTOMATIC_KEY);
    let key = segment
        .key_of(record, side.as_ref())
        .filter(|_| !is_automatic)
        .map_or_else(Bytes::new, |(key, _)| {
            Bytes::copy_from_slice(&key.to_bytes())
        });
    let side = side.unwrap_or_default();
    let (worker_id, worker_name, worker_host) = last_worker(segment, record).unwrap_or_default();
    let is_journalled = record.options.has(TaskOptions::JOURNAL);
    let phase = record.state.phase();
    Some(TaskInfo {
        task_id: id.as_raw(),
        state: state_of(phase).into(),
        kind: kind_name(segment, record.kind),
        priority: record.priority.into(),
        attempt: record.state.fence().into(),
        max_attempts: record.max_attempts.into(),
        failures: record.failures.into(),
        losses: record.losses.into(),
        worker_id,
        worker_name,
        worker_host,
        age_ms: age_ms(now, record.key.ready_stamp()),
        state_age_ms: age_ms(now, record.phase_time),
        timeout_ms: record.timeout_ms,
        estimate_ms: side.estimate_ms,
        outcome: (record.outcome.kind != OutcomeKind::None).then(|| outcome(record.outcome)),
        payload_bytes: record.payload.len(),
        payload_preview: if with_preview {
            preview(segment, record)
        } else {
            Bytes::new()
        },
        output_bytes: record.result.len(),
        array_id: side.array_id,
        array_index: side.array_index,
        client_id: record.client.into(),
        discard_result: record.options.has(TaskOptions::DISCARD_RESULT),
        cancel_requested: record.state.has_flag(FLAG_CANCEL),
        blocked_on: blocked_on(record),
        durability: if is_journalled {
            v1::Durability::Journal.into()
        } else {
            v1::Durability::Memory.into()
        },
        // The daemon's to know while a record is on its way.
        journal_lsn: 0,
        idempotency_key: key,
        at_most_once: record.options.has(TaskOptions::AT_MOST_ONCE),
        ends: Vec::new(),
        due_in_ms: if phase == Phase::Delayed {
            Now::from_stamp(record.phase_time).since_ns(now) / 1_000_000
        } else {
            0
        },
        again_reason: String::new(),
    })
}

/// What a task waits for that is not a worker's capacity.
fn blocked_on(record: &TaskRecord) -> String {
    match (record.state.phase(), record.state.blocked()) {
        (Phase::Held, _) => "its release".to_owned(),
        (Phase::Blocked, Some(why)) => why.to_string(),
        _ => String::new(),
    }
}

/// How the attempts of a task ended that failed or were lost, as far as that is kept.
pub(crate) fn attempt_ends(segment: &Segment, record: &TaskRecord) -> Vec<v1::AttemptEnd> {
    let now = segment.now();
    let kept = record.id.map(|task| segment.attempts_kept(task));
    let kept = kept.into_iter().flatten();
    kept.map(|kept| v1::AttemptEnd {
        attempt: kept.attempt.into(),
        worker_id: kept.worker.map_or(0, WorkerId::as_raw),
        worker_name: kept.worker_name,
        age_ms: age_ms(now, kept.ended),
        outcome: Some(outcome(kept.outcome)),
        message: kept.message,
        stderr_tail: kept.stderr_tail.into(),
    })
    .collect()
}

/// Raw id, name and host of the worker of a task's last attempt, if it is still known.
pub(crate) fn last_worker(segment: &Segment, record: &TaskRecord) -> Option<(u64, String, String)> {
    let index = match record.state.owner() {
        Owner::Worker(worker) => worker,
        Owner::None | Owner::Attach(_) => record.state.last_worker()?,
    };
    let worker = segment.read_worker(index)?.record;
    let has_ended = record.state.phase().is_final();
    if has_ended && worker.registered > record.phase_time {
        // Another worker has the slot now, of which the task knows nothing.
        return None;
    }
    Some((worker.id.as_raw(), worker.name, worker.host))
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
        heartbeat_age_ms: age_ms(now, record.heartbeat),
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

/// Milliseconds since a stamp.
fn age_ms(now: Now, stamp: u64) -> u64 {
    now.since_ns(Now::from_stamp(stamp)) / 1_000_000
}

/// The state that a client sees.
pub(crate) const fn state_of(phase: Phase) -> TaskState {
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

/// What is known of the outcome of a task whose slot is free: one that succeeded and whose output was not wanted.
pub(crate) fn outcome_of_freed(phase: Phase) -> Option<v1::Outcome> {
    (phase == Phase::Done).then(|| v1::Outcome {
        kind: v1::OutcomeKind::Exited.into(),
        ..v1::Outcome::default()
    })
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
