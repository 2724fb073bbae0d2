//! Memory of this process with the layout of a segment: for tests, benches and the simulator.
//!
//! An anonymous mapping, zeroed by the kernel, so that a large one costs only what is touched. It starts on a boundary of
//! 2 MiB, as an attached segment does. Tested through `region/mod.rs` and `region/pages.rs`.

use core::ptr::NonNull;

use memmap2::{MmapMut, MmapRaw};

use crate::region::pages::HUGE_BYTES;

const PAGE_BYTES: usize = 4096;

/// Zeroed memory on a boundary of 2 MiB.
#[derive(Debug)]
pub(crate) struct HeapMemory {
    map: MmapRaw,
    bytes: usize,
}

impl HeapMemory {
    /// Maps whole pages, at least one.
    ///
    /// # Panics
    /// When the kernel gives no such mapping.
    pub(crate) fn zeroed(bytes: usize) -> Self {
        let bytes = bytes.max(1).next_multiple_of(PAGE_BYTES);
        let map =
            MmapMut::map_anon(bytes + HUGE_BYTES).expect("memory for a segment of this process");
        Self {
            map: map.into(),
            bytes,
        }
    }

    pub(super) fn span(&self) -> (NonNull<u8>, usize) {
        let start = self.map.as_mut_ptr();
        let ahead = start.addr().next_multiple_of(HUGE_BYTES) - start.addr();
        // Less than 2 MiB ahead, and the mapping is that much longer than `bytes`.
        let start = start.wrapping_add(ahead);
        (
            NonNull::new(start).unwrap_or(NonNull::dangling()),
            self.bytes,
        )
    }
}
