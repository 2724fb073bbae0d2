//! Submissions, payloads that are uploaded, and calls about tasks.

use core::time::Duration;

use prost::Message as _;
use qtf_fake_daemon::{Answers, chunks, refusal};
use qtf_proto::refusal::status_of;
use qtf_proto::v1::plm_server::Plm;
use qtf_proto::v1::{
    FetchOutputRequest, GetTaskRequest, ListTasksRequest, ListTasksResponse, OutputChunk,
    RefusalReason, SubmitStreamRequest, SubmitStreamResponse, SubmitTaskRequest,
    SubmitTaskResponse, SubmitVerdict, TaskInfo, TaskSelection, TaskState, TaskVerdict,
    TaskVerdicts, UpdateTasksRequest, UploadChunk, UploadReceipt, WatchRequest, WatchResponse,
};
use tokio::sync::mpsc;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::Service;
impl Service {
    fn with_one_more_upload(&self) {
        let mut world = self.world();
        world.uploads_under_way += 1;
        world.uploads_at_once = world.uploads_at_once.max(world.uploads_under_way);
    }
}

impl Service {
    fn verdicts(
        &self,
        session: u64,
        ids: Vec<u64>,
        state: TaskState,
    ) -> Result<Response<TaskVerdicts>, Status> {
        let mut world = self.world();
        world.check_session(session).map_err(status_of)?;
        let verdicts = ids.into_iter().map(|task_id| {
            let mut verdict = TaskVerdict {
                task_id,
                ..TaskVerdict::default()
            };
            if world.tasks.contains_key(&task_id) {
                verdict.set_state(state);
                if state == TaskState::Done {
                    world.acknowledged.push(task_id);
                    world.tasks.remove(&task_id);
                }
            } else {
                verdict.refusal = Some(refusal(RefusalReason::UnknownTask, "no such task", 0));
            }
            verdict
        });
        let verdicts = verdicts.collect();
        if world.loses_answer() {
            return Err(lost());
        }
        Ok(Response::new(TaskVerdicts { verdicts }))
    }
}

fn lost() -> Status {
    Status::unavailable("the connection broke")
}

#[tonic::async_trait]
impl Plm for Service {
    type SubmitStreamStream = Answers<SubmitStreamResponse>;
    type WatchStream = Answers<WatchResponse>;
    type FetchOutputStream = Answers<OutputChunk>;
    type ListTasksStream = Answers<ListTasksResponse>;

    async fn submit_task(
        &self,
        request: Request<SubmitTaskRequest>,
    ) -> Result<Response<SubmitTaskResponse>, Status> {
        let request = request.into_inner();
        let mut world = self.world();
        world.check_session(request.session).map_err(status_of)?;
        world.take_back(&request.received_keys);
        let verdict = world.verdict(request.task.unwrap());
        if world.loses_answer() {
            return Err(lost());
        }
        if let Some(refusal) = verdict.refusal {
            return Err(status_of(refusal));
        }
        Ok(Response::new(SubmitTaskResponse {
            task_id: verdict.task_id,
            durability: verdict.durability,
            is_repeat: verdict.is_repeat,
            result_expired: verdict.result_expired,
        }))
    }

    async fn submit_stream(
        &self,
        request: Request<Streaming<SubmitStreamRequest>>,
    ) -> Result<Response<Self::SubmitStreamStream>, Status> {
        let service = self.clone();
        let answers = request.into_inner().map(move |request| {
            let request = request?;
            let mut world = service.world();
            world.check_session(request.session).map_err(status_of)?;
            world.entries_seen += request.tasks.len();
            world.take_back(&request.received_keys);
            if request.batch == world.break_before_batch {
                return Err(lost());
            }
            let mut verdicts = Vec::new();
            for (place, spec) in request.tasks.into_iter().enumerate() {
                if world.refuse_first_of_batch && place == 0 {
                    let full = refusal(RefusalReason::TasksFull, "no room", 60_000);
                    verdicts.push(SubmitVerdict {
                        refusal: Some(full),
                        ..SubmitVerdict::default()
                    });
                    continue;
                }
                verdicts.push(world.verdict(spec));
                match &mut world.break_after_entries {
                    Some(0) => {
                        world.break_after_entries = None;
                        return Err(lost());
                    }
                    Some(left) => *left -= 1,
                    None => {}
                }
            }
            let batch = request.batch;
            Ok(SubmitStreamResponse {
                batch,
                verdicts,
                ..SubmitStreamResponse::default()
            })
        });
        let service = self.clone();
        let answers = answers.then(move |answer| {
            let holds = service.world().hold_answers;
            async move {
                if holds {
                    core::future::pending::<()>().await;
                }
                answer
            }
        });
        let service = self.clone();
        let answers = futures_util::StreamExt::flat_map(answers, move |answer| {
            let times = if service.world().answers_twice { 2 } else { 1 };
            tokio_stream::iter(vec![answer; times])
        });
        Ok(Response::new(Box::pin(answers)))
    }

