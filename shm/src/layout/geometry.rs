//! How large a segment is and what fits into it: the one formula, used by the layout and by `qtf size`.
//!
//! Invariants:
//! - I1: a `Geometry` that exists is within the limits below, so no arithmetic on it overflows.
//! - I2: `total_bytes` is a multiple of 4 KiB and holds all regions.
//!
//! Tested at the end of this file.

use crate::histogram::{STAGE_WORDS, Stage};
use crate::id::{KINDS_COUNT, TASKS_COUNT_MAX, WORKERS_COUNT_MAX};
use crate::layout::lane::LaneLayout;
use crate::layout::region_table::{PAGE_BYTES, RegionTable};

/// The default size: 256 MiB.
pub const DEFAULT_BYTES: u64 = 256 << 20;
/// Smallest segment that `for_bytes` makes.
pub const BYTES_MIN: u64 = 1 << 20;
/// LIMIT: keeps every product below 2^40; no machine of today has more for this.
pub const BYTES_MAX: u64 = 1 << 40;

const ARENA_BLOCK_BYTES: u64 = 64 << 10;
/// LIMIT: a slot names a unit of 64 bytes by 31 bits and keeps one number for "none"; a block has 1,024 units.
const ARENA_BLOCKS_MAX: u32 = (1 << 21) - 1;
const TASKS_GRANULE: u64 = 4096;
/// Small segments have as many task slots as leave their arena its share, in pages of 64.
const TASKS_GRANULE_SMALL: u64 = 64;
const BYTES_PER_TASK: u64 = 256;
const BYTES_PER_WORKER: u64 = 16 << 10;
/// Workers that `for_bytes` makes room for at one in so many bytes, and from there on in so many more; whoever wants more says how many.
const WORKERS_DENSE_MAX: u32 = 4095;
const BYTES_PER_WORKER_BEYOND: u64 = 128 << 10;
/// The layout before this one had 12 bits for an owner.
const EARLIER_OWNERS_MAX: u32 = 4095;
/// An arena has at least a fifth of a segment that is divided by bytes.
const ARENA_SHARE: u64 = 5;
const ARENA_BYTES_PER_TASK: u64 = 96;
const ARENA_BYTES_MIN: u64 = 1 << 20;
const ARENA_BYTES_MAX: u64 = ARENA_BLOCKS_MAX as u64 * ARENA_BLOCK_BYTES;
const IDEMPOTENCY_BYTES_MAX: u64 = 8 << 20;
/// The idempotency table takes a thirty-second of the segment.
const IDEMPOTENCY_SHARE: u64 = 32;

/// How many entries the tables, the histograms and the flight recorder have: they follow from the task and worker slots, and the
/// header says them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TableCounts {
    /// Names of labels, resources, principals, queues and limits.
    pub names: u32,
    /// Principals.
    pub principals: u32,
    /// Queues.
    pub queues: u32,
    /// Shapes.
    pub shapes: u32,
    /// Lines.
    pub lines: u32,
    /// Stages that have a histogram.
    pub stages: u32,
    /// Events of the flight recorder.
    pub events: u32,
    /// Errors.
    pub errors: u32,
}

/// LIMIT: principals, queues, shapes and lines have numbers of 16 bits; the others fit where those do.
const TABLE_ENTRIES_MAX: u32 = 65_535;

impl TableCounts {
    /// What follows from the slots: powers of two, between what a small segment wants and what a large one can use.
    fn of(tasks: u32, workers: u32) -> Self {
        let by_workers = |share: u32, least: u32, most: u32| {
            let wanted = (workers / share).max(1);
            wanted.next_power_of_two().clamp(least, most)
        };
        let by_tasks = |share: u32, least: u32, most: u32| {
            let wanted = (tasks / share).max(1);
            (1 << wanted.ilog2()).clamp(least, most)
        };
        Self {
            names: by_workers(4, 64, 1024),
            principals: by_tasks(64, 64, 1024),
            queues: by_workers(16, 16, 256),
            shapes: by_tasks(128, 32, 512),
            lines: by_workers(8, 32, 512),
            stages: limit(Stage::COUNT as u64, TABLE_ENTRIES_MAX),
            events: by_tasks(4, 256, 8192),
            errors: 64,
        }
    }

