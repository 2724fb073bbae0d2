//! A run from its begin to its end: processes, clients on threads of their own, stages that all enter together.
//!
//! ```text
//! Filling -> WarmingUp -> Measuring -> Finishing
//! ```
//! A client that has done its part of a stage says so; when all have, the next begins. Processor time is read between
//! stages. A failure of one, a process that ended, or Ctrl-C leads to Finishing at once. Tested in `tests/bench.rs`.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use qtf_client::{Client as Library, DaemonInfo, WorkerState};
use qtf_proto::address::Address;
use tokio::sync::{mpsc, oneshot, watch};

use super::client::{Books, Client, Orders, Trouble, histogram};
use super::host::Host;
use super::meter::{Meter, Times};
use super::parts::Parts;
use super::plan;
use super::report::Report;
use super::segment;
use crate::args::{BenchArgs, DurabilityName, OutputMode};
use crate::daemon::{CLIENT_NAME, unreachable};
use crate::exit::{Exit, Failure};
use crate::output::message;

/// LIMIT: runs at one daemon at the same time; the daemon never forgets a kind.
const KINDS: [&str; 4] = ["qtf-bench", "qtf-bench-2", "qtf-bench-3", "qtf-bench-4"];
const LOOK_AGAIN: Duration = Duration::from_millis(2);

/// Where all clients are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Stage {
    /// What is to wait all the time is submitted.
    Filling,
    /// Tasks run that do not count.
    WarmingUp,
    /// Those run that do.
    Measuring,
    /// What is left is taken back.
    Finishing,
}

/// What a run begins with.
#[derive(Clone, Copy, Debug)]
pub(super) struct Start<'a> {
    pub(super) args: &'a BenchArgs,
    pub(super) given: Option<&'a Address>,
    pub(super) mode: OutputMode,
    pub(super) stage: &'a watch::Sender<Stage>,
}

/// What was found and started.
#[derive(Debug)]
struct Ready {
    host: Host,
    info: DaemonInfo,
    in_flight: u64,
    meter: Meter,
    orders: Vec<Orders>,
}

/// What the stage that counts took.
#[derive(Clone, Copy, Debug)]
pub(super) struct Taken {
    pub(super) time: Duration,
    pub(super) processors: Times,
}

/// Runs; `None` if it was asked to end before it was done.
pub(super) async fn run(start: Start<'_>) -> Result<Option<Report>, Failure> {
    let mut parts = Parts::new();
    let ran = run_with(start, &mut parts).await;
    let left = parts.leave().await;
    // What went wrong first is what a person must know.
    ran.and_then(|report| left.map(|()| report))
}

async fn run_with(start: Start<'_>, parts: &mut Parts) -> Result<Option<Report>, Failure> {
    let mut asked = start.stage.subscribe();
    let ready = tokio::select! {
        ready = prepare(start, parts) => ready?,
        // The sender is on the way here: it is not gone.
        _ = asked.wait_for(|now| *now >= Stage::Finishing) => return Ok(None),
    };
    let (did, mut all) = mpsc::unbounded_channel();
    let manners = if start.given.is_some() {
        Manners::TakeBack
    } else {
        Manners::Leave
    };
    let count = ready.orders.len();
    let clients = ready
        .orders
        .into_iter()
        .map(|orders| start_client(orders, start.stage.subscribe(), (did.clone(), manners)))
        .collect::<Result<Vec<_>, _>>()?;
    drop(did);
    let taken = stages(start.stage, parts, (&mut all, count), &ready.meter).await;
    enter(start.stage, Stage::Finishing);
    let mut times = histogram()?;
    let mut books = Books::default();
    let mut failure = None;
    for client in clients {
        match client.await {
            Ok(Ok((some, page))) => {
                times.add(some).map_err(Failure::usage)?;
                books.add(page);
            }
            Ok(Err(one)) => failure = failure.or(Some(one)),
            // Its thread cannot end without a word: a panic ends the process.
            Err(_) => failure = failure.or_else(|| Some(Failure::usage("a client is gone"))),
        }
    }
    match (taken, failure) {
        (Err(Some(failure)), _) | (_, Some(failure)) => Err(failure),
        (Err(None), None) => Ok(None),
        (Ok(taken), None) => Report::of(
            start.args,
            (ready.host, &ready.info, start.given.is_none()),
            (ready.in_flight, taken),
            (&times, books),
        )
        .map(Some),
    }
}

