//! Model checks of the free bitmap: one or two entries, which fill all three levels at once.
//!
//! Every model ends in quiescence, where as many entries can be taken as are free: an entry hidden by a
//! summary that wrongly says full, and one handed out twice, both show there. Mutants: `loom_mutants.txt`.
#![cfg(loom)]

use std::sync::Arc;

use loom::thread;
use qtf_shm::bitmap::{Bitmap, words_for};
use qtf_shm::sync::kill::killed_after;
use qtf_shm::sync::{AtomicU64, zeroed_words};

struct Ground {
    words: Box<[AtomicU64]>,
    len: u32,
}

impl Ground {
    fn new(len: u32, taken: u32) -> Arc<Self> {
        let ground = Self {
            words: zeroed_words(words_for(len)),
            len,
        };
        for entry in 0..taken {
            assert_eq!(ground.bitmap().take(0), Some(entry));
        }
        Arc::new(ground)
    }

    fn bitmap(&self) -> Bitmap<'_> {
        Bitmap::new(&self.words, self.len)
    }

    /// In quiescence: so many are free, and all of them can be had.
    fn assert_free(&self, free: u32) {
        assert_eq!(self.len - self.bitmap().count_taken(), free);
        for _ in 0..free {
            assert!(self.bitmap().take(0).is_some(), "a free entry is hidden");
        }
        assert_eq!(self.bitmap().take(0), None);
        let wrong: Vec<_> = self.bitmap().check().collect();
        assert_eq!(wrong, [], "a full look mends the summaries");
    }
}

fn model(check: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound.get_or_insert(4);
    builder.check(check);
}

/// Runs an operation on another thread.
fn spawn<T: 'static>(
    ground: &Arc<Ground>,
    operation: impl FnOnce(Bitmap<'_>) -> T + 'static,
) -> thread::JoinHandle<T> {
    let ground = Arc::clone(ground);
    thread::spawn(move || operation(ground.bitmap()))
}

#[test]
fn an_entry_given_back_while_the_last_one_is_taken_can_be_had() {
    model(|| {
        let ground = Ground::new(2, 1);
        let back = spawn(&ground, |bitmap| bitmap.give_back(0));
        let taken = ground.bitmap().take(1);
        assert!(back.join().unwrap());
        assert!(taken.is_some());
        ground.assert_free(1);
    });
}

#[test]
fn two_takers_get_two_entries() {
    model(|| {
        let ground = Ground::new(2, 0);
        let other = spawn(&ground, |bitmap| bitmap.take(0));
        let taken = [ground.bitmap().take(0), other.join().unwrap()];
        assert!(
            taken == [Some(0), Some(1)] || taken == [Some(1), Some(0)],
            "{taken:?}"
        );
        ground.assert_free(0);
    });
}

#[test]
fn two_that_give_the_same_entry_back_free_it_once() {
    model(|| {
        let ground = Ground::new(2, 2);
        let other = spawn(&ground, |bitmap| bitmap.give_back(0));
        assert!(ground.bitmap().give_back(0) != other.join().unwrap());
        ground.assert_free(1);
    });
}

#[test]
fn two_that_give_back_beside_a_taker_hide_nothing() {
    model(|| {
        let ground = Ground::new(2, 2);
        let back = [0, 1].map(|entry| spawn(&ground, move |bitmap| bitmap.give_back(entry)));
        let taken = ground.bitmap().take(0);
        assert!(back.map(|back| back.join().unwrap()) == [true, true]);
        ground.assert_free(if taken.is_some() { 1 } else { 2 });
    });
}

#[test]
fn an_entry_that_goes_round_beside_a_taker_is_never_in_two_hands() {
    model(|| {
        let ground = Ground::new(1, 0);
        let other = spawn(&ground, |bitmap| {
            bitmap.take(0).map(|entry| bitmap.give_back(entry))
        });
        let taken = ground.bitmap().take(0);
        let other = other.join().unwrap();
        assert!(taken.is_some() || other.is_some());
        assert!(other.is_none_or(|given_back| given_back));
        ground.assert_free(u32::from(taken.is_none()));
    });
}

#[test]
fn a_taker_killed_at_any_write_beside_a_give_back_hides_nothing_after_a_scrub() {
    for writes in 1..4 {
        model(move || {
            let ground = Ground::new(2, 1);
            let killed = spawn(&ground, move |bitmap| {
                killed_after(writes, || bitmap.take(1)).is_err()
            });
            assert!(ground.bitmap().give_back(0));
            let _ = killed.join().unwrap();
            // Another one is given back while the repairer scrubs.
            let back = spawn(&ground, |bitmap| bitmap.give_back(1));
            ground.bitmap().scrub();
            assert!(back.join().unwrap());
            ground.assert_free(2);
        });
    }
}
