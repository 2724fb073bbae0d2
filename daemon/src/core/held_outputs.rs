//! Bytes of output that are held because there is no room for them yet, of all workers together.
//!
//! The count is the daemon's; shares of it are taken inside the core and given back wherever a session ends. Invariant: it is the sum of
//! the shares that there are. Tested at the end of `edge/results.rs`.

use std::sync::Arc;

use qtf_shm::sync::{AtomicUsize, Ordering};

/// LIMIT: bytes that are held; at more the session ends whose result it is, and its worker reports it again.
pub(crate) const HELD_BYTES_MAX: usize = 64 << 20;

/// The count.
#[derive(Debug, Default)]
pub(crate) struct HeldOutputs(Arc<AtomicUsize>);

impl HeldOutputs {
    /// A share, if there is still so much.
    pub(crate) fn take(&self, bytes: usize) -> Option<HeldBytes> {
        // The core alone adds, so nobody else can have made it too many in between.
        // ORDERING: a count for itself.
        let sum = self.0.load(Ordering::Relaxed).saturating_add(bytes);
        (sum <= HELD_BYTES_MAX).then(|| {
            // ORDERING: as above.
            self.0.fetch_add(bytes, Ordering::Relaxed);
            HeldBytes {
                of: Arc::clone(&self.0),
                bytes,
            }
        })
    }

    /// How much is held.
    #[cfg(test)]
    pub(crate) fn sum(&self) -> usize {
        // ORDERING: a count for itself.
        self.0.load(Ordering::Relaxed)
    }
}

/// A share; given back when dropped, on whatever way that comes about.
#[derive(Debug)]
pub(crate) struct HeldBytes {
    of: Arc<AtomicUsize>,
    bytes: usize,
}

impl HeldBytes {
    /// Nothing is held any more.
    pub(crate) fn give_back(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        // ORDERING: a count for itself.
        self.of.fetch_sub(bytes, Ordering::Relaxed);
    }
}

impl Drop for HeldBytes {
    fn drop(&mut self) {
        self.give_back();
    }
}
