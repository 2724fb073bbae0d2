//! Model checks of the entries of a local worker's lane: the worker that writes one, the PLM that moves it into the slot, and readers beside
//! both.
//!
//! All words of an attempt tell its number, so a record of parts is known. Mutants: `loom_mutants.txt`.
#![cfg(loom)]

use std::sync::Arc;

use loom::thread;
use qtf_shm::hand_over::{ENTRY_WORDS, Entry, EntryPlace};
use qtf_shm::sync::kill::killed_after;
use qtf_shm::sync::{AtomicU64, Ordering, store_load_cas, store_load_load, zeroed_words};

/// Of a task while its attempt runs, and when that has ended.
const RUNNING: u64 = 1;
const ENDED: u64 = 2;

/// One entry, and the words of a slot that matter here.
struct Desk {
    words: Box<[AtomicU64]>,
    state: AtomicU64,
    outcome: AtomicU64,
}

impl Desk {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            words: zeroed_words(ENTRY_WORDS),
            state: AtomicU64::new(RUNNING),
            outcome: AtomicU64::new(0),
        })
    }

    fn entry(&self) -> EntryPlace<'_> {
        EntryPlace::of(&self.words).unwrap()
    }

    fn begin(&self, task: u64, attempt: u16) {
        self.entry().begin(task, attempt, number_of(task, attempt));
    }

    fn end(&self, task: u64, attempt: u16) {
        let number = number_of(task, attempt);
        let outcome = u16::try_from(number).unwrap();
        self.entry().end(attempt, outcome, (number, number, number));
    }

    /// RUNNING -> ENDED, after the end was written.
    fn hand_over(&self) {
        assert!(store_load_cas(&self.state, RUNNING, ENDED).is_ok());
    }

    /// What the PLM does about an end, before it judges: into the slot, then out of the lane.
    fn accept(&self, task: u64) {
        if let Some(found) = self.entry().read() {
            self.outcome
                .store(u64::from(found.outcome), Ordering::Relaxed);
            assert!(self.entry().clear(task));
        }
    }

    /// The outcome of a task that has ended, as a reader finds it: beside the slot first.
    fn outcome_of(&self, task: u64) -> u64 {
        match self.entry().read() {
            Some(found) if found.task == task => u64::from(found.outcome),
            Some(_) | None => self.outcome.load(Ordering::Relaxed),
        }
    }
}

/// What all words of an attempt say.
fn number_of(task: u64, attempt: u16) -> u64 {
    task * 16 + u64::from(attempt)
}

fn assert_whole(found: Entry) {
    let number = number_of(found.task, found.fence);
    assert_eq!(found.started, number, "{found:?}");
    if found.outcome != 0 {
        let rest = [
            u64::from(found.outcome),
            found.result,
            found.ended,
            found.pause_ms,
        ];
        assert_eq!(rest, [number; 4], "{found:?}");
    }
}

fn model(check: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound.get_or_insert(4);
    builder.check(check);
}

/// Runs an operation on another thread.
fn spawn(desk: &Arc<Desk>, operation: impl FnOnce(&Desk) + 'static) -> thread::JoinHandle<()> {
    let desk = Arc::clone(desk);
    thread::spawn(move || operation(&desk))
}

fn look(desk: &Desk) {
    if let Some(found) = desk.entry().read() {
        assert_whole(found);
    }
}

#[test]
fn a_reader_sees_an_attempt_whole_or_not_at_all() {
    model(|| {
        let desk = Desk::new();
        let reader = spawn(&desk, look);
        desk.begin(3, 1);
        desk.end(3, 1);
        reader.join().unwrap();
        assert_whole(desk.entry().read().unwrap());
    });
}

/// A look beside the end of one attempt, the clearing of its entry and the beginning of the next, `(task, attempt)`.
fn entry_used_again(next: (u64, u16)) {
    model(move || {
        let desk = Desk::new();
        desk.begin(3, 1);
        desk.end(3, 1);
        let reader = spawn(&desk, look);
        assert!(desk.entry().clear(3));
        desk.begin(next.0, next.1);
        reader.join().unwrap();
        let found = desk.entry().read().unwrap();
        assert_eq!((found.task, found.fence), next);
    });
}

#[test]
fn a_reader_never_takes_parts_of_two_tasks_for_one() {
    entry_used_again((5, 1));
}

#[test]
fn a_reader_never_takes_parts_of_two_attempts_of_a_task_for_one() {
    entry_used_again((3, 2));
}

#[test]
fn whoever_sees_that_a_task_has_ended_finds_its_end_beside_the_slot_or_in_it() {
    model(|| {
        let desk = Desk::new();
        desk.begin(3, 1);
        let worker = spawn(&desk, |desk| {
            desk.end(3, 1);
            desk.hand_over();
        });
        let reader = spawn(&desk, |desk| {
            if store_load_load(&desk.state) == ENDED {
                assert_eq!(desk.outcome_of(3), number_of(3, 1));
            }
        });
        if store_load_load(&desk.state) == ENDED {
            desk.accept(3);
        }
        worker.join().unwrap();
        reader.join().unwrap();
        assert_eq!(desk.outcome_of(3), number_of(3, 1));
    });
}

#[test]
fn an_entry_is_taken_again_beside_the_plm_that_clears_it() {
    model(|| {
        let desk = Desk::new();
        desk.begin(3, 1);
        desk.end(3, 1);
        let plm = spawn(&desk, |desk| desk.accept(3));
        if desk.entry().task() == 0 {
            desk.begin(5, 1);
            assert_eq!(desk.entry().read().unwrap().task, 5);
            assert!(!desk.entry().clear(3), "a late clear leaves the next alone");
        }
        plm.join().unwrap();
        assert_eq!(desk.outcome.load(Ordering::Relaxed), number_of(3, 1));
        look(&desk);
    });
}

#[test]
fn a_worker_killed_at_any_store_leaves_an_attempt_that_is_whole_or_none() {
    for writes in 1..9 {
        model(move || {
            let desk = Desk::new();
            desk.begin(3, 1);
            desk.end(3, 1);
            let reader = spawn(&desk, look);
            let _ = killed_after(writes, || {
                desk.entry().clear(3);
                desk.begin(5, 1);
                desk.end(5, 1);
            });
            reader.join().unwrap();
            look(&desk);
        });
    }
}