/// Finds or starts the daemon, and starts the workers.
async fn prepare(start: Start<'_>, parts: &mut Parts) -> Result<Ready, Failure> {
    let args = start.args;
    let host = Host::look();
    let address = match start.given {
        Some(address) => address.clone(),
        None => {
            let journal = args.durability == Some(DurabilityName::Journal);
            parts
                .start_daemon(plan::segment_bytes(args)?, journal)
                .await?
        }
    };
    let library = Library::builder(address.clone()).name(CLIENT_NAME);
    let connected = library.connect().await;
    let library = connected.map_err(|error| unreachable(&error))?;
    let info = library.info().await?;
    let in_flight = plan::in_flight_at(args, info.task_slots_of_one)?;
    if start.given.is_some() && start.mode == OutputMode::Table {
        message(format!("at the daemon {} ({address})", info.instance));
    }
    let kind = start_workers(args, parts, &library, (&address, in_flight)).await?;
    let meter = Meter {
        daemon: parts.daemon_pid().or_else(|| pid_here(&address, &info)),
        workers: parts.worker_pids(),
    };
    let orders = plan::orders(args, (&address, kind), in_flight);
    Ok(Ready {
        host,
        info,
        in_flight,
        meter,
        orders,
    })
}

/// The daemon's process id, where it means something here.
fn pid_here(address: &Address, info: &DaemonInfo) -> Option<u32> {
    let name = std::fs::read_to_string(format!("/proc/{}/comm", info.pid)).ok()?;
    let is_here =
        matches!(address, Address::Unix(_) | Address::Segment(_)) && name.starts_with("qtf");
    is_here.then_some(info.pid)
}

/// Starts workers of a kind that nobody else offers, and waits until they are there; that kind.
async fn start_workers(
    args: &BenchArgs,
    parts: &mut Parts,
    library: &Library,
    (address, in_flight): (&Address, u64),
) -> Result<&'static str, Failure> {
    let mark = format!("bench-{}-{:08x}", std::process::id(), fastrand::u32(..));
    let there = library.workers().await?;
    let offered = |kind: &str| {
        there
            .iter()
            .filter(|worker| worker.state() != WorkerState::Lost)
            .any(|worker| worker.kinds.iter().any(|offered| offered == kind))
    };
    let kind = KINDS
        .into_iter()
        .find(|kind| !offered(kind))
        .ok_or_else(|| {
            let text = format!(
                "{} runs of qtf bench are at this daemon already: let one end",
                KINDS.len()
            );
            Failure::new(Exit::Refused, text)
        })?;
    let slots = plan::slots(args, in_flight);
    for number in 1..=args.workers.get() {
        let name = format!("{mark}-{number}");
        let work = (slots, args.result, plan::spin(args));
        parts.start_worker(address, (&name, kind), work)?;
    }
    loop {
        let workers = tokio::select! {
            workers = library.workers() => workers?,
            failure = parts.ended_by_itself() => return Err(failure),
        };
        let of_kind = || {
            workers
                .iter()
                .filter(|worker| worker.kinds.iter().any(|offered| offered == kind))
        };
        let own = of_kind().filter(|worker| worker.name.starts_with(&mark));
        if own.count() == usize::from(args.workers.get()) {
            // One that began at the same moment would get some of the tasks.
            return match of_kind().find(|worker| !worker.name.starts_with(&mark)) {
                Some(_) => Err(Failure::new(
                    Exit::Refused,
                    "another qtf bench began at this daemon at the same moment: begin again",
                )),
                None => Ok(kind),
            };
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK_AGAIN) => {}
            failure = parts.ended_by_itself() => return Err(failure),
        }
    }
}

