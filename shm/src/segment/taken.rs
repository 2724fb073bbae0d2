//! A task that a local worker has taken: begun, ended or handed back, without a daemon.
//!
//! Order of an end: result and outcome beside the slot, in the worker's lane (`completion.rs`), then RUNNING -> ENDED (the result linearizes
//! here), then a timer entry, so that the PLM looks and moves them into the slot. While no daemon lives a memory task that ended well goes
//! RUNNING -> DONE, and the end waits in the lane.
//!
//! Invariant: of the slot it changes the state word and nothing else. A worker that was stopped for so long that its slot is another task's
//! by then finds that its change of the word fails, and has changed nothing.
//!
//! Tested in `segment/tests/attachment.rs`, `segment/tests/completion.rs` and `segment/tests/torture`.

use core::cell::Cell;

use crate::arena::Purpose;
use crate::blob::BlobRef;
use crate::counters::Counter;
use crate::id::{SlotIndex, TaskId};
use crate::segment::ApplyError;
use crate::segment::completion::{End, HALF_DONE};
use crate::segment::local_worker::{APPLY_TRIES_MAX, LocalWorker};
use crate::segment::own_hand_over::EntryIndex;
use crate::task::slot::{Outcome, OutcomeKind, TaskOptions, TaskSlot};
use crate::task::state::{Event, FLAG_CANCEL, Owner, Phase, StateWord};
use crate::time::Now;
use crate::worker::WorkerEvent;

/// A task that this worker holds. Dropped, it goes back to the queue.
#[derive(Debug)]
#[must_use = "a task that is dropped goes back to the queue"]
pub struct Taken<'w> {
    worker: &'w LocalWorker<'w>,
    slot: SlotIndex,
    id: TaskId,
    entry: EntryIndex,
    state: Cell<StateWord>,
    over: bool,
}

impl<'w> Taken<'w> {
    /// `state` is ASSIGNED to this worker, and the entry is reserved for it.
    pub(super) fn new(
        worker: &'w LocalWorker<'w>,
        slot: SlotIndex,
        state: StateWord,
        entry: EntryIndex,
    ) -> Option<Self> {
        let id = state.id(slot)?;
        Some(Self {
            worker,
            slot,
            id,
            entry: worker.lane.nearest(entry, slot),
            state: Cell::new(state),
            over: false,
        })
    }

    /// The task.
    #[must_use]
    pub const fn id(&self) -> TaskId {
        self.id
    }

    /// Its slot.
    #[must_use]
    pub const fn slot(&self) -> SlotIndex {
        self.slot
    }

    /// Which attempt this is; the first is 1.
    #[must_use]
    pub fn attempt(&self) -> u16 {
        self.state.get().fence()
    }

    /// Somebody asks for it to be stopped: because it was cancelled, or its time is over. Returns the flags.
    #[must_use]
    pub fn stop_flags(&self) -> u8 {
        let now = self.task().state();
        if self.is_same_attempt(now) {
            now.flags()
        } else {
            FLAG_CANCEL
        }
    }

    /// ASSIGNED -> RUNNING.
    ///
    /// # Errors
    /// The attempt is no longer this worker's.
    pub fn start(&self) -> Result<(), ApplyError> {
        let segment = self.worker.segment();
        let now = segment.now();
        let (lane, fence) = (&self.worker.lane, self.attempt());
        lane.begin(self.entry, self.id, fence, now.stamp());
        let running = self.advance(Event::Start)?;
        let timeout_ms = self.task().timeout_ms();
        if timeout_ms > 0 {
            let over = now.plus_ns(u64::from(timeout_ms).saturating_mul(1_000_000));
            segment.index_timer(self.slot, running, over.stamp());
            segment.ring();
        }
        Ok(())
    }

    /// Ends the attempt with what it left behind.
    ///
    /// # Errors
    /// The attempt is no longer this worker's: nothing was recorded, and nothing of it is left.
    pub fn finish(self, outcome: Outcome, output: &[u8]) -> Result<Phase, ApplyError> {
        self.finish_for(outcome, output, 0)
    }

    /// The same, of an attempt that asks to be made again: after so many milliseconds, or as the daemon's settings say if 0.
    ///
    /// # Errors
    /// As [`Taken::finish`].
    pub fn finish_for(
        mut self,
        outcome: Outcome,
        output: &[u8],
        pause_ms: u64,
    ) -> Result<Phase, ApplyError> {
        let begun = self.task().state();
        if !self.is_same_attempt(begun) {
            return Err(ApplyError::Moved(begun));
        }
        if begun.phase() == Phase::Assigned {
            self.start()?;
        }
        let mut end = self.keep(outcome.of_worker(), output);
        end.pause_ms = pause_ms;
        match self.hand_over(self.ending(&end), &end) {
            Ok(phase) => {
                let counters = self.worker.segment().counters();
                counters.add(Counter::ResultRecorded, 1);
                Ok(phase)
            }
            Err(error) => {
                // Dropped next, which clears the entry; nobody else knows of the result.
                self.worker.segment().release(self.id, end.result);
                Err(error)
            }
        }
    }

