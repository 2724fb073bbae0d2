//! A local process that takes tasks directly: no daemon hands them out, none need live.
//!
//! Order of a take, as the Scheduler's: READY -> ASSIGNED (the take linearizes here), leaf removed, worker counted. What is done with a task
//! that was taken stands in `taken.rs`.
//!
//! Invariants:
//! - As long as the process lives, nobody takes an attempt away from it: a stop is asked for by a flag, and the worker obeys. When it
//!   is dead, its tasks go back to the queue by the engine (`attach_gone`), or by a repairer while no daemon lives.
//! - Of a slot it changes the state word and nothing else.
//!
//! A local worker has no lease and no credits: its process's life is told by the kernel, and nothing is dispatched to it. Tested in
//! `segment/tests/attachment.rs`, `segment/tests/completion.rs` and `segment/tests/torture`.

use core::cell::Cell;

use crate::counters::Counter;
use crate::id::{SlotIndex, WorkerId, WorkerIndex};
use crate::kind_set::KindSet;
use crate::segment::Segment;
use crate::segment::attachment::Attachment;
use crate::segment::own_hand_over::{EntryIndex, OwnLane};
use crate::segment::taken::Taken;
use crate::task::slot::TaskOptions;
use crate::task::state::{Event, FLAG_CANCEL, Phase, StateWord};
use crate::tree::Key;
use crate::worker::{WorkerEvent, WorkerFields, WorkerState, WorkerWriter};

/// LIMIT: heads of the queue that others took first, in one take.
const TAKES_TRIED_MAX: u32 = 64;
/// LIMIT: entries behind a head that this worker cannot run which one take looks at.
pub(super) const LOOKED_BEYOND_MAX: usize = 64;
/// LIMIT: flags set on one task while it ends, or changes of a worker's word by the daemon.
pub(super) const APPLY_TRIES_MAX: u32 = 64;

/// What a local worker says of itself.
#[derive(Debug, Clone, Copy)]
pub struct LocalWorkerSpec<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its machine.
    pub host: &'a str,
    /// The kinds that it can run, by the table of kinds.
    pub kinds: KindSet,
    /// Tasks it takes at most at once.
    pub capacity: u16,
    /// A task that took more workers down than this is left to the daemon, which buries it.
    pub losses_max: u8,
}

/// No slot for a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum JoinError {
    /// All are in use.
    #[error(
        "all {slots} worker slots of the segment are in use: end some workers, or make the segment larger"
    )]
    Full {
        /// How many there are.
        slots: u32,
    },
    /// The arena has no room for the lane of a worker.
    #[error(
        "no room in the arena for a local worker's lane of 4 KiB: finish or forget tasks, or make the segment larger"
    )]
    NoRoom,
}

/// A worker slot of this process.
#[derive(Debug)]
pub struct LocalWorker<'a> {
    pub(super) attachment: &'a Attachment,
    pub(super) index: WorkerIndex,
    incarnation: u32,
    kinds: KindSet,
    losses_max: u8,
    pub(super) lane: OwnLane<'a>,
    /// Changes of READY when a scrub last was made because the root was empty.
    scrubbed_at: Cell<Option<u64>>,
}

/// What became of the head of the queue.
enum Head {
    Taken(SlotIndex, StateWord),
    /// It moved on, or was cleared away.
    Gone,
    /// This worker cannot run it, or must not.
    NotOurs,
}

