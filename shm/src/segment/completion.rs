//! What a local worker hands over about its attempts beside the slots: who writes it, who reads it, who moves it into a slot.
//!
//! An entry of a worker's lane (`hand_over.rs`) is found from the task: its state word names the worker, the worker slot names the lane, the
//! entry names task and attempt. It counts:
//!
//! | state of the task | an entry of this attempt says |
//! |---|---|
//! | RUNNING | when it began |
//! | ENDED, not judged; DONE | outcome, result and time of the end, before those in the slot |
//! | anything else | nothing: the attempt was taken away, or its end was moved into the slot |
//!
//! The PLM moves an end into the slot before it judges it ([`Segment::accept_completion`]); a DONE task of the time without a
//! daemon when it first meets it, at the start at the latest. Until then readers find it here. A lane lives as long as its worker slot, and the
//! slot as long as an end waits in it, also when the process is long gone.
//!
//! Each step may be the last of a killed process: moved twice is as good as once, and what is not moved is still there.
//!
//! Tested in `segment/tests/completion.rs` and `segment/tests/torture`.

use crate::arena::{Claimant, Purpose};
use crate::blob::BlobRef;
use crate::hand_over::{ENTRIES, ENTRY_WORDS, EntryPlace, LANE_BYTES, home_of};
use crate::id::{AttachIndex, SlotIndex, TaskId, WorkerIndex};
use crate::segment::{Segment, SegmentView};
use crate::sync::{AtomicU64, Ordering, fence};
use crate::task::slot::{Outcome, OutcomeKind};
use crate::task::state::{Phase, StateWord};
use crate::task::writer::PlmRight;
use crate::worker::{WorkerEvent, WorkerPhase, WorkerState};

/// What a local worker says about an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Completion {
    /// The task.
    pub task: TaskId,
    /// Which attempt: the fence of its hand-out.
    pub fence: u16,
    /// Stamp of its start.
    pub started: u64,
    /// How it ended; `None` while it runs.
    pub end: Option<End>,
}

/// The end of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct End {
    /// How it ended.
    pub outcome: Outcome,
    /// Where its result lies.
    pub result: BlobRef,
    /// Stamp of the end.
    pub ended: u64,
    /// Milliseconds for which the next attempt is to wait, where the worker asks for that; else 0.
    pub pause_ms: u64,
}

/// An end that was moved into its slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MovedEnd {
    /// The result that was in the slot before, which is the caller's to release.
    pub before: BlobRef,
    /// As in [`End`].
    pub pause_ms: u64,
}

/// The end of an attempt that a local worker gave back after it had begun it, of a task that runs at most once.
pub(super) const HALF_DONE: Outcome = Outcome {
    kind: OutcomeKind::WorkerLost,
    code: 0,
    result_dropped: false,
    output_cut: false,
};

/// Where a lane lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LanePlace {
    pub(super) unit: u32,
    pub(super) claimant: Claimant,
}

impl LanePlace {
    /// The word of the worker slot; 0 = none.
    pub(super) const fn word(self) -> u64 {
        ((self.claimant.incarnation as u64) << 32) | (self.unit as u64 + 1)
    }

    fn of_word(word: u64, attach: u16) -> Option<Self> {
        let [a, b, c, d, unit @ ..] = word.to_be_bytes();
        Some(Self {
            unit: u32::from_be_bytes(unit).checked_sub(1)?,
            claimant: Claimant {
                attach,
                incarnation: u32::from_be_bytes([a, b, c, d]),
            },
        })
    }
}

/// The entries of a lane.
#[derive(Debug, Clone, Copy)]
pub(super) struct Lane<'s>(&'s [AtomicU64]);

impl<'s> Lane<'s> {
    pub(super) fn entries(self) -> impl Iterator<Item = EntryPlace<'s>> {
        self.0
            .chunks_exact(ENTRY_WORDS)
            .take(ENTRIES)
            .filter_map(EntryPlace::of)
    }

    pub(super) fn entry(self, index: usize) -> Option<EntryPlace<'s>> {
        let start = index.checked_mul(ENTRY_WORDS)?;
        EntryPlace::of(self.0.get(start..start.checked_add(ENTRY_WORDS)?)?)
    }

    /// The entry of an attempt, with what it says. It mostly lies at its task's home.
    fn find(self, task: TaskId, fence: u16) -> Option<(EntryPlace<'s>, Completion)> {
        let (raw, home) = (task.as_raw(), home_of(task.slot()));
        (home..ENTRIES)
            .chain(0..home)
            .filter_map(|index| self.entry(index))
            .filter(|entry| entry.task() == raw)
            .filter_map(|entry| Some((entry, completion_of(entry)?)))
            .find(|(_, found)| found.task == task && found.fence == fence)
    }
}

impl SegmentView {
    /// What the local worker that a task's state names says about this attempt; `None` if nothing that counts.
    #[inline]
    #[must_use]
    pub fn completion(&self, slot: SlotIndex, state: StateWord) -> Option<Completion> {
        let worker = state.last_worker()?;
        let is_local = self.parts.workers.get(worker.position())?.local().is_some();
        let (_, found) = is_local.then(|| self.completion_in_lane(slot, state))??;
        Some(found)
    }

