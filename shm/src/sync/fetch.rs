//! Has the processor fetch memory that will be read soon. A hint: nothing is read or written, as far as anybody can tell, and nothing is
//! ordered by it. Measured by `bench-engine`.

const LINE_BYTES: usize = 64;

/// Asks for all lines of a place.
#[inline]
pub(crate) fn fetch_ahead<T>(place: &T) {
    let start = core::ptr::from_ref(place);
    for line in 0..size_of::<T>().div_ceil(LINE_BYTES) {
        fetch_line(start.wrapping_byte_add(line * LINE_BYTES).cast());
    }
}

#[inline]
#[cfg_attr(
    target_arch = "x86_64",
    expect(unsafe_code, reason = "a prefetch is an intrinsic by address")
)]
fn fetch_line(place: *const i8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch never faults and changes nothing but caches, whatever the address; SSE is part of every x86-64.
    unsafe {
        core::arch::x86_64::_mm_prefetch::<{ core::arch::x86_64::_MM_HINT_T0 }>(place);
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = place;
}
