//! What the three roles share during one call: the moment, the segment, the settings, the way out
//! for effects, and the small steps on a slot that each of them needs.
//!
//! Tested through `engine/tests/rules/`.

use qtf_shm::histogram::Stage;
use qtf_shm::segment::Took;
use qtf_shm::{
    BlobRef, ClientIndex, Counter, Event, Now, Owner, Phase, PlmRight, RoleLoop, Segment,
    SlotIndex, SlotWriter, StateWord, Tally, TaskId, WorkerId, WorkerIndex, WorkerWriter,
};

use crate::EngineConfig;
use crate::clients::{Clients, arena_bytes};
use crate::effects::{Effect, EffectQueue, LostFiles, StopReason};
use crate::lanes::{Lanes, client_to_tell};
use crate::lookup::{TaskRef, find, or_expired, serves};
use crate::rejection::Rejection;
use crate::sweep::Sweep;

/// LIMIT: pause before the next attempt that a local worker may ask for: 30 days, as a remote one's.
const PAUSE_NS_MAX: u64 = 30 * 24 * 3_600 * 1_000_000_000;

/// One call's view of the engine.
#[derive(Debug)]
pub(crate) struct Turn<'e> {
    pub(crate) now: Now,
    pub(crate) segment: &'e Segment,
    pub(crate) right: PlmRight,
    pub(crate) config: &'e EngineConfig,
    pub(crate) effects: &'e mut EffectQueue,
    pub(crate) lost_files: &'e mut LostFiles,
    pub(crate) sweep: &'e mut Sweep,
    pub(crate) tally: &'e Tally,
    pub(crate) clients: &'e mut Clients,
    pub(crate) lanes: &'e mut Lanes,
}

