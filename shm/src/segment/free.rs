//! Giving a slot back: references, state, leaves, chunks, bit, in this order.
//!
//! Invariant: references are read before the state becomes FREE (after that the slot may get a new tenant), chunks are
//! freed after it (a reader that holds the old state then finds another one), and the bit comes last. A kill in
//! between leaves chunks of a free slot or a taken bit; the sweep and [`Segment::rebuild_caches`] give both back.

use crate::arena::ChunkOwner;
use crate::blob::BlobRef;
use crate::counters::Counter;
use crate::id::{SlotIndex, TaskId};
use crate::segment::{ApplyError, Segment};
use crate::task::state::{Event, Phase, StateWord};

/// What a slot refers to.
#[derive(Debug, Clone, Copy)]
pub(super) struct References {
    pub(super) payload: BlobRef,
    pub(super) result: BlobRef,
    pub(super) side: Option<u32>,
}

impl Segment {
    /// Gives the slot of a finished, refused or abandoned task back, if its state still is `from`.
    ///
    /// # Errors
    /// The task is in a phase that cannot be freed, or has moved on.
    pub fn free_task(&self, slot: SlotIndex, from: StateWord) -> Result<(), ApplyError> {
        let event = match from.phase() {
            Phase::Claimed => Event::Abandon,
            Phase::Submitted => Event::Refuse,
            Phase::Free
            | Phase::Blocked
            | Phase::Held
            | Phase::Delayed
            | Phase::Ready
            | Phase::Assigned
            | Phase::Running
            | Phase::Ended
            | Phase::Done
            | Phase::Failed
            | Phase::Cancelled
            | Phase::DeadLetter
            | Phase::Quarantine
            | Phase::Reserved => Event::Free,
        };
        let references = self.references(slot);
        self.apply(slot, from, event)?;
        self.unindex_ready(slot);
        self.unindex_timer(slot);
        if let Some(owner) = from.id(slot) {
            self.release_all(owner, references);
        }
        self.view.parts.bitmap().give_back(slot.get());
        Ok(())
    }

    /// Frees the bytes of a blob that belongs to a task. What is not the task's (any more) stays as it is.
    pub fn release(&self, owner: TaskId, blob: BlobRef) {
        match blob {
            BlobRef::None | BlobRef::Inline { .. } => {}
            BlobRef::Arena { unit, .. } => {
                self.view.parts.arena().release(unit, chunk_owner(owner));
            }
            BlobRef::Spill { .. } => {
                if self.spill.remove(blob).is_err() {
                    self.counters().add(Counter::SpillFailed, 1);
                }
            }
        }
    }

    pub(super) fn references(&self, slot: SlotIndex) -> References {
        let task = self.task(slot);
        References {
            payload: task.payload(),
            result: task.result(),
            side: task.side_unit(),
        }
    }

    pub(super) fn release_all(&self, owner: TaskId, references: References) {
        self.release(owner, references.payload);
        self.release(owner, references.result);
        if let Some(unit) = references.side {
            self.view.parts.arena().release(unit, chunk_owner(owner));
        }
    }
}

/// A task as the arena names it.
pub(super) const fn chunk_owner(task: TaskId) -> ChunkOwner {
    ChunkOwner {
        slot: task.slot().get(),
        generation: task.generation(),
    }
}
