//! Local workers that sleep for want of work, and who wakes them: the submitter of a task, or the core for tasks of others.
//!
//! A worker that is rung takes what there is, so one ring a task is enough, and the daemon is not woken for a task that a local worker takes. Should that one be dead or
//! stopped, the daemon finds the task in its next turn, half a second later at most: nothing is left to a sleeper for good.
//!
//! Tested in `segment/tests/sleepers.rs`; modelled in `shm/tests/loom_lane.rs`.

use core::time::Duration;

use crate::id::{AttachIndex, KindIndex, SlotIndex, WorkerIndex};
use crate::idle_workers::{BITS, IdleWorkers};
use crate::segment::local_worker::{LOOKED_BEYOND_MAX, LocalWorker};
use crate::segment::own_lane::LaneEvents;
use crate::segment::{Segment, SegmentView};

/// Place of the word in the control region's reserved words, beside the bell that a submitter looks at anyway: zero in segments from before, which is right.
const IDLE_WORKERS: usize = 1;

impl LocalWorker<'_> {
    /// Sleeps until there is something to take, an event comes in the lane of its process, or somebody rings for another reason. At most for so long, which bounds
    /// what a submitter can leave behind that is killed before it rings.
    pub fn sleep(&self, lane: &LaneEvents<'_>, at_most: Duration) {
        self.sleep_unless(lane, at_most, || false);
    }

    /// The same, unless `has_work` (asked when ringers see that this worker sleeps) says that there is something else to do.
    pub fn sleep_unless(
        &self,
        lane: &LaneEvents<'_>,
        at_most: Duration,
        has_work: impl FnOnce() -> bool,
    ) {
        let idle = self.segment().idle_workers();
        idle.note(self.index);
        // The bell's fence orders the bit before the look.
        lane.sleep_unless(at_most, || has_work() || self.sees_work());
        idle.clear(self.index);
    }

    /// The same, without the sleep: `meanwhile` happens when ringers see that this worker sleeps.
    #[cfg(any(test, feature = "kill-points"))]
    pub fn sleep_beside(&self, lane: &LaneEvents<'_>, meanwhile: impl FnOnce()) {
        let idle = self.segment().idle_workers();
        idle.note(self.index);
        lane.sleep_unless(Duration::ZERO, || {
            meanwhile();
            true
        });
        idle.clear(self.index);
    }

    /// There is a task that it could take now.
    #[must_use]
    pub fn sees_work(&self) -> bool {
        if !self.state().has_room() || self.is_full() {
            return false;
        }
        let segment = self.segment();
        let mut entries = segment.ready().entries_in_order().take(LOOKED_BEYOND_MAX);
        entries.any(|(leaf, key)| {
            segment
                .slot(leaf)
                .is_some_and(|slot| self.may_take(slot, segment.task(slot).state(), key))
        })
    }
}

impl Segment {
    fn idle_workers(&self) -> IdleWorkers<'_> {
        IdleWorkers::new(&self.view.parts.control().reserved[IDLE_WORKERS])
    }

    #[cfg(test)]
    pub(super) fn idle_workers_for_tests(&self) -> IdleWorkers<'_> {
        self.idle_workers()
    }

    /// Takes a local worker out of those that sleep, one that runs this kind; its lane is to be rung. `None` if none sleeps, for the price of one load.
    #[inline]
    #[must_use]
    pub fn take_idle_worker(&self, kind: Option<KindIndex>) -> Option<AttachIndex> {
        let idle = self.idle_workers();
        match idle.bits() {
            0 => None,
            bits => self.take_idle_of(idle, bits, kind?),
        }
    }

    fn take_idle_of(
        &self,
        idle: IdleWorkers<'_>,
        mut bits: u64,
        kind: KindIndex,
    ) -> Option<AttachIndex> {
        while bits != 0 {
            let bit = bits.trailing_zeros();
            bits &= bits - 1;
            let first = u16::try_from(bit).ok()?;
            let workers = (first..u16::MAX).step_by(usize::from(BITS));
            let sleeper = workers
                .map_while(|number| self.view.worker_index(number))
                .find_map(|worker| self.sleeps_for(worker, kind));
            if let Some(attach) = sleeper
                && idle.take(bit)
            {
                return Some(attach);
            }
        }
        None
    }

    /// The process of a local worker that could take a task of this kind, and sleeps.
    fn sleeps_for(&self, worker: WorkerIndex, kind: KindIndex) -> Option<AttachIndex> {
        let slot = self.worker(worker);
        if !slot.state().has_room() || !slot.kinds().contains(kind) {
            return None;
        }
        let attach = self.view.attach_index(slot.local()?)?;
        let lane = self.view.parts.lanes.get(attach.position())?;
        lane.bell().rings().is_asleep().then_some(attach)
    }

    /// A task is ready: a local worker that sleeps takes it, or else the daemon is rung.
    #[inline]
    pub(super) fn ring_for(&self, slot: SlotIndex) {
        if self.attach == AttachIndex::DAEMON {
            return;
        }
        match self.take_idle_worker(self.task(slot).kind()) {
            Some(attach) if self.ring_lane(attach) => {}
            Some(_) | None => self.ring(),
        }
    }

    /// A task has ended while no daemon lives: its client looks.
    pub(super) fn ring_client_of(&self, slot: SlotIndex) {
        let client = self.task(slot).client();
        if let Some((attach, _)) = self.client(client).lane() {
            self.ring_lane(attach);
        }
    }
}

impl SegmentView {
    /// Bits of the local workers that sleep for want of work: worker `n` has bit `n` modulo 64.
    #[must_use]
    pub fn idle_worker_bits(&self) -> u64 {
        IdleWorkers::new(&self.parts.control().reserved[IDLE_WORKERS]).bits()
    }
}
