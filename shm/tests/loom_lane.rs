//! Model checks of the lane of an attach record: its rings, the mark of what was missed, and an owner that goes to sleep.
//!
//! Rings of one and two entries, so that each entry is used again. The kernel's futex is a lock and a condition variable, as in `loom_doorbell.rs`. A
//! ring that is missed is a thread that sleeps for ever, which loom reports. Mutants: `loom_mutants.txt`.
#![cfg(loom)]

use std::sync::Arc;

use loom::cell::UnsafeCell;
use loom::sync::{Condvar, Mutex};
use loom::thread;
use qtf_shm::WorkerIndex;
use qtf_shm::doorbell::{Doorbell, Rings};
use qtf_shm::idle_workers::IdleWorkers;
use qtf_shm::lane::{Missed, Ring};
use qtf_shm::layout::attach::AttachRecord;
use qtf_shm::model;
use qtf_shm::sync::{AtomicU64, Ordering, store_load_swap};

/// Memory that one side at a time may use, by the counts of a ring alone; loom says if that is not so. An atomic word would not tell: that a read meets a
/// write which comes after it is beyond loom.
struct Place(UnsafeCell<()>);

#[expect(
    unsafe_code,
    reason = "the sides of a ring share it, which is what is tested"
)]
// SAFETY: there is nothing in it.
unsafe impl Sync for Place {}

struct Lane {
    place: Place,
    put: AtomicU64,
    taken: AtomicU64,
    entries: Vec<AtomicU64>,
    missed: AtomicU64,
    seen: AtomicU64,
    sleep: AtomicU64,
    /// The state word of a task.
    task: AtomicU64,
    kernel: Mutex<()>,
    sleepers: Condvar,
}

impl Lane {
    fn of(entries: usize) -> Arc<Self> {
        Arc::new(Self {
            place: Place(UnsafeCell::new(())),
            put: AtomicU64::new(0),
            taken: AtomicU64::new(0),
            entries: (0..4 * entries).map(|_| AtomicU64::new(0)).collect(),
            missed: AtomicU64::new(0),
            seen: AtomicU64::new(0),
            sleep: AtomicU64::new(0),
            task: AtomicU64::new(0),
            kernel: Mutex::new(()),
            sleepers: Condvar::new(),
        })
    }

    fn ring(&self) -> Ring<'_> {
        Ring::new(&self.put, &self.taken, &self.entries)
    }

    fn missed(&self) -> Missed<'_> {
        Missed::new(&self.missed, &self.seen)
    }

    fn bell(&self) -> Doorbell<'_> {
        Doorbell::new(&self.sleep)
    }

    /// As `CoreLane::ring_if_asleep`.
    fn wake(&self) {
        if self.bell().take_mark() {
            let _kernel = self.kernel.lock().unwrap();
            self.sleepers.notify_all();
        }
    }

    /// As `LaneEvents::sleep_unless`, without a limit.
    fn sleep(&self, has_news: impl FnOnce() -> bool) {
        self.bell().goes_to_sleep();
        let seen = self.bell().rings();
        if seen.is_asleep() && !has_news() {
            self.wait(seen);
        }
        self.bell().wakes_up();
    }

    fn wait(&self, seen: Rings) {
        let kernel = self.kernel.lock().unwrap();
        if self.bell().rings() == seen {
            drop(self.sleepers.wait(kernel).unwrap());
        }
    }

    /// As `CoreLane::tell`, of a task that has ended: the word, then the hint.
    fn end(&self, number: u64) {
        // ORDERING: as a change of a state word.
        self.task.store(number, Ordering::Release);
        if !self.ring().producer().put([number; 4]) {
            model::miss(&self.missed());
        }
    }
}

#[test]
fn entries_come_whole_and_in_order_also_where_a_place_is_used_again() {
    loom::model(|| {
        let lane = Lane::of(1);
        let producer = thread::spawn({
            let lane = Arc::clone(&lane);
            move || {
                let mut put = 0;
                for number in 1..=2 {
                    // Full: this side would wait.
                    if !lane.ring().producer().put([number; 4]) {
                        break;
                    }
                    put = number;
                }
                put
            }
        });
        let mut next = 1;
        for _ in 0..2 {
            let consumer = lane.ring().consumer();
            if let Some(entry) = consumer.first().unwrap() {
                assert_eq!(entry, [next; 4]);
                consumer.take();
                next += 1;
            }
        }
        let put = producer.join().unwrap();
        let consumer = lane.ring().consumer();
        while let Some(entry) = consumer.first().unwrap() {
            assert_eq!(entry, [next; 4]);
            consumer.take();
            next += 1;
        }
        assert_eq!(next, put + 1);
    });
}

#[test]
fn a_place_is_its_producers_or_its_consumers_and_never_both() {
    loom::model(|| {
        let lane = Lane::of(1);
        let producer = thread::spawn({
            let lane = Arc::clone(&lane);
            move || {
                for number in 1..=2 {
                    if lane.ring().producer().room() == Ok(1) {
                        lane.place.0.with_mut(|_| ());
                        assert!(lane.ring().producer().put([number; 4]));
                    }
                }
            }
        });
        let consumer = lane.ring().consumer();
        if consumer.first().unwrap().is_some() {
            lane.place.0.with(|_| ());
            consumer.take();
        }
        producer.join().unwrap();
    });
}

