//! Which local workers sleep for want of work: so that whoever has made a task ready wakes one of them itself, and need not wake the daemon for it.
//!
//! One word of 64 bits; worker `n` has bit `n` modulo 64. A worker sets its bit, *then* says at its bell that it goes to sleep and looks at the task heap once more. A
//! submitter puts its task into the heap, *then* looks at the word. That is a store-load pair (`sync`): one of them sees the other. Who takes a bit away rings that
//! worker; so one of many submitters does, and one worker is rung for one task.
//!
//! Invariants:
//! - I1: a bit is a hint. Of one that was taken away for a worker that is dead or stopped nothing is expected: the daemon looks at what is ready in its next turn.
//! - I2: a worker clears its bit when it is awake, so no bit stands for long for somebody who does not sleep.
//!
//! Modelled in `shm/tests/loom_lane.rs`, tested in `segment/tests/sleepers.rs`.

use crate::id::WorkerIndex;
use crate::sync::{AtomicU64, Ordering, store_load_load, store_load_set_bits};

/// LIMIT: bits of the word; workers beyond share them.
pub const BITS: u16 = 64;

/// The word.
#[derive(Debug, Clone, Copy)]
pub struct IdleWorkers<'s> {
    word: &'s AtomicU64,
}

impl<'s> IdleWorkers<'s> {
    /// Over its word.
    #[must_use]
    pub const fn new(word: &'s AtomicU64) -> Self {
        Self { word }
    }

    /// A worker is about to sleep: to be said before the mark at its bell, behind which it looks for work once more.
    pub fn note(&self, worker: WorkerIndex) {
        store_load_set_bits(self.word, bit_of(worker));
    }

    /// It is awake.
    pub fn clear(&self, worker: WorkerIndex) {
        // ORDERING: a hint; a submitter that takes it for asleep rings once too often.
        self.word.fetch_and(!bit_of(worker), Ordering::Relaxed);
    }

    /// The bits that are set, for one who has put a task into the heap.
    #[inline]
    #[must_use]
    pub fn bits(&self) -> u64 {
        if cfg!(qtf_mutant = "idle_workers_are_looked_at_too_early") {
            // ORDERING: the mutant: may be older than the task.
            return self.word.load(Ordering::Relaxed);
        }
        store_load_load(self.word)
    }

    /// Takes a bit away. True if this call did: then its caller rings who sleeps there.
    #[must_use]
    pub fn take(&self, bit: u32) -> bool {
        let bit = 1 << (bit % u32::from(BITS));
        // ORDERING: [doorbell.sleep] SeqCst: the look at the bell follows.
        self.word.fetch_and(!bit, Ordering::SeqCst) & bit != 0
    }
}

const fn bit_of(worker: WorkerIndex) -> u64 {
    1 << (worker.get() % BITS)
}