    /// None is 0 or more than there can be.
    fn are_possible(&self) -> bool {
        let counts = [
            self.names,
            self.principals,
            self.queues,
            self.shapes,
            self.lines,
            self.stages,
            self.events,
            self.errors,
        ];
        counts
            .iter()
            .all(|count| (1..=TABLE_ENTRIES_MAX).contains(count))
    }
}

/// The sizes of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Geometry {
    total_bytes: u64,
    tasks: u32,
    workers: u32,
    clients: u32,
    attaches: u32,
    arena_blocks: u32,
    idempotency_bytes: u64,
    tables: TableCounts,
}

/// One line of the formula.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SizeLine {
    /// The region.
    pub name: &'static str,
    /// Elements.
    pub count: u64,
    /// Bytes of one element.
    pub unit_bytes: u64,
    /// Bytes of the region, with its padding to 4 KiB.
    pub bytes: u64,
}

/// Sizes that no segment can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum GeometryError {
    /// Too few bytes.
    #[error("{bytes} bytes are too few for a segment: at least {minimum} are needed")]
    TooSmall {
        /// What was asked for.
        bytes: u64,
        /// What would do.
        minimum: u64,
    },
    /// Too many bytes.
    #[error("{bytes} bytes are too many for a segment: at most {BYTES_MAX}")]
    TooLarge {
        /// What was asked for.
        bytes: u64,
    },
    /// Number of tasks out of range.
    #[error("{0} task slots: 1 to {TASKS_COUNT_MAX} are possible")]
    Tasks(u64),
    /// Number of workers out of range.
    #[error("{0} worker slots: 1 to {WORKERS_COUNT_MAX} are possible")]
    Workers(u64),
    /// Some other number out of range.
    #[error("{what} {value}: 1 to {maximum} are possible")]
    OutOfRange {
        /// Which number.
        what: &'static str,
        /// Its value.
        value: u64,
        /// Its maximum.
        maximum: u64,
    },
}

impl Default for Geometry {
    fn default() -> Self {
        // INVARIANT: tested below; the fallback keeps the constructor free of a panic.
        Self::for_bytes(DEFAULT_BYTES).unwrap_or(Self {
            total_bytes: 0,
            tasks: 1,
            workers: 1,
            clients: 1,
            attaches: 1,
            arena_blocks: 1,
            idempotency_bytes: 0,
            tables: TableCounts::of(1, 1),
        })
    }
}

impl Geometry {
    /// Divides `total_bytes`: a task slot for each 256 bytes, a worker slot for each 16 KiB up to 4,095 and from 512 MiB on for each
    /// 128 KiB, what is left is the arena. It has a fifth at least: of a small segment, in which tables and histograms take much, there are so many
    /// fewer task slots.
    ///
    /// # Errors
    /// Fewer than 1 MiB or more than 1 TiB.
    pub fn for_bytes(total_bytes: u64) -> Result<Self, GeometryError> {
        if total_bytes < BYTES_MIN {
            return Err(GeometryError::TooSmall {
                bytes: total_bytes,
                minimum: BYTES_MIN,
            });
        }
        if total_bytes > BYTES_MAX {
            return Err(GeometryError::TooLarge { bytes: total_bytes });
        }
        let total_bytes = total_bytes - total_bytes % PAGE_BYTES;
        let tasks = (total_bytes / BYTES_PER_TASK / TASKS_GRANULE).max(1) * TASKS_GRANULE;
        let tasks = limit(tasks, TASKS_COUNT_MAX);
        let workers = limit(total_bytes / BYTES_PER_WORKER, WORKERS_DENSE_MAX).max(limit(
            total_bytes / BYTES_PER_WORKER_BEYOND,
            WORKERS_COUNT_MAX,
        ));
        let geometry = Self::divided(total_bytes, tasks, workers);
        let share = (total_bytes / ARENA_SHARE).min(ARENA_BYTES_MAX);
        if geometry.arena_bytes() >= share {
            return Ok(geometry);
        }
        let granule = limit(TASKS_GRANULE_SMALL, TASKS_COUNT_MAX);
        let (mut low, mut high) = (1, tasks / granule);
        while low < high {
            let middle = low + (high - low).div_ceil(2);
            if Self::divided(total_bytes, middle * granule, workers).arena_bytes() >= share {
                low = middle;
            } else {
                high = middle - 1;
            }
        }
        Ok(Self::divided(total_bytes, low * granule, workers))
    }

