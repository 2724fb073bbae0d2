//! All structs of a segment with their fields, and the one hash over all of it.
//!
//! Invariant: a struct that lies in the segment stands in [`STRUCTS`], so that programs that place it differently refuse each other's
//! segments. Tested in `shm/tests/memory_document.rs`.

use super::attach::AttachRecord;
use super::control::ControlLayout;
use super::flight_recorder::{ErrorEntry, EventEntry};
use super::header::HeaderLayout;
use super::lane::LaneLayout;
use super::region_table::RegionKind;
use super::shared::{Field, SharedLayout};
use super::tables::{LineEntry, NameEntry, PrincipalEntry, QueueEntry, ShapeEntry};
use super::{FNV_OFFSET, FNV_PRIME, hash_text};
use crate::client::slot::ClientSlot;
use crate::histogram::StageLayout;
use crate::kinds::KindEntry;
use crate::task::side::SideLayout;
use crate::task::slot::TaskSlot;
use crate::worker::slot::WorkerSlot;

/// A shared struct by name, for listings.
#[derive(Debug, Clone, Copy)]
pub struct StructLayout {
    /// The struct's name.
    pub name: &'static str,
    /// Bytes of the whole.
    pub bytes: usize,
    /// Its fields.
    pub fields: &'static [Field],
}

const fn listed<T: SharedLayout>() -> StructLayout {
    StructLayout {
        name: T::NAME,
        bytes: size_of::<T>(),
        fields: T::FIELDS,
    }
}

/// All structs of the segment, in the order in which their regions lie, the arena's last.
pub const STRUCTS: [StructLayout; 17] = [
    listed::<HeaderLayout>(),
    listed::<ControlLayout>(),
    listed::<KindEntry>(),
    listed::<NameEntry>(),
    listed::<PrincipalEntry>(),
    listed::<QueueEntry>(),
    listed::<ShapeEntry>(),
    listed::<LineEntry>(),
    listed::<AttachRecord>(),
    listed::<LaneLayout>(),
    listed::<ClientSlot>(),
    listed::<WorkerSlot>(),
    listed::<TaskSlot>(),
    listed::<StageLayout>(),
    listed::<EventEntry>(),
    listed::<ErrorEntry>(),
    listed::<SideLayout>(),
];

/// Hash over names, offsets and sizes of all structs and over the order of the regions.
pub const LAYOUT_HASH: u64 = layout_hash();

const fn layout_hash() -> u64 {
    let mut hash = FNV_OFFSET;
    let mut index = 0;
    while index < STRUCTS.len() {
        let layout = STRUCTS[index];
        hash = hash_text(hash, layout.name);
        hash = hash_number(hash, layout.bytes as u64);
        let mut field = 0;
        while field < layout.fields.len() {
            hash = hash_text(hash, layout.fields[field].name);
            hash = hash_number(hash, layout.fields[field].offset as u64);
            hash = hash_number(hash, layout.fields[field].bytes as u64);
            field += 1;
        }
        index += 1;
    }
    let mut region = 0;
    while region < RegionKind::COUNT {
        hash = hash_text(hash, RegionKind::ALL[region].name());
        region += 1;
    }
    hash_number(hash, crate::counters::COUNTER_WORDS as u64)
}

const fn hash_number(hash: u64, number: u64) -> u64 {
    let bytes = number.to_le_bytes();
    let mut hash = hash;
    let mut index = 0;
    while index < bytes.len() {
        hash = (hash ^ bytes[index] as u64).wrapping_mul(FNV_PRIME);
        index += 1;
    }
    hash
}
