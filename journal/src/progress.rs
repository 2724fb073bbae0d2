//! How far a cold start has come, for those who wait for it. Tested in `journal/tests/journal/files.rs`.

use std::sync::Arc;

use qtf_shm::sync::{AtomicU64, Ordering};

/// Records read and tasks handed out so far. Clones count together.
#[derive(Debug, Clone, Default)]
pub struct Progress(Arc<AtomicU64>);

impl Progress {
    /// So many of them.
    #[must_use]
    pub fn count(&self) -> u64 {
        // ORDERING: a count that is compared with an earlier one.
        self.0.load(Ordering::Relaxed)
    }

    pub(crate) fn note(&self) {
        // ORDERING: as above.
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}
