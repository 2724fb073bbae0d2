//! Journal tasks that may not be handed out because the journal has no room for what follows: parked, so that no other
//! task waits behind them (`docs/adr/0004`), and released one at a time, the best first, when there is room.
//!
//! Invariants:
//! - I1: what stands here is a hint: the slot says whether the task is still parked, and with which key.
//! - I2: a task is released only when it comes before the best ready one, so both together keep one order, and at most one
//!   released task more than what is handed out stands in the heap of ready tasks.
//! - I3: bounded by the number of slots, times two.
//!
//! Tested in `engine/tests/rules/room.rs`.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use qtf_shm::{Blocked, Event, Key, Phase, Segment, SlotIndex, StateWord};

use crate::plm::Plm;
use crate::turn::Turn;

/// LIMIT: hints that are out of date and are dropped in one look.
const STALE_PER_LOOK: u32 = 64;

/// Parked tasks, the best first.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    heap: BinaryHeap<Reverse<Hint>>,
}

/// A task as it was when it was parked. The order of the fields is that of the tasks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Hint {
    key: Key,
    slot: SlotIndex,
    generation: u64,
}

impl Waiting {
    fn push(&mut self, segment: &Segment, slot: SlotIndex, state: StateWord) {
        let slots = usize::try_from(segment.geometry().tasks()).unwrap_or(usize::MAX);
        if self.heap.len() >= slots.saturating_mul(2) {
            self.heap
                .retain(|Reverse(hint)| parked(segment, *hint).is_some());
        }
        self.heap.push(Reverse(Hint {
            key: segment.task(slot).key(),
            slot,
            generation: state.generation(),
        }));
    }
}

/// The task that a hint is about, if it is parked and its key has not changed.
fn parked(segment: &Segment, hint: Hint) -> Option<(SlotIndex, StateWord)> {
    let task = segment.task(hint.slot);
    let state = task.state();
    let is_parked = state.phase() == Phase::Blocked
        && state.generation() == hint.generation
        && task.key() == hint.key;
    is_parked.then_some((hint.slot, state))
}

impl Plm {
    /// READY -> BLOCKED, if what keeps the task is that the journal has no room. Returns whether it did.
    pub(crate) fn park_for_room(
        &mut self,
        turn: &Turn<'_>,
        slot: SlotIndex,
        state: StateWord,
    ) -> bool {
        let task = turn.segment.task(slot);
        let is_open = self
            .recorder_of(task)
            .is_some_and(|recorder| recorder.check_open().is_ok());
        let key = task.key();
        let why = Blocked::NO_JOURNAL_ROOM;
        if !is_open || turn.advance(slot, state, Event::Park { why }).is_none() {
            return false;
        }
        turn.segment.unindex_ready_key(slot, key);
        if let Some(kind) = task.kind() {
            self.count_parked(kind);
        }
        self.parking.waiting.push(turn.segment, slot, state);
        true
    }

    /// Notes a parked task whose key is new, or which the daemon before has parked.
    pub(in crate::plm) fn note_parked(
        &mut self,
        turn: &Turn<'_>,
        slot: SlotIndex,
        state: StateWord,
    ) {
        if self.is_journalled(turn.segment.task(slot)) {
            self.parking.waiting.push(turn.segment, slot, state);
        }
    }

    /// Releases the best of those that wait for room, if there is room and it comes before the best ready task.
    pub(crate) fn release_best_waiting(&mut self, turn: &Turn<'_>) {
        let recorder = self.recorder.as_ref();
        if self.parking.waiting.heap.is_empty()
            || !recorder.is_some_and(|recorder| recorder.may_hand_out())
        {
            return;
        }
        let head = turn.segment.ready().first_key();
        for _ in 0..STALE_PER_LOOK {
            let Some(&Reverse(best)) = self.parking.waiting.heap.peek() else {
                return;
            };
            if head.is_some_and(|head| head <= best.key) {
                return;
            }
            self.parking.waiting.heap.pop();
            if let Some((slot, state)) = parked(turn.segment, best)
                && self.release(turn, slot, state)
            {
                return;
            }
        }
    }
}
