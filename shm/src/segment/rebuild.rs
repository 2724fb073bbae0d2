//! The caches anew from the state words: bitmap, trees, arena, gauges, workers' counts.
//!
//! Only while no other process writes: at the start of a daemon. Each step starts from the truth, so a kill during the
//! rebuild costs another rebuild and nothing else. What local workers have handed over beside the slots is truth too: it stays where it
//! lies until it is moved (`completion.rs`).

use core::ops::Range;
use std::collections::BTreeSet;
use std::sync::PoisonError;

use crate::arena::{ArenaShape, Claimant};
use crate::blob::BlobRef;
use crate::counters::Counter;
use crate::id::WorkerIndex;
use crate::keys::SettledKeys;
use crate::segment::Segment;
use crate::segment::survey::Survey;
use crate::sync::Ordering;
use crate::task::slot::TaskSlot;
use crate::time::Now;
use crate::tree::Key;
use crate::worker::{WorkerEvent, WorkerPhase};

/// What a rebuild found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rebuilt {
    /// Slots in use.
    pub tasks: u64,
    /// Slots that a submitter had claimed and not published: given back.
    pub abandoned: u64,
    /// Words that name something which does not exist: their slots were put into quarantine.
    pub impossible: u64,
    /// References of slots to chunks of the arena that are not theirs (any more).
    pub lost_references: u64,
    /// Highest number of a journal's record in any slot.
    pub lsn_top: u64,
    /// Tasks for a journal that have no record's number yet.
    pub unnumbered: u64,
    /// Idempotency keys that were not confirmed.
    pub keys: SettledKeys,
}

impl Segment {
    /// Rebuilds all caches. Timers: the entry a slot has is kept if it is of its present task; a DELAYED slot without one
    /// gets its due time, a RUNNING one with a timeout its end, a finished one the present, so that it is looked at.
    pub fn rebuild_caches(&self, now: Now) -> Rebuilt {
        let end = self.high_water();
        let control = self.view.parts.control();
        // First, since the bitmap, which tells it too, is about to change, and this process may be killed.
        // ORDERING: nobody else writes.
        control.high_water.store(u64::from(end), Ordering::Relaxed);
        let survey = Survey::take(self, end, now);
        // ORDERING: nobody else writes.
        control.gen_top.store(survey.gen_top, Ordering::Relaxed);
        let units = <ArenaShape>::UNITS_OF_BLOCK;
        self.view.parts.arena().rebuild_in_use(
            |block| {
                let first = block.saturating_mul(units);
                survey.refers_into(first..first.saturating_add(units))
            },
            |chunk| survey.refers_to(chunk.unit),
        );
        self.rebuild_counts(&survey);
        let rebuilt = Rebuilt {
            tasks: survey.tasks(),
            abandoned: survey.abandoned,
            impossible: survey.impossible,
            lost_references: survey.lost_references,
            lsn_top: survey.lsn_top,
            unnumbered: survey.unnumbered,
            keys: self.settle_keys(),
        };
        // A panic elsewhere changes nothing about these numbers.
        let mut last = self.rebuilt.lock().unwrap_or_else(PoisonError::into_inner);
        *last = Some(rebuilt);
        rebuilt
    }

    /// What the last rebuild by this process found; `None` when there was none: the segment is new, or was brought in order
    /// while other processes were attached.
    pub fn last_rebuild(&self) -> Option<Rebuilt> {
        *self.rebuilt.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The same, once: whoever adopts it from here on changes what it says.
    pub fn take_last_rebuild(&self) -> Option<Rebuilt> {
        let mut last = self.rebuilt.lock().unwrap_or_else(PoisonError::into_inner);
        last.take()
    }

    /// Removes spill files that neither a slot nor an end beside one refers to. Only at the start of a daemon, after [`Segment::rebuild_caches`].
    pub fn remove_lost_spills(&self) -> u64 {
        // Most segments have none, and a walk over all slots costs milliseconds.
        let none = self.spill().files().is_ok_and(|files| files.is_empty());
        let mut kept = BTreeSet::new();
        let mut keep = |blob| {
            if let BlobRef::Spill { number, .. } = blob {
                kept.insert(number);
            }
        };
        if !none {
            for slot in self.allocated_slots(0..u32::MAX) {
                keep(self.task(slot).payload());
                keep(self.task(slot).result());
            }
            for (_, end) in self.waiting_ends() {
                keep(end.result);
            }
        }
        let removed = self.spill().remove_others(|number| kept.contains(&number));
        removed.unwrap_or_else(|_| {
            // They cost room and nothing else.
            self.counters().add(Counter::SpillFailed, 1);
            0
        })
    }

    /// Frees chunks, in some blocks of the arena, of tasks that are gone and of submitters that are dead; returns how many.
    /// Safe at any time: what a living process is about to refer to stays.
    pub fn sweep_chunks(&self, blocks: Range<u32>, is_dead: impl Fn(Claimant) -> bool) -> u64 {
        let arena = self.view.parts.arena();
        self.section(|| arena.sweep(blocks, |chunk| self.keeps_chunk(chunk, &is_dead)))
    }

    fn rebuild_counts(&self, survey: &Survey) {
        self.set_client_counts(&survey.clients);
        self.counters().rebase(&survey.phases);
        let workers = || (0..u16::MAX).map_while(|number| self.worker_index(number));
        for (worker, &running) in workers().zip(&survey.running) {
            let state = self.worker(worker).state();
            if !matches!(
                state.phase(),
                WorkerPhase::Free | WorkerPhase::Joining | WorkerPhase::Reserved
            ) && state.running() != running
            {
                // Nobody else writes, so it cannot have moved.
                let _ = self
                    .worker(worker)
                    .apply(state, WorkerEvent::Recount { running });
            }
        }
        self.worker_heap()
            .rebuild(workers().filter_map(|worker| self.load_key_of(worker)));
        self.leases()
            .rebuild(workers().filter_map(|worker| self.lease_key_of(worker)));
    }

    fn load_key_of(&self, worker: WorkerIndex) -> Option<(u32, Key)> {
        let slot = self.worker(worker);
        let known = slot.state().has_room() && slot.credits() > 0 && slot.key().as_raw() != 0;
        known.then(|| (u32::from(worker.get()), slot.key()))
    }

    fn lease_key_of(&self, worker: WorkerIndex) -> Option<(u32, Key)> {
        let slot = self.worker(worker);
        let state = slot.state();
        let serves = matches!(
            state.phase(),
            WorkerPhase::Live | WorkerPhase::Draining | WorkerPhase::Suspect
        );
        let key = Key::timed(slot.lease_end(), u64::from(state.incarnation()));
        // Of a local worker the kernel tells whether it lives.
        let leased = serves && slot.local().is_none();
        leased.then_some((u32::from(worker.get()), key))
    }
}

/// The slot refers to the chunk that starts at `unit`.
pub(super) fn refers_to(task: &TaskSlot, unit: u32) -> bool {
    let lies_at = |blob: BlobRef| matches!(blob, BlobRef::Arena { unit: at, .. } if at == unit);
    lies_at(task.payload()) || lies_at(task.result()) || task.side_unit() == Some(unit)
}
