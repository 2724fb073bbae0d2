//! Model checks of how processes come into a segment and let each other know: the gate, attach records, the count of local changes.
//!
//! The words are those of the control region and of a record, with their real operations. Mutants: `loom_mutants.txt`.
#![cfg(loom)]

use std::sync::Arc;

use loom::thread;
use qtf_shm::gate::Gate;
use qtf_shm::layout::attach::{AttachPhase, AttachRecord, AttachState, FileIdentity};
use qtf_shm::local_changes::LocalChanges;
use qtf_shm::model::{change_attach, lock_file, set_lock_file, worker_writer};
use qtf_shm::sync::{AtomicU64, Ordering};
use qtf_shm::{AttachIndex, KindSet, WorkerEvent, WorkerFields, WorkerPhase, WorkerSlot};

const FILE: FileIdentity = FileIdentity {
    device: 3,
    inode: 3,
};

/// The front of a segment, one attach record and one worker slot.
struct House {
    ready: AtomicU64,
    rebuilding: AtomicU64,
    header: AtomicU64,
    changes: AtomicU64,
    record: AttachRecord,
    worker: WorkerSlot,
}

impl House {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            ready: AtomicU64::new(0),
            rebuilding: AtomicU64::new(0),
            header: AtomicU64::new(0),
            changes: AtomicU64::new(0),
            record: AttachRecord::zeroed(),
            worker: WorkerSlot::zeroed(),
        })
    }

    fn gate(&self) -> Gate<'_> {
        Gate::new(&self.ready, &self.rebuilding)
    }

    fn changes(&self) -> LocalChanges<'_> {
        LocalChanges::new(&self.changes)
    }

    /// FREE -> JOINS, with the process id.
    fn take_record(&self) -> AttachState {
        let free = self.record.state();
        let joins = free.joined_by(3, 0);
        assert!(change_attach(&self.record, free, joins));
        joins
    }

    /// One event of the worker.
    fn tell(&self, event: WorkerEvent) {
        self.worker.apply(self.worker.state(), event).unwrap();
    }
}

fn model(check: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound.get_or_insert(3);
    builder.check(check);
}

/// Runs an operation on another thread.
fn spawn<T: 'static>(
    house: &Arc<House>,
    operation: impl FnOnce(&House) -> T + 'static,
) -> thread::JoinHandle<T> {
    let house = Arc::clone(house);
    thread::spawn(move || operation(&house))
}

#[test]
fn whoever_finds_a_segment_published_finds_its_header() {
    model(|| {
        let house = House::new();
        let visitor = spawn(&house, |house| {
            if house.gate().is_published() {
                assert_eq!(house.header.load(Ordering::Relaxed), 3);
            }
        });
        house.header.store(3, Ordering::Relaxed);
        house.gate().publish();
        visitor.join().unwrap();
    });
}

#[test]
fn whoever_sees_that_a_process_is_attached_sees_its_lock_file() {
    model(|| {
        let house = House::new();
        let judge = spawn(&house, |house| {
            if house.record.state().phase() == AttachPhase::Live {
                assert_eq!(lock_file(&house.record), FILE);
            }
        });
        // The state is not looked at again: under loom that look is a fence.
        let joins = house.take_record();
        set_lock_file(&house.record, FILE);
        assert!(change_attach(&house.record, joins, joins.live()));
        judge.join().unwrap();
    });
}

#[test]
fn no_process_comes_in_beside_a_daemon_that_is_alone() {
    model(|| {
        let house = House::new();
        let visitor = spawn(&house, |house| {
            house.take_record();
            !house.gate().is_closed()
        });
        house.gate().close();
        let alone = house.record.state().phase() == AttachPhase::Free;
        assert!(!(visitor.join().unwrap() && alone));
    });
}

#[test]
fn whoever_sees_that_local_workers_have_changed_sees_the_worker() {
    model(|| {
        let house = House::new();
        let daemon = spawn(&house, |house| {
            if house.changes().count() == 1 {
                assert_eq!(house.worker.state().phase(), WorkerPhase::Live);
                assert_eq!(house.worker.kinds().words()[0], 3);
            }
        });
        let attach = AttachIndex::new_checked(0, 1).unwrap();
        house.tell(WorkerEvent::Join { attach });
        worker_writer(&house.worker).fill(&WorkerFields {
            kinds: KindSet::from_words([3, 0, 0, 0]),
            ..WorkerFields::default()
        });
        house.tell(WorkerEvent::Open { capacity: 1 });
        house.changes().note();
        daemon.join().unwrap();
    });
}
