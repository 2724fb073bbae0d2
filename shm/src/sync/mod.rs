//! The only door to atomics: `core`'s in production, loom's under `cfg(loom)`.
//!
//! The types are newtypes, not re-exports, for three reasons: the `disallowed_types` lint can then
//! tell this door from the wall, the test builds can cut an operation after any of its writes
//! (`kill`), and nothing else of the standard surface (such as `get_mut` on shared memory) leaks in.
//!
//! # Store-load pairs
//!
//! Where two sides must each see the other's store (a leaf against its parent, a bit against its
//! summary, a sleep flag against a queue), both sides write and then look. That needs a total order
//! of these accesses, which only `SeqCst` gives:
//!
//! ```text
//!     one side                         other side
//!     write A  (store_load_*)          write B  (store_load_*)
//!     look at B (store_load_load)      look at A (store_load_load)
//!     forbidden: both look and neither sees the other's write
//! ```
//!
//! In production all of them are `SeqCst` accesses (on x86-64 a plain load and one locked
//! instruction). loom models `SeqCst` accesses as `AcqRel`, so there the looking half is
//! `fence(SeqCst)` followed by the load, which is what the access means in the C++ model. The mutants
//! take that fence away, site by site.
//!
//! # Mutants
//!
//! Each sync point has mutants, switched on by `--cfg` with `qtf_mutant` and a name, in model checking only.
//! `cargo xtask loom --mutants` builds every one that the sources name; its model must then fail.
//! `shm/tests/loom_mutants.txt` tells which model that is.

pub(crate) mod fetch;
#[cfg(not(loom))]
pub(crate) mod futex;
#[cfg(any(test, loom, feature = "kill-points"))]
pub mod kill;

#[cfg(not(loom))]
use core::sync::atomic as imp;
#[cfg(loom)]
use loom::sync::atomic as imp;

pub use imp::{Ordering, fence};

#[cfg(any(test, loom, feature = "kill-points"))]
use kill::wrote;
#[cfg(not(any(test, loom, feature = "kill-points")))]
#[inline(always)]
const fn wrote() {}

