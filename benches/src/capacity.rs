//! `bench-capacity`: how many journal tasks the default segment takes from the client library, and whether they come back.
//!
//! Tasks with 64 bytes of payload are submitted over the client library, which gives each an automatic key, until the daemon
//! says that it is full; then the same as members of one array. Each time the daemon is killed and started again, once with
//! its segment and once without (as after a reboot), and asked how many tasks there are. Nobody runs them. Run it as
//! `cargo build --release -p qtf-daemon -p qtf-benches && target/release/bench-capacity [FOLDER]`.
#![expect(clippy::print_stdout, reason = "a bench prints its figures")]

use std::path::Path;
use std::time::{Duration, Instant};

use qtf_benches::Failure;
use qtf_benches::daemon::{Daemon, Started};
use qtf_benches::machine::{facts, folder};
use qtf_client::{Client, Notice, Task};
use tokio::sync::mpsc;
use tokio_stream::StreamExt as _;

/// More than the default segment has slots.
const TASKS: u64 = 1_200_000;
/// So long nothing is answered any more after the daemon has said that it is full.
const QUIET: Duration = Duration::from_secs(3);
const PAYLOAD: [u8; 64] = [7; 64];

fn main() -> Result<(), Failure> {
    let folder = folder(std::env::args().nth(1))?;
    println!("{}", facts(&folder));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?;
    for is_array in [false, true] {
        runtime.block_on(run(&folder.join("daemon"), is_array))?;
    }
    Ok(())
}

async fn run(folder: &Path, is_array: bool) -> Result<(), Failure> {
    let mut daemon = Daemon::prepare(folder, "core = \"none\"")?;
    let started = daemon.start().await?;
    let (segment_bytes, slots) = (started.info.segment_bytes, started.info.task_slots);
    let begun = Instant::now();
    let (count, refusal) = fill(&daemon, is_array).await?;
    let what = if is_array {
        "members of an array"
    } else {
        "tasks"
    };
    println!(
        "{count} {what} in {slots} slots of a segment of {} MiB, in {:.1} s; then: {refusal}",
        segment_bytes >> 20,
        begun.elapsed().as_secs_f64()
    );
    daemon.kill()?;
    print("hot start", &daemon.start().await?);
    daemon.kill()?;
    daemon.remove_segment()?;
    print("cold start", &daemon.start().await?);
    Ok(())
}

fn print(name: &str, started: &Started) {
    let waiting: u64 = started
        .info
        .tasks_by_state
        .iter()
        .map(|state| state.value)
        .sum();
    println!("{name}: {waiting} tasks there, after {:?}", started.time);
}

/// Submits until the daemon is full; returns how many tasks it took, and what it said then.
async fn fill(daemon: &Daemon, is_array: bool) -> Result<(u64, String), Failure> {
    let (hears, mut notices) = mpsc::unbounded_channel();
    let client = Client::builder(daemon.address()?)
        .on_notice(move |notice| {
            // Nobody listens any more at the end.
            let _heard = hears.send(notice.clone());
        })
        .connect()
        .await?;
    let tasks = (0..TASKS).map(|_| Task::handler("nobody", &PAYLOAD[..]));
    let mut answers = if is_array {
        client.submit_array(tasks)
    } else {
        client.submit_many(tasks)
    };
    let (mut count, mut full) = (0, None);
    loop {
        match tokio::time::timeout(QUIET, answers.next()).await {
            Ok(Some(answer)) => {
                answer?;
                count += 1;
            }
            Ok(None) => return Err(format!("all {count} tasks were taken").into()),
            Err(_quiet) => {
                while let Ok(Notice::Full(refusal)) = notices.try_recv() {
                    full = Some(refusal.to_string());
                }
                if let Some(refusal) = full {
                    return Ok((count, refusal));
                }
            }
        }
    }
}
