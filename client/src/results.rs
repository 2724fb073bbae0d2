//! The ends of tasks, as they happen.
//!
//! Invariants: each watched id is answered once, also over breaks of the connection and restarts of the
//! daemon, after which all ids that are still open are named again; acknowledgements are sent in the order
//! they are made, and the last of them again after a break, since nothing tells which were read.
//! Tested in `client/tests/calls.rs` and `client/tests/restarts.rs`.

use core::pin::Pin;
use core::task::{Context, Poll};
use core::time::Duration;
use std::collections::{HashSet, VecDeque};

use futures_util::stream::FuturesUnordered;
use futures_util::{Stream, StreamExt as _};
use qtf_proto::hashing::IdHashing;
use qtf_proto::limits::BATCH_ENTRIES_MAX;
use qtf_proto::v1::{self, Outcome, TaskOutput, TaskState, WatchRequest, WatchResponse};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use crate::TaskId;
use crate::client::Client;
use crate::error::{CallError, Refusal, WatchError};
use crate::patience::Patience;
use crate::session::Session;
use crate::transfer::decode_output;

const EVENTS_QUEUED: usize = 64;
const EVENTS_WAITING_MAX: usize = BATCH_ENTRIES_MAX;
const FETCHES_MAX: usize = 8;
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);
/// A stream that held for so long was a good one, also when nothing was heard.
const GOOD_WIRE: Duration = Duration::from_secs(2);
/// LIMIT: acknowledgements that are sent again after a break; older ones have been read by then, or their
/// results stay until their time to live is over.
const RESENT_MAX: usize = 4 * BATCH_ENTRIES_MAX;
/// Pause before ids that the daemon had no room to watch are named again.
const WATCH_AGAIN: Duration = Duration::from_millis(500);

/// Which outputs come with the ends of tasks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Outputs {
    /// All of them; large ones are fetched before the end is told.
    #[default]
    All,
    /// Those that fit a message; the size of others is told, for [`Client::fetch_output`].
    Small,
    /// None; all stay in the daemon.
    Leave,
}

/// The end of one task.
#[derive(Clone, Debug)]
pub struct TaskEnd {
    /// The task.
    pub id: TaskId,
    /// Done, failed, cancelled or in the dead-letter set.
    pub state: TaskState,
    /// How the last attempt ended.
    pub outcome: Outcome,
    /// Attempts handed out.
    pub attempt: u32,
    /// Worker of the last attempt; empty when there was none.
    pub worker_name: String,
    /// What the task left behind; `None` when it left nothing, nothing was kept, or it stays in the
    /// daemon as was asked.
    pub output: Option<TaskOutput>,
    /// Size of an encoded output that stays in the daemon; else 0.
    pub output_left_bytes: u64,
}

impl TaskEnd {
    /// True when the task ended well.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.state == TaskState::Done
    }
}

impl Client {
    /// Waits for the end of one task, for as long as it takes; small and large outputs included.
    ///
    /// # Errors
    /// [`CallError::Refused`] for an unknown task, [`CallError::Unreachable`] when the daemon is away
    /// for too long.
    pub async fn wait(&self, id: impl Into<TaskId>) -> Result<TaskEnd, CallError> {
        let mut results = self.results([id.into()]);
        match results.next().await {
            Some(Ok(end)) => Ok(end),
            Some(Err(WatchError::Task { refusal, .. })) => Err(CallError::Refused(refusal)),
            Some(Err(WatchError::Output { error, .. } | WatchError::Call(error))) => Err(error),
            None => Err(CallError::protocol("the results ended early")),
        }
    }

    /// Streams the ends of these tasks in the order they happen, then ends.
    pub fn results(&self, ids: impl IntoIterator<Item = impl Into<TaskId>>) -> ResultStream {
        self.results_with(ids, Outputs::All)
    }

    /// Like [`Client::results`], with a choice of outputs: whoever only wants to know that tasks have
    /// ended need not move what they left behind.
    pub fn results_with(
        &self,
        ids: impl IntoIterator<Item = impl Into<TaskId>>,
        outputs: Outputs,
    ) -> ResultStream {
        let (feed, results) = self.result_feed_with(outputs);
        feed.watch(ids);
        results
    }

    /// Like [`Client::results`], for ids that become known over time: the stream ends when the feed and
    /// its clones are dropped and all ids are answered.
    #[must_use]
    pub fn result_feed(&self) -> (ResultFeed, ResultStream) {
        self.result_feed_with(Outputs::All)
    }

