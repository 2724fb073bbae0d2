//! `bench-journal`: what durability costs, against what the disk itself takes, in the same run on the same folder.
//!
//! First single synced writes, then the journal's writer alone, then submissions and whole lives through a real daemon over
//! its Unix socket, with journal and with memory, once with cores that sleep as the system likes and once kept awake
//! (`keep_awake = true`, where the user may ask for it). A disk's speed drifts, so synced writes of 4 KiB are measured before
//! and after each line, under the same conditions, and the ratio is to their median. Run it on an idle machine:
//! `cargo build --profile dist -p qtf-daemon -p qtf-benches && target/dist/bench-journal [FOLDER [WORD..]]`; with words, only
//! the lines that hold all of them are measured, and `xN` makes them N times as long: `target/bench result journal 64 x10`.
#![expect(clippy::print_stdout, reason = "a bench prints its figures")]

use std::fs::File;
use std::io::Write as _;
use std::path::Path;

use hdrhistogram::Histogram;
use qtf_benches::Failure;
use qtf_benches::daemon::Daemon;
use qtf_benches::disk::{Sync, journal_groups, synced_writes};
use qtf_benches::load::{Measured, Worker, lives, submissions};
use qtf_benches::machine::{facts, folder, percentiles, us};
use qtf_proto::v1::Durability;

/// In flight at a time, and tasks in all: enough for a second or so each.
const SUBMISSIONS: [(usize, u64); 3] = [(1, 5_000), (64, 200_000), (2_048, 400_000)];
const LIVES: [(usize, u64); 3] = [(1, 3_000), (64, 100_000), (256, 200_000)];
const CONFIG: &str = "segment_bytes = 536870912\ncore = \"none\"\nresult_ttl_ms = 600000";
/// Synced writes before and after each line.
const BASE_ROUNDS: u32 = 500;

fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1);
    let folder = folder(arguments.next())?;
    let (longer, words): (Vec<String>, Vec<String>) =
        arguments.partition(|word| word.len() > 1 && word.starts_with('x'));
    let times = match longer.first() {
        Some(word) => word.trim_start_matches('x').parse()?,
        None => 1,
    };
    println!("{}", facts(&folder));
    if words.is_empty() {
        disk(&folder)?;
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(through_a_daemon(&folder, &words, times))
}

/// Prints the disk's own figures.
fn disk(folder: &Path) -> Result<(), Failure> {
    println!("the disk alone, a write and its sync at a time");
    let mut base = 0;
    for (name, sync) in [("fdatasync", Sync::Fdatasync), ("dsync", Sync::Dsync)] {
        for bytes in [512, 4_096, 65_536] {
            let times = synced_writes(folder, sync, (bytes, 3_000))?;
            println!("  {name:<9} {bytes:>6} bytes   {}", percentiles(&times));
            if sync == Sync::Fdatasync && bytes == 4_096 {
                base = times.value_at_quantile(0.5);
            }
        }
    }
    println!("the journal's writer alone, a group at a time, fdatasync");
    for records in [1_u32, 64, 2_048] {
        let (times, bytes) = journal_groups(folder, (records, 2_000))?;
        println!(
            "  {records:>5} records {bytes:>7} bytes   {}  = {} of one sync",
            percentiles(&times),
            ratio(&times, base)
        );
    }
    Ok(())
}

fn ratio(times: &Histogram<u64>, base: u64) -> String {
    let hundredths = times.value_at_quantile(0.5).saturating_mul(100) / base.max(1);
    format!("{}.{:02} x", hundredths / 100, hundredths % 100)
}

fn print(case: &Case, measured: &Measured, base: u64) {
    println!(
        "  {:<31} {:>5} in flight  {:>8}/s  {}  = {} of one sync ({})",
        case.name(),
        case.in_flight,
        measured.rate(),
        percentiles(&measured.times),
        ratio(&measured.times, base),
        us(base)
    );
}

