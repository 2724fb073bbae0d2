//! Changing a state word by one event: the compare-and-swap, and the count of it.

use crate::id::SlotIndex;
use crate::segment::Segment;
use crate::sync::Ordering;
use crate::task::slot::TaskSlot;
use crate::task::state::{Event, IllegalTransition, Phase, StateWord};
use crate::tree::{Key, MinTree};

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
        let to = from.after(event)?;
        let Some(task) = self.view.parts.tasks.get(slot.position()) else {
            return Err(ApplyError::Moved(StateWord::default()));
        };
        self.exchange(task, from, to)
    }

    #[inline]
    pub(super) fn exchange(
        &self,
        task: &TaskSlot,
        from: StateWord,
        to: StateWord,
    ) -> Result<StateWord, ApplyError> {
        // ORDERING: [task.state] AcqRel: publishes the fields written before; pairs with the Acquire of `TaskSlot::state`.
        task.state
            .compare_exchange(
                from.as_raw(),
                to.as_raw(),
                Ordering::AcqRel,
                Ordering::Acquire,
            )
            .map_err(|found| ApplyError::Moved(StateWord::from_raw(found)))?;
        self.counters().count_transition(from.phase(), to.phase());
        Ok(to)
    }

    /// Puts the slot's key into the task heap, if the slot is READY and still `state`. False when the slot has moved on.
    ///
    /// Clears away what an earlier tenant left in the leaf. Safe to repeat.
    pub fn index_ready(&self, slot: SlotIndex, state: StateWord) -> bool {
        let key = self.task(slot).key();
        let ready = |now: StateWord| now.phase() == Phase::Ready;
        self.index(slot, (self.ready(), key), |now| {
            ready(now) && now.generation() == state.generation()
        })
    }

    /// Puts `stamp` into the timer heap as the slot's earliest event, replacing a later or earlier one of the same task.
    /// False when the slot has moved on to another task.
    pub fn index_timer(&self, slot: SlotIndex, state: StateWord, stamp: u64) -> bool {
        let key = Key::timed(stamp, state.generation());
        self.index(slot, (self.timers(), key), |now| {
            now.phase() != Phase::Free && now.generation() == state.generation()
        })
    }

    /// Takes the slot's key out of the task heap, whatever it is.
    pub fn unindex_ready(&self, slot: SlotIndex) {
        self.unindex(slot, &self.ready());
    }

    /// Takes the slot's entry out of the timer heap, whatever it is.
    pub fn unindex_timer(&self, slot: SlotIndex) {
        self.unindex(slot, &self.timers());
    }

    fn index(
        &self,
        slot: SlotIndex,
        (tree, key): (MinTree<'_>, Key),
        belongs: impl Fn(StateWord) -> bool,
    ) -> bool {
        self.slot(slot.get()).is_some()
            && !key.is_empty()
            && tree.claim_leaf(slot.get(), key, || belongs(self.task(slot).state()))
    }

    fn unindex(&self, slot: SlotIndex, tree: &MinTree<'_>) {
        if self.slot(slot.get()).is_some()
            && let Some(key) = tree.leaf(slot.get())
        {
            let _ = tree.remove(slot.get(), key);
        }
    }
}