#[test]
fn an_owner_learns_of_every_end_by_an_event_or_by_the_mark() {
    loom::model(|| {
        let lane = Lane::of(1);
        let core = thread::spawn({
            let lane = Arc::clone(&lane);
            move || {
                lane.end(1);
                lane.end(2);
            }
        });
        // What the owner knows of the task's word, which only rises.
        let mut known = 0;
        let look = |known: &mut u64| {
            let consumer = lane.ring().consumer();
            while let Some([number, ..]) = consumer.first().unwrap() {
                consumer.take();
                *known = number.max(*known);
            }
            // Taken before the look: the other way round, what ends in between would be missed.
            if model::take_missed(&lane.missed()) {
                // ORDERING: by the mark.
                *known = lane.task.load(Ordering::Relaxed).max(*known);
            }
        };
        look(&mut known);
        core.join().unwrap();
        look(&mut known);
        assert_eq!(known, 2);
    });
}

#[test]
fn whoever_finds_the_mark_finds_the_word_that_it_is_about() {
    loom::model(|| {
        let lane = Lane::of(0);
        let core = thread::spawn({
            let lane = Arc::clone(&lane);
            move || {
                // ORDERING: published by the mark, which is what is tested.
                lane.task.store(1, Ordering::Relaxed);
                model::miss(&lane.missed());
            }
        });
        if model::take_missed(&lane.missed()) {
            // ORDERING: by the mark.
            assert_eq!(lane.task.load(Ordering::Relaxed), 1);
        }
        core.join().unwrap();
    });
}

#[test]
fn an_owner_that_goes_to_sleep_beside_an_event_sees_it_or_is_woken() {
    loom::model(|| {
        let lane = Lane::of(1);
        let core = thread::spawn({
            let lane = Arc::clone(&lane);
            move || {
                assert!(lane.ring().producer().put([1; 4]));
                lane.wake();
            }
        });
        while lane.ring().consumer().first().unwrap().is_none() {
            lane.sleep(|| lane.ring().consumer().waiting() != Ok(0));
        }
        core.join().unwrap();
    });
}

#[test]
fn an_owner_that_goes_to_sleep_beside_a_missed_event_sees_the_mark_or_is_woken() {
    loom::model(|| {
        let lane = Lane::of(0);
        let core = thread::spawn({
            let lane = Arc::clone(&lane);
            move || {
                lane.end(1);
                lane.wake();
            }
        });
        while !model::take_missed(&lane.missed()) {
            lane.sleep(|| lane.missed().stands());
        }
        core.join().unwrap();
    });
}

#[test]
fn an_owner_that_waits_for_room_beside_the_core_that_makes_some_sees_it_or_is_woken() {
    loom::model(|| {
        let lane = Lane::of(1);
        assert!(lane.ring().producer().put([1; 4]));
        let core = thread::spawn({
            let lane = Arc::clone(&lane);
            move || {
                assert_eq!(lane.ring().consumer().first(), Ok(Some([1; 4])));
                lane.ring().consumer().take();
                lane.wake();
            }
        });
        let has_room = || lane.ring().producer().room().is_ok_and(|room| room > 0);
        while !has_room() {
            lane.sleep(has_room);
        }
        core.join().unwrap();
    });
}

#[test]
fn a_worker_that_goes_to_sleep_beside_a_submission_takes_it_or_is_woken() {
    loom::model(|| {
        let lane = Lane::of(0);
        let index = WorkerIndex::new_checked(3, 8).unwrap();
        let submitter = thread::spawn({
            let lane = Arc::clone(&lane);
            move || {
                // As a leaf of the task heap.
                store_load_swap(&lane.task, 1);
                let idle = IdleWorkers::new(&lane.seen);
                if idle.bits() != 0 && idle.take(3) {
                    lane.wake();
                }
            }
        });
        let idle = IdleWorkers::new(&lane.seen);
        // ORDERING: as the tree's root.
        let sees_work = || lane.task.load(Ordering::Acquire) != 0;
        while !sees_work() {
            idle.note(index);
            lane.sleep(sees_work);
            idle.clear(index);
        }
        submitter.join().unwrap();
    });
}

#[test]
fn a_lane_that_is_found_open_is_found_empty() {
    loom::model(|| {
        let lane = Lane::of(2);
        // What the owner before has left.
        store_load_swap(&lane.put, 2);
        let record = Arc::new(AttachRecord::zeroed());
        let free = record.state();
        let joins = free.joined_by(3, 0);
        let live = joins.live();
        assert!(model::change_attach(&record, free, joins));
        assert!(model::change_attach(&record, joins, live));
        let owner = thread::spawn({
            let (lane, record) = (Arc::clone(&lane), Arc::clone(&record));
            move || {
                lane.ring().producer().begin();
                model::open_lane(&record, live);
            }
        });
        if model::has_lane(&record, live) {
            assert_eq!(lane.ring().consumer().first(), Ok(None));
        }
        owner.join().unwrap();
    });
}
