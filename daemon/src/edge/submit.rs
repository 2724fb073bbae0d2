//! Submissions: from the wire to the engine, one at a time or in streams of batches.
//!
//! Each entry of a batch is answered on its own, in order, and no batch before all that its answer promises is on
//! stable storage. A large batch is taken over several polls, so that others have their turn. Tested in `tests/daemon/submit.rs`.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_util::Stream;
use qtf_engine::{Accepted, ArrayMember, Durability, Lsn, Payload, Principal, Submission};
use qtf_proto::limits::{BATCH_ENTRIES_MAX, INLINE_BYTES_MAX};
use qtf_proto::v1::{
    self, Refusal, RefusalReason, SubmitStreamRequest, SubmitStreamResponse, SubmitVerdict,
    TaskSpec,
};
use qtf_shm::{ClientIndex, KeyId, TaskId};
use tonic::{Status, Streaming};

use super::{COPIED_PER_POLL_MAX, session_client, status};
use crate::core_cell::stability::{JournalFailed, StablePlace};
use crate::core_cell::{self, Core, StopPlace};

/// Who submits, and by which session.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Submitter {
    pub(crate) client: ClientIndex,
    /// 0 = none.
    pub(crate) session: u64,
}

/// Takes one task in.
pub(crate) fn submit_one(
    core: &mut Core,
    who: Submitter,
    spec: &TaskSpec,
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
        None => Payload::Bytes(&spec.payload),
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
        ..Submission::new(client, &spec.kind, payload)
    };
    let accepted = core
        .engine
        .submit(now, &submission)
        .map_err(|rejection| status::refusal_of(&rejection))?;
    if uploaded.is_some() && !accepted.is_repeat {
        core.uploads.use_up(spec.payload_upload);
    }
    Ok(accepted)
}

