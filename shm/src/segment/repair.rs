//! Repair while others live: what a dead process left behind is brought in order, slot by slot.
//!
//! Any process may do it, at any time, several at once, and may itself be killed after any step: each step is one
//! compare-and-swap from what was seen, never comes twice, and leaves a slot that is in order alone. A repairer
//! writes no field of a slot: those belong to whom the state names, and a repairer that was stopped could write late.
//!
//! | left behind | step |
//! |---|---|
//! | CLAIMED by a dead submitter | -> FREE, as the submitter itself would have given it up |
//! | SUBMITTED | nothing: it is the PLM's |
//! | bit taken, slot FREE; or the other way | the bit is made to say what the state says (`Bitmap::settle`) |
//! | READY without its leaf, DELAYED without its timer | the leaf is put there |
//! | leaf of a slot that has moved on | removed, and put back if the slot wants it by then |
//! | ASSIGNED or RUNNING at a dead local worker, while no daemon lives | -> READY, the loss counted |
//! | inner words of trees and bitmap | scrubbed |
//! | chunks of the dead and of slots that moved on | freed |
//! | counts of arena blocks, of local workers, of phases | corrected, when nobody was within a section (`quiet.rs`) |
//! | word that no process of ours writes | -> QUARANTINE |
//!
//! The order of looks makes it safe that an attach record is given out again: state of the slot first, then the record. See
//! [`crate::segment::judge`]. Tested in `segment/tests/repair.rs` and `segment/tests/torture`, modelled in
//! `shm/tests/loom_repair.rs`.

use core::ops::Range;

use crate::arena::{ChunkEntry, ChunkState, Claimant};
use crate::counters::Counter;
use crate::id::{AttachIndex, SlotIndex, WorkerIndex};
use crate::layout::attach::{AttachPhase, AttachState};
use crate::segment::Segment;
use crate::segment::lock_file::LockFile;
use crate::segment::process::Liveness;
use crate::task::orphan::orphaned;
use crate::task::slot::TaskOptions;
use crate::task::state::{Event, Owner, Phase, StateWord};
use crate::tree::Key;
use crate::worker::WorkerPhase;

/// The attach records whose processes are dead, by the state words that were judged.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Convicted {
    /// By attach record; 0 = not convicted.
    words: Vec<u64>,
    /// Also whatever an earlier daemon has claimed: the caller is the new one, and has claimed nothing yet.
    earlier_daemon: bool,
}

impl Convicted {
    /// Nobody is.
    #[must_use]
    pub const fn none() -> Self {
        Self {
            words: Vec::new(),
            earlier_daemon: false,
        }
    }

    /// One more, as it was judged.
    #[must_use]
    pub fn and(mut self, index: AttachIndex, state: AttachState) -> Self {
        if self.words.len() <= index.position() {
            self.words.resize(index.position() + 1, 0);
        }
        self.words[index.position()] = state.as_raw();
        self
    }

    /// And whatever an earlier daemon has claimed. Only for a daemon that holds the lock and has not yet begun.
    #[must_use]
    pub const fn and_earlier_daemon(mut self) -> Self {
        self.earlier_daemon = true;
        self
    }

    /// Nobody is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        !self.earlier_daemon && self.words.iter().all(|&word| word == 0)
    }

    /// The convicted records, with the words that were judged.
    pub fn iter(&self) -> impl Iterator<Item = (AttachIndex, AttachState)> + '_ {
        let count = u32::try_from(self.words.len()).unwrap_or(u32::MAX);
        (0_u16..)
            .zip(&self.words)
            .filter(|&(_, &word)| word != 0)
            .filter_map(move |(number, &word)| {
                let index = AttachIndex::new_checked(number, count)?;
                Some((index, AttachState::from_raw(word)))
            })
    }

    /// This record, in this state.
    pub(super) fn is(&self, number: usize, state: AttachState) -> bool {
        state.as_raw() != 0 && self.words.get(number) == Some(&state.as_raw())
    }
}

/// What a repair is about.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RepairScope {
    /// Who is dead.
    pub convicted: Convicted,
    /// No daemon lives: tasks of dead local workers go back to the queue. With a daemon that is the engine's, which knows how
    /// often a task may take its worker down, and writes the journal.
    pub takes_back: bool,
}

/// What a repair has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RepairCounts {
    /// Claims of dead submitters given back.
    pub claims_freed: u64,
    /// Free bits made right.
    pub bits_settled: u64,
    /// Leaves put back.
    pub leaves_restored: u64,
    /// Leaves of slots that had moved on.
    pub leaves_removed: u64,
    /// Inner words of trees and of the bitmap that were wrong.
    pub nodes_mended: u64,
    /// Tasks of dead workers that went back to the queue.
    pub tasks_requeued: u64,
    /// Chunks freed.
    pub chunks_freed: u64,
    /// Counts of blocks, workers and phases corrected.
    pub counts_corrected: u64,
    /// Worker slots given back.
    pub workers_freed: u64,
    /// Attach records given back.
    pub attaches_freed: u64,
    /// Slots put into quarantine.
    pub quarantined: u64,
}

