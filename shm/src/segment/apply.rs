//! Changing a state word by one event: the compare-and-swap, and the count of it.

use crate::id::SlotIndex;
use crate::segment::Segment;
use crate::task::slot::TaskSlot;
use crate::task::state::{Event, FLAG_CANCEL, IllegalTransition, Phase, StateWord};
use crate::task::writer::PlmRight;
use crate::tree::{Key, MinTree};

/// LIMIT: changes of priority that one indexing of a slot follows.
const KEYS_TRIED_MAX: u32 = 8;

/// Why a change of a state word was not made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError {
    /// The table has no such change.
    #[error(transparent)]
    Illegal(#[from] IllegalTransition),
    /// Somebody else changed the word first; it holds this now.
    #[error("the task's state has moved on to {0:?}")]
    Moved(StateWord),
}

impl Segment {
    /// Changes the state of a slot by one event, if it still is `from`; counts the change. Leaves, phase time and
    /// chunks are the caller's (see [`Segment::index_ready`], [`Segment::free_task`]).
    ///
    /// # Errors
    /// The table has no such change, or the word has moved on.
    #[inline]
    pub fn apply(
        &self,
        slot: SlotIndex,
        from: StateWord,
        event: Event,
    ) -> Result<StateWord, ApplyError> {
        let to = self.change(slot, from, event)?;
        self.counters().count_transition(from.phase(), to.phase());
        Ok(to)
    }

    /// The same for the PLM, which counts for many tasks at once (`Tally`).
    ///
    /// # Errors
    /// As [`Segment::apply`].
    #[inline(always)]
    pub fn apply_uncounted(
        &self,
        _right: PlmRight,
        slot: SlotIndex,
        from: StateWord,
        event: Event,
    ) -> Result<StateWord, ApplyError> {
        self.change(slot, from, event)
    }

    #[inline(always)]
    fn change(
        &self,
        slot: SlotIndex,
        from: StateWord,
        event: Event,
    ) -> Result<StateWord, ApplyError> {
        let to = from.after(event)?;
        let Some(task) = self.view.parts.tasks.get(slot.position()) else {
            return Err(ApplyError::Moved(StateWord::default()));
        };
        task.exchange(from, to).map_err(ApplyError::Moved)?;
        Ok(to)
    }

    #[inline]
    pub(super) fn exchange(
        &self,
        task: &TaskSlot,
        from: StateWord,
        to: StateWord,
    ) -> Result<StateWord, ApplyError> {
        task.exchange(from, to).map_err(ApplyError::Moved)?;
        self.counters().count_transition(from.phase(), to.phase());
        Ok(to)
    }

    /// Puts the slot's key into the task heap, if the slot is READY and still `state`. False when the slot has moved on.
    ///
    /// Clears away what an earlier tenant left in the leaf. Safe to repeat.
    pub fn index_ready(&self, slot: SlotIndex, state: StateWord) -> bool {
        let task = self.task(slot);
        for _ in 0..KEYS_TRIED_MAX {
            let key = task.key();
            let indexed = self.index(slot, self.ready(), key, || {
                wants_ready_leaf(task, state, key)
            });
            // Changed meanwhile, by a change of priority: the key in the slot counts.
            if task.key() == key {
                return indexed;
            }
        }
        false
    }

    /// A task that was taken back from a local worker waits again, with no time of that attempt. A cancelled one is not to run: the
    /// PLM ends it, which looks where something is due.
    pub(super) fn index_taken_back(&self, slot: SlotIndex, ready: StateWord) {
        if ready.has_flag(FLAG_CANCEL) {
            self.index_timer(slot, ready, 0);
        } else {
            self.unindex_timer(slot);
        }
        self.index_ready(slot, ready);
    }

    /// Puts `stamp` into the timer heap as the slot's earliest event, replacing a later or earlier one of the same task.
    /// False when the slot has moved on to another task.
    pub fn index_timer(&self, slot: SlotIndex, state: StateWord, stamp: u64) -> bool {
        let task = self.task(slot);
        let key = Key::timed(stamp, state.generation());
        self.index(slot, self.timers(), key, || {
            let now = task.state_in_order();
            now.phase() != Phase::Free && now.generation() == state.generation()
        })
    }

    /// Takes a key out of the task heap whose slot has moved on: after a take, a cancellation, a park. If the slot is READY
    /// again with this very key, because the task was handed back meanwhile, the key is put back.
    pub fn unindex_ready_key(&self, slot: SlotIndex, key: Key) {
        if self.slot(slot.get()).is_none() || key.is_empty() {
            return;
        }
        let task = self.task(slot);
        self.ready().release_leaf(slot.get(), key, || {
            let now = task.state_in_order();
            now.phase() == Phase::Ready && task.key_of(now) == key
        });
    }

    /// Takes the slot's key out of the task heap, whatever it is.
    pub fn unindex_ready(&self, slot: SlotIndex) {
        if self.slot(slot.get()).is_some()
            && let Some(key) = self.ready().leaf(slot.get())
        {
            self.unindex_ready_key(slot, key);
        }
    }

    /// Takes the slot's entry out of the timer heap, whatever it is. If the slot is DELAYED (again), its due time is put
    /// there.
    pub fn unindex_timer(&self, slot: SlotIndex) {
        if self.slot(slot.get()).is_none() {
            return;
        }
        if let Some(key) = self.timers().leaf(slot.get()) {
            self.unindex_timer_key(slot, key);
        }
    }

    /// Takes this entry out of the timer heap, unless a DELAYED slot wants it.
    pub(super) fn unindex_timer_key(&self, slot: SlotIndex, key: Key) {
        let task = self.task(slot);
        self.timers().release_leaf(slot.get(), key, || {
            let now = task.state_in_order();
            now.phase() == Phase::Delayed && key == Key::timed(task.phase_time(), now.generation())
        });
    }

    fn index(
        &self,
        slot: SlotIndex,
        tree: MinTree<'_>,
        key: Key,
        belongs: impl Fn() -> bool,
    ) -> bool {
        self.slot(slot.get()).is_some()
            && !key.is_empty()
            && tree.claim_leaf(slot.get(), key, belongs)
    }
}

/// The slot is READY, still of the tenant that `state` tells of, and has this key.
fn wants_ready_leaf(task: &TaskSlot, state: StateWord, key: Key) -> bool {
    let now = task.state_in_order();
    now.phase() == Phase::Ready && now.generation() == state.generation() && task.key_of(now) == key
}
