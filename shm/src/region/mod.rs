//! Memory that holds a segment, and the only place where its address becomes references.
//!
//! Invariants:
//! - I1: a `Mapping` does not move and is not shortened while a `SharedSlice` into it exists: each holds an `Arc` of it.
//! - I2: from a mapping one gets references to atomic words and to structs of them, never `&mut`, never plain integers;
//!   places are checked against the mapping's length once, when the slice is made.
//! - I3: a mapping that was attached read-only is handed out only inside a [`crate::SegmentView`], whose interface
//!   only reads.
//!
//! Tested at the end of this file and in `shm/tests/`.

mod heap;
pub mod image;
pub mod node;
pub(crate) mod pages;
mod residency;
pub mod sysv;

use core::fmt;
use core::ops::Deref;
use core::ptr::NonNull;
use std::sync::Arc;

use crate::layout::{RegionEntry, SharedLayout};
use crate::sync::AtomicU64;

pub(crate) use heap::HeapMemory;
pub(crate) use image::ImageMemory;
pub(crate) use residency::{empty, map_ahead};
pub(crate) use sysv::SysvMemory;

/// Mapped memory, whoever made it.
#[derive(Debug)]
pub(crate) enum Mapping {
    /// Memory of this process.
    Heap(HeapMemory),
    /// A System V segment.
    Sysv(SysvMemory),
    /// A file with the image of a segment.
    Image(ImageMemory),
}

impl Mapping {
    /// All words.
    pub(crate) fn words(&self) -> &[AtomicU64] {
        let (start, bytes) = match self {
            Self::Heap(memory) => memory.span(),
            Self::Sysv(memory) => memory.span(),
            Self::Image(memory) => memory.span(),
        };
        words_of(start, bytes)
    }

    /// Bytes of the whole.
    pub(crate) fn bytes(&self) -> u64 {
        (self.words().len() as u64).saturating_mul(8)
    }
}

#[expect(unsafe_code, reason = "an address becomes a slice")]
fn words_of<'a>(start: NonNull<u8>, bytes: usize) -> &'a [AtomicU64] {
    debug_assert!(
        start
            .as_ptr()
            .addr()
            .is_multiple_of(align_of::<AtomicU64>())
    );
    // SAFETY: the three memories give a start that is aligned to a page, and `bytes` that are mapped as long as the
    // memory lives; `Mapping::words` ties the slice to it. AtomicU64 has the size of u64 and takes every bit pattern.
    unsafe { core::slice::from_raw_parts(start.cast::<AtomicU64>().as_ptr(), bytes / 8) }
}

/// Why a region does not fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct OutsideMapping;

/// Structs of the segment, with the mapping they lie in.
pub(crate) struct SharedSlice<T> {
    start: NonNull<T>,
    count: usize,
    mapping: Arc<Mapping>,
}

#[expect(unsafe_code, reason = "the marker is the claim")]
// SAFETY: a SharedSlice gives out `&[T]` only, T is Sync (all of it atomic), and the mapping is Send and Sync.
unsafe impl<T: Sync> Send for SharedSlice<T> {}
#[expect(unsafe_code, reason = "the marker is the claim")]
// SAFETY: as above.
unsafe impl<T: Sync> Sync for SharedSlice<T> {}

impl<T: SharedLayout> SharedSlice<T> {
    /// The structs of a region.
    pub(crate) fn of(mapping: &Arc<Mapping>, entry: RegionEntry) -> Result<Self, OutsideMapping> {
        let words = region_words(mapping, entry)?;
        let count = size_of_val(words) / size_of::<T>();
        let start = NonNull::from_ref(words).cast::<T>();
        if !start.is_aligned() {
            return Err(OutsideMapping);
        }
        Ok(Self {
            start,
            count,
            mapping: Arc::clone(mapping),
        })
    }
}

impl SharedSlice<AtomicU64> {
    /// The words of a region.
    pub(crate) fn words_of(
        mapping: &Arc<Mapping>,
        entry: RegionEntry,
    ) -> Result<Self, OutsideMapping> {
        let words = region_words(mapping, entry)?;
        Ok(Self {
            start: NonNull::from_ref(words).cast::<AtomicU64>(),
            count: words.len(),
            mapping: Arc::clone(mapping),
        })
    }
}

fn region_words(mapping: &Mapping, entry: RegionEntry) -> Result<&[AtomicU64], OutsideMapping> {
    let first = usize::try_from(entry.offset / 8).map_err(|_| OutsideMapping)?;
    let count = usize::try_from(entry.bytes / 8).map_err(|_| OutsideMapping)?;
    let end = first.checked_add(count).ok_or(OutsideMapping)?;
    if !entry.offset.is_multiple_of(8) {
        return Err(OutsideMapping);
    }
    mapping.words().get(first..end).ok_or(OutsideMapping)
}

impl<T> Deref for SharedSlice<T> {
    type Target = [T];

    #[inline]
    #[expect(unsafe_code, reason = "an address becomes a slice")]
    fn deref(&self) -> &[T] {
        // SAFETY: `of` and `words_of` took start and count from a slice of the mapping, checked the alignment, and the
        // mapping lives as long as `self`. T consists of atomic words (SharedLayout), so others may write it.
        unsafe { core::slice::from_raw_parts(self.start.as_ptr(), self.count) }
    }
}

impl<T> fmt::Debug for SharedSlice<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedSlice")
            .field("count", &self.count)
            .field("mapping", &Arc::as_ptr(&self.mapping))
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::slot::TaskSlot;

    fn mapping(bytes: usize) -> Arc<Mapping> {
        Arc::new(Mapping::Heap(HeapMemory::zeroed(bytes)))
    }

    fn entry(offset: u64, bytes: u64) -> RegionEntry {
        RegionEntry {
            offset,
            bytes,
            count: 0,
            unit_bytes: 0,
        }
    }

    #[test]
    fn region_beyond_the_memory_is_refused() {
        let mapping = mapping(8192);
        assert!(SharedSlice::<TaskSlot>::of(&mapping, entry(4096, 4096)).is_ok());
        for (offset, bytes) in [
            (4096, 4104),
            (8192, 8),
            (u64::MAX - 7, 8),
            (8, u64::MAX - 7),
            (4, 8),
        ] {
            assert!(
                SharedSlice::words_of(&mapping, entry(offset, bytes)).is_err(),
                "{offset} {bytes}"
            );
        }
    }

    #[test]
    fn struct_at_a_wrong_place_is_refused() {
        let mapping = mapping(4096);
        assert!(SharedSlice::<TaskSlot>::of(&mapping, entry(64, 128)).is_err());
    }

    #[test]
    fn slice_keeps_its_memory_alive() {
        let mapping = mapping(4096);
        let slots = SharedSlice::<TaskSlot>::of(&mapping, entry(0, 4096)).unwrap();
        drop(mapping);
        assert_eq!(slots.len(), 32);
        assert_eq!(slots[31].state().as_raw(), 0);
    }
}
