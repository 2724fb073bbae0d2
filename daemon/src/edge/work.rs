//! Service `Work`: single calls of workers that hold no streams.
//!
//! The answer of `Reserve` is what was placed when the call looked; it counts as begun from then on, whether it arrives or not. What was placed
//! and is not in the answer goes back at once. Tested in `tests/daemon/work.rs`.

use std::future::poll_fn;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use prost::Message as _;
use qtf_engine::{Loan, Principal, Reserve, Reserved, TaskRef};
use qtf_proto::limits::BATCH_ENTRIES_MAX;
use qtf_proto::refusal;
use qtf_proto::served::work_server::Work;
use qtf_proto::v1::{
    FinishRequest, FinishResponse, Outcome, OutcomeKind, RefusalReason, ReleaseRequest,
    ReserveRequest, ReserveResponse, ReservedTask, ResultDisposition, ResultVerdict, StopReason,
    TaskOutput, TaskResult, TouchRequest, TouchResponse,
};
use qtf_proto::wire::Ended;
use qtf_shm::histogram::Stage;
use qtf_shm::{Part, WorkerId};
use tonic::{Request, Response, Status};

use super::attempt_token::AttemptToken;
use super::peer::Peer;
use super::results::{Reporter, Results};
use super::scheduler::{Ordered, stop_reason};
use super::service::{peer_of, principal_of};
use super::{COPIED_PER_POLL_MAX, read, status};
use crate::core::callers::CallKey;
use crate::core::{Core, StopPlace, core_cell};

/// LIMIT: a call must be complete within 30 s.
const WAIT_MS_MAX: u32 = 20_000;
const LEASE_MS_MIN: u64 = 100;
const LEASE_MS_MAX: u64 = 24 * 3_600 * 1_000;
const LEASE_MS_UNSAID: u64 = 60_000;
/// How often a result is tried again that the journal has no room for, when nothing is written there.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// LIMIT: why an attempt is given back.
const REASON_BYTES_MAX: usize = 1_024;

/// The service.
#[derive(Debug, Clone, Copy)]
pub(crate) struct WorkEdge;

#[tonic::async_trait]
impl Work for WorkEdge {
    async fn reserve(
        &self,
        request: Request<ReserveRequest>,
    ) -> Result<Response<ReserveResponse>, Status> {
        let (peer, principal) = (peer_of(&request), principal_of(&request));
        let asked = Asked::of(request.into_inner(), peer, principal)?;
        let opened = core_cell::enter(|core| asked.open(core)).ok_or_else(status::gone)??;
        let call = match opened {
            Opened::Answered(response) => return Ok(Response::new(response)),
            Opened::Waits(call) => call,
        };
        // What is ready is placed at once.
        core_cell::poke();
        let answer = call.answer().await?;
        Ok(Response::new(answer))
    }

    async fn touch(
        &self,
        request: Request<TouchRequest>,
    ) -> Result<Response<TouchResponse>, Status> {
        let request = request.into_inner();
        status::check_batch(request.attempt_tokens.len())?;
        let lease_ns = lease_ns(request.lease_ms)?;
        let tokens = request
            .attempt_tokens
            .iter()
            .map(|text| AttemptToken::read(text))
            .collect::<Result<Vec<_>, _>>()?;
        let stops = core_cell::enter(|core| {
            let now = core.now();
            let touch = |token: &AttemptToken| match holder(core, *token) {
                Some(worker) => core
                    .engine
                    .touch_attempt(now, worker, token.asked, lease_ns)
                    .map_or(StopReason::Unspecified, stop_reason),
                None => StopReason::Stale,
            };
            tokens.iter().map(touch).map(i32::from).collect()
        });
        let stops = stops.ok_or_else(status::gone)?;
        Ok(Response::new(TouchResponse { stops }))
    }

    async fn finish(
        &self,
        request: Request<FinishRequest>,
    ) -> Result<Response<FinishResponse>, Status> {
        let principal = principal_of(&request);
        let request = request.into_inner();
        let output = request.output.unwrap_or_default();
        let result = TaskResult {
            task: None,
            outcome: request.outcome,
            output: output.encode_to_vec().into(),
            output_upload: request.output_upload,
            stderr_tail: request.stderr_tail,
        };
        finish(principal, &request.attempt_token, result).await
    }

    async fn release(
        &self,
        request: Request<ReleaseRequest>,
    ) -> Result<Response<FinishResponse>, Status> {
        let principal = principal_of(&request);
        let request = request.into_inner();
        if request.reason.len() > REASON_BYTES_MAX {
            return Err(status::invalid(format!(
                "reason of {} bytes: at most {REASON_BYTES_MAX} are kept, shorten it",
                request.reason.len()
            )));
        }
        let output = TaskOutput {
            message: request.reason,
            ..TaskOutput::default()
        };
        let result = TaskResult {
            task: None,
            outcome: Some(Outcome {
                kind: OutcomeKind::Again.into(),
                again_after_ms: request.delay_ms,
                ..Outcome::default()
            }),
            output: output.encode_to_vec().into(),
            ..TaskResult::default()
        };
        finish(principal, &request.attempt_token, result).await
    }
}

