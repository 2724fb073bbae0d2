//! Model checks of the records of the segment: their one writer of the moment beside a reader that copies one out.
//!
//! The slots, their writers and the copying are the real ones, without a segment around them. All fields of a tenant tell the same
//! number, so a record of two tenants is known. Mutants: `loom_mutants.txt`.
#![cfg(loom)]

use std::sync::Arc;

use loom::thread;
use qtf_shm::kinds::KindEntry;
use qtf_shm::model::{
    change_task, empty_claimed, head_of_name, lsn_before_fields, task_writer, worker_writer,
};
use qtf_shm::reading::read_between;
use qtf_shm::{
    AttachIndex, ClientFields, ClientSlot, Event, Key, KindIndex, KindSet, KindTable, Phase,
    StateWord, TaskSlot, WorkerEvent, WorkerFields, WorkerPhase, WorkerSlot,
};

fn model(check: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound.get_or_insert(3);
    builder.check(check);
}

/// Runs an operation on another thread.
fn spawn<S: 'static>(
    shared: &Arc<S>,
    operation: impl FnOnce(&S) + 'static,
) -> thread::JoinHandle<()> {
    let shared = Arc::clone(shared);
    thread::spawn(move || operation(&shared))
}

fn claim() -> Event {
    let attach = AttachIndex::new_checked(0, 1).unwrap();
    Event::Claim { attach }
}

/// One event of a task, whose writer is the caller.
fn change(task: &TaskSlot, event: Event) {
    let from = task.state();
    assert!(change_task(task, from, from.after(event).unwrap()));
}

/// A claimed slot becomes a task whose fields tell a number.
fn submit(task: &TaskSlot, number: u64) {
    task_writer(task).set_phase_time(number);
    task_writer(task).set_lsn(number);
    change(task, Event::Admit);
}

/// What a reader makes of it: the state, and two fields.
fn copy_of(task: &TaskSlot) -> Option<(StateWord, [u64; 2])> {
    let read = read_between(
        || task.state(),
        |state| (state, [task.lsn(), task.phase_time()]),
    );
    (!read.torn).then_some(read.record)
}

#[test]
fn whoever_sees_that_a_slot_is_a_task_sees_what_was_written_before() {
    model(|| {
        let task = Arc::new(TaskSlot::zeroed());
        change(&task, claim());
        let reader = spawn(&task, |task| {
            if task.state().phase() == Phase::Ready {
                assert_eq!((task.lsn(), task.phase_time()), (3, 3));
            }
        });
        submit(&task, 3);
        reader.join().unwrap();
    });
}

#[test]
fn a_reader_never_takes_fields_of_the_next_tenant_for_the_tasks() {
    model(|| {
        let task = Arc::new(TaskSlot::zeroed());
        change(&task, claim());
        submit(&task, 3);
        change(&task, Event::Cancel);
        let reader = spawn(&task, |task| {
            if let Some((state, fields)) = copy_of(task)
                && state.phase() == Phase::Cancelled
            {
                assert_eq!(fields, [3, 3], "{state:?}");
            }
        });
        change(&task, Event::Free);
        change(&task, claim());
        empty_claimed(&task);
        reader.join().unwrap();
        assert_eq!(copy_of(&task).unwrap().1, [0, 0]);
    });
}

#[test]
fn whoever_meets_the_number_of_a_change_of_priority_meets_the_priority() {
    model(|| {
        let task = Arc::new(TaskSlot::zeroed());
        change(&task, claim());
        submit(&task, 3);
        let reader = spawn(&task, |task| {
            let read = read_between(
                || task.state(),
                |_| (lsn_before_fields(task), task.priority()),
            );
            let (lsn, priority) = read.record;
            assert!(lsn < 5 || priority == 9, "{lsn} {priority}");
        });
        task_writer(&task).set_key(Key::ready(9, 3, 1));
        task_writer(&task).set_lsn(5);
        reader.join().unwrap();
    });
}

/// One event of a worker.
fn tell(worker: &WorkerSlot, event: WorkerEvent) {
    worker.apply(worker.state(), event).unwrap();
}

