//! Model checks of a task's life: one state word changed by the real transition table, one leaf of a
//! tree, and everybody who may change them at once.
//!
//! In quiescence the slot is READY exactly when its key is in the
//! leaf and at the root; and every change that was won was won once. Mutants: `loom_mutants.txt`.
#![cfg(loom)]

use std::sync::Arc;

use loom::thread;
use qtf_shm::sync::{AtomicU64, store_load_cas, store_load_load, zeroed_words};
use qtf_shm::tree::{Key, MinTree, TreeShape};
use qtf_shm::{AttachIndex, Event, FLAG_CANCEL, Phase, StateWord, WorkerIndex};

const LEAF: u32 = 1;

/// One task slot, of a segment of two.
struct Desk {
    state: AtomicU64,
    shape: TreeShape<2>,
    words: Box<[AtomicU64]>,
}

impl Desk {
    /// The slot is claimed for its first task, or READY with its leaf.
    fn new(ready: bool) -> Arc<Self> {
        let shape = TreeShape::new(2);
        let words = zeroed_words(shape.words());
        let desk = Self {
            state: AtomicU64::new(0),
            shape,
            words,
        };
        assert!(desk.change(Event::Claim {
            attach: AttachIndex::new_checked(0, 1).unwrap()
        }));
        if ready {
            assert!(desk.submit());
        }
        Arc::new(desk)
    }

    fn tree(&self) -> MinTree<'_, 2> {
        MinTree::new(&self.words, &self.shape)
    }

    fn now(&self) -> StateWord {
        StateWord::from_raw(store_load_load(&self.state))
    }

    /// One event, by one compare and exchange; false if the table or somebody else is against it.
    fn change(&self, event: Event) -> bool {
        self.change_from(self.now(), event)
    }

    fn change_from(&self, from: StateWord, event: Event) -> bool {
        let to = from.after(event);
        to.is_ok_and(|to| store_load_cas(&self.state, from.as_raw(), to.as_raw()).is_ok())
    }

    /// The key of a generation: a task that is handed back keeps it.
    fn key(generation: u64) -> Key {
        Key::ready(9, generation, generation)
    }

    fn wants_leaf(&self, generation: u64) -> bool {
        let now = self.now();
        now.phase() == Phase::Ready && now.generation() == generation
    }

    fn index(&self, generation: u64) {
        let owns = || self.wants_leaf(generation);
        self.tree().claim_leaf(LEAF, Self::key(generation), owns);
    }

    fn unindex(&self, generation: u64) {
        let owns = || self.wants_leaf(generation);
        self.tree().release_leaf(LEAF, Self::key(generation), owns);
    }

    /// CLAIMED -> READY, then the leaf.
    fn submit(&self) -> bool {
        let generation = self.now().generation();
        let admitted = self.change(Event::Admit);
        self.index(generation);
        admitted
    }

    /// READY -> ASSIGNED, then the leaf goes; a leaf that the slot has moved on from goes as well.
    fn take(&self) -> bool {
        let Some((leaf, key)) = self.tree().locate() else {
            return false;
        };
        assert_eq!(leaf, LEAF);
        let now = self.now();
        let ours = Self::key(now.generation()) == key;
        let worker = WorkerIndex::new_checked(0, 1).unwrap();
        let won = ours && self.change_from(now, Event::Assign { worker });
        self.tree()
            .release_leaf(LEAF, key, || ours && self.wants_leaf(now.generation()));
        won
    }

    /// RUNNING, as a local worker's.
    fn running() -> Arc<Self> {
        let desk = Self::new(true);
        assert!(desk.take() && desk.change(Event::Start));
        desk
    }

    /// A daemon that has just started flags the attempt; false if it has ended before.
    fn flag(&self) -> bool {
        loop {
            let now = self.now();
            if now.phase() != Phase::Running {
                return false;
            }
            if self.change_from(now, Event::RequestCancel) {
                return true;
            }
        }
    }

    /// What a local worker does that has found no daemon: DONE by itself, or ENDED for the daemon that has come since.
    fn end_unattended(&self) {
        loop {
            let now = self.now();
            if self.change_from(now, Event::CompleteUnattended)
                || now.flags() != 0 && self.change_from(now, Event::End)
            {
                return;
            }
        }
    }

    fn cancel(&self) -> bool {
        let now = self.now();
        let won = now.phase() == Phase::Ready && self.change_from(now, Event::Cancel);
        if won {
            self.unindex(now.generation());
        }
        won
    }

    /// The worker is lost: ASSIGNED -> READY, then the leaf.
    fn requeue(&self) -> bool {
        let now = self.now();
        let won = now.phase() == Phase::Assigned && self.change_from(now, Event::Requeue);
        if won {
            self.index(now.generation());
        }
        won
    }

    fn assert_index_agrees(&self) {
        let now = self.now();
        let expected = (now.phase() == Phase::Ready).then(|| (LEAF, Self::key(now.generation())));
        assert_eq!(self.tree().locate(), expected, "{now:?}");
        assert_eq!(self.tree().check().count(), 0);
    }
}

