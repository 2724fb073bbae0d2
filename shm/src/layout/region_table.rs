//! Which regions a segment has, in which order, and where each one starts.
//!
//! Invariants:
//! - I1: regions lie in the order of [`RegionKind::ALL`], each at a multiple of 4 KiB, none overlaps another.
//! - I2: the place of a region follows from the geometry alone. The table in the header says the same; a header that
//!   says something else is refused, so no offset read from a segment is ever followed.
//!
//! Tested at the end of `geometry.rs`.

use crate::arena::ArenaShape;
use crate::bitmap;
use crate::client::slot::ClientSlot;
use crate::counters::COUNTER_WORDS;
use crate::histogram::StageLayout;
use crate::keys::BUCKET_BYTES;
use crate::kinds::KindEntry;
use crate::layout::attach::AttachRecord;
use crate::layout::control::CONTROL_BYTES;
use crate::layout::flight_recorder::{ErrorEntry, EventEntry};
use crate::layout::geometry::Geometry;
use crate::layout::header::HEADER_BYTES;
use crate::layout::lane::LaneLayout;
use crate::layout::tables::{LineEntry, NameEntry, PrincipalEntry, QueueEntry, ShapeEntry};
use crate::task::slot::TaskSlot;
use crate::tree;
use crate::worker::slot::WorkerSlot;

/// Entries the table in the header has room for.
pub const REGIONS_COUNT_MAX: usize = 32;
/// Every region starts on a page.
pub const PAGE_BYTES: u64 = 4096;

const WORD: u64 = 8;
/// Task slots of one page.
const PAGE_SLOTS: u32 = 64;

/// A part of the segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum RegionKind {
    /// Two copies of the header.
    Header,
    /// Ready word, daemon epoch, high-water mark.
    Control,
    /// Named counters and counts of transitions.
    Counters,
    /// Names of task kinds.
    Kinds,
    /// Names of labels, resources, principals, queues and limits.
    Names,
    /// Principals.
    Principals,
    /// Queues.
    Queues,
    /// What tasks ask for.
    Shapes,
    /// Lines of tasks.
    Lines,
    /// Heap over the lines.
    LineHeap,
    /// Which line a page of 64 task slots belongs to.
    Pages,
    /// Attach records.
    Attaches,
    /// Lanes, one for each attach record.
    Lanes,
    /// Client records.
    Clients,
    /// Worker slots.
    Workers,
    /// Worker heap.
    WorkerHeap,
    /// Leases of workers.
    Leases,
    /// Which task slots are taken.
    TaskBitmap,
    /// Task heap.
    Ready,
    /// Timer heap.
    Timers,
    /// Task slots.
    Tasks,
    /// Idempotency keys.
    Idempotency,
    /// How long the steps of a task's life took.
    Histograms,
    /// What the core did last.
    Events,
    /// What went wrong.
    Errors,
    /// Who owns which chunk of the arena.
    ArenaIndex,
    /// Payloads and results.
    ArenaData,
}

impl RegionKind {
    /// Number of regions of this layout.
    pub const COUNT: usize = 27;

    /// All regions in the order in which they lie.
    pub const ALL: [Self; Self::COUNT] = [
        Self::Header,
        Self::Control,
        Self::Counters,
        Self::Kinds,
        Self::Names,
        Self::Principals,
        Self::Queues,
        Self::Shapes,
        Self::Lines,
        Self::LineHeap,
        Self::Pages,
        Self::Attaches,
        Self::Lanes,
        Self::Clients,
        Self::Workers,
        Self::WorkerHeap,
        Self::Leases,
        Self::TaskBitmap,
        Self::Ready,
        Self::Timers,
        Self::Tasks,
        Self::Idempotency,
        Self::Histograms,
        Self::Events,
        Self::Errors,
        Self::ArenaIndex,
        Self::ArenaData,
    ];

    /// The region's name in listings.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Header => "header",
            Self::Control => "control",
            Self::Counters => "counters",
            Self::Kinds => "kinds",
            Self::Names => "names",
            Self::Principals => "principals",
            Self::Queues => "queues",
            Self::Shapes => "shapes",
            Self::Lines => "lines",
            Self::LineHeap => "line_heap",
            Self::Pages => "pages",
            Self::Attaches => "attach_records",
            Self::Lanes => "lanes",
            Self::Clients => "client_records",
            Self::Workers => "worker_slots",
            Self::WorkerHeap => "worker_heap",
            Self::Leases => "lease_heap",
            Self::TaskBitmap => "task_bitmap",
            Self::Ready => "task_heap",
            Self::Timers => "timer_heap",
            Self::Tasks => "task_slots",
            Self::Idempotency => "idempotency_keys",
            Self::Histograms => "histograms",
            Self::Events => "events",
            Self::Errors => "errors",
            Self::ArenaIndex => "arena_index",
            Self::ArenaData => "arena_data",
        }
    }
}

