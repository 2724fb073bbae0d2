//! Service `Scheduler`: credits in; assignments, stops and probes out.
//!
//! Everything that waits goes into one message, up to a bound on the bytes copied in one poll, and verdicts on results go along. Whether an
//! attempt is still the worker's is asked at the moment of sending. Tested in `tests/daemon/dispatch.rs`.

use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::Stream;
use qtf_engine::{AttemptSpec, StopReason, TaskRef};
use qtf_proto::limits::BATCH_ENTRIES_MAX;
use qtf_proto::refusal;
use qtf_proto::served::scheduler_server::Scheduler;
use qtf_proto::v1::{
    self, DispatchRequest, DispatchResponse, FetchPayloadRequest, RefusalReason, StopOrder,
};
use qtf_proto::wire::{Assigned, Frame};
use qtf_shm::{Part, ShortText, TaskId, WorkerId};
use tonic::{Request, Response, Status, Streaming};

use super::intake::{Reader, Source, take_in};
use super::transfer::BlobStream;
use super::{COPIED_PER_POLL_MAX, read, status};
use crate::core::routes::{Order, StreamKey};
use crate::core::{Core, core_cell};

/// The service.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SchedulerEdge;

#[tonic::async_trait]
impl Scheduler for SchedulerEdge {
    type DispatchStream = DispatchStream;
    type FetchPayloadStream = BlobStream;

    async fn dispatch(
        &self,
        request: Request<Streaming<DispatchRequest>>,
    ) -> Result<Response<DispatchStream>, Status> {
        let key = core_cell::attend(|core| core.routes.next_key()).ok_or_else(status::gone)?;
        Ok(Response::new(DispatchStream {
            requests: request.into_inner(),
            requests_have_ended: false,
            key,
            worker: None,
            has_ended: false,
        }))
    }

    async fn fetch_payload(
        &self,
        request: Request<FetchPayloadRequest>,
    ) -> Result<Response<BlobStream>, Status> {
        let request = request.into_inner();
        let stream =
            core_cell::look(|core| fetch_payload(core, &request)).ok_or_else(status::gone)??;
        Ok(Response::new(stream))
    }
}

fn fetch_payload(core: &Core, request: &FetchPayloadRequest) -> Result<BlobStream, Status> {
    let worker = worker_of(core, request.worker_id, request.token)?;
    let asked = request
        .task
        .as_ref()
        .ok_or_else(|| status::invalid("task is missing"))?;
    let task = status::task_id(asked.task_id).map_err(refusal::status_of)?;
    let reference = TaskRef {
        task,
        attempt: asked.attempt,
    };
    let order = core
        .engine
        .payload_for(worker, reference)
        .map_err(|error| status::status_of(&error))?;
    Ok(BlobStream::new(Part::Payload, task, order.payload.len()))
}

/// The worker that a peer says it is, if its token says so too.
fn worker_of(core: &Core, raw: u64, token: u64) -> Result<WorkerId, Status> {
    core.engine
        .check_worker(raw, token)
        .map_err(|rejection| status::status_of(&rejection))
}

/// The answers of one `Dispatch` call; reads its requests while it is polled.
#[derive(Debug)]
pub(crate) struct DispatchStream {
    requests: Streaming<DispatchRequest>,
    requests_have_ended: bool,
    key: StreamKey,
    worker: Option<WorkerId>,
    has_ended: bool,
}

/// Its session was with the daemon before: nothing that the worker says is wrong.
fn no_session() -> Status {
    let message = "the worker has no session: open WorkerSession first";
    refusal::status_of(status::refuse(RefusalReason::UnknownSession, message))
}

impl DispatchStream {
    fn take(&mut self, request: &DispatchRequest) -> Result<(), Status> {
        let (key, known) = (self.key, self.worker);
        let worker = core_cell::enter(|core| {
            let now = core.now();
            let worker = match known {
                Some(worker) => worker,
                None => {
                    let worker = worker_of(core, request.worker_id, request.token)?;
                    let undelivered = core
                        .routes
                        .open_dispatch(worker, request.token, key)
                        .ok_or_else(no_session)?;
                    core.void_credits(worker, undelivered);
                    worker
                }
            };
            if request.probe_answer != 0 {
                core.engine
                    .probe_answered(now, worker, request.probe_answer);
            }
            if request.credits > 0 || known.is_none() {
                core.engine
                    .worker_credits(now, worker, request.credits, known.is_none())
                    .map_err(|error| status::status_of(&error))?;
            }
            Ok::<_, Status>(worker)
        });
        self.worker = Some(worker.ok_or_else(status::gone)??);
        Ok(())
    }