impl RepairCounts {
    /// Everything that was not in order.
    #[must_use]
    pub const fn total(&self) -> u64 {
        self.claims_freed
            + self.bits_settled
            + self.leaves_restored
            + self.leaves_removed
            + self.nodes_mended
            + self.tasks_requeued
            + self.chunks_freed
            + self.counts_corrected
            + self.workers_freed
            + self.attaches_freed
            + self.quarantined
    }
}

impl Segment {
    /// Judges everybody who is attached but this process itself.
    #[must_use]
    pub fn convict(&self, lock: Option<&LockFile>) -> Convicted {
        self.attached()
            .filter(|info| info.index != self.attach)
            .filter(|info| self.judge(info, lock) == Liveness::Dead)
            .fold(Convicted::none(), |convicted, info| {
                convicted.and(info.index, info.state)
            })
    }

    /// Somebody who is attached still is dead, by this conviction: a word that never comes again still is there.
    pub(super) fn is_dead(&self, attach: AttachIndex, convicted: &Convicted) -> bool {
        if attach == AttachIndex::DAEMON && convicted.earlier_daemon {
            return true;
        }
        let record = self.view.parts.attaches.get(attach.position());
        record.is_some_and(|record| convicted.is(attach.position(), record.state()))
    }

    /// Whoever claimed a chunk is dead: convicted, or its record has been given on since.
    pub(super) fn is_dead_claimant(&self, claimant: Claimant, convicted: &Convicted) -> bool {
        let count = self.geometry().attaches();
        let Some(attach) = AttachIndex::new_checked(claimant.attach, count) else {
            return true;
        };
        let Some(record) = self.view.parts.attaches.get(attach.position()) else {
            return true;
        };
        let state = record.state();
        let gone =
            state.phase() == AttachPhase::Free || state.incarnation() != claimant.incarnation;
        gone || convicted.is(attach.position(), state)
    }

    /// Brings some slots in order, and the inner words of the trees above them.
    pub fn repair_slots(&self, slots: Range<u32>, scope: &RepairScope) -> RepairCounts {
        let end = slots.end.min(self.geometry().tasks());
        let slots = slots.start.min(end)..end;
        let mut counts = RepairCounts::default();
        for slot in slots.clone().filter_map(|number| self.slot(number)) {
            self.repair_slot(slot, scope, &mut counts);
        }
        // A process that was killed on its way up a tree hides a leaf that is in order itself.
        counts.nodes_mended += self.ready().scrub_leaves(slots.clone());
        counts.nodes_mended += self.timers().scrub_leaves(slots);
        self.counters().add(
            Counter::LeafRestored,
            counts.nodes_mended.saturating_add(counts.leaves_restored),
        );
        self.counters()
            .add(Counter::LeafStale, counts.leaves_removed);
        self.counters()
            .add(Counter::SlotReclaimed, counts.bits_settled);
        self.counters()
            .add(Counter::TaskRequeued, counts.tasks_requeued);
        counts
    }

    /// Brings one slot in order. Safe for every slot at every time; changes nothing in one that is in order.
    pub fn repair_slot(&self, slot: SlotIndex, scope: &RepairScope, counts: &mut RepairCounts) {
        self.remembering(|| self.repair_remembered(slot, scope, counts));
    }

    fn repair_remembered(&self, slot: SlotIndex, scope: &RepairScope, counts: &mut RepairCounts) {
        let task = self.task(slot);
        let state = task.state_in_order();
        if self.is_impossible(state) {
            counts.quarantined += u64::from(self.apply(slot, state, Event::Quarantine).is_ok());
            self.counters().add(Counter::WordImpossible, 1);
        }
        if let Some(claimed) =
            orphaned(&task.state, |attach| self.is_dead(attach, &scope.convicted))
        {
            let claimed = task.with_era(claimed.as_raw());
            counts.claims_freed += u64::from(self.give_up_claim(slot, claimed));
        }
        if let Owner::Worker(worker) = state.owner()
            && scope.takes_back
        {
            counts.tasks_requeued += u64::from(self.take_back(slot, state, worker));
        }
        counts.bits_settled += u64::from(self.settle_bit(slot));
        self.repair_ready_leaf(slot, counts);
        self.repair_timer_leaf(slot, counts);
    }

