//! Whether a lane's owner may have missed something: an event that found its ring full, or one that a daemon could not tell any more.
//!
//! The state words of tasks stay the truth, and an event is a hint where to look. So one that finds no room is dropped, and counted; an owner that
//! finds the count risen looks at the words of all tasks that it waits for. Two counts with one writer each: how often something was
//! missed (core), and up to which of them the owner has looked (own).
//!
//! Order: the core changes the state word, then counts. The owner takes note of the count, *then* looks. What is missed after that raises the count
//! again; so nothing is missed for good.
//!
//! Sync point `lane.missed`: the state word, then the count (release) against the count (acquire), then the words. Modelled in
//! `shm/tests/loom_lane.rs`.

use crate::sync::{AtomicU64, Ordering, load_own, store_load_swap};

/// The mark by its two words.
#[derive(Debug, Clone, Copy)]
pub struct Missed<'s> {
    count: &'s AtomicU64,
    seen: &'s AtomicU64,
}

impl<'s> Missed<'s> {
    /// A mark over its words: that of the core, that of the owner.
    #[must_use]
    pub const fn new(count: &'s AtomicU64, seen: &'s AtomicU64) -> Self {
        Self { count, seen }
    }

    /// The mark stands. For those who only look, and for an owner that is about to sleep.
    #[must_use]
    pub fn stands(&self) -> bool {
        // ORDERING: the owner's look at what it missed is ordered by `take`, its way to sleep by the fence of the bell.
        let read = |word: &AtomicU64| word.load(Ordering::Relaxed);
        read(self.count) != read(self.seen)
    }

    /// How often something was missed.
    #[must_use]
    pub fn count(&self) -> u64 {
        // ORDERING: shown only.
        self.count.load(Ordering::Relaxed)
    }

    /// The core only: the owner is to look at the words.
    pub(crate) fn note(&self) {
        let next = load_own(self.count).wrapping_add(1);
        if cfg!(qtf_mutant = "missed_without_release") {
            // ORDERING: a mutant.
            self.count.store(next, Ordering::Relaxed);
        } else {
            // ORDERING: [lane.missed] Release: with the words that it is about. A store-load pair with the mark of an owner that goes to sleep.
            store_load_swap(self.count, next);
        }
    }

    /// The owner only: takes note of the mark. True if it stood: then the owner looks at the words now.
    #[must_use]
    pub(crate) fn take(&self) -> bool {
        let order = if cfg!(qtf_mutant = "missed_without_acquire") {
            // ORDERING: a mutant.
            Ordering::Relaxed
        } else {
            // ORDERING: [lane.missed] Acquire: who sees the count sees the words that it is about.
            Ordering::Acquire
        };
        // ORDERING: as chosen above.
        let count = self.count.load(order);
        if load_own(self.seen) == count {
            return false;
        }
        // ORDERING: shown to others only.
        self.seen.store(count, Ordering::Relaxed);
        true
    }
}