    /// So many bytes with so many slots and the largest arena that fits.
    fn divided(total_bytes: u64, tasks: u32, workers: u32) -> Self {
        let mut geometry = Self::of_counts(tasks, workers);
        geometry.idempotency_bytes = idempotency_share(total_bytes);
        let (mut low, mut high) = (1, limit(total_bytes / ARENA_BLOCK_BYTES, ARENA_BLOCKS_MAX));
        while low < high {
            geometry.arena_blocks = low + (high - low).div_ceil(2);
            if RegionTable::of(&geometry).end() <= total_bytes {
                low = geometry.arena_blocks;
            } else {
                high = geometry.arena_blocks - 1;
            }
        }
        geometry.arena_blocks = low;
        geometry.total_bytes = total_bytes;
        geometry
    }

    /// As many slots as asked for, and an arena of 96 bytes a task, at least 1 MiB.
    ///
    /// # Errors
    /// A count is 0 or above what an id can name.
    pub fn for_counts(tasks: u64, workers: u64) -> Result<Self, GeometryError> {
        let tasks = checked(tasks, TASKS_COUNT_MAX).ok_or(GeometryError::Tasks(tasks))?;
        let workers = checked(workers, WORKERS_COUNT_MAX).ok_or(GeometryError::Workers(workers))?;
        let arena_bytes = (u64::from(tasks) * ARENA_BYTES_PER_TASK).max(ARENA_BYTES_MIN);
        Self::of_counts(tasks, workers).with_arena_bytes(arena_bytes)
    }

    /// The same with another arena, rounded up to 64 KiB.
    ///
    /// # Errors
    /// 128 GiB or more.
    pub fn with_arena_bytes(mut self, bytes: u64) -> Result<Self, GeometryError> {
        let blocks = bytes.div_ceil(ARENA_BLOCK_BYTES).max(1);
        self.arena_blocks = checked(blocks, ARENA_BLOCKS_MAX).ok_or(GeometryError::OutOfRange {
            what: "arena bytes",
            value: bytes,
            maximum: u64::from(ARENA_BLOCKS_MAX) * ARENA_BLOCK_BYTES,
        })?;
        self.idempotency_bytes = 0;
        let without = RegionTable::of(&self).end();
        // A thirty-second of the whole is a thirty-first of the rest.
        self.idempotency_bytes =
            idempotency_share(without / (IDEMPOTENCY_SHARE - 1) * IDEMPOTENCY_SHARE);
        self.total_bytes = RegionTable::of(&self).end();
        Ok(self)
    }

    /// The geometry of half the bytes; `None` below 1 MiB.
    #[must_use]
    pub fn halved(&self) -> Option<Self> {
        Self::for_bytes(self.total_bytes / 2).ok()
    }

    /// Rebuilds a geometry from the numbers in a header; `None` if they contradict each other.
    pub(crate) fn from_header(header: &crate::layout::header::HeaderInfo) -> Option<Self> {
        let geometry = Self {
            total_bytes: header.total_bytes,
            tasks: checked(header.tasks, TASKS_COUNT_MAX)?,
            workers: checked(header.workers, WORKERS_COUNT_MAX)?,
            clients: checked(header.clients, u32::from(u16::MAX))?,
            attaches: checked(header.attaches, WORKERS_COUNT_MAX)?,
            arena_blocks: checked(header.arena_blocks, ARENA_BLOCKS_MAX)?,
            idempotency_bytes: Some(header.idempotency_bytes)
                .filter(|&bytes| bytes <= IDEMPOTENCY_BYTES_MAX)?,
            tables: Some(header.tables).filter(TableCounts::are_possible)?,
        };
        let fits = RegionTable::of(&geometry).end() <= header.total_bytes
            && header.total_bytes <= BYTES_MAX
            && header.total_bytes.is_multiple_of(PAGE_BYTES)
            && header.kinds == u64::from(KINDS_COUNT)
            && header.stage_words == STAGE_WORDS as u64
            && header.lane_bytes == size_of::<LaneLayout>() as u64;
        fits.then_some(geometry)
    }

