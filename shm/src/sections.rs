//! Sections: pieces of work of a process during which others must not take its word for granted, counted in its attach record.
//!
//! ```text
//! sections   entered so often 48 | within one now 16
//! ```
//! Two things are asked of them. Of counts: whether a difference between count and truth is that of somebody alive (`segment/quiet.rs`). Of state words:
//! whether a process may still compare with a word that it has read (`segment/gates.rs`); for that the word is read after the section was entered, in
//! order.
//!
//! # Sync points
//! | label | what | against |
//! |---|---|---|
//! | `arena.quiet` | section entered, then a word changed by a releasing read-modify-write | that word (acquire), then the sections again |
//! | `task.gate` | section entered, then the state word looked at; compared with, then the section left | the state word changed, then the sections looked at: a store-load pair |
//!
//! Modelled in `shm/tests/loom_repair.rs` and `loom_gates.rs`.

use crate::sync::{AtomicU64, Ordering, store_load_add, store_load_load};

const ENTER: u64 = (1 << 16) | 1;
const LEAVE: u64 = 1;
const WITHIN: u64 = 0xFFFF;

/// The sections of one process.
#[derive(Debug, Clone, Copy)]
pub struct Sections<'s>(&'s AtomicU64);

impl<'s> Sections<'s> {
    /// Those that are counted in this word.
    #[must_use]
    pub const fn new(word: &'s AtomicU64) -> Self {
        Self(word)
    }

    /// Enters one. Nests, and may be done by several threads at once.
    pub fn enter(self) {
        // ORDERING: [arena.quiet] before the first change within: that change is a releasing read-modify-write. [task.gate] write half; the look at
        // a state word within is the other half.
        store_load_add(self.0, ENTER);
    }

    /// Leaves it.
    pub fn leave(self) {
        // ORDERING: [arena.quiet], [task.gate] Release: whoever sees that we have left sees all that we did.
        self.0.fetch_sub(LEAVE, Ordering::Release);
    }

    /// The word; what was done in sections that it says were left is visible.
    #[must_use]
    pub fn look(self) -> u64 {
        // ORDERING: [arena.quiet] Acquire: what was done within is visible, and what is read next is read later.
        self.0.load(Ordering::Acquire)
    }

    /// The process is within one, so it may compare with words that were there before the caller's last change of them.
    #[must_use]
    pub fn remembers(self) -> bool {
        if cfg!(qtf_mutant = "gate_opens_unasked") {
            return false;
        }
        if cfg!(qtf_mutant = "gate_looks_too_early") {
            // ORDERING: a mutant.
            return is_within(self.0.load(Ordering::Acquire));
        }
        // ORDERING: [task.gate] look half, after the change of the state word.
        is_within(store_load_load(self.0))
    }
}

/// A word of sections says that its process is within one.
#[must_use]
pub const fn is_within(sections: u64) -> bool {
    sections & WITHIN != 0
}
