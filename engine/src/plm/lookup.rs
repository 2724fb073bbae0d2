//! Questions about one task that change nothing.
//!
//! Tested in `engine/tests/rules/submission.rs` and `results.rs`.

use qtf_shm::{
    BlobRef, KindIndex, Owner, Phase, Segment, SlotIndex, StateWord, TaskId, TaskOptions,
    WorkerIndex,
};

use super::TaskRef;
use crate::rejection::Rejection;
use crate::turn::find;

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
