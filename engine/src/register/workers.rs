//! The table of workers: what is remembered of each beside its slot, its leaf in the worker heap,
//! and how many workers offer each kind.
//!
//! Everything that changes whether a worker may be given a task ends with [`Workers::refresh`] (`leaves.rs`),
//! which derives leaf and offers from the slot; no other code writes them.
//! Tested in `engine/tests/rules/scheduling.rs`, `losses.rs`, `liveness.rs`.

use qtf_shm::{
    AttachIndex, KindIndex, KindSet, Now, Phase, PlmRight, Segment, SlotIndex, TaskId,
    WorkerCounter, WorkerEvent, WorkerId, WorkerIndex, WorkerPhase, WorkerSlot, WorkerState,
};

use super::calling::{Callers, Calling};
use super::comparison::Arrival;
use super::free_slots::FreeSlots;
use super::leaves::Hand;
use super::pace::Pace;
use crate::lookup::{TaskRef, serves};
use crate::rejection::Rejection;
use crate::sweep::Pass;
use crate::turn::Turn;

/// LIMIT: a worker's word is changed by others only when they take a task.
pub(super) const APPLY_TRIES_MAX: u32 = 8;
/// LIMIT: entries of the segment's table of kinds.
const KINDS_COUNT: usize = qtf_shm::id::KINDS_COUNT as usize;

/// Why a task no longer counts as running at its worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// It ended well.
    Done,
    /// Its attempt ended badly.
    Failed,
    /// It was taken away because the worker was lost.
    Lost,
    /// Anything else.
    Neither,
}

/// An attempt that a worker no longer holds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AttemptOver {
    pub(crate) slot: SlotIndex,
    /// The one that the task had last there.
    pub(crate) phase: Phase,
    pub(crate) ending: Ending,
}

/// What a worker slot says about a task that names it as its owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Possession {
    /// The worker is there and may hold it.
    Holds,
    /// The worker has left.
    Returned,
    /// The worker has come back and does not name it.
    Unnamed,
    /// The worker seems not to hold it: it has said so, perhaps before the task came to it.
    Doubtful,
    /// The worker is lost, or there is none.
    Gone,
}

/// What is remembered of one worker slot.
#[derive(Debug, Default)]
pub(super) struct Note {
    /// Kinds that it is counted for in `Workers::offers`.
    offering: KindSet,
    /// Its leaf is to be derived anew before the next worker is picked.
    pub(super) leaf_is_stale: bool,
    /// Number of its last assignment; breaks ties of load.
    pub(super) assigned: u32,
    /// How fast it starts what it is given.
    pub(super) pace: Pace,
    /// When a task was last sent to it.
    pub(super) sent: Now,
    /// Whether that has come to it.
    pub(super) arrival: Option<Arrival>,
    /// Since when it is to leave.
    pub(super) drains_since: Now,
    /// When it was last told to leave.
    pub(super) drain_told: Now,
    /// The number an unanswered probe asks for; 0 = none.
    pub(super) probe: u64,
    /// It said goodbye: its tasks go back without counting as lost.
    pub(super) has_left: bool,
    /// LOST: the pass that must be completed before its slot is free.
    pub(super) clean_after: Option<Pass>,
    /// It came back: what it still holds, sorted; everything else of it goes back.
    pub(super) held: Option<Vec<TaskId>>,
    /// `held` is concluded from a heartbeat.
    pub(super) is_concluded: bool,
    /// Attempts whose results were there before they could be taken, sorted.
    pub(super) in_time: Vec<TaskRef>,
    /// The pass after which `held` has done its work.
    pub(super) reconciled_after: Option<Pass>,
    /// It holds no streams.
    pub(super) calling: Option<Box<Calling>>,
}

/// All workers.
#[derive(Debug)]
pub(crate) struct Workers {
    pub(super) right: PlmRight,
    pub(super) notes: Vec<Note>,
    /// Slots at and above this one were never used since the start.
    pub(super) used: u16,
    /// Workers that offer each kind.
    offers: [u32; KINDS_COUNT],
    /// Kinds that nobody offered before and somebody does now; taken by the cycle.
    newly_offered: KindSet,
    /// Changes of local workers that have been looked at.
    local_changes: u64,
    /// Number of the last assignment.
    assignments: u32,
    /// Workers whose leaves are to be derived anew before the next is picked.
    pub(super) stale_leaves: Vec<WorkerIndex>,
    pub(super) hand: Option<Hand>,
    /// Number of the last question whether orders have come.
    pub(super) arrivals_asked: u64,
    /// When the sweep was last asked to look for attempts that nobody starts.
    pub(super) looked_for_unstarted: Now,
    /// Workers that wait for a pass of the sweep.
    pub(super) waiting: u32,
    pub(super) callers: Callers,
    pub(super) free: FreeSlots,
    pub(super) rng: fastrand::Rng,
}

