//! Service `Plm`: what clients say.
//!
//! Tested in `tests/daemon/submit.rs`, `tests/daemon/holds.rs`, `tests/daemon/watch.rs`, `tests/daemon/listing.rs`, `tests/daemon/transfer.rs`.

use std::future::poll_fn;

use qtf_engine::{Accepted, Answer, Lsn, Principal, Rejection};
use qtf_proto::refusal;
use qtf_proto::served::plm_server::Plm;
use qtf_proto::v1::{
    FetchOutputRequest, GetTaskRequest, ListTasksRequest, Refusal, RefusalReason,
    SubmitTaskRequest, SubmitTaskResponse, TaskInfo, TaskSelection, TaskState, TaskVerdict,
    TaskVerdicts, UpdateTasksRequest, UploadChunk, UploadReceipt, WatchRequest,
};
use qtf_proto::wire::{Spec, SubmitBatch};
use qtf_shm::histogram::Stage;
use qtf_shm::{Now, Part, TaskId};
use tonic::{Request, Response, Status, Streaming};

use super::listing::ListStream;
use super::previews::Previews;
use super::service::principal_of;
use super::submit::{Submitter, answer_of, array_of, release_keys, submit_one};
use super::submit_stream::SubmitStream;
use super::transfer::{self, BlobStream};
use super::watch::WatchStream;
use super::{read, session_client, status};
use crate::core::stability::stable;
use crate::core::{Core, core_cell};

/// LIMIT: states that a list may name; there are fewer.
const STATES_MAX: usize = 32;

/// The service.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PlmEdge;

#[tonic::async_trait]
impl Plm for PlmEdge {
    type SubmitStreamStream = SubmitStream;
    type WatchStream = WatchStream;
    type FetchOutputStream = BlobStream;
    type ListTasksStream = ListStream;

    async fn submit_task(
        &self,
        request: Request<SubmitTaskRequest>,
    ) -> Result<Response<SubmitTaskResponse>, Status> {
        let principal = principal_of(&request);
        let request = request.into_inner();
        status::check_batch(request.received_keys.len())?;
        let accepted = core_cell::enter(|core| submit_task(core, &request, principal))
            .ok_or_else(status::gone)?;
        let accepted = accepted.map_err(refusal::status_of)?;
        stable(accepted.durable).await?;
        Ok(Response::new(answer_of(&accepted)))
    }

    async fn submit_stream(
        &self,
        request: Request<Streaming<SubmitBatch>>,
    ) -> Result<Response<SubmitStream>, Status> {
        let principal = principal_of(&request);
        let requests = request.into_inner();
        Ok(Response::new(SubmitStream::new(requests, principal)))
    }

    async fn upload_payload(
        &self,
        request: Request<Streaming<UploadChunk>>,
    ) -> Result<Response<UploadReceipt>, Status> {
        let uploader = transfer::Uploader::Client(principal_of(&request));
        let receipt = transfer::receive(request.into_inner(), uploader).await?;
        Ok(Response::new(receipt))
    }

    async fn watch(
        &self,
        request: Request<Streaming<WatchRequest>>,
    ) -> Result<Response<WatchStream>, Status> {
        let principal = principal_of(&request);
        let key = core_cell::attend(|core| core.watches.open(principal));
        let key = key.ok_or_else(status::gone)?;
        Ok(Response::new(WatchStream::new(request.into_inner(), key)))
    }

    async fn fetch_output(
        &self,
        request: Request<FetchOutputRequest>,
    ) -> Result<Response<BlobStream>, Status> {
        let raw = request.into_inner().task_id;
        let stream = core_cell::look(|core| fetch_output(core, raw)).ok_or_else(status::gone)?;
        Ok(Response::new(stream.map_err(refusal::status_of)?))
    }

