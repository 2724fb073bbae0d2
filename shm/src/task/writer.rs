//! The right to write the fields of a task slot, as a type.
//!
//! The state word says whose a slot's fields are; whoever that is holds a [`SlotWriter`], and nobody else can have one: a submitter
//! gets it with its claim (`ClaimedTask`), the PLM with its [`PlmRight`], which exists in the daemon's process only. A local worker has none: it
//! changes the state word, and hands over what it has to say beside the slot (`segment/completion.rs`).
//!
//! Both are free of cost: a reference, and nothing at all.
//!
//! Tested at the end of `slot.rs`, and through `segment/`.

use core::ops::Deref;

use crate::blob::BlobRef;
use crate::id::ClientIndex;
use crate::sync::{AtomicU64, Ordering, fence};
use crate::task::slot::{FilledWords, Outcome, SIDE_IS_KEY, TaskOptions, TaskSlot};
use crate::time::STAMP_MAX;
use crate::tree::Key;

/// The right to write what the PLM writes: fields of all tasks that no submitter has claimed, and of all workers. Only the daemon's
/// own [`crate::Segment`] gives it (`Segment::plm_right`), never an attachment.
#[derive(Debug, Clone, Copy)]
pub struct PlmRight(());

impl PlmRight {
    /// For the segment itself, which knows whose process this is.
    pub(crate) const fn of_daemon() -> Self {
        Self(())
    }
}

/// A task slot whose fields the holder may write. Reading goes through it too.
#[derive(Debug, Clone, Copy)]
pub struct SlotWriter<'s>(&'s TaskSlot);

impl Deref for SlotWriter<'_> {
    type Target = TaskSlot;

    fn deref(&self) -> &TaskSlot {
        self.0
    }
}

impl<'s> SlotWriter<'s> {
    /// For those whom the state makes the writer.
    pub(crate) const fn of(slot: &'s TaskSlot) -> Self {
        Self(slot)
    }

    /// Sets the place in the order that a key of the ready heap says; the leaf is another matter.
    pub fn set_key(self, key: Key) {
        replace(&self.0.order, 8, u64::MAX >> 8, key.as_raw() >> 8);
    }

    /// Sets the era of a slot that is FREE and stands at a gate, before its word goes on.
    pub(crate) fn set_era(self, era: u8) {
        replace(&self.0.order, 0, 0xFF, u64::from(era));
    }

    /// Sets the moment at which the attempt began; 0 = it has not yet.
    pub fn set_started(self, stamp: u64) {
        let stamp = if stamp > STAMP_MAX { STAMP_MAX } else { stamp };
        replace(&self.0.started, 16, STAMP_MAX, stamp);
    }

    /// Sets the moment of the last change of phase.
    pub fn set_phase_time(self, stamp: u64) {
        let stamp = if stamp > STAMP_MAX { STAMP_MAX } else { stamp };
        replace(&self.0.phase_time, 16, STAMP_MAX, stamp);
    }

    /// Sets the log sequence number of the task's last record; cut to 48 bits. After the state was changed, so
    /// that a reader may meet the newer state with the older number and never the reverse. What the record says of other
    /// fields is written before as well: a change of priority leaves the state word as it is.
    pub fn set_lsn(self, lsn: u64) {
        if !cfg!(qtf_mutant = "task_lsn_without_release_fence") {
            // ORDERING: [task.lsn] Release: whoever meets this number also meets the fields that its record is about; pairs
            // with the fence in `lsn_before_fields`.
            fence(Ordering::Release);
        }
        replace(&self.0.journal, 16, STAMP_MAX, lsn);
    }

    /// Sets the number of attempts that ended badly.
    pub fn set_failures(self, count: u8) {
        replace(&self.0.limits, 16, 0xFF, u64::from(count));
    }

    /// Takes away what was asked for.
    pub fn drop_options(self, options: TaskOptions) {
        let kept = self.0.options().without(options);
        replace(&self.0.limits, 0, 0xFF, u64::from(kept.bits()));
    }

    /// Sets the number of attempts whose worker was lost.
    pub fn set_losses(self, count: u8) {
        replace(&self.0.limits, 8, 0xFF, u64::from(count));
    }

    /// Sets how the task or its last attempt ended.
    pub fn set_outcome(self, outcome: Outcome) {
        replace(&self.0.links, 0, 0xFFFF, u64::from(outcome.to_bits()));
    }

    /// Sets where the result lies. The caller has stored it for this task and releases the one before.
    pub fn set_result(self, blob: BlobRef) {
        // ORDERING: published by [task.state].
        self.0.result.store(blob.as_raw(), Ordering::Relaxed);
    }

    pub(crate) fn set_payload(self, blob: BlobRef) {
        // ORDERING: published by [task.state].
        self.0.payload.store(blob.as_raw(), Ordering::Relaxed);
    }

    pub(crate) fn set_side_unit(self, unit: Option<u32>) {
        // LIMIT: geometry keeps units below 2^31 - 1.
        let number = unit.map_or(0, |unit| unit.saturating_add(1) & !SIDE_IS_KEY);
        replace(&self.0.links, 32, 0xFFFF_FFFF, u64::from(number));
    }

    /// In place of a side record.
    pub(crate) fn set_key_place(self, place: u32) {
        // LIMIT: geometry keeps places below 2^18.
        replace(
            &self.0.links,
            32,
            0xFFFF_FFFF,
            u64::from(place | SIDE_IS_KEY),
        );
    }

    pub(crate) fn set_client(self, client: ClientIndex) {
        replace(&self.0.links, 16, 0xFFFF, u64::from(client.get()));
    }

    /// Writes everything that `TaskFields` says in whole words.
    pub(crate) fn fill(self, words: &FilledWords) {
        self.set_key(Key::from_raw(words.order));
        // ORDERING: published by [task.state].
        self.0.phase_time.store(words.phase_time, Ordering::Relaxed);
        self.0.journal.store(words.journal, Ordering::Relaxed);
        self.0.limits.store(words.limits, Ordering::Relaxed);
    }

    /// Empties what the tenant before left, and writes the era, which is the one that is there unless the slot was never used. The slot must be
    /// CLAIMED by the caller, and this the first that it writes.
    pub(crate) fn clear(self, era: u8) {
        if !cfg!(qtf_mutant = "task_claim_without_release_fence") {
            // ORDERING: [task.reuse] Release: whoever meets a field of this tenant also meets its CLAIMED state; pairs
            // with the fence in `second_look`.
            fence(Ordering::Release);
        }
        // ORDERING: published by [task.state].
        self.0.order.store(u64::from(era), Ordering::Relaxed);
        let words = [
            &self.0.phase_time,
            &self.0.journal,
            &self.0.limits,
            &self.0.payload,
            &self.0.result,
            &self.0.links,
            &self.0.started,
            &self.0.used,
        ];
        for word in words {
            // ORDERING: published by [task.state].
            word.store(0, Ordering::Relaxed);
        }
    }
}

/// Replaces some bits of a word that only the caller writes (I1 of `slot.rs`).
#[inline]
fn replace(word: &AtomicU64, shift: u32, mask: u64, value: u64) {
    // ORDERING: single writer (I1); published by [task.state].
    let others = word.load(Ordering::Relaxed) & !(mask << shift);
    // ORDERING: as above.
    word.store(others | ((value & mask) << shift), Ordering::Relaxed);
}
