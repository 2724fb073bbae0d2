//! `bench-journal`: what durability costs, against what the disk itself takes, in the same run on the same folder.
//!
//! First single synced writes, then the journal's writer alone, then submissions and whole lives through a real daemon over
//! its Unix socket, with journal and with memory. Ratios are to one synced write of 4 KiB. Run it on an idle machine:
//! `cargo build --release -p qtf-daemon -p qtf-benches && target/release/bench-journal [FOLDER]`.
#![expect(clippy::print_stdout, reason = "a bench prints its figures")]

use std::path::{Path, PathBuf};

use hdrhistogram::Histogram;
use qtf_benches::Failure;
use qtf_benches::daemon::Daemon;
use qtf_benches::disk::{Sync, journal_groups, synced_writes};
use qtf_benches::load::{Measured, Worker, lives, submissions};
use qtf_benches::machine::{facts, percentiles};
use qtf_proto::v1::Durability;

/// In flight at a time, and tasks in all: enough for a second or so each.
const SUBMISSIONS: [(usize, u64); 3] = [(1, 5_000), (64, 200_000), (2_048, 400_000)];
const LIVES: [(usize, u64); 3] = [(1, 3_000), (64, 100_000), (256, 200_000)];
const CONFIG: &str = "segment_bytes = 536870912\ncore = \"none\"\nresult_ttl_ms = 600000";

fn main() -> Result<(), Failure> {
    let folder = std::env::args()
        .nth(1)
        .map_or_else(|| PathBuf::from("target/bench"), PathBuf::from);
    std::fs::create_dir_all(&folder)?;
    println!("{}", facts(&folder));
    let sync = disk(&folder)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(through_a_daemon(&folder, sync))
}

/// Prints the disk's own figures; returns the median of a synced write of 4 KiB.
fn disk(folder: &Path) -> Result<u64, Failure> {
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
    Ok(base)
}

fn ratio(times: &Histogram<u64>, base: u64) -> String {
    let hundredths = times.value_at_quantile(0.5).saturating_mul(100) / base.max(1);
    format!("{}.{:02} x", hundredths / 100, hundredths % 100)
}

fn print(name: &str, in_flight: usize, measured: &Measured, base: u64) {
    println!(
        "  {name:<22} {in_flight:>5} in flight  {:>8}/s  {}  = {} of one sync",
        measured.rate(),
        percentiles(&measured.times),
        ratio(&measured.times, base)
    );
}

async fn through_a_daemon(folder: &Path, base: u64) -> Result<(), Failure> {
    for durability in [Durability::Journal, Durability::Memory] {
        let word = durability
            .as_str_name()
            .trim_start_matches("DURABILITY_")
            .to_lowercase();
        let mut said = false;
        for (in_flight, count) in SUBMISSIONS {
            let mut daemon = Daemon::prepare(&folder.join("daemon"), CONFIG)?;
            let started = daemon.start().await?;
            if !said {
                said = true;
                let journal = started.info.journal.unwrap_or_default();
                println!(
                    "through a daemon, {word}: network {}, journal {}",
                    started.info.network_backend, journal.backend
                );
            }
            // The first ones warm everything up.
            submissions(
                daemon.connect().await?,
                (count / 10 + 1, in_flight),
                durability,
            )
            .await?;
            let measured =
                submissions(daemon.connect().await?, (count, in_flight), durability).await?;
            print(
                &format!("submit to answer, {word}"),
                in_flight,
                &measured,
                base,
            );
        }
        for (in_flight, count) in LIVES {
            let mut daemon = Daemon::prepare(&folder.join("daemon"), CONFIG)?;
            daemon.start().await?;
            let capacity = u32::try_from(in_flight)?.max(2) * 2;
            let worker = Worker::join(daemon.connect().await?, capacity, capacity).await?;
            lives(
                daemon.connect().await?,
                (count / 10 + 1, in_flight),
                durability,
            )
            .await?;
            let measured = lives(daemon.connect().await?, (count, in_flight), durability).await?;
            print(
                &format!("submit to result, {word}"),
                in_flight,
                &measured,
                base,
            );
            drop(worker);
        }
    }
    Ok(())
}
