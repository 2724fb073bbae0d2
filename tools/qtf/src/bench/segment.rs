//! A client and a worker at `shm:NAME`: on a thread each, with no messages and no runtime.
//!
//! The client's stages and books are those of `client`; what is asked of both is the same. Journal tasks go by messages there too, as only
//! the daemon accepts them. Tested in `tests/bench.rs`.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use qtf_local::direct::{DirectClient, DirectTask, OpenSegment, Wait};
use qtf_proto::address::{Address, SegmentAddress};
use qtf_proto::hashing::IdHashing;
use qtf_proto::v1;
use qtf_shm::{KindIndex, Outcome, OutcomeKind, Phase, TaskId};
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, watch};

use super::client::{Books, Orders, Trouble, histogram};
use super::drive::Stage;
use super::wire::odd;
use crate::daemon::CLIENT_NAME;
use crate::exit::{Exit, Failure};

/// Longest wait between two looks whether the run is over.
const SLEEP: Duration = Duration::from_millis(20);
/// Ends between two such looks.
const ENDS: u32 = 256;
/// LIMIT: of a local worker's hand-over.
const CAPACITY: u16 = 64;

/// The segment that orders are for, if it is to be used without messages.
pub(super) fn of(orders: &Orders) -> Option<SegmentAddress> {
    let is_memory = orders.task.durability() != v1::Durability::Journal;
    if let Address::Segment(segment) = &orders.address
        && is_memory
    {
        return Some(segment.clone());
    }
    None
}

/// A client through the stages of a run.
pub(super) fn run_client(
    orders: &Orders,
    (address, runtime): (&SegmentAddress, &Runtime),
    stage: &watch::Receiver<Stage>,
    did: &mpsc::UnboundedSender<bool>,
) -> Result<(Histogram<u64>, Books), Failure> {
    let failed = |error: &dyn std::fmt::Display| Failure::new(Exit::Unreachable, error);
    let open = OpenSegment::client_of(address, CLIENT_NAME).map_err(|error| failed(&error))?;
    let kind = open
        .kind(&orders.task.kind)
        .map_err(|error| failed(&error))?;
    let client = open.client().map_err(|refusal| failed(&refusal.message))?;
    let mut client = Client {
        client,
        orders,
        kind,
        stage: stage.clone(),
        under_way: HashMap::default(),
        books: Books::default(),
        priorities: fastrand::Rng::new(),
        output: vec![0; usize::try_from(orders.output_bytes).unwrap_or(0)],
        wait: wait_of(orders.spin),
    };
    let staged = client.stages(runtime, did);
    if staged.is_err() {
        // Whoever is not there any more is ending already.
        let _over = did.send(false);
    }
    let finished = client.finish();
    match staged {
        Ok(times) => Ok((times, finished?)),
        Err(Trouble::Asked) => Ok((histogram()?, finished?)),
        Err(Trouble::Failed(failure)) => Err(failure),
    }
}

/// How a side waits.
fn wait_of(spin: Duration) -> Wait {
    Wait { spin, sleep: SLEEP }
}

struct Client<'s> {
    client: DirectClient<'s>,
    orders: &'s Orders,
    kind: KindIndex,
    stage: watch::Receiver<Stage>,
    under_way: HashMap<u64, Instant, IdHashing>,
    books: Books,
    priorities: fastrand::Rng,
    output: Vec<u8>,
    wait: Wait,
}

