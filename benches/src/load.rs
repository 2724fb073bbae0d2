//! A client that keeps a number of tasks in flight, and a worker that ends each at once.
//!
//! Both are made of generated code and run on the threads of the bench. In flight is what was sent and not answered (of
//! submissions), or not ended (of whole lives); it is filled up in batches as answers come, so that a batch is what the
//! daemon happens to have answered.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hdrhistogram::Histogram;
use qtf_proto::v1;
use qtf_proto::v1::plm_client::PlmClient;
use qtf_proto::v1::register_client::RegisterClient;
use qtf_proto::v1::scheduler_client::SchedulerClient;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Channel;

use crate::Failure;
use crate::disk::ns_since;
use crate::machine::histogram;

/// LIMIT: entries of one message.
const BATCH_MAX: usize = 1_024;
const QUEUE: usize = 4_096;

/// What was measured.
#[derive(Debug)]
pub struct Measured {
    /// From the sending of a task to its answer, or to its end.
    pub times: Histogram<u64>,
    /// Tasks.
    pub count: u64,
    /// How long it took in all.
    pub took: Duration,
}

impl Measured {
    /// Tasks a second.
    #[must_use]
    pub fn rate(&self) -> u64 {
        let ns = self.took.as_nanos().max(1);
        u64::try_from(u128::from(self.count) * 1_000_000_000 / ns).unwrap_or(u64::MAX)
    }
}

/// The kind that a [`Worker`] offers.
const KIND: &str = "noop";

/// A small task.
fn task(kind: &str, durability: v1::Durability) -> v1::TaskSpec {
    v1::TaskSpec {
        kind: kind.into(),
        payload: Bytes::from_static(&[7; 32]),
        durability: durability.into(),
        ..v1::TaskSpec::default()
    }
}

/// An open submission stream.
#[derive(Debug)]
struct Submitter {
    requests: mpsc::Sender<v1::SubmitStreamRequest>,
    answers: Streaming<v1::SubmitStreamResponse>,
    spec: v1::TaskSpec,
    /// When each batch was sent.
    sent: HashMap<u64, Instant>,
    next: u64,
}

impl Submitter {
    async fn open(
        channel: Channel,
        (kind, durability): (&str, v1::Durability),
    ) -> Result<Self, Failure> {
        let (requests, queue) = mpsc::channel(QUEUE);
        let call = PlmClient::new(channel)
            .max_decoding_message_size(64 << 20)
            .submit_stream(ReceiverStream::new(queue))
            .await?;
        Ok(Self {
            requests,
            answers: call.into_inner(),
            spec: task(kind, durability),
            sent: HashMap::new(),
            next: 0,
        })
    }

    async fn send(&mut self, mut count: usize) -> Result<(), Failure> {
        while count > 0 {
            let entries = count.min(BATCH_MAX);
            count -= entries;
            let request = v1::SubmitStreamRequest {
                batch: self.next,
                tasks: vec![self.spec.clone(); entries],
                ..v1::SubmitStreamRequest::default()
            };
            self.sent.insert(self.next, Instant::now());
            self.next += 1;
            self.requests.send(request).await?;
        }
        Ok(())
    }

    /// The next answered batch: when it was sent, and its ids.
    async fn answered(&mut self) -> Result<(Instant, Vec<u64>), Failure> {
        let answer = self.answers.message().await?.ok_or("the stream ended")?;
        let sent = self
            .sent
            .remove(&answer.batch)
            .ok_or("an answer to nothing")?;
        let mut ids = Vec::with_capacity(answer.verdicts.len());
        for verdict in answer.verdicts {
            if let Some(refusal) = verdict.refusal {
                return Err(format!("refused: {}", refusal.message).into());
            }
            ids.push(verdict.task_id);
        }
        Ok((sent, ids))
    }
}

/// Submits `count` tasks with at most `in_flight` unanswered, and measures the answers. The tasks stay.
///
/// # Errors
/// A submission is refused, or the connection breaks.
pub async fn submissions(
    channel: Channel,
    amount: (u64, usize),
    durability: v1::Durability,
) -> Result<Measured, Failure> {
    submissions_of(KIND, channel, amount, durability).await
}

