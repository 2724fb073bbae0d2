//! `bench-stall`: how long a daemon keeps its callers waiting while it writes a snapshot of a million tasks.
//!
//! The daemon runs one thread: a call is answered between two duty cycles, so the longest answer bounds the longest cycle from
//! above. One caller asks for a task once a millisecond: while nothing runs, while lives run, and while a snapshot is written
//! beside them. The daemon measures its turns during a snapshot, too, and is asked for the longest. Run it on an idle machine:
//! `cargo build --release -p qtf-daemon -p qtf-benches && target/release/bench-stall [TASKS] [FOLDER]`.
#![expect(clippy::print_stdout, reason = "a bench prints its figures")]

use std::path::Path;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use qtf_benches::Failure;
use qtf_benches::daemon::Daemon;
use qtf_benches::disk::ns_since;
use qtf_benches::load::{Worker, lives, submissions_of};
use qtf_benches::machine::{facts, folder, histogram, percentiles};
use qtf_proto::v1;
use qtf_proto::v1::Durability;
use qtf_proto::v1::plm_client::PlmClient;
use tokio::sync::oneshot::error::TryRecvError;
use tonic::transport::Channel;

const TASKS_DEFAULT: u64 = 900_000;
/// Lives that run beside: each writes four records, so that the journal outgrows its snapshot.
const LIVES_PER_ROUND: u64 = 20_000;
const ROUNDS_MAX: u32 = 200;
/// Rounds in which nothing else runs, so long each.
const ROUNDS_ALONE: u32 = 2;
const QUIET: Duration = Duration::from_secs(3);
const SNAPSHOTS_WANTED: u32 = 3;
const CONFIG: &str = "core = \"none\"\nsegment_bytes = 536870912";

fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1);
    let tasks = arguments
        .next()
        .map_or(Ok(TASKS_DEFAULT), |tasks| tasks.parse())?;
    let folder = folder(arguments.next())?;
    println!("{}", facts(&folder));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?;
    runtime.block_on(run(tasks, &folder.join("daemon")))
}

async fn run(tasks: u64, folder: &Path) -> Result<(), Failure> {
    let mut daemon = Daemon::prepare(folder, CONFIG)?;
    daemon.start().await?;
    // Nobody here offers their kind, so they stay while others run.
    let waiting = (tasks, 4_096);
    submissions_of(
        "echo",
        daemon.connect().await?,
        waiting,
        Durability::Journal,
    )
    .await?;
    println!(
        "{tasks} journal tasks wait; journal {} MiB",
        daemon.journal_bytes() >> 20
    );
    let worker = Worker::join(daemon.connect().await?, 256, 256).await?;
    let [mut alone, mut quiet, mut during] = [histogram(), histogram(), histogram()];
    let mut snapshots = 0;
    let mut last = snapshot_of(&daemon).await?;
    for round in 0..ROUNDS_MAX {
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let asker = tokio::spawn(ask(daemon.connect().await?, stopped));
        if round < ROUNDS_ALONE {
            tokio::time::sleep(QUIET).await;
        } else {
            let channel = daemon.connect().await?;
            lives(channel, (LIVES_PER_ROUND, 64), Durability::Journal).await?;
        }
        // An asker that has failed says why below.
        let _asked = stop.send(());
        let times = asker.await??;
        let now = snapshot_of(&daemon).await?;
        if now != last {
            last = now;
            snapshots += 1;
            during.add(&times)?;
            println!(
                "snapshot {snapshots}: the daemon's longest turn meanwhile was {} us",
                longest_turn_us(&daemon).await?
            );
        } else if round < ROUNDS_ALONE {
            alone.add(&times)?;
        } else {
            quiet.add(&times)?;
        }
        if snapshots >= SNAPSHOTS_WANTED {
            break;
        }
    }
    drop(worker);
    print("nothing runs", &alone);
    print("lives run", &quiet);
    print("and a snapshot", &during);
    if snapshots == 0 {
        return Err("no snapshot was written: the journal did not grow enough".into());
    }
    Ok(())
}

/// Asks once a millisecond until it is told to stop.
async fn ask(
    channel: Channel,
    mut stopped: tokio::sync::oneshot::Receiver<()>,
) -> Result<Histogram<u64>, Failure> {
    let mut client = PlmClient::new(channel);
    let mut times = histogram();
    let mut ticks = tokio::time::interval(Duration::from_millis(1));
    while stopped.try_recv() == Err(TryRecvError::Empty) {
        ticks.tick().await;
        let begun = Instant::now();
        let answer = client.get_task(v1::GetTaskRequest { task_id: 1 }).await;
        times.record(ns_since(begun))?;
        // There is no such task; any other refusal is a failure.
        if let Err(status) = answer
            && status.code() != tonic::Code::NotFound
        {
            return Err(status.into());
        }
    }
    Ok(times)
}

async fn snapshot_of(daemon: &Daemon) -> Result<u64, Failure> {
    let info = daemon.info().await?;
    Ok(info.journal.unwrap_or_default().snapshot_lsn)
}

/// As the daemon itself has measured it.
async fn longest_turn_us(daemon: &Daemon) -> Result<u64, Failure> {
    let counters = daemon.info().await?.counters;
    let mut named = counters
        .iter()
        .filter(|one| one.name == "snapshot_longest_turn_us");
    let longest = named.next().ok_or("the daemon tells of no turn")?;
    Ok(longest.value)
}

fn print(name: &str, times: &Histogram<u64>) {
    println!(
        "{name:<16} {:>8} answers  {}",
        times.len(),
        percentiles(times)
    );
}
