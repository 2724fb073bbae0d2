//! The caches anew from the state words: bitmap, trees, arena, gauges, workers' counts.
//!
//! Only while no other process writes: at the start of a daemon. Each step starts from the truth, so a kill during the
//! rebuild costs another rebuild and nothing else.

use core::ops::Range;
use std::collections::BTreeSet;

use crate::arena::{ChunkState, Claimant};
use crate::blob::BlobRef;
use crate::counters::Counter;
use crate::id::{SlotIndex, WorkerIndex};
use crate::keys::SettledKeys;
use crate::segment::Segment;
use crate::sync::Ordering;
use crate::task::slot::TaskSlot;
use crate::task::state::{Owner, Phase, StateWord};
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
    /// Idempotency keys that were not confirmed.
    pub keys: SettledKeys,
}

impl Segment {
    /// Rebuilds all caches. Timers: the entry a slot has is kept if it is of its present task; a DELAYED slot without one
    /// gets its due time, a RUNNING one with a timeout its end, a finished one the present, so that it is looked at.
    pub fn rebuild_caches(&self, now: Now) -> Rebuilt {
        let mut rebuilt = Rebuilt::default();
        let end = self.high_water();
        for slot in self.slots_below(end) {
            self.settle(slot, &mut rebuilt);
        }
        let used = || {
            self.slots_below(end).filter_map(|slot| {
                let state = self.task(slot).state();
                (state.phase() != Phase::Free).then_some((slot, state))
            })
        };
        rebuilt.tasks = used().count() as u64;
        self.view
            .parts
            .bitmap()
            .rebuild(used().map(|(slot, _)| slot.get()));
        let ready =
            used().filter_map(|(slot, state)| Some((slot.get(), self.ready_key_of(slot, state)?)));
        self.ready().rebuild(ready);
        let timers: Vec<_> = used()
            .filter_map(|(slot, state)| Some((slot.get(), self.timer_key_of(slot, state, now)?)))
            .collect();
        self.timers().rebuild(timers);
        self.rebuild_arena();
        self.rebuild_counts(used());
        rebuilt.keys = self.settle_keys();
        // ORDERING: nobody else writes.
        self.view
            .parts
            .control()
            .high_water
            .store(u64::from(end), Ordering::Relaxed);
        rebuilt
    }

    /// Removes spill files that no slot refers to. Only at the start of a daemon, after [`Segment::rebuild_caches`].
    pub fn remove_lost_spills(&self) -> u64 {
        let mut kept = BTreeSet::new();
        for slot in self.allocated_slots(0..u32::MAX) {
            for blob in [self.task(slot).payload(), self.task(slot).result()] {
                if let BlobRef::Spill { number, .. } = blob {
                    kept.insert(number);
                }
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
        self.section(|| arena.sweep(blocks, |chunk| self.keeps_chunk(chunk.state, &is_dead)))
    }

    fn slots_below(&self, end: u32) -> impl Iterator<Item = SlotIndex> + '_ {
        (0..end).filter_map(|number| self.slot(number))
    }

    /// Ends what cannot go on: claims of dead submitters, words that make no sense.
    fn settle(&self, slot: SlotIndex, rebuilt: &mut Rebuilt) {
        let state = self.task(slot).state();
        let phase = state.phase();
        if phase == Phase::Claimed && self.free_task(slot, state).is_ok() {
            rebuilt.abandoned += 1;
        }
        let no_worker = match state.owner() {
            Owner::Worker(worker) => self.worker_index(worker.get()).is_none(),
            Owner::None => state.is_with_worker(),
            Owner::Attach(_) => false,
        };
        let never_claimed = state.generation() == 0 && phase != Phase::Free;
        let impossible = no_worker || never_claimed || phase == Phase::Reserved;
        if impossible
            && self
                .apply(slot, state, crate::task::state::Event::Quarantine)
                .is_ok()
        {
            rebuilt.impossible += 1;
        }
    }

    fn ready_key_of(&self, slot: SlotIndex, state: StateWord) -> Option<Key> {
        if state.phase() != Phase::Ready {
            return None;
        }
        let task = self.task(slot);
        let key = Key::ready(
            task.priority(),
            task.key().ready_stamp(),
            state.generation(),
        );
        if key != task.key() {
            task.set_key(key);
        }
        Some(key)
    }

    fn timer_key_of(&self, slot: SlotIndex, state: StateWord, now: Now) -> Option<Key> {
        let kept = self
            .timers()
            .leaf(slot.get())
            .filter(|key| *key == Key::timed(key.timed_stamp(), state.generation()));
        if kept.is_some() {
            return kept;
        }
        let task = self.task(slot);
        let stamp = match state.phase() {
            Phase::Delayed => task.phase_time(),
            Phase::Running if task.timeout_ms() > 0 => {
                let timeout_ns = u64::from(task.timeout_ms()) * 1_000_000;
                Now::from_stamp(task.phase_time())
                    .plus_ns(timeout_ns)
                    .stamp()
            }
            Phase::Done | Phase::Failed | Phase::Cancelled => now.stamp(),
            Phase::Free
            | Phase::Claimed
            | Phase::Submitted
            | Phase::Blocked
            | Phase::Held
            | Phase::Ready
            | Phase::Assigned
            | Phase::Running
            | Phase::Ended
            | Phase::DeadLetter
            | Phase::Quarantine
            | Phase::Reserved => return None,
        };
        Some(Key::timed(stamp, state.generation()))
    }

    fn rebuild_arena(&self) {
        self.view.parts.arena().rebuild(|chunk| {
            let ChunkState::Used(owner) = chunk.state else {
                return false;
            };
            let Some(task) = self.slot(owner.slot).map(|slot| self.task(slot)) else {
                return false;
            };
            let state = task.state();
            state.phase() != Phase::Free
                && state.generation() == owner.generation
                && refers_to(task, chunk.unit)
        });
    }

    fn rebuild_counts(&self, used: impl Iterator<Item = (SlotIndex, StateWord)>) {
        let mut phases = [0_u64; Phase::COUNT];
        let mut running = vec![0_u16; self.geometry().workers() as usize];
        for (_, state) in used {
            phases[state.phase() as usize] += 1;
            if let Owner::Worker(worker) = state.owner()
                && let Some(count) = running.get_mut(worker.position())
            {
                *count = count.saturating_add(1);
            }
        }
        self.counters().rebase(&phases);
        let workers = || (0..u16::MAX).map_while(|number| self.worker_index(number));
        for (worker, running) in workers().zip(running) {
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
        serves.then_some((u32::from(worker.get()), key))
    }
}

/// The slot refers to the chunk that starts at `unit`.
pub(super) fn refers_to(task: &TaskSlot, unit: u32) -> bool {
    let lies_at = |blob: BlobRef| matches!(blob, BlobRef::Arena { unit: at, .. } if at == unit);
    lies_at(task.payload()) || lies_at(task.result()) || task.side_unit() == Some(unit)
}