impl Attachment {
    /// Joins as a worker that takes tasks directly.
    ///
    /// # Errors
    /// All worker slots are in use, or the arena is full.
    pub fn join_as_worker(&self, spec: &LocalWorkerSpec<'_>) -> Result<LocalWorker<'_>, JoinError> {
        let lane = OwnLane::new(self.segment()).ok_or(JoinError::NoRoom)?;
        let Some((index, joined)) = self.fill_worker_slot(spec, &lane) else {
            lane.give_back();
            let slots = self.geometry().workers();
            return Err(JoinError::Full { slots });
        };
        self.counters().add(Counter::WorkerJoined, 1);
        // What only this worker can run is parked, perhaps.
        self.note_local_change();
        Ok(LocalWorker {
            attachment: self,
            index,
            incarnation: joined.incarnation(),
            kinds: spec.kinds,
            losses_max: spec.losses_max,
            lane,
            scrubbed_at: Cell::new(None),
        })
    }

    /// Takes a free worker slot and opens it.
    fn fill_worker_slot(
        &self,
        spec: &LocalWorkerSpec<'_>,
        lane: &OwnLane<'_>,
    ) -> Option<(WorkerIndex, WorkerState)> {
        let own = crate::segment::ProcessIdentity::own();
        let slots = self.geometry().workers();
        for index in (0..u16::MAX).map_while(|number| WorkerIndex::new_checked(number, slots)) {
            let slot = WorkerWriter::of(self.worker(index));
            let join = WorkerEvent::Join {
                attach: self.index(),
            };
            let Ok(joining) = slot.apply(slot.state(), join) else {
                continue;
            };
            slot.fill(&WorkerFields {
                name: spec.name,
                host: spec.host,
                pid: own.pid,
                uid: nix::unistd::geteuid().as_raw(),
                token: 0,
                kinds: spec.kinds,
                registered: self.now().stamp(),
            });
            slot.set_local(self.index().get());
            slot.set_lane(lane.word());
            let capacity = spec.capacity;
            if slot.apply(joining, WorkerEvent::Open { capacity }).is_err() {
                // A daemon that was starting has taken the slot back; we had nothing in it.
                continue;
            }
            return Some((index, joining));
        }
        None
    }
}

impl LocalWorker<'_> {
    /// The worker's id.
    #[must_use]
    pub const fn id(&self) -> WorkerId {
        WorkerId::new(self.index, self.incarnation)
    }

    /// The worker's word.
    #[must_use]
    pub fn state(&self) -> WorkerState {
        self.segment().worker(self.index).state()
    }

