//! Submissions: from the wire to the engine, one at a time or in streams of batches.
//!
//! Each entry of a batch is answered on its own, in order. A large batch is taken over several polls, so
//! that others have their turn. Tested in `tests/daemon/submit.rs`.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures_util::Stream;
use qtf_engine::{ArrayMember, Durability, Payload, Submission};
use qtf_proto::limits::INLINE_BYTES_MAX;
use qtf_proto::v1::{
    self, Refusal, RefusalReason, SubmitStreamRequest, SubmitStreamResponse, SubmitVerdict,
    TaskSpec,
};
use qtf_shm::{ClientIndex, TaskId};
use tonic::{Status, Streaming};

use super::{COPIED_PER_POLL_MAX, session_client, status};
use crate::core_cell::{self, Core, StopPlace};

/// Takes one task in.
pub(crate) fn submit_one(
    core: &mut Core,
    (client, session): (ClientIndex, u64),
    spec: &TaskSpec,
    array: Option<ArrayMember>,
) -> Result<TaskId, Refusal> {
    let now = core.now();
    let uploaded = match spec.payload_upload {
        0 => None,
        receipt => Some(core.uploads.peek(receipt, session, now).ok_or_else(|| {
            status::refuse(
                RefusalReason::UnknownUpload,
                "upload receipt is not known: it was used, has expired, or is another session's; upload again",
            )
        })?),
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
        durability: durability_of(spec)?,
        idempotency_key: &spec.idempotency_key,
        discard_result: spec.discard_result,
        array,
        submitted_unix_ms: core.unix_ms(),
        ..Submission::new(client, &spec.kind, payload)
    };
    let task = core
        .engine
        .submit(now, &submission)
        .map_err(|rejection| status::refusal_of(&rejection))?
        .task;
    if uploaded.is_some() {
        core.uploads.use_up(spec.payload_upload);
    }
    Ok(task)
}

fn durability_of(spec: &TaskSpec) -> Result<Durability, Refusal> {
    match v1::Durability::try_from(spec.durability) {
        Ok(v1::Durability::Unspecified) => Ok(Durability::Best),
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

#[derive(Debug)]
struct Batch {
    request: SubmitStreamRequest,
    verdicts: Vec<SubmitVerdict>,
}

/// The answers of one `SubmitStream` call; reads its batches while it is polled.
#[derive(Debug)]
pub(crate) struct SubmitStream {
    requests: Streaming<SubmitStreamRequest>,
    batch: Option<Batch>,
    /// First member of the stream's array.
    array: Option<TaskId>,
    stop_place: StopPlace,
    has_ended: bool,
}

impl SubmitStream {
    /// A stream without a batch yet.
    pub(crate) fn new(requests: Streaming<SubmitStreamRequest>) -> Self {
        Self {
            requests,
            batch: None,
            array: None,
            stop_place: StopPlace::default(),
            has_ended: false,
        }
    }

    fn poll_batch(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Batch, Status>>> {
        if let Some(batch) = self.batch.take() {
            return Poll::Ready(Some(Ok(batch)));
        }
        let request = match Pin::new(&mut self.requests).poll_next(cx) {
            Poll::Pending if self.stop_place.is_stopping(cx) => return Poll::Ready(None),
            Poll::Pending => return Poll::Pending,
            Poll::Ready(None) => return Poll::Ready(None),
            Poll::Ready(Some(Err(status))) => return Poll::Ready(Some(Err(status))),
            Poll::Ready(Some(Ok(request))) => request,
        };
        if let Err(status) = status::check_batch(request.tasks.len()) {
            return Poll::Ready(Some(Err(status)));
        }
        let verdicts = Vec::with_capacity(request.tasks.len());
        Poll::Ready(Some(Ok(Batch { request, verdicts })))
    }

    /// Submits entries until the batch is done or enough was copied. True when it is done.
    fn work_on(&mut self, batch: &mut Batch) -> Result<bool, Status> {
        let Batch { request, verdicts } = batch;
        core_cell::enter(|core| {
            let client = session_client(core, request.session);
            let mut copied = 0_usize;
            for spec in request.tasks.iter().skip(verdicts.len()) {
                if copied > COPIED_PER_POLL_MAX {
                    return false;
                }
                copied = copied.saturating_add(spec.payload.len()).saturating_add(64);
                let result = match &client {
                    Ok(client) => {
                        self.submit(core, (*client, request.session), spec, request.as_array)
                    }
                    Err(rejection) => Err(status::refusal_of(rejection)),
                };
                verdicts.push(verdict(result));
            }
            true
        })
        .ok_or_else(status::gone)
    }

    fn submit(
        &mut self,
        core: &mut Core,
        who: (ClientIndex, u64),
        spec: &TaskSpec,
        as_array: bool,
    ) -> Result<TaskId, Refusal> {
        let array = match array_of(spec, self.array)? {
            None if as_array => Some(ArrayMember {
                array: self.array,
                index: spec.array_index,
            }),
            array => array,
        };
        let task = submit_one(core, who, spec, array)?;
        if as_array && self.array.is_none() {
            let named = array.and_then(|member| member.array);
            self.array = Some(named.unwrap_or(task));
        }
        Ok(task)
    }
}

fn verdict(result: Result<TaskId, Refusal>) -> SubmitVerdict {
    match result {
        Ok(task) => SubmitVerdict {
            task_id: task.as_raw(),
            refusal: None,
            durability: v1::Durability::Memory.into(),
            ..SubmitVerdict::default()
        },
        Err(refusal) => SubmitVerdict {
            task_id: 0,
            refusal: Some(refusal),
            ..SubmitVerdict::default()
        },
    }
}

impl Stream for SubmitStream {
    type Item = Result<SubmitStreamResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.has_ended {
            return Poll::Ready(None);
        }
        let done = match ready!(self.poll_batch(cx)) {
            None => None,
            Some(Err(status)) => Some(Err(status)),
            Some(Ok(mut batch)) => match self.work_on(&mut batch) {
                Err(status) => Some(Err(status)),
                Ok(true) => Some(Ok(SubmitStreamResponse {
                    batch: batch.request.batch,
                    verdicts: batch.verdicts,
                })),
                Ok(false) => {
                    self.batch = Some(batch);
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
            },
        };
        self.has_ended = !matches!(done, Some(Ok(_)));
        Poll::Ready(done)
    }
}
