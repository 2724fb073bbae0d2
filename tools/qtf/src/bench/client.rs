//! One client: keeps tasks under way through the stages of a run, and books about them.
//!
//! Invariants:
//! - K1: an accepted task is in `under_way` until its end was told; an end of a task that is not there fails the run.
//! - K2: however a stage ends, [`Client::finish`] leaves nothing of this client at the daemon that still answers.
//!
//! Tested in `tests/bench.rs`.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use qtf_proto::address::Address;
use qtf_proto::hashing::IdHashing;
use qtf_proto::limits::BATCH_ENTRIES_MAX;
use qtf_proto::v1;
use tokio::sync::watch;

use super::arrivals::{Alarm, Schedule};
use super::drive::Stage;
use super::wire::{Wire, broken, odd};
use crate::exit::{Exit, Failure};

/// LIMIT: bytes of one batch, well below those of a message.
const BATCH_BYTES: usize = 2 << 20;
/// Of a task beside its payload.
const TASK_BYTES: usize = 96;
/// LIMIT: submissions without an answer while the backlog is filled.
const UNANSWERED_MAX: u64 = 16 * 1024;
/// Longest time that is told apart.
const TIME_NS_MAX: u64 = 3_600_000_000_000;

/// What a client is to do.
#[derive(Clone, Debug)]
pub(super) struct Orders {
    pub(super) address: Address,
    /// What each task is, but for its priority.
    pub(super) task: v1::TaskSpec,
    /// Of the output of each.
    pub(super) output_bytes: u64,
    pub(super) random_priority: bool,
    pub(super) warm_up: u64,
    pub(super) tasks: u64,
    pub(super) in_flight: u64,
    pub(super) backlog: u64,
    pub(super) schedule: Option<Schedule>,
    /// At a segment: how long it looks again and again before it sleeps.
    pub(super) spin: Duration,
}

/// What has become of the tasks of a client.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Books {
    /// Accepted by the daemon.
    pub(super) submitted: u64,
    /// Told to have ended well.
    pub(super) done: u64,
    /// Told to be cancelled: what was left at the end.
    pub(super) cancelled: u64,
    /// Told to have ended in another way.
    pub(super) failed: u64,
}

impl Books {
    /// Whether each task was told of once.
    pub(super) fn are_closed(&self) -> bool {
        self.submitted == self.done + self.cancelled + self.failed
    }

    /// Of two clients.
    pub(super) fn add(&mut self, other: Books) {
        self.submitted += other.submitted;
        self.done += other.done;
        self.cancelled += other.cancelled;
        self.failed += other.failed;
    }
}

/// A stage was not left because its work was done.
#[derive(Debug)]
pub(super) enum Trouble {
    /// The run is to end.
    Asked,
    Failed(Failure),
}

impl From<Failure> for Trouble {
    fn from(failure: Failure) -> Self {
        Trouble::Failed(failure)
    }
}

/// A client and its connection.
#[derive(Debug)]
pub(super) struct Client {
    orders: Orders,
    wire: Wire,
    stage: watch::Receiver<Stage>,
    /// From when the time of each task counts.
    under_way: HashMap<u64, Instant, IdHashing>,
    /// The same of each task of the batches without an answer.
    unanswered: VecDeque<(u64, Vec<Instant>)>,
    unanswered_tasks: u64,
    next_batch: u64,
    books: Books,
    priorities: fastrand::Rng,
}

/// A histogram of nanoseconds.
pub(super) fn histogram() -> Result<Histogram<u64>, Failure> {
    Histogram::new_with_bounds(1, TIME_NS_MAX, 3).map_err(|error| {
        Failure::usage(format!(
            "the histogram of the times cannot be made: {error}"
        ))
    })
}

