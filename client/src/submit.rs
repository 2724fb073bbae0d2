//! Submission, one by one and in streams.
//!
//! Invariants of a stream: answers come in the order of the tasks, one each; what is taken from the
//! source and not yet answered is bounded; an entry refused for want of room is sent again after the
//! daemon's hint, and nothing new is sent before it. An entry whose answer was lost with the connection
//! is never sent again, since it may have been accepted.

use core::pin::Pin;
use core::task::{Context, Poll};
use core::time::Duration;
use std::collections::{BTreeMap, VecDeque};

use futures_util::stream::{Fuse, ReadyChunks};
use futures_util::{Stream, StreamExt as _, stream};
use qtf_proto::v1::{
    SubmitStreamRequest, SubmitStreamResponse, SubmitTaskRequest, SubmitVerdict, TaskSpec,
};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use crate::TaskId;
use crate::client::Client;
use crate::error::{CallError, Refusal, SubmitError};
use crate::session::Session;
use crate::task::Task;

const BATCH_ENTRIES: usize = 512;
const BATCH_BYTES_MAX: usize = 1 << 20;
const BATCHES_IN_FLIGHT_MAX: usize = 8;
const UNANSWERED_MAX: usize = BATCH_ENTRIES * BATCHES_IN_FLIGHT_MAX;
const RETRY_MIN: Duration = Duration::from_millis(5);
const RETRY_MAX: Duration = Duration::from_secs(5);
const RENEWALS_MAX: u32 = 3;

impl Client {
    /// Submits one task and gives its id; it is accepted as durably as was asked.
    ///
    /// # Errors
    /// See [`SubmitError`].
    pub async fn submit(&self, task: Task) -> Result<TaskId, SubmitError> {
        let spec = task.into_spec();
        let session = self.session().await?;
        let answer = match self.submit_once(&spec, &session).await {
            Err(error) if error.is_unknown_session() => {
                let session = self.renewed_session(&session).await?;
                self.submit_once(&spec, &session).await
            }
            answer => answer,
        };
        Ok(answer?)
    }

    async fn submit_once(&self, spec: &TaskSpec, session: &Session) -> Result<TaskId, CallError> {
        let request = SubmitTaskRequest {
            session: session.token,
            task: Some(self.sendable(spec, session).await?),
            ..SubmitTaskRequest::default()
        };
        let mut plm = self.plm();
        let answer = self.timed(plm.submit_task(request)).await?;
        task_id(answer.task_id)
    }

    /// Submits many tasks; the answers come in the order of the tasks. Submission goes on while the
    /// answers are read, with a bounded number unanswered.
    pub fn submit_many<I>(&self, tasks: I) -> Submissions
    where
        I: IntoIterator<Item = Task>,
        I::IntoIter: Send + 'static,
    {
        self.submit_stream(stream::iter(tasks))
    }

    /// Like [`Client::submit_many`], for tasks that come up over time.
    pub fn submit_stream<S>(&self, tasks: S) -> Submissions
    where
        S: Stream<Item = Task> + Send + 'static,
    {
        Submissions::start(self.clone(), tasks.map(Task::into_spec), false)
    }

    /// Submits the members of one array: each task has its index by [`Task::array`], else it gets its
    /// position, from 0.
    pub fn submit_array<I>(&self, members: I) -> Submissions
    where
        I: IntoIterator<Item = Task>,
        I::IntoIter: Send + 'static,
    {
        let members = (0_u64..).zip(members).map(|(position, task)| {
            let mut spec = task.into_spec();
            if !spec.array_member {
                spec.array_member = true;
                spec.array_index = position;
            }
            spec
        });
        let members = members.collect::<Vec<_>>();
        Submissions::start(self.clone(), stream::iter(members), true)
    }
}