    /// The same with its entry, of a local worker.
    fn completion_in_lane(
        &self,
        slot: SlotIndex,
        state: StateWord,
    ) -> Option<(EntryPlace<'_>, Completion)> {
        let phase = state.phase();
        let counts = match phase {
            Phase::Running | Phase::Done => true,
            Phase::Ended => !state.is_judged(),
            Phase::Free
            | Phase::Claimed
            | Phase::Submitted
            | Phase::Blocked
            | Phase::Held
            | Phase::Delayed
            | Phase::Ready
            | Phase::Assigned
            | Phase::Failed
            | Phase::Cancelled
            | Phase::DeadLetter
            | Phase::Quarantine
            | Phase::Reserved => false,
        };
        if !counts {
            return None;
        }
        let task = state.id(slot)?;
        let place = self.lane_place(state.last_worker()?)?;
        let (entry, found) = self.lane_at(place)?.find(task, state.fence())?;
        // ORDERING: [arena.reuse] Acquire: orders the copies before the second look; whoever met bytes of the chunk's next tenant also meets
        // that it is no lane any more.
        fence(Ordering::Acquire);
        self.lane_at(place)?;
        (found.end.is_some() || phase == Phase::Running).then_some((entry, found))
    }

    /// The end of a task's last attempt that still lies beside its slot.
    #[inline]
    pub(super) fn end_beside(&self, slot: SlotIndex, state: StateWord) -> Option<End> {
        let ended = matches!(state.phase(), Phase::Ended | Phase::Done);
        ended.then(|| self.completion(slot, state)?.end).flatten()
    }

    /// The end of the entry counts: its task is ENDED or DONE by this very attempt.
    pub(super) fn waits(&self, entry: EntryPlace<'_>) -> bool {
        let Some(completion) = completion_of(entry).filter(|found| found.end.is_some()) else {
            return false;
        };
        let task = completion.task;
        self.slot_of(task).is_some_and(|slot| {
            let state = self.state(slot);
            let is_ended =
                state.phase() == Phase::Done || state.phase() == Phase::Ended && !state.is_judged();
            is_ended && state.is_of(task) && state.fence() == completion.fence
        })
    }

    /// The lane of a worker, if it is a local process's.
    pub(super) fn lane_of(&self, worker: WorkerIndex) -> Option<Lane<'_>> {
        self.lane_at(self.lane_place(worker)?)
    }

    pub(super) fn lane_at(&self, place: LanePlace) -> Option<Lane<'_>> {
        let words = LANE_BYTES / 8;
        let arena = self.parts.arena();
        arena
            .claimed_words(place.unit, place.claimant, words)
            .map(Lane)
    }

    /// Where the lane of a worker lies, to be asked before its slot is freed.
    pub(super) fn lane_place(&self, worker: WorkerIndex) -> Option<LanePlace> {
        let slot = self.parts.workers.get(worker.position())?;
        if slot.state().phase() == WorkerPhase::Free {
            return None;
        }
        LanePlace::of_word(slot.lane(), slot.local()?)
    }

    /// Where the worker slots say that lanes lie: unit, and who claims the chunk there. What they say is not checked.
    pub(super) fn lane_chunks(&self) -> impl Iterator<Item = (u32, Claimant)> + '_ {
        (0..u16::MAX)
            .map_while(|number| self.worker_index(number))
            .filter_map(|worker| self.lane_place(worker))
            .map(|place| (place.unit, place.claimant))
    }

    /// Every word of an entry in use that is a stamp.
    pub(super) fn lane_stamps(&self) -> impl Iterator<Item = &AtomicU64> + '_ {
        (0..u16::MAX)
            .map_while(|number| self.worker_index(number))
            .filter_map(|worker| self.lane_of(worker))
            .flat_map(Lane::entries)
            .filter_map(|entry| entry.stamps())
            .flatten()
    }

    /// The chunk at a unit is the lane of a worker.
    pub(super) fn is_lane(&self, unit: u32, claimant: Claimant) -> bool {
        self.lane_chunks().any(|lane| lane == (unit, claimant))
    }

    /// An end waits in a worker's lane for the PLM.
    pub(super) fn has_waiting_end(&self, worker: WorkerIndex) -> bool {
        self.lane_of(worker)
            .is_some_and(|lane| lane.entries().any(|entry| self.waits(entry)))
    }

    /// All that lies in lanes and counts.
    pub fn waiting_ends(&self) -> impl Iterator<Item = (Completion, End)> + '_ {
        (0..u16::MAX)
            .map_while(|number| self.worker_index(number))
            .filter_map(|worker| self.lane_of(worker))
            .flat_map(Lane::entries)
            .filter(|&entry| self.waits(entry))
            .filter_map(|entry| {
                let completion = completion_of(entry)?;
                Some((completion, completion.end?))
            })
    }
}