    /// Says beside the slot how the attempt ended, and changes the state.
    fn hand_over(&mut self, event: Event, end: &End) -> Result<Phase, ApplyError> {
        let segment = self.worker.segment();
        self.worker.lane.end(self.entry, self.attempt(), end);
        let ended = segment.section(|| -> Result<StateWord, ApplyError> {
            let ended = match self.advance(event) {
                // A daemon that was not there when this worker looked has flagged the attempt, so it is that one's to judge.
                Err(ApplyError::Illegal(_)) if event == Event::CompleteUnattended => {
                    self.advance(Event::End)?
                }
                ended => ended?,
            };
            if ended.phase() == Phase::Done {
                self.worker.count(WorkerEvent::Give);
            }
            Ok(ended)
        })?;
        self.over = true;
        self.worker.lane.let_go(self.entry);
        // The PLM looks where something is due.
        segment.index_timer(self.slot, ended, 0);
        segment.ring();
        if ended.phase() == Phase::Done {
            segment.ring_client_of(self.slot);
        }
        Ok(ended.phase())
    }

    /// Hands the task back: it counts against nobody. What runs at most once and has begun is ended by that: the PLM gives it to nobody else.
    pub fn give_back(mut self) {
        self.hand_back();
    }

    fn hand_back(&mut self) {
        let segment = self.worker.segment();
        if self.is_half_done() {
            let end = End {
                outcome: HALF_DONE,
                result: BlobRef::None,
                ended: segment.now().stamp(),
                pause_ms: 0,
            };
            if self.hand_over(Event::End, &end).is_ok() {
                return;
            }
        }
        self.over = true;
        segment.section(|| {
            if let Ok(ready) = self.advance(Event::Requeue) {
                segment.index_taken_back(self.slot, ready);
                self.worker.count(WorkerEvent::Give);
            }
        });
        self.worker.lane.clear(self.entry, self.id);
        self.worker.lane.let_go(self.entry);
        segment.ring();
    }

    /// It runs at most once, and may have begun.
    fn is_half_done(&self) -> bool {
        let (task, found) = (self.task(), self.task().state());
        task.options().has(TaskOptions::AT_MOST_ONCE)
            && found.phase() == Phase::Running
            && self.is_same_attempt(found)
    }

    /// What the attempt leaves, with its result stored.
    fn keep(&self, mut outcome: Outcome, output: &[u8]) -> End {
        let (segment, task) = (self.worker.segment(), self.task());
        let wanted = !task.options().has(TaskOptions::DISCARD_RESULT)
            || outcome.kind != OutcomeKind::Exited
            || outcome.code != 0;
        let mut result = BlobRef::None;
        if wanted && !output.is_empty() {
            match segment.store(self.id, output, Purpose::Result) {
                Ok(blob) => result = blob,
                Err(_) => {
                    outcome.result_dropped = true;
                    segment.counters().add(Counter::ResultDropped, 1);
                }
            }
        }
        let ended = segment.now().stamp();
        End {
            outcome,
            result,
            ended,
            pause_ms: 0,
        }
    }

    /// ENDED, for the PLM to judge; or DONE at once when no daemon lives and there is nothing to judge.
    fn ending(&self, end: &End) -> Event {
        let (task, state, outcome) = (self.task(), self.state.get(), end.outcome);
        let plain = outcome.kind == OutcomeKind::Exited
            && outcome.code == 0
            && state.flags() == 0
            && !task.options().has(TaskOptions::JOURNAL)
            && !task.options().has(TaskOptions::DISCARD_RESULT);
        if plain
            && !self
                .worker
                .attachment
                .daemon_lives_at(Now::from_stamp(end.ended))
        {
            Event::CompleteUnattended
        } else {
            Event::End
        }
    }

    /// One event; again when only a flag was set meanwhile.
    fn advance(&self, event: Event) -> Result<StateWord, ApplyError> {
        let segment = self.worker.segment();
        let mut from = self.state.get();
        for _ in 0..APPLY_TRIES_MAX {
            match segment.apply(self.slot, from, event) {
                Ok(to) => {
                    self.state.set(to);
                    return Ok(to);
                }
                Err(ApplyError::Moved(found))
                    if self.is_same_attempt(found) && found.phase() == from.phase() =>
                {
                    from = found;
                }
                Err(error) => return Err(error),
            }
        }
        Err(ApplyError::Moved(from))
    }

    fn is_same_attempt(&self, state: StateWord) -> bool {
        state.is_of(self.id)
            && matches!(state.phase(), Phase::Assigned | Phase::Running)
            && state.owner() == Owner::Worker(self.worker.index)
            && state.fence() == self.attempt()
    }

    fn task(&self) -> &TaskSlot {
        self.worker.segment().task(self.slot)
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        // Unwinding stands for a kill in tests (programs abort): a killed process hands nothing back.
        let is_killed = std::thread::panicking();
        if !self.over && !is_killed && self.worker.attachment.is_own_process() {
            self.hand_back();
        }
    }
}