impl Client {
    /// Connects.
    pub(super) async fn open(
        orders: Orders,
        stage: watch::Receiver<Stage>,
    ) -> Result<Self, Failure> {
        let wire = Wire::open(&orders.address, orders.output_bytes > 0).await?;
        Ok(Client {
            orders,
            wire,
            stage,
            under_way: HashMap::default(),
            unanswered: VecDeque::new(),
            unanswered_tasks: 0,
            next_batch: 0,
            books: Books::default(),
            priorities: fastrand::Rng::new(),
        })
    }

    /// Submits what is to wait all the time.
    pub(super) async fn fill(&mut self) -> Result<(), Trouble> {
        let backlog = self.orders.backlog;
        while self.books.submitted < backlog {
            let room = UNANSWERED_MAX.saturating_sub(self.unanswered_tasks);
            let left = backlog - self.books.submitted - self.unanswered_tasks;
            self.submit(room.min(left), |_| Instant::now())?;
            tokio::select! {
                answer = self.wire.verdicts.message() => self.answered(answer, None)?,
                () = asked(&mut self.stage) => return Err(Trouble::Asked),
            }
        }
        Ok(())
    }

    /// Waits until all clients are that far. What ends meanwhile waits in the connection.
    pub(super) async fn wait_for(&mut self, stage: Stage) -> Result<(), Trouble> {
        // The sender outlives the clients; without it the run is over.
        match self.stage.wait_for(|now| *now >= stage).await {
            Ok(now) if *now < Stage::Finishing => Ok(()),
            Ok(_) | Err(_) => Err(Trouble::Asked),
        }
    }

    /// Runs some tasks that do not count.
    pub(super) async fn warm_up(&mut self) -> Result<(), Trouble> {
        let count = self.orders.warm_up;
        self.steady(count, None).await.map(drop)
    }

    /// Runs those that do; their times.
    pub(super) async fn measure(&mut self) -> Result<Histogram<u64>, Trouble> {
        let (count, schedule) = (self.orders.tasks, self.orders.schedule);
        self.steady(count, schedule).await
    }

    /// Keeps tasks under way until so many ends were told.
    async fn steady(
        &mut self,
        count: u64,
        schedule: Option<Schedule>,
    ) -> Result<Histogram<u64>, Trouble> {
        let mut times = histogram()?;
        let began = Instant::now();
        let alarm = schedule
            .map(|schedule| Alarm::start(schedule, began, count))
            .transpose()
            .map_err(|error| Failure::usage(format!("cannot start a thread: {error}")))?;
        // A backlog stays: a submission follows each end.
        let to_send = if self.orders.backlog > 0 {
            u64::MAX
        } else {
            count
        };
        let level = self.orders.backlog.saturating_add(self.orders.in_flight);
        let mut sent = 0_u64;
        while times.len() < count {
            let room = level.saturating_sub(self.level()).min(to_send - sent);
            let due = |ordinal: u64| match schedule {
                Some(schedule) => began + schedule.due(ordinal),
                None => Instant::now(),
            };
            let ready = if schedule.is_some() {
                let now = Instant::now();
                (0..room).take_while(|more| due(sent + more) <= now).count() as u64
            } else {
                room
            };
            let first = sent;
            self.submit(ready, |more| due(first + more))?;
            sent += ready;
            tokio::select! {
                answer = self.wire.verdicts.message() => {
                    self.answered(answer, Some((&mut times, count)))?;
                }
                ends = self.wire.ends.message() => self.ended(ends, Some((&mut times, count)))?,
                () = rings(alarm.as_ref()) => {}
                () = asked(&mut self.stage) => return Err(Trouble::Asked),
            }
        }
        Ok(times)
    }

    /// Tasks under way.
    fn level(&self) -> u64 {
        self.under_way.len() as u64 + self.unanswered_tasks
    }

