//! What lies in the segment, as messages of `qtf.v1`; and outcomes both ways. The daemon's edge and the edge that a local process has in itself say the
//! same of the same record, because both say it by this crate.
//!
//! Invariant: nothing that is read is believed. Every number is checked before it is used, and what is out of range becomes the nearest that is not.
//!
//! Tested at the end of this file and through the services.

use bytes::Bytes;
use qtf_proto::v1::{self, TaskInfo, TaskState};
use qtf_shm::{
    Blocked, FLAG_CANCEL, KindIndex, Now, Outcome, OutcomeKind, Owner, Phase, Segment, ShortText,
    SideRecord, TaskOptions, TaskRecord, WorkerId, WorkerIndex,
};

/// LIMIT: bytes of a payload in a list.
pub const PREVIEW_BYTES_MAX: u64 = 4096;

/// What the reader of a record knows beside it.
#[derive(Debug, Clone)]
pub struct Seen {
    /// The time.
    pub now: Now,
    /// A worker offers the task's kind.
    pub is_offered: bool,
    /// Ordinal of the task's last record; 0 while that is on its way, or where it is not known.
    pub journal_lsn: u64,
    /// The first bytes of the payload, as many as are shown.
    pub preview: Bytes,
}

/// The name of a kind by its number in a slot; empty where there is none.
#[must_use]
pub fn kind_name(segment: &Segment, number: u16) -> String {
    let kind = KindIndex::new_checked(number, segment.geometry().kinds());
    kind.and_then(|kind| segment.kind_name(kind))
        .unwrap_or_default()
}

/// Everything that can be said about a task but how its attempts ended ([`attempt_ends`]). No disk is touched. `None` without an id.
#[must_use]
pub fn task_info(segment: &Segment, record: &TaskRecord, seen: Seen) -> Option<TaskInfo> {
    let id = record.id?;
    let side = segment.read_side(record);
    let few = side.clone().unwrap_or_default();
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
        age_ms: age_ms(seen.now, record.key.ready_stamp()),
        state_age_ms: age_ms(seen.now, record.phase_time),
        timeout_ms: record.timeout_ms,
        estimate_ms: few.estimate_ms,
        outcome: (record.outcome.kind != OutcomeKind::None).then(|| outcome(record.outcome)),
        payload_bytes: record.payload.len(),
        payload_preview: seen.preview,
        output_bytes: record.result.len(),
        array_id: few.array_id,
        array_index: few.array_index,
        client_id: record.client.into(),
        discard_result: record.options.has(TaskOptions::DISCARD_RESULT),
        cancel_requested: record.state.has_flag(FLAG_CANCEL),
        blocked_on: blocked_on(record, seen.is_offered).to_owned(),
        durability: if is_journalled {
            v1::Durability::Journal.into()
        } else {
            v1::Durability::Memory.into()
        },
        journal_lsn: seen.journal_lsn,
        idempotency_key: key_of(segment, record, side.as_ref()),
        at_most_once: record.options.has(TaskOptions::AT_MOST_ONCE),
        ends: Vec::new(),
        due_in_ms: if phase == Phase::Delayed {
            Now::from_stamp(record.phase_time).since_ns(seen.now) / 1_000_000
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
#[must_use]
pub fn attempt_ends(segment: &Segment, record: &TaskRecord, now: Now) -> Vec<v1::AttemptEnd> {
    let Some(task) = record.id else {
        return Vec::new();
    };
    let kept = segment.attempts_kept(task).into_iter();
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

/// Why the last attempt of a waiting task was put off, by the word of its worker.
#[must_use]
pub fn again_reason(record: &TaskRecord, ends: &[v1::AttemptEnd]) -> String {
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

/// The key that a task was submitted with; empty if there is none, or it is not known any more.
fn key_of(segment: &Segment, record: &TaskRecord, side: Option<&SideRecord>) -> Bytes {
    if record.options.has(TaskOptions::AUTOMATIC_KEY) {
        // Nobody chose it, and nobody can use it.
        return Bytes::new();
    }
    let key = segment.key_of(record, side);
    key.map_or_else(Bytes::new, |(key, _)| {
        Bytes::copy_from_slice(&key.to_bytes())
    })
}

/// Slot of the worker of a task's last attempt.
fn slot_of_last_worker(record: &TaskRecord) -> Option<WorkerIndex> {
    match record.state.owner() {
        Owner::Worker(worker) => Some(worker),
        Owner::None | Owner::Attach(_) => record.state.last_worker(),
    }
}

/// Whether a worker registered too late to be that of the task's last attempt: it has the slot of another, of which the task knows
/// nothing.
fn is_another(record: &TaskRecord, registered: u64) -> bool {
    record.state.phase().is_final() && registered > record.phase_time
}

/// Raw id, name and host of the worker of a task's last attempt, if it is still known.
#[must_use]
pub fn last_worker(segment: &Segment, record: &TaskRecord) -> Option<(u64, String, String)> {
    let slot = slot_of_last_worker(record)?;
    let worker = segment.read_worker(slot)?.record;
    (!is_another(record, worker.registered)).then_some((
        worker.id.as_raw(),
        worker.name,
        worker.host,
    ))
}

/// As [`last_worker`], the name alone.
#[must_use]
pub fn name_of_last_worker(segment: &Segment, record: &TaskRecord) -> Option<ShortText> {
    let slot = slot_of_last_worker(record)?;
    let worker = segment.read_worker_name(slot)?.record;
    (!is_another(record, worker.registered)).then_some(worker.name)
}

/// Milliseconds since a stamp.
#[must_use]
pub fn age_ms(now: Now, stamp: u64) -> u64 {
    now.since_ns(Now::from_stamp(stamp)) / 1_000_000
}

/// The state that a client sees.
#[must_use]
pub fn state_of(phase: Phase) -> TaskState {
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
#[must_use]
pub fn outcome(outcome: Outcome) -> v1::Outcome {
    let kind = v1::OutcomeKind::try_from(i32::from(outcome.kind as u8));
    v1::Outcome {
        kind: kind.unwrap_or(v1::OutcomeKind::Unspecified).into(),
        code: outcome.code.into(),
        result_dropped: outcome.result_dropped,
        output_cut: outcome.output_cut,
        again_after_ms: 0,
    }
}

/// What is known of the outcome of a task whose slot is free: one that succeeded and whose output was not wanted.
#[must_use]
pub fn outcome_of_freed(phase: Phase) -> Option<v1::Outcome> {
    (phase == Phase::Done).then(|| v1::Outcome {
        kind: v1::OutcomeKind::Exited.into(),
        ..v1::Outcome::default()
    })
}

/// An outcome from the wire; what is out of range becomes the nearest that is not.
#[must_use]
pub fn outcome_from(outcome: Option<&v1::Outcome>) -> Outcome {
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
