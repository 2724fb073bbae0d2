//! The word between a thread that has something done and the thread that does it: an errand.
//!
//! ```text
//! FREE --post--> POSTED --take--> TAKEN --finish--> FREE      the poster waits until it is FREE again
//!                  '-----withdraw-----------------> FREE      where nobody will come to take it
//! ```
//! What is to be done lies beside the word, not in it. It is the poster's while the word is FREE, and the taker's from `take` to `finish`.
//! A taker that is about to sleep says so by a [`Doorbell`](crate::doorbell::Doorbell), then looks at the words once more; a poster posts,
//! then looks at the bell: one of them sees the other.
//!
//! Invariants:
//! - I1: one thread posts and withdraws, one takes and finishes. What was withdrawn is never taken, and what was taken is never
//!   withdrawn.
//! - I2: whoever sees FREE after its own post sees all that was done for it.
//!
//! For threads of one process, which trust each other; no word of it lies in a segment.
//! Tested in `shm/tests/loom_errand.rs`; used by `daemon/src/sys/desk.rs`.

use crate::sync::{AtomicU64, Ordering, store_load_swap};

const FREE: u64 = 0;
const POSTED: u64 = 1;
const TAKEN: u64 = 2;

/// The word of one poster.
#[derive(Debug)]
pub struct ErrandWord(AtomicU64);

impl ErrandWord {
    /// Nothing is posted.
    #[must_use]
    pub fn new() -> Self {
        Self(AtomicU64::new(FREE))
    }

    /// The poster has written what is to be done. Then it looks whether the taker sleeps.
    pub fn post(&self) {
        if cfg!(qtf_mutant = "errand_post_without_release") {
            // ORDERING: a mutant.
            self.0.store(POSTED, Ordering::Relaxed);
            return;
        }
        // ORDERING: [errand.post] with what is to be done; also the writing half of the pair with the taker's bell.
        store_load_swap(&self.0, POSTED);
    }

    /// Whether something is posted, for whoever looks often: a hint.
    #[must_use]
    pub fn is_posted(&self) -> bool {
        // ORDERING: a hint; `take` asks again.
        self.0.load(Ordering::Relaxed) == POSTED
    }

    /// Takes what was posted, if something was: the taker may look at it until [`Self::finish`].
    #[must_use]
    pub fn take(&self) -> bool {
        // Most looks find nothing, and leave the line with its poster.
        if !self.is_posted() {
            return false;
        }
        if cfg!(qtf_mutant = "errand_take_does_not_ask_again") {
            // ORDERING: a mutant.
            self.0.swap(TAKEN, Ordering::Acquire);
            return true;
        }
        let order = if cfg!(qtf_mutant = "errand_take_without_acquire") {
            // ORDERING: a mutant.
            Ordering::Relaxed
        } else {
            // ORDERING: [errand.post] Acquire: what is to be done.
            Ordering::Acquire
        };
        // ORDERING: as chosen above; where it was withdrawn nothing is looked at.
        let taken = self
            .0
            .compare_exchange(POSTED, TAKEN, order, Ordering::Relaxed);
        taken.is_ok()
    }

    /// It is done.
    pub fn finish(&self) {
        let order = if cfg!(qtf_mutant = "errand_finish_without_release") {
            // ORDERING: a mutant.
            Ordering::Relaxed
        } else {
            // ORDERING: [errand.finish] Release: with what was done.
            Ordering::Release
        };
        // ORDERING: as chosen above.
        self.0.store(FREE, order);
    }

    /// Whether nothing of the poster's is under way: then what it posted is done.
    #[must_use]
    pub fn is_free(&self) -> bool {
        let order = if cfg!(qtf_mutant = "errand_is_free_without_acquire") {
            // ORDERING: a mutant.
            Ordering::Relaxed
        } else {
            // ORDERING: [errand.finish] Acquire: what was done.
            Ordering::Acquire
        };
        // ORDERING: as chosen above.
        self.0.load(order) == FREE
    }

    /// The poster takes back what nobody has taken. False if somebody has: it must wait then.
    #[must_use]
    pub fn withdraw(&self) -> bool {
        // ORDERING: nothing was done for the poster, and what it wrote is its own.
        let withdrawn = self
            .0
            .compare_exchange(POSTED, FREE, Ordering::Relaxed, Ordering::Relaxed);
        withdrawn.is_ok()
    }
}

impl Default for ErrandWord {
    fn default() -> Self {
        Self::new()
    }
}
