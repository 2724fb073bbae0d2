//! `bench-restart`: how long a daemon takes from the start of its process to its first answer, with a million tasks.
//!
//! Hot: it was killed, its segment is there. Cold: the segment is gone, too; journal and snapshot are read. Run it on an idle
//! machine: `cargo build --release -p qtf-daemon -p qtf-benches && target/release/bench-restart [TASKS] [FOLDER]`.
#![expect(clippy::print_stdout, reason = "a bench prints its figures")]

use std::time::Duration;

use qtf_benches::Failure;
use qtf_benches::daemon::{Daemon, Started};
use qtf_benches::load::{Worker, submissions};
use qtf_benches::machine::{facts, folder};
use qtf_proto::v1::Durability;

const TASKS_DEFAULT: u64 = 1_000_000;
const HOT_ROUNDS: u32 = 5;
const COLD_ROUNDS: u32 = 3;
/// Nearly two files beside the one that is being written: headers take a little.
const ROOM_BYTES: u64 = 120 << 20;
/// LIMIT: ten seconds.
const FILES_WAIT_MAX: u32 = 100;
const CONFIG: &str = "core = \"none\"";

fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1);
    let tasks = arguments
        .next()
        .map_or(Ok(TASKS_DEFAULT), |tasks| tasks.parse())?;
    let folder = folder(arguments.next())?;
    println!("{}", facts(&folder));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(run(tasks, &folder.join("daemon")))
}

async fn run(tasks: u64, folder: &std::path::Path) -> Result<(), Failure> {
    let mut daemon = Daemon::prepare(folder, CONFIG)?;
    let empty = daemon.start().await?;
    print("empty, new segment", &empty);
    // Somebody who could run the tasks must be there, or they would be parked.
    let worker = Worker::join(daemon.connect().await?, 1, 0).await?;
    let submitted =
        submissions(daemon.connect().await?, (tasks, 4_096), Durability::Journal).await?;
    println!(
        "{tasks} journal tasks submitted at {}/s; journal {} MiB in {} files",
        submitted.rate(),
        daemon.journal_bytes() >> 20,
        daemon.journal_files().len()
    );
    drop(worker);
    for _ in 0..HOT_ROUNDS {
        wait_for_files(&daemon).await?;
        daemon.kill()?;
        let started = daemon.start().await?;
        expect_tasks(&started, tasks)?;
        print("hot", &started);
    }
    for _ in 0..COLD_ROUNDS {
        wait_for_files(&daemon).await?;
        daemon.kill()?;
        daemon.remove_segment()?;
        let started = daemon.start().await?;
        expect_tasks(&started, tasks)?;
        print("cold", &started);
        let snapshots = daemon
            .journal_files()
            .iter()
            .filter(|name| name.starts_with("snapshot-"))
            .count();
        println!(
            "      (journal {} MiB, {snapshots} snapshots)",
            daemon.journal_bytes() >> 20
        );
    }
    Ok(())
}

/// A daemon that lives for some seconds has journal files ready for its successor, which otherwise fills one with zeros
/// before it serves. One that is killed sooner costs its successor that time.
async fn wait_for_files(daemon: &Daemon) -> Result<(), Failure> {
    for _ in 0..FILES_WAIT_MAX {
        let room = daemon.info().await?.journal.unwrap_or_default().room_bytes;
        if room >= ROOM_BYTES {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    println!("      (no files are ready: the next start makes one)");
    Ok(())
}

fn print(name: &str, started: &Started) {
    println!(
        "{name:<20} serving after {:>8.1} ms  (epoch {}, start {})",
        started.time.as_secs_f64() * 1_000.0,
        started.info.epoch,
        started.info.start().as_str_name()
    );
}

/// A start that has lost tasks is not quick, it is wrong.
fn expect_tasks(started: &Started, tasks: u64) -> Result<(), Failure> {
    let waiting: u64 = started
        .info
        .tasks_by_state
        .iter()
        .filter(|state| ["ready", "blocked"].contains(&state.name.as_str()))
        .map(|state| state.value)
        .sum();
    if waiting == tasks {
        Ok(())
    } else {
        Err(format!(
            "{waiting} tasks wait, not {tasks}: {:?}",
            started.info.tasks_by_state
        )
        .into())
    }
}
