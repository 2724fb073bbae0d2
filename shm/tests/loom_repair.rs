//! Model checks of repair beside the living: free bits against claimers, claims of the dead against the next tenant of their attach
//! record, counts of arena blocks against allocations under way.
//!
//! A slot is a real state word with the real table, beside a real bitmap or arena; the steps are those of `segment/claim.rs`, `free.rs`,
//! `repair.rs` and `quiet.rs`. Mutants: `loom_mutants.txt`.
#![cfg(loom)]

use std::sync::Arc;

use loom::thread;
use qtf_shm::arena::{Arena, ArenaShape, ArenaViolation, ChunkOwner, Claimant, Purpose};
use qtf_shm::bitmap::{Bitmap, words_for};
use qtf_shm::sync::kill::killed_after;
use qtf_shm::sync::{AtomicU64, Ordering, store_load_cas, store_load_load, zeroed_words};
use qtf_shm::task::orphan::orphaned;
use qtf_shm::{AttachIndex, Event, Phase, StateWord};

fn attach(number: u16) -> AttachIndex {
    AttachIndex::new_checked(number, 8).unwrap()
}

/// One slot with its free bit, and one attach record.
struct Desk {
    state: AtomicU64,
    bits: Box<[AtomicU64]>,
    record: AtomicU64,
}

impl Desk {
    fn new() -> Self {
        Self {
            state: AtomicU64::new(0),
            bits: zeroed_words(words_for(1)),
            record: AtomicU64::new(0),
        }
    }

    fn bitmap(&self) -> Bitmap<'_> {
        Bitmap::new(&self.bits, 1)
    }

    fn now(&self) -> StateWord {
        StateWord::from_raw(store_load_load(&self.state))
    }

    fn change(&self, from: StateWord, event: Event) -> bool {
        let to = from.after(event);
        to.is_ok_and(|to| store_load_cas(&self.state, from.as_raw(), to.as_raw()).is_ok())
    }

    fn settle(&self) {
        self.bitmap()
            .settle(0, || self.now().phase() != Phase::Free);
    }

    /// As `claim_task`: bit, state, then the bit again.
    fn claim(&self, number: u16) -> bool {
        if self.bitmap().take(0).is_none() {
            return false;
        }
        let from = self.now();
        let attach = attach(number);
        let won = from.phase() == Phase::Free && self.change(from, Event::Claim { attach });
        if won {
            self.settle();
        }
        won
    }

    /// As `free_task`: state, bit, then the state again.
    fn free(&self, from: StateWord) -> bool {
        let freed = self.change(from, Event::Abandon);
        if freed {
            self.bitmap().give_back(0);
            self.settle();
        }
        freed
    }

    fn assert_bit_agrees(&self) {
        let free = self.now().phase() == Phase::Free;
        assert_eq!(self.bitmap().is_free(0), free, "{:?}", self.now());
    }
}

fn model(check: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound.get_or_insert(3);
    builder.check(check);
}

fn spawn<S: 'static, T: 'static>(
    shared: &Arc<S>,
    operation: impl FnOnce(&S) -> T + 'static,
) -> thread::JoinHandle<T> {
    let shared = Arc::clone(shared);
    thread::spawn(move || operation(&shared))
}

#[test]
fn a_bit_given_back_under_a_slow_claimer_is_had_by_one_and_says_what_the_slot_says() {
    model(|| {
        let desk = Arc::new(Desk::new());
        let claimer = spawn(&desk, |desk| desk.claim(1));
        let repairer = spawn(&desk, Desk::settle);
        let other = desk.claim(2);
        let one = claimer.join().unwrap();
        repairer.join().unwrap();
        assert!(!(one && other), "two have the slot");
        assert_eq!(desk.now().generation(), u64::from(one || other));
        desk.assert_bit_agrees();
    });
}

#[test]
fn a_bit_lost_by_a_kill_comes_back() {
    model(|| {
        let desk = Arc::new(Desk::new());
        assert!(killed_after(1, || desk.claim(1)).is_err());
        let repairer = spawn(&desk, Desk::settle);
        let claimed = desk.claim(2);
        repairer.join().unwrap();
        desk.assert_bit_agrees();
        assert!(claimed || desk.claim(2), "the slot is lost");
    });
}