    /// Takes the best task that this worker can run; `None` if there is none, or no room for it. When the best one of all is
    /// not for this worker, some behind it are looked at.
    ///
    /// There is also no room while the lane is full of ends that wait for a daemon ([`LocalWorker::is_full`]).
    #[must_use]
    pub fn take(&self) -> Option<Taken<'_>> {
        let entry = self.lane.reserve()?;
        let taken = self.take_into(entry);
        if taken.is_none() {
            self.lane.let_go(entry);
        }
        taken
    }

    /// So many of its ends wait for a daemon that it can take no more: until one starts, or the tasks are freed.
    #[must_use]
    pub fn is_full(&self) -> bool {
        let entry = self.lane.reserve();
        if let Some(entry) = entry {
            self.lane.let_go(entry);
        }
        entry.is_none()
    }

    fn take_into(&self, entry: EntryIndex) -> Option<Taken<'_>> {
        for _ in 0..TAKES_TRIED_MAX {
            if !self.state().has_room() {
                return None;
            }
            let (leaf, key) = self.locate()?;
            match self.try_take(leaf, key) {
                Head::Taken(slot, state) => return Taken::new(self, slot, state, entry),
                Head::Gone => {}
                Head::NotOurs => return self.take_beyond(entry),
            }
        }
        None
    }

    /// The head of the queue. An empty root alone does not mean that there is no work: a process that was killed on its way
    /// up the tree may hide what it, or a neighbour after it, has put there.
    fn locate(&self) -> Option<(u32, Key)> {
        let segment = self.segment();
        let head = segment.ready().locate();
        if head.is_some() || segment.counters().gauge(Phase::Ready) == 0 {
            return head;
        }
        // The gauge itself is wrong after a kill; nobody shall scrub again and again for that.
        let traffic = segment.counters().traffic()[Phase::Ready as usize];
        if self.scrubbed_at.replace(Some(traffic)) == Some(traffic) {
            return None;
        }
        segment.ready().scrub();
        segment.ready().locate()
    }

    fn take_beyond(&self, entry: EntryIndex) -> Option<Taken<'_>> {
        let entries = self.segment().ready().entries_in_order();
        for (leaf, key) in entries.take(LOOKED_BEYOND_MAX) {
            if let Head::Taken(slot, state) = self.try_take(leaf, key) {
                return Taken::new(self, slot, state, entry);
            }
        }
        None
    }

    fn try_take(&self, leaf: u32, key: Key) -> Head {
        let segment = self.segment();
        segment.remembering(|| self.try_take_remembering(leaf, key))
    }

    fn try_take_remembering(&self, leaf: u32, key: Key) -> Head {
        let segment = self.segment();
        let Some(slot) = segment.slot(leaf) else {
            return Head::NotOurs;
        };
        let task = segment.task(slot);
        let state = task.state_in_order();
        if state.phase() != Phase::Ready || task.key_of(state) != key {
            // A leaf that its slot has moved on from; a READY slot gets its own back.
            segment.unindex_ready_key(slot, key);
            segment.index_ready(slot, state);
            segment.counters().add(Counter::LeafStale, 1);
            return Head::Gone;
        }
        if !self.may_take(slot, state, key) {
            return Head::NotOurs;
        }
        let event = Event::Assign { worker: self.index };
        match segment.apply(slot, state, event) {
            Ok(assigned) => {
                segment.unindex_ready_key(slot, key);
                let key_now = task.key();
                if key_now != key {
                    // Its priority was changed between our look and the take.
                    segment.unindex_ready_key(slot, key_now);
                }
                self.count(WorkerEvent::Take);
                Head::Taken(slot, assigned)
            }
            Err(_) => Head::Gone,
        }
    }

    /// The task in a slot, which has this key, is ready and one that this worker can run, and may.
    pub(super) fn may_take(&self, slot: SlotIndex, state: StateWord, key: Key) -> bool {
        let segment = self.segment();
        let task = segment.task(slot);
        let can_run = task.kind().is_some_and(|kind| self.kinds.contains(kind));
        // Its attempt would have to be in the journal before it begins, or a cold start would run it again: the daemon's.
        let is_the_daemons = task
            .options()
            .has(TaskOptions::AT_MOST_ONCE.with(TaskOptions::JOURNAL));
        // Whoever cancelled it was answered; the daemon ends it.
        let is_cancelled = state.has_flag(FLAG_CANCEL);
        // One whose fence is used up the daemon buries.
        let has_attempts = state.after(Event::Assign { worker: self.index }).is_ok();
        state.phase() == Phase::Ready
            && task.key_of(state) == key
            && can_run
            && has_attempts
            && !is_the_daemons
            && !is_cancelled
            && !segment.is_spent(slot, self.losses_max)
    }

    /// Changes the worker's word; a change that the table refuses (a full or lost worker) is left out.
    pub(super) fn count(&self, event: WorkerEvent) {
        let slot = self.segment().worker(self.index);
        for _ in 0..APPLY_TRIES_MAX {
            let state = slot.state();
            if state.incarnation() != self.incarnation || slot.apply(state, event).is_ok() {
                return;
            }
        }
    }

    pub(super) const fn segment(&self) -> &Segment {
        self.attachment.segment()
    }
}

impl Drop for LocalWorker<'_> {
    fn drop(&mut self) {
        let slot = self.segment().worker(self.index);
        let state = slot.state();
        if state.incarnation() != self.incarnation || !self.attachment.is_own_process() {
            return;
        }
        let has_waiting = self.segment().has_waiting_end(self.index);
        if !has_waiting && slot.apply(state, WorkerEvent::Leave).is_ok() {
            self.segment().counters().add(Counter::WorkerLeft, 1);
            self.lane.give_back();
        } else {
            // What it ended is not judged yet, or waits in the lane: slot and record stay until the process is gone and a repairer has seen that.
            self.attachment.keep_record();
            self.count(WorkerEvent::Drain);
        }
        self.segment().note_local_change();
    }
}