    async fn get_task(
        &self,
        request: Request<GetTaskRequest>,
    ) -> Result<Response<TaskInfo>, Status> {
        let raw = request.into_inner().task_id;
        let found = core_cell::look(|core| get_task(core, raw)).ok_or_else(status::gone)?;
        let (mut info, mut previews) = found.map_err(refusal::status_of)?;
        poll_fn(|cx| previews.poll_fill(cx, std::slice::from_mut(&mut info))).await;
        Ok(Response::new(info))
    }

    async fn list_tasks(
        &self,
        request: Request<ListTasksRequest>,
    ) -> Result<Response<ListStream>, Status> {
        let principal = principal_of(&request);
        let request = request.into_inner();
        if request.states.len() > STATES_MAX {
            return Err(status::invalid(format!(
                "{} states: at most {STATES_MAX} are taken, name each once or none for all",
                request.states.len()
            )));
        }
        let whose = request.mine.then_some(principal);
        Ok(Response::new(ListStream::new(request, whose)))
    }

    async fn cancel_tasks(
        &self,
        request: Request<TaskSelection>,
    ) -> Result<Response<TaskVerdicts>, Status> {
        let request = request.into_inner();
        if !request.reason.is_empty() {
            let reason = shortened(&request.reason);
            tracing::info!(tasks = request.task_ids.len(), reason, "cancellation");
        }
        verdicts(&request.task_ids, |core, now, task| {
            core.engine.cancel(now, task)
        })
        .await
    }

    async fn forget_tasks(
        &self,
        request: Request<TaskSelection>,
    ) -> Result<Response<TaskVerdicts>, Status> {
        let request = request.into_inner();
        verdicts(&request.task_ids, |core, now, task| {
            core.engine.forget(now, task)
        })
        .await
    }

    async fn update_tasks(
        &self,
        request: Request<UpdateTasksRequest>,
    ) -> Result<Response<TaskVerdicts>, Status> {
        let request = request.into_inner();
        let priority = request.priority;
        verdicts(&request.task_ids, |core, now, task| {
            core.engine.update_priority(now, task, priority)
        })
        .await
    }

    async fn revive_tasks(
        &self,
        request: Request<TaskSelection>,
    ) -> Result<Response<TaskVerdicts>, Status> {
        let request = request.into_inner();
        verdicts(&request.task_ids, |core, now, task| {
            core.engine.revive(now, task)
        })
        .await
    }

    async fn hold_tasks(
        &self,
        request: Request<TaskSelection>,
    ) -> Result<Response<TaskVerdicts>, Status> {
        let who = principal_of(&request);
        let request = request.into_inner();
        let mut changed = 0;
        let answer = verdicts(&request.task_ids, |core, now, task| {
            let before = core.engine.check(task)?.phase();
            let answer = core.engine.hold(now, task)?;
            changed += usize::from(answer.phase != before);
            Ok(answer)
        });
        let answer = answer.await;
        log_hold(who, &request, changed, "tasks are held");
        answer
    }

    async fn release_tasks(
        &self,
        request: Request<TaskSelection>,
    ) -> Result<Response<TaskVerdicts>, Status> {
        let who = principal_of(&request);
        let request = request.into_inner();
        let mut changed = 0;
        let answer = verdicts(&request.task_ids, |core, now, task| {
            let before = core.engine.check(task)?.phase();
            let answer = core.engine.release(now, task)?;
            changed += usize::from(answer.phase != before);
            Ok(answer)
        });
        let answer = answer.await;
        log_hold(who, &request, changed, "held tasks are released");
        answer
    }
}

/// LIMIT: characters of a reason in the log.
const REASON_CHARS_MAX: usize = 200;

fn shortened(reason: &str) -> String {
    reason.chars().take(REASON_CHARS_MAX).collect()
}

/// Who holds tasks or releases them stands nowhere else. Of those that were asked for, the ones that were not so before count.
fn log_hold(who: Principal, request: &TaskSelection, tasks: usize, what: &'static str) {
    if tasks > 0 {
        let reason = shortened(&request.reason);
        tracing::info!(tasks, by = %who, reason, "{what}");
    }
}

