//! The two streams of a client: submissions in, verdicts and ends out; ids in, ends out.
//!
//! Each is served by a task of the client's runtime, which ends with the stream. What is sent waits for its reader, so a client that does
//! not read holds up its own stream only; ends wait as ids.

use std::sync::Arc;

use qtf_proto::v1::{
    Refusal, RefusalReason, SubmitStreamRequest, SubmitStreamResponse, SubmitVerdict, TaskEnd,
    TaskSpec, WatchRequest, WatchResponse,
};
use qtf_shm::lane::{ACKNOWLEDGED_MAX, Command};
use qtf_shm::{TaskId, TaskOptions};
use tokio::sync::mpsc;
use tonic::{Status, Streaming};

use super::ends::{ENDS_MAX, EndsQueue, Left};
use super::seat::Seat;
use super::session::ClientEdge;
use super::submit::{self, Taken};
use crate::refusals;

/// LIMIT: messages that wait for their reader.
pub(crate) const QUEUED_MAX: usize = 8;

/// What is answered when a command finds no daemon any more.
pub(crate) fn no_answer() -> Refusal {
    refusals::for_now(
        RefusalReason::Stopping,
        "the daemon did not answer: it is not running, or about to go",
    )
}

/// Ends that a stream tells, and what cannot be watched.
struct Telling {
    seat: Arc<Seat>,
    queue: Arc<EndsQueue>,
    refused: Vec<TaskEnd>,
    with_output: bool,
    /// Ends that are still to come.
    left: usize,
}

impl Drop for Telling {
    fn drop(&mut self) {
        self.seat.forget_queue(&self.queue);
    }
}

impl Telling {
    fn new(seat: Arc<Seat>) -> Self {
        Self {
            seat,
            queue: Arc::default(),
            refused: Vec::new(),
            with_output: false,
            left: 0,
        }
    }

    fn watch(&mut self, raw: u64, is_told: bool) {
        let watched =
            refusals::task_id(raw).and_then(|task| self.seat.watch(task, &self.queue, is_told));
        match watched {
            Ok(()) => self.left += 1,
            Err(refusal) => self.refused.push(TaskEnd {
                task_id: raw,
                refusal: Some(refusal),
                ..TaskEnd::default()
            }),
        }
    }

    fn is_over(&self) -> bool {
        self.left == 0 && self.refused.is_empty()
    }

    async fn some(&self) -> Result<(), Left> {
        if self.refused.is_empty() {
            self.queue.some().await?;
        }
        Ok(())
    }

    fn next_ends(&mut self) -> Vec<TaskEnd> {
        if self.refused.is_empty() {
            let ends = self
                .queue
                .next_ends(&self.seat.attachment, self.with_output);
            self.left = self.left.saturating_sub(ends.len());
            return ends;
        }
        let count = self.refused.len().min(ENDS_MAX);
        self.refused.drain(..count).collect()
    }
}

/// Serves a stream of submissions.
pub(crate) async fn submissions(
    edge: ClientEdge,
    mut requests: Streaming<SubmitStreamRequest>,
    out: mpsc::Sender<Result<SubmitStreamResponse, Status>>,
) {
    let mut stream = Submissions {
        edge,
        telling: None,
        first: None,
    };
    let mut is_open = true;
    while is_open || !stream.is_over() {
        let next = tokio::select! {
            request = requests.message(), if is_open => match request {
                Ok(Some(request)) => stream.take_in(request).await,
                Ok(None) => {
                    is_open = false;
                    continue;
                }
                Err(status) => Err(status),
            },
            ends = ends_of(&mut stream.telling) => ends.map(|ends| SubmitStreamResponse {
                ends,
                ends_only: true,
                ..SubmitStreamResponse::default()
            }),
            () = out.closed() => return,
        };
        let is_over = next.is_err();
        if out.send(next).await.is_err() || is_over {
            return;
        }
    }
}

struct Submissions {
    edge: ClientEdge,
    /// Once a batch has asked for its ends.
    telling: Option<Telling>,
    /// First member of the stream's array.
    first: Option<TaskId>,
}

impl Submissions {
    fn is_over(&self) -> bool {
        self.telling.as_ref().is_none_or(Telling::is_over)
    }

