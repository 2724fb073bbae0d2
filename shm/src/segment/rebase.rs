//! Moving the segment's origin, so that 48-bit stamps do not run out.
//!
//! A stamp ends 833 days after the origin. A daemon that starts after 625 of them and is alone moves the origin forward and takes
//! as much off every stamp in the segment: order, and times that still lie ahead, stay as they are. A time that lay more than 208
//! days back is then at the origin; stamps of the order that did are packed closely at the beginning, in their order. If the stamps did run out,
//! time has stood still since (see [`Now::has_reached`]), and goes on from there.
//!
//! # Steps
//! What is to be done is written down first (the mark, in the control region, with a checksum), its step last. Each step may be cut off
//! after any store and begun anew, and ends with the same words:
//!
//! | step | what | why it may be begun anew |
//! |---|---|---|
//! | gather | every stamp that would become negative is raised to what is taken off; those of the order are numbered from above, highest first | it is a fixed point of itself, and at no moment out of order |
//! | shift | every stamp that is at least what is taken off is lowered by it; timers are emptied | what was lowered is below it, since more than half of all stamps is taken off |
//! | finish | header with the new origin, sum of all moves, mark cleared | fixed values |
//!
//! While the mark is there nobody attaches ([`crate::segment::OpenError::Rebuilding`]), and the next process that is alone goes on from its step. A mark
//! whose checksum is wrong is damage: such a segment is put aside (`look.rs`).
//!
//! Stamps in the journal are never moved: the sum of all moves is added to those of the segment (`Segment::journal_stamp`).
//! Tested in `segment/tests/rebase.rs`, with a kill after each store.

use crate::layout::control::ControlLayout;
use crate::segment::Segment;
use crate::segment::header::Front;
use crate::sync::{AtomicU64, Ordering};
use crate::task::slot::TaskSlot;
use crate::task::state::Phase;
use crate::time::{Now, REBASE_FROM, STAMP_MAX, STAMP_SHIFT, STAMPS_KEPT, since_origin};
use crate::worker::WorkerPhase;

/// Stamps at the beginning that are for old places in the order: one for each slot that there can be, and as many for kills in between.
pub const ANCIENT_STAMPS: u64 = 1 << 25;
/// A key whose end lay beyond the last stamp is known for so long after the move, in stamps: 30 days. The journal is told the same.
const KEY_GRACE: u64 = (30 * 86_400 * 1_000_000_000) >> STAMP_SHIFT;

/// Places of the mark in [`ControlLayout::reserved`], which begin 128 bytes behind the words before.
mod place {
    pub(super) const STEP: usize = 14;
    pub(super) const TAKEN: usize = 15;
    pub(super) const ORIGIN: usize = 16;
    pub(super) const CREATED: usize = 17;
    pub(super) const MOVED: usize = 18;
    pub(super) const CHECK: usize = 19;
    pub(super) const MOVED_SO_FAR: usize = 20;
}

/// How far it has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Gather = 1,
    Shift = 2,
    Finish = 3,
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mark {
    step: Step,
    /// Taken off each stamp: more than half of all.
    taken: u64,
    /// The new origin.
    origin_ns: u64,
    /// The creation, by the new origin.
    created_ns: u64,
    /// Sum of all moves, this one included.
    moved: u64,
}

/// The mark says what no daemon writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct DamagedMark;

impl Mark {
    /// The mark of a move that was begun; `None` when there is none.
    pub(super) fn read(control: &ControlLayout) -> Result<Option<Self>, DamagedMark> {
        // ORDERING: [segment.rebase] Acquire: what is to be done was written before the step.
        let step = match control.reserved[place::STEP].load(Ordering::Acquire) {
            0 => return Ok(None),
            1 => Step::Gather,
            2 => Step::Shift,
            3 => Step::Finish,
            _ => return Err(DamagedMark),
        };
        // ORDERING: published by the step.
        let read = |place: usize| control.reserved[place].load(Ordering::Relaxed);
        let mark = Self {
            step,
            taken: read(place::TAKEN),
            origin_ns: read(place::ORIGIN),
            created_ns: read(place::CREATED),
            moved: read(place::MOVED),
        };
        let is_possible = mark.taken > STAMP_MAX / 2 && mark.taken <= STAMP_MAX - STAMPS_KEPT;
        if is_possible && read(place::CHECK) == mark.check() {
            Ok(Some(mark))
        } else {
            Err(DamagedMark)
        }
    }

    fn check(&self) -> u64 {
        let words = [self.taken, self.origin_ns, self.created_ns, self.moved];
        let crc = words.iter().fold(0, |crc, word| {
            crc32c::crc32c_append(crc, &word.to_le_bytes())
        });
        u64::from(crc)
    }

    fn write(&self, control: &ControlLayout) {
        // ORDERING: published by the step.
        let put = |place: usize, value| control.reserved[place].store(value, Ordering::Relaxed);
        put(place::TAKEN, self.taken);
        put(place::ORIGIN, self.origin_ns);
        put(place::CREATED, self.created_ns);
        put(place::MOVED, self.moved);
        put(place::CHECK, self.check());
        set_step(control, self.step as u64);
    }
}