/// The same for tasks of another kind, which no [`Worker`] takes.
///
/// # Errors
/// As [`submissions`].
pub async fn submissions_of(
    kind: &str,
    channel: Channel,
    (count, in_flight): (u64, usize),
    durability: v1::Durability,
) -> Result<Measured, Failure> {
    let mut submitter = Submitter::open(channel, (kind, durability)).await?;
    let mut times = histogram();
    let (mut sent, mut answered) = (0_u64, 0_u64);
    let begun = Instant::now();
    // Two halves: while one is on its way to the disk, the other is being made.
    let batch = in_flight.div_ceil(2);
    while answered < count {
        while sent < count && usize::try_from(sent - answered)? + batch <= in_flight.max(batch) {
            let entries = batch.min(usize::try_from(count - sent)?);
            submitter.send(entries).await?;
            sent += entries as u64;
        }
        let (at, ids) = submitter.answered().await?;
        times.record_n(ns_since(at), ids.len() as u64)?;
        answered += ids.len() as u64;
    }
    Ok(Measured {
        times,
        count,
        took: begun.elapsed(),
    })
}

/// Runs `count` tasks through their whole lives with at most `in_flight` at a time: submitted, run by a [`Worker`] that
/// must be there, its end told, acknowledged.
///
/// # Errors
/// A submission is refused, a task does not end well, or the connection breaks.
pub async fn lives(
    channel: Channel,
    (count, in_flight): (u64, usize),
    durability: v1::Durability,
) -> Result<Measured, Failure> {
    let mut submitter = Submitter::open(channel.clone(), (KIND, durability)).await?;
    let (watch, queue) = mpsc::channel(QUEUE);
    let call = PlmClient::new(channel)
        .max_decoding_message_size(64 << 20)
        .watch(ReceiverStream::new(queue))
        .await?;
    let mut ends = call.into_inner();
    let mut open: HashMap<u64, Instant> = HashMap::new();
    let mut times = histogram();
    let (mut sent, mut ended) = (0_u64, 0_u64);
    let begun = Instant::now();
    let first = in_flight.min(usize::try_from(count)?);
    submitter.send(first).await?;
    sent += first as u64;
    let mut watched = v1::WatchRequest::default();
    while ended < count {
        tokio::select! {
            answer = submitter.answered() => {
                let (at, ids) = answer?;
                open.extend(ids.iter().map(|id| (*id, at)));
                watched.watch.extend(ids);
            }
            end = ends.message() => {
                let end = end?.ok_or("the watch ended")?;
                let mut free = 0;
                for end in end.ends {
                    if end.state() != v1::TaskState::Done {
                        return Err(format!("{:x} is {:?}", end.task_id, end.state()).into());
                    }
                    let at = open.remove(&end.task_id).ok_or("an end of nothing")?;
                    times.record(ns_since(at))?;
                    watched.acknowledge.push(end.task_id);
                    free += 1;
                }
                ended += free as u64;
                let more = free.min(usize::try_from(count - sent)?);
                submitter.send(more).await?;
                sent += more as u64;
            }
        }
        watch.send(std::mem::take(&mut watched)).await?;
    }
    Ok(Measured {
        times,
        count,
        took: begun.elapsed(),
    })
}

/// A worker that ends every task at once, and says so in batches.
#[derive(Debug)]
pub struct Worker {
    pump: JoinHandle<Result<(), Failure>>,
}

impl Worker {
    /// Registers one that takes up to `capacity` tasks at a time; 0 credits make one that takes nothing.
    ///
    /// # Errors
    /// It is refused, or the connection breaks.
    pub async fn join(channel: Channel, capacity: u32, credits: u32) -> Result<Self, Failure> {
        Self::sleeping(channel, (capacity, credits), Duration::ZERO).await
    }

