//! `hist`: what was counted is shown and written out, and another implementation of `HdrHistogram` reads the same from it.

use crate::fixture::{Filled, inspect, inspect_image, json};
use hdrhistogram::Histogram;
use qtf_needs::{Need, lacks, skip};
use qtf_shm::histogram::{HIGHEST_NS, SIGNIFICANT_DIGITS, Stage};
use qtf_shm::segment::Took;
use serde_json::Value;
use std::path::Path;
use std::process::{Command, Stdio};

/// Values of all sizes, counted in the segment and by the crate.
fn count(filled: &Filled, stage: Stage) -> Histogram<u64> {
    let segment = &filled.segment;
    let right = segment.plm_right().unwrap();
    let mut expected = Histogram::new_with_bounds(1, HIGHEST_NS, SIGNIFICANT_DIGITS).unwrap();
    let mut random = fastrand::Rng::with_seed(47);
    // Implementations round the rank of a percentile in different ways: so many each that they mean the same one.
    for _ in 0..2_501 {
        let ns = random.u64(..) >> random.u32(17..=63);
        let took = Took { ns, times: 4 };
        segment.count_stage(right, stage, took, 1_000);
        expected.record_n(ns, took.times).unwrap();
    }
    expected
}

fn assert_is(row: &Value, expected: &Histogram<u64>) {
    assert_eq!(row["count"], expected.len());
    for (name, quantile) in [
        ("p50_ns", 0.5),
        ("p90_ns", 0.9),
        ("p99_ns", 0.99),
        ("p999_ns", 0.999),
        ("p9999_ns", 0.9999),
    ] {
        let wanted = expected.value_at_quantile(quantile);
        assert_eq!(row[name], wanted, "{name}");
    }
    assert!(expected.equivalent(row["most_ns"].as_u64().unwrap(), expected.max()));
}

#[test]
fn hist_shows_what_the_crate_would_have_counted_live_and_from_an_image() {
    let filled = Filled::new();
    let expected = count(&filled, Stage::Wait);
    let all = filled.json(&["hist"]);
    let names: Vec<&str> = all["stages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| row["stage"].as_str().unwrap())
        .collect();
    assert_eq!(names, Stage::ALL.map(Stage::name));
    assert_is(&all["stages"][1], &expected);
    assert_eq!(all["stages"][0]["count"], 0);
    let image = filled.image();
    let one = json(["--json", "hist", "wait", "--image", image.to_str().unwrap()]);
    assert_is(&one["stages"][0], &expected);
    let text = inspect_image(&image, &["hist", "run"]);
    let text = String::from_utf8(text.stdout).unwrap();
    assert!(
        text.lines().nth(1).unwrap().starts_with("run    0"),
        "{text}"
    );
}

#[test]
fn step_that_there_is_not_is_refused_with_those_that_there_are_and_a_log_is_never_overwritten() {
    let refused = inspect(["hist", "nap"]);
    assert_eq!(refused.status.code(), Some(2));
    let text = String::from_utf8(refused.stderr).unwrap();
    assert!(text.contains("admit, wait, decide"), "{text}");
    let filled = Filled::new();
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log");
    std::fs::write(&log, "kept").unwrap();
    let refused = filled.inspect(&["hist", "--log", log.to_str().unwrap()]);
    assert_eq!(refused.status.code(), Some(2));
    assert_eq!(std::fs::read_to_string(&log).unwrap(), "kept");
}

#[test]
fn log_is_read_by_another_implementation_with_the_same_percentiles() {
    let filled = Filled::new();
    let expected = [Stage::Wait, Stage::Sync].map(|stage| (stage, count(&filled, stage)));
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("steps.hlog");
    filled.json(&["hist", "--log", log.to_str().unwrap()]);
    let Some(python) = python() else {
        return;
    };
    let read = Command::new(python)
        .args(["-c", READER])
        .arg(&log)
        .output()
        .unwrap();
    assert!(read.status.success(), "{read:?}");
    let mut wanted = String::new();
    for (stage, histogram) in expected {
        let at = |percent: f64| histogram.value_at_quantile(percent / 100.0);
        wanted += &format!(
            "{} {} {} {} {} {}\n",
            stage.name(),
            histogram.len(),
            at(50.0),
            at(90.0),
            at(99.0),
            at(99.9)
        );
    }
    assert_eq!(String::from_utf8(read.stdout).unwrap(), wanted);
}

const READER: &str = "
import sys
from hdrh.histogram import HdrHistogram
from hdrh.log import HistogramLogReader
reader = HistogramLogReader(sys.argv[1], HdrHistogram(1, (1 << 47) - 1, 2))
while True:
    one = reader.get_next_interval_histogram()
    if one is None:
        break
    values = [one.get_value_at_percentile(p) for p in (50, 90, 99, 99.9)]
    print(one.get_tag(), one.get_total_count(), *values)
";

/// An interpreter with the package, in an environment below `target`; else the test is said to be skipped.
fn python() -> Option<std::path::PathBuf> {
    if lacks(Need::Python) {
        return None;
    }
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("hdrhistogram-python");
    std::fs::create_dir_all(&folder).unwrap();
    // Another run of this test may make it at this moment.
    let lock = std::fs::File::create(folder.join("lock")).unwrap();
    lock.lock().unwrap();
    let python = folder.join("venv/bin/python");
    let has_package = |python: &Path| {
        let mut import = Command::new(python);
        let import = import.args(["-c", "import hdrh"]).stderr(Stdio::null());
        import.status().is_ok_and(|status| status.success())
    };
    if has_package(&python) {
        return Some(python);
    }
    let run = |command: &mut Command| match command.stdin(Stdio::null()).output() {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        Err(error) => Err(error.to_string()),
    };
    let mut venv = Command::new("python3");
    let mut install = Command::new(&python);
    let made = run(venv
        .args(["-m", "venv", "--clear"])
        .arg(folder.join("venv")))
    .and_then(|()| {
        run(install.args([
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "hdrhistogram==0.10.8",
        ]))
    });
    match made {
        Ok(()) => Some(python),
        Err(why) => {
            skip(Need::Python, why);
            None
        }
    }
}
