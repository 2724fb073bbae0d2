//! The read-only face of a segment: what an inspector and the edges may do.
//!
//! Invariants:
//! - I1: nothing here writes to the segment. A view of a read-only mapping cannot be written through by type: no
//!   method gives out a reference to memory of the segment.
//! - I2: everything is copied out; a record that was changed while it was copied says so.
//!
//! Tested through `segment/tests/` and `shm/tests/`.

use crate::bitmap::Bitmap;
use crate::counters::Counters;
use crate::id::{ClientIndex, KindIndex, SlotIndex, TaskId, WorkerIndex};
use crate::keys::KeyView;
use crate::layout::{Geometry, HeaderError, HeaderInfo, RegionTable};
use crate::region::Mapping;
use crate::segment::header::{ControlInfo, read_header};
use crate::segment::parts::Parts;
use crate::spill::SpillStore;
use crate::task::state::StateWord;
use crate::time::{Now, monotonic_ns, since_origin};
use crate::tree::{Key, MinTree, Violation};

/// One of the four heaps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heap {
    /// Ready tasks, best first.
    Task,
    /// Workers with room, least loaded first.
    Worker,
    /// Tasks with a time, earliest first.
    Timer,
    /// Leases of workers, earliest first.
    Lease,
}

/// A segment to look at.
///
/// There is no way from here to something that writes:
/// ```compile_fail,E0599
/// fn write(view: &qtf_shm::SegmentView, slot: qtf_shm::SlotIndex) {
///     view.task(slot).set_failures(1);
/// }
/// ```
#[derive(Debug)]
pub struct SegmentView {
    pub(crate) parts: Parts,
    pub(crate) header: HeaderInfo,
    pub(crate) shm_id: Option<i32>,
    pub(crate) spill: Option<SpillStore>,
}

impl SegmentView {
    /// Reads the header of mapped memory and divides it.
    pub(crate) fn of(mapping: Mapping, shm_id: Option<i32>) -> Result<Self, HeaderError> {
        let (mapping, header, geometry) = read_header(mapping)?;
        Ok(Self {
            parts: Parts::of(&mapping, geometry)?,
            header,
            shm_id,
            spill: None,
        })
    }

    /// What the segment is: constant since its creation.
    #[must_use]
    pub const fn header(&self) -> &HeaderInfo {
        &self.header
    }

    /// What changes for the segment as a whole: epoch, daemon, high-water mark.
    #[must_use]
    pub fn control(&self) -> ControlInfo {
        ControlInfo::of(self.parts.control())
    }

    /// The kernel's id of the segment; `None` for an image or memory of this process.
    #[must_use]
    pub const fn shm_id(&self) -> Option<i32> {
        self.shm_id
    }

    /// Its random identity.
    #[must_use]
    pub const fn segment_id(&self) -> u64 {
        self.header.segment_id
    }

    /// Its sizes.
    #[must_use]
    pub const fn geometry(&self) -> &Geometry {
        &self.parts.geometry
    }

    /// Where its regions lie.
    #[must_use]
    pub const fn regions(&self) -> &RegionTable {
        &self.parts.table
    }

    /// The time now, since the segment's origin. Reads the clock.
    #[must_use]
    pub fn now(&self) -> Now {
        since_origin(monotonic_ns(), self.header.origin_ns)
    }

    /// The time at a reading of the monotonic clock.
    #[must_use]
    pub const fn now_at(&self, clock_ns: u64) -> Now {
        since_origin(clock_ns, self.header.origin_ns)
    }

    /// Sum of all moves of the origin, in stamps; 0 in a segment whose origin was never moved.
    #[must_use]
    pub fn stamps_moved(&self) -> u64 {
        crate::segment::rebase::moved_so_far(self.parts.control())
    }

    /// The stamp of a place in the order as the journal holds it: not changed by a move of the origin.
    #[must_use]
    pub fn journal_stamp(&self, stamp: u64) -> u64 {
        self.stamps_moved().saturating_add(stamp)
    }

    /// A slot by its number; `None` beyond the last.
    #[must_use]
    pub const fn slot(&self, number: u32) -> Option<SlotIndex> {
        SlotIndex::new_checked(number, self.parts.geometry.tasks())
    }

    /// The slot of a task; `None` if it is beyond the last.
    #[must_use]
    pub const fn slot_of(&self, task: TaskId) -> Option<SlotIndex> {
        self.slot(task.slot().get())
    }

