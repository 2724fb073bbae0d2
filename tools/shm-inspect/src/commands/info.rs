//! `info`: what the segment is, whose it is, how full it is, what it has counted.

use crate::inspected::{Inspected, Origin, daemon_of};
use crate::memory::Memory;
use crate::report::Report;
use crate::show;
use qtf_shm::Now;
use qtf_shm::time::{STAMP_DAYS, STAMP_WARN};
use serde::Serialize;
use std::collections::BTreeMap;
use std::io::{self, Write};

/// The whole of it.
#[derive(Debug, Serialize)]
pub(crate) struct InfoReport {
    schema: &'static str,
    source: Source,
    instance: String,
    segment_id: String,
    layout_version: String,
    layout_hash: String,
    bytes: u64,
    /// Its pages; of an image there are none.
    memory: Option<Memory>,
    mode: String,
    uid: u32,
    created_unix_ms: u64,
    age_ms: u64,
    stamps: Stamps,
    owner: Owner,
    capacity: Capacity,
    /// Tasks by state, as the counters have it.
    tasks: BTreeMap<&'static str, u64>,
    slots_used_high_water: u32,
    arena: Arena,
    keys: Keys,
    counters: BTreeMap<&'static str, u64>,
}

#[derive(Debug, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
enum Source {
    Live {
        shm_id: i32,
    },
    Image {
        file: String,
        of_several_moments: bool,
    },
}

#[derive(Debug, Serialize)]
struct Owner {
    pid: u32,
    /// `alive`, `dead`, or `unknown` for an image.
    state: &'static str,
    epoch: u64,
    stopped_in_order: bool,
    beat_age_ms: u64,
}

#[derive(Debug, Serialize)]
struct Capacity {
    tasks: u32,
    workers: u32,
    clients: u32,
    payload_limit_bytes: u64,
}

#[derive(Debug, Serialize)]
struct Arena {
    bytes: u64,
    blocks: u32,
    blocks_unassigned: u32,
    blocks_for_submissions: u32,
}

/// How much of its time the segment has used; a start moves the origin, see docs/MEMORY.md.
#[derive(Debug, Serialize)]
struct Stamps {
    days_used: u64,
    days: u64,
}

/// Idempotency keys.
#[derive(Debug, Serialize)]
struct Keys {
    capacity: u32,
    used: u64,
    /// Of those, keys of acknowledged tasks: they go when their places are needed.
    spent: u64,
}

impl InfoReport {
    pub(crate) fn new(inspected: &Inspected) -> Self {
        let view = inspected.view();
        let (header, control, geometry) = (view.header(), view.control(), view.geometry());
        let arena = view.arena_usage();
        let keys = if control.keys_used {
            view.keys().iter().fold((0, 0), |(used, spent), key| {
                (used + 1, spent + u64::from(key.spent))
            })
        } else {
            (0, 0)
        };
        Self {
            schema: "qtf.shm-inspect.info/1",
            source: match &inspected.origin {
                Origin::Live { shm_id } => Source::Live { shm_id: *shm_id },
                Origin::Image { file, .. } => Source::Image {
                    file: file.display().to_string(),
                    of_several_moments: inspected.may_be_of_several_moments(),
                },
            },
            instance: header.instance.clone(),
            segment_id: format!("{:#018x}", header.segment_id),
            layout_version: format!("{}.{}", header.layout_major, header.layout_minor),
            layout_hash: format!("{:#018x}", header.layout_hash),
            bytes: header.total_bytes,
            memory: Memory::of(inspected),
            mode: format!("{:04o}", header.mode),
            uid: header.owner_uid,
            created_unix_ms: header.created_unix_ns / 1_000_000,
            age_ms: inspected.segment_age_ms(),
            stamps: Stamps {
                days_used: inspected.now().days(),
                days: STAMP_DAYS,
            },
            owner: Owner {
                pid: daemon_of(view).pid,
                state: match inspected.owner_lives() {
                    Some(true) => "alive",
                    Some(false) => "dead",
                    None => "unknown",
                },
                epoch: control.daemon_epoch,
                stopped_in_order: control.clean_shutdown,
                beat_age_ms: inspected.age_ms(control.daemon_beat),
            },
            capacity: Capacity {
                tasks: geometry.tasks(),
                workers: geometry.workers(),
                clients: geometry.clients(),
                payload_limit_bytes: header.payload_limit,
            },
            tasks: view
                .counters()
                .gauges()
                .map(|(phase, count)| (phase.name(), count))
                .collect(),
            slots_used_high_water: view.high_water(),
            arena: Arena {
                bytes: geometry.arena_bytes(),
                blocks: arena.blocks,
                blocks_unassigned: arena.blocks_unassigned,
                blocks_for_submissions: arena.blocks_for_submissions,
            },
            keys: Keys {
                capacity: view.keys().capacity(),
                used: keys.0,
                spent: keys.1,
            },
            counters: view.counters().named().collect(),
        }
    }
}

