//! Has the processor fetch what will be looked at soon: a batch of calls names its tasks before it comes to them, and with a million of them
//! each would wait for memory on its own.
//!
//! Invariant: nothing is read or written, as far as anybody can tell: a hint, with no ordering of its own. Tested in
//! `engine/tests/rules/batches.rs`, by what batches answer; measured by `bench-engine`.

use crate::id::SlotIndex;
use crate::segment::Segment;

impl Segment {
    /// What the next call about this slot reads: the slot, and its leaf in the timer heap.
    #[inline]
    pub fn fetch_ahead(&self, slot: SlotIndex) {
        let Some(task) = self.view.parts.tasks.get(slot.position()) else {
            return;
        };
        for line in 0..size_of_val(task) / LINE_BYTES {
            fetch(
                core::ptr::from_ref(task)
                    .wrapping_byte_add(line * LINE_BYTES)
                    .cast(),
            );
        }
        if let Some(leaf) = self.timers().place_of(slot.get()) {
            fetch(core::ptr::from_ref(leaf).cast());
        }
    }
}

impl Segment {
    /// The state word of a slot.
    #[inline]
    pub fn fetch_state_ahead(&self, slot: SlotIndex) {
        if let Some(task) = self.view.parts.tasks.get(slot.position()) {
            fetch(core::ptr::from_ref(task).cast());
        }
    }
}

const LINE_BYTES: usize = 64;

#[inline]
#[cfg_attr(
    target_arch = "x86_64",
    expect(unsafe_code, reason = "a prefetch is an intrinsic by address")
)]
fn fetch(place: *const i8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch never faults and changes nothing but caches, whatever the address; SSE is part of every x86-64.
    unsafe {
        core::arch::x86_64::_mm_prefetch::<{ core::arch::x86_64::_MM_HINT_T0 }>(place);
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = place;
}
