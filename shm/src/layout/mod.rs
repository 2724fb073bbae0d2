//! Where everything lies: the drawn structs, the regions, the sizes, and one hash over all of it.
//!
//! The hash in the header of a segment is compared with [`LAYOUT_HASH`]: two programs that place a single field
//! differently refuse each other's segments instead of misreading them.

pub mod attach;
#[cfg(not(loom))]
pub mod control;
#[cfg(not(loom))]
pub mod flight_recorder;
#[cfg(not(loom))]
pub mod geometry;
#[cfg(not(loom))]
pub mod header;
#[cfg(not(loom))]
pub mod lane;
#[cfg(not(loom))]
mod listing;
#[cfg(not(loom))]
pub mod region_table;
pub(crate) mod shared;
#[cfg(not(loom))]
pub mod tables;
pub(crate) mod text;

#[cfg(not(loom))]
pub use geometry::{Geometry, GeometryError, SizeLine};
#[cfg(not(loom))]
pub use header::{HeaderError, HeaderInfo};
#[cfg(not(loom))]
pub use listing::{LAYOUT_HASH, STRUCTS, StructLayout};
#[cfg(not(loom))]
pub use region_table::{RegionEntry, RegionKind, RegionTable};
#[cfg(not(loom))]
pub use shared::{Field, SharedLayout};

#[cfg(not(loom))]
pub(crate) use shared::AsWords;

const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
const FNV_PRIME: u64 = 0x0000_0100_0000_01b3;

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

/// FNV-1a of a text, from the start.
pub(crate) const fn hash_of(text: &str) -> u64 {
    hash_text(FNV_OFFSET, text)
}
