//! The lanes of attach records as the core uses them, and as they look from outside.
//!
//! The core takes a command out when it has acted upon it, so one that was killed in between leaves it for its successor: commands can be
//! done twice. What the core has to tell it puts in if there is room, and else notes that something was missed.
//!
//! Invariant: nothing that an owner writes is believed. Counts that make no sense leave the lane as it is, and are counted once an incarnation by
//! whoever takes commands.
//!
//! Tested in `segment/tests/lanes.rs`; the rings are modelled in `shm/tests/loom_lane.rs`.

use crate::doorbell::Doorbell;
use crate::id::AttachIndex;
use crate::lane::{Command, Consumer, Event, Missed, Nonsense, Producer};
use crate::layout::lane::LaneLayout;
use crate::segment::{Segment, SegmentView};
use crate::task::writer::PlmRight;

/// An open lane on the core's side.
#[derive(Debug)]
pub struct CoreLane<'s> {
    attach: AttachIndex,
    incarnation: u32,
    commands: Consumer<'s>,
    events: Producer<'s>,
    missed: Missed<'s>,
    bell: Doorbell<'s>,
}

impl Segment {
    /// The lane of an attach record, if its process has opened it.
    #[must_use]
    pub fn lane(&self, _right: PlmRight, attach: AttachIndex) -> Option<CoreLane<'_>> {
        let (lane, incarnation) = self.view.open_lane_at(attach)?;
        Some(CoreLane {
            attach,
            incarnation,
            commands: lane.command_ring().consumer(),
            events: lane.event_ring().producer(),
            missed: lane.missed(),
            bell: lane.bell(),
        })
    }

    /// Wakes the owner of a lane if it sleeps, or is about to. Returns whether it did.
    pub fn ring_lane(&self, attach: AttachIndex) -> bool {
        let lane = self.view.parts.lanes.get(attach.position());
        lane.is_some_and(|lane| lane.bell().ring())
    }

    /// Commands may wait in the lane of an attach record: two loads, of which one is of a word that nobody else writes.
    #[inline]
    #[must_use]
    pub fn has_commands(&self, attach: AttachIndex) -> bool {
        let lane = self.view.parts.lanes.get(attach.position());
        lane.is_some_and(|lane| {
            let (put, taken) = lane.command_ring().counts();
            put != taken
        })
    }
}

#[cfg(any(test, feature = "kill-points"))]
impl Segment {
    /// Writes into the count of commands of a lane, as a mad process does that is not its owner.
    pub fn scribble_on_lane(&self, attach: AttachIndex, count: u64) {
        if let Some(lane) = self.view.parts.lanes.get(attach.position()) {
            // ORDERING: whoever does this orders nothing.
            lane.commands_in
                .store(count, crate::sync::Ordering::Relaxed);
        }
    }
}

#[cfg(any(test, feature = "kill-points"))]
impl Segment {
    /// Writes such words into the commands of a lane, and says that so many wait.
    pub fn scribble_commands(
        &self,
        attach: AttachIndex,
        waiting: u64,
        mut word: impl FnMut() -> u64,
    ) {
        let Some(lane) = self.view.parts.lanes.get(attach.position()) else {
            return;
        };
        for place in &lane.commands {
            // ORDERING: as above.
            place.store(word(), crate::sync::Ordering::Relaxed);
        }
        let (_, taken) = lane.command_ring().counts();
        self.scribble_on_lane(attach, taken.wrapping_add(waiting));
    }
}

impl CoreLane<'_> {
    /// The attach record that it belongs to.
    #[must_use]
    pub const fn attach(&self) -> AttachIndex {
        self.attach
    }

    /// The incarnation of the attach record for which it is open.
    #[must_use]
    pub const fn incarnation(&self) -> u32 {
        self.incarnation
    }

    /// The oldest command with its number, which stays in the lane until [`CoreLane::command_done`]. The inner `None` is an entry that says nothing
    /// that is known.
    ///
    /// # Errors
    /// The counts of the ring make no sense.
    pub fn next_command(&self) -> Result<Option<(u32, Option<Command>)>, Nonsense> {
        Ok(self.commands.first()?.map(Command::decode))
    }

    /// The oldest command was acted upon.
    pub fn command_done(&self) {
        self.commands.take();
    }

    /// How many events there is room for; none if the counts make no sense.
    #[must_use]
    pub fn room(&self) -> u64 {
        self.events.room().unwrap_or(0)
    }

    /// Tells the owner something. False if there is no room: then the owner finds that it has missed something.
    pub fn tell(&self, event: Event) -> bool {
        let is_told = self.events.put(event.encode());
        if !is_told {
            self.miss();
        }
        is_told
    }

    /// The owner is to look at the words of all tasks that it waits for, and to repeat what was not answered.
    pub fn miss(&self) {
        self.missed.note();
    }

    /// Wakes the owner if it sleeps, or is about to. Returns whether it did.
    pub fn ring_if_asleep(&self) -> bool {
        self.bell.ring()
    }
}

/// A lane as it looks from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LaneInfo {
    /// Its process has opened it, and is attached.
    pub is_open: bool,
    /// Commands put in and taken out, in all.
    pub commands: (u64, u64),
    /// Events put in and taken out, in all.
    pub events: (u64, u64),
    /// Entries of either ring.
    pub sizes: (u64, u64),
    /// How often an event was missed.
    pub missed: u64,
    /// The owner has not looked since.
    pub is_mark_set: bool,
    /// The owner sleeps.
    pub is_asleep: bool,
}

impl LaneInfo {
    /// Both pairs of counts can be.
    #[must_use]
    pub const fn makes_sense(&self) -> bool {
        self.commands.0.wrapping_sub(self.commands.1) <= self.sizes.0
            && self.events.0.wrapping_sub(self.events.1) <= self.sizes.1
    }
}

impl SegmentView {
    /// The lane of an attach record, open or not; `None` where there is no such record.
    #[must_use]
    pub fn lane_info(&self, attach: AttachIndex) -> Option<LaneInfo> {
        let lane = self.parts.lanes.get(attach.position())?;
        let (commands, events) = (lane.command_ring(), lane.event_ring());
        Some(LaneInfo {
            is_open: self.open_lane_at(attach).is_some(),
            commands: commands.counts(),
            events: events.counts(),
            sizes: (commands.size(), events.size()),
            missed: lane.missed().count(),
            is_mark_set: lane.missed().stands(),
            is_asleep: lane.bell().rings().is_asleep(),
        })
    }

    /// The lane of an attach record with the incarnation for which it is open.
    pub(super) fn open_lane_at(&self, attach: AttachIndex) -> Option<(&LaneLayout, u32)> {
        let record = self.parts.attaches.get(attach.position())?;
        let state = record.state();
        let lane = self.parts.lanes.get(attach.position())?;
        record
            .has_lane(state)
            .then_some((lane, state.incarnation()))
    }
}