    /// The same, whose tasks take so long each; all that it holds run at the same time.
    ///
    /// # Errors
    /// As [`Worker::join`].
    #[expect(clippy::print_stderr, reason = "a bench says why it cannot go on")]
    pub async fn sleeping(
        channel: Channel,
        (capacity, credits): (u32, u32),
        each: Duration,
    ) -> Result<Self, Failure> {
        let (reports, queue) = mpsc::channel(QUEUE);
        let hello = v1::WorkerHello {
            name: "bench".into(),
            host: "here".into(),
            pid: std::process::id(),
            capacity,
            kinds: vec![KIND.into()],
            ..v1::WorkerHello::default()
        };
        let report = v1::WorkerReport {
            hello: Some(hello),
            ..v1::WorkerReport::default()
        };
        reports.send(report).await?;
        let call = RegisterClient::new(channel.clone())
            .worker_session(ReceiverStream::new(queue))
            .await?;
        let mut notices = call.into_inner();
        let first = notices.message().await?.ok_or("no welcome")?;
        let welcome = first.welcome.ok_or("no welcome")?;
        let (grants, queue) = mpsc::channel(QUEUE);
        let grant = v1::DispatchRequest {
            worker_id: welcome.worker_id,
            token: welcome.token,
            credits,
            probe_answer: 0,
        };
        grants.send(grant).await?;
        let call = SchedulerClient::new(channel)
            .max_decoding_message_size(64 << 20)
            .dispatch(ReceiverStream::new(queue))
            .await?;
        let orders = call.into_inner();
        let beat = Duration::from_millis(u64::from(welcome.heartbeat_ms.max(10)));
        let pump = pump((reports, notices), (grants, orders), (beat, each));
        let pump = tokio::spawn(async move {
            let ended = pump.await;
            if let Err(error) = &ended {
                // Its tasks do not end any more: whoever waits for them shall read why.
                eprintln!("a worker of the bench has ended: {error}");
            }
            ended
        });
        Ok(Self { pump })
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.pump.abort();
    }
}

async fn pump(
    (reports, mut notices): (mpsc::Sender<v1::WorkerReport>, Streaming<v1::WorkerNotice>),
    (grants, mut orders): (
        mpsc::Sender<v1::DispatchRequest>,
        Streaming<v1::DispatchResponse>,
    ),
    (beat, each): (Duration, Duration),
) -> Result<(), Failure> {
    let mut beats = tokio::time::interval(beat);
    // When those that were taken together are over.
    let mut running: VecDeque<(tokio::time::Instant, Vec<v1::TaskResult>)> = VecDeque::new();
    loop {
        let first = running.front().map(|(end, _)| *end);
        tokio::select! {
            () = tokio::time::sleep_until(first.unwrap_or_else(tokio::time::Instant::now)), if first.is_some() => {
                let now = tokio::time::Instant::now();
                let mut results = Vec::new();
                while let Some((_, over)) = running.pop_front_if(|(end, _)| *end <= now) {
                    results.extend(over);
                }
                report(&reports, results).await?;
            }
            order = orders.message() => {
                let order = order?.ok_or("the dispatch ended")?;
                if order.probe != 0 {
                    let answer = v1::DispatchRequest { probe_answer: order.probe, ..v1::DispatchRequest::default() };
                    grants.send(answer).await?;
                }
                let results: Vec<v1::TaskResult> = order.assignments.iter().map(ended).collect();
                if each > Duration::ZERO && !results.is_empty() {
                    running.push_back((tokio::time::Instant::now() + each, results));
                } else {
                    report(&reports, results).await?;
                }
            }
            notice = notices.message() => {
                notice?.ok_or("the session ended")?;
            }
            _ = beats.tick() => reports.send(v1::WorkerReport::default()).await?,
        }
    }
}

/// Reports results, and takes as many tasks more: in one message, as the worker library does.
async fn report(
    reports: &mpsc::Sender<v1::WorkerReport>,
    results: Vec<v1::TaskResult>,
) -> Result<(), Failure> {
    for results in results.chunks(BATCH_MAX) {
        let report = v1::WorkerReport {
            credits: u32::try_from(results.len())?,
            results: results.to_vec(),
            ..v1::WorkerReport::default()
        };
        reports.send(report).await?;
    }
    Ok(())
}

fn ended(assignment: &v1::Assignment) -> v1::TaskResult {
    v1::TaskResult {
        task: assignment.task,
        outcome: Some(v1::Outcome {
            kind: v1::OutcomeKind::Exited.into(),
            ..v1::Outcome::default()
        }),
        ..v1::TaskResult::default()
    }
}
