//! The lanes of local processes, on the core's side: which are open, and who is told what. What they ask for is taken in `commands/`.
//!
//! Invariants:
//! - I1: a command that is answered is taken only if its answer has room, beside the answers that wait for the journal. So answers are never dropped.
//! - I2: everything else that is told is a hint; without room its owner finds that it has missed something.
//! - I3: nothing of what is remembered here is needed: a daemon that starts tells each open lane that it has missed something, and its owner asks
//!   again.
//!
//! Who was told something and may sleep is rung by the daemon ([`crate::Engine::pop_lane_to_ring`]). Tested in `engine/tests/rules/lanes.rs` and `lane_workers.rs`.

use std::collections::{BTreeSet, VecDeque};

use qtf_shm::lane::Event;
use qtf_shm::{
    AttachIndex, ClientIndex, CoreLane, Counter, Phase, PlmRight, Segment, StateWord, TaskId,
    TaskOptions, TaskSlot,
};

use crate::Lsn;

/// LIMIT: tasks that one owner watches at once; 32 bytes each.
pub(crate) const WATCHED_MAX: u32 = 4_096;

/// A lane that is open.
#[derive(Debug, Clone, Copy)]
pub(crate) struct OpenLane {
    pub(crate) attach: AttachIndex,
    pub(crate) incarnation: u32,
    pub(crate) client: Option<ClientIndex>,
    /// Answers that wait for the journal.
    pub(crate) owed: u64,
    pub(crate) watched: u32,
    /// Its counts made no sense.
    pub(crate) is_mad: bool,
    /// It is among those to be rung.
    pub(crate) is_to_ring: bool,
}

/// An answer that waits until its record is durable.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Owed {
    pub(crate) lsn: Lsn,
    pub(crate) attach: AttachIndex,
    pub(crate) incarnation: u32,
    pub(crate) event: Event,
}

/// All open lanes, by attach record.
#[derive(Debug, Default)]
pub(crate) struct Lanes {
    /// Count of local changes when the list was made; `None` if it is to be made anew.
    pub(crate) seen_changes: Option<u64>,
    /// The engine has looked once.
    pub(crate) has_looked: bool,
    pub(crate) open: Vec<OpenLane>,
    /// Whose turn it is first.
    pub(crate) next: usize,
    /// In the order of their records.
    pub(crate) owed: VecDeque<Owed>,
    pub(crate) watched: BTreeSet<(TaskId, AttachIndex)>,
    pub(crate) to_ring: Vec<AttachIndex>,
}

impl Lanes {
    /// A process may have come or gone without having said so.
    pub(crate) fn look_again(&mut self) {
        self.seen_changes = None;
    }

    /// Some answer waits for nothing but being given.
    pub(crate) fn owes(&self, durable: Lsn) -> bool {
        self.owed.front().is_some_and(|owed| owed.lsn <= durable)
    }

    /// Takes the next lane whose owner was told something.
    pub(crate) fn pop_to_ring(&mut self) -> Option<AttachIndex> {
        let attach = self.to_ring.pop()?;
        if let Some(lane) = self.of(attach) {
            lane.is_to_ring = false;
        }
        Some(attach)
    }

    /// A task has ended: its client is told, and whoever watches it.
    #[inline]
    pub(crate) fn tell_end(
        &mut self,
        segment: &Segment,
        right: PlmRight,
        (task, phase): (TaskId, Phase),
        client: Option<ClientIndex>,
    ) {
        let event = Event::Ended { task, phase };
        if let Some((attach, incarnation)) = client.and_then(|index| segment.client(index).lane())
            && !cfg!(qtf_mutant = "sim_lane_end_is_not_told")
        {
            self.hint(segment, right, (attach, incarnation), event);
        }
        if self.watched.is_empty() {
            return;
        }
        while let Some(&(_, attach)) = self.watched.range((task, AttachIndex::DAEMON)..).next()
            && self.watched.remove(&(task, attach))
        {
            let Some(lane) = self.of(attach) else {
                continue;
            };
            lane.watched = lane.watched.saturating_sub(1);
            let incarnation = lane.incarnation;
            self.hint(segment, right, (attach, incarnation), event);
        }
    }

    /// A local worker is to stop an attempt: the flags in the word say so as well.
    pub(crate) fn tell_stop(
        &mut self,
        segment: &Segment,
        right: PlmRight,
        (task, held): (TaskId, StateWord),
        attach: AttachIndex,
    ) {
        let event = Event::Stop {
            task,
            fence: held.fence(),
            flags: held.flags(),
        };
        if let Some(lane) = self.of(attach) {
            let incarnation = lane.incarnation;
            self.hint(segment, right, (attach, incarnation), event);
        }
    }

    /// Tells an owner something that it can find out by itself.
    fn hint(
        &mut self,
        segment: &Segment,
        right: PlmRight,
        (attach, incarnation): (AttachIndex, u32),
        event: Event,
    ) {
        let Some(open) = self
            .of(attach)
            .filter(|open| open.incarnation == incarnation)
        else {
            return;
        };
        let Some(lane) = core_lane(segment, right, *open) else {
            return;
        };
        if lane.room() <= open.owed || !lane.tell(event) {
            lane.miss();
            segment.counters().add(Counter::LaneMissed, 1);
        }
        self.note_ring(attach);
    }

    /// The owner of a lane is to be rung, whether it was told something or not.
    pub(crate) fn ring(&mut self, attach: AttachIndex) {
        if self.of(attach).is_some() {
            self.note_ring(attach);
        } else if !self.to_ring.contains(&attach) {
            self.to_ring.push(attach);
        }
    }

    pub(crate) fn note_ring(&mut self, attach: AttachIndex) {
        if let Some(lane) = self.of(attach)
            && !std::mem::replace(&mut lane.is_to_ring, true)
        {
            self.to_ring.push(attach);
        }
    }

    pub(crate) fn of(&mut self, attach: AttachIndex) -> Option<&mut OpenLane> {
        let place = self.open.binary_search_by_key(&attach, |lane| lane.attach);
        self.open.get_mut(place.ok()?)
    }
}

/// The lane itself, if it still is this owner's.
pub(crate) fn core_lane(
    segment: &Segment,
    right: PlmRight,
    open: OpenLane,
) -> Option<CoreLane<'_>> {
    segment
        .lane(right, open.attach)
        .filter(|lane| lane.incarnation() == open.incarnation)
}

/// The client whose lane hears of the end of a task.
#[inline]
pub(crate) fn client_to_tell(task: &TaskSlot) -> Option<ClientIndex> {
    task.options()
        .has(TaskOptions::TELLS_LANE)
        .then(|| task.client())
}