/// A submission whose receipt is not good: it may be the repeat of one that has used it up.
fn submitted_before(core: &Core, spec: &TaskSpec) -> Result<Accepted, Refusal> {
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
fn key_ttl_of(core: &Core, spec: &TaskSpec) -> u64 {
    match spec.key_ttl_ms {
        0 => u64::try_from(core.key_ttl.as_millis()).unwrap_or(u64::MAX),
        ttl => ttl,
    }
}

/// Forgets the keys of submissions whose answers have arrived; their number was checked.
pub(crate) fn release_keys(core: &mut Core, keys: &[Bytes]) {
    let keys: Vec<KeyId> = keys
        .iter()
        .filter_map(|key| KeyId::from_bytes(<&[u8; 16]>::try_from(&**key).ok()?))
        .collect();
    if !keys.is_empty() {
        let now = core.now();
        core.engine.release_keys(now, &keys);
    }
}

/// The idempotency key of a task, if it has one.
fn key_of(spec: &TaskSpec) -> Result<Option<KeyId>, Refusal> {
    if spec.idempotency_key.is_empty() {
        return Ok(None);
    }
    let bytes = <&[u8; 16]>::try_from(&*spec.idempotency_key).ok();
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

fn durability_of(core: &Core, spec: &TaskSpec) -> Result<Durability, Refusal> {
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
    spec: &TaskSpec,
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

/// LIMIT: entries whose answers wait for the journal; while there are more, no batch is read.
const UNANSWERED_MAX: usize = 16 * BATCH_ENTRIES_MAX;

/// A batch that is being taken in.
#[derive(Debug)]
struct Batch {
    request: SubmitStreamRequest,
    verdicts: Vec<SubmitVerdict>,
    /// Highest record that an answer of it waits for.
    durable: Option<Lsn>,
}

/// A batch that was taken in, and what its answer waits for.
#[derive(Debug)]
struct Answer {
    response: SubmitStreamResponse,
    durable: Option<Lsn>,
}

/// The answers of one `SubmitStream` call; reads its batches while it is polled.
///
/// Batches are answered in their order, each when all of it is stable; meanwhile further ones are taken.
#[derive(Debug)]
pub(crate) struct SubmitStream {
    requests: Streaming<SubmitStreamRequest>,
    principal: Principal,
    batch: Option<Batch>,
    answers: VecDeque<Answer>,
    /// Entries in `answers`.
    unanswered: usize,
    place: StablePlace,
    /// First member of the stream's array.
    array: Option<TaskId>,
    stop_place: StopPlace,
    /// How the stream ends after the last answer.
    ending: Option<Result<(), Status>>,
    has_ended: bool,
}

impl SubmitStream {
    /// A stream without a batch yet.
    pub(crate) fn new(requests: Streaming<SubmitStreamRequest>, principal: Principal) -> Self {
        Self {
            requests,
            principal,
            batch: None,
            answers: VecDeque::new(),
            unanswered: 0,
            place: StablePlace::default(),
            array: None,
            stop_place: StopPlace::default(),
            ending: None,
            has_ended: false,
        }
    }

    fn poll_batch(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Batch, Status>>> {
        if let Some(batch) = self.batch.take() {
            return Poll::Ready(Some(Ok(batch)));
        }
        let request = match Pin::new(&mut self.requests).poll_next(cx) {
            Poll::Pending if self.stop_place.is_stopping(cx) => {
                let has_failed = core_cell::look(|core| core.journal_failure().is_some());
                let failed = has_failed.unwrap_or(false);
                return Poll::Ready(failed.then(|| Err(JournalFailed.into())));
            }
            Poll::Pending => return Poll::Pending,
            Poll::Ready(None) => return Poll::Ready(None),
            Poll::Ready(Some(Err(status))) => return Poll::Ready(Some(Err(status))),
            Poll::Ready(Some(Ok(request))) => request,
        };
        let entries = request.tasks.len().max(request.received_keys.len());
        if let Err(status) = status::check_batch(entries) {
            return Poll::Ready(Some(Err(status)));
        }
        Poll::Ready(Some(Ok(Batch {
            verdicts: Vec::with_capacity(request.tasks.len()),
            request,
            durable: None,
        })))
    }

    /// Submits entries until the batch is done or `copied` is beyond what one poll may copy. True when it is
    /// done.
    fn work_on(&mut self, batch: &mut Batch, copied: &mut usize) -> Result<bool, Status> {
        let Batch {
            request,
            verdicts,
            durable,
        } = batch;
        core_cell::enter(|core| {
            if verdicts.is_empty() {
                release_keys(core, &request.received_keys);
            }
            for spec in request.tasks.iter().skip(verdicts.len()) {
                if *copied > COPIED_PER_POLL_MAX {
                    return false;
                }
                *copied = copied.saturating_add(spec.payload.len()).saturating_add(64);
                // Each time: the record of a call without a session is nobody's after a refusal.
                let session = request.session;
                let result = match session_client(core, session, self.principal) {
                    Ok(client) => {
                        self.submit(core, Submitter { client, session }, spec, request.as_array)
                    }
                    Err(rejection) => Err(status::refusal_of(&rejection)),
                };
                if let Ok(accepted) = &result {
                    *durable = (*durable).max(accepted.durable);
                }
                verdicts.push(verdict(result));
            }
            true
        })
        .ok_or_else(status::gone)
    }

    fn submit(
        &mut self,
        core: &mut Core,
        who: Submitter,
        spec: &TaskSpec,
        as_array: bool,
    ) -> Result<Accepted, Refusal> {
        let array = match array_of(spec, self.array)? {
            None if as_array => Some(ArrayMember {
                array: self.array,
                index: spec.array_index,
            }),
            array => array,
        };
        let accepted = submit_one(core, who, spec, array)?;
        if as_array && self.array.is_none() {
            let named = array.and_then(|member| member.array);
            self.array = Some(named.unwrap_or(accepted.task));
        }
        Ok(accepted)
    }

    /// Takes one batch in, or a part of it. False when there is nothing to take now.
    fn take(&mut self, copied: &mut usize, cx: &mut Context<'_>) -> bool {
        let mut batch = match self.poll_batch(cx) {
            Poll::Pending => return false,
            Poll::Ready(None) => {
                self.ending = Some(Ok(()));
                return true;
            }
            Poll::Ready(Some(Err(status))) => {
                self.ending = Some(Err(status));
                return true;
            }
            Poll::Ready(Some(Ok(batch))) => batch,
        };
        match self.work_on(&mut batch, copied) {
            Err(status) => self.ending = Some(Err(status)),
            Ok(false) => self.batch = Some(batch),
            Ok(true) => {
                self.unanswered = self.unanswered.saturating_add(batch.verdicts.len().max(1));
                self.answers.push_back(Answer {
                    response: SubmitStreamResponse {
                        batch: batch.request.batch,
                        verdicts: batch.verdicts,
                    },
                    durable: batch.durable,
                });
            }
        }
        true
    }

    /// The next answer, if it may be given.
    fn poll_answer(&mut self, cx: &Context<'_>) -> Poll<Result<SubmitStreamResponse, Status>> {
        let Some(answer) = self.answers.front() else {
            return Poll::Pending;
        };
        ready!(self.place.poll(answer.durable, cx))?;
        let Some(answer) = self.answers.pop_front() else {
            return Poll::Pending;
        };
        let entries = answer.response.verdicts.len().max(1);
        self.unanswered = self.unanswered.saturating_sub(entries);
        Poll::Ready(Ok(answer.response))
    }
}

/// A verdict on the wire.
fn verdict(result: Result<Accepted, Refusal>) -> SubmitVerdict {
    match result {
        Ok(accepted) => SubmitVerdict {
            task_id: accepted.task.as_raw(),
            refusal: None,
            durability: reached(accepted.durability).into(),
            is_repeat: accepted.is_repeat,
            result_expired: accepted.result_expired,
        },
        Err(refusal) => SubmitVerdict {
            refusal: Some(refusal),
            ..SubmitVerdict::default()
        },
    }
}

/// The durability that an answer promises.
pub(crate) fn reached(durability: Durability) -> v1::Durability {
    match durability {
        Durability::Journal => v1::Durability::Journal,
        // The engine answers with what it did, never with `Best`.
        Durability::Memory | Durability::Best => v1::Durability::Memory,
    }
}

impl Stream for SubmitStream {
    type Item = Result<SubmitStreamResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut copied = 0;
        while !self.has_ended {
            if let Poll::Ready(answer) = self.poll_answer(cx) {
                self.has_ended = answer.is_err();
                return Poll::Ready(Some(answer));
            }
            match &self.ending {
                None if self.unanswered >= UNANSWERED_MAX => return Poll::Pending,
                None => {}
                Some(_) if !self.answers.is_empty() => return Poll::Pending,
                Some(_) => break,
            }
            if !self.take(&mut copied, cx) {
                return Poll::Pending;
            }
            if copied > COPIED_PER_POLL_MAX {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
        }
        self.has_ended = true;
        match self.ending.take() {
            Some(Err(status)) => Poll::Ready(Some(Err(status))),
            _ => Poll::Ready(None),
        }
    }
}