macro_rules! atomic_integer {
    ($name:ident, $int:ty) => {
        #[doc = concat!("An atomic `", stringify!($int), "`.")]
        #[cfg_attr(
            not(loom),
            expect(
                clippy::disallowed_types,
                reason = "this module is the door to atomics"
            )
        )]
        #[repr(transparent)]
        #[derive(Debug, Default)]
        pub struct $name(imp::$name);

        impl $name {
            /// Makes an atomic that holds `value`.
            #[cfg(not(loom))]
            #[must_use]
            pub const fn new(value: $int) -> Self {
                #[expect(
                    clippy::disallowed_types,
                    reason = "this module is the door to atomics"
                )]
                Self(imp::$name::new(value))
            }

            /// Makes an atomic that holds `value`.
            #[cfg(loom)]
            #[must_use]
            pub fn new(value: $int) -> Self {
                Self(imp::$name::new(value))
            }

            /// Reads the value.
            #[inline]
            pub fn load(&self, order: Ordering) -> $int {
                self.0.load(order)
            }

            /// Writes the value.
            #[inline]
            #[cfg_attr(test, track_caller)]
            pub fn store(&self, value: $int, order: Ordering) {
                self.0.store(value, order);
                wrote();
            }

            /// Writes the value and returns the one before.
            #[inline]
            #[cfg_attr(test, track_caller)]
            pub fn swap(&self, value: $int, order: Ordering) -> $int {
                let before = self.0.swap(value, order);
                wrote();
                before
            }

            /// Writes `to` if the value is `from`; `Err` holds the value found instead.
            ///
            /// # Errors
            /// The value was not `from`.
            #[inline]
            #[cfg_attr(test, track_caller)]
            pub fn compare_exchange(
                &self,
                from: $int,
                to: $int,
                success: Ordering,
                failure: Ordering,
            ) -> Result<$int, $int> {
                let result = self.0.compare_exchange(from, to, success, failure);
                if result.is_ok() {
                    wrote();
                }
                result
            }

            /// As `compare_exchange`, but may fail without a reason; for loops.
            ///
            /// # Errors
            /// The value was not `from`, or the processor gave up.
            #[inline]
            #[cfg_attr(test, track_caller)]
            pub fn compare_exchange_weak(
                &self,
                from: $int,
                to: $int,
                success: Ordering,
                failure: Ordering,
            ) -> Result<$int, $int> {
                let result = self.0.compare_exchange_weak(from, to, success, failure);
                if result.is_ok() {
                    wrote();
                }
                result
            }

            /// Adds, wrapping, and returns the value before.
            #[inline]
            #[cfg_attr(test, track_caller)]
            pub fn fetch_add(&self, value: $int, order: Ordering) -> $int {
                let before = self.0.fetch_add(value, order);
                wrote();
                before
            }

            /// Subtracts, wrapping, and returns the value before.
            #[inline]
            #[cfg_attr(test, track_caller)]
            pub fn fetch_sub(&self, value: $int, order: Ordering) -> $int {
                let before = self.0.fetch_sub(value, order);
                wrote();
                before
            }

            /// Sets bits and returns the value before.
            #[inline]
            #[cfg_attr(test, track_caller)]
            pub fn fetch_or(&self, value: $int, order: Ordering) -> $int {
                let before = self.0.fetch_or(value, order);
                wrote();
                before
            }

            /// Keeps only the given bits and returns the value before.
            #[inline]
            #[cfg_attr(test, track_caller)]
            pub fn fetch_and(&self, value: $int, order: Ordering) -> $int {
                let before = self.0.fetch_and(value, order);
                wrote();
                before
            }

            /// Raises the value to at least `value` and returns the one before.
            #[inline]
            #[cfg_attr(test, track_caller)]
            pub fn fetch_max(&self, value: $int, order: Ordering) -> $int {
                let before = self.0.fetch_max(value, order);
                wrote();
                before
            }

            /// The address, for system calls such as futex.
            #[cfg(not(loom))]
            #[must_use]
            pub const fn as_ptr(&self) -> *mut $int {
                self.0.as_ptr()
            }
        }

        #[cfg(not(loom))]
        const _: () = assert!(
            size_of::<$name>() == size_of::<$int>() && align_of::<$name>() == size_of::<$int>()
        );
    };
}

atomic_integer!(AtomicU8, u8);
atomic_integer!(AtomicU16, u16);
atomic_integer!(AtomicU32, u32);
atomic_integer!(AtomicU64, u64);
atomic_integer!(AtomicUsize, usize);

/// An atomic `bool`, for memory of one process; the segment holds integers only.
#[cfg_attr(
    not(loom),
    expect(
        clippy::disallowed_types,
        reason = "this module is the door to atomics"
    )
)]
#[derive(Debug, Default)]
pub struct AtomicBool(imp::AtomicBool);

impl AtomicBool {
    /// Makes an atomic that holds `value`.
    #[must_use]
    pub fn new(value: bool) -> Self {
        #[cfg_attr(
            not(loom),
            expect(
                clippy::disallowed_types,
                reason = "this module is the door to atomics"
            )
        )]
        Self(imp::AtomicBool::new(value))
    }

    /// Reads the value.
    #[inline]
    pub fn load(&self, order: Ordering) -> bool {
        self.0.load(order)
    }

    /// Writes the value.
    #[inline]
    #[cfg_attr(test, track_caller)]
    pub fn store(&self, value: bool, order: Ordering) {
        self.0.store(value, order);
        wrote();
    }

    /// Writes the value and returns the one before.
    #[inline]
    #[cfg_attr(test, track_caller)]
    pub fn swap(&self, value: bool, order: Ordering) -> bool {
        let before = self.0.swap(value, order);
        wrote();
        before
    }
}

/// The looking half of a store-load pair.
#[inline]
pub fn store_load_load(word: &AtomicU64) -> u64 {
    #[cfg(loom)]
    // ORDERING: [sync.store_load] under loom the fence gives what the SeqCst access means (see the head).
    fence(Ordering::SeqCst);
    // ORDERING: [sync.store_load] SeqCst: ordered after this side's own store_load write.
    word.load(Ordering::SeqCst)
}

