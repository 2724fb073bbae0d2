//! `bench-local`: what clients and workers at `shm:NAME` cost, beside what a bare futex does in the same run.
//!
//! | row | what |
//! |---|---|
//! | local submit | claim, fill, publish a task without payload; nobody else is there |
//! | life, N waiting | submit, take, end, read and free, while N tasks wait; no daemon lives |
//! | spinning | submit to end, client and worker on one thread, `qtfd --idle spin` on another core |
//! | asleep, one core | submit to end, client, worker and `qtfd` asleep between two steps, all on one core |
//! | two futex round trips | the same four wakings of processes that do nothing else, on that core |
//!
//! The last two are measured in turns. Run it on an idle machine, with the daemon of the same build:
//! `cargo build --release -p qtf-daemon && cargo run --release --package qtf-benches --bin bench-local`.
#![expect(clippy::print_stdout, reason = "a bench prints its figures")]

mod alone;
mod beside;
mod pong;

use std::time::Duration;

use clap::Parser;
use hdrhistogram::Histogram;
use qtf_benches::{Failure, machine};

/// Measures clients and workers that write to the segment themselves
#[derive(Debug, Parser)]
struct Arguments {
    /// Tasks that wait in the largest of the lives
    #[arg(long, default_value_t = 1_000_000)]
    waiting: u32,
    /// Round trips of each kind
    #[arg(long, default_value_t = 20_000)]
    trips: u32,
}

fn main() -> Result<(), Failure> {
    let arguments = Arguments::parse();
    println!("{}", machine::facts(std::path::Path::new("/tmp")));
    alone::submits()?;
    for waiting in [1_000, arguments.waiting] {
        alone::lives(waiting)?;
    }
    beside::spinning(arguments.trips)?;
    beside::asleep(arguments.trips)?;
    Ok(())
}

/// Best and median of some bursts, in nanoseconds for one operation.
fn tell(what: &str, mut bursts: Vec<f64>) {
    bursts.sort_by(f64::total_cmp);
    let (best, median) = (bursts[0], bursts[bursts.len() / 2]);
    println!("{what:<40} best {best:>9.0} ns, median {median:>9.0} ns");
}

/// Percentiles of round trips.
fn tell_times(what: &str, times: &Histogram<u64>) {
    println!(
        "{what:<40} p50 {:>9} ns, p99 {:>9} ns, p99.9 {:>9} ns",
        times.value_at_quantile(0.5),
        times.value_at_quantile(0.99),
        times.value_at_quantile(0.999)
    );
}

fn times() -> Result<Histogram<u64>, Failure> {
    Ok(Histogram::new_with_bounds(1, 60_000_000_000, 3)?)
}

fn ns(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
