//! `lanes`: what the local processes that are attached and the daemon have said to each other, and what waits.

use crate::inspected::Inspected;
use crate::report::Report;
use crate::show::Columns;
use qtf_shm::AttachIndex;
use serde::Serialize;
use std::io::{self, Write};

/// Of a process that has opened no lane.
const CLOSED: &str = "closed";

/// All lanes of processes that are attached.
#[derive(Debug, Serialize)]
pub(crate) struct LanesReport {
    schema: &'static str,
    lanes: Vec<Lane>,
}

/// One lane.
#[derive(Debug, Serialize)]
struct Lane {
    attach: u16,
    name: String,
    role: &'static str,
    pid: u32,
    /// `closed`, or what its owner does: `awake`, `asleep`.
    owner: &'static str,
    commands: Ring,
    events: Ring,
    missed: u64,
    /// The owner has not looked since it missed something.
    has_missed: bool,
    consistent: bool,
}

/// Counts of one ring.
#[derive(Debug, Serialize)]
struct Ring {
    put: u64,
    taken: u64,
    size: u64,
}

impl Ring {
    const fn of((put, taken): (u64, u64), size: u64) -> Self {
        Self { put, taken, size }
    }

    /// How many wait of how many that were put in; or that this cannot be.
    fn for_people(&self) -> String {
        let (put, taken) = (self.put, self.taken);
        let waiting = put.wrapping_sub(taken);
        if waiting <= self.size {
            format!("{waiting} of {put}")
        } else {
            format!("{put} in, {taken} out: cannot be")
        }
    }
}

impl LanesReport {
    pub(crate) fn new(inspected: &Inspected) -> Self {
        let view = inspected.view();
        // The daemon is the other side of each.
        let others = view
            .attached()
            .filter(|info| info.index != AttachIndex::DAEMON);
        let lanes = others.filter_map(|info| {
            let lane = view.lane_info(info.index)?;
            Some(Lane {
                attach: info.index.get(),
                name: info.name,
                role: info
                    .role
                    .map_or("unknown", qtf_shm::layout::attach::AttachRole::name),
                pid: info.process.pid,
                owner: match (lane.is_open, lane.is_asleep) {
                    (false, _) => CLOSED,
                    (true, true) => "asleep",
                    (true, false) => "awake",
                },
                commands: Ring::of(lane.commands, lane.sizes.0),
                events: Ring::of(lane.events, lane.sizes.1),
                missed: lane.missed,
                has_missed: lane.is_mark_set,
                consistent: lane.makes_sense(),
            })
        });
        Self {
            schema: "qtf.shm-inspect.lanes/1",
            lanes: lanes.collect(),
        }
    }
}

impl Report for LanesReport {
    fn write_text(&self, out: &mut dyn Write) -> io::Result<()> {
        let mut columns = Columns::new([
            "attach", "name", "role", "pid", "commands", "events", "missed", "owner",
        ]);
        for lane in &self.lanes {
            let is_open = lane.owner != CLOSED;
            let counts = |ring: &Ring| {
                if is_open {
                    ring.for_people()
                } else {
                    String::new()
                }
            };
            let missed = if is_open && lane.has_missed {
                format!("{}, not seen", lane.missed)
            } else {
                lane.missed.to_string()
            };
            columns.row([
                lane.attach.to_string(),
                lane.name.clone(),
                lane.role.to_owned(),
                lane.pid.to_string(),
                counts(&lane.commands),
                counts(&lane.events),
                missed,
                lane.owner.to_owned(),
            ]);
        }
        columns.write(out)
    }
}