/// The writing half of a store-load pair, by compare and exchange.
///
/// # Errors
/// The word was not `from`; holds what it was.
#[inline]
#[cfg_attr(test, track_caller)]
pub fn store_load_cas(word: &AtomicU64, from: u64, to: u64) -> Result<u64, u64> {
    // ORDERING: [sync.store_load] SeqCst: ordered before this side's next store_load_load.
    word.compare_exchange(from, to, Ordering::SeqCst, Ordering::SeqCst)
}

/// The writing half of a store-load pair, by swap; returns the value before.
#[inline]
#[cfg_attr(test, track_caller)]
pub fn store_load_swap(word: &AtomicU64, value: u64) -> u64 {
    // ORDERING: [sync.store_load] SeqCst: ordered before this side's next store_load_load.
    word.swap(value, Ordering::SeqCst)
}

/// The writing half of a store-load pair, by addition; returns the value before.
#[inline]
#[cfg_attr(test, track_caller)]
pub fn store_load_add(word: &AtomicU64, value: u64) -> u64 {
    // ORDERING: [sync.store_load] SeqCst: ordered before this side's next store_load_load.
    word.fetch_add(value, Ordering::SeqCst)
}

/// The writing half of a store-load pair, setting bits; returns the value before.
#[inline]
#[cfg_attr(test, track_caller)]
pub fn store_load_set_bits(word: &AtomicU64, bits: u64) -> u64 {
    // ORDERING: [sync.store_load] SeqCst: ordered before this side's next store_load_load.
    word.fetch_or(bits, Ordering::SeqCst)
}

/// The writing half of a store-load pair, clearing bits; returns the value before.
#[inline]
#[cfg_attr(test, track_caller)]
pub fn store_load_clear_bits(word: &AtomicU64, bits: u64) -> u64 {
    // ORDERING: [sync.store_load] SeqCst: ordered before this side's next store_load_load.
    word.fetch_and(!bits, Ordering::SeqCst)
}

/// Reads a word that the caller alone writes.
///
/// loom remembers the last access of a word only. A writer that looks at its own word before it writes would hide the looks of others before that, and
/// no order but the first would be explored; so there the look is an addition of nothing, which others' looks race with.
#[inline]
pub fn load_own(word: &AtomicU64) -> u64 {
    #[cfg(loom)]
    // ORDERING: as below; it publishes nothing that the store before it has not.
    return word.fetch_add(0, Ordering::Relaxed);
    #[cfg(not(loom))]
    // ORDERING: the caller's own last store.
    word.load(Ordering::Relaxed)
}

/// Makes `count` zeroed words in private memory: tests, simulators, tools.
#[must_use]
pub fn zeroed_words(count: usize) -> Box<[AtomicU64]> {
    (0..count).map(|_| AtomicU64::new(0)).collect()
}

/// Waits a little longer after each lost race: 8, 16, .. 256 spins.
///
/// Two takers that fight for the same minimum lose most of their time in handing the same lines to
/// and fro; a short pause of the loser lets the winner finish. It costs nothing when there is no race.
#[derive(Debug, Default)]
pub struct Backoff {
    losses: u32,
}

impl Backoff {
    const SPINS_MIN: u32 = 8;
    const DOUBLINGS_MAX: u32 = 5;

    /// A back-off that has not lost yet.
    #[must_use]
    pub const fn new() -> Self {
        Self { losses: 0 }
    }

    /// Pauses after a lost race. A no-op under loom, which explores all orders anyway.
    #[inline]
    pub fn pause(&mut self) {
        #[cfg(not(loom))]
        for _ in 0..(Self::SPINS_MIN << self.losses) {
            core::hint::spin_loop();
        }
        self.losses = (self.losses + 1).min(Self::DOUBLINGS_MAX);
        let _ = Self::SPINS_MIN;
    }
}