    /// The sizes of a segment of an earlier layout, with the tables of this one; `None` if they cannot be.
    pub(crate) fn keeping(earlier: &crate::layout::header::HeaderInfo) -> Option<Self> {
        let tasks = checked(earlier.tasks, TASKS_COUNT_MAX)?;
        let workers = checked(earlier.workers, EARLIER_OWNERS_MAX)?;
        let mut geometry = Self {
            total_bytes: 0,
            tasks,
            workers,
            clients: checked(earlier.clients, u32::from(u16::MAX))?,
            attaches: checked(earlier.attaches, EARLIER_OWNERS_MAX)?,
            arena_blocks: checked(earlier.arena_blocks, ARENA_BLOCKS_MAX)?,
            idempotency_bytes: Some(earlier.idempotency_bytes)
                .filter(|&bytes| bytes <= IDEMPOTENCY_BYTES_MAX)?,
            tables: TableCounts::of(tasks, workers),
        };
        geometry.total_bytes = RegionTable::of(&geometry).end();
        (geometry.total_bytes <= BYTES_MAX).then_some(geometry)
    }

    fn of_counts(tasks: u32, workers: u32) -> Self {
        Self {
            total_bytes: 0,
            tasks,
            workers,
            clients: (workers / 4).clamp(64, 1024),
            attaches: (workers / 16).clamp(16, 256),
            arena_blocks: 1,
            idempotency_bytes: 0,
            tables: TableCounts::of(tasks, workers),
        }
    }

    /// Bytes of the whole segment.
    #[must_use]
    pub const fn total_bytes(&self) -> u64 {
        self.total_bytes
    }

    /// Task slots.
    #[must_use]
    pub const fn tasks(&self) -> u32 {
        self.tasks
    }

    /// Worker slots.
    #[must_use]
    pub const fn workers(&self) -> u32 {
        self.workers
    }

    /// Client records.
    #[must_use]
    pub const fn clients(&self) -> u32 {
        self.clients
    }

    /// Attach records.
    #[must_use]
    pub const fn attaches(&self) -> u32 {
        self.attaches
    }

    /// Entries of the kind table.
    #[must_use]
    pub const fn kinds(&self) -> u32 {
        KINDS_COUNT
    }

    /// Blocks of 64 KiB in the arena.
    #[must_use]
    pub const fn arena_blocks(&self) -> u32 {
        self.arena_blocks
    }

    /// Bytes for payloads and results.
    #[must_use]
    pub fn arena_bytes(&self) -> u64 {
        u64::from(self.arena_blocks) * ARENA_BLOCK_BYTES
    }

    /// Bytes of the idempotency table.
    #[must_use]
    pub const fn idempotency_bytes(&self) -> u64 {
        self.idempotency_bytes
    }

    /// Entries of the tables, histograms and the flight recorder.
    #[must_use]
    pub const fn tables(&self) -> TableCounts {
        self.tables
    }

    /// Where each region lies.
    #[must_use]
    pub fn regions(&self) -> RegionTable {
        RegionTable::of(self)
    }

    /// The formula: one line a region, in the order in which they lie. The bytes add up to `total_bytes`.
    #[must_use]
    pub fn lines(&self) -> Vec<SizeLine> {
        let table = self.regions();
        let mut lines: Vec<SizeLine> = table
            .iter()
            .map(|(kind, entry)| SizeLine {
                name: kind.name(),
                count: entry.count,
                unit_bytes: entry.unit_bytes,
                bytes: entry.bytes.next_multiple_of(PAGE_BYTES),
            })
            .collect();
        let rest = self.total_bytes.saturating_sub(table.end());
        if rest > 0 {
            lines.push(SizeLine {
                name: "unused",
                count: rest / PAGE_BYTES,
                unit_bytes: PAGE_BYTES,
                bytes: rest,
            });
        }
        lines
    }
}

fn idempotency_share(total_bytes: u64) -> u64 {
    let share = (total_bytes / IDEMPOTENCY_SHARE).min(IDEMPOTENCY_BYTES_MAX);
    share - share % PAGE_BYTES
}

fn limit(value: u64, maximum: u32) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX).clamp(1, maximum)
}

