//! The leaves of workers in the worker heap, and which worker is picked by them.
//!
//! A leaf is derived from the slot by [`Workers::refresh`], and by nothing else. Two things keep that rare. What results change is
//! noted, and derived once before the scheduler picks. While it picks, the least loaded worker is *in hand*: its leaf changes when
//! another is less loaded, or at the end. Invariant: when the scheduler does not pick, nobody is in hand; when it does, leaves
//! are right but for that of the worker in hand, which is too good, and its slot has the right key.
//! Tested in `engine/tests/rules/scheduling.rs`, `pace.rs`.

use qtf_shm::{Key, KindSet, Segment, WorkerIndex, WorkerSlot, WorkerState};

use super::workers::{APPLY_TRIES_MAX, Workers};

/// The worker that is given tasks as long as it stays the least loaded: its leaf is changed once, when another's turn comes.
/// Only while the scheduler picks: nothing else changes leaves meanwhile, and those of others get worse only.
#[derive(Debug, Clone, Copy)]
pub(super) struct Hand {
    pub(super) worker: WorkerIndex,
    /// The best key of the others.
    next: Option<Key>,
}

impl Workers {
    /// Says whether any worker may be given a task.
    pub(crate) fn has_free(&self, segment: &Segment) -> bool {
        match self.hand {
            Some(hand) => {
                hand.next.is_some() || self.may_take(segment.worker(hand.worker), hand.worker)
            }
            None => segment.worker_heap().first_key().is_some(),
        }
    }

    /// The least loaded worker that may be given a task.
    pub(crate) fn first_free(&mut self, segment: &Segment) -> Option<WorkerIndex> {
        if let Some(hand) = self.hand {
            let slot = segment.worker(hand.worker);
            let is_best = hand.next.is_none_or(|next| slot.key() < next);
            if is_best && self.may_take(slot, hand.worker) {
                return Some(hand.worker);
            }
            self.put_down(segment);
        }
        let worker = self.locate_free(segment)?;
        let next = segment.worker_heap().best_beside(u32::from(worker.get()));
        self.hand = Some(Hand { worker, next });
        Some(worker)
    }

    /// Before workers are picked: their leaves are right.
    pub(crate) fn mend_leaves(&mut self, segment: &Segment) {
        while let Some(worker) = self.stale_leaves.pop() {
            self.notes[worker.position()].leaf_is_stale = false;
            self.refresh(segment, worker);
        }
    }

    /// After workers were picked: the one in hand has its leaf again.
    pub(crate) fn put_down(&mut self, segment: &Segment) {
        if let Some(hand) = self.hand.take()
            && !cfg!(qtf_mutant = "sim_worker_in_hand_keeps_its_leaf")
        {
            self.refresh(segment, hand.worker);
        }
    }

    fn locate_free(&self, segment: &Segment) -> Option<WorkerIndex> {
        for _ in 0..APPLY_TRIES_MAX {
            let (leaf, _) = segment.worker_heap().locate()?;
            let worker = u16::try_from(leaf)
                .ok()
                .and_then(|raw| WorkerIndex::new_checked(raw, u32::from(self.used)));
            match worker {
                Some(worker) if self.may_take(segment.worker(worker), worker) => {
                    return Some(worker);
                }
                Some(_) | None => segment.worker_heap().set(leaf, Key::EMPTY),
            }
        }
        None
    }

    /// All workers that may be given a task, with their keys.
    pub(crate) fn free<'w>(
        &'w self,
        segment: &'w Segment,
    ) -> impl Iterator<Item = (Key, WorkerIndex)> + 'w {
        self.indices().filter_map(move |worker| {
            let slot = segment.worker(worker);
            self.may_take(slot, worker).then(|| (slot.key(), worker))
        })
    }

    /// Derives a worker's leaf and its share of the offers from its slot.
    pub(super) fn refresh(&mut self, segment: &Segment, worker: WorkerIndex) {
        let slot = segment.write_worker(self.right, worker);
        let state = slot.state();
        let key = self.key_of(state, worker);
        slot.set_key(key);
        let leaf = if self.may_take(&slot, worker) {
            key
        } else {
            Key::EMPTY
        };
        segment.worker_heap().set(u32::from(worker.get()), leaf);
        let offering = if self.is_on_offer(worker, state) {
            slot.kinds()
        } else {
            KindSet::EMPTY
        };
        self.offer(worker, offering);
    }

    /// The same before the next worker is picked: many results of a worker change its leaf once.
    pub(super) fn refresh_later(&mut self, worker: WorkerIndex) {
        let note = &mut self.notes[worker.position()];
        if !std::mem::replace(&mut note.leaf_is_stale, true) {
            self.stale_leaves.push(worker);
        }
    }

    pub(super) fn key_of(&self, state: WorkerState, worker: WorkerIndex) -> Key {
        let note = &self.notes[worker.position()];
        Key::load(note.pace.load_ratio(state), note.assigned, worker.get())
    }

    fn may_take(&self, slot: &WorkerSlot, worker: WorkerIndex) -> bool {
        let state = slot.state();
        state.has_room()
            && (!state.drains() || cfg!(qtf_mutant = "sim_drained_worker_is_given_tasks"))
            && slot.credits() > 0
            && self.notes[worker.position()].held.is_none()
            && self.notes[worker.position()].pace.allows_another(state)
    }
}
