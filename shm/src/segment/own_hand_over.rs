//! The hand-over lane of a local worker as that worker uses it: which entries are free, and what it writes into them.
//!
//! Invariant: an entry is written for a task only between `reserve` and `let_go`, and reserved only when it is free: never used, cleared by whoever
//! moved its end, or of a task that has moved on.
//!
//! Tested in `segment/tests/completion.rs`.

use core::cell::Cell;

use crate::hand_over::{ENTRIES, home_of};
use crate::id::{SlotIndex, TaskId};
use crate::segment::Segment;
use crate::segment::completion::{End, Lane, LanePlace};

/// The lane as its worker uses it.
#[derive(Debug)]
pub(super) struct OwnLane<'s> {
    segment: &'s Segment,
    place: LanePlace,
    lane: Lane<'s>,
    /// Entries of tasks that this worker holds.
    held: Cell<u64>,
    /// Where the next free one is looked for.
    next: Cell<usize>,
}

/// Which entry of a lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct EntryIndex(usize);

impl<'s> OwnLane<'s> {
    pub(super) fn new(segment: &'s Segment) -> Option<Self> {
        let place = segment.make_lane()?;
        let lane = segment.lane_at(place)?;
        Some(Self {
            segment,
            place,
            lane,
            held: Cell::new(0),
            next: Cell::new(0),
        })
    }

    pub(super) const fn word(&self) -> u64 {
        self.place.word()
    }

    /// Gives the memory back; the worker slot does not name it any more.
    pub(super) fn give_back(&self) {
        self.segment.free_lane_at(Some(self.place));
    }

    /// An entry for a task to be taken; `None` if all are in use, by tasks that run or ends that wait for a daemon.
    pub(super) fn reserve(&self) -> Option<EntryIndex> {
        let (first, held) = (self.next.get(), self.held.get());
        let order = (first..ENTRIES).chain(0..first);
        let is_held = |index: usize| (held >> index) & 1 == 1;
        let found = order
            .clone()
            .filter(|&index| !is_held(index))
            .find(|&index| self.is_free(index))
            .or_else(|| {
                order
                    .filter(|&index| !is_held(index))
                    .find(|&index| self.reclaim(index))
            })?;
        self.held.set(held | (1 << found));
        // It is taken again at once where the task's home is free.
        self.next.set(found);
        Some(EntryIndex(found))
    }

    /// The entry for the task in a slot, for which one was reserved: the one at its home if that is free, where readers look first.
    pub(super) fn nearest(&self, reserved: EntryIndex, slot: SlotIndex) -> EntryIndex {
        let (home, held) = (home_of(slot), self.held.get());
        if (held >> home) & 1 == 1 || !self.is_free(home) {
            return reserved;
        }
        self.held.set(held & !(1 << reserved.0) | (1 << home));
        EntryIndex(home)
    }

    /// The entry is not needed by this worker any more: it is free, or it is an end that waits.
    pub(super) fn let_go(&self, entry: EntryIndex) {
        self.held.set(self.held.get() & !(1 << entry.0));
    }

    pub(super) fn begin(&self, entry: EntryIndex, task: TaskId, fence: u16, started: u64) {
        if let Some(place) = self.lane.entry(entry.0) {
            place.begin(task.as_raw(), fence, started);
        }
    }

    pub(super) fn end(&self, entry: EntryIndex, fence: u16, end: &End) {
        if let Some(place) = self.lane.entry(entry.0) {
            let (outcome, result) = (end.outcome.to_bits(), end.result.as_raw());
            place.end(fence, outcome, (result, end.ended, end.pause_ms));
        }
    }

    /// The attempt was taken away, or is handed back: nobody wants what the entry says.
    pub(super) fn clear(&self, entry: EntryIndex, task: TaskId) {
        if let Some(place) = self.lane.entry(entry.0) {
            place.clear(task.as_raw());
        }
    }

    fn is_free(&self, index: usize) -> bool {
        self.lane
            .entry(index)
            .is_some_and(|entry| entry.task() == 0)
    }

    /// Frees an entry whose task has moved on, as when a client has freed a task that ended without a daemon.
    fn reclaim(&self, index: usize) -> bool {
        self.lane
            .entry(index)
            .is_some_and(|entry| !self.segment.waits(entry) && entry.clear(entry.task()))
    }
}
