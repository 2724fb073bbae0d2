//! Which worker slot the next worker gets, without a look at all of them.
//!
//! There can be 65,535, and a look at each is a cache line. So slots that the PLM has given back are remembered, the lowest is used first
//! (what walks over slots in use then has few), and behind those in use lie slots that nobody has had. Local processes take and give
//! back slots without a word: what is remembered is a hint, and only the slot's own word tells. Where the hints end, all slots are looked
//! through; if that finds none, not again before something has changed.
//!
//! Tested in `engine/tests/rules/joining.rs` and `local_offers.rs`.

use std::collections::BTreeSet;

use qtf_shm::{AttachIndex, Segment, WorkerEvent, WorkerIndex};

use super::workers::Workers;

/// The hints.
#[derive(Debug, Default)]
pub(super) struct FreeSlots {
    given_back: BTreeSet<u16>,
    /// Where the slot may be that nobody has had: behind the last that was found by a look through all.
    beyond: u16,
    /// The count of changes of local workers at which a look through all found none.
    none_at: Option<u64>,
}

impl FreeSlots {
    /// A slot has become free.
    pub(super) fn give_back(&mut self, worker: WorkerIndex) {
        self.given_back.insert(worker.get());
    }

    /// A local process may have given one back and died before it said so.
    pub(super) fn look_again(&mut self) {
        self.none_at = None;
    }
}

impl Workers {
    /// A slot that a worker can join at now; another process may be faster.
    pub(super) fn free_slot(&mut self, segment: &Segment) -> Option<WorkerIndex> {
        let count = segment.geometry().workers();
        let at = |number: u16| WorkerIndex::new_checked(number, count);
        while let Some(&number) = self.free.given_back.first() {
            match at(number).filter(|&worker| is_free(segment, worker)) {
                Some(worker) => return Some(worker),
                None => self.free.given_back.remove(&number),
            };
        }
        let beyond = self.used.max(self.free.beyond);
        if let Some(worker) = at(beyond).filter(|&worker| is_free(segment, worker)) {
            return Some(worker);
        }
        let changes = segment.local_changes();
        if self.free.none_at == Some(changes) {
            return None;
        }
        let found = self.all_indices().find(|&worker| is_free(segment, worker));
        match found {
            Some(worker) => self.free.beyond = worker.get().saturating_add(1),
            None => self.free.none_at = Some(changes),
        }
        found
    }
}

fn is_free(segment: &Segment, worker: WorkerIndex) -> bool {
    let attach = AttachIndex::DAEMON;
    let state = segment.worker(worker).state();
    state.after(WorkerEvent::Join { attach }).is_ok()
}
