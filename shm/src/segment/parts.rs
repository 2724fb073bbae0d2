//! The regions of a mapped segment, each as what it is.
//!
//! Invariant: the places come from the geometry alone (see `layout/region_table.rs`) and are checked against the mapping
//! when the parts are made. Nothing here follows an offset that it read.

use std::sync::Arc;

use crate::arena::{Arena, ArenaShape};
use crate::bitmap::{Bitmap, BitmapShape};
use crate::client::ClientSlot;
use crate::counters::Counters;
use crate::histogram::{Stage, StageLayout};
use crate::keys::KeyView;
use crate::kinds::{KindEntry, KindTable};
use crate::layout::attach::AttachRecord;
use crate::layout::control::ControlLayout;
use crate::layout::lane::LaneLayout;
use crate::layout::{Geometry, HeaderError, RegionKind, RegionTable, SharedLayout};
use crate::region::{Mapping, SharedSlice, map_ahead};
use crate::sync::AtomicU64;
use crate::task::slot::TaskSlot;
use crate::tree::{MinTree, TreeShape};
use crate::worker::WorkerSlot;

/// All regions.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) mapping: Arc<Mapping>,
    pub(crate) geometry: Geometry,
    pub(crate) table: RegionTable,
    control: SharedSlice<ControlLayout>,
    pub(crate) tasks: SharedSlice<TaskSlot>,
    pub(crate) workers: SharedSlice<WorkerSlot>,
    pub(crate) clients: SharedSlice<ClientSlot>,
    pub(crate) attaches: SharedSlice<AttachRecord>,
    pub(crate) lanes: SharedSlice<LaneLayout>,
    kinds: SharedSlice<KindEntry>,
    counters: SharedSlice<AtomicU64>,
    histograms: SharedSlice<StageLayout>,
    bitmap: SharedSlice<AtomicU64>,
    ready: SharedSlice<AtomicU64>,
    timers: SharedSlice<AtomicU64>,
    worker_heap: SharedSlice<AtomicU64>,
    leases: SharedSlice<AtomicU64>,
    keys: SharedSlice<AtomicU64>,
    arena_index: SharedSlice<AtomicU64>,
    arena_data: SharedSlice<AtomicU64>,
    task_shape: TreeShape,
    worker_shape: TreeShape,
    bitmap_shape: BitmapShape,
}

impl Parts {
    /// Divides a mapping.
    pub(crate) fn of(mapping: &Arc<Mapping>, geometry: Geometry) -> Result<Self, HeaderError> {
        let table = geometry.regions();
        let structs = Divider {
            mapping,
            table: &table,
        };
        Ok(Self {
            control: structs.of(RegionKind::Control)?,
            tasks: structs.of(RegionKind::Tasks)?,
            workers: structs.of(RegionKind::Workers)?,
            clients: structs.of(RegionKind::Clients)?,
            attaches: structs.of(RegionKind::Attaches)?,
            lanes: structs.of(RegionKind::Lanes)?,
            kinds: structs.of(RegionKind::Kinds)?,
            counters: structs.words(RegionKind::Counters)?,
            histograms: structs.of(RegionKind::Histograms)?,
            bitmap: structs.words(RegionKind::TaskBitmap)?,
            ready: structs.words(RegionKind::Ready)?,
            timers: structs.words(RegionKind::Timers)?,
            worker_heap: structs.words(RegionKind::WorkerHeap)?,
            leases: structs.words(RegionKind::Leases)?,
            keys: structs.words(RegionKind::Idempotency)?,
            arena_index: structs.words(RegionKind::ArenaIndex)?,
            arena_data: structs.words(RegionKind::ArenaData)?,
            task_shape: TreeShape::new(geometry.tasks()),
            worker_shape: TreeShape::new(geometry.workers()),
            bitmap_shape: BitmapShape::new(geometry.tasks()),
            mapping: Arc::clone(mapping),
            geometry,
            table,
        })
    }

    /// All words of a region.
    fn words_in(&self, kind: RegionKind) -> &[AtomicU64] {
        let entry = self.table.get(kind);
        let place = |bytes: u64| usize::try_from(bytes / 8).unwrap_or(usize::MAX);
        let first = place(entry.offset);
        let end = first.saturating_add(place(entry.bytes));
        self.mapping.words().get(first..end).unwrap_or_default()
    }

    pub(crate) fn words_of_control(&self) -> &[AtomicU64] {
        self.words_in(RegionKind::Control)
    }

    pub(crate) fn words_of_kinds(&self) -> &[AtomicU64] {
        self.words_in(RegionKind::Kinds)
    }

    pub(crate) fn words_of_clients(&self) -> &[AtomicU64] {
        self.words_in(RegionKind::Clients)
    }

    pub(crate) fn words_of_keys(&self) -> &[AtomicU64] {
        self.words_in(RegionKind::Idempotency)
    }

    /// From a record on.
    pub(crate) fn words_of_attaches(&self, from: usize) -> &[AtomicU64] {
        let words = self.words_in(RegionKind::Attaches);
        words
            .get(from * size_of::<AttachRecord>() / 8..)
            .unwrap_or_default()
    }

