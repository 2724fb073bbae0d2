//! Questions about one task, one attempt or one worker that change nothing: what all three roles ask of the segment.
//!
//! Tested in `engine/tests/rules/submission.rs`, `results.rs` and `stops.rs`.

use qtf_shm::{
    BlobRef, FLAG_CANCEL, FLAG_TIMED_OUT, KindIndex, Owner, Phase, Segment, SlotIndex, StateWord,
    TaskId, TaskOptions, WorkerIndex, WorkerPhase, WorkerState,
};

use crate::effects::StopReason;
use crate::rejection::{Detail, RejectReason, Rejection};

/// One attempt of one task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct TaskRef {
    /// The task.
    pub task: TaskId,
    /// Number of the attempt as it came from the wire; the first is 1.
    pub attempt: u32,
}

/// What a worker needs to know to run an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AttemptSpec {
    /// The kind of work; its name is in the segment's table.
    pub kind: KindIndex,
    /// Where the payload lies.
    pub payload: BlobRef,
    /// Longest run time of the attempt; 0 = no limit.
    pub timeout_ms: u32,
    /// The output is not wanted.
    pub discard_result: bool,
    /// First member of its array, and its index there; `None` for a task that is no member of any.
    pub array: Option<(TaskId, u64)>,
}

/// The refusal, or that the result has expired where that is known. Looks through all tombstones.
pub(crate) fn or_expired(segment: &Segment, id: TaskId, rejection: Rejection) -> Rejection {
    segment.expired(id).map_or(rejection, |tombstone| {
        Rejection::expired(rejection.reason, id, tombstone)
    })
}

/// Finds the slot of a task; tells an id that never was, or is gone, from one whose slot has moved
/// on.
pub(crate) fn find(segment: &Segment, id: TaskId) -> Result<(SlotIndex, StateWord), Rejection> {
    let not_given = Rejection::new(RejectReason::UnknownTask, Detail::NotGiven(id));
    let slot = segment.slot_of(id).ok_or(not_given)?;
    let state = segment.task(slot).state();
    if state.is_of(id) && state.phase() != Phase::Claimed {
        return Ok((slot, state));
    }
    let (asked, base) = (id.generation(), segment.gen_base());
    let now = state.id(slot).filter(|now| now.generation() > asked);
    Err(match now {
        Some(now) if asked > base => {
            Rejection::new(RejectReason::StaleTask, Detail::Stale { asked: id, now })
        }
        Some(_) => Rejection::new(RejectReason::StaleTask, Detail::OlderThanSegment(id)),
        None if state.generation() == asked => Rejection::unknown_task(id),
        None if asked <= base => {
            Rejection::new(RejectReason::UnknownTask, Detail::OlderThanSegment(id))
        }
        None => not_given,
    })
}

/// The worker is there: it may hold tasks and report about them.
pub(crate) fn serves(state: WorkerState) -> bool {
    matches!(
        state.phase(),
        WorkerPhase::Live | WorkerPhase::Draining | WorkerPhase::Suspect
    )
}

/// Says whether the worker in this slot holds this attempt, by the state word.
pub(crate) fn is_held_by(state: StateWord, worker: WorkerIndex, attempt: u32) -> bool {
    matches!(state.phase(), Phase::Assigned | Phase::Running)
        && state.owner() == Owner::Worker(worker)
        && (u32::from(state.fence()) == attempt || cfg!(qtf_mutant = "sim_attempt_is_not_checked"))
}

/// The slot of an attempt that this worker holds.
pub(crate) fn held(
    segment: &Segment,
    worker: WorkerIndex,
    asked: TaskRef,
) -> Result<(SlotIndex, StateWord), Rejection> {
    let (slot, state) = find(segment, asked.task)?;
    if is_held_by(state, worker, asked.attempt) {
        return Ok((slot, state));
    }
    Err(Rejection::wrong_state(
        asked.task,
        state.phase(),
        "the worker does not hold this attempt: drop it",
    ))
}

/// What to send for an attempt that this worker holds.
pub(crate) fn attempt_spec(
    segment: &Segment,
    worker: WorkerIndex,
    asked: TaskRef,
) -> Result<AttemptSpec, Rejection> {
    let (slot, state) = held(segment, worker, asked)?;
    let task = segment.task(slot);
    let Some(kind) = task.kind() else {
        return Err(Rejection::wrong_state(
            asked.task,
            state.phase(),
            "its kind is not in the table of kinds",
        ));
    };
    let side = task
        .side_unit()
        .and_then(|unit| segment.read_side_at(asked.task, unit));
    let spec = AttemptSpec {
        kind,
        payload: task.payload(),
        timeout_ms: task.timeout_ms(),
        discard_result: task.options().has(TaskOptions::DISCARD_RESULT),
        array: side.and_then(|side| Some((TaskId::from_raw(side.array_id)?, side.array_index))),
    };
    // Read again: the fields are this attempt's only if the slot has not moved on in between.
    if task.state().generation() == state.generation() {
        Ok(spec)
    } else {
        Err(Rejection::unknown_task(asked.task))
    }
}

/// Why the attempt is to stop, by the flags of its state word; `None` if it may go on.
pub(crate) fn stop_reason(state: StateWord) -> Option<StopReason> {
    if state.has_flag(FLAG_CANCEL) {
        Some(StopReason::Cancelled)
    } else if state.has_flag(FLAG_TIMED_OUT) {
        Some(StopReason::TimedOut)
    } else {
        None
    }
}

/// The attempt is to stop, and it is for the engine to say so: its worker is no local process.
pub(crate) fn is_to_be_told(segment: &Segment, state: StateWord) -> bool {
    let is_remote = match state.owner() {
        Owner::Worker(worker) => segment.worker(worker).local().is_none(),
        Owner::None | Owner::Attach(_) => false,
    };
    is_remote && stop_reason(state).is_some()
}
