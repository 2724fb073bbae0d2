//! Leases of single attempts: those of workers that call instead of holding streams.
//!
//! Such a worker sends no heartbeats, so that it lives is known of each attempt on its own: it is its worker's until the lease is over, and
//! a touch starts that over. What the daemon before had given a lease gets one anew (`calling.rs`).
//!
//! Invariants:
//! - I1: a slot has at most one lease; the three maps name the same slots (`by_request` those that a request is known of).
//! - I2: a lease may outlive its attempt for a moment, and never counts then: whoever serves it asks the state word.
//!
//! Tested in `engine/tests/rules/calling.rs`.

use std::collections::{BTreeMap, BTreeSet};

use qtf_shm::{Now, SlotIndex, TaskId, WorkerIndex};

use crate::lookup::TaskRef;

/// One attempt that is its worker's for a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct AttemptLease {
    pub(crate) worker: WorkerIndex,
    pub(crate) task: TaskId,
    pub(crate) attempt: u16,
    pub(crate) end: Now,
    /// The call that it was given to, by the caller's own number; 0 = not said.
    pub(crate) request: u64,
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct AttemptLeases {
    by_slot: BTreeMap<SlotIndex, AttemptLease>,
    by_end: BTreeSet<(Now, SlotIndex)>,
    by_request: BTreeMap<(WorkerIndex, u64), BTreeSet<SlotIndex>>,
    /// None is over before this: the daemon did not listen.
    not_before: Now,
}

impl AttemptLeases {
    /// Gives a slot this lease; returns the one that it had.
    pub(super) fn set(&mut self, lease: AttemptLease) -> Option<AttemptLease> {
        let slot = lease.task.slot();
        let before = self.remove(slot);
        self.by_end.insert((lease.end, slot));
        if lease.request != 0 {
            let named = self.by_request.entry((lease.worker, lease.request));
            named.or_default().insert(slot);
        }
        self.by_slot.insert(slot, lease);
        before
    }

    pub(super) fn remove(&mut self, slot: SlotIndex) -> Option<AttemptLease> {
        let lease = self.by_slot.remove(&slot)?;
        self.by_end.remove(&(lease.end, slot));
        let request = (lease.worker, lease.request);
        if let Some(named) = self.by_request.get_mut(&request) {
            named.remove(&slot);
            if named.is_empty() {
                self.by_request.remove(&request);
            }
        }
        Some(lease)
    }

    pub(super) fn get(&self, slot: SlotIndex) -> Option<&AttemptLease> {
        self.by_slot.get(&slot)
    }

    /// Takes the next one that is over.
    pub(super) fn pop_over(&mut self, now: Now) -> Option<AttemptLease> {
        let &(end, slot) = self.by_end.first()?;
        if now < end.max(self.not_before) {
            return None;
        }
        self.remove(slot)
    }

    /// When the next one is over.
    pub(super) fn next_end(&self) -> Option<Now> {
        let (end, _) = self.by_end.first()?;
        Some((*end).max(self.not_before))
    }

    /// None is over before this.
    pub(super) fn spare_until(&mut self, moment: Now) {
        self.not_before = self.not_before.max(moment);
    }

    /// What a worker was given by one of its calls, and has a lease for.
    pub(super) fn of_request(&self, worker: WorkerIndex, request: u64) -> Vec<TaskRef> {
        let named = self.by_request.get(&(worker, request));
        named
            .into_iter()
            .flatten()
            .filter_map(|slot| self.by_slot.get(slot))
            .map(|lease| TaskRef {
                task: lease.task,
                attempt: lease.attempt.into(),
            })
            .collect()
    }
}
