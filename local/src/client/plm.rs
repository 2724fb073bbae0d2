//! Service `Plm` of a local client.

use core::pin::Pin;

use futures_util::Stream;
use qtf_proto::limits::BATCH_ENTRIES_MAX;
use qtf_proto::refusal;
use qtf_proto::v1::plm_server::Plm;
use qtf_proto::v1::{
    FetchOutputRequest, GetTaskRequest, ListTasksRequest, ListTasksResponse, OutputChunk, Refusal,
    RefusalReason, SubmitStreamRequest, SubmitStreamResponse, SubmitTaskRequest,
    SubmitTaskResponse, TaskInfo, TaskSelection, TaskState, TaskVerdict, TaskVerdicts,
    UpdateTasksRequest, UploadChunk, UploadReceipt, WatchRequest, WatchResponse,
};
use qtf_shm::lane::Command;
use qtf_shm::{ClientIndex, Part, Phase, TaskId};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::seat::Seat;
use super::session::ClientEdge;
use super::streams::{self, QUEUED_MAX};
use crate::{chunks, records, refusals};

/// LIMIT: tasks in one message of a list, each with at most 4 KiB of preview.
const LISTED_MAX: usize = 128;
/// LIMIT: slots looked at before others of the runtime have their turn.
const SLOTS_PER_TURN: u32 = 16 * 1024;

type Boxed<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;
type Answer<T> = Result<Response<T>, Status>;

/// A stream that a task of the runtime writes.
fn written_by<T: Send + 'static>(
    write: impl FnOnce(mpsc::Sender<Result<T, Status>>) -> Pin<Box<dyn Future<Output = ()> + Send>>,
) -> Response<Boxed<T>> {
    let (out, messages) = mpsc::channel(QUEUED_MAX);
    tokio::spawn(write(out));
    Response::new(Box::pin(ReceiverStream::new(messages)))
}

#[tonic::async_trait]
impl Plm for ClientEdge {
    type SubmitStreamStream = Boxed<SubmitStreamResponse>;
    type WatchStream = Boxed<WatchResponse>;
    type FetchOutputStream = Boxed<OutputChunk>;
    type ListTasksStream = Boxed<ListTasksResponse>;

    async fn submit_task(&self, request: Request<SubmitTaskRequest>) -> Answer<SubmitTaskResponse> {
        let request = request.into_inner();
        let seat = self.seat_of(request.session)?;
        let spec = request.task.unwrap_or_default();
        let verdict = streams::submit_one(self, &seat, &spec).await;
        match verdict.refusal {
            Some(refusal) => Err(refusal::status_of(refusal)),
            None => Ok(Response::new(SubmitTaskResponse {
                task_id: verdict.task_id,
                durability: verdict.durability,
                is_repeat: verdict.is_repeat,
                result_expired: verdict.result_expired,
            })),
        }
    }

    async fn submit_stream(
        &self,
        request: Request<Streaming<SubmitStreamRequest>>,
    ) -> Answer<Self::SubmitStreamStream> {
        let (edge, requests) = (self.clone(), request.into_inner());
        Ok(written_by(|out| {
            Box::pin(streams::submissions(edge, requests, out))
        }))
    }

    async fn upload_payload(
        &self,
        request: Request<Streaming<UploadChunk>>,
    ) -> Answer<UploadReceipt> {
        let limit = self.seat()?.attachment.payload_limit();
        let is_known = |session| self.seat_of(session).map(drop);
        let mut chunks = request.into_inner();
        let upload = self.uploads().take_in(&mut chunks, limit, is_known).await?;
        Ok(Response::new(UploadReceipt { upload }))
    }

    async fn watch(&self, request: Request<Streaming<WatchRequest>>) -> Answer<Self::WatchStream> {
        let (edge, requests) = (self.clone(), request.into_inner());
        Ok(written_by(|out| {
            Box::pin(streams::watch(edge, requests, out))
        }))
    }