/// What a call of `Reserve` asks for.
struct Asked {
    request: ReserveRequest,
    peer: Option<Arc<Peer>>,
    principal: Principal,
    count: u32,
    lease_ns: u64,
}

/// What has come of it at once.
enum Opened {
    Answered(ReserveResponse),
    Waits(Call),
}

impl Asked {
    fn of(
        request: ReserveRequest,
        peer: Option<Arc<Peer>>,
        principal: Principal,
    ) -> Result<Self, Status> {
        let most = u32::try_from(BATCH_ENTRIES_MAX).unwrap_or(u32::MAX);
        if request.count > most {
            return Err(out_of_range("count", request.count.into(), 0..=most.into()));
        }
        if request.wait_ms > WAIT_MS_MAX {
            let range = 0..=WAIT_MS_MAX.into();
            return Err(out_of_range("wait_ms", request.wait_ms.into(), range));
        }
        Ok(Self {
            count: request.count.max(1),
            lease_ns: lease_ns(request.lease_ms)?,
            request,
            peer,
            principal,
        })
    }

    fn open(self, core: &mut Core) -> Result<Opened, Status> {
        if core.is_stopping() {
            return Err(status::gone());
        }
        core.callers.check(self.principal).map_err(|used_up| {
            let refused = status::refuse(RefusalReason::WorkersFull, used_up.to_string());
            refusal::status_of(qtf_proto::v1::Refusal {
                retry_after_ms: 1_000,
                ..refused
            })
        })?;
        let peer = self.peer.as_deref();
        // A script need not know where it runs.
        let node = peer
            .filter(|_| self.request.host.is_empty())
            .map(Peer::node);
        let reserve = Reserve {
            principal: self.principal,
            name: &self.request.name,
            host: node.as_deref().unwrap_or(&self.request.host),
            pid: peer.and_then(Peer::pid).unwrap_or(0),
            kinds: &self.request.kinds,
            count: self.count,
            request: self.request.request_id,
        };
        let now = core.now();
        let reserved = core
            .engine
            .reserve(now, &reserve)
            .map_err(|rejection| status::status_of(&rejection))?;
        if !reserved.waits() {
            return Ok(Opened::Answered(self.answer_again(core, &reserved)));
        }
        let address = peer.map_or_else(|| "unknown".to_owned(), ToString::to_string);
        if reserved.is_new {
            tracing::info!(worker = %reserved.id, name = self.request.name, address, "worker calls for the first time");
        }
        let key = core
            .callers
            .open(reserved.id, address, self.principal, self.count);
        Ok(Opened::Waits(Call {
            worker: reserved.id,
            token: reserved.token,
            key,
            loan: self.loan(),
            wait: Duration::from_millis(self.request.wait_ms.into()),
        }))
    }

    fn loan(&self) -> Loan {
        Loan {
            lease_ns: self.lease_ns,
            request: Some(self.request.request_id),
        }
    }

    /// The worker is to leave; or it is given once more what a call of the same number was given.
    fn answer_again(&self, core: &mut Core, reserved: &Reserved) -> ReserveResponse {
        let mut response = empty(reserved.id, reserved.token);
        response.drain = reserved.drains;
        let loan = self.loan();
        for &asked in &reserved.again {
            response
                .tasks
                .extend(lend(core, reserved.id, reserved.token, asked, loan));
        }
        response
    }
}

/// A call that waits. What it was given and is not answered with goes back when it is dropped.
struct Call {
    worker: WorkerId,
    token: u64,
    key: CallKey,
    loan: Loan,
    wait: Duration,
}

impl Call {
    /// Waits for the first task, and answers with all that are there then.
    async fn answer(self) -> Result<ReserveResponse, Status> {
        let mut stop_place = StopPlace::default();
        let ready = poll_fn(|cx| {
            if stop_place.is_stopping(cx) {
                return Poll::Ready(Err(status::gone()));
            }
            let waker = cx.waker();
            let polled = core_cell::attend(|core| core.callers.poll(self.worker, self.key, waker));
            match polled {
                Some(polled) => polled.map(Ok),
                None => Poll::Ready(Err(status::gone())),
            }
        });
        if let Ok(ready) = tokio::time::timeout(self.wait, ready).await {
            ready?;
        }
        core_cell::enter(|core| self.take(core)).ok_or_else(status::gone)
    }

