//! `bench-pages`: what pages of 2 MiB bring, measured side by side.
//!
//! Two engines in memory of this process, one in pages of 4 KiB and one that has asked for pages of 2 MiB, with as many waiting
//! tasks each. Rounds go in turns, and what is told is the median of the ratios of each pair, so that what else happens on the machine is in
//! both. Memory of a process is had in such pages where `transparent_hugepage/enabled` says `madvise` or `always`; they are the same that
//! a segment has.
//! `cargo run --profile dist --package qtf-benches --bin bench-pages [ROUNDS [WAITING ..]]`.
#![expect(clippy::print_stdout, reason = "a bench prints its figures")]

use std::path::Path;

use qtf_benches::arguments::rounds_and_sizes;
use qtf_benches::lives::{BATCH, Lives, STEPS};
use qtf_benches::{Failure, machine};
use qtf_shm::{HugePages, Segment};

const ROUNDS_DEFAULT: usize = 2_000;
const WAITING: [u32; 3] = [1_000, 100_000, 1_000_000];

fn main() -> Result<(), Failure> {
    let (rounds, depths) = rounds_and_sizes(ROUNDS_DEFAULT, &WAITING)?;
    println!("{}", machine::facts(Path::new(".")));
    println!("{rounds} pairs of rounds of {BATCH} tasks; ns a task, medians");
    for waiting in depths {
        compare(waiting, rounds)?;
    }
    Ok(())
}

fn compare(waiting: u32, rounds: usize) -> Result<(), Failure> {
    let mut small = Lives::new(waiting, HugePages::Never)?;
    let mut large = Lives::new(waiting, HugePages::Auto)?;
    gather(large.segment())?;
    println!(
        "{waiting} waiting: {} and {} MiB in pages of 2 MiB",
        huge_mib(small.segment())?,
        huge_mib(large.segment())?
    );
    let mut pairs: [Vec<(f64, f64)>; STEPS.len() + 1] = Default::default();
    // The first rounds warm the caches up.
    for round in 0..rounds + rounds / 10 {
        let (one, other) = (small.round()?, large.round()?);
        if round < rounds / 10 {
            continue;
        }
        for (all, pair) in pairs.iter_mut().zip(one.into_iter().zip(other)) {
            all.push(pair);
        }
        pairs[STEPS.len()].push((one.iter().sum(), other.iter().sum()));
    }
    for (name, pairs) in STEPS.into_iter().chain(["whole life"]).zip(&pairs) {
        println!(
            "  {name:<10}  4 KiB {:>6.0}  2 MiB {:>6.0}  ratio {:.3}",
            median(pairs.iter().map(|pair| pair.0)),
            median(pairs.iter().map(|pair| pair.1)),
            median(pairs.iter().map(|pair| pair.1 / pair.0))
        );
    }
    Ok(())
}

/// Puts together what the kernel did not give in one piece.
fn gather(segment: &Segment) -> Result<(), Failure> {
    for extent in 0..segment.extents()? {
        // What came of it is told by the kernel.
        let _ = segment.make_huge(extent, 1 << 20);
    }
    Ok(())
}

fn huge_mib(segment: &Segment) -> Result<u64, Failure> {
    Ok(segment.memory()?.huge_bytes.unwrap_or(0) >> 20)
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