impl Client<'_> {
    fn stages(
        &mut self,
        runtime: &Runtime,
        did: &mpsc::UnboundedSender<bool>,
    ) -> Result<Histogram<u64>, Trouble> {
        let tell = || did.send(true).map_err(|_| Trouble::Asked);
        for number in 0..self.orders.backlog {
            self.submit(Instant::now())?;
            if number % 1024 == 0 && self.is_asked() {
                return Err(Trouble::Asked);
            }
        }
        tell()?;
        self.wait_for(runtime, Stage::WarmingUp)?;
        self.steady(self.orders.warm_up, false)?;
        tell()?;
        self.wait_for(runtime, Stage::Measuring)?;
        let times = self.steady(self.orders.tasks, true)?;
        tell()?;
        Ok(times)
    }

    fn wait_for(&mut self, runtime: &Runtime, stage: Stage) -> Result<(), Trouble> {
        let reached = runtime.block_on(self.stage.wait_for(|now| *now >= stage));
        match reached.map(|now| *now < Stage::Finishing) {
            Ok(true) => Ok(()),
            Ok(false) | Err(_) => Err(Trouble::Asked),
        }
    }

    fn is_asked(&self) -> bool {
        *self.stage.borrow() >= Stage::Finishing
    }

    /// Keeps tasks under way until so many ends were told.
    fn steady(&mut self, count: u64, is_measured: bool) -> Result<Histogram<u64>, Trouble> {
        let mut times = histogram()?;
        let began = Instant::now();
        let schedule = self.orders.schedule.filter(|_| is_measured);
        // A backlog stays: a submission follows each end.
        let to_send = if self.orders.backlog > 0 {
            u64::MAX
        } else {
            count
        };
        let level = self.orders.backlog.saturating_add(self.orders.in_flight);
        let (mut sent, mut looks) = (0_u64, 0_u32);
        while times.len() < count {
            let mut wait = self.wait;
            while (self.under_way.len() as u64) < level && sent < to_send {
                let from = match schedule {
                    None => Instant::now(),
                    Some(schedule) => {
                        let due = began + schedule.due(sent);
                        let left = due.saturating_duration_since(Instant::now());
                        if !left.is_zero() {
                            wait = until_due(wait, left);
                            break;
                        }
                        due
                    }
                };
                self.submit(from)?;
                sent += 1;
            }
            match self.client.next_end(wait) {
                Some(ended) => {
                    let taken = self.ended(ended, true)?;
                    times.saturating_record(u64::try_from(taken.as_nanos()).unwrap_or(u64::MAX));
                    looks += 1;
                    if looks % ENDS == 0 && self.is_asked() {
                        return Err(Trouble::Asked);
                    }
                }
                None if self.is_asked() => return Err(Trouble::Asked),
                None if self.under_way.is_empty() && schedule.is_some() => pause(wait),
                None => {}
            }
        }
        Ok(times)
    }

    fn submit(&mut self, from: Instant) -> Result<(), Failure> {
        let priority = if self.orders.random_priority {
            self.priorities.u8(..)
        } else {
            128
        };
        let task = DirectTask {
            kind: self.kind,
            payload: &self.orders.task.payload,
            priority,
        };
        let id = self.client.submit(&task).map_err(|refusal| {
            Failure::new(
                Exit::Refused,
                format!(
                    "a task is refused while {} are under way: {}",
                    self.under_way.len(),
                    refusal.message
                ),
            )
        })?;
        self.under_way.insert(id.as_raw(), from);
        self.books.submitted += 1;
        Ok(())
    }

    /// Takes an end, and acknowledges it; how long the task took.
    fn ended(
        &mut self,
        (task, phase): (TaskId, Phase),
        is_steady: bool,
    ) -> Result<Duration, Failure> {
        let from = self.under_way.remove(&task.as_raw()).ok_or_else(|| {
            odd(format!(
                "{task} is told to have ended, and nobody waits for it"
            ))
        })?;
        let taken = from.elapsed();
        let is_whole = self.output.is_empty()
            || self.client.read_output(task, 0, &mut self.output).ok() == Some(self.output.len());
        self.client.forget(task);
        if phase == Phase::Done && is_whole {
            self.books.done += 1;
        } else if phase == Phase::Cancelled && !is_steady {
            self.books.cancelled += 1;
        } else {
            self.books.failed += 1;
            let phase = phase.name();
            return Err(Failure::new(
                Exit::TaskFailed,
                format!("task {task} did not end as a task of a bench does: {phase}"),
            ));
        }
        Ok(taken)
    }

    /// Cancels what has not begun, waits for the rest, and leaves.
    fn finish(mut self) -> Result<Books, Failure> {
        let left: Vec<TaskId> = self
            .under_way
            .keys()
            .copied()
            .filter_map(TaskId::from_raw)
            .collect();
        for task in left {
            self.client.cancel(task);
        }
        let mut told = None;
        while !self.under_way.is_empty() {
            if let Some(ended) = self.client.next_end(self.wait)
                && let Err(failure) = self.ended(ended, false)
            {
                told.get_or_insert(failure);
            }
        }
        self.client.settle_up(Duration::from_secs(2));
        if !self.books.are_closed() {
            return Err(odd(format!("the books do not close: {:?}", self.books)));
        }
        told.map_or(Ok(self.books), Err)
    }
}

/// No longer than until the next task is due.
fn until_due(wait: Wait, left: Duration) -> Wait {
    Wait {
        spin: wait.spin.min(left),
        sleep: wait.sleep.min(left),
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "nothing is under way, and the next task is not due"
)]
fn pause(wait: Wait) {
    std::thread::sleep(wait.sleep);
}

/// A worker: takes tasks of a kind once it may, and ends each with these bytes.
pub(super) fn run_worker(
    address: &SegmentAddress,
    (name, kind): (&str, &str),
    (output, spin): (&[u8], Duration),
    may: &dyn Fn() -> Go,
) -> Result<(), Failure> {
    let failed = |error: &dyn std::fmt::Display| Failure::new(Exit::Unreachable, error);
    let open = OpenSegment::worker_of(address, name).map_err(|error| failed(&error))?;
    let kind = open.kind(kind).map_err(|error| failed(&error))?;
    let kinds = [kind].into_iter().collect();
    let worker = open
        .worker(name, kinds, CAPACITY)
        .map_err(|error| failed(&error))?;
    let done = Outcome {
        kind: OutcomeKind::Exited,
        code: 0,
        result_dropped: false,
        output_cut: false,
    };
    let wait = wait_of(spin);
    loop {
        match may() {
            Go::NotYet => pause(Wait::asleep(Duration::from_millis(1))),
            Go::Leave => return Ok(()),
            Go::Now => {
                for _ in 0..ENDS {
                    let Some(taken) = worker.take(wait) else {
                        break;
                    };
                    // One that was taken away is told by nobody, and missed in the books of its client.
                    let _moved_on = taken.finish(done, output);
                }
            }
        }
    }
}

/// Whether a worker may take tasks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Go {
    NotYet,
    Now,
    Leave,
}
