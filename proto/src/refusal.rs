//! How a [`Refusal`] travels when it is the answer to a whole call: as a gRPC status with two metadata
//! entries, `qtf-refusal-reason` (the name of the enum value) and `qtf-retry-after-ms`, so that programs
//! in any language can read it.

use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::{Code, Status};

use crate::v1::{Refusal, RefusalReason};

const REASON_KEY: &str = "qtf-refusal-reason";
const RETRY_KEY: &str = "qtf-retry-after-ms";

/// The status code of a reason.
#[must_use]
pub const fn code_of(reason: RefusalReason) -> Code {
    use RefusalReason as Reason;
    match reason {
        Reason::TasksFull
        | Reason::ArenaFull
        | Reason::WorkersFull
        | Reason::ClientsFull
        | Reason::KindsFull
        | Reason::IdsExhausted
        | Reason::SpillFailed
        | Reason::KeysFull
        | Reason::JournalFull
        | Reason::ConnectionsFull => Code::ResourceExhausted,
        Reason::PayloadTooLarge | Reason::InvalidArgument => Code::InvalidArgument,
        Reason::UnknownTask | Reason::StaleTask | Reason::UnknownUpload => Code::NotFound,
        Reason::NoJournal | Reason::WrongState => Code::FailedPrecondition,
        Reason::Stopping | Reason::JournalFailed => Code::Unavailable,
        Reason::UnknownWorker | Reason::UnknownSession => Code::Unauthenticated,
        Reason::Unsupported => Code::Unimplemented,
        Reason::Unspecified => Code::Unknown,
    }
}

/// Turns a refusal into the status of a call.
#[must_use]
pub fn status_of(refusal: Refusal) -> Status {
    let reason = refusal.reason();
    let mut metadata = MetadataMap::new();
    metadata.insert(REASON_KEY, MetadataValue::from_static(reason.as_str_name()));
    if refusal.retry_after_ms > 0 {
        metadata.insert(RETRY_KEY, MetadataValue::from(refusal.retry_after_ms));
    }
    Status::with_metadata(code_of(reason), refusal.message, metadata)
}

/// Reads the refusal out of a status; `None` when the status is something else, such as a broken
/// connection.
#[must_use]
pub fn refusal_of(status: &Status) -> Option<Refusal> {
    let text = |key: &str| status.metadata().get(key)?.to_str().ok();
    let reason = RefusalReason::from_str_name(text(REASON_KEY)?)?;
    let retry_after_ms = text(RETRY_KEY).and_then(|text| text.parse().ok());
    Some(Refusal {
        reason: reason.into(),
        message: status.message().to_owned(),
        retry_after_ms: retry_after_ms.unwrap_or(0),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_survives_its_way_through_a_status() {
        let reasons = (1..).map_while(|number| RefusalReason::try_from(number).ok());
        for (number, reason) in (1_i32..).zip(reasons) {
            let refusal = Refusal {
                reason: reason.into(),
                message: "32 of 32 task slots in use: wait".into(),
                retry_after_ms: number.unsigned_abs(),
            };
            let status = status_of(refusal.clone());
            assert_ne!(status.code(), Code::Unknown, "{reason:?}");
            assert_eq!(refusal_of(&status), Some(refusal));
        }
        let last = RefusalReason::ConnectionsFull;
        assert!(RefusalReason::try_from(i32::from(last) + 1).is_err());
    }

    #[test]
    fn status_without_reason_is_no_refusal() {
        assert_eq!(refusal_of(&Status::unavailable("connection reset")), None);
    }
}