/// The answers to a stream of submissions. An [`SubmitError::Unreachable`] or
/// [`SubmitError::TimedOut`] comes for each task whose answer was lost; then the stream ends, and tasks
/// not yet taken from the source are not submitted. Dropping it stops the submission.
#[derive(Debug)]
pub struct Submissions {
    answers: mpsc::Receiver<Result<TaskId, SubmitError>>,
    pump: JoinHandle<()>,
}

impl Submissions {
    fn start<S>(client: Client, specs: S, as_array: bool) -> Self
    where
        S: Stream<Item = TaskSpec> + Send + 'static,
    {
        let (out, answers) = mpsc::channel(BATCH_ENTRIES);
        let pump = tokio::spawn(async move {
            let specs: Specs = Box::pin(specs);
            let mut pump = Pump {
                client,
                as_array,
                array_id: 0,
                source: specs.fuse().ready_chunks(BATCH_ENTRIES),
                source_is_over: false,
                answers: VecDeque::new(),
                front: 0,
                unsent: VecDeque::new(),
                retry: Vec::new(),
                retry_at: Instant::now(),
                in_flight: BTreeMap::new(),
                next_batch: 1,
                progress: Instant::now(),
                renewals: 0,
            };
            // An error here is that nobody reads the answers any more.
            let _ = pump.run(&out).await;
        });
        Self { answers, pump }
    }
}

impl Drop for Submissions {
    fn drop(&mut self) {
        self.pump.abort();
    }
}

impl Stream for Submissions {
    type Item = Result<TaskId, SubmitError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.answers.poll_recv(cx)
    }
}

type Answer = Result<TaskId, SubmitError>;
type Specs = Pin<Box<dyn Stream<Item = TaskSpec> + Send>>;

struct Unread;

struct Entry {
    position: u64,
    spec: TaskSpec,
}

/// One open submission stream.
struct Wire {
    requests: mpsc::Sender<SubmitStreamRequest>,
    responses: Streaming<SubmitStreamResponse>,
    session: Session,
}

enum Step {
    Next,
    Taken(Option<Vec<TaskSpec>>),
    Response(Result<Option<SubmitStreamResponse>, tonic::Status>),
    Silence,
}

struct Pump {
    client: Client,
    as_array: bool,
    array_id: u64,
    source: ReadyChunks<Fuse<Specs>>,
    source_is_over: bool,
    /// From position `front` on; `None` = not yet known.
    answers: VecDeque<Option<Answer>>,
    front: u64,
    /// In order of position.
    unsent: VecDeque<Entry>,
    retry: Vec<Entry>,
    retry_at: Instant,
    in_flight: BTreeMap<u64, Vec<Entry>>,
    next_batch: u64,
    progress: Instant,
    renewals: u32,
}

impl Pump {
    async fn run(&mut self, out: &mpsc::Sender<Answer>) -> Result<(), Unread> {
        let mut wire: Option<Wire> = None;
        loop {
            if self.may_send()
                && let Err(error) = self.send(&mut wire).await
                && let Err(error) = self.recover(&mut wire, error).await
            {
                return self.give_up(&error, out).await;
            }
            if self.source_is_over && self.answers.is_empty() {
                return Ok(());
            }
            match self.step(wire.as_mut(), out).await? {
                Step::Next => {}
                Step::Taken(Some(specs)) => self.take_in(specs),
                Step::Taken(None) => self.source_is_over = true,
                Step::Response(response) => {
                    if let Err(error) = self.on_response(response)
                        && let Err(error) = self.recover(&mut wire, error).await
                    {
                        return self.give_up(&error, out).await;
                    }
                }
                Step::Silence => {
                    let after = self.client.inner.call_timeout;
                    return self.give_up(&CallError::TimedOut { after }, out).await;
                }
            }
        }
    }

    fn may_send(&self) -> bool {
        !self.unsent.is_empty()
            && self.retry.is_empty()
            && self.in_flight.len() < BATCHES_IN_FLIGHT_MAX
    }

