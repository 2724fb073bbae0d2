//! Where everything lies: the drawn structs, the regions, the sizes, and one hash over all of it.
//!
//! The hash in the header of a segment is compared with [`LAYOUT_HASH`]: two programs that place a single field
//! differently refuse each other's segments instead of misreading them.

pub mod attach;
pub mod control;
pub mod geometry;
pub mod header;
pub mod region_table;
pub(crate) mod shared;
pub(crate) mod text;

pub use geometry::{Geometry, GeometryError, SizeLine};
pub use header::{HeaderError, HeaderInfo};
pub use region_table::{RegionEntry, RegionKind, RegionTable};
pub use shared::{Field, SharedLayout};

pub(crate) use shared::AsWords;

use crate::client::slot::ClientSlot;
use crate::kinds::KindEntry;
use crate::task::side::SideLayout;
use crate::task::slot::TaskSlot;
use crate::worker::slot::WorkerSlot;
use attach::AttachRecord;
use control::ControlLayout;
use header::HeaderLayout;

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

/// All structs of the segment, in the order in which their regions lie.
pub const STRUCTS: [StructLayout; 8] = [
    listed::<HeaderLayout>(),
    listed::<ControlLayout>(),
    listed::<KindEntry>(),
    listed::<AttachRecord>(),
    listed::<ClientSlot>(),
    listed::<WorkerSlot>(),
    listed::<TaskSlot>(),
    listed::<SideLayout>(),
];

/// Hash over names, offsets and sizes of all structs and over the order of the regions.
pub const LAYOUT_HASH: u64 = layout_hash();

const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
const FNV_PRIME: u64 = 0x0000_0100_0000_01b3;

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

/// FNV-1a over the bytes of a text and a separator.
pub(crate) const fn hash_text(hash: u64, text: &str) -> u64 {
    let bytes = text.as_bytes();
    let mut hash = hash;
    let mut index = 0;
    while index < bytes.len() {
        hash = (hash ^ bytes[index] as u64).wrapping_mul(FNV_PRIME);
        index += 1;
    }
    (hash ^ 0xFF).wrapping_mul(FNV_PRIME)
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

/// FNV-1a of a text, from the start.
pub(crate) const fn hash_of(text: &str) -> u64 {
    hash_text(FNV_OFFSET, text)
}
