//! `bench-engine`: what one task costs the engine, step by step, while many others wait.
//!
//! One thread, no network: submit, a cycle that assigns, started, ended with an output, forget. Each
//! round takes one batch through all steps, each as one message does, so the number of waiting tasks stays. The figures are times of batches,
//! divided by their size. What does not grow with the number of waiting tasks (but for cache misses) has no
//! step that walks over them. The memory is in pages of 2 MiB where the kernel gives them, as a daemon's segment is (`bench-pages` compares). Run it on an idle machine:
//! `cargo run --release --package qtf-benches --bin bench-engine [ROUNDS [WAITING ..]]`.
#![expect(clippy::print_stdout, reason = "a bench prints its figures")]

use std::fs;

use qtf_benches::Failure;
use qtf_benches::arguments::rounds_and_sizes;
use qtf_benches::lives::{BATCH, Lives, STEPS};
use qtf_shm::HugePages;

const ROUNDS_DEFAULT: usize = 500;
const WAITING: [u32; 4] = [1_000, 100_000, 500_000, 1_000_000];

fn main() -> Result<(), Failure> {
    let (rounds, depths) = rounds_and_sizes(ROUNDS_DEFAULT, &WAITING)?;
    println!("{}", machine());
    println!("{rounds} rounds of {BATCH} tasks; ns a task");
    println!(
        "{:>9}  {:<10} {:>8} {:>8} {:>8} {:>8}",
        "waiting", "step", "best", "p50", "p90", "p99"
    );
    for waiting in depths {
        let mut bench = Lives::new(waiting, HugePages::Auto)?;
        let mut times: [Vec<f64>; 6] = Default::default();
        // The first rounds warm the caches up.
        for round in 0..rounds + rounds / 10 {
            let steps = bench.round()?;
            if round >= rounds / 10 {
                for (all, step) in times.iter_mut().zip(steps.iter().copied()) {
                    all.push(step);
                }
                times[STEPS.len()].push(steps.iter().sum());
            }
        }
        for (name, times) in STEPS.into_iter().chain(["whole life"]).zip(&mut times) {
            print_line(waiting, name, times);
        }
        let report = bench.segment().verify();
        if report.broken() {
            return Err(format!("the segment is broken: {report:?}").into());
        }
    }
    Ok(())
}

fn print_line(waiting: u32, name: &str, times: &mut [f64]) {
    times.sort_by(f64::total_cmp);
    let at = |percent: usize| times[(times.len() - 1) * percent / 100];
    println!(
        "{waiting:>9}  {name:<10} {:>8.0} {:>8.0} {:>8.0} {:>8.0}",
        at(0),
        at(50),
        at(90),
        at(99)
    );
}

/// Processor, cores and load, as figures of different machines cannot be compared.
fn machine() -> String {
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(':'))
        .map_or("unknown processor", |(_, model)| model.trim());
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').next().unwrap_or("?");
    format!("{model}, {cores} cores, load {load}")
}
