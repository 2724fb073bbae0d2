//! Refusals as messages and as gRPC statuses; the one place where the two meet.
//!
//! The reasons of the engine and of the wire have the same numbers. Tested at the end, over all of them.

use qtf_engine::{RejectReason, Rejection, ShareUsedUp};
use qtf_proto::limits::BATCH_ENTRIES_MAX;
use qtf_proto::v1::{Refusal, RefusalReason};
use qtf_proto::{refusal, version};
use qtf_shm::TaskId;
use qtf_shm::spill::SpillError;
use tonic::Status;

use crate::core::shortage;
use crate::core::stability::{JournalFailed, NotStable};

/// LIMIT: long enough for others to finish their uploads, short against the life of a receipt.
const UPLOAD_RETRY_MS: u32 = 500;

/// The reason of the wire for a reason of the engine.
pub(crate) fn reason_of(reason: RejectReason) -> RefusalReason {
    RefusalReason::try_from(i32::from(reason.code())).unwrap_or(RefusalReason::Unspecified)
}

/// A refusal inside a message.
pub(crate) fn refusal_of(rejection: &Rejection) -> Refusal {
    let mut message = rejection.to_string();
    if rejection.reason == RejectReason::JournalFull {
        message = shortage::explain(message);
    }
    Refusal {
        reason: reason_of(rejection.reason).into(),
        message,
        retry_after_ms: rejection.retry_after_ms,
    }
}

/// A refusal of a whole call.
pub(crate) fn status_of(rejection: &Rejection) -> Status {
    refusal::status_of(refusal_of(rejection))
}

/// A refusal that the edge gives itself.
pub(crate) fn refuse(reason: RefusalReason, message: impl Into<String>) -> Refusal {
    Refusal {
        reason: reason.into(),
        message: message.into(),
        retry_after_ms: 0,
    }
}

/// An argument that the edge can judge itself.
pub(crate) fn invalid(message: impl Into<String>) -> Status {
    refusal::status_of(refuse(RefusalReason::InvalidArgument, message))
}

/// Too many uploads.
pub(crate) fn too_many_uploads(limit: usize) -> Refusal {
    Refusal {
        retry_after_ms: UPLOAD_RETRY_MS,
        ..refuse(
            RefusalReason::SpillFailed,
            format!("all {limit} uploads are in use: try again later, or raise uploads_max"),
        )
    }
}

/// A principal has as many uploads, or as large ones, as it may.
pub(crate) fn upload_share_used_up(used_up: &ShareUsedUp) -> Refusal {
    Refusal {
        retry_after_ms: UPLOAD_RETRY_MS,
        ..refuse(RefusalReason::SpillFailed, used_up.to_string())
    }
}

/// Spill files hold as much as they may; there is room again when results are forgotten.
pub(crate) fn no_spill_room(error: &SpillError) -> Refusal {
    Refusal {
        retry_after_ms: UPLOAD_RETRY_MS,
        ..refuse(RefusalReason::SpillFailed, error.to_string())
    }
}

/// The daemon has gone from under the call.
pub(crate) fn gone() -> Status {
    refusal::status_of(refuse(
        RefusalReason::Stopping,
        "the daemon is stopping: connect again later",
    ))
}

impl From<JournalFailed> for Status {
    fn from(JournalFailed: JournalFailed) -> Self {
        refusal::status_of(refuse(
            RefusalReason::JournalFailed,
            "the journal cannot be written and the daemon stops: repeat the call with its key when it is back",
        ))
    }
}

impl From<NotStable> for Status {
    fn from(why: NotStable) -> Self {
        match why {
            NotStable::Failed(failed) => failed.into(),
            NotStable::Gone => gone(),
        }
    }
}

/// Checks the number of entries of a batch.
pub(crate) fn check_batch(entries: usize) -> Result<(), Status> {
    if entries <= BATCH_ENTRIES_MAX {
        return Ok(());
    }
    Err(invalid(format!(
        "batch of {entries} entries: at most {BATCH_ENTRIES_MAX} fit, send more batches"
    )))
}

/// A task id from the wire.
pub(crate) fn task_id(raw: u64) -> Result<TaskId, Refusal> {
    TaskId::from_raw(raw).ok_or_else(|| {
        refuse(
            RefusalReason::UnknownTask,
            format!("task {raw:#x} is not a task id: {}", wrong_with(raw)),
        )
    })
}

/// What is wrong with a number that is no task id.
const fn wrong_with(raw: u64) -> &'static str {
    if raw >> 60 == 0 {
        "its generation (bits 24 to 59) is 0, which no task has"
    } else {
        "the upper 4 bits are not 0"
    }
}

/// Checks the version of the protocol that a peer needs.
pub(crate) fn check_version(kind: &str, needed: u32) -> Result<(), Status> {
    version::check(kind, needed)
        .map_err(|text| refusal::status_of(refuse(RefusalReason::Unsupported, text)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_of_the_engine_has_its_own_on_the_wire_and_a_code() {
        for reason in RejectReason::ALL {
            let wire = reason_of(reason);
            assert_ne!(wire, RefusalReason::Unspecified, "{reason:?}");
            assert_eq!(i32::from(wire), i32::from(reason.code()));
            // Same name but for the spelling.
            let name = wire
                .as_str_name()
                .trim_start_matches("REFUSAL_REASON_")
                .replace('_', "");
            assert_eq!(name.to_lowercase(), format!("{reason:?}").to_lowercase());
            assert_ne!(refusal::code_of(wire), tonic::Code::Unknown, "{reason:?}");
        }
        let on_the_wire = (1..).map_while(|number| RefusalReason::try_from(number).ok());
        assert!(
            RejectReason::ALL.len() <= on_the_wire.count(),
            "the wire has every reason of the engine"
        );
    }

    #[test]
    fn full_tables_are_resource_exhausted_with_a_hint() {
        let status = refusal::status_of(too_many_uploads(3));
        assert_eq!(status.code(), tonic::Code::ResourceExhausted);
        assert_eq!(
            refusal::refusal_of(&status).unwrap().retry_after_ms,
            UPLOAD_RETRY_MS
        );
    }

    #[test]
    fn number_that_is_no_task_id_is_told_what_is_wrong_with_it() {
        let told = |raw| task_id(raw).unwrap_err().message;
        assert!(told(5).contains("generation"), "{}", told(5));
        assert!(!told(5).contains("upper"), "{}", told(5));
        assert!(told(0).contains("generation"), "{}", told(0));
        let high = told((1 << 60) | (1 << 24) | 5);
        assert!(high.contains("the upper 4 bits"), "{high}");
        assert!(task_id((1 << 24) | 5).is_ok());
    }

    #[test]
    fn batch_over_the_limit_is_refused_with_the_limit() {
        assert!(check_batch(BATCH_ENTRIES_MAX).is_ok());
        let status = check_batch(BATCH_ENTRIES_MAX + 1).unwrap_err();
        assert!(status.message().contains("at most 1024"), "{status}");
    }
}