impl<'e> Turn<'e> {
    /// A task slot, to write to.
    pub(crate) fn write(&self, slot: SlotIndex) -> SlotWriter<'e> {
        self.segment.write_task(self.right, slot)
    }

    /// A worker slot, to write to.
    pub(crate) fn write_worker(&self, worker: WorkerIndex) -> WorkerWriter<'e> {
        self.segment.write_worker(self.right, worker)
    }

    /// Changes a task's state and notes the moment; `None` if another process was quicker.
    #[inline(always)]
    pub(crate) fn advance(
        &self,
        slot: SlotIndex,
        from: StateWord,
        event: Event,
    ) -> Option<StateWord> {
        let (task, now) = (self.write(slot), self.now.stamp());
        if self.is_contested(from) {
            let to = self.change(slot, from, event)?;
            task.set_phase_time(now);
            return Some(to);
        }
        task.set_phase_time(now);
        self.change(slot, from, event)
    }

    /// Changes a task's state.
    #[inline(always)]
    fn change(&self, slot: SlotIndex, from: StateWord, event: Event) -> Option<StateWord> {
        let to = self
            .segment
            .apply_uncounted(self.right, slot, from, event)
            .ok()?;
        let counters = self.segment.counters();
        self.tally.changed(counters, from.phase(), to.phase());
        Some(to)
    }

    /// Adds one to a counter; it is in the segment when the call is over.
    #[inline]
    pub(crate) fn count(&self, counter: Counter) {
        self.tally.add(self.segment.counters(), counter);
    }

    /// The loop of a role has come round.
    #[inline]
    pub(crate) fn turned(&self, of: RoleLoop) {
        self.segment.count_turn(self.right, of);
    }

    /// To be called before the counters of the segment are looked at.
    pub(crate) fn settle_counts(&self) {
        self.tally.settle(self.segment.counters());
    }

    /// Counts how long a step took that began at this stamp and is over now.
    #[inline]
    pub(crate) fn took(&self, stage: Stage, since: u64) {
        let ns = self.now.since_ns(Now::from_stamp(since));
        self.segment
            .count_stage(self.right, stage, Took::once(ns), self.now.stamp());
    }

    /// Another process may change the state as well: a task that waits may be taken, one at a local worker may end. Then nothing of the slot is
    /// written before the change has succeeded, and what must be visible with it follows from the word itself, should this process be
    /// killed right after it (`SegmentView::read_task`).
    #[inline]
    pub(crate) fn is_contested(&self, from: StateWord) -> bool {
        match from.phase() {
            Phase::Ready => true,
            Phase::Assigned | Phase::Running => {
                matches!(from.owner(), Owner::Worker(worker) if self.is_local(worker))
            }
            Phase::Free
            | Phase::Claimed
            | Phase::Submitted
            | Phase::Blocked
            | Phase::Held
            | Phase::Delayed
            | Phase::Ended
            | Phase::Done
            | Phase::Failed
            | Phase::Cancelled
            | Phase::DeadLetter
            | Phase::Quarantine
            | Phase::Reserved => false,
        }
    }

    /// The worker is a local process that is not known to be dead: nobody takes an attempt away from it.
    #[inline]
    pub(crate) fn is_local(&self, worker: WorkerIndex) -> bool {
        let slot = self.segment.worker(worker);
        slot.local().is_some() && serves(slot.state())
    }

    /// Moves what a local worker has handed over about the end of an attempt into the slot, before anything is decided about it. A task that it
    /// has brought to DONE by itself, as it saw no daemon yet, is counted and told of now: nobody else does. Returns for how long the next attempt is to wait, if the
    /// worker asks for that.
    #[inline]
    pub(crate) fn accept_end(&mut self, slot: SlotIndex, ended: StateWord) -> Option<u64> {
        let moved = self.segment.accept_completion(self.right, slot, ended)?;
        self.count_accepted(slot, ended, moved.before);
        let pause_ns = moved.pause_ms.saturating_mul(1_000_000);
        (pause_ns > 0).then_some(pause_ns.min(PAUSE_NS_MAX))
    }

    fn count_accepted(&mut self, slot: SlotIndex, ended: StateWord, before: BlobRef) {
        let Some(task) = ended.id(slot) else {
            return;
        };
        self.release(task, before);
        let phase = ended.phase();
        if phase == Phase::Done {
            let ended = self.segment.task(slot);
            self.clients.task_ended(self.segment, ended);
            self.finished(task, phase, client_to_tell(ended));
        }
    }

    /// A task has ended, and whoever waits for it can be told: by a stream, by the lane of its client, or by those that watch it.
    pub(crate) fn finished(&mut self, task: TaskId, phase: Phase, client: Option<ClientIndex>) {
        self.effects.push(Effect::Finished { task, phase });
        let (segment, right) = (self.segment, self.right);
        self.lanes.tell_end(segment, right, (task, phase), client);
    }

    /// Writes what a daemon that was killed right after it had ended a waiting task could not write any more. Readers know it from the state word
    /// until then; a record of the task is made of what the slot says.
    pub(crate) fn complete_end(&self, slot: SlotIndex, ended: StateWord) {
        if let Some(outcome) = self.segment.missing_outcome(slot, ended) {
            let task = self.write(slot);
            // The moment goes first: as long as the outcome is missing, both are written again.
            task.set_phase_time(self.now.stamp());
            task.set_outcome(outcome);
        }
    }

    /// Looks the slot of a task up; of one whose result has expired the refusal says so.
    pub(crate) fn find(&self, id: TaskId) -> Result<(SlotIndex, StateWord), Rejection> {
        find(self.segment, id).map_err(|rejection| or_expired(self.segment, id, rejection))
    }

    /// Who the worker in a slot is now.
    pub(crate) fn worker_id(&self, worker: WorkerIndex) -> WorkerId {
        let state = self.segment.worker(worker).state();
        WorkerId::new(worker, state.incarnation())
    }

    /// A worker is told to stop an attempt that is not its own any more.
    pub(crate) fn stop_stale(&mut self, worker: WorkerId, asked: TaskRef) {
        if let Ok(attempt) = u16::try_from(asked.attempt) {
            self.effects.push(Effect::Stop {
                worker,
                task: asked.task,
                attempt,
                reason: StopReason::Stale,
            });
        }
    }

    /// Sets the moment at which the slot is looked at.
    pub(crate) fn set_timer(&self, slot: SlotIndex, state: StateWord, at: Now) {
        self.segment.index_timer(slot, state, at.stamp());
    }

    pub(crate) fn clear_timer(&self, slot: SlotIndex) {
        self.segment.unindex_timer(slot);
    }

    /// Puts a READY task into the task heap. Returns whether its leaf was missing or wrong.
    pub(crate) fn index_ready(&self, slot: SlotIndex, state: StateWord) -> bool {
        let key = self.segment.task(slot).key();
        self.segment.ready().leaf(slot.get()) != Some(key) && self.segment.index_ready(slot, state)
    }

    /// Gives the bytes of a result back.
    pub(crate) fn drop_result(&mut self, slot: SlotIndex, state: StateWord) {
        let task = self.write(slot);
        let blob = task.result();
        if blob != BlobRef::None
            && let Some(id) = state.id(slot)
        {
            task.set_result(BlobRef::None);
            self.release(id, blob);
        }
    }

    /// Gives the bytes of a blob back; a file is removed later.
    pub(crate) fn release(&mut self, owner: TaskId, blob: BlobRef) {
        match blob {
            BlobRef::Spill { .. } => self.lost_files.push(self.segment, blob),
            BlobRef::None | BlobRef::Inline { .. } | BlobRef::Arena { .. } => {
                self.segment.release(owner, blob);
            }
        }
    }

    /// Gives a slot back whose task has ended. Returns whether it did.
    pub(crate) fn free(&mut self, slot: SlotIndex, from: StateWord) -> bool {
        let task = self.segment.task(slot);
        let (client, arena) = (task.client(), arena_bytes(task));
        if cfg!(qtf_mutant = "sim_output_goes_before_the_task") {
            self.drop_result(slot, from);
        }
        let Ok(files) = self.segment.free_task_but_files(slot, from) else {
            return false;
        };
        for file in files {
            self.lost_files.push(self.segment, file);
        }
        if self.segment.is_at_gate(from) {
            // All slots of a segment come there at about the same time.
            self.sweep.request();
        }
        self.clients.arena_given_back(client, arena);
        self.clients.task_freed(self.segment, client);
        true
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        // Unwinding stands for a kill in tests (programs abort): what a killed process has not added is lost.
        if !std::thread::panicking() {
            self.settle_counts();
        }
    }
}