    async fn fetch_output(
        &self,
        request: Request<FetchOutputRequest>,
    ) -> Answer<Self::FetchOutputStream> {
        let seat = self.seat()?;
        let task = refusals::task_id(request.into_inner().task_id).map_err(refusal::status_of)?;
        let record = records::task(&seat.attachment, task)
            .ok_or_else(|| refusal::status_of(refusals::unknown_task(task)))?;
        if !record.state.phase().is_final() {
            let phase = record.state.phase();
            let refused = refusals::wrong_state(task, phase, "it has not ended: wait for it");
            return Err(refusal::status_of(refused));
        }
        let total_bytes = record.result.len();
        Ok(written_by(move |out| {
            Box::pin(async move {
                let load = |offset, data: &mut [u8]| {
                    seat.attachment.load(task, Part::Result, offset, data)
                };
                chunks::send(task, total_bytes, load, out).await;
            })
        }))
    }

    async fn get_task(&self, request: Request<GetTaskRequest>) -> Answer<TaskInfo> {
        let seat = self.seat()?;
        let task = refusals::task_id(request.into_inner().task_id).map_err(refusal::status_of)?;
        let segment = &seat.attachment;
        let info = records::task(segment, task).and_then(|record| {
            let mut info = records::task_info(segment, &record, true)?;
            info.ends = records::attempt_ends(segment, &record);
            info.again_reason = records::again_reason(&record, &info.ends);
            Some(info)
        });
        info.map(Response::new)
            .ok_or_else(|| refusal::status_of(gone(&seat, task)))
    }

    async fn list_tasks(
        &self,
        request: Request<ListTasksRequest>,
    ) -> Answer<Self::ListTasksStream> {
        let request = request.into_inner();
        let seat = self.seat_of(request.session)?;
        Ok(written_by(move |out| {
            Box::pin(send_list(seat, request, out))
        }))
    }

    async fn cancel_tasks(&self, request: Request<TaskSelection>) -> Answer<TaskVerdicts> {
        self.change(request.into_inner(), Command::Cancel).await
    }

    async fn forget_tasks(&self, request: Request<TaskSelection>) -> Answer<TaskVerdicts> {
        self.change(request.into_inner(), Command::Forget).await
    }

    async fn update_tasks(&self, request: Request<UpdateTasksRequest>) -> Answer<TaskVerdicts> {
        let request = request.into_inner();
        let priority = u8::try_from(request.priority).map_err(|_| {
            let refused = refusals::range("priority", request.priority.into(), u8::MAX.into());
            refusal::status_of(refused)
        })?;
        let selection = TaskSelection {
            session: request.session,
            task_ids: request.task_ids,
            reason: String::new(),
        };
        self.change(selection, move |task| Command::Update { task, priority })
            .await
    }

    async fn revive_tasks(&self, _request: Request<TaskSelection>) -> Answer<TaskVerdicts> {
        Err(self.is_an_operators())
    }

    async fn hold_tasks(&self, _request: Request<TaskSelection>) -> Answer<TaskVerdicts> {
        Err(self.is_an_operators())
    }

    async fn release_tasks(&self, _request: Request<TaskSelection>) -> Answer<TaskVerdicts> {
        Err(self.is_an_operators())
    }
}

impl ClientEdge {
    /// A call that a daemon alone answers.
    pub(crate) fn is_an_operators(&self) -> Status {
        refusals::status(
            RefusalReason::Unsupported,
            format!("this needs the daemon's socket: --addr {}", self.socket()),
        )
    }

    /// Has the core change tasks; answers in the order of the ids.
    async fn change(
        &self,
        selection: TaskSelection,
        command: impl Fn(TaskId) -> Command + Send,
    ) -> Answer<TaskVerdicts> {
        let seat = self.seat_of(selection.session)?;
        refusals::check_batch(selection.task_ids.len())?;
        let mut asked = Vec::with_capacity(selection.task_ids.len().min(BATCH_ENTRIES_MAX));
        for raw in &selection.task_ids {
            asked.push(match refusals::task_id(*raw) {
                Ok(task) => self.ask(&seat, task, command(task)),
                Err(refusal) => Asked::Known(Err(refusal)),
            });
        }
        let mut verdicts = Vec::with_capacity(asked.len());
        for (raw, asked) in selection.task_ids.iter().zip(asked) {
            let answered = match asked {
                Asked::Known(answered) => answered,
                Asked::Core(answered) => match answered.await {
                    Ok(answered) => answered.map(|accepted| records::state_of(accepted.phase)),
                    Err(_) => Err(streams::no_answer()),
                },
            };
            verdicts.push(verdict(*raw, answered));
        }
        Ok(Response::new(TaskVerdicts { verdicts }))
    }

