//! Refusals that a local edge gives itself, with the reasons and words of the daemon's.

use qtf_proto::limits::BATCH_ENTRIES_MAX;
use qtf_proto::refusal;
use qtf_proto::v1::{Refusal, RefusalReason};
use qtf_shm::spill::SpillError;
use qtf_shm::{ClaimError, Phase, StoreError, TaskId};
use tonic::Status;

/// When to try again where room comes back by itself.
const RETRY_SOON_MS: u32 = 100;

pub(crate) fn refuse(reason: RefusalReason, message: impl Into<String>) -> Refusal {
    Refusal {
        reason: reason.into(),
        message: message.into(),
        retry_after_ms: 0,
    }
}

/// Of something that is full and empties by itself.
pub(crate) fn for_now(reason: RefusalReason, message: impl Into<String>) -> Refusal {
    Refusal {
        retry_after_ms: RETRY_SOON_MS,
        ..refuse(reason, message)
    }
}

pub(crate) fn status(reason: RefusalReason, message: impl Into<String>) -> Status {
    refusal::status_of(refuse(reason, message))
}

pub(crate) fn invalid(message: impl Into<String>) -> Refusal {
    refuse(RefusalReason::InvalidArgument, message)
}

/// A number out of its range.
pub(crate) fn range(field: &str, value: u64, most: u64) -> Refusal {
    invalid(format!("{field} is {value}: it must be from 0 to {most}"))
}

/// A number that is no task id, or names no slot.
pub(crate) fn task_id(raw: u64) -> Result<TaskId, Refusal> {
    TaskId::from_raw(raw).ok_or_else(|| {
        refuse(
            RefusalReason::UnknownTask,
            format!("task {raw:#x} is not a task id"),
        )
    })
}

pub(crate) fn unknown_task(task: TaskId) -> Refusal {
    refuse(
        RefusalReason::UnknownTask,
        format!(
            "task {task} is not known: it was acknowledged, or its result expired or was not to be kept, or another instance gave that id"
        ),
    )
}

pub(crate) fn stale_task(asked: TaskId, now: TaskId) -> Refusal {
    refuse(
        RefusalReason::StaleTask,
        format!("task {asked} is gone: its slot now belongs to the later task {now}"),
    )
}

pub(crate) fn wrong_state(task: TaskId, phase: Phase, action: &str) -> Refusal {
    refuse(
        RefusalReason::WrongState,
        format!("task {task} is {phase}: {action}", phase = phase.name()),
    )
}

/// No slot for a submission.
pub(crate) fn claim(error: ClaimError) -> Refusal {
    match error {
        ClaimError::Full => for_now(RefusalReason::TasksFull, error.to_string()),
        ClaimError::IdsExhausted => for_now(RefusalReason::IdsExhausted, error.to_string()),
        ClaimError::OutOfStamps => refuse(RefusalReason::IdsExhausted, error.to_string()),
    }
}

/// No room for its bytes.
pub(crate) fn store(error: &StoreError) -> Refusal {
    match error {
        StoreError::TooLarge { .. } => refuse(RefusalReason::PayloadTooLarge, error.to_string()),
        StoreError::ArenaFull { .. } => for_now(RefusalReason::ArenaFull, error.to_string()),
        StoreError::Spill(SpillError::NoRoom { .. } | SpillError::Behind { .. }) => {
            for_now(RefusalReason::SpillFailed, error.to_string())
        }
        StoreError::Spill(_) => refuse(RefusalReason::SpillFailed, error.to_string()),
        StoreError::NoSlot(task) => unknown_task(*task),
    }
}

pub(crate) fn unknown_session() -> Status {
    status(
        RefusalReason::UnknownSession,
        "the session is not known: open a client session first",
    )
}

/// Checks the number of entries of a batch.
pub(crate) fn check_batch(entries: usize) -> Result<(), Status> {
    if entries <= BATCH_ENTRIES_MAX {
        return Ok(());
    }
    Err(refusal::status_of(invalid(format!(
        "batch of {entries} entries: at most {BATCH_ENTRIES_MAX} fit, send more batches"
    ))))
}

/// What the core refuses, by the number of its reason.
pub(crate) fn of_core(task: Option<TaskId>, reason: u16, retry_after_ms: u32) -> Refusal {
    let reason = RefusalReason::try_from(i32::from(reason)).unwrap_or_default();
    let refusal = match (reason, task) {
        (RefusalReason::UnknownTask, Some(task)) => unknown_task(task),
        (RefusalReason::WrongState, Some(task)) => refuse(
            reason,
            format!("task {task} is in a state in which that cannot be done with it: look at it"),
        ),
        (RefusalReason::NoJournal, _) => refuse(
            reason,
            "the daemon has no journal, so durability journal cannot be promised: submit with durability memory, or start the daemon with a data directory",
        ),
        (_, task) => {
            let whom = task.map_or_else(|| "the request".to_owned(), |task| format!("task {task}"));
            refuse(reason, format!("{whom} is refused: {}", words_of(reason)))
        }
    };
    Refusal {
        retry_after_ms,
        ..refusal
    }
}

/// The name of a reason as words.
fn words_of(reason: RefusalReason) -> String {
    let name = reason.as_str_name().trim_start_matches("REFUSAL_REASON_");
    name.replace('_', " ").to_lowercase()
}
