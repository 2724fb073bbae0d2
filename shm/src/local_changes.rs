//! The count of changes of local workers: how the daemon learns that one has come, gone, or takes no more.
//!
//! Invariant: the count rises after the worker's word has changed. So whoever finds the count as it was and looks at the words later still
//! has the change before it (label `worker.local`).
//!
//! Modelled in `shm/tests/loom_gate.rs`, tested in `segment/tests/attachment.rs`.

use crate::sync::{AtomicU64, Ordering};

/// The count, by its word.
#[derive(Debug, Clone, Copy)]
pub struct LocalChanges<'s> {
    word: &'s AtomicU64,
}

impl<'s> LocalChanges<'s> {
    /// A count over its word.
    #[must_use]
    pub const fn new(word: &'s AtomicU64) -> Self {
        Self { word }
    }

    /// How often local workers have changed.
    #[must_use]
    pub fn count(&self) -> u64 {
        let order = if cfg!(qtf_mutant = "local_changes_without_acquire") {
            // ORDERING: a mutant.
            Ordering::Relaxed
        } else {
            // ORDERING: [worker.local] Acquire: who sees the count sees the words that it is about.
            Ordering::Acquire
        };
        // ORDERING: as chosen above.
        self.word.load(order)
    }

    /// A local worker's word has changed.
    pub fn note(&self) {
        let order = if cfg!(qtf_mutant = "local_changes_without_release") {
            // ORDERING: a mutant.
            Ordering::Relaxed
        } else {
            // ORDERING: [worker.local] Release: the worker's word first. SeqCst as the bell follows, which is a store-load pair.
            Ordering::SeqCst
        };
        // ORDERING: as chosen above.
        self.word.fetch_add(1, order);
    }
}