    /// Submits so many tasks; `from` says from when the time of each counts.
    fn submit(&mut self, mut count: u64, from: impl Fn(u64) -> Instant) -> Result<(), Failure> {
        let bytes = self.orders.task.payload.len() + TASK_BYTES;
        let entries_max = (BATCH_BYTES / bytes).clamp(1, BATCH_ENTRIES_MAX) as u64;
        let mut ordinal = 0;
        while count > 0 {
            let entries = count.min(entries_max);
            count -= entries;
            let tasks = (0..entries).map(|_| self.task()).collect();
            let moments = (ordinal..ordinal + entries).map(&from).collect();
            ordinal += entries;
            self.unanswered.push_back((self.next_batch, moments));
            self.unanswered_tasks += entries;
            self.wire.submit(self.next_batch, tasks)?;
            self.next_batch += 1;
        }
        Ok(())
    }

    fn task(&mut self) -> v1::TaskSpec {
        let mut task = self.orders.task.clone();
        if self.orders.random_priority {
            task.priority = Some(self.priorities.u8(..).into());
        }
        task
    }

    /// Takes the verdicts on a batch and the ends beside them.
    fn answered(
        &mut self,
        answer: Result<Option<v1::SubmitStreamResponse>, tonic::Status>,
        times: Option<(&mut Histogram<u64>, u64)>,
    ) -> Result<(), Failure> {
        let answer = answer.map_err(|status| broken(status.message()))?;
        let mut answer = answer.ok_or_else(|| broken("it ended the stream of submissions"))?;
        let ends = std::mem::take(&mut answer.ends);
        if !answer.ends_only {
            self.accepted(answer)?;
        }
        self.told(&ends, times)
    }

    /// Takes the verdicts on a batch, and watches what was accepted if that is still to be done.
    fn accepted(&mut self, answer: v1::SubmitStreamResponse) -> Result<(), Failure> {
        self.wire.note_watched(answer.watched);
        // Batches are answered in their order.
        let (batch, moments) = self
            .unanswered
            .pop_front()
            .ok_or_else(|| odd("a verdict on nothing"))?;
        if batch != answer.batch || moments.len() != answer.verdicts.len() {
            return Err(odd(
                "verdicts on other tasks than those that were submitted",
            ));
        }
        self.unanswered_tasks -= moments.len() as u64;
        let mut watch = Vec::new();
        let mut refused = None;
        for (verdict, from) in answer.verdicts.into_iter().zip(moments) {
            match verdict.refusal {
                Some(refusal) => refused = Some(refusal),
                None => {
                    self.under_way.insert(verdict.task_id, from);
                    self.books.submitted += 1;
                    if !answer.watched {
                        watch.push(verdict.task_id);
                    }
                }
            }
        }
        if !watch.is_empty() {
            self.wire.watch(watch)?;
        }
        match refused {
            None => Ok(()),
            Some(refusal) => Err(Failure::new(
                Exit::Refused,
                format!(
                    "the daemon refused a task while {} were under way: {}",
                    self.under_way.len(),
                    refusal.message
                ),
            )),
        }
    }

    /// Takes ends, records their times and acknowledges them.
    fn ended(
        &mut self,
        ends: Result<Option<v1::WatchResponse>, tonic::Status>,
        times: Option<(&mut Histogram<u64>, u64)>,
    ) -> Result<(), Failure> {
        let ends = ends.map_err(|status| broken(status.message()))?;
        let ends = ends.ok_or_else(|| broken("it ended the stream of ends"))?;
        self.told(&ends.ends, times)
    }