/// What is measured through a daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// From a submission to its answer; the tasks stay.
    Answer,
    /// From a submission to the end of the task, with a worker that ends it at once.
    Result,
}

/// One line of the second half.
#[derive(Debug, Clone, Copy)]
struct Case {
    way: Way,
    durability: Durability,
    /// The daemon keeps the machine's cores awake.
    awake: bool,
    in_flight: usize,
    count: u64,
}

impl Case {
    fn all() -> Vec<Self> {
        let mut all = Vec::new();
        for awake in [false, true] {
            for durability in [Durability::Journal, Durability::Memory] {
                for (way, amounts) in [(Way::Answer, SUBMISSIONS), (Way::Result, LIVES)] {
                    all.extend(amounts.map(|(in_flight, count)| Self {
                        way,
                        durability,
                        awake,
                        in_flight,
                        count,
                    }));
                }
            }
        }
        all
    }

    fn name(&self) -> String {
        let durability = self.durability.as_str_name();
        let durability = durability.trim_start_matches("DURABILITY_").to_lowercase();
        let way = match self.way {
            Way::Answer => "answer",
            Way::Result => "result",
        };
        let awake = if self.awake { ", awake" } else { "" };
        format!("submit to {way}, {durability}{awake}")
    }

    fn matches(&self, words: &[String]) -> bool {
        let line = format!("{} {}", self.name(), self.in_flight);
        words
            .iter()
            .all(|word| line.split([' ', ',']).any(|found| found == word))
    }

    async fn measure(&self, daemon: &Daemon, count: u64) -> Result<Measured, Failure> {
        let amount = (count, self.in_flight);
        let channel = daemon.connect().await?;
        match self.way {
            Way::Answer => submissions(channel, amount, self.durability).await,
            Way::Result => lives(channel, amount, self.durability).await,
        }
    }
}

async fn through_a_daemon(folder: &Path, words: &[String], times: u64) -> Result<(), Failure> {
    let mut said = false;
    for case in Case::all() {
        if !case.matches(words) {
            continue;
        }
        let awake = case.awake.then(keep_awake).transpose();
        let Ok(awake) = awake else {
            println!(
                "  {:<31} left out: {KEEPS_AWAKE} cannot be written",
                case.name()
            );
            continue;
        };
        let mut base = synced_writes(folder, Sync::Fdatasync, (4_096, BASE_ROUNDS))?;
        let config = format!("{CONFIG}\nkeep_awake = {}", case.awake);
        let mut daemon = Daemon::prepare(&folder.join("daemon"), &config)?;
        let started = daemon.start().await?;
        if !said {
            said = true;
            let journal = started.info.journal.unwrap_or_default();
            println!(
                "through a daemon: network {}, journal {}",
                started.info.network_backend, journal.backend
            );
        }
        let capacity = u32::try_from(case.in_flight)?.max(2) * 2;
        let worker = match case.way {
            Way::Answer => None,
            Way::Result => Some(Worker::join(daemon.connect().await?, capacity, capacity).await?),
        };
        // The first ones warm everything up.
        case.measure(&daemon, case.count / 10 + 1).await?;
        let measured = case.measure(&daemon, case.count * times).await?;
        drop(worker);
        drop(daemon);
        base.add(synced_writes(
            folder,
            Sync::Fdatasync,
            (4_096, BASE_ROUNDS),
        )?)?;
        print(&case, &measured, base.value_at_quantile(0.5));
        drop(awake);
    }
    Ok(())
}

/// Where a process asks for cores that do not sleep, for as long as it holds the file.
const KEEPS_AWAKE: &str = "/dev/cpu_dma_latency";

fn keep_awake() -> std::io::Result<File> {
    let mut file = File::options().write(true).open(KEEPS_AWAKE)?;
    file.write_all(&0_i32.to_ne_bytes())?;
    Ok(file)
}
