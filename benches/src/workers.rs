//! `bench-workers`: what a task costs when many workers hold sleeping tasks, against ten of them.
//!
//! A client keeps so many tasks under way, spread over all workers; each takes a while at its worker, which holds as many as it has slots. The
//! workers are made of generated code, each with a connection of its own, on the threads of this process, one for each core. Told are the
//! rate, the processor time a task of the daemon and of this process, so that one sees who was the limit; and the daemon's processor time a
//! second while nothing runs (heartbeats). Ratios are to the first number of workers, as medians of the rounds, in each of which every
//! number runs once.
//! `cargo build --profile dist -p qtf-daemon -p qtf-benches && target/dist/bench-workers [ROUNDS [WORKERS ..]]`.
#![expect(clippy::print_stdout, reason = "a bench prints its figures")]

use std::path::Path;
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::time::{ClockId, clock_gettime};
use qtf_benches::Failure;
use qtf_benches::arguments::rounds_and_sizes;
use qtf_benches::daemon::Daemon;
use qtf_benches::load::{Worker, lives};
use qtf_benches::machine::{facts, folder};
use qtf_proto::v1::Durability;

const ROUNDS_DEFAULT: usize = 3;
const WORKERS: [u32; 3] = [10, 1_000, 4_000];
const TASKS: u64 = 200_000;
const IN_FLIGHT: u32 = 20_000;
const EACH: Duration = Duration::from_millis(20);
const IDLE: Duration = Duration::from_secs(3);

/// Of one run.
#[derive(Debug, Clone, Copy)]
struct Figures {
    /// Tasks a second.
    rate: f64,
    /// The daemon's processor time of a task in microseconds.
    cpu_us: f64,
    /// The same of workers and client.
    own_us: f64,
    /// The daemon's of a second without tasks, in milliseconds.
    idle_ms: f64,
}

fn main() -> Result<(), Failure> {
    let (rounds, numbers) = rounds_and_sizes(ROUNDS_DEFAULT, &WORKERS)?;
    // A connection for each worker.
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most)?;
    let folder = folder(None)?;
    println!("{}", facts(&folder));
    println!("{rounds} rounds of {TASKS} tasks of {EACH:?}, {IN_FLIGHT} under way");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let mut all = vec![Vec::new(); numbers.len()];
    for _ in 0..rounds {
        for (figures, &workers) in all.iter_mut().zip(&numbers) {
            figures.push(runtime.block_on(run(&folder.join("daemon"), workers))?);
        }
    }
    let first = all.first().cloned().unwrap_or_default();
    for (figures, workers) in all.iter().zip(&numbers) {
        let of = |value: fn(&Figures) -> f64| median(figures.iter().map(value));
        let ratio = |value: fn(&Figures) -> f64| {
            median(
                figures
                    .iter()
                    .zip(&first)
                    .map(|(one, first)| value(one) / value(first)),
            )
        };
        println!(
            "{workers:>6} workers: {:>8.0} tasks/s ({:.2} x), {:>6.2} us of the daemon a task ({:.2} x), {:>6.2} us of workers and client, {:>6.2} ms a second idle",
            of(|one| one.rate),
            ratio(|one| one.rate),
            of(|one| one.cpu_us),
            ratio(|one| one.cpu_us),
            of(|one| one.own_us),
            of(|one| one.idle_ms)
        );
    }
    Ok(())
}

async fn run(folder: &Path, workers: u32) -> Result<Figures, Failure> {
    let mut daemon = Daemon::prepare(folder, "")?;
    daemon.start().await?;
    let slots = IN_FLIGHT.div_ceil(workers);
    let mut there = Vec::new();
    for _ in 0..workers {
        let channel = daemon.connect().await?;
        there.push(Worker::sleeping(channel, (slots, slots), EACH).await?);
    }
    let in_flight = usize::try_from(IN_FLIGHT)?;
    let channel = daemon.connect().await?;
    // Whom the daemon does not know yet it gives less ahead.
    lives(channel.clone(), (TASKS / 5, in_flight), Durability::Memory).await?;
    let (before, own_before) = (daemon.processor_time()?, own_time()?);
    let measured = lives(channel, (TASKS, in_flight), Durability::Memory).await?;
    let (used, own) = (daemon.processor_time()? - before, own_time()? - own_before);
    let before = daemon.processor_time()?;
    tokio::time::sleep(IDLE).await;
    let idle = daemon.processor_time()? - before;
    drop(there);
    Ok(Figures {
        rate: measured.count as f64 / measured.took.as_secs_f64(),
        cpu_us: used.as_secs_f64() * 1e6 / measured.count as f64,
        own_us: own.as_secs_f64() * 1e6 / measured.count as f64,
        idle_ms: idle.as_secs_f64() * 1e3 / IDLE.as_secs_f64(),
    })
}

/// Processor time of this process.
fn own_time() -> Result<Duration, Failure> {
    Ok(clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID)?.into())
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