    fn take(&self, core: &mut Core) -> ReserveResponse {
        let mut response = empty(self.worker, self.token);
        let mut copied = 0;
        while copied < COPIED_PER_POLL_MAX
            && let Some((task, attempt)) = core.callers.take(self.worker, self.key)
        {
            let asked = TaskRef {
                task,
                attempt: attempt.into(),
            };
            let lent = lend(core, self.worker, self.token, asked, self.loan);
            copied += lent.as_ref().map_or(0, |task| task.payload.len());
            response.tasks.extend(lent);
        }
        response.drain = core.callers.drains(self.worker, self.key);
        response
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        core_cell::enter(|core| core.end_call(self.worker, self.key));
    }
}

fn empty(worker: WorkerId, token: u64) -> ReserveResponse {
    ReserveResponse {
        tasks: Vec::new(),
        worker_id: worker.as_raw(),
        worker_token: token,
        drain: false,
    }
}

/// An attempt as its caller gets it; `None` if it is not the worker's any more, or is to stop.
fn lend(
    core: &mut Core,
    worker: WorkerId,
    secret: u64,
    asked: TaskRef,
    loan: Loan,
) -> Option<ReservedTask> {
    let attempt = u16::try_from(asked.attempt).ok()?;
    let order = Ordered::of(core, worker, (asked.task, attempt))?;
    let mut payload = vec![0; order.payload_in_message()];
    if !read::fill(core, Part::Payload, asked.task, &mut payload) {
        payload.clear();
    }
    let now = core.now();
    if !core.engine.lend_attempt(now, worker, asked, loan) {
        return None;
    }
    let token = AttemptToken {
        worker_id: worker.as_raw(),
        secret,
        asked,
    };
    let kind = order.kind.text();
    let assigned = order.assigned(&kind);
    Some(ReservedTask {
        attempt_token: token.text(),
        task: Some(assigned.task),
        kind: assigned.kind.to_owned(),
        payload: payload.into(),
        payload_bytes: assigned.payload_bytes,
        timeout_ms: assigned.timeout_ms,
        discard_result: assigned.discard_result,
        lease_ms: loan.lease_ns / 1_000_000,
    })
}

/// The worker that an attempt is of, if it is there still and the secret is its own.
fn holder(core: &Core, token: AttemptToken) -> Option<WorkerId> {
    core.engine.check_worker(token.worker_id, token.secret).ok()
}

async fn finish(
    principal: Principal,
    token: &str,
    mut result: TaskResult,
) -> Result<Response<FinishResponse>, Status> {
    let token = AttemptToken::read(token)?;
    result.task = Some(qtf_proto::v1::TaskRef {
        task_id: token.asked.task.as_raw(),
        attempt: token.asked.attempt,
    });
    let mut results = Results::new(principal);
    let who = core_cell::enter(|core| {
        let Some(worker) = holder(core, token) else {
            return Ok(None);
        };
        let who = Reporter {
            worker,
            token: token.secret,
        };
        let taken = results.take(core, who, (0, 1), &std::iter::once(Ended::from(&result)));
        core.count_entry(Stage::Result, 1);
        taken.map(|()| Some(who))
    });
    let Some(who) = who.ok_or_else(status::gone)?? else {
        return Ok(disposed(ResultDisposition::Stale));
    };
    let verdict = verdict(&mut results, who).await?;
    if verdict.disposition() == ResultDisposition::Refused {
        return Err(status::invalid(verdict.reason));
    }
    Ok(disposed(verdict.disposition()))
}

/// Waits for what is said of a result. One that there is no room for is tried again when there may be some.
async fn verdict(results: &mut Results, who: Reporter) -> Result<ResultVerdict, Status> {
    loop {
        let told = poll_fn(|cx| {
            if let Err(status) = results.progress(who, cx) {
                return Poll::Ready(Err(status));
            }
            match results.ready().each.pop() {
                Some(verdict) => Poll::Ready(Ok(verdict)),
                None => Poll::Pending,
            }
        });
        if let Ok(told) = tokio::time::timeout(LOOK_AGAIN, told).await {
            return told;
        }
    }
}

fn disposed(disposition: ResultDisposition) -> Response<FinishResponse> {
    Response::new(FinishResponse {
        disposition: disposition.into(),
    })
}

fn lease_ns(lease_ms: u64) -> Result<u64, Status> {
    match lease_ms {
        0 => Ok(LEASE_MS_UNSAID * 1_000_000),
        LEASE_MS_MIN..=LEASE_MS_MAX => Ok(lease_ms * 1_000_000),
        _ => {
            let range = LEASE_MS_MIN..=LEASE_MS_MAX;
            Err(out_of_range("lease_ms", lease_ms, range))
        }
    }
}

fn out_of_range(field: &str, value: u64, range: RangeInclusive<u64>) -> Status {
    let (least, most) = range.into_inner();
    status::invalid(format!(
        "{field} is {value}: it must be from {least} to {most}"
    ))
}