fn set_step(control: &ControlLayout, step: u64) {
    // ORDERING: [segment.rebase] Release: whoever sees the step sees all that was done before it.
    control.reserved[place::STEP].store(step, Ordering::Release);
}

/// Sum of all moves of the origin, in stamps.
pub(super) fn moved_so_far(control: &ControlLayout) -> u64 {
    // ORDERING: written while nobody else is attached.
    control.reserved[place::MOVED_SO_FAR].load(Ordering::Relaxed)
}

/// Writes the sum of all moves, of a new segment.
pub(super) fn set_moved_so_far(control: &ControlLayout, moved: u64) {
    // ORDERING: published by [segment.ready], or by the step of the mark.
    control.reserved[place::MOVED_SO_FAR].store(moved, Ordering::Relaxed);
}

impl Segment {
    /// Moves the origin if that is due, or ends a move that was cut off. Only while this process is alone; the caches must be
    /// built anew afterwards. `clock_ns` is a reading of the monotonic clock.
    pub(super) fn rebase_if_due(&mut self, clock_ns: u64) {
        let control = self.view.parts.control();
        let mut mark = match Mark::read(control) {
            Ok(Some(begun)) => begun,
            Ok(None) => {
                let now = since_origin(clock_ns, self.view.header.origin_ns);
                if now.stamp() < REBASE_FROM || cfg!(qtf_mutant = "sim_origin_stays") {
                    return;
                }
                let mark = self.mark_of(now);
                mark.write(control);
                mark
            }
            // `look` refuses it; a local process that rescues leaves it to a daemon.
            Err(DamagedMark) => return,
        };
        if mark.step == Step::Gather {
            self.gather(mark.taken);
            mark.step = Step::Shift;
            set_step(control, mark.step as u64);
        }
        if mark.step == Step::Shift {
            self.shift(mark.taken);
            mark.step = Step::Finish;
            set_step(control, mark.step as u64);
        }
        self.view.header.origin_ns = mark.origin_ns;
        self.view.header.created_ns = mark.created_ns;
        if let Some(front) = Front::of(std::sync::Arc::clone(&self.view.parts.mapping)) {
            // One copy after the other: a kill leaves one that is whole.
            front.write(&self.view.header, &self.view.parts.geometry);
        }
        set_moved_so_far(self.view.parts.control(), mark.moved);
        set_step(self.view.parts.control(), 0);
    }

    /// A move of the origin was begun and not ended, or its mark is damaged.
    pub(super) fn is_half_rebased(&self) -> bool {
        Mark::read(self.view.parts.control()) != Ok(None)
    }

    /// The same, and it can be ended: the mark is whole.
    pub(super) fn has_move_to_end(&self) -> bool {
        matches!(Mark::read(self.view.parts.control()), Ok(Some(_)))
    }

    fn mark_of(&self, now: Now) -> Mark {
        let taken = now.stamp() - STAMPS_KEPT;
        // What lies beyond the last stamp did not happen: time stood still.
        let stood_still = now.ns.saturating_sub(Now::from_stamp(now.stamp()).ns + 255);
        let ns = (taken << STAMP_SHIFT).wrapping_add(stood_still);
        Mark {
            step: Step::Gather,
            taken,
            origin_ns: self.view.header.origin_ns.wrapping_add(ns),
            created_ns: self.view.header.created_ns.saturating_sub(ns),
            moved: self.stamps_moved().saturating_add(taken),
        }
    }

    /// Raises what would become negative.
    fn gather(&self, taken: u64) {
        self.gather_order(taken);
        for task in self.tasks_in_use() {
            raise(&task.phase_time, PHASE_TIME, taken);
            // 0 is no such time.
            if task.started() != 0 {
                raise(&task.started, STARTED, taken + 1);
            }
        }
        // 0 is never, or no such time; the first moment after the move is 1.
        self.each_time(&|word, _| {
            // ORDERING: nobody else writes.
            if word.load(Ordering::Relaxed) != 0 {
                raise(word, PLAIN, taken + 1);
            }
        });
    }

    /// Numbers the old places in the order from above. Highest first: so at each moment what was moved is behind what was not, and whoever begins
    /// anew after a kill finds them in the same order.
    fn gather_order(&self, taken: u64) {
        let end = taken + ANCIENT_STAMPS;
        let mut ancient: Vec<(u64, &TaskSlot)> = self
            .tasks_in_use()
            .map(|task| (task.order_stamp(), task))
            .filter(|(stamp, _)| *stamp < end)
            .collect();
        ancient.sort_unstable_by_key(|(stamp, _)| core::cmp::Reverse(*stamp));
        let (mut place, mut before) = (end, None);
        for (stamp, task) in ancient {
            if before != Some(stamp) {
                place = place.saturating_sub(1).max(taken);
                before = Some(stamp);
            }
            set(&task.order, ORDER, place);
        }
    }