impl Workers {
    pub(crate) fn new(segment: &Segment, right: PlmRight, seed: u64) -> Self {
        let count = usize::try_from(segment.geometry().workers()).unwrap_or(0);
        Self {
            right,
            notes: std::iter::repeat_with(Note::default).take(count).collect(),
            used: 0,
            offers: [0; KINDS_COUNT],
            newly_offered: KindSet::EMPTY,
            // The adoption looks at all that came before.
            local_changes: segment.local_changes(),
            assignments: 0,
            stale_leaves: Vec::with_capacity(count),
            hand: None,
            arrivals_asked: 0,
            looked_for_unstarted: Now::default(),
            waiting: 0,
            callers: Callers::default(),
            free: FreeSlots::default(),
            rng: fastrand::Rng::with_seed(seed),
        }
    }

    /// Every slot that was used since the start.
    pub(super) fn indices(&self) -> impl Iterator<Item = WorkerIndex> + use<> {
        let used = u32::from(self.used);
        (0..self.used).filter_map(move |raw| WorkerIndex::new_checked(raw, used))
    }

    /// How many slots a look at all in use meets.
    pub(crate) fn slots_in_use(&self) -> u32 {
        self.used.into()
    }

    /// Every slot of the table.
    pub(super) fn all_indices(&self) -> impl Iterator<Item = WorkerIndex> + use<> {
        let count = u32::try_from(self.notes.len()).unwrap_or(0);
        (0..count).filter_map(move |raw| WorkerIndex::new_checked(u16::try_from(raw).ok()?, count))
    }

    /// The workers of a local process.
    pub(crate) fn local(
        &self,
        segment: &Segment,
        attach: AttachIndex,
    ) -> impl Iterator<Item = WorkerIndex> {
        self.all_indices().filter(move |&worker| {
            let slot = segment.worker(worker);
            let is_there = slot.state().phase() != WorkerPhase::Free;
            is_there && slot.local() == Some(attach.get())
        })
    }

    /// Says whether a local process has a worker slot.
    pub(crate) fn has_local(&self, segment: &Segment, attach: AttachIndex) -> bool {
        self.local(segment, attach).next().is_some()
    }

    /// Notes that a slot is used.
    pub(super) fn note_used(&mut self, worker: WorkerIndex) {
        self.used = self.used.max(worker.get().saturating_add(1));
    }

    /// The worker of this id, if it is there: live, draining or suspected, and the same
    /// incarnation.
    pub(crate) fn serving(
        &self,
        segment: &Segment,
        id: WorkerId,
    ) -> Result<WorkerIndex, Rejection> {
        let worker = id.slot();
        if worker.position() < self.notes.len() {
            let state = segment.worker(worker).state();
            if serves(state) && state.incarnation() == id.incarnation() {
                return Ok(worker);
            }
        }
        Err(Rejection::unknown_worker(id.as_raw()))
    }

    /// The same, where incarnation 0 means whichever is in the slot.
    pub(crate) fn serving_or_current(
        &self,
        segment: &Segment,
        id: WorkerId,
    ) -> Result<WorkerIndex, Rejection> {
        let slot = id.slot();
        let is_current = id.incarnation() == 0 && slot.position() < self.notes.len();
        let id = if is_current {
            WorkerId::new(slot, segment.worker(slot).state().incarnation())
        } else {
            id
        };
        self.serving(segment, id)
    }

    /// Says whether some worker offers a kind.
    pub(crate) fn is_offered(&self, kind: KindIndex) -> bool {
        self.offers
            .get(kind.position())
            .is_some_and(|&count| count > 0)
    }

    /// Kinds that have come to be offered since the last call.
    pub(crate) fn take_newly_offered(&mut self) -> KindSet {
        std::mem::take(&mut self.newly_offered)
    }

    /// Counts a task that was assigned to a worker.
    pub(crate) fn take(&mut self, turn: &Turn<'_>, worker: WorkerIndex) {
        let slot = turn.write_worker(worker);
        apply(&slot, WorkerEvent::Take);
        slot.set_credits(slot.credits().saturating_sub(1));
        let number = self.next_assignment(turn.segment);
        let note = &mut self.notes[worker.position()];
        note.sent = turn.now;
        note.assigned = number;
        note.pace.ordered(turn.now, slot.state().running());
        if self.hand.is_some_and(|hand| hand.worker == worker) {
            slot.set_key(self.key_of(slot.state(), worker));
        } else {
            self.refresh(turn.segment, worker);
        }
    }