    fn poll_response(&self, cx: &Context<'_>) -> Poll<Option<Frame<DispatchResponse>>> {
        let Some(worker) = self.worker else {
            // No hello yet; the requests wake us.
            return if self.requests_have_ended {
                Poll::Ready(None)
            } else {
                Poll::Pending
            };
        };
        let (key, waker) = (self.key, cx.waker());
        let response = core_cell::attend(|core| {
            if core.is_stopping() || !core.routes.is_dispatch(worker, key) {
                return Poll::Ready(None);
            }
            let mut response = next_response(core, worker, key);
            if response.is_empty() {
                core.routes.keep_dispatch_waker(worker, key, waker);
                return Poll::Pending;
            }
            let verdicts = core.routes.take_verdicts(worker);
            response.verdicts(&verdicts.each, &verdicts.recorded);
            Poll::Ready(Some(response))
        });
        response.unwrap_or(Poll::Ready(None))
    }
}

impl Reader for DispatchStream {
    type Messages = Streaming<DispatchRequest>;
    type Message = DispatchRequest;

    fn source(&mut self) -> Result<Source<'_, Self::Messages>, Status> {
        if self.requests_have_ended {
            return Ok(Source::Nothing);
        }
        Ok(Source::Messages(&mut self.requests))
    }

    fn take_message(&mut self, request: DispatchRequest) -> Result<(), Status> {
        self.take(&request)
    }

    fn end_of_messages(&mut self) {
        self.requests_have_ended = true;
    }
}

impl Stream for DispatchStream {
    type Item = Result<Frame<DispatchResponse>, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.has_ended {
            return Poll::Ready(None);
        }
        if let Err(status) = take_in(&mut *self, cx) {
            self.has_ended = true;
            return Poll::Ready(Some(Err(status)));
        }
        match self.poll_response(cx) {
            Poll::Ready(None) => {
                self.has_ended = true;
                Poll::Ready(None)
            }
            Poll::Ready(Some(response)) => Poll::Ready(Some(Ok(response))),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl Drop for DispatchStream {
    fn drop(&mut self) {
        if let Some(worker) = self.worker {
            // The end of the stream is not the end of the worker: that the lease or the kernel tells. It is
            // the end of its credits.
            core_cell::enter(|core| {
                if let Some(undelivered) = core.routes.close_dispatch(worker, self.key) {
                    core.void_credits(worker, undelivered);
                }
            });
        }
    }
}

/// Puts what waits into one message.
fn next_response(core: &mut Core, worker: WorkerId, key: StreamKey) -> Frame<DispatchResponse> {
    let mut response = Frame::default();
    let mut copied = 0;
    for _ in 0..BATCH_ENTRIES_MAX {
        if copied >= COPIED_PER_POLL_MAX {
            break;
        }
        match core.routes.next_order(worker, key) {
            None => break,
            Some(Order::Probe { nonce }) => {
                response.probe(nonce);
                break;
            }
            Some(Order::Stop {
                task,
                attempt,
                reason,
            }) => response.stop(&StopOrder {
                task: Some(task_ref(task, attempt)),
                reason: stop_reason(reason).into(),
            }),
            Some(Order::Assign { task, attempt }) => {
                if let Some(order) = Ordered::of(core, worker, (task, attempt)) {
                    let payload = order.payload_in_message();
                    copied = copied.saturating_add(payload);
                    response.assignment(&order.assigned(&order.kind.text()), payload, |bytes| {
                        read::fill(core, Part::Payload, task, bytes)
                    });
                }
            }
        }
    }
    response
}

/// An attempt that a worker is to run.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ordered {
    task: TaskId,
    attempt: u16,
    pub(super) kind: ShortText,
    spec: AttemptSpec,
}

impl Ordered {
    /// What the worker is to be told; `None` if the attempt is no longer its own.
    pub(super) fn of(
        core: &Core,
        worker: WorkerId,
        (task, attempt): (TaskId, u16),
    ) -> Option<Self> {
        let reference = TaskRef {
            task,
            attempt: attempt.into(),
        };
        let spec = core.engine.payload_for(worker, reference).ok()?;
        let kind = core.segment().kinds().short_name(spec.kind)?;
        Some(Self {
            task,
            attempt,
            kind,
            spec,
        })
    }

    /// How many bytes of payload a message with the attempt has. What cannot be read then is left to `FetchPayload`, which says why.
    pub(super) fn payload_in_message(&self) -> usize {
        read::length_in_message(self.spec.payload)
    }

    /// All but the payload.
    pub(super) fn assigned<'a>(&self, kind: &'a str) -> Assigned<'a> {
        Assigned {
            task: task_ref(self.task, self.attempt),
            kind,
            payload_bytes: self.spec.payload.len(),
            timeout_ms: self.spec.timeout_ms,
            discard_result: self.spec.discard_result,
            array_id: self.spec.array.map_or(0, |(first, _)| first.as_raw()),
            array_index: self.spec.array.map_or(0, |(_, index)| index),
        }
    }
}

pub(super) fn task_ref(task: TaskId, attempt: u16) -> v1::TaskRef {
    v1::TaskRef {
        task_id: task.as_raw(),
        attempt: attempt.into(),
    }
}

pub(super) fn stop_reason(reason: StopReason) -> v1::StopReason {
    match reason {
        StopReason::Cancelled => v1::StopReason::Cancelled,
        StopReason::TimedOut => v1::StopReason::TimedOut,
        StopReason::Stale => v1::StopReason::Stale,
    }
}
