//! The lane of an attach record as its process uses it: commands out of it, events into it, and a sleep in between.
//!
//! Events are hints, the state words of tasks are the truth: who finds that it has missed some ([`LaneEvents::take_missed`]) looks at the words of
//! all tasks that it waits for, and repeats the commands that were not answered.
//!
//! Tested in `segment/tests/lanes.rs`; modelled in `shm/tests/loom_lane.rs`.

use core::cell::Cell;
use core::marker::PhantomData;
use core::time::Duration;

use crate::doorbell::Doorbell;
use crate::lane::{Command, Consumer, Event, Missed, Producer, Ring};
use crate::segment::attachment::Attachment;

/// The ring of commands has no room: the core has not come to those in it yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the lane to the daemon is full: wait until it has taken some commands (is qtfd running?)")]
pub struct Full;

/// The lane of this attachment is in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the lane of this attachment is open already: use that one, or open another attachment")]
pub struct LaneTaken;

/// Both directions. One thread uses it, or two its halves.
#[derive(Debug)]
pub struct OwnedLane<'s> {
    /// What is asked of the core.
    pub commands: LaneCommands<'s>,
    /// What the core tells.
    pub events: LaneEvents<'s>,
}

/// The half that asks.
#[derive(Debug)]
pub struct LaneCommands<'s> {
    attachment: &'s Attachment,
    ring: Producer<'s>,
    /// One thread at a time.
    one_thread: PhantomData<Cell<()>>,
}

/// The half that is told.
#[derive(Debug)]
pub struct LaneEvents<'s> {
    attachment: &'s Attachment,
    /// Looked at only.
    commands: Ring<'s>,
    ring: Consumer<'s>,
    missed: Missed<'s>,
    bell: Doorbell<'s>,
    /// Counts that made no sense: what was in the ring is lost.
    has_lost: Cell<bool>,
}

impl Attachment {
    /// Opens the lane of this attach record, empty. There is one as long as the attachment lives.
    ///
    /// # Errors
    /// It is open already.
    pub fn open_lane(&self) -> Result<OwnedLane<'_>, LaneTaken> {
        let parts = &self.view().parts;
        let position = self.index().position();
        let (Some(record), Some(lane)) = (parts.attaches.get(position), parts.lanes.get(position))
        else {
            return Err(LaneTaken);
        };
        if !self.take_lane() {
            return Err(LaneTaken);
        }
        lane.begin();
        record.open_lane(self.record_state());
        // The core looks which lanes there are.
        self.note_local_change();
        Ok(OwnedLane {
            commands: LaneCommands {
                attachment: self,
                ring: lane.command_ring().producer(),
                one_thread: PhantomData,
            },
            events: LaneEvents {
                attachment: self,
                commands: lane.command_ring(),
                ring: lane.event_ring().consumer(),
                missed: lane.missed(),
                bell: lane.bell(),
                has_lost: Cell::new(false),
            },
        })
    }
}

impl Attachment {
    /// Wakes the thread of this process that sleeps at the lane of this attachment, or is about to: for another thread that has something for it
    /// to do.
    pub fn wake_own_lane(&self) {
        let lane = self.view().parts.lanes.get(self.index().position());
        if let Some(lane) = lane {
            lane.bell().ring();
        }
    }
}

impl OwnedLane<'_> {
    /// As [`LaneCommands::put`].
    ///
    /// # Errors
    /// There is no room.
    pub fn put(&self, number: u32, command: Command) -> Result<(), Full> {
        self.commands.put(number, command)
    }

    /// As [`LaneCommands::ring`].
    pub fn ring(&self) {
        self.commands.ring();
    }

    /// As [`LaneEvents::next`].
    #[must_use]
    pub fn next(&self) -> Option<Event> {
        self.events.next()
    }

    /// As [`LaneEvents::take_missed`].
    #[must_use]
    pub fn take_missed(&self) -> bool {
        self.events.take_missed()
    }

    /// As [`LaneEvents::sleep_unless`]. It also ends when there is room for commands again, if there was none before.
    pub fn sleep(&self, at_most: Duration) {
        let was_full = !self.commands.has_room();
        self.events
            .sleep_unless(at_most, || was_full && self.commands.has_room());
    }
}

impl LaneCommands<'_> {
    /// Puts a command in. Its answer repeats the number, which is the caller's to choose. The core sees it in its next turn; one that may sleep is to be
    /// rung ([`LaneCommands::ring`]) after the last of several commands.
    ///
    /// # Errors
    /// There is no room: the core rings the owner when there is, should it sleep.
    pub fn put(&self, number: u32, command: Command) -> Result<(), Full> {
        if self.ring.put(command.encode(number)) {
            return Ok(());
        }
        if self.ring.room().is_err() {
            // Somebody who is neither of us has written the counts, or the core's last turn for the owner before ended after the lane was opened.
            // What was in the ring is not answered, and is repeated as after a restart of the core.
            self.ring.begin();
            if self.ring.put(command.encode(number)) {
                return Ok(());
            }
        }
        Err(Full)
    }

    /// The core has acted upon all that was asked of it.
    #[must_use]
    pub fn are_taken(&self) -> bool {
        self.ring.is_empty()
    }

    /// There is room for a command.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.ring.room().is_ok_and(|room| room > 0)
    }

    /// Wakes the daemon if it sleeps; while it is awake this is one look at a word.
    pub fn ring(&self) {
        self.attachment.ring();
    }
}

impl LaneEvents<'_> {
    /// Takes the next event. Entries that say nothing that is known are passed over.
    #[must_use]
    pub fn next(&self) -> Option<Event> {
        let waiting = match self.ring.waiting() {
            Ok(waiting) => waiting,
            Err(_) => {
                self.ring.begin();
                self.has_lost.set(true);
                return None;
            }
        };
        for _ in 0..waiting {
            let words = self.ring.first().ok().flatten()?;
            self.ring.take();
            if let Some(event) = Event::decode(words) {
                return Some(event);
            }
        }
        if cfg!(qtf_mutant = "sim_missed_is_taken_before_the_look") {
            let _stood = self.missed.take();
        }
        None
    }

    /// Events were missed since the last call: the state words of all tasks that the caller waits for are to be looked at now, and commands that
    /// were not answered to be repeated. To be asked when [`LaneEvents::next`] has no more.
    #[must_use]
    pub fn take_missed(&self) -> bool {
        let has_lost = self.has_lost.take();
        self.missed.take() || has_lost
    }

    /// Sleeps until somebody rings: the core when it has put an event in, has taken commands out of a full ring or was not able to tell something.
    /// At most for so long, and perhaps for no reason. Does not sleep when an event waits, something was missed, or `has_work` (asked when
    /// ringers see that this side sleeps) says that there is something else to do.
    pub fn sleep_unless(&self, at_most: Duration, has_work: impl FnOnce() -> bool) {
        let (put, taken) = self.commands.counts();
        if put != taken {
            // The core leaves commands whose answers have no room, and sleeps; by now there may be some.
            self.attachment.ring();
        }
        self.bell.goes_to_sleep();
        let seen = self.bell.rings();
        if seen.is_asleep() && !self.has_news() && !has_work() {
            self.bell.wait(seen, at_most);
        }
        self.bell.wakes_up();
    }

    /// Something is there to be taken.
    #[must_use]
    pub fn has_news(&self) -> bool {
        self.has_lost.get() || self.missed.stands() || self.ring.waiting() != Ok(0)
    }
}
