//! `hist [STAGE] [--log FILE]`: how long the steps of tasks took, live and after the death of the daemon.
//!
//! What is shown, and written out, is what the counts say: a histogram of the crate `hdrhistogram` is filled with them. Counts that change
//! while they are copied make a value more or less. Tested in `tests/inspect/hist.rs`.

use crate::failure::{Code, Failure};
use crate::inspected::Inspected;
use crate::report::Report;
use crate::show::{self, Columns};
use hdrhistogram::serialization::V2DeflateSerializer;
use hdrhistogram::serialization::interval_log::{IntervalLogWriterBuilder, Tag};
use hdrhistogram::{CreationError, Histogram};
use qtf_shm::Now;
use qtf_shm::histogram::{HIGHEST_NS, SIGNIFICANT_DIGITS, Stage, StageReading, least_at};
use qtf_shown::text::visible;
use serde::Serialize;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

/// The quantiles that are shown.
const QUANTILES: [f64; 5] = [0.5, 0.9, 0.99, 0.999, 0.9999];

/// The answer.
#[derive(Debug, Serialize)]
pub(crate) struct HistReport {
    schema: &'static str,
    stages: Vec<StageRow>,
    /// Where they were written to, as a log.
    log: Option<String>,
}

#[derive(Debug, Serialize)]
struct StageRow {
    stage: &'static str,
    count: u64,
    /// How long ago the first value was counted.
    since_ms_ago: Option<u64>,
    least_ns: u64,
    mean_ns: u64,
    p50_ns: u64,
    p90_ns: u64,
    p99_ns: u64,
    p999_ns: u64,
    p9999_ns: u64,
    most_ns: u64,
    /// Values that were longer than a histogram tells apart: 39 hours.
    beyond: u64,
}

/// One stage, as the segment has it and as the crate has it.
struct Filled {
    reading: StageReading,
    histogram: Histogram<u64>,
}

impl HistReport {
    pub(crate) fn new(
        inspected: &Inspected,
        stage: Option<Stage>,
        log: Option<&Path>,
    ) -> Result<Self, Failure> {
        let stages = match stage {
            Some(stage) => vec![stage],
            None => Stage::ALL.to_vec(),
        };
        let mut filled = Vec::with_capacity(stages.len());
        for stage in stages {
            let reading = inspected.view().stage(stage).ok_or_else(|| {
                Failure::new(
                    Code::NotFound,
                    format!("the segment has no histogram for `{}`", stage.name()),
                )
            })?;
            let histogram = histogram_of(&reading).map_err(|error| {
                Failure::new(Code::Unreadable, format!("{}: {error}", stage.name()))
            })?;
            filled.push(Filled { reading, histogram });
        }
        if let Some(path) = log {
            write_log(inspected, &filled, path).map_err(|error| {
                Failure::new(
                    Code::Usage,
                    format!("cannot write {}: {error}", path.display()),
                )
            })?;
        }
        let now = inspected.now();
        Ok(Self {
            schema: "qtf.shm-inspect.hist/1",
            stages: filled.iter().map(|filled| filled.row(now)).collect(),
            log: log.map(|path| path.display().to_string()),
        })
    }
}

impl Filled {
    fn row(&self, now: Now) -> StageRow {
        let (reading, count) = (&self.reading, self.histogram.len());
        let [p50_ns, p90_ns, p99_ns, p999_ns, p9999_ns] =
            QUANTILES.map(|quantile| self.histogram.value_at_quantile(quantile));
        StageRow {
            stage: reading.stage.name(),
            count,
            since_ms_ago: (count > 0)
                .then(|| now.since_ns(Now::from_stamp(reading.since)) / 1_000_000),
            least_ns: reading.least_ns,
            mean_ns: reading.sum_ns.checked_div(count).unwrap_or(0),
            p50_ns,
            p90_ns,
            p99_ns,
            p999_ns,
            p9999_ns,
            most_ns: reading.most_ns,
            beyond: reading.beyond,
        }
    }
}

/// A histogram of the crate with these counts. A damaged segment may have any.
fn histogram_of(reading: &StageReading) -> Result<Histogram<u64>, CreationError> {
    let mut histogram = Histogram::new_with_bounds(1, HIGHEST_NS, SIGNIFICANT_DIGITS)?;
    for (place, &count) in reading.counts.iter().enumerate() {
        if count > 0 {
            histogram.saturating_record_n(least_at(place), count);
        }
    }
    Ok(histogram)
}

/// Writes one interval a stage, from its first value until now.
fn write_log(inspected: &Inspected, stages: &[Filled], path: &Path) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).open(path)?;
    let header = inspected.view().header();
    let mut serializer = V2DeflateSerializer::new();
    let mut log = IntervalLogWriterBuilder::new();
    log.add_comment("Quantum Taskflow: how long the steps of tasks took, ns")
        .with_start_time(UNIX_EPOCH + Duration::from_nanos(header.created_unix_ns));
    let mut log = log.begin_log_with(&mut file, &mut serializer)?;
    let (created, now) = (Now::from_ns(header.created_ns), inspected.now());
    for Filled { reading, histogram } in stages.iter().filter(|one| !one.histogram.is_empty()) {
        let since = Now::from_stamp(reading.since);
        log.write_histogram(
            histogram,
            Duration::from_nanos(since.since_ns(created)),
            Duration::from_nanos(now.since_ns(since)),
            Tag::new(reading.stage.name()),
        )
        .map_err(|error| io::Error::other(error.to_string()))?;
    }
    file.sync_all()
}

impl Report for HistReport {
    fn write_text(&self, out: &mut dyn Write) -> io::Result<()> {
        let mut columns = Columns::new([
            "stage", "count", "least", "mean", "p50", "p90", "p99", "p99.9", "p99.99", "most",
        ]);
        for row in &self.stages {
            let times = [
                row.least_ns,
                row.mean_ns,
                row.p50_ns,
                row.p90_ns,
                row.p99_ns,
                row.p999_ns,
                row.p9999_ns,
                row.most_ns,
            ];
            let [least, mean, p50, p90, p99, p999, p9999, most] = if row.count > 0 {
                times.map(show::duration_ns)
            } else {
                times.map(|_| "-".to_owned())
            };
            let count = row.count.to_string();
            columns.row([
                row.stage.to_owned(),
                count,
                least,
                mean,
                p50,
                p90,
                p99,
                p999,
                p9999,
                most,
            ]);
        }
        columns.write(out)?;
        for row in self.stages.iter().filter(|row| row.beyond > 0) {
            writeln!(out, "{}: {} longer than 39 h", row.stage, row.beyond)?;
        }
        match &self.log {
            Some(log) => writeln!(out, "written to {}", visible(log)),
            None => Ok(()),
        }
    }
}