#[test]
fn a_slot_that_is_freed_beside_a_repairer_and_a_claimer_is_lost_to_nobody() {
    model(|| {
        let desk = Arc::new(Desk::new());
        assert!(desk.claim(1));
        let repairer = spawn(&desk, Desk::settle);
        let claimer = spawn(&desk, |desk| desk.claim(2));
        assert!(desk.free(desk.now()));
        repairer.join().unwrap();
        let claimed = claimer.join().unwrap();
        desk.assert_bit_agrees();
        assert_eq!(desk.now().generation(), 1 + u64::from(claimed));
    });
}

/// The record's words: of the dead process, free, of its next tenant.
const DEAD: u64 = 1;
const FREE: u64 = 2;
const NEXT: u64 = 3;

#[test]
fn a_repairer_that_was_stopped_does_not_free_the_claim_of_the_records_next_tenant() {
    model(|| {
        let desk = Arc::new(Desk::new());
        assert!(desk.claim(3));
        store_load_cas(&desk.record, 0, DEAD).unwrap();
        let repair = |desk: &Desk| {
            let dead = |_| store_load_load(&desk.record) == DEAD;
            orphaned(&desk.state, dead).is_some_and(|claim| desk.free(claim))
        };
        let slow = spawn(&desk, repair);
        // Another repairer completes its pass; the record is given out again, and its process claims the slot.
        repair(&desk);
        assert_eq!(desk.now().phase(), Phase::Free);
        store_load_cas(&desk.record, DEAD, FREE).unwrap();
        store_load_cas(&desk.record, FREE, NEXT).unwrap();
        let claimed = desk.claim(3);
        slow.join().unwrap();
        let expected = if claimed { Phase::Claimed } else { Phase::Free };
        assert_eq!(
            desk.now().phase(),
            expected,
            "a living process lost its claim"
        );
        desk.assert_bit_agrees();
    });
}

/// An arena of one block of two units, and the sections of one living process.
struct Yard {
    meta: Box<[AtomicU64]>,
    data: Box<[AtomicU64]>,
    sections: AtomicU64,
}

const SHAPE: ArenaShape<2> = ArenaShape::new(1);

impl Yard {
    fn arena(&self) -> Arena<'_, 2> {
        Arena::new(&self.meta, &self.data, SHAPE)
    }

    /// As `Segment::section`.
    fn section<T>(&self, work: impl FnOnce() -> T) -> T {
        self.sections.fetch_add((1 << 16) | 1, Ordering::AcqRel);
        let done = work();
        self.sections.fetch_sub(1, Ordering::Release);
        done
    }

    fn quiet(&self) -> Option<u64> {
        let sections = self.sections.load(Ordering::Acquire);
        (sections & 0xFFFF == 0).then_some(sections)
    }
}

#[test]
fn a_count_left_too_high_is_corrected_without_taking_room_from_an_allocation_under_way() {
    // From the block's word on, which is the fourth write.
    for writes in 3..7 {
        model(move || {
            let yard = Arc::new(Yard {
                meta: zeroed_words(SHAPE.meta_words()),
                data: zeroed_words(SHAPE.data_words()),
                sections: AtomicU64::new(0),
            });
            let dead = Claimant {
                attach: 9,
                incarnation: 1,
            };
            let _ = killed_after(writes, || {
                yard.arena().allocate(dead, 64, Purpose::Result).is_ok()
            });
            let owner = ChunkOwner {
                slot: 1,
                generation: 1,
            };
            let living = Claimant {
                attach: 1,
                incarnation: 1,
            };
            let other = spawn(&yard, move |yard| {
                yard.section(|| {
                    yard.arena()
                        .store(living, owner, &[7; 8], Purpose::Result)
                        .is_ok()
                })
            });
            yard.arena().correct_count(0, || yard.quiet());
            other.join().unwrap();
            let wrong: Vec<_> = yard
                .arena()
                .check()
                .filter(|violation| {
                    matches!(
                        violation,
                        ArenaViolation::CountTooLow { .. } | ArenaViolation::StrayChunk { .. }
                    )
                })
                .collect();
            assert_eq!(wrong, []);
        });
    }
}
