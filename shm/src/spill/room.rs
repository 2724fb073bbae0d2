//! The bound on what the files of one store hold together. Tested in `spill/mod.rs`.

use std::sync::Arc;

use crate::sync::{AtomicU64, Ordering};

/// LIMIT: files that were given up and are not removed yet; while there are so many no new one is made.
pub const GIVEN_UP_FILES_MAX: u64 = 1 << 16;

/// How much the files of a store hold together, and may hold. Shared by its clones.
#[derive(Debug)]
pub(super) struct Room {
    pub(super) used: AtomicU64,
    pub(super) total: u64,
    /// Files that were given up and are not removed yet, and their bytes.
    given_up: AtomicU64,
    given_up_bytes: AtomicU64,
}

impl Room {
    pub(super) fn shared(total: u64) -> Arc<Self> {
        Arc::new(Self {
            used: AtomicU64::new(0),
            total,
            given_up: AtomicU64::new(0),
            given_up_bytes: AtomicU64::new(0),
        })
    }

    /// Files that were given up and are not removed yet.
    pub(super) fn given_up(&self) -> u64 {
        // ORDERING: a count of its own.
        self.given_up.load(Ordering::Relaxed)
    }

    /// Whether so much waits to be removed that nothing new is to be made: files, or as many bytes as the store may hold.
    pub(super) fn is_behind(&self) -> bool {
        // ORDERING: counts of their own; a little more or less does not matter.
        let bytes = self.given_up_bytes.load(Ordering::Relaxed);
        bytes > self.total || self.given_up() >= GIVEN_UP_FILES_MAX
    }

    /// A file waits to be removed. Its bytes are free.
    pub(super) fn give_up(&self, bytes: u64) {
        self.give_back(bytes);
        add(&self.given_up, 1);
        add(&self.given_up_bytes, bytes);
    }

    /// It waits no more.
    pub(super) fn end_waiting(&self, bytes: u64) {
        take_off(&self.given_up, 1);
        take_off(&self.given_up_bytes, bytes);
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
        change(&self.used, to)
    }
}

fn add(count: &AtomicU64, more: u64) {
    // Always some number, so it cannot be refused.
    let _ = change(count, |held| Some(held.saturating_add(more)));
}

fn take_off(count: &AtomicU64, less: u64) {
    // As above.
    let _ = change(count, |held| Some(held.saturating_sub(less)));
}

/// Changes a count, or says what it is.
fn change(count: &AtomicU64, to: impl Fn(u64) -> Option<u64>) -> Result<(), u64> {
    // ORDERING: a count of its own; nothing else is read by it.
    let mut held = count.load(Ordering::Relaxed);
    loop {
        let next = to(held).ok_or(held)?;
        // ORDERING: as above.
        match count.compare_exchange(held, next, Ordering::Relaxed, Ordering::Relaxed) {
            Ok(_) => return Ok(()),
            Err(found) => held = found,
        }
    }
}
