//! Has the processor fetch what will be looked at soon: a batch of calls names its tasks before it comes to them, and the scheduler knows where
//! the task after the next lies. With a million tasks each look would wait for memory on its own.
//!
//! Tested in `engine/tests/rules/batches.rs` and `scheduling.rs`, by what comes of them; measured by `bench-engine`.

use crate::id::SlotIndex;
use crate::segment::Segment;
use crate::sync::fetch::fetch_ahead;
use crate::tree::Second;

impl Segment {
    /// What the next call about this slot reads: the slot, and its leaf in the timer heap.
    #[inline]
    pub fn fetch_ahead(&self, slot: SlotIndex) {
        let Some(task) = self.view.parts.tasks.get(slot.position()) else {
            return;
        };
        fetch_ahead(task);
        if let Some(leaf) = self.timers().place_of(slot.get()) {
            fetch_ahead(leaf);
        }
    }

    /// The slot of the second-best ready task, whose leaf was asked for before ([`crate::tree::MinTree::second_beside`]).
    #[inline]
    pub fn fetch_second_ahead(&self, second: Second) {
        let leaf = self.ready().leaf_of_second(second);
        let task = leaf.and_then(|leaf| self.view.parts.tasks.get(leaf as usize));
        if let Some(task) = task {
            fetch_ahead(task);
        }
    }
}
