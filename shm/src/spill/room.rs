//! The bound on what the files of one store hold together. Tested in `spill/mod.rs`.

use std::sync::Arc;

use crate::sync::{AtomicU64, Ordering};

/// How much the files of a store hold together, and may hold. Shared by its clones.
#[derive(Debug)]
pub(super) struct Room {
    pub(super) used: AtomicU64,
    pub(super) total: u64,
}

impl Room {
    pub(super) fn shared(total: u64) -> Arc<Self> {
        let used = AtomicU64::new(0);
        Arc::new(Self { used, total })
    }

    /// Counts a file that is about to be made, if it fits; else gives what is in use.
    pub(super) fn take(&self, bytes: u64) -> Result<(), u64> {
        self.change(|used| used.checked_add(bytes).filter(|&sum| sum <= self.total))
    }

    /// A damaged reference may name more bytes than were counted.
    pub(super) fn give_back(&self, bytes: u64) {
        // Always some number, so it cannot be refused.
        let _ = self.change(|used| Some(used.saturating_sub(bytes)));
    }

    fn change(&self, to: impl Fn(u64) -> Option<u64>) -> Result<(), u64> {
        // ORDERING: a count of its own; nothing else is read by it.
        let mut used = self.used.load(Ordering::Relaxed);
        loop {
            let next = to(used).ok_or(used)?;
            // ORDERING: as above.
            let changed =
                self.used
                    .compare_exchange(used, next, Ordering::Relaxed, Ordering::Relaxed);
            match changed {
                Ok(_) => return Ok(()),
                Err(found) => used = found,
            }
        }
    }
}
