//! Model checks of gates: a state word that comes again, beside a process that may still compare with the one before.
//!
//! The process takes a slot as a repairer or a local worker does: section entered, word looked at, compared with. Meanwhile the slot goes all the way
//! round, and stands at a gate before the word comes again. Mutants: `loom_mutants.txt`.
#![cfg(loom)]

use std::sync::Arc;

use loom::thread;
use qtf_shm::sections::Sections;
use qtf_shm::sync::{AtomicU64, Ordering, store_load_cas, store_load_load};

/// A word that comes again, the last before the gate, and what a take makes of the first.
const FIRST: u64 = 1;
const AT_GATE: u64 = 2;
const TAKEN: u64 = 3;

struct Desk {
    state: AtomicU64,
    /// How often the slot has gone round: written as an era is, before the word goes on.
    rounds: AtomicU64,
    sections: AtomicU64,
}

impl Desk {
    /// Takes the slot if its word is the first; the rounds when it was looked at and when it was taken.
    fn take(&self) -> Option<(u64, u64)> {
        let sections = Sections::new(&self.sections);
        sections.enter();
        let seen = store_load_load(&self.state);
        let before = self.rounds.load(Ordering::Relaxed);
        let won = seen == FIRST && store_load_cas(&self.state, FIRST, TAKEN).is_ok();
        let after = self.rounds.load(Ordering::Relaxed);
        sections.leave();
        won.then_some((before, after))
    }

    /// The slot goes round: the next tenants, the gate, and the word again. False if somebody has taken it.
    fn goes_round(&self) -> bool {
        if store_load_cas(&self.state, FIRST, AT_GATE).is_err() {
            return false;
        }
        if Sections::new(&self.sections).remembers() {
            return true;
        }
        self.rounds.store(1, Ordering::Relaxed);
        store_load_cas(&self.state, AT_GATE, FIRST).unwrap();
        true
    }
}

#[test]
fn nobody_takes_a_slot_by_a_word_that_it_has_read_before_the_slot_went_through_the_gate() {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound.get_or_insert(4);
    builder.check(|| {
        let desk = Arc::new(Desk {
            state: AtomicU64::new(FIRST),
            rounds: AtomicU64::new(0),
            sections: AtomicU64::new(0),
        });
        let other = Arc::clone(&desk);
        let taker = thread::spawn(move || other.take());
        let went = desk.goes_round();
        let taken = taker.join().unwrap();
        if let Some((before, after)) = taken {
            assert_eq!(before, after, "taken by a word of the round before");
        }
        assert!(went || taken.is_some());
    });
}
