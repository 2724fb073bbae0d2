//! A submission: from the wire to the engine, and what is answered.
//!
//! Streams of batches are in `submit_stream.rs`. Tested in `tests/daemon/submit.rs`.

use qtf_engine::{Accepted, ArrayMember, Durability, Payload, Submission};
use qtf_proto::limits::INLINE_BYTES_MAX;
use qtf_proto::v1::{self, Refusal, RefusalReason, SubmitTaskResponse};
use qtf_proto::wire::Spec;
use qtf_shm::{ClientIndex, KeyId, TaskId};

use super::status;
use crate::core::Core;

/// Who submits, and by which session.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Submitter {
    pub(crate) client: ClientIndex,
    /// 0 = none.
    pub(crate) session: u64,
}

/// Takes one task in.
#[inline]
pub(crate) fn submit_one(
    core: &mut Core,
    who: Submitter,
    spec: &Spec<'_>,
    array: Option<ArrayMember>,
) -> Result<Accepted, Refusal> {
    let Submitter { client, session } = who;
    let now = core.now();
    let uploaded = match spec.payload_upload {
        0 => None,
        receipt => match core.uploads.peek(receipt, session, now) {
            Some(blob) => Some(blob),
            None => return submitted_before(core, spec),
        },
    };
    let payload = match uploaded {
        Some(_) if !spec.payload.is_empty() => {
            return Err(status::refuse(
                RefusalReason::InvalidArgument,
                "payload and payload_upload are both set: use one",
            ));
        }
        Some(blob) => Payload::Stored(blob),
        None if spec.payload.len() > INLINE_BYTES_MAX => {
            return Err(status::refuse(
                RefusalReason::PayloadTooLarge,
                format!(
                    "payload of {} bytes: more than {INLINE_BYTES_MAX} go through UploadPayload",
                    spec.payload.len()
                ),
            ));
        }
        None => Payload::Bytes(spec.payload),
    };
    let submission = Submission {
        priority: spec.priority,
        timeout_ms: spec.timeout_ms,
        retries: spec.retries,
        estimate_ms: spec.estimate_ms,
        delay_ms: spec.delay_ms,
        hold: spec.hold,
        durability: durability_of(core, spec)?,
        key: key_of(spec)?,
        key_ttl_ms: key_ttl_of(core, spec),
        key_is_automatic: spec.automatic_key,
        keep_ms: spec.keep_ms,
        discard_result: spec.discard_result,
        at_most_once: spec.at_most_once,
        array,
        submitted_unix_ms: core.unix_ms(),
        ..Submission::new(client, spec.kind, payload)
    };
    let accepted = match core.engine.submit(now, &submission) {
        Ok(accepted) => accepted,
        Err(rejection) => return Err(status::refusal_of(&rejection)),
    };
    if uploaded.is_some() && !accepted.is_repeat {
        core.uploads.use_up(spec.payload_upload);
    }
    Ok(accepted)
}

/// A submission whose receipt is not good: it may be the repeat of one that has used it up.
fn submitted_before(core: &Core, spec: &Spec<'_>) -> Result<Accepted, Refusal> {
    let before = match key_of(spec)? {
        Some(key) => core.engine.submitted_before(core.now(), key),
        None => Ok(None),
    };
    before
        .map_err(|rejection| status::refusal_of(&rejection))?
        .ok_or_else(|| {
            status::refuse(
                RefusalReason::UnknownUpload,
                "upload receipt is not known: it was used, has expired, or is another session's; upload again",
            )
        })
}

/// How long the key of a task is remembered.
fn key_ttl_of(core: &Core, spec: &Spec<'_>) -> u64 {
    match spec.key_ttl_ms {
        0 => u64::try_from(core.key_ttl.as_millis()).unwrap_or(u64::MAX),
        ttl => ttl,
    }
}

/// Forgets the keys of submissions whose answers have arrived; their number was checked.
#[expect(
    single_use_lifetimes,
    reason = "an iterator of what is borrowed cannot be written without a name for what it borrows"
)]
pub(crate) fn release_keys<'k>(core: &mut Core, keys: impl Iterator<Item = &'k [u8]>) {
    let keys: Vec<KeyId> = keys
        .filter_map(|key| KeyId::from_bytes(<&[u8; 16]>::try_from(key).ok()?))
        .collect();
    if !keys.is_empty() {
        let now = core.now();
        core.engine.release_keys(now, &keys);
    }
}

/// The idempotency key of a task, if it has one.
fn key_of(spec: &Spec<'_>) -> Result<Option<KeyId>, Refusal> {
    if spec.idempotency_key.is_empty() {
        return Ok(None);
    }
    let bytes = <&[u8; 16]>::try_from(spec.idempotency_key).ok();
    bytes.and_then(KeyId::from_bytes).map(Some).ok_or_else(|| {
        status::refuse(
            RefusalReason::InvalidArgument,
            format!(
                "idempotency_key has {} bytes: it must have 16 that are not all zero, or none",
                spec.idempotency_key.len()
            ),
        )
    })
}

fn durability_of(core: &Core, spec: &Spec<'_>) -> Result<Durability, Refusal> {
    match v1::Durability::try_from(spec.durability) {
        Ok(v1::Durability::Unspecified) if core.durable_by_default => Ok(Durability::Best),
        Ok(v1::Durability::Unspecified) => Ok(Durability::Memory),
        Ok(v1::Durability::Memory) => Ok(Durability::Memory),
        Ok(v1::Durability::Journal) => Ok(Durability::Journal),
        Err(_) => Err(status::refuse(
            RefusalReason::InvalidArgument,
            format!(
                "durability {} is not known to this version",
                spec.durability
            ),
        )),
    }
}

/// The array that a task names.
pub(crate) fn array_of(
    spec: &Spec<'_>,
    first: Option<TaskId>,
) -> Result<Option<ArrayMember>, Refusal> {
    if !spec.array_member {
        return Ok(None);
    }
    let array = match spec.array_id {
        0 => first,
        raw => Some(status::task_id(raw)?),
    };
    Ok(Some(ArrayMember {
        array,
        index: spec.array_index,
    }))
}

/// A yes on the wire.
pub(super) fn answer_of(accepted: &Accepted) -> SubmitTaskResponse {
    SubmitTaskResponse {
        task_id: accepted.task.as_raw(),
        durability: reached(accepted.durability).into(),
        is_repeat: accepted.is_repeat,
        result_expired: accepted.result_expired,
    }
}

/// The durability that an answer promises.
fn reached(durability: Durability) -> v1::Durability {
    match durability {
        Durability::Journal => v1::Durability::Journal,
        // The engine answers with what it did, never with `Best`.
        Durability::Memory | Durability::Best => v1::Durability::Memory,
    }
}