    /// A worker slot by its number; `None` beyond the last.
    #[must_use]
    pub const fn worker_index(&self, number: u16) -> Option<WorkerIndex> {
        WorkerIndex::new_checked(number, self.parts.geometry.workers())
    }

    /// A client record by its number; `None` beyond the last.
    #[must_use]
    pub const fn client_index(&self, number: u16) -> Option<ClientIndex> {
        ClientIndex::new_checked(number, self.parts.geometry.clients())
    }

    /// The state of a slot; that of a slot never used beyond the last.
    #[must_use]
    pub fn state(&self, slot: SlotIndex) -> StateWord {
        self.parts
            .tasks
            .get(slot.position())
            .map_or(StateWord::default(), |slot| slot.state())
    }

    /// The idempotency keys.
    #[must_use]
    pub fn keys(&self) -> KeyView<'_> {
        self.parts.keys(self.header.segment_id)
    }

    /// The counters.
    #[must_use]
    pub fn counters(&self) -> CounterView<'_> {
        CounterView(self.parts.counters())
    }

    /// The name of a kind.
    #[must_use]
    pub fn kind_name(&self, kind: KindIndex) -> Option<String> {
        self.parts.kinds().name(kind)
    }

    /// All kinds.
    pub fn kinds_in_order(&self) -> impl Iterator<Item = (KindIndex, String)> + '_ {
        self.parts.kinds().iter()
    }

    /// Number of the highest slot ever claimed, plus one.
    #[must_use]
    pub fn high_water(&self) -> u32 {
        let written = self.control().high_water;
        written
            .max(self.parts.bitmap().high_water())
            .min(self.parts.geometry.tasks())
    }

    /// The slots in a range that are taken, by the free bitmap.
    pub fn allocated_slots(
        &self,
        range: core::ops::Range<u32>,
    ) -> impl Iterator<Item = SlotIndex> + '_ {
        let bitmap: Bitmap<'_> = self.parts.bitmap();
        bitmap
            .iter_taken(range)
            .filter_map(|number| self.slot(number))
    }

    /// One of the heaps.
    #[must_use]
    pub fn heap(&self, heap: Heap) -> HeapView<'_> {
        HeapView(match heap {
            Heap::Task => self.parts.ready(),
            Heap::Worker => self.parts.worker_heap(),
            Heap::Timer => self.parts.timers(),
            Heap::Lease => self.parts.leases(),
        })
    }

    /// Blocks of the arena that submissions may open; the rest is kept for results.
    #[must_use]
    pub fn blocks_for_submissions(&self) -> u32 {
        crate::arena::ArenaShape::<1024>::new(self.parts.geometry.arena_blocks())
            .blocks_for_submissions()
    }

    /// How full the arena is.
    #[must_use]
    pub fn arena_usage(&self) -> crate::arena::ArenaUsage {
        self.parts.arena().usage()
    }
}

/// The counters to look at.
#[derive(Debug, Clone, Copy)]
pub struct CounterView<'s>(Counters<'s>);

impl<'s> CounterView<'s> {
    /// A named counter.
    #[must_use]
    pub fn get(&self, counter: crate::counters::Counter) -> u64 {
        self.0.get(counter)
    }

    /// How many tasks stand in a phase.
    #[must_use]
    pub fn gauge(&self, phase: crate::task::state::Phase) -> u64 {
        self.0.gauge(phase)
    }

    /// All named counters.
    pub fn named(&self) -> impl Iterator<Item = (&'static str, u64)> + use<'s> {
        self.0.named()
    }

    /// All gauges but that of FREE.
    pub fn gauges(&self) -> impl Iterator<Item = (crate::task::state::Phase, u64)> + use<'s> {
        self.0.gauges()
    }
}

/// A heap to look at.
#[derive(Debug, Clone, Copy)]
pub struct HeapView<'s>(MinTree<'s>);

impl<'s> HeapView<'s> {
    /// Entries, best first: leaf and key. Allocates; a heap that changes meanwhile is shown as well as one can.
    pub fn entries_in_order(&self) -> impl Iterator<Item = (u32, Key)> + use<'s> {
        self.0.entries_in_order()
    }

    /// What a leaf holds; `None` when it is empty or beyond the last.
    #[must_use]
    pub fn leaf(&self, leaf: u32) -> Option<Key> {
        if leaf < self.0.capacity() {
            self.0.leaf(leaf)
        } else {
            None
        }
    }

    /// Every inner word that is not the minimum of its children. On a live heap a finding counts only if it stays.
    pub fn check(&self) -> impl Iterator<Item = Violation> + use<'s> {
        self.0.check()
    }
}