    fn ask(&self, seat: &Seat, task: TaskId, command: Command) -> Asked {
        let phase = records::task(&seat.attachment, task).map(|record| record.state.phase());
        if matches!(command, Command::Forget(_)) && seat.free_alone(task) {
            return Asked::Known(Ok(records::state_of(phase.unwrap_or(Phase::Free))));
        }
        if !seat.daemon_is_there() {
            return Asked::Known(Err(refusals::for_now(
                RefusalReason::Stopping,
                format!(
                    "task {task}: that is the daemon's to decide, and none of instance {} runs: start qtfd",
                    self.instance().name()
                ),
            )));
        }
        Asked::Core(seat.ask(command))
    }
}

enum Asked {
    Known(Result<TaskState, Refusal>),
    Core(tokio::sync::oneshot::Receiver<super::seat::Answered>),
}

fn verdict(task_id: u64, answered: Result<TaskState, Refusal>) -> TaskVerdict {
    match answered {
        Ok(state) => TaskVerdict {
            task_id,
            state: state.into(),
            refusal: None,
        },
        Err(refusal) => TaskVerdict {
            task_id,
            state: TaskState::Unspecified.into(),
            refusal: Some(refusal),
        },
    }
}

/// Why a task is not there.
fn gone(seat: &Seat, task: TaskId) -> Refusal {
    let segment = &seat.attachment;
    let now = segment
        .slot_of(task)
        .map(|slot| (slot, segment.state(slot)));
    match now.and_then(|(slot, state)| Some((state.phase(), state.id(slot)?))) {
        Some((phase, now)) if phase != Phase::Free && now != task => {
            refusals::stale_task(task, now)
        }
        _ => refusals::unknown_task(task),
    }
}

async fn send_list(
    seat: std::sync::Arc<Seat>,
    request: ListTasksRequest,
    out: mpsc::Sender<Result<ListTasksResponse, Status>>,
) {
    let segment = &seat.attachment;
    // As the daemon has it: what any process of this user has submitted, also one that is gone.
    let user = nix::unistd::geteuid().as_raw();
    let is_own = |client: u16| {
        let record = ClientIndex::new_checked(client, segment.geometry().clients())
            .map(|index| segment.client(index));
        record.is_some_and(|record| record.is_used() && record.uid() == user)
    };
    let mut left = match request.limit {
        0 => u64::MAX,
        limit => limit,
    };
    let end = segment.high_water();
    let mut tasks = Vec::new();
    let mut from = 0;
    while from < end && left > 0 {
        let to = from.saturating_add(SLOTS_PER_TURN).min(end);
        let slots: Vec<_> = segment.allocated_slots(from..to).collect();
        for slot in slots {
            let wanted = records::task_in(segment, slot).and_then(|record| {
                let state = records::state_of(record.state.phase());
                let is_of_a_state =
                    request.states.is_empty() || request.states.contains(&state.into());
                let is_mine = !request.mine || is_own(record.client);
                if !is_of_a_state || !is_mine {
                    return None;
                }
                let info = records::task_info(segment, &record, !request.without_preview)?;
                let array = request.array_id;
                (array == 0 || info.array_id == array || info.task_id == array).then_some(info)
            });
            let Some(info) = wanted else {
                continue;
            };
            tasks.push(info);
            left -= 1;
            if left == 0 {
                break;
            }
            if tasks.len() >= LISTED_MAX {
                let tasks = core::mem::take(&mut tasks);
                if out.send(Ok(ListTasksResponse { tasks })).await.is_err() {
                    return;
                }
            }
        }
        from = to;
        tokio::task::yield_now().await;
    }
    if !tasks.is_empty() {
        // Whoever does not read any more does not hear it.
        let _ = out.send(Ok(ListTasksResponse { tasks })).await;
    }
}
