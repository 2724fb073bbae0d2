//! How a worker is, for those who watch it: whether its loop turns, whether it has registered, and how much it holds.
//!
//! Tested in `worker/tests/session` and, under a real systemd, in `tests/tests/service/`.

use std::sync::Arc;

use qtf_shm::sync::{AtomicU64, Ordering};
use tokio::sync::watch;

/// Of one worker; clones tell of the same.
#[derive(Clone, Debug, Default)]
pub struct Vitals(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    turns: AtomicU64,
    holding: AtomicU64,
    registered: watch::Sender<bool>,
}

impl Default for Inner {
    fn default() -> Self {
        Self {
            turns: AtomicU64::new(0),
            holding: AtomicU64::new(0),
            registered: watch::Sender::new(false),
        }
    }
}

impl Vitals {
    /// How often its loop has turned: at least every two seconds while it is well.
    #[must_use]
    pub fn turns(&self) -> u64 {
        // ORDERING: a count that is compared with an earlier one.
        self.0.turns.load(Ordering::Relaxed)
    }

    /// Tasks that it holds.
    #[must_use]
    pub fn holding(&self) -> u64 {
        // ORDERING: for display.
        self.0.holding.load(Ordering::Relaxed)
    }

    /// Whether a daemon has ever taken it in.
    #[must_use]
    pub fn has_registered(&self) -> bool {
        *self.0.registered.borrow()
    }

    /// Waits until a daemon has taken it in.
    pub async fn is_registered(&self) {
        let mut seen = self.0.registered.subscribe();
        // The sender is in `self`.
        let _always = seen.wait_for(|is| *is).await;
    }

    pub(crate) fn turned(&self, holding: u32) {
        // ORDERING: as above; only the agent's loop writes.
        self.0.turns.fetch_add(1, Ordering::Relaxed);
        // ORDERING: as above.
        self.0.holding.store(holding.into(), Ordering::Relaxed);
    }

    pub(crate) fn registered(&self) {
        self.0
            .registered
            .send_if_modified(|is| !std::mem::replace(is, true));
    }
}
