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

impl References {
    /// What lies in files.
    const fn files(self) -> [BlobRef; 2] {
        const fn file(blob: BlobRef) -> BlobRef {
            match blob {
                BlobRef::Spill { .. } => blob,
                BlobRef::None | BlobRef::Inline { .. } | BlobRef::Arena { .. } => BlobRef::None,
            }
        }
        [file(self.payload), file(self.result)]
    }

    /// Without what lies in files.
    fn without_files(self) -> Self {
        let kept = |blob| match blob {
            BlobRef::Spill { .. } => BlobRef::None,
            other @ (BlobRef::None | BlobRef::Inline { .. } | BlobRef::Arena { .. }) => other,
        };
        Self {
            payload: kept(self.payload),
            result: kept(self.result),
            side: self.side,
        }
    }
}

impl Segment {
    /// Gives the slot of a finished, refused or abandoned task back, if its state still is `from`.
    ///
    /// # Errors
    /// The task is in a phase that cannot be freed, or has moved on.
    pub fn free_task(&self, slot: SlotIndex, from: StateWord) -> Result<(), ApplyError> {
        for file in self.free_task_but_files(slot, from)? {
            self.remove_file(file);
        }
        Ok(())
    }

    /// The same, but the files that the task has left are the caller's: [`Segment::release`] removes them, which takes
    /// longer than all the rest.
    ///
    /// # Errors
    /// As [`Segment::free_task`]; then all is as it was.
    pub fn free_task_but_files(
        &self,
        slot: SlotIndex,
        from: StateWord,
    ) -> Result<[BlobRef; 2], ApplyError> {
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
        let mut references = self.references(slot);
        if !self.has_end_in_slot(slot, from)
            && let Some(end) = self.end_beside(slot, from)
        {
            references.result = end.result;
        }
        self.apply(slot, from, event)?;
        self.after_free(slot, from, references.without_files());
        Ok(references.files())
    }

    /// Removes the file of a blob that is nobody's any more.
    fn remove_file(&self, blob: BlobRef) {
        if self.spill.remove(blob).is_err() {
            self.counters().add(Counter::SpillFailed, 1);
        }
    }

    fn after_free(&self, slot: SlotIndex, from: StateWord, references: References) {
        self.unindex_ready(slot);
        self.unindex_timer(slot);
        if let Some(owner) = from.id(slot) {
            self.release_all(owner, references);
        }
        // The bit was ours until here, unless a repairer has given it back already; then the next tenant may have it.
        self.view.parts.bitmap().give_back(slot.get());
        self.settle_bit(slot);
    }

    /// CLAIMED by a dead submitter -> FREE. A spill file is left to the next start of a daemon: the reference may still
    /// be that of the tenant before, and its number a living task's by now.
    pub(super) fn give_up_claim(&self, slot: SlotIndex, from: StateWord) -> bool {
        let references = self.references(slot).without_files();
        if self.apply(slot, from, Event::Abandon).is_err() {
            return false;
        }
        self.after_free(slot, from, references);
        true
    }

    /// Frees the bytes of a blob that belongs to a task. What is not the task's (any more) stays as it is.
    pub fn release(&self, owner: TaskId, blob: BlobRef) {
        match blob {
            BlobRef::None | BlobRef::Inline { .. } => {}
            BlobRef::Arena { unit, .. } => {
                self.release_unit(owner, unit);
            }
            BlobRef::Spill { .. } => self.remove_file(blob),
        }
    }

    pub(super) fn release_unit(&self, owner: TaskId, unit: u32) {
        let arena = self.view.parts.arena();
        self.section(|| arena.release(unit, chunk_owner(owner)));
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
            self.release_unit(owner, unit);
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
