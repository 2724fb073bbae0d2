//! `bench-engine`, as it is, from beside this program or from another folder: the engine without a daemon.

use std::path::Path;
use std::process::Command;

use qtf_benches::Failure;

use super::table::Figures;

/// Batches of a run.
pub(crate) const ROUNDS: u32 = 500;

/// What the whole life of a task takes it while so many wait.
pub(crate) fn measure(program: &Path, waiting: u64) -> Result<Figures, Failure> {
    let words = [ROUNDS.to_string(), waiting.to_string()];
    let done = Command::new(program).args(words).output()?;
    if !done.status.success() {
        return Err(format!("bench-engine: {}", String::from_utf8_lossy(&done.stderr)).into());
    }
    let text = String::from_utf8(done.stdout)?;
    let [p50, p99] = times(&text).ok_or("bench-engine says nothing of the whole life")?;
    Ok(Figures {
        rate: 1e9 / p50,
        p50_us: Some(p50 / 1_000.0),
        p99_us: Some(p99 / 1_000.0),
        processor_us: None,
    })
}

/// Median and 99th percentile of the whole life, ns.
fn times(text: &str) -> Option<[f64; 2]> {
    let line = text.lines().find(|line| line.contains("whole life"))?;
    let words: Vec<f64> = line
        .split_whitespace()
        .skip(3)
        .map_while(|word| word.parse().ok())
        .collect();
    Some([*words.get(1)?, *words.get(3)?])
}

#[cfg(test)]
mod tests {
    use super::times;

    #[test]
    fn times_are_those_of_the_whole_life() {
        let text = "  waiting  step   best  p50  p90  p99\n 1000  forget  39  40  49  84\n 1000  whole life  317  322  400  512\n";
        assert_eq!(times(text), Some([322.0, 512.0]));
        assert_eq!(times("nothing"), None);
    }
}