/// Enters a stage, unless a later one has begun.
fn enter(stage: &watch::Sender<Stage>, next: Stage) {
    stage.send_if_modified(|now| {
        let is_later = *now < next;
        *now = next.max(*now);
        is_later
    });
}

/// Leads the clients through the stages; what the one took that counts. Without a failure the clients say why they end.
async fn stages(
    stage: &watch::Sender<Stage>,
    parts: &mut Parts,
    (did, count): (&mut mpsc::UnboundedReceiver<bool>, usize),
    meter: &Meter,
) -> Result<Taken, Option<Failure>> {
    all_did(did, count, parts).await?;
    parts.go().map_err(Some)?;
    enter(stage, Stage::WarmingUp);
    all_did(did, count, parts).await?;
    let (before, began) = (meter.read(), Instant::now());
    enter(stage, Stage::Measuring);
    all_did(did, count, parts).await?;
    Ok(Taken {
        time: began.elapsed(),
        processors: meter.read().since(&before),
    })
}

async fn all_did(
    did: &mut mpsc::UnboundedReceiver<bool>,
    count: usize,
    parts: &mut Parts,
) -> Result<(), Option<Failure>> {
    for _ in 0..count {
        tokio::select! {
            well = did.recv() => if well != Some(true) {
                return Err(None);
            },
            failure = parts.ended_by_itself() => return Err(Some(failure)),
        }
    }
    Ok(())
}

/// What a client does with its tasks if a run ends before it is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manners {
    /// The daemon ends too.
    Leave,
    /// Cancels and acknowledges them.
    TakeBack,
}

/// The end of a client.
type Ended = oneshot::Receiver<Result<(Histogram<u64>, Books), Failure>>;

fn start_client(
    orders: Orders,
    stage: watch::Receiver<Stage>,
    (did, manners): (mpsc::UnboundedSender<bool>, Manners),
) -> Result<Ended, Failure> {
    let failed = |error| Failure::usage(format!("cannot start a client: {error}"));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(failed)?;
    let (end, ended) = oneshot::channel();
    let thread = std::thread::Builder::new().name("qtf-bench-client".to_owned());
    let life = move || {
        let result = match segment::of(&orders) {
            Some(address) => segment::run_client(&orders, (&address, &runtime), &stage, &did),
            None => runtime.block_on(life(orders, stage, (&did, manners))),
        };
        if result.is_err() {
            let _over = did.send(false);
        }
        let _nobody_asks = end.send(result);
    };
    thread.spawn(life).map_err(failed)?;
    Ok(ended)
}

async fn life(
    orders: Orders,
    stage: watch::Receiver<Stage>,
    (did, manners): (&mpsc::UnboundedSender<bool>, Manners),
) -> Result<(Histogram<u64>, Books), Failure> {
    let mut client = Client::open(orders, stage).await?;
    let staged = staged(&mut client, did).await;
    if staged.is_err() {
        // Whoever is not there any more is ending already.
        let _over = did.send(false);
    }
    match (staged, manners) {
        (Ok(times), _) => Ok((times, client.finish().await?)),
        (Err(Trouble::Asked), Manners::Leave) => Ok((histogram()?, Books::default())),
        (Err(Trouble::Asked), Manners::TakeBack) => Ok((histogram()?, client.finish().await?)),
        (Err(Trouble::Failed(failure)), manners) => {
            if manners == Manners::TakeBack && failure.exit() != Exit::Unreachable {
                // What went wrong first is told.
                let _second = client.finish().await;
            }
            Err(failure)
        }
    }
}

async fn staged(
    client: &mut Client,
    did: &mpsc::UnboundedSender<bool>,
) -> Result<Histogram<u64>, Trouble> {
    let tell = || did.send(true).map_err(|_| Trouble::Asked);
    client.fill().await?;
    tell()?;
    client.wait_for(Stage::WarmingUp).await?;
    client.warm_up().await?;
    tell()?;
    client.wait_for(Stage::Measuring).await?;
    let times = client.measure().await?;
    tell()?;
    Ok(times)
}