fn model(check: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound.get_or_insert(4);
    builder.check(check);
}

/// Runs an operation on another thread.
fn spawn<T: 'static>(
    desk: &Arc<Desk>,
    operation: impl FnOnce(&Desk) -> T + 'static,
) -> thread::JoinHandle<T> {
    let desk = Arc::clone(desk);
    thread::spawn(move || operation(&desk))
}

#[test]
fn a_task_is_taken_or_cancelled_or_still_there() {
    model(|| {
        let desk = Desk::new(false);
        let taker = spawn(&desk, Desk::take);
        let canceller = spawn(&desk, Desk::cancel);
        assert!(desk.submit());
        let (taken, cancelled) = (taker.join().unwrap(), canceller.join().unwrap());
        assert!(!(taken && cancelled));
        let expected = match (taken, cancelled) {
            (true, _) => Phase::Assigned,
            (_, true) => Phase::Cancelled,
            _ => Phase::Ready,
        };
        assert_eq!(desk.now().phase(), expected);
        desk.assert_index_agrees();
    });
}

#[test]
fn two_takers_take_a_task_once() {
    model(|| {
        let desk = Desk::new(true);
        let other = spawn(&desk, Desk::take);
        let taken = desk.take();
        assert!(taken != other.join().unwrap());
        assert_eq!(desk.now().fence(), 1);
        desk.assert_index_agrees();
    });
}

#[test]
fn a_task_handed_back_while_its_slow_taker_clears_the_leaf_is_found_again() {
    model(|| {
        let desk = Desk::new(true);
        let repairer = spawn(&desk, Desk::requeue);
        assert!(desk.take());
        let requeued = repairer.join().unwrap();
        assert_eq!(desk.now().phase() == Phase::Ready, requeued);
        desk.assert_index_agrees();
    });
}

#[test]
fn an_attempt_that_is_flagged_beside_its_end_without_a_daemon_is_left_to_that_daemon_to_judge() {
    model(|| {
        let desk = Desk::running();
        let daemon = spawn(&desk, Desk::flag);
        desk.end_unattended();
        let flagged = daemon.join().unwrap();
        let expected = if flagged { Phase::Ended } else { Phase::Done };
        assert_eq!(desk.now().phase(), expected);
        assert_eq!(desk.now().has_flag(FLAG_CANCEL), flagged);
        desk.assert_index_agrees();
    });
}

/// The whole life of the first task and the start of the second, beside a submitter that was paused
/// between the first one's READY and its leaf.
#[test]
fn a_paused_submitter_does_not_cost_the_next_tenant_its_leaf() {
    model(|| {
        let desk = Desk::new(false);
        assert!(desk.change(Event::Admit));
        let paused = spawn(&desk, |desk| desk.index(1));
        assert!(desk.cancel());
        assert!(desk.change(Event::Free));
        assert!(desk.change(Event::Claim {
            attach: AttachIndex::new_checked(0, 1).unwrap()
        }));
        assert!(desk.submit());
        paused.join().unwrap();
        assert_eq!(desk.now().generation(), 2);
        desk.assert_index_agrees();
    });
}