    /// Like [`Client::result_feed`], with a choice of outputs.
    #[must_use]
    pub fn result_feed_with(&self, outputs: Outputs) -> (ResultFeed, ResultStream) {
        let (watch, watched) = mpsc::unbounded_channel();
        let (acknowledge, acknowledged) = mpsc::unbounded_channel();
        let (out, events) = mpsc::channel(EVENTS_QUEUED);
        let pump = Pump {
            client: self.clone(),
            outputs,
            watched: Some(watched),
            acknowledged: Some(acknowledged),
            open_ids: HashSet::default(),
            to_watch: VecDeque::new(),
            to_acknowledge: VecDeque::new(),
            acknowledged_last: VecDeque::new(),
            watch_again: Vec::new(),
            watch_again_at: Instant::now(),
            waiting: VecDeque::new(),
            fetches: FuturesUnordered::new(),
        };
        let pump = tokio::spawn(pump.run(out));
        let feed = ResultFeed {
            watch,
            acknowledge: acknowledge.clone(),
        };
        let results = ResultStream {
            events,
            acknowledge,
            pump,
            close_within: CLOSE_TIMEOUT.max(self.inner.reconnect_for),
        };
        (feed, results)
    }
}

/// Names further tasks to a [`ResultStream`]; may be cloned and used while the stream is read.
#[derive(Clone, Debug)]
pub struct ResultFeed {
    watch: mpsc::UnboundedSender<Vec<TaskId>>,
    acknowledge: mpsc::UnboundedSender<Vec<TaskId>>,
}

impl ResultFeed {
    /// Asks for the ends of these tasks. Takes memory for each id until its end is read.
    pub fn watch(&self, ids: impl IntoIterator<Item = impl Into<TaskId>>) {
        // A closed queue means that the stream was dropped: nobody wants to know.
        let _ = self.watch.send(ids.into_iter().map(Into::into).collect());
    }

    /// See [`ResultStream::acknowledge`].
    pub fn acknowledge(&self, ids: impl IntoIterator<Item = impl Into<TaskId>>) {
        let ids = ids.into_iter().map(Into::into).collect();
        let _ = self.acknowledge.send(ids);
    }
}

/// The ends of watched tasks. Dropping it ends nothing: the tasks go on, and results are kept.
/// After a [`WatchError::Call`] it is over.
#[derive(Debug)]
pub struct ResultStream {
    events: mpsc::Receiver<Result<TaskEnd, WatchError>>,
    acknowledge: mpsc::UnboundedSender<Vec<TaskId>>,
    pump: JoinHandle<()>,
    close_within: Duration,
}

impl ResultStream {
    /// Says that these results were received, so that their slots may be freed. Sent in the background;
    /// [`ResultStream::close`] waits until it is.
    pub fn acknowledge(&self, ids: impl IntoIterator<Item = impl Into<TaskId>>) {
        let ids = ids.into_iter().map(Into::into).collect();
        let _ = self.acknowledge.send(ids);
    }

    /// Ends the stream after all acknowledgements have gone out.
    ///
    /// # Errors
    /// [`CallError::TimedOut`] when they cannot be sent; results not acknowledged are kept until their
    /// time to live is over.
    pub async fn close(self) -> Result<(), CallError> {
        let Self {
            events,
            acknowledge,
            mut pump,
            close_within: after,
        } = self;
        drop((events, acknowledge));
        if tokio::time::timeout(after, &mut pump).await.is_err() {
            pump.abort();
            return Err(CallError::TimedOut { after });
        }
        Ok(())
    }
}

impl Stream for ResultStream {
    type Item = Result<TaskEnd, WatchError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.events.poll_recv(cx)
    }
}

type Event = Result<TaskEnd, WatchError>;
type Fetch = Pin<Box<dyn Future<Output = Event> + Send>>;
type Ids = Option<mpsc::UnboundedReceiver<Vec<TaskId>>>;

struct Wire {
    requests: mpsc::Sender<WatchRequest>,
    responses: Streaming<WatchResponse>,
    session: u64,
}

struct Pump {
    client: Client,
    outputs: Outputs,
    /// `None` once all feeds are dropped.
    watched: Ids,
    /// `None` once stream and feeds are dropped.
    acknowledged: Ids,
    /// Ids whose end is still to come.
    open_ids: HashSet<u64, IdHashing>,
    to_watch: VecDeque<u64>,
    to_acknowledge: VecDeque<u64>,
    /// The last that were sent, oldest first.
    acknowledged_last: VecDeque<u64>,
    /// Ids that the daemon had no room to watch.
    watch_again: Vec<u64>,
    watch_again_at: Instant,
    waiting: VecDeque<Event>,
    fetches: FuturesUnordered<Fetch>,
}

