//! Sleeping on a word of shared memory, and waking who sleeps there.
//!
//! The words are 64 bits wide and the kernel's are 32: the lower half of the value is what counts. Not private: the memory is
//! shared between processes. Tested in `shm/src/doorbell.rs`.

use core::time::Duration;

use super::AtomicU64;

/// Where the lower half of a word lies.
pub(crate) const fn low_half(word: &AtomicU64) -> *mut u32 {
    const { assert!(cfg!(target_endian = "little"), "the lower half comes first") };
    word.as_ptr().cast::<u32>()
}

/// Sleeps while the lower half of the word is `seen`, at most for so long. May come back for no reason.
pub(crate) fn wait(word: &AtomicU64, seen: u32, at_most: Duration) {
    let at_most = libc::timespec {
        tv_sec: libc::time_t::try_from(at_most.as_secs()).unwrap_or(libc::time_t::MAX),
        tv_nsec: libc::c_long::from(at_most.subsec_nanos().cast_signed()),
    };
    #[expect(unsafe_code, reason = "a system call that no safe wrapper here offers")]
    // SAFETY: the address is that of a live, aligned word for the whole call (a borrow); the kernel reads it and the time, and
    // writes nothing. All errors (the word is another one, the time is over, a signal) mean the same to the caller: look again.
    unsafe {
        libc::syscall(
            libc::SYS_futex,
            low_half(word),
            libc::FUTEX_WAIT,
            seen,
            core::ptr::from_ref(&at_most),
        );
    }
}

/// Wakes all who sleep on the word.
pub(crate) fn wake_all(word: &AtomicU64) {
    #[expect(unsafe_code, reason = "a system call that no safe wrapper here offers")]
    // SAFETY: the kernel uses the address as a name and neither reads nor writes it; nothing is passed but numbers.
    unsafe {
        libc::syscall(
            libc::SYS_futex,
            low_half(word),
            libc::FUTEX_WAKE,
            libc::c_int::MAX,
        );
    }
}