/// Where a region lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RegionEntry {
    /// Bytes from the segment's start.
    pub offset: u64,
    /// Bytes it takes, without the padding to the next page.
    pub bytes: u64,
    /// Elements.
    pub count: u64,
    /// Bytes of one element.
    pub unit_bytes: u64,
}

/// The places of all regions for one geometry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegionTable {
    entries: [RegionEntry; RegionKind::COUNT],
    end: u64,
}

impl RegionTable {
    /// Lays the regions out one after another.
    #[must_use]
    pub(crate) fn of(geometry: &Geometry) -> Self {
        let mut entries = [RegionEntry::default(); RegionKind::COUNT];
        let mut end = 0_u64;
        for (entry, kind) in entries.iter_mut().zip(RegionKind::ALL) {
            let (count, unit_bytes) = size_of_region(kind, geometry);
            // LIMIT: counts are bounded by Geometry to 2^24 elements and 2^40 bytes in all.
            let bytes = count.saturating_mul(unit_bytes);
            *entry = RegionEntry {
                offset: end,
                bytes,
                count,
                unit_bytes,
            };
            end = end.saturating_add(bytes).next_multiple_of(PAGE_BYTES);
        }
        Self { entries, end }
    }

    /// Where `kind` lies.
    #[must_use]
    pub const fn get(&self, kind: RegionKind) -> RegionEntry {
        self.entries[kind as usize]
    }

    /// All regions with their places.
    pub fn iter(&self) -> impl Iterator<Item = (RegionKind, RegionEntry)> + '_ {
        RegionKind::ALL.into_iter().zip(self.entries)
    }

    /// First byte behind the last region, on a page.
    #[must_use]
    pub const fn end(&self) -> u64 {
        self.end
    }
}

fn size_of_region(kind: RegionKind, geometry: &Geometry) -> (u64, u64) {
    let of = |count: u32, bytes: usize| (u64::from(count), bytes as u64);
    let words = |count: usize| (count as u64, WORD);
    let tables = geometry.tables();
    match kind {
        RegionKind::Header => (2, HEADER_BYTES as u64),
        RegionKind::Control => (1, CONTROL_BYTES as u64),
        RegionKind::Counters => words(COUNTER_WORDS),
        RegionKind::Kinds => of(geometry.kinds(), size_of::<KindEntry>()),
        RegionKind::Names => of(tables.names, size_of::<NameEntry>()),
        RegionKind::Principals => of(tables.principals, size_of::<PrincipalEntry>()),
        RegionKind::Queues => of(tables.queues, size_of::<QueueEntry>()),
        RegionKind::Shapes => of(tables.shapes, size_of::<ShapeEntry>()),
        RegionKind::Lines => of(tables.lines, size_of::<LineEntry>()),
        RegionKind::LineHeap => words(tree::words_for(tables.lines)),
        RegionKind::Pages => (u64::from(geometry.tasks().div_ceil(PAGE_SLOTS)), WORD),
        RegionKind::Lanes => of(geometry.attaches(), size_of::<LaneLayout>()),
        RegionKind::Histograms => of(tables.stages, size_of::<StageLayout>()),
        RegionKind::Events => of(tables.events, size_of::<EventEntry>()),
        RegionKind::Errors => of(tables.errors, size_of::<ErrorEntry>()),
        RegionKind::Attaches => of(geometry.attaches(), size_of::<AttachRecord>()),
        RegionKind::Clients => of(geometry.clients(), size_of::<ClientSlot>()),
        RegionKind::Workers => of(geometry.workers(), size_of::<WorkerSlot>()),
        RegionKind::WorkerHeap | RegionKind::Leases => words(tree::words_for(geometry.workers())),
        RegionKind::TaskBitmap => words(bitmap::words_for(geometry.tasks())),
        RegionKind::Ready | RegionKind::Timers => words(tree::words_for(geometry.tasks())),
        RegionKind::Tasks => of(geometry.tasks(), size_of::<TaskSlot>()),
        RegionKind::Idempotency => {
            let bytes = BUCKET_BYTES as u64;
            (geometry.idempotency_bytes() / bytes, bytes)
        }
        RegionKind::ArenaIndex => words(<ArenaShape>::new(geometry.arena_blocks()).meta_words()),
        RegionKind::ArenaData => of(geometry.arena_blocks(), 64 * 1024),
    }
}