    /// Lowers everything.
    fn shift(&self, taken: u64) {
        for task in self.tasks_in_use() {
            lower(&task.order, ORDER, taken);
            lower(&task.phase_time, PHASE_TIME, taken);
            lower(&task.started, STARTED, taken);
        }
        self.each_time(&|word, time| {
            // ORDERING: nobody else writes.
            let is_beyond = word.load(Ordering::Relaxed) >= STAMP_MAX;
            if time == Time::KeyEnd && is_beyond {
                // When it ends was not known any more: rather late than early.
                let end = (STAMP_MAX - taken).saturating_add(KEY_GRACE);
                set(word, PLAIN, end.min(taken - 1));
            } else {
                lower(word, PLAIN, taken);
            }
        });
        // What is in them is told by the slots; see `survey.rs`.
        self.view.parts.empty_timers();
    }

    /// Slots that hold something.
    fn tasks_in_use(&self) -> impl Iterator<Item = &TaskSlot> {
        let end = self.high_water() as usize;
        let slots = self.view.parts.tasks.iter().take(end);
        slots.filter(|task| task.state().phase() != Phase::Free)
    }

    /// Every word that is a stamp and nothing else.
    fn each_time(&self, each: &dyn Fn(&AtomicU64, Time)) {
        let parts = &self.view.parts;
        each(&parts.control().daemon_beat, Time::Other);
        for record in parts.attaches.iter() {
            each(&record.heartbeat, Time::Other);
        }
        for worker in parts.workers.iter() {
            if worker.state().phase() == WorkerPhase::Free {
                continue;
            }
            for word in [
                &worker.lease_end,
                &worker.heartbeat,
                &worker.registered,
                &worker.reconciled,
            ] {
                each(word, Time::Other);
            }
            if let Some(word) = worker.leased_until_word() {
                each(word, Time::Other);
            }
        }
        // Ends have been moved before; what began and did not end is taken back later.
        for word in self.lane_stamps() {
            each(word, Time::Other);
        }
        for word in self.stage_stamps() {
            each(word, Time::Other);
        }
        for word in self.history_stamps() {
            each(word, Time::Other);
        }
        for client in parts.clients.iter().filter(|client| client.is_used()) {
            each(&client.registered, Time::Other);
            each(&client.heartbeat, Time::Other);
        }
        self.view
            .keys()
            .each_expiry(|word| each(word, Time::KeyEnd));
        for number in 0..self.high_water() {
            if let Some(side) = self.side_words(number) {
                each(&side[SIDE_FINISH_BY], Time::Other);
                each(&side[SIDE_KEY_EXPIRY], Time::KeyEnd);
            }
        }
    }

    /// The first half of a task's side record, if it is its own.
    fn side_words(&self, number: u32) -> Option<&[AtomicU64; 8]> {
        let slot = self.slot(number)?;
        let task = self.task(slot);
        let (id, unit) = (task.state().id(slot)?, task.side_unit()?);
        let owner = crate::segment::free::chunk_owner(id);
        let is_own = self.chunk_state(unit) == Some(crate::arena::ChunkState::Used(owner));
        is_own.then(|| self.view.parts.unit_words(unit))?
    }
}

/// Words of [`crate::task::side::SideLayout`].
const SIDE_FINISH_BY: usize = 4;
const SIDE_KEY_EXPIRY: usize = 5;

/// What a time is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Time {
    KeyEnd,
    Other,
}

/// Where in a word the stamp lies.
#[derive(Debug, Clone, Copy)]
struct Field {
    shift: u32,
    /// Other bits are other things; a plain word is nothing but a stamp.
    mask: u64,
}

const ORDER: Field = Field {
    shift: 8,
    mask: STAMP_MAX,
};
const PHASE_TIME: Field = Field {
    shift: 16,
    mask: STAMP_MAX,
};
const STARTED: Field = PHASE_TIME;
const PLAIN: Field = Field {
    shift: 0,
    mask: u64::MAX,
};

/// Stamps above the last one count as the last one.
fn get(word: &AtomicU64, field: Field) -> u64 {
    // ORDERING: nobody else writes.
    ((word.load(Ordering::Relaxed) >> field.shift) & field.mask).min(STAMP_MAX)
}

fn set(word: &AtomicU64, field: Field, stamp: u64) {
    // ORDERING: nobody else writes.
    let others = word.load(Ordering::Relaxed) & !(field.mask << field.shift);
    // ORDERING: [segment.rebase] Release: after a kill the words are as if the stores had been made in this order.
    word.store(others | (stamp << field.shift), Ordering::Release);
}

fn raise(word: &AtomicU64, field: Field, least: u64) {
    if get(word, field) < least {
        set(word, field, least);
    }
}

fn lower(word: &AtomicU64, field: Field, taken: u64) {
    let stamp = get(word, field);
    if stamp >= taken {
        set(word, field, stamp - taken);
    }
}