impl Pump {
    async fn run(mut self, out: mpsc::Sender<Event>) {
        let mut out = Some(out);
        let mut patience = self.client.patience();
        let mut after = 0;
        loop {
            let session = self.client.session_after(after, &patience).await;
            let opened_at = Instant::now();
            let error = match &session {
                Ok(session) => match self.open(session).await {
                    Ok(wire) => match self.serve(wire, &mut out, &mut patience).await {
                        Ok(()) => return,
                        Err(error) => {
                            if opened_at.elapsed() > GOOD_WIRE {
                                patience.heard();
                            }
                            error
                        }
                    },
                    Err(error) => error,
                },
                Err(error) => error.clone(),
            };
            tracing::debug!(%error, "no watch stream");
            let failed = (error, session.as_ref().ok());
            let repeat = self.client.before_repeat(&mut patience, &mut after, failed);
            if let Err(error) = repeat.await {
                if let Some(out) = out {
                    while let Some(event) = self.waiting.pop_front() {
                        let _ = out.send(event).await;
                    }
                    let _ = out.send(Err(WatchError::Call(error))).await;
                }
                return;
            }
        }
    }

    /// Opens the stream, names all open ids again and acknowledges again what may not have been read.
    async fn open(&mut self, session: &Session) -> Result<Wire, CallError> {
        self.to_watch = self.open_ids.iter().copied().collect();
        self.watch_again.clear();
        for id in core::mem::take(&mut self.acknowledged_last)
            .into_iter()
            .rev()
        {
            self.to_acknowledge.push_front(id);
        }
        let (requests, queue) = mpsc::channel(8);
        requests
            .try_send(self.next_request(session.token))
            .map_err(|_| CallError::protocol("the watch queue is full at its start"))?;
        let mut plm = self.client.plm();
        let call = plm.watch(ReceiverStream::new(queue));
        Ok(Wire {
            requests,
            responses: self.client.timed(call).await?,
            session: session.token,
        })
    }

    fn next_request(&mut self, session: u64) -> WatchRequest {
        let take = |ids: &mut VecDeque<u64>| -> Vec<u64> {
            let count = ids.len().min(BATCH_ENTRIES_MAX);
            ids.drain(..count).collect()
        };
        let acknowledge = take(&mut self.to_acknowledge);
        self.acknowledged_last.extend(&acknowledge);
        let over = self.acknowledged_last.len().saturating_sub(RESENT_MAX);
        self.acknowledged_last.drain(..over);
        WatchRequest {
            session,
            watch: take(&mut self.to_watch),
            acknowledge,
            with_output: self.outputs != Outputs::Leave,
        }
    }

    /// Runs until nothing is left to do, or the stream breaks.
    async fn serve(
        &mut self,
        mut wire: Wire,
        out: &mut Option<mpsc::Sender<Event>>,
        patience: &mut Patience,
    ) -> Result<(), CallError> {
        loop {
            self.drop_output_when_over(out);
            let has_request = !self.to_watch.is_empty() || !self.to_acknowledge.is_empty();
            if self.acknowledged.is_none() && out.is_none() && !has_request {
                return finish(wire).await;
            }
            let watch_again_at = self.watch_again_at;
            let may_hear =
                self.waiting.len() < EVENTS_WAITING_MAX && self.fetches.len() < FETCHES_MAX;
            let reader_is_gone = tokio::select! {
                permit = reserve(out.as_ref()), if !self.waiting.is_empty() => match permit {
                    Some(permit) => {
                        if let Some(event) = self.waiting.pop_front() {
                            permit.send(event);
                        }
                        false
                    }
                    None => true,
                },
                () = closed(out.as_ref()) => true,
                permit = wire.requests.reserve(), if has_request => match permit {
                    Ok(permit) => {
                        permit.send(self.next_request(wire.session));
                        false
                    }
                    Err(_closed) => return Err(broken()),
                },
                ids = next_ids(&mut self.watched) => {
                    self.on_watched(ids);
                    false
                }
                ids = next_ids(&mut self.acknowledged) => {
                    self.on_acknowledged(ids);
                    false
                }
                event = self.fetches.next(), if !self.fetches.is_empty() => {
                    self.waiting.extend(event);
                    false
                }
                response = wire.responses.message(), if may_hear => match response {
                    Ok(Some(response)) => {
                        patience.heard();
                        self.on_response(response)?;
                        false
                    }
                    Ok(None) => return Err(broken()),
                    Err(status) => return Err(CallError::of_status(&status)),
                },
                () = tokio::time::sleep_until(watch_again_at), if !self.watch_again.is_empty() => {
                    self.to_watch.extend(self.watch_again.drain(..));
                    false
                }
            };
            if reader_is_gone {
                *out = None;
                self.forget_the_open();
            }
        }
    }

    /// The reader's stream ends when all is answered and no feed can name more.
    fn drop_output_when_over(&self, out: &mut Option<mpsc::Sender<Event>>) {
        let all_is_said = self.watched.is_none()
            && self.open_ids.is_empty()
            && self.waiting.is_empty()
            && self.fetches.is_empty();
        if all_is_said {
            *out = None;
        }
    }