    async fn step(
        &mut self,
        wire: Option<&mut Wire>,
        out: &mpsc::Sender<Answer>,
    ) -> Result<Step, Unread> {
        let has_answer = matches!(self.answers.front(), Some(Some(_)));
        let may_take =
            !self.source_is_over && self.unsent.is_empty() && self.answers.len() < UNANSWERED_MAX;
        let waits_for_answers = !self.in_flight.is_empty();
        let silence_at = self.progress + self.client.inner.call_timeout;
        let response = async {
            match wire {
                Some(wire) => wire.responses.message().await,
                None => core::future::pending().await,
            }
        };
        tokio::select! {
            permit = out.reserve(), if has_answer => {
                let permit = permit.map_err(|_| Unread)?;
                if let Some(Some(answer)) = self.answers.pop_front() {
                    self.front += 1;
                    permit.send(answer);
                }
                Ok(Step::Next)
            }
            response = response, if waits_for_answers => Ok(Step::Response(response)),
            () = tokio::time::sleep_until(self.retry_at), if !self.retry.is_empty() => {
                self.retry.sort_by_key(|entry| entry.position);
                for entry in core::mem::take(&mut self.retry).into_iter().rev() {
                    self.unsent.push_front(entry);
                }
                Ok(Step::Next)
            }
            specs = self.source.next(), if may_take => Ok(Step::Taken(specs)),
            () = tokio::time::sleep_until(silence_at), if waits_for_answers => Ok(Step::Silence),
        }
    }

    fn take_in(&mut self, specs: Vec<TaskSpec>) {
        for spec in specs {
            let position = self.front + u64::try_from(self.answers.len()).unwrap_or(u64::MAX);
            self.answers.push_back(None);
            self.unsent.push_back(Entry { position, spec });
        }
    }

    /// Sends one batch, and opens the stream when there is none.
    async fn send(&mut self, wire: &mut Option<Wire>) -> Result<(), CallError> {
        let session = match wire {
            Some(wire) => wire.session.clone(),
            None => self.client.session().await?,
        };
        let batch = self.next_batch;
        self.next_batch += 1;
        let mut tasks = Vec::new();
        let mut bytes = 0;
        let mut refused = Vec::new();
        // Entries are in flight from here on, so that each of them is answered whatever happens.
        let entries = self.in_flight.entry(batch).or_default();
        while let Some(entry) = self.unsent.pop_front() {
            let sendable = self.client.sendable(&entry.spec, &session).await;
            entries.push(entry);
            match sendable {
                Ok(mut spec) => {
                    if self.as_array && spec.array_id == 0 {
                        spec.array_id = self.array_id;
                    }
                    bytes += spec.payload.len();
                    tasks.push(spec);
                }
                // The upload was refused, and not for its session.
                Err(CallError::Refused(refusal)) if !is_session_loss(&refusal) => {
                    if let Some(entry) = entries.pop() {
                        refused.push((entry, refusal));
                    }
                }
                Err(error) => return Err(error),
            }
            if tasks.len() >= BATCH_ENTRIES || bytes >= BATCH_BYTES_MAX {
                break;
            }
        }
        for (entry, refusal) in refused {
            self.on_refusal(entry, refusal);
        }
        if tasks.is_empty() {
            self.in_flight.remove(&batch);
            return Ok(());
        }
        self.progress = Instant::now();
        let request = SubmitStreamRequest {
            session: session.token,
            batch,
            tasks,
            as_array: self.as_array,
            ..SubmitStreamRequest::default()
        };
        match wire {
            // The queue holds as many batches as may be in flight.
            Some(wire) => wire.requests.try_send(request).map_err(|_| lost()),
            None => {
                *wire = Some(open(&self.client, request, session).await?);
                Ok(())
            }
        }
    }

