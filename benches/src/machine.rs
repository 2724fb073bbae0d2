//! What the figures were measured on.

use std::path::{Path, PathBuf};

use hdrhistogram::Histogram;

/// The folder that a bench was told to work in, or `target/bench`, made if it is not there.
///
/// # Errors
/// It cannot be made.
pub fn folder(told: Option<String>) -> std::io::Result<PathBuf> {
    let folder = told.map_or_else(|| PathBuf::from("target/bench"), PathBuf::from);
    std::fs::create_dir_all(&folder)?;
    Ok(folder)
}

/// Processor, cores, kernel, load, and the file system of a folder.
#[must_use]
pub fn facts(folder: &Path) -> String {
    let read = |file: &str| std::fs::read_to_string(file).unwrap_or_default();
    let cpu = read("/proc/cpuinfo");
    let model = cpu
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .map_or("unknown processor", |rest| {
            rest.trim_start_matches([' ', '\t', ':'])
        })
        .to_owned();
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let kernel = read("/proc/sys/kernel/osrelease");
    let load = read("/proc/loadavg");
    let load: Vec<&str> = load.split(' ').take(1).collect();
    format!(
        "machine: {model}, {cores} cores, Linux {}, load {}, {}",
        kernel.trim(),
        load.concat(),
        file_system(folder)
    )
}

fn file_system(folder: &Path) -> String {
    let mounts = std::fs::read_to_string("/proc/mounts").unwrap_or_default();
    let folder = folder.canonicalize().unwrap_or_default();
    let best = mounts
        .lines()
        .filter_map(|line| {
            let mut words = line.split(' ');
            let (device, place, kind) = (words.next()?, words.next()?, words.next()?);
            folder
                .starts_with(place)
                .then(|| (place.len(), format!("{kind} on {device}")))
        })
        .max();
    best.map_or_else(|| "unknown file system".to_owned(), |(_, text)| text)
}

/// A histogram of nanoseconds.
///
/// # Panics
/// Never: the bounds are good.
#[must_use]
pub fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 600_000_000_000, 3).expect("the bounds are good")
}

/// Percentiles for people, in microseconds.
#[must_use]
pub fn percentiles(times: &Histogram<u64>) -> String {
    let at = |quantile| us(times.value_at_quantile(quantile));
    format!(
        "p50 {:>9} us  p90 {:>9} us  p99 {:>9} us  max {:>10} us",
        at(0.5),
        at(0.9),
        at(0.99),
        us(times.max())
    )
}

/// Nanoseconds as microseconds with one digit.
#[must_use]
pub fn us(ns: u64) -> String {
    format!("{}.{}", ns / 1_000, ns % 1_000 / 100)
}