fn checked(value: u64, maximum: u32) -> Option<u32> {
    u32::try_from(value)
        .ok()
        .filter(|&value| value >= 1 && value <= maximum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_segment_has_a_million_tasks_and_4095_workers() {
        let geometry = Geometry::default();
        assert_eq!(geometry.total_bytes(), 268_435_456);
        assert_eq!((geometry.tasks(), geometry.workers()), (1_048_576, 4095));
        assert_eq!(geometry.arena_blocks(), 1379);
    }

    #[test]
    fn a_segment_of_8_gib_has_as_many_workers_as_an_id_can_name() {
        let workers = |bytes| Geometry::for_bytes(bytes).unwrap().workers();
        assert_eq!(workers(511 << 20), 4095);
        assert_eq!(workers(512 << 20), 4096);
        assert_eq!(workers(1 << 30), 8192);
        assert_eq!(workers(8 << 30), WORKERS_COUNT_MAX);
        assert_eq!(workers(BYTES_MAX), WORKERS_COUNT_MAX);
    }

    #[test]
    fn segments_of_any_size_keep_a_fifth_for_the_arena() {
        let mut geometry = Geometry::for_bytes(64 << 20).unwrap();
        assert_eq!((geometry.tasks(), geometry.workers()), (262_144, 4095));
        while let Some(half) = geometry.halved() {
            let (share, bytes) = (half.total_bytes() / 5, half.arena_bytes());
            assert!(bytes >= share, "{bytes} bytes of arena: {half:?}");
            assert!(
                u64::from(half.tasks()) >= half.total_bytes() / 1024,
                "{half:?}"
            );
            geometry = half;
        }
    }

    #[test]
    fn tables_follow_from_the_slots() {
        let seed = Geometry::for_counts(10_000, 1_000).unwrap().tables();
        let counts = |tables: TableCounts| {
            [
                tables.names,
                tables.principals,
                tables.queues,
                tables.shapes,
                tables.lines,
                tables.stages,
                tables.events,
                tables.errors,
            ]
        };
        assert_eq!(counts(seed), [256, 128, 64, 64, 128, 8, 2048, 64]);
        let default = Geometry::default().tables();
        assert_eq!(counts(default), [1024, 1024, 256, 512, 512, 8, 8192, 64]);
    }

    #[test]
    fn ten_thousand_tasks_and_a_thousand_workers_fit_in_4_mib() {
        let geometry = Geometry::for_counts(10_000, 1_000).unwrap();
        assert_eq!(geometry.total_bytes(), 4_169_728);
        assert!(geometry.total_bytes() <= 4 << 20);
        assert_eq!((geometry.tasks(), geometry.workers()), (10_000, 1_000));
        assert!(geometry.arena_bytes() >= 1 << 20);
    }

    #[test]
    fn lines_add_up_and_regions_do_not_overlap() {
        for geometry in [
            Geometry::default(),
            Geometry::for_bytes(BYTES_MIN).unwrap(),
            Geometry::for_bytes(5_000_000).unwrap(),
            Geometry::for_counts(1, 1).unwrap(),
            Geometry::for_counts(u64::from(TASKS_COUNT_MAX), u64::from(WORKERS_COUNT_MAX)).unwrap(),
            Geometry::for_bytes(BYTES_MAX).unwrap(),
        ] {
            let sum: u64 = geometry.lines().iter().map(|line| line.bytes).sum();
            assert_eq!(sum, geometry.total_bytes(), "{geometry:?}");
            let mut end = 0;
            for (kind, entry) in geometry.regions().iter() {
                assert_eq!(entry.offset % PAGE_BYTES, 0, "{kind:?}");
                assert!(entry.offset >= end, "{kind:?}");
                end = entry.offset + entry.bytes;
            }
            assert!(end <= geometry.total_bytes());
        }
    }

    #[test]
    fn halving_ends_at_the_smallest_segment() {
        let mut geometry = Geometry::default();
        let mut steps = 0;
        while let Some(half) = geometry.halved() {
            assert!(half.total_bytes() < geometry.total_bytes());
            geometry = half;
            steps += 1;
        }
        assert_eq!((steps, geometry.total_bytes()), (8, BYTES_MIN));
    }

    #[test]
    fn sizes_out_of_range_are_refused() {
        assert!(Geometry::for_bytes(0).is_err());
        assert!(Geometry::for_bytes(u64::MAX).is_err());
        assert!(Geometry::for_counts(0, 1).is_err());
        assert!(Geometry::for_counts(1, 0).is_err());
        assert!(Geometry::for_counts(u64::MAX, 1).is_err());
        assert!(Geometry::for_counts(1, u64::from(WORKERS_COUNT_MAX) + 1).is_err());
        assert!(
            Geometry::for_counts(1, 1)
                .unwrap()
                .with_arena_bytes(u64::MAX)
                .is_err()
        );
    }
}