    /// The reader is gone: only acknowledgements are left to be sent.
    fn forget_the_open(&mut self) {
        self.watched = None;
        self.open_ids.clear();
        self.to_watch.clear();
        self.watch_again.clear();
        self.waiting.clear();
        self.fetches.clear();
    }

    fn on_watched(&mut self, ids: Option<Vec<TaskId>>) {
        match ids {
            Some(ids) => {
                for id in ids {
                    if self.open_ids.insert(id.as_raw()) {
                        self.to_watch.push_back(id.as_raw());
                    }
                }
            }
            None => self.watched = None,
        }
    }

    fn on_acknowledged(&mut self, ids: Option<Vec<TaskId>>) {
        match ids {
            Some(ids) => self.to_acknowledge.extend(ids.iter().map(|id| id.as_raw())),
            None => self.acknowledged = None,
        }
    }

    fn on_response(&mut self, response: WatchResponse) -> Result<(), CallError> {
        for end in response.ends {
            if self.has_no_room(&end) {
                self.watch_again.push(end.task_id);
                self.watch_again_at = Instant::now() + WATCH_AGAIN;
                continue;
            }
            // An end that was told before the break, or is not ours, is no news.
            if self.open_ids.remove(&end.task_id) {
                self.on_end(end)?;
            }
        }
        Ok(())
    }

    /// The daemon watches as many tasks as it can; this one is still wanted.
    fn has_no_room(&self, end: &v1::TaskEnd) -> bool {
        let is_full = |refusal: &v1::Refusal| {
            refusal.retry_after_ms > 0 && Refusal::from(refusal.clone()).is_full()
        };
        end.refusal.as_ref().is_some_and(is_full) && self.open_ids.contains(&end.task_id)
    }

    fn on_end(&mut self, end: v1::TaskEnd) -> Result<(), CallError> {
        let id = TaskId::from_raw(end.task_id)
            .ok_or_else(|| CallError::protocol(format!("{:#x} is no task id", end.task_id)))?;
        if let Some(refusal) = end.refusal {
            let refusal = refusal.into();
            self.waiting
                .push_back(Err(WatchError::Task { id, refusal }));
            return Ok(());
        }
        let mut known = TaskEnd {
            id,
            state: end.state(),
            outcome: end.outcome.unwrap_or_default(),
            attempt: end.attempt,
            worker_name: end.worker_name,
            output: None,
            output_left_bytes: 0,
        };
        if !end.output.is_empty() {
            self.waiting.push_back(match decode_output(end.output) {
                Ok(output) => {
                    known.output = Some(output);
                    Ok(known)
                }
                Err(error) => Err(WatchError::Output { id, error }),
            });
        } else if end.output_bytes > 0 && self.outputs != Outputs::All {
            known.output_left_bytes = end.output_bytes;
            self.waiting.push_back(Ok(known));
        } else if end.output_bytes > 0 {
            let client = self.client.clone();
            self.fetches.push(Box::pin(async move {
                match client.fetch_output(id).await {
                    Ok(output) => {
                        known.output = Some(output);
                        Ok(known)
                    }
                    Err(error) => Err(WatchError::Output { id, error }),
                }
            }));
        } else {
            self.waiting.push_back(Ok(known));
        }
        Ok(())
    }
}

/// Lets the daemon read what was sent: closes our half, and waits for its. An error is that it may not have
/// been read.
async fn finish(wire: Wire) -> Result<(), CallError> {
    let Wire {
        requests,
        mut responses,
        ..
    } = wire;
    drop(requests);
    let rest = async {
        loop {
            match responses.message().await {
                Ok(Some(_)) => {}
                Ok(None) => return Ok(()),
                Err(status) => return Err(CallError::of_status(&status)),
            }
        }
    };
    let after = CLOSE_TIMEOUT / 2;
    match tokio::time::timeout(after, rest).await {
        Ok(ended) => ended,
        Err(_elapsed) => Err(CallError::TimedOut { after }),
    }
}

async fn reserve(out: Option<&mpsc::Sender<Event>>) -> Option<mpsc::Permit<'_, Event>> {
    match out {
        Some(out) => out.reserve().await.ok(),
        None => None,
    }
}

async fn closed(out: Option<&mpsc::Sender<Event>>) {
    match out {
        Some(out) => out.closed().await,
        None => core::future::pending().await,
    }
}

async fn next_ids(ids: &mut Ids) -> Option<Vec<TaskId>> {
    match ids {
        Some(ids) => ids.recv().await,
        None => core::future::pending().await,
    }
}

fn broken() -> CallError {
    CallError::Unreachable {
        cause: "the watch stream broke".to_owned(),
    }
}