    async fn upload_payload(
        &self,
        request: Request<Streaming<UploadChunk>>,
    ) -> Result<Response<UploadReceipt>, Status> {
        let mut chunks = request.into_inner();
        let mut data = Vec::new();
        self.with_one_more_upload();
        while let Some(chunk) = chunks.message().await? {
            if data.is_empty() {
                self.world()
                    .check_session(chunk.session)
                    .map_err(status_of)?;
            }
            data.extend_from_slice(&chunk.data);
            while self.world().hold_uploads {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        }
        let mut world = self.world();
        world.uploads_under_way -= 1;
        world.uploads_seen += 1;
        let upload = world.uploads_seen;
        world.uploads.insert(upload, data.into());
        Ok(Response::new(UploadReceipt { upload }))
    }

    async fn watch(
        &self,
        request: Request<Streaming<WatchRequest>>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let (answers, stream) = mpsc::channel(4);
        self.world().watches_opened += 1;
        tokio::spawn(self.clone().watch_all(request.into_inner(), answers));
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }

    async fn fetch_output(
        &self,
        request: Request<FetchOutputRequest>,
    ) -> Result<Response<Self::FetchOutputStream>, Status> {
        let id = request.into_inner().task_id;
        let mut world = self.world();
        if let Some(left) = world.fetches_to_fail.checked_sub(1) {
            world.fetches_to_fail = left;
            return Err(Status::unavailable("the daemon was killed"));
        }
        let output = world.tasks.get(&id).and_then(|task| task.end.clone());
        let output = output.ok_or_else(|| Status::not_found("no such task"))?;
        Ok(Response::new(chunks(&output.encode_to_vec())))
    }

    async fn get_task(
        &self,
        request: Request<GetTaskRequest>,
    ) -> Result<Response<TaskInfo>, Status> {
        if self.world().is_mute {
            core::future::pending::<()>().await;
        }
        let task_id = request.into_inner().task_id;
        if !self.world().tasks.contains_key(&task_id) {
            let message = "no such task";
            return Err(status_of(refusal(RefusalReason::UnknownTask, message, 0)));
        }
        Ok(Response::new(TaskInfo {
            task_id,
            ..TaskInfo::default()
        }))
    }

    async fn list_tasks(
        &self,
        request: Request<ListTasksRequest>,
    ) -> Result<Response<Self::ListTasksStream>, Status> {
        let limit = usize::try_from(request.into_inner().limit).unwrap();
        let ids: Vec<u64> = self.world().tasks.keys().copied().take(limit).collect();
        let batches: Vec<Result<ListTasksResponse, Status>> = ids
            .chunks(3)
            .map(|ids| {
                let tasks = ids.iter().map(|id| TaskInfo {
                    task_id: *id,
                    ..TaskInfo::default()
                });
                Ok(ListTasksResponse {
                    tasks: tasks.collect(),
                })
            })
            .collect();
        Ok(Response::new(Box::pin(tokio_stream::iter(batches))))
    }

    async fn cancel_tasks(
        &self,
        request: Request<TaskSelection>,
    ) -> Result<Response<TaskVerdicts>, Status> {
        let request = request.into_inner();
        self.verdicts(request.session, request.task_ids, TaskState::Cancelled)
    }

    async fn forget_tasks(
        &self,
        request: Request<TaskSelection>,
    ) -> Result<Response<TaskVerdicts>, Status> {
        let request = request.into_inner();
        self.verdicts(request.session, request.task_ids, TaskState::Done)
    }

    async fn update_tasks(
        &self,
        request: Request<UpdateTasksRequest>,
    ) -> Result<Response<TaskVerdicts>, Status> {
        let request = request.into_inner();
        self.verdicts(request.session, request.task_ids, TaskState::Ready)
    }

    async fn hold_tasks(
        &self,
        request: Request<TaskSelection>,
    ) -> Result<Response<TaskVerdicts>, Status> {
        let request = request.into_inner();
        self.verdicts(request.session, request.task_ids, TaskState::Held)
    }

    async fn release_tasks(
        &self,
        request: Request<TaskSelection>,
    ) -> Result<Response<TaskVerdicts>, Status> {
        let request = request.into_inner();
        self.verdicts(request.session, request.task_ids, TaskState::Ready)
    }

    async fn revive_tasks(
        &self,
        request: Request<TaskSelection>,
    ) -> Result<Response<TaskVerdicts>, Status> {
        let request = request.into_inner();
        self.verdicts(request.session, request.task_ids, TaskState::Ready)
    }
}