    async fn take_in(
        &mut self,
        request: SubmitStreamRequest,
    ) -> Result<SubmitStreamResponse, Status> {
        let seat = self.edge.seat_of(request.session)?;
        refusals::check_batch(request.tasks.len())?;
        refusals::check_batch(request.acknowledge.len())?;
        acknowledge(&seat, &request.acknowledge);
        let mut verdicts = Vec::with_capacity(request.tasks.len());
        let mut asked = Vec::new();
        let mut told = Vec::new();
        for mut spec in request.tasks {
            spec.array_member |= request.as_array;
            let taken = submit::member_of(&spec, self.first)
                .and_then(|member| seat.submit(self.edge.uploads(), &spec, member));
            match taken {
                Ok(Taken::In(verdict, is_told)) => {
                    self.note_first(&spec, verdict.task_id);
                    told.push(is_told);
                    verdicts.push(verdict);
                }
                Ok(Taken::Asked {
                    task,
                    answered,
                    durability,
                }) => {
                    self.note_first(&spec, task.as_raw());
                    asked.push((verdicts.len(), answered, durability));
                    told.push(false);
                    verdicts.push(SubmitVerdict::default());
                }
                Err(refusal) => {
                    told.push(false);
                    verdicts.push(submit::refused(refusal));
                }
            }
        }
        for (place, answered, durability) in asked {
            let answered = answered.await.unwrap_or_else(|_| Err(no_answer()));
            if let Some(verdict) = verdicts.get_mut(place) {
                *verdict = submit::verdict(answered, durability);
            }
        }
        if request.watch {
            let telling = self.telling.get_or_insert_with(|| Telling::new(seat));
            telling.with_output |= request.with_output;
            for (verdict, is_told) in verdicts.iter().zip(told) {
                if verdict.refusal.is_none() {
                    telling.watch(verdict.task_id, is_told);
                }
            }
        }
        Ok(SubmitStreamResponse {
            batch: request.batch,
            verdicts,
            ends: Vec::new(),
            ends_only: false,
            watched: request.watch,
        })
    }

    fn note_first(&mut self, spec: &TaskSpec, raw: u64) {
        if spec.array_member && spec.array_id == 0 {
            self.first = self.first.or_else(|| TaskId::from_raw(raw));
        }
    }
}

/// One submission by itself.
pub(crate) async fn submit_one(edge: &ClientEdge, seat: &Seat, spec: &TaskSpec) -> SubmitVerdict {
    let taken =
        submit::member_of(spec, None).and_then(|member| seat.submit(edge.uploads(), spec, member));
    match taken {
        Ok(Taken::In(verdict, _)) => verdict,
        Ok(Taken::Asked {
            answered,
            durability,
            ..
        }) => {
            let answered = answered.await.unwrap_or_else(|_| Err(no_answer()));
            submit::verdict(answered, durability)
        }
        Err(refusal) => submit::refused(refusal),
    }
}

/// Serves a watch.
pub(crate) async fn watch(
    edge: ClientEdge,
    mut requests: Streaming<WatchRequest>,
    out: mpsc::Sender<Result<WatchResponse, Status>>,
) {
    let mut telling: Option<Telling> = None;
    let mut is_open = true;
    while is_open || telling.as_ref().is_some_and(|telling| !telling.is_over()) {
        let next = tokio::select! {
            request = requests.message(), if is_open => match request {
                Ok(Some(request)) => match name(&edge, &mut telling, &request) {
                    Ok(()) => continue,
                    Err(status) => Err(status),
                },
                Ok(None) => {
                    is_open = false;
                    continue;
                }
                Err(status) => Err(status),
            },
            ends = ends_of(&mut telling) => ends.map(|ends| WatchResponse { ends }),
            () = out.closed() => return,
        };
        let is_over = next.is_err();
        if out.send(next).await.is_err() || is_over {
            return;
        }
    }
}

/// Takes in what a watch names.
fn name(
    edge: &ClientEdge,
    telling: &mut Option<Telling>,
    request: &WatchRequest,
) -> Result<(), Status> {
    let seat = edge.seat_of(request.session)?;
    refusals::check_batch(request.watch.len())?;
    refusals::check_batch(request.acknowledge.len())?;
    acknowledge(&seat, &request.acknowledge);
    let telling = telling.get_or_insert_with(|| Telling::new(seat));
    telling.with_output = request.with_output;
    for raw in &request.watch {
        let is_told = TaskId::from_raw(*raw).is_some_and(|task| is_told(&telling.seat, task));
        telling.watch(*raw, is_told);
    }
    Ok(())
}

/// The end of a task comes to this client's lane by itself.
fn is_told(seat: &Seat, task: TaskId) -> bool {
    let Some((slot, client)) = seat.attachment.slot_of(task).zip(seat.client()) else {
        return false;
    };
    let record = seat.attachment.task(slot);
    client.has_ends
        && record.options().has(TaskOptions::TELLS_LANE)
        && record.client() == client.index
        && record.state().is_of(task)
}

async fn ends_of(telling: &mut Option<Telling>) -> Result<Vec<TaskEnd>, Status> {
    match telling {
        Some(telling) => match telling.some().await {
            Ok(()) => Ok(telling.next_ends()),
            // As a connection that breaks: the stream is opened anew, and asks in the segment of now.
            Err(Left) => Err(Status::unavailable("the instance has another segment now")),
        },
        None => core::future::pending().await,
    }
}

/// Results that were received: their slots may be freed.
pub(crate) fn acknowledge(seat: &Seat, tasks: &[u64]) {
    let tasks = tasks.iter().filter_map(|raw| TaskId::from_raw(*raw));
    let asked: Vec<TaskId> = tasks.filter(|task| !seat.free_alone(*task)).collect();
    if !asked.is_empty() {
        seat.tell(asked.chunks(ACKNOWLEDGED_MAX).map(|some| {
            let mut tasks = [None; ACKNOWLEDGED_MAX];
            for (place, task) in tasks.iter_mut().zip(some) {
                *place = Some(*task);
            }
            Command::Acknowledge(tasks)
        }));
    }
}