/// A slot taken, filled in with a number and opened, as a local worker does.
fn join(worker: &WorkerSlot, number: u32) {
    let attach = AttachIndex::new_checked(0, 1).unwrap();
    tell(worker, WorkerEvent::Join { attach });
    worker_writer(worker).fill(&WorkerFields {
        pid: number,
        kinds: KindSet::from_words([u64::from(number), 0, 0, 0]),
        ..WorkerFields::default()
    });
    tell(worker, WorkerEvent::Open { capacity: 1 });
}

#[test]
fn whoever_sees_that_a_worker_lives_sees_its_registration() {
    model(|| {
        let worker = Arc::new(WorkerSlot::zeroed());
        let reader = spawn(&worker, |worker| {
            if worker.state().phase() == WorkerPhase::Live {
                assert_eq!((worker.kinds().words()[0], worker.pid()), (3, 3));
            }
        });
        join(&worker, 3);
        reader.join().unwrap();
    });
}

#[test]
fn a_reader_never_takes_parts_of_two_workers_for_one() {
    model(|| {
        let worker = Arc::new(WorkerSlot::zeroed());
        join(&worker, 3);
        tell(&worker, WorkerEvent::Lose);
        let reader = spawn(&worker, |worker| {
            let read = read_between(
                || worker.state(),
                |state| (state, worker.kinds().words()[0], worker.pid()),
            );
            let (state, kinds, pid) = read.record;
            if !read.torn && state.phase() == WorkerPhase::Lost {
                assert_eq!((kinds, pid), (3, 3));
            }
        });
        tell(&worker, WorkerEvent::Leave);
        join(&worker, 5);
        reader.join().unwrap();
    });
}

fn client(number: u32) -> ClientFields<'static> {
    ClientFields {
        name: "n",
        pid: number,
        registered: u64::from(number),
        ..ClientFields::default()
    }
}

/// The copy of a client, if it is whole: generation, connections, process, stamp.
fn copy_of_client(client: &ClientSlot) -> Option<(u64, u32, u64)> {
    let read = read_between(
        || client.state_word(),
        |state| (state, client.pid(), client.registered()),
    );
    (!read.torn).then_some(read.record)
}

/// The generation of a state word in use, as in `client/slot.rs`.
fn generation_in_use(state: u64) -> Option<u64> {
    (state >> 63 == 1).then_some(state & 0xFF_FFFF)
}

#[test]
fn whoever_sees_that_a_client_is_there_sees_who_it_is() {
    model(|| {
        let slot = Arc::new(ClientSlot::zeroed());
        let reader = spawn(&slot, |slot| {
            if slot.is_used() {
                assert_eq!((slot.pid(), slot.registered()), (3, 3));
            }
        });
        slot.open(&client(3));
        reader.join().unwrap();
    });
}

#[test]
fn a_reader_never_takes_parts_of_two_clients_for_one() {
    model(|| {
        let slot = Arc::new(ClientSlot::zeroed());
        slot.open(&client(3));
        let reader = spawn(&slot, |slot| {
            let Some((state, pid, registered)) = copy_of_client(slot) else {
                return;
            };
            if let Some(generation) = generation_in_use(state) {
                let number = if generation == 1 { 3 } else { 5 };
                assert_eq!((u64::from(pid), registered), (number, number));
            }
        });
        slot.close();
        slot.open(&client(5));
        reader.join().unwrap();
    });
}

#[test]
fn a_reader_beside_a_record_that_becomes_common_never_takes_the_name_that_is_gone_for_the_clients()
{
    model(|| {
        let slot = Arc::new(ClientSlot::zeroed());
        slot.open(&client(3));
        let reader = spawn(&slot, |slot| {
            let read = read_between(|| slot.state_word(), |state| (state, head_of_name(slot)));
            let (state, name) = read.record;
            if !read.torn && generation_in_use(state) == Some(1) {
                assert_ne!(name, 0);
            }
        });
        slot.make_common();
        reader.join().unwrap();
        assert_eq!(slot.name(), "");
    });
}

#[test]
fn a_kind_has_its_whole_name_or_none() {
    model(|| {
        let entries = Arc::new([KindEntry::zeroed(), KindEntry::zeroed()]);
        let reader = spawn(&entries, |entries| {
            let kind = KindIndex::new_checked(1, 2).unwrap();
            if let Some(name) = KindTable::new(entries).name(kind) {
                assert_eq!(name, "resize");
            }
        });
        KindTable::new(&*entries).intern("resize").unwrap();
        reader.join().unwrap();
    });
}