impl Segment {
    /// Moves the end of a task's attempt from beside the slot into the slot, before it is judged. `None` if nothing lies beside the slot.
    #[inline]
    pub fn accept_completion(
        &self,
        right: PlmRight,
        slot: SlotIndex,
        state: StateWord,
    ) -> Option<MovedEnd> {
        if self.has_end_in_slot(slot, state) {
            return None;
        }
        let worker = state.last_worker()?;
        let is_local = self.worker(worker).local().is_some();
        is_local.then(|| self.accept_from_lane(right, slot, state))?
    }

    fn accept_from_lane(
        &self,
        right: PlmRight,
        slot: SlotIndex,
        state: StateWord,
    ) -> Option<MovedEnd> {
        let (entry, found) = self.completion_in_lane(slot, state)?;
        let end = found.end?;
        let task = self.write_task(right, slot);
        task.set_started(found.started);
        let before = task.result();
        task.set_result(end.result);
        task.set_phase_time(end.ended);
        // Last: from here on nobody looks for it beside the slot, see `has_end_in_slot`.
        task.set_outcome(end.outcome);
        entry.clear(found.task.as_raw());
        let is_released = before != end.result;
        Some(MovedEnd {
            before: if is_released { before } else { BlobRef::None },
            pause_ms: end.pause_ms,
        })
    }

    /// The slot itself says how this attempt has ended, so nothing that counts lies beside it. For the daemon alone, which has written that, or has come
    /// after who did. Of a later attempt the slot may still say how the one before has ended; then this says nothing.
    #[inline]
    pub(super) fn has_end_in_slot(&self, slot: SlotIndex, state: StateWord) -> bool {
        self.attach == AttachIndex::DAEMON
            && state.fence() == 1
            && self.task(slot).outcome().kind != OutcomeKind::None
    }

    /// Moves all that waits, when a daemon starts.
    pub(super) fn accept_completions(&self, right: PlmRight) {
        for number in 0..u16::MAX {
            let Some(worker) = self.worker_index(number) else {
                return;
            };
            self.accept_completions_of(right, worker);
        }
    }

    fn accept_completions_of(&self, right: PlmRight, worker: WorkerIndex) {
        let Some(lane) = self.lane_of(worker) else {
            return;
        };
        for entry in lane.entries().filter(|&entry| self.waits(entry)) {
            if let Some(task) = TaskId::from_raw(entry.task())
                && let Some(slot) = self.slot_of(task)
                && let Some(moved) = self.accept_from_lane(right, slot, self.state(slot))
            {
                self.release(task, moved.before);
            }
        }
    }

    /// LOST -> FREE, when no task is left with the worker; a count that says otherwise is set right first. What waits in the lane of a
    /// local one is moved before, and its memory is free after.
    pub fn free_lost_worker(&self, right: PlmRight, worker: WorkerIndex) -> bool {
        self.accept_completions_of(right, worker);
        self.vacate(worker, self.worker(worker).state())
    }

    /// The same, when its lane is empty and its word still is `state`.
    pub(super) fn vacate(&self, worker: WorkerIndex, state: WorkerState) -> bool {
        let (slot, lane) = (self.worker(worker), self.lane_place(worker));
        let counted = slot
            .apply(state, WorkerEvent::Recount { running: 0 })
            .unwrap_or(state);
        let is_freed = slot.apply(counted, WorkerEvent::Leave).is_ok();
        if is_freed {
            self.free_lane_at(lane);
        }
        is_freed
    }

    /// Gives the memory of a lane back whose worker slot has just been freed; `place` is what the slot said before.
    pub(super) fn free_lane_at(&self, place: Option<LanePlace>) {
        if let Some(place) = place {
            let arena = self.view.parts.arena();
            self.section(|| arena.free_claimed(place.unit, place.claimant));
        }
    }

    /// Makes a lane for a worker slot that this process is filling in; the word to be written there.
    pub(super) fn make_lane(&self) -> Option<LanePlace> {
        let (arena, claimant) = (self.view.parts.arena(), self.claimant());
        let claimed = self.section(|| arena.allocate(claimant, LANE_BYTES, Purpose::Result));
        let unit = claimed.ok()?.unit();
        let place = LanePlace { unit, claimant };
        let words = arena.claimed_words(unit, claimant, LANE_BYTES / 8)?;
        for entry in Lane(words).entries() {
            entry.reset();
        }
        Some(place)
    }
}

fn completion_of(entry: EntryPlace<'_>) -> Option<Completion> {
    let read = entry.read()?;
    let said = Outcome::from_bits(read.outcome);
    let outcome = if said == HALF_DONE {
        said
    } else {
        said.of_worker()
    };
    Some(Completion {
        task: TaskId::from_raw(read.task)?,
        fence: read.fence,
        started: read.started,
        end: (read.outcome != 0).then(|| End {
            outcome,
            result: BlobRef::from_raw(read.result),
            ended: read.ended,
            pause_ms: read.pause_ms,
        }),
    })
}