    /// An order that waited for its record may go out to a worker. Not while it is being found out what the worker holds: the
    /// order would not be among that, and the task be given to another.
    pub(crate) fn begin_to_send(&mut self, turn: &Turn<'_>, worker: WorkerIndex) -> bool {
        let Some(note) = self.notes.get_mut(worker.position()) else {
            return false;
        };
        if note.held.is_some() {
            return false;
        }
        note.sent = turn.now;
        true
    }

    /// Counts a task that a worker no longer holds.
    pub(crate) fn let_go(&mut self, turn: &Turn<'_>, worker: WorkerIndex, over: AttemptOver) {
        let AttemptOver {
            slot,
            phase,
            ending,
        } = over;
        self.attempt_is_over(slot);
        if worker.position() >= self.notes.len() {
            return;
        }
        let slot = turn.write_worker(worker);
        apply(&slot, WorkerEvent::Give);
        if phase != Phase::Assigned {
            self.notes[worker.position()].pace.ended();
        }
        match ending {
            Ending::Done => slot.count(WorkerCounter::Done),
            Ending::Failed => slot.count(WorkerCounter::Failed),
            Ending::Lost => slot.count(WorkerCounter::Lost),
            Ending::Neither => {}
        }
        self.resize_caller(turn, worker);
        self.refresh_later(worker);
    }

    /// What a worker slot says about a task that names it as its owner.
    pub(crate) fn possession(
        &self,
        segment: &Segment,
        worker: WorkerIndex,
        task: TaskId,
    ) -> Possession {
        let Some(note) = self.notes.get(worker.position()) else {
            return Possession::Gone;
        };
        if !serves(segment.worker(worker).state()) {
            return if note.has_left {
                Possession::Returned
            } else {
                Possession::Gone
            };
        }
        match &note.held {
            Some(held) if held.binary_search(&task).is_err() => {
                if note.is_concluded {
                    Possession::Doubtful
                } else {
                    Possession::Unnamed
                }
            }
            Some(_) | None => Possession::Holds,
        }
    }

    /// Hears whether local workers have come, gone, or changed what they take: nobody calls for them.
    pub(crate) fn hear_of_locals(&mut self, segment: &Segment) {
        let changes = segment.local_changes();
        if self.local_changes != changes && !cfg!(qtf_mutant = "sim_locals_are_not_heard_of") {
            self.local_changes = changes;
            self.look_at_offers(segment);
        }
    }

    /// What each worker offers, by its word. The leaves of remote ones are right already, and local ones have none.
    pub(super) fn look_at_offers(&mut self, segment: &Segment) {
        self.free.look_again();
        for worker in self.all_indices() {
            let slot = segment.worker(worker);
            let before = self.notes[worker.position()].offering;
            let offering = match self.is_on_offer(worker, slot.state()) {
                true => slot.kinds(),
                false if cfg!(qtf_mutant = "sim_kinds_of_the_departed_stay") => before,
                false => KindSet::EMPTY,
            };
            self.offer(worker, offering);
        }
    }

    /// The worker's kinds count as on offer; of one that calls only while it does, and a little beyond.
    pub(super) fn is_on_offer(&self, worker: WorkerIndex, state: WorkerState) -> bool {
        let calling = self.notes[worker.position()].calling.as_ref();
        offers(state) && calling.is_none_or(|calling| calling.offers)
    }

    pub(super) fn offer(&mut self, worker: WorkerIndex, offering: KindSet) {
        let note = &mut self.notes[worker.position()];
        let before = std::mem::replace(&mut note.offering, offering);
        if before == offering {
            return;
        }
        for kind in offering.without(before).iter() {
            let count = &mut self.offers[kind.position()];
            if *count == 0 {
                self.newly_offered.insert(kind);
            }
            *count = count.saturating_add(1);
        }
        for kind in before.without(offering).iter() {
            let count = &mut self.offers[kind.position()];
            *count = count.saturating_sub(1);
        }
    }

    /// Numbers assignments; when the numbers are used up, all workers start over.
    fn next_assignment(&mut self, segment: &Segment) -> u32 {
        match self.assignments.checked_add(1) {
            Some(number) => self.assignments = number,
            None => {
                self.hand = None;
                self.assignments = 1;
                for worker in self.indices() {
                    self.notes[worker.position()].assigned = 0;
                    self.refresh(segment, worker);
                }
            }
        }
        self.assignments
    }
}

/// The worker's kinds count as on offer: also while it is suspected, as that lasts one probe only.
fn offers(state: WorkerState) -> bool {
    matches!(state.phase(), WorkerPhase::Live | WorkerPhase::Suspect) && !state.drains()
}

/// Changes a worker's word; returns whether it did.
pub(super) fn apply(slot: &WorkerSlot, event: WorkerEvent) -> bool {
    (0..APPLY_TRIES_MAX).any(|_| slot.apply(slot.state(), event).is_ok())
}
