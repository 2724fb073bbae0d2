//! Gates: how a slot comes to a number of its state word a second time without anybody alive who could take the one for the other.
//!
//! The tenancy in a state word has 27 bits and wraps; the era above it lies in another word. Whoever compares a word that it has read (a take, a
//! repair) compares the tenancy alone, so the same word must not come again while somebody may still compare with it. For that a slot passes two
//! gates on its way round, at tenancy 2^26 and at 0: the slot stands there, free and unused, its bit taken, until the PLM has seen each other
//! attached process outside of a section since. Whoever compares words that it does not own does so within a section
//! ([`Segment::remembering`]); the owner of a word knows that it cannot move on without it, and the PLM lets slots through between its own pieces of work.
//! One gate would do for words that come again; with two, no word of the time before the last gate but one is remembered either, so
//! the order of tenancies that a process remembers is that of time.
//!
//! A slot whose last tenant came out of a journal, with a generation below the segment's first, is raised to that one the same way if there is a gate in
//! between.
//!
//! Order: the era (while the word still says the last number before the gate), then the word. A kill in between costs the slot an era: it
//! stands at the next gate of that number.
//!
//! Sync point `task.gate`, in `sections.rs`. Tested in
//! `segment/tests/gates.rs` and `engine/tests/rules/gates.rs`, modelled in `shm/tests/loom_gates.rs`.

use core::ops::Range;

use crate::counters::Counter;
use crate::id::{AttachIndex, SlotIndex};
use crate::layout::attach::{AttachPhase, AttachState};
use crate::sections::Sections;
use crate::segment::Segment;
use crate::task::state::{Phase, StateWord};
use crate::task::writer::{PlmRight, SlotWriter};

/// LIMIT: slots that are let through together; others wait for the next round.
const WAITING_MAX: usize = 4_096;

/// Slots that stand at gates, and who may still remember one of their words.
#[derive(Debug, Clone, Default)]
pub struct GateWatch {
    waiting: Vec<SlotIndex>,
    within: Vec<(AttachIndex, AttachState)>,
}

impl GateWatch {
    /// How many slots are known to stand at a gate.
    #[must_use]
    pub const fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// The attach records of the processes that keep them there: each was within a section when they were met, and has not been seen outside since.
    pub fn kept_by(&self) -> impl Iterator<Item = AttachIndex> + '_ {
        self.within.iter().map(|&(index, _)| index)
    }
}

impl Segment {
    /// Makes a free slot one that was claimed so often, for tests: millions of claims would take too long.
    ///
    /// # Panics
    /// The slot is in use.
    #[cfg(any(test, feature = "kill-points"))]
    pub fn age_slot(&self, slot: SlotIndex, generation: u64) {
        let task = self.task(slot);
        assert_eq!(task.state().phase(), Phase::Free);
        let aged = StateWord::default().at(generation);
        SlotWriter::of(task).set_era(aged.era());
        let from = task.state();
        assert!(task.exchange(from, aged).is_ok(), "nobody else is here");
        self.raise_high_water(slot);
        self.settle_bit(slot);
    }

    /// Does a piece of work in which a state word is read and then compared with that no process but this one may change meanwhile: within a section, so
    /// that the word does not come again. The PLM itself needs none.
    pub fn remembering<T>(&self, work: impl FnOnce() -> T) -> T {
        if self.attach == AttachIndex::DAEMON {
            work()
        } else {
            self.section(work)
        }
    }

    /// Looks at some slots for those that stand at a gate, and lets those through which were met before, when nobody can remember their words any
    /// more. Returns how many it let through. Not to be called within a piece of work that remembers a state word.
    pub fn watch_gates(&self, right: PlmRight, watch: &mut GateWatch, slots: Range<u32>) -> u32 {
        if watch.waiting.is_empty() {
            // Their bits are taken.
            let at_gates = self
                .allocated_slots(slots)
                .filter(|&slot| self.beyond_gate(self.task(slot).state()).is_some());
            watch.waiting.extend(at_gates.take(WAITING_MAX));
            if watch.waiting.is_empty() {
                return 0;
            }
            watch.within = self.others_within();
        } else {
            watch
                .within
                .retain(|&(index, state)| self.is_still_within(index, state));
        }
        if !watch.within.is_empty() {
            return 0;
        }
        let mut passed = 0;
        for slot in watch.waiting.drain(..) {
            passed += u32::from(self.pass_gate(right, slot));
        }
        self.counters().add(Counter::GatePassed, u64::from(passed));
        passed
    }

    /// A slot that is given back at this generation stands at a gate.
    #[must_use]
    pub const fn is_at_gate(&self, freed: StateWord) -> bool {
        freed.raised_to(self.view.header.gen_base).is_none()
    }

    const fn beyond_gate(&self, state: StateWord) -> Option<StateWord> {
        state.beyond_gate(self.view.header.gen_base)
    }

    fn pass_gate(&self, right: PlmRight, slot: SlotIndex) -> bool {
        let task = self.write_task(right, slot);
        let from = task.state();
        let Some(to) = self.beyond_gate(from) else {
            return false;
        };
        debug_assert!(from.phase() == Phase::Free && to.phase() == Phase::Free);
        if to.era() != from.era() {
            SlotWriter::set_era(task, to.era());
        }
        // Nobody claims a slot at a gate, so it cannot have moved on.
        let passed = task.exchange(from, to).is_ok();
        self.settle_bit(slot);
        passed
    }

    /// Who of the others is within a section.
    fn others_within(&self) -> Vec<(AttachIndex, AttachState)> {
        let count = self.geometry().attaches();
        (1..u16::MAX)
            .map_while(|number| AttachIndex::new_checked(number, count))
            .filter_map(|index| {
                let state = self.view.parts.attaches.get(index.position())?.state();
                self.is_still_within(index, state).then_some((index, state))
            })
            .collect()
    }

    /// The process that this word of an attach record is of is within a section. Several of its threads may be in sections at once, so only a
    /// moment in which none is counts.
    fn is_still_within(&self, index: AttachIndex, state: AttachState) -> bool {
        if state.phase() != AttachPhase::Live {
            return false;
        }
        let record = self.view.parts.attaches.get(index.position());
        record.is_some_and(|record| {
            record.state() == state && Sections::new(&record.sections).remembers()
        })
    }
}
