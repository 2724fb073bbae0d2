//! Memory of this process with the layout of a segment: for tests, benches and the simulator.
//!
//! Zeroed by the allocator, so that a large one costs only what is touched. Tested through `region/mod.rs`.

use core::ptr::NonNull;
use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};

const PAGE_BYTES: usize = 4096;

/// Zeroed memory on a page boundary.
#[derive(Debug)]
pub(crate) struct HeapMemory {
    start: NonNull<u8>,
    layout: Layout,
}

#[expect(unsafe_code, reason = "the marker is the claim")]
// SAFETY: the memory is owned by the value and reached through shared references to atomics only.
unsafe impl Send for HeapMemory {}
#[expect(unsafe_code, reason = "the marker is the claim")]
// SAFETY: as above.
unsafe impl Sync for HeapMemory {}

impl HeapMemory {
    /// Allocates whole pages, at least one.
    ///
    /// # Panics
    /// When the bytes are more than an address can tell. Aborts as any allocation does when memory is out.
    #[expect(unsafe_code, reason = "a zeroed allocation on a page boundary")]
    pub(crate) fn zeroed(bytes: usize) -> Self {
        let bytes = bytes.max(1).next_multiple_of(PAGE_BYTES);
        let layout =
            Layout::from_size_align(bytes, PAGE_BYTES).expect("geometry is limited to 1 TiB");
        // SAFETY: the layout's size is not zero.
        let start = unsafe { alloc_zeroed(layout) };
        let Some(start) = NonNull::new(start) else {
            handle_alloc_error(layout);
        };
        Self { start, layout }
    }

    pub(super) const fn span(&self) -> (NonNull<u8>, usize) {
        (self.start, self.layout.size())
    }
}

impl Drop for HeapMemory {
    #[expect(unsafe_code, reason = "gives back what `zeroed` allocated")]
    fn drop(&mut self) {
        // SAFETY: allocated in `zeroed` with this layout, and nobody has a reference: each holds an Arc of the mapping.
        unsafe { dealloc(self.start.as_ptr(), self.layout) }
    }
}