fn submit_task(
    core: &mut Core,
    request: &SubmitTaskRequest,
    principal: Principal,
) -> Result<Accepted, Refusal> {
    release_keys(core, request.received_keys.iter().map(|key| &**key));
    let spec = request.task.as_ref().map(Spec::from).ok_or_else(|| {
        status::refuse(
            RefusalReason::InvalidArgument,
            "task is missing in the request",
        )
    })?;
    let client = session_client(core, request.session, principal)
        .map_err(|rejection| status::refusal_of(&rejection))?;
    let array = array_of(&spec, None)?;
    let session = request.session;
    let accepted = submit_one(core, Submitter { client, session }, &spec, array);
    core.count_entry(Stage::Admit, 1);
    accepted
}

/// Does the same to each task of a selection, and answers when all of it is stable.
async fn verdicts(
    tasks: &[u64],
    act: impl FnMut(&mut Core, Now, TaskId) -> Result<Answer, Rejection> + Send,
) -> Result<Response<TaskVerdicts>, Status> {
    let (verdicts, durable) = act_on_each(tasks, act)?;
    stable(durable).await?;
    Ok(Response::new(TaskVerdicts { verdicts }))
}

fn act_on_each(
    tasks: &[u64],
    mut act: impl FnMut(&mut Core, Now, TaskId) -> Result<Answer, Rejection> + Send,
) -> Result<(Vec<TaskVerdict>, Option<Lsn>), Status> {
    status::check_batch(tasks.len())?;
    let mut durable = None;
    let verdicts = core_cell::enter(|core| {
        let now = core.now();
        let mut one = |raw: u64| match status::task_id(raw) {
            Err(refusal) => (TaskState::Unspecified, Some(refusal)),
            Ok(task) => match act(core, now, task) {
                Ok(answer) => {
                    durable = durable.max(answer.durable);
                    (read::state_of(answer.phase), None)
                }
                Err(rejection) => {
                    let phase = core
                        .engine
                        .check(task)
                        .map(|state| read::state_of(state.phase()));
                    (
                        phase.unwrap_or(TaskState::Unspecified),
                        Some(status::refusal_of(&rejection)),
                    )
                }
            },
        };
        tasks
            .iter()
            .map(|raw| {
                let (state, refusal) = one(*raw);
                TaskVerdict {
                    task_id: *raw,
                    state: state.into(),
                    refusal,
                }
            })
            .collect()
    });
    Ok((verdicts.ok_or_else(status::gone)?, durable))
}

fn fetch_output(core: &Core, raw: u64) -> Result<BlobStream, Refusal> {
    let task = status::task_id(raw)?;
    let state = core
        .engine
        .check(task)
        .map_err(|rejection| status::refusal_of(&rejection))?;
    if !state.phase().is_final() {
        return Err(status::refuse(
            RefusalReason::WrongState,
            format!(
                "task {task} is {}: it has no output before its end",
                state.phase()
            ),
        ));
    }
    let record = read::task(core, task).ok_or_else(|| {
        status::refuse(
            RefusalReason::UnknownTask,
            format!("task {task} was freed just now"),
        )
    })?;
    Ok(BlobStream::new(Part::Result, task, record.result.len()))
}

fn get_task(core: &Core, raw: u64) -> Result<(TaskInfo, Previews), Refusal> {
    let task = status::task_id(raw)?;
    core.engine
        .check(task)
        .map_err(|rejection| status::refusal_of(&rejection))?;
    read::task(core, task)
        .and_then(|record| {
            let mut previews = Previews::default();
            if let Some((task, file)) = read::payload_in_file(&record) {
                previews.want(0, task, file);
            }
            let info = read::task_info(core, &record, true)?;
            let ends = read::attempt_ends(core, &record);
            let info = TaskInfo {
                again_reason: read::again_reason(&record, &ends),
                ends,
                ..info
            };
            Some((info, previews))
        })
        .ok_or_else(|| {
            status::refuse(
                RefusalReason::UnknownTask,
                format!("task {task} was freed just now"),
            )
        })
}