    fn on_response(
        &mut self,
        response: Result<Option<SubmitStreamResponse>, tonic::Status>,
    ) -> Result<(), CallError> {
        let response = match response {
            Ok(Some(response)) => response,
            Ok(None) => return Err(lost()),
            Err(status) => return Err(CallError::of_status(&status)),
        };
        self.progress = Instant::now();
        let Some(entries) = self.in_flight.remove(&response.batch) else {
            return Err(CallError::protocol(
                "an answer to a batch that was not sent",
            ));
        };
        if entries.len() != response.verdicts.len() {
            self.in_flight.insert(response.batch, entries);
            return Err(CallError::protocol("a batch has another number of answers"));
        }
        for (entry, verdict) in entries.into_iter().zip(response.verdicts) {
            self.on_verdict(entry, verdict);
        }
        Ok(())
    }

    fn on_verdict(&mut self, entry: Entry, verdict: SubmitVerdict) {
        if let Some(refusal) = verdict.refusal {
            self.on_refusal(entry, refusal.into());
            return;
        }
        self.renewals = 0;
        let answer = task_id(verdict.task_id).map_err(SubmitError::from);
        if let (Ok(id), true, 0) = (&answer, self.as_array, self.array_id) {
            self.array_id = id.as_raw();
        }
        self.answer(&entry, answer);
    }

    /// What there was no room for is sent again; other refusals are answers.
    fn on_refusal(&mut self, entry: Entry, refusal: Refusal) {
        if !refusal.is_full() || refusal.retry_after_ms == 0 {
            self.answer(&entry, Err(SubmitError::Refused(refusal)));
            return;
        }
        let pause = Duration::from_millis(refusal.retry_after_ms.into());
        let at = Instant::now() + pause.clamp(RETRY_MIN, RETRY_MAX);
        self.retry_at = if self.retry.is_empty() {
            at
        } else {
            self.retry_at.max(at)
        };
        self.retry.push(entry);
    }

    fn answer(&mut self, entry: &Entry, answer: Answer) {
        let at = usize::try_from(entry.position - self.front).unwrap_or(usize::MAX);
        if let Some(place) = self.answers.get_mut(at) {
            *place = Some(answer);
        }
    }

    /// A lost session is renewed, and what was in flight under it is sent again: it was refused whole.
    async fn recover(
        &mut self,
        wire: &mut Option<Wire>,
        error: CallError,
    ) -> Result<(), CallError> {
        if !error.is_unknown_session() || self.renewals >= RENEWALS_MAX {
            return Err(error);
        }
        self.renewals += 1;
        let session = match wire.take() {
            Some(wire) => wire.session,
            None => self.client.session().await?,
        };
        self.client.renewed_session(&session).await?;
        for (_, entries) in core::mem::take(&mut self.in_flight).into_iter().rev() {
            for entry in entries.into_iter().rev() {
                self.unsent.push_front(entry);
            }
        }
        Ok(())
    }

    /// Answers everything that was taken in, and ends.
    async fn give_up(
        &mut self,
        error: &CallError,
        out: &mpsc::Sender<Answer>,
    ) -> Result<(), Unread> {
        while let Some(answer) = self.answers.pop_front() {
            let answer = answer.unwrap_or_else(|| Err(error.clone().into()));
            out.send(answer).await.map_err(|_| Unread)?;
        }
        Ok(())
    }
}

async fn open(
    client: &Client,
    first: SubmitStreamRequest,
    session: Session,
) -> Result<Wire, CallError> {
    let (requests, queue) = mpsc::channel(BATCHES_IN_FLIGHT_MAX + 1);
    requests.try_send(first).map_err(|_| lost())?;
    let mut plm = client.plm();
    let call = plm.submit_stream(ReceiverStream::new(queue));
    let responses = client.timed(call).await?;
    Ok(Wire {
        requests,
        responses,
        session,
    })
}

fn is_session_loss(refusal: &Refusal) -> bool {
    CallError::Refused(refusal.clone()).is_unknown_session()
}

fn lost() -> CallError {
    CallError::Unreachable {
        cause: "the submission stream broke".to_owned(),
    }
}

pub(crate) fn task_id(raw: u64) -> Result<TaskId, CallError> {
    TaskId::from_raw(raw).ok_or_else(|| CallError::protocol(format!("{raw:#x} is no task id")))
}