    /// A word that no process of ours writes.
    fn is_impossible(&self, state: StateWord) -> bool {
        let phase = state.phase();
        let no_worker = match state.owner() {
            Owner::Worker(worker) => self.worker_index(worker.get()).is_none(),
            Owner::None => state.is_with_worker(),
            Owner::Attach(_) => false,
        };
        let never_claimed = state.generation() == 0 && phase != Phase::Free;
        phase != Phase::Quarantine && (no_worker || never_claimed || phase == Phase::Reserved)
    }

    /// ASSIGNED or RUNNING -> READY, if the worker was a local process and is dead.
    fn take_back(&self, slot: SlotIndex, state: StateWord, worker: WorkerIndex) -> bool {
        if !matches!(state.phase(), Phase::Assigned | Phase::Running) {
            return false;
        }
        // Read after the task's state: whoever has the slot of this worker then, or has none, came after the
        // take, and has not made it.
        let holder = self.worker(worker);
        let lost = match holder.state().phase() {
            WorkerPhase::Lost => holder.local().is_some(),
            WorkerPhase::Free | WorkerPhase::Joining => true,
            WorkerPhase::Live
            | WorkerPhase::Draining
            | WorkerPhase::Suspect
            | WorkerPhase::Reserved => false,
        };
        if !lost {
            return false;
        }
        let task = self.task(slot);
        let counted = task.count_loss(state);
        let Ok(ready) = self.apply(slot, state, Event::Requeue) else {
            if let Some(counted) = counted {
                task.uncount_loss(counted);
            }
            return false;
        };
        self.index_taken_back(slot, ready);
        true
    }

    fn repair_ready_leaf(&self, slot: SlotIndex, counts: &mut RepairCounts) {
        let task = self.task(slot);
        let leaf = self.ready().leaf(slot.get());
        let state = task.state_in_order();
        if state.phase() == Phase::Ready {
            if leaf != Some(task.key_of(state)) {
                counts.leaves_restored += u64::from(self.index_ready(slot, state));
            }
        } else if let Some(key) = leaf {
            self.unindex_ready_key(slot, key);
            counts.leaves_removed += 1;
        }
    }

    fn repair_timer_leaf(&self, slot: SlotIndex, counts: &mut RepairCounts) {
        let task = self.task(slot);
        let leaf = self.timers().leaf(slot.get());
        let state = task.state_in_order();
        let foreign = |key: Key| {
            matches!(state.phase(), Phase::Free | Phase::Claimed)
                || key != Key::timed(key.timed_stamp(), state.generation())
        };
        if let Some(key) = leaf
            && foreign(key)
        {
            self.unindex_timer_key(slot, key);
            counts.leaves_removed += 1;
        }
        if state.phase() == Phase::Delayed && self.timers().leaf(slot.get()).is_none() {
            let due = task.phase_time();
            let restored = self.index_timer(slot, state, due);
            counts.leaves_restored += u64::from(restored);
        }
    }

    /// Frees chunks, in some blocks of the arena, of the dead and of slots that have moved on; gives lost blocks back,
    /// and corrects counts if nobody alive is at work in the arena.
    pub fn repair_blocks(&self, blocks: Range<u32>, scope: &RepairScope) -> RepairCounts {
        let blocks = blocks.start..blocks.end.min(self.geometry().arena_blocks());
        let dead = |claimant: Claimant| self.is_dead_claimant(claimant, &scope.convicted);
        let freed = self.sweep_chunks(blocks.clone(), dead);
        let arena = self.view.parts.arena();
        let mut corrected = 0;
        for block in blocks {
            let look = || self.quiet(&scope.convicted);
            corrected += u64::from(arena.correct_count(block, look));
        }
        self.counters().add(Counter::ChunkReclaimed, freed);
        RepairCounts {
            chunks_freed: freed,
            counts_corrected: corrected,
            ..RepairCounts::default()
        }
    }

    /// Whether a chunk is to be kept: it is being filled by somebody alive, it is the lane of a worker or a part of the history, or
    /// its task is there.
    pub(super) fn keeps_chunk(&self, chunk: &ChunkEntry, dead: impl Fn(Claimant) -> bool) -> bool {
        match chunk.state {
            ChunkState::Free => true,
            ChunkState::Damaged(_) => false,
            ChunkState::Claimed(claimant) => !dead(claimant) || self.is_lane(chunk.unit, claimant),
            ChunkState::Used(owner) if owner.generation == 0 => self.is_history(chunk.unit, owner),
            ChunkState::Used(owner) => self.slot(owner.slot).is_some_and(|slot| {
                let state = self.task(slot).state();
                state.phase() != Phase::Free && state.generation() == owner.generation
            }),
        }
    }

    /// The task may have taken down so many workers that no more shall try.
    pub(super) fn is_spent(&self, slot: SlotIndex, losses_max: u8) -> bool {
        let task = self.task(slot);
        let allowed = if task.options().has(TaskOptions::AT_MOST_ONCE) {
            0
        } else {
            losses_max
        };
        task.losses() > allowed
    }
}
