//! Model checks of the doorbell: a daemon that goes to sleep beside a process that has something for it.
//!
//! The queue is one word, written as the trees are (`sync::store_load_*`); the kernel's futex is a lock and a condition variable: who
//! waits looks at the word once more under the lock. A ring that is missed is a thread that sleeps for ever, which loom reports.
//! Mutants: `loom_mutants.txt`.
#![cfg(loom)]

use std::sync::Arc;

use loom::sync::{Condvar, Mutex};
use loom::thread;
use qtf_shm::doorbell::{Doorbell, Rings};
use qtf_shm::sync::{AtomicU64, Ordering, store_load_swap};

struct House {
    word: AtomicU64,
    queue: AtomicU64,
    kernel: Mutex<()>,
    sleepers: Condvar,
}

impl House {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            word: AtomicU64::new(0),
            queue: AtomicU64::new(0),
            kernel: Mutex::new(()),
            sleepers: Condvar::new(),
        })
    }

    fn bell(&self) -> Doorbell<'_> {
        Doorbell::new(&self.word)
    }

    /// As `Doorbell::ring`.
    fn ring(&self) {
        if self.bell().take_mark() {
            let _kernel = self.kernel.lock().unwrap();
            self.sleepers.notify_all();
        }
    }

    /// As `Doorbell::wait`.
    fn wait(&self, seen: Rings) {
        let kernel = self.kernel.lock().unwrap();
        if self.bell().rings() == seen {
            drop(self.sleepers.wait(kernel).unwrap());
        }
    }

    /// What the daemon finds in its queue. Any look will do: the trees' roots are read with acquire.
    fn work(&self) -> bool {
        // ORDERING: as the trees' roots.
        self.queue.load(Ordering::Acquire) != 0
    }

    fn submit(&self) {
        store_load_swap(&self.queue, 1);
        self.ring();
    }
}

#[test]
fn a_daemon_that_goes_to_sleep_beside_a_submission_sees_it_or_is_woken() {
    loom::model(|| {
        let house = House::new();
        let client = thread::spawn({
            let house = Arc::clone(&house);
            move || house.submit()
        });
        // The daemon, with the thread that waits at the bell in one: it sleeps only while the mark stands.
        house.bell().goes_to_sleep();
        if !house.work() {
            loop {
                let seen = house.bell().rings();
                if !seen.is_asleep() {
                    break;
                }
                house.wait(seen);
            }
            assert!(
                house.work(),
                "woken, and what it was woken for is not there"
            );
        }
        house.bell().wakes_up();
        client.join().unwrap();
        assert!(!house.bell().rings().is_asleep());
    });
}

#[test]
fn a_ring_between_the_look_at_the_bell_and_the_sleep_is_not_slept_through() {
    loom::model(|| {
        let house = House::new();
        house.bell().goes_to_sleep();
        let waiter = thread::spawn({
            let house = Arc::clone(&house);
            move || {
                // The bell's thread counts rings; the daemon's own going to sleep and waking up it does not care for.
                let mut seen = house.bell().rings();
                while seen.count() == 0 {
                    house.wait(seen);
                    seen = house.bell().rings();
                }
            }
        });
        house.submit();
        // The daemon has nothing to do again before the waiter has looked.
        house.bell().goes_to_sleep();
        waiter.join().unwrap();
    });
}
