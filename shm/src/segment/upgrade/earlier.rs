//! Segments of layout 2.0, read: where everything lay in one. Nothing here writes.
//!
//! Invariant: the places come from the header's table, whose checksum is right, and each is checked before it is used: within the memory, in order, on a
//! page, as many elements as the counts of the header say, each of the size that layout 2.0 gave it.
//!
//! Tested in `segment/tests/upgrade.rs`, from the committed image of that layout.

use std::sync::Arc;

use crate::arena::{Arena, ArenaShape};
use crate::id::GENERATION_MAX;
use crate::layout::attach::AttachRecord;
use crate::layout::region_table::PAGE_BYTES;
use crate::layout::{HeaderInfo, RegionEntry};
use crate::region::{Mapping, SharedSlice};
use crate::sync::{AtomicU64, Ordering};

/// Its version.
pub(in crate::segment) const MAJOR: u32 = 2;
/// The hash over its structs and regions.
pub(in crate::segment) const HASH: u64 = 0x0f01_abac_dd84_3dfc;

/// The regions of layout 2.0, in the order in which they lay.
#[derive(Debug, Clone, Copy)]
pub(super) enum Region {
    Control = 1,
    Counters = 2,
    Kinds = 3,
    Attaches = 4,
    Clients = 5,
    Workers = 6,
    Tasks = 12,
    Keys = 13,
    ArenaIndex = 14,
    ArenaData = 15,
}

/// Bytes of one element of each region: headers, control, counters, kinds, attach records, clients, workers, both heaps of workers, bitmap, both heaps
/// of tasks, tasks, keys, arena index, arena data.
const UNITS: [u64; 16] = [
    4096, 4096, 8, 64, 128, 256, 256, 8, 8, 8, 8, 8, 128, 256, 8, 65_536,
];

/// Words of the control region, as places of words.
pub(super) mod control {
    pub(in super::super) const JOURNAL_END: usize = 24;
    pub(in super::super) const GEN_LIMIT: usize = 32;
    pub(in super::super) const GEN_TOP: usize = 33;
    pub(in super::super) const HIGH_WATER: usize = 48;
    pub(in super::super) const KEYS_USED: usize = 65;
    pub(in super::super) const SHUTDOWN: usize = 21;
    /// The words in which moves of the origin, history and tombstones are noted; where the first of them lies they stay.
    pub(in super::super) const NOTED: core::ops::Range<usize> = 66..256;
    /// The step of a move of the origin; 0 = none is under way.
    pub(in super::super) const MOVE_STEP: usize = 66 + 14;
}

/// A segment of layout 2.0.
#[derive(Debug)]
pub(in crate::segment) struct Earlier {
    mapping: Arc<Mapping>,
    pub(super) header: HeaderInfo,
    regions: [RegionEntry; 16],
    pub(super) attaches: SharedSlice<AttachRecord>,
}

impl Earlier {
    /// Looks at memory whose header says that it is of layout 2.0.
    ///
    /// # Errors
    /// It cannot be read as such, or must not go on; why.
    pub(in crate::segment) fn of(
        mapping: &Arc<Mapping>,
        header: HeaderInfo,
    ) -> Result<Self, String> {
        let damaged = |what: &str| format!("it is of layout 2.0, and its {what} cannot be");
        let table: &[RegionEntry] = &header.regions;
        let regions: [RegionEntry; 16] =
            table.try_into().map_err(|_| damaged("number of regions"))?;
        let counts = [
            (Region::Kinds, header.kinds),
            (Region::Attaches, header.attaches),
            (Region::Clients, header.clients),
            (Region::Workers, header.workers),
            (Region::Tasks, header.tasks),
            (Region::ArenaData, header.arena_blocks),
        ];
        let mut end = 0;
        for (region, unit) in regions.iter().zip(UNITS) {
            let fits = region.unit_bytes == unit
                && region.count.checked_mul(unit) == Some(region.bytes)
                && region.offset >= end
                && region.offset.is_multiple_of(PAGE_BYTES);
            end = region.offset.saturating_add(region.bytes);
            if !fits || end > header.total_bytes || end > mapping.bytes() {
                return Err(damaged("table of regions"));
            }
        }
        let is_counted = |&(region, count): &(Region, u64)| regions[region as usize].count == count;
        if !counts.iter().all(is_counted) {
            return Err(damaged("table of regions"));
        }
        let attaches = SharedSlice::of(mapping, regions[Region::Attaches as usize])
            .map_err(|_| damaged("attach records"))?;
        let earlier = Self {
            mapping: Arc::clone(mapping),
            header,
            regions,
            attaches,
        };
        if earlier.control(control::MOVE_STEP) != 0 {
            return Err(
                "it is of layout 2.0, in the middle of a move of its origin, which only the version that began it can end"
                    .to_owned(),
            );
        }
        let highest = [
            earlier.header.gen_base,
            earlier.control(control::GEN_TOP),
            earlier.control(control::GEN_LIMIT),
        ];
        if highest
            .iter()
            .any(|&generation| generation > GENERATION_MAX)
        {
            return Err(
                "it is of layout 2.0, with ids that are now those of jobs of a grid".to_owned(),
            );
        }
        Ok(earlier)
    }

    /// The words of a region.
    pub(super) fn words(&self, region: Region) -> &[AtomicU64] {
        let entry = self.regions[region as usize];
        let place = |bytes: u64| usize::try_from(bytes / 8).unwrap_or(usize::MAX);
        let first = place(entry.offset);
        let end = first.saturating_add(place(entry.bytes));
        self.mapping.words().get(first..end).unwrap_or_default()
    }

    /// A word of the control region.
    pub(super) fn control(&self, place: usize) -> u64 {
        self.words(Region::Control).get(place).map_or(0, read)
    }

    /// Its arena, which lies as it always has.
    pub(super) fn arena(&self) -> Arena<'_> {
        let blocks = u32::try_from(self.header.arena_blocks).unwrap_or(0);
        Arena::new(
            self.words(Region::ArenaIndex),
            self.words(Region::ArenaData),
            ArenaShape::new(blocks),
        )
    }
}

/// A word of a segment whose daemon and local processes are gone.
pub(super) fn read(word: &AtomicU64) -> u64 {
    // ORDERING: nobody writes it any more; the kernel has told of their end.
    word.load(Ordering::Relaxed)
}