    pub(crate) fn words_of_counters(&self) -> &[AtomicU64] {
        self.words_in(RegionKind::Counters)
    }

    pub(crate) fn words_of_named_counters(&self) -> &[AtomicU64] {
        self.words_of_counters()
            .get(crate::counters::NAMED_AT..)
            .unwrap_or_default()
    }

    /// Index and data.
    pub(crate) fn words_of_arena(&self) -> (&[AtomicU64], &[AtomicU64]) {
        (
            self.words_in(RegionKind::ArenaIndex),
            self.words_in(RegionKind::ArenaData),
        )
    }

    pub(crate) fn control(&self) -> &ControlLayout {
        // INVARIANT: the region has one element, checked against the mapping in `of`.
        &self.control[0]
    }

    #[inline]
    pub(crate) fn ready(&self) -> MinTree<'_> {
        MinTree::new(&self.ready, &self.task_shape)
    }

    #[inline]
    pub(crate) fn timers(&self) -> MinTree<'_> {
        MinTree::new(&self.timers, &self.task_shape)
    }

    /// Takes every timer out, wherever it lies.
    pub(crate) fn empty_timers(&self) {
        for word in self.timers.iter() {
            // ORDERING: only while nobody else is attached. Memory that was never touched stays so.
            if word.load(crate::sync::Ordering::Relaxed) != 0 {
                // ORDERING: as above.
                word.store(0, crate::sync::Ordering::Relaxed);
            }
        }
    }

    /// The words of one unit of the arena, whoever it belongs to.
    pub(crate) fn unit_words(&self, unit: u32) -> Option<&[AtomicU64; 8]> {
        let first = unit as usize * 8;
        self.arena_data.get(first..first + 8)?.try_into().ok()
    }

    #[inline]
    pub(crate) fn worker_heap(&self) -> MinTree<'_> {
        MinTree::new(&self.worker_heap, &self.worker_shape)
    }

    #[inline]
    pub(crate) fn leases(&self) -> MinTree<'_> {
        MinTree::new(&self.leases, &self.worker_shape)
    }

    /// Tells the kernel that some task slots are about to be read, all of them.
    pub(crate) fn map_slots_ahead(&self, slots: core::ops::Range<u32>) {
        let words = size_of::<TaskSlot>() / 8;
        let start = self.table.get(RegionKind::Tasks).offset / 8;
        let place = |slot: u32| usize::try_from(start).map(|start| start + slot as usize * words);
        if let (Ok(first), Ok(end)) = (place(slots.start), place(slots.end))
            && let Some(words) = self.mapping.words().get(first..end)
        {
            map_ahead(words);
        }
    }

    /// The idempotency keys; `seed` is the segment's id.
    pub(crate) fn keys(&self, seed: u64) -> KeyView<'_> {
        KeyView::new(&self.keys, seed)
    }

    #[inline]
    pub(crate) fn bitmap(&self) -> Bitmap<'_> {
        Bitmap::of_shape(&self.bitmap, self.bitmap_shape)
    }

    #[inline]
    pub(crate) fn arena(&self) -> Arena<'_> {
        Arena::new(
            &self.arena_index,
            &self.arena_data,
            ArenaShape::new(self.geometry.arena_blocks()),
        )
    }

    #[inline]
    pub(crate) fn counters(&self) -> Counters<'_> {
        Counters::new(&self.counters)
    }

    /// `None` of a segment that has no histogram for it.
    #[inline]
    pub(crate) fn histogram(&self, stage: Stage) -> Option<&StageLayout> {
        self.histograms.get(stage as usize)
    }

    /// The words of a region.
    pub(crate) fn words_of(&self, kind: RegionKind) -> &[AtomicU64] {
        let entry = self.table.get(kind);
        let place = |bytes: u64| usize::try_from(bytes / 8).unwrap_or(usize::MAX);
        let first = place(entry.offset);
        let end = first.saturating_add(place(entry.bytes));
        // INVARIANT: the geometry was checked against the mapping.
        self.mapping.words().get(first..end).unwrap_or_default()
    }

    #[inline]
    pub(crate) fn kinds(&self) -> KindTable<'_> {
        KindTable::new(&self.kinds)
    }
}

struct Divider<'a> {
    mapping: &'a Arc<Mapping>,
    table: &'a RegionTable,
}

impl Divider<'_> {
    fn of<T: SharedLayout>(&self, kind: RegionKind) -> Result<SharedSlice<T>, HeaderError> {
        SharedSlice::of(self.mapping, self.table.get(kind)).map_err(|_| self.refusal(kind))
    }

    fn words(&self, kind: RegionKind) -> Result<SharedSlice<AtomicU64>, HeaderError> {
        SharedSlice::words_of(self.mapping, self.table.get(kind)).map_err(|_| self.refusal(kind))
    }

    fn refusal(&self, kind: RegionKind) -> HeaderError {
        debug_assert!(self.mapping.bytes() > 0);
        HeaderError::Region(kind.name())
    }
}