impl Report for InfoReport {
    fn write_text(&self, out: &mut dyn Write) -> io::Result<()> {
        let source = match &self.source {
            Source::Live { shm_id } => format!("shared memory id {shm_id}"),
            Source::Image {
                file,
                of_several_moments: false,
            } => format!("image {file}"),
            Source::Image { file, .. } => format!("image {file}, of several moments"),
        };
        let stopped = if self.owner.stopped_in_order {
            ", stopped in order"
        } else {
            ""
        };
        let memory = self.memory.as_ref();
        let of_memory = |text: fn(&Memory, u64) -> String| {
            memory.map_or_else(String::new, |memory| text(memory, self.bytes))
        };
        show::pairs(
            out,
            &[
                ("segment", source),
                ("instance", self.instance.clone()),
                (
                    "owner",
                    format!("pid {}, {}{stopped}", self.owner.pid, self.owner.state),
                ),
                ("epoch", self.owner.epoch.to_string()),
                (
                    "layout",
                    format!("{} ({})", self.layout_version, self.layout_hash),
                ),
                ("size", show::bytes(self.bytes)),
                ("pages", of_memory(Memory::pages_text)),
                ("locked", of_memory(Memory::locked_text)),
                ("memory node", of_memory(Memory::node_text)),
                ("user, mode", format!("{}, {}", self.uid, self.mode)),
                ("age", crate::inspected::Moment::ago_ms(self.age_ms)),
                ("stamps", self.stamps_text()),
                ("task slots", self.capacity.tasks.to_string()),
                ("worker slots", self.capacity.workers.to_string()),
                ("client records", self.capacity.clients.to_string()),
                (
                    "payload limit",
                    show::bytes(self.capacity.payload_limit_bytes),
                ),
                ("arena", self.arena_text()),
                (
                    "idempotency keys",
                    format!(
                        "{} of {}, {} of acknowledged tasks",
                        self.keys.used, self.keys.capacity, self.keys.spent
                    ),
                ),
            ],
        )?;
        writeln!(out, "\ntasks by state")?;
        for (state, count) in self.tasks.iter().filter(|(_, count)| **count > 0) {
            writeln!(out, "  {state:<18} {count}")?;
        }
        writeln!(out, "\ncounters")?;
        for (name, count) in self.counters.iter().filter(|(_, count)| **count > 0) {
            writeln!(out, "  {name:<22} {count}")?;
        }
        Ok(())
    }
}

impl InfoReport {
    fn stamps_text(&self) -> String {
        let Stamps { days_used, days } = self.stamps;
        let advice = if days_used >= Now::from_stamp(STAMP_WARN).days() {
            ": restart qtfd while no local process is attached"
        } else {
            ""
        };
        format!("day {days_used} of {days}{advice}")
    }

    fn arena_text(&self) -> String {
        let used = self
            .arena
            .blocks
            .saturating_sub(self.arena.blocks_unassigned);
        format!(
            "{}, {used} of {} blocks in use",
            show::bytes(self.arena.bytes),
            self.arena.blocks
        )
    }
}
