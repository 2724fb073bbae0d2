//! `qtf size`.

use std::io::Write as _;

use qtf_shm::{Geometry, SizeLine};
use serde::Serialize;

use crate::args::{GlobalArgs, OutputMode, SizeArgs};
use crate::exit::{Ending, Exit, Failure};
use crate::output::{print_json, write_table};

/// Size of a segment when nothing is said: 256 MiB.
const DEFAULT_BYTES: u64 = 256 << 20;

#[derive(Serialize)]
struct SizeRecord {
    total_bytes: u64,
    tasks: u64,
    workers: u64,
    arena_bytes: u64,
    regions: Vec<RegionRecord>,
}

#[derive(Serialize)]
struct RegionRecord {
    name: &'static str,
    count: u64,
    unit_bytes: u64,
    bytes: u64,
}

impl From<&SizeLine> for RegionRecord {
    fn from(line: &SizeLine) -> Self {
        RegionRecord {
            name: line.name,
            count: line.count,
            unit_bytes: line.unit_bytes,
            bytes: line.bytes,
        }
    }
}

/// Prints the formula and its result.
pub(crate) fn run(args: &SizeArgs, global: &GlobalArgs) -> Ending {
    let geometry = match (args.tasks, args.workers, args.bytes) {
        (Some(tasks), Some(workers), _) => Geometry::for_counts(tasks.into(), workers.into()),
        (_, _, bytes) => Geometry::for_bytes(bytes.unwrap_or(DEFAULT_BYTES)),
    }
    .map_err(Failure::usage)?;
    let record = SizeRecord {
        total_bytes: geometry.total_bytes(),
        tasks: geometry.tasks().into(),
        workers: geometry.workers().into(),
        arena_bytes: geometry.arena_bytes(),
        regions: geometry.lines().iter().map(RegionRecord::from).collect(),
    };
    match global.mode() {
        OutputMode::Table => print_table(&record)?,
        OutputMode::Json | OutputMode::Jsonl => print_json("qtf.size/1", &record)?,
    }
    Ok(Exit::Ok)
}

fn print_table(record: &SizeRecord) -> std::io::Result<()> {
    let row = |region: &RegionRecord| {
        let name = region.name.to_owned();
        vec![
            name,
            region.count.to_string(),
            region.unit_bytes.to_string(),
            region.bytes.to_string(),
        ]
    };
    let rows: Vec<Vec<String>> = record.regions.iter().map(row).collect();
    let mut out = std::io::stdout().lock();
    write_table(&["REGION", "COUNT", "EACH", "BYTES"], &rows, None, &mut out)?;
    writeln!(
        out,
        "\n{} tasks, {} workers, {} bytes of arena: {} bytes = {:.1} MiB",
        record.tasks,
        record.workers,
        record.arena_bytes,
        record.total_bytes,
        mebibytes(record.total_bytes)
    )?;
    out.flush()
}

fn mebibytes(bytes: u64) -> f64 {
    // For display: 1/1000 MiB is enough.
    let thousandths = bytes.saturating_mul(1000) >> 20;
    f64::from(u32::try_from(thousandths).unwrap_or(u32::MAX)) / 1000.0
}
