//! Model checks of an errand: what one thread has another one do.
//!
//! What is to be done, and then what came of it, lies in a word of its own that orders nothing: whoever does not see what the other left there
//! finds it out. That the taker does not sleep beside what was posted is the doorbell's (`loom_doorbell.rs`), here with the
//! word that is really posted. Mutants: `loom_mutants.txt`.
#![cfg(loom)]

use std::sync::Arc;

use loom::thread;
use qtf_shm::doorbell::Doorbell;
use qtf_shm::errand::ErrandWord;
use qtf_shm::sync::{AtomicU64, Ordering};

struct Desk {
    word: ErrandWord,
    bell: AtomicU64,
    /// What is to be done, and then what came of it.
    number: AtomicU64,
}

impl Desk {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            word: ErrandWord::new(),
            bell: AtomicU64::new(0),
            number: AtomicU64::new(0),
        })
    }

    fn number(&self) -> u64 {
        // ORDERING: whose it is says the errand's word, and nothing else may order it.
        self.number.load(Ordering::Relaxed)
    }

    fn set(&self, value: u64) {
        // ORDERING: as above.
        self.number.store(value, Ordering::Relaxed);
    }

    /// Does what there is to do.
    fn serve(&self) -> bool {
        let is_taken = self.word.take();
        if is_taken {
            self.set(self.number() * 2);
            self.word.finish();
        }
        is_taken
    }
}

#[test]
fn what_is_posted_is_done_once_and_the_poster_sees_what_came_of_it() {
    loom::model(|| {
        let desk = Desk::new();
        let taker = thread::spawn({
            let desk = Arc::clone(&desk);
            move || {
                for _ in 0..2 {
                    while !desk.serve() {
                        thread::yield_now();
                    }
                }
            }
        });
        for number in 1..=2 {
            desk.set(number);
            desk.word.post();
            while !desk.word.is_free() {
                thread::yield_now();
            }
            assert_eq!(desk.number(), number * 2);
        }
        taker.join().unwrap();
    });
}

#[test]
fn what_was_withdrawn_is_not_done_and_what_was_taken_is_not_withdrawn() {
    loom::model(|| {
        let desk = Desk::new();
        desk.set(1);
        desk.word.post();
        let taker = thread::spawn({
            let desk = Arc::clone(&desk);
            move || desk.serve()
        });
        let is_withdrawn = desk.word.withdraw();
        if is_withdrawn {
            // It is the poster's again.
            desk.set(10);
        } else {
            while !desk.word.is_free() {
                thread::yield_now();
            }
            assert_eq!(desk.number(), 2);
        }
        assert_eq!(taker.join().unwrap(), !is_withdrawn);
        assert_eq!(desk.number(), if is_withdrawn { 10 } else { 2 });
    });
}

#[test]
fn a_taker_that_goes_to_sleep_beside_a_post_takes_it_or_is_rung_for() {
    loom::model(|| {
        let desk = Desk::new();
        desk.set(1);
        let poster = thread::spawn({
            let desk = Arc::clone(&desk);
            move || {
                desk.word.post();
                Doorbell::new(&desk.bell).take_mark()
            }
        });
        Doorbell::new(&desk.bell).goes_to_sleep();
        let is_served = desk.serve();
        let is_rung = poster.join().unwrap();
        assert!(is_served || is_rung, "it sleeps beside what was posted");
    });
}
