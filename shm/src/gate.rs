//! The gate of a segment: whether a process may come in at all, by two words of the control region.
//!
//! Nobody comes in before the creator has published it, nor while a daemon that is alone builds the caches anew. Invariants:
//! - I1: a segment is published once everything in it is written (label `segment.ready`).
//! - I2: who comes in takes an attach record first and looks at the gate afterwards; who wants to be alone closes the gate first and looks at
//!   the records afterwards (label `attach.alone`, a store-load pair). So one of the two sees the other.
//!
//! Modelled in `shm/tests/loom_gate.rs`, tested in `segment/tests/`.

use crate::sync::{AtomicU64, Ordering, store_load_load, store_load_swap};

/// The creator has finished: the segment may be used.
pub(crate) const READY: u64 = 2;

/// The gate, by its words.
#[derive(Debug, Clone, Copy)]
pub struct Gate<'s> {
    ready: &'s AtomicU64,
    rebuilding: &'s AtomicU64,
}

impl<'s> Gate<'s> {
    /// A gate over its words.
    #[must_use]
    pub const fn new(ready: &'s AtomicU64, rebuilding: &'s AtomicU64) -> Self {
        Self { ready, rebuilding }
    }

    /// Last thing a creator does.
    pub fn publish(&self) {
        let order = if cfg!(qtf_mutant = "segment_published_without_release") {
            // ORDERING: a mutant.
            Ordering::Relaxed
        } else {
            // ORDERING: [segment.ready] Release pairs with the Acquire in `is_published`: everything before is visible.
            Ordering::Release
        };
        // ORDERING: as chosen above.
        self.ready.store(READY, order);
    }

    /// The creator has finished; what it wrote is visible.
    #[must_use]
    pub fn is_published(&self) -> bool {
        let order = if cfg!(qtf_mutant = "segment_looked_at_without_acquire") {
            // ORDERING: a mutant.
            Ordering::Relaxed
        } else {
            // ORDERING: [segment.ready] Acquire pairs with the Release in `publish`: the header is visible.
            Ordering::Acquire
        };
        // ORDERING: as chosen above.
        self.ready.load(order) == READY
    }

    /// Keeps others out from here on. The caller looks afterwards who is in.
    pub fn close(&self) {
        // ORDERING: [attach.alone] write half; the look at the records is the other half.
        store_load_swap(self.rebuilding, 1);
    }

    /// Lets others in.
    pub fn open(&self) {
        // ORDERING: [attach.alone] Release: who attaches next sees the caches.
        store_load_swap(self.rebuilding, 0);
    }

    /// A daemon wants to be alone. The caller has taken its record before.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        let word = if cfg!(qtf_mutant = "attach_joiner_looks_too_early") {
            // ORDERING: a mutant.
            self.rebuilding.load(Ordering::Relaxed)
        } else {
            // ORDERING: [attach.alone] look half: our record was taken before; pairs with `close`.
            store_load_load(self.rebuilding)
        };
        word != 0
    }
}