    fn told(
        &mut self,
        ends: &[v1::TaskEnd],
        mut times: Option<(&mut Histogram<u64>, u64)>,
    ) -> Result<(), Failure> {
        let now = Instant::now();
        let mut other = None;
        for end in ends {
            let from = self.under_way.remove(&end.task_id).ok_or_else(|| {
                odd(format!(
                    "{:x} is told to have ended, and nobody waits for it",
                    end.task_id
                ))
            })?;
            let is_whole = end.output_bytes == self.orders.output_bytes;
            let state = end.state();
            if state == v1::TaskState::Done && is_whole && end.refusal.is_none() {
                self.books.done += 1;
            } else if state == v1::TaskState::Cancelled && times.is_none() {
                self.books.cancelled += 1;
            } else {
                self.books.failed += 1;
                other = other.or_else(|| Some(otherwise(end)));
            }
            // Those that come together with the last one do not count.
            if let Some((times, count)) = &mut times
                && times.len() < *count
            {
                times.saturating_record(ns(now.saturating_duration_since(from)));
            }
        }
        let ids = ends.iter().map(|end| end.task_id);
        self.wire.acknowledge(ids)?;
        other.map_or(Ok(()), Err)
    }

    /// Waits for the answers and ends that are still to come, cancelling what has not begun; then leaves.
    pub(super) async fn finish(mut self) -> Result<Books, Failure> {
        // What a daemon refuses, or a worker fails, has been told when it was met first.
        let mut told = None;
        while self.unanswered_tasks > 0 {
            let answer = self.wire.verdicts.message().await;
            keep_on(self.answered(answer, None), &mut told)?;
        }
        let left: Vec<u64> = self.under_way.keys().copied().collect();
        for some in left.chunks(BATCH_ENTRIES_MAX) {
            self.wire.cancel(some).await?;
        }
        while !self.under_way.is_empty() {
            let done = tokio::select! {
                answer = self.wire.verdicts.message() => self.answered(answer, None),
                ends = self.wire.ends.message() => self.ended(ends, None),
            };
            keep_on(done, &mut told)?;
        }
        self.wire.close().await?;
        if !self.books.are_closed() {
            return Err(odd(format!("the books do not close: {:?}", self.books)));
        }
        told.map_or(Ok(self.books), Err)
    }
}

/// Only a connection that is of no use any more ends the cleaning up.
fn keep_on(done: Result<(), Failure>, told: &mut Option<Failure>) -> Result<(), Failure> {
    match done {
        Err(failure) if failure.exit() == Exit::Unreachable => Err(failure),
        Err(failure) => {
            told.get_or_insert(failure);
            Ok(())
        }
        Ok(()) => Ok(()),
    }
}

/// A task that ended as none of a bench does.
fn otherwise(end: &v1::TaskEnd) -> Failure {
    let said = match &end.refusal {
        Some(refusal) => refusal.message.clone(),
        None => format!(
            "{}, with {} bytes, {:?}",
            end.state().as_str_name(),
            end.output_bytes,
            end.outcome.unwrap_or_default()
        ),
    };
    Failure::new(
        Exit::TaskFailed,
        format!(
            "task {:x} did not end as a task of a bench does: {said}",
            end.task_id
        ),
    )
}

async fn rings(alarm: Option<&Alarm>) {
    match alarm {
        Some(alarm) => alarm.rings().await,
        None => std::future::pending().await,
    }
}

async fn asked(stage: &mut watch::Receiver<Stage>) {
    // Without its sender the run is over.
    let _ended = stage.wait_for(|now| *now >= Stage::Finishing).await;
}

fn ns(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn books_close_when_each_task_was_told_of() {
        let mut books = Books {
            submitted: 3,
            done: 2,
            ..Books::default()
        };
        assert!(!books.are_closed());
        books.add(Books {
            submitted: 4,
            done: 3,
            cancelled: 1,
            failed: 1,
        });
        assert!(books.are_closed());
    }

    #[test]
    fn ends_that_no_task_of_a_bench_has_are_told_with_their_state() {
        let end = v1::TaskEnd {
            state: v1::TaskState::DeadLetter.into(),
            ..v1::TaskEnd::default()
        };
        let failure = otherwise(&end);
        assert_eq!(failure.exit(), Exit::TaskFailed);
        assert!(failure.message().unwrap_or("").contains("DEAD_LETTER"));
    }
}
