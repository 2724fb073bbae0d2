//! The books: what must be so of the segment at any time, in whichever world.

use qtf_shm::{
    FLAG_CANCEL, FLAG_TIMED_OUT, Heap, Key, Now, Owner, Phase, SlotIndex, TaskId, WorkerPhase,
};

use crate::settings::SECOND;
use crate::world::World;

impl World {
    /// All slots for tasks.
    pub fn slots(&self) -> impl Iterator<Item = SlotIndex> + '_ {
        let segment = self.segment();
        (0..segment.geometry().tasks()).filter_map(|number| segment.slot(number))
    }

    /// The key of the best task that is still ready, but for those that are `left_out`.
    pub fn best_waiting(&self, left_out: impl Fn(TaskId) -> bool) -> Option<Key> {
        let segment = self.segment();
        self.slots()
            .filter(|&slot| {
                let state = segment.state(slot);
                let is_left_out = || state.id(slot).is_none_or(&left_out);
                state.phase() == Phase::Ready && !is_left_out()
            })
            .map(|slot| segment.task(slot).key())
            .min()
    }

    /// What was handed out was better than the best that still waits.
    pub fn assert_order(&self, task: TaskId, best_waiting: Option<Key>) {
        let handed_out = self.segment().task(task.slot());
        if let Some(best) = best_waiting
            && handed_out.state().is_of(task)
        {
            assert!(handed_out.key() < best, "{task} went before a better one");
        }
    }

    /// The segment's own check finds nothing.
    pub fn assert_sound(&self) {
        let report = self.segment().verify();
        assert!(!report.broken() && !report.torn(), "{report:#?}");
    }

    /// Chunks of the arena that tasks have, and those that are in use for something else.
    pub fn chunks(&self) -> (u64, u64) {
        let usage = self.segment().arena_usage();
        let used = usage
            .classes
            .iter()
            .map(|class| u64::from(class.chunks_used));
        (used.sum(), self.segment().own_chunks())
    }

    /// State words, leaves and counts agree; more strictly than the segment's own check, which
    /// allows for other processes.
    pub fn verify(&self) {
        let segment = self.segment();
        self.assert_sound();
        for heap in [Heap::Task, Heap::Worker, Heap::Timer, Heap::Lease] {
            assert_eq!(segment.heap(heap).check().count(), 0, "{heap:?}");
        }
        let mut running = vec![0; 16];
        let mut counts = (0, 0);
        for number in 0..segment.geometry().tasks() {
            let slot = segment.slot(number).expect("below the count");
            let (task, state) = (segment.task(slot), segment.task(slot).state());
            let phase = state.phase();
            let ready = (phase == Phase::Ready).then(|| task.key());
            assert_eq!(segment.ready().leaf(number), ready, "{state:?}");
            let keeps_time = matches!(
                phase,
                Phase::Delayed | Phase::Done | Phase::Failed | Phase::Cancelled
            );
            let is_held = matches!(phase, Phase::Assigned | Phase::Running);
            let is_to_stop = state.has_flag(FLAG_CANCEL) || state.has_flag(FLAG_TIMED_OUT);
            // The time to live of a task gets its leaf when it has ended a moment ago.
            let is_fresh = keeps_time
                && phase != Phase::Delayed
                && self.now.since_ns(Now::from_stamp(task.phase_time())) <= 2 * SECOND;
            let is_timed = keeps_time && !state.is_forgotten()
                || phase == Phase::Running && task.timeout_ms() > 0
                || is_held && is_to_stop;
            let timer = segment.timers().leaf(number);
            assert!(
                timer.is_some() == is_timed || is_fresh && timer.is_none(),
                "{state:?}"
            );
            if let Owner::Worker(worker) = state.owner() {
                running[worker.position()] += 1;
            }
            if task.client() == self.client {
                counts.0 += u64::from(phase.is_unfinished());
                counts.1 += u64::from(phase.is_final());
            }
        }
        assert_eq!(self.counts(), counts);
        for (number, running) in (0..16).zip(running) {
            let worker = segment.worker_index(number).expect("below the count");
            let state = segment.worker(worker).state();
            assert_eq!(state.running(), running, "{state:?}");
            // Of a local worker the kernel tells whether it lives.
            let leased = !matches!(state.phase(), WorkerPhase::Free | WorkerPhase::Lost)
                && segment.worker(worker).local().is_none();
            let lease = segment.leases().leaf(u32::from(number));
            assert_eq!(lease.is_some(), leased, "{state:?}");
        }
    }
}
