//! Rules about tasks that local workers take and hold beside the engine: who comes second changes nothing, and nobody takes an attempt from
//! a living one.
//!
//! The other side's change is put right after each of the engine's shared writes in turn. A journal task's number is one that comes before its
//! change; a memory task has none, so there a take in the middle comes first only where the engine writes what it must not.

use std::cell::{Cell, RefCell};
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

use qtf_engine::{Effect, RejectReason};
use qtf_shm::layout::attach::AttachRole;
use qtf_shm::sync::kill::paused_after;
use qtf_shm::{
    Attachment, AttachmentSpec, Counter, FLAG_CANCEL, FLAG_TIMED_OUT, Key, KindSet, LocalWorker,
    LocalWorkerSpec, LockFile, Outcome, OutcomeKind, Phase, Segment, Taken, TaskId, TaskRecord,
};

use crate::attaches::ground;
use qtf_world::JournalWorld;
use qtf_world::{SECOND, World, finished};

const SPEC: LocalWorkerSpec<'static> = LocalWorkerSpec {
    name: "local",
    host: "here",
    kinds: KindSet::ALL,
    capacity: 1,
    losses_max: 3,
};

/// A local process for as long as this one lives: what happens in the middle of a call owns what it needs.
fn process(segment: &Segment) -> &'static LocalWorker<'static> {
    let folder = std::env::temp_dir();
    let spec = AttachmentSpec::new(AttachRole::Worker, "local", folder);
    let id = segment.shm_id().expect("it is the kernel's");
    let opened = Attachment::open_id(id, &spec).expect("an attach record is free");
    let opened: &'static Attachment = Box::leak(Box::new(opened));
    let worker = opened.join_as_worker(&SPEC).expect("a slot is free");
    Box::leak(Box::new(worker))
}

fn record(segment: &Segment, task: TaskId) -> TaskRecord {
    let reading = segment.read_task(task.slot());
    reading.expect("there is such a slot").record
}

/// What a call of the engine met in its middle.
#[derive(Default)]
struct Met {
    /// The take that was made there.
    taken: Option<Taken<'static>>,
    /// The task's key as it was taken.
    key: Option<Key>,
    /// The call needed that many writes.
    anything: bool,
}

/// Makes a call of the engine, and lets a local worker take what it can right after the call's write of that number.
fn with_a_take<T>(world: &mut World, writes: u32, call: impl FnOnce(&mut World) -> T) -> (T, Met) {
    let worker = process(world.segment());
    let segment = Arc::clone(world.engine.segment());
    let met = Rc::new(RefCell::new(Met::default()));
    let seen = Rc::clone(&met);
    let take = move || {
        let taken = worker.take();
        let key = taken.as_ref().map(|taken| segment.task(taken.slot()).key());
        *seen.borrow_mut() = Met {
            taken,
            key,
            anything: true,
        };
    };
    let answer = paused_after(writes, take, || call(world));
    (answer, met.take())
}

/// The fields that a take leaves alone, but for the key.
fn fields(record: &TaskRecord) -> (u64, Outcome, u64, u64) {
    (
        record.phase_time,
        record.outcome,
        record.result.len(),
        record.lsn,
    )
}

/// Memory and journal tasks: a call writes something before its change for the latter only.
fn worlds(of: impl Fn(&mut World, TaskId, u32) -> bool) {
    for is_journalled in [false, true] {
        for writes in 1.. {
            let is_over = if is_journalled {
                let mut world = JournalWorld::among_locals();
                let task = world.ready("exec");
                of(&mut world.world, task, writes)
            } else {
                let (mut world, local) = ground();
                let task = world.submit("exec");
                drop(local);
                of(&mut world, task, writes)
            };
            if is_over {
                assert!(writes > 3, "{writes} writes are too few to have met any");
                break;
            }
        }
    }
}

#[test]
fn cancellation_that_comes_second_to_a_take_flags_the_attempt_and_writes_nothing_of_it() {
    worlds(|world, task, writes| {
        let now = world.now;
        let before = record(world.segment(), task);
        let (answer, met) = with_a_take(world, writes, |world| {
            world.engine.cancel(now, task).map(|answer| answer.phase)
        });
        let after = record(world.segment(), task);
        let Some(taken) = met.taken else {
            assert_eq!(answer, Ok(Phase::Cancelled), "{writes}");
            assert_eq!(after.outcome.kind, OutcomeKind::Cancelled, "{writes}");
            return !met.anything;
        };
        assert_eq!(answer, Ok(Phase::Assigned), "{writes}");
        assert_eq!(
            (after.phase_time, after.outcome, after.key),
            (before.phase_time, before.outcome, before.key),
            "{writes}"
        );
        assert_eq!(taken.stop_flags(), FLAG_CANCEL);
        // It was done before it looked.
        let outcome = Outcome {
            kind: OutcomeKind::Exited,
            ..Outcome::default()
        };
        taken.finish(outcome, b"output").expect("its own attempt");
        world.settle();
        assert_eq!(record(world.segment(), task).outcome, outcome, "{writes}");
        world.verify();
        false
    });
}

#[test]
fn change_of_priority_that_comes_second_to_a_take_is_refused_and_writes_nothing_of_the_attempt() {
    worlds(|world, task, writes| {
        let now = world.now;
        let before = record(world.segment(), task);
        let (answer, met) = with_a_take(world, writes, |world| {
            world.engine.update_priority(now, task, 7)
        });
        let after = record(world.segment(), task);
        let priority = after.key.ready_priority();
        let Some(taken) = met.taken else {
            assert_eq!(answer.map(|answer| answer.phase), Ok(Phase::Ready));
            assert_eq!(priority, 7, "{writes}");
            world.verify();
            return !met.anything;
        };
        assert_eq!(Some(after.key), met.key, "{writes}");
        match answer {
            // Taken when it had its new priority.
            Ok(_) => assert_eq!(priority, 7, "{writes}"),
            Err(refused) => {
                assert_eq!(refused.reason, RejectReason::WrongState, "{writes}");
                assert_eq!(after.key, before.key, "{writes}");
                assert_eq!(fields(&after), fields(&before), "{writes}");
            }
        }
        taken.give_back();
        let head = world.segment().ready().locate();
        assert_eq!(head, Some((task.slot().get(), after.key)), "{writes}");
        world.settle();
        world.verify();
        false
    });
}

#[test]
fn change_of_priority_is_made_beside_a_worker_that_takes_the_task_and_gives_it_back() {
    worlds(|world, task, writes| {
        let worker = process(world.segment());
        let has_come = Rc::new(Cell::new(false));
        let comes = Rc::clone(&has_come);
        let take = move || {
            comes.set(true);
            if let Some(taken) = worker.take() {
                taken.give_back();
            }
        };
        let now = world.now;
        let answer = paused_after(writes, take, || world.engine.update_priority(now, task, 7));
        assert_eq!(answer.map(|answer| answer.phase), Ok(Phase::Ready));
        let key = record(world.segment(), task).key;
        assert_eq!(key.ready_priority(), 7, "{writes}");
        let head = world.segment().ready().locate();
        assert_eq!(head, Some((task.slot().get(), key)), "{writes}");
        world.verify();
        !has_come.get()
    });
}

#[test]
fn attempt_of_a_living_local_worker_is_flagged_when_its_time_is_over_and_ended_by_nobody() {
    let (mut world, local) = ground();
    let task = world
        .submit_with("exec", |submission| submission.timeout_ms = 60_000)
        .expect("accepted");
    let worker = local.join_as_worker(&SPEC).expect("a slot is free");
    let taken = worker.take().expect("a task waits");
    taken.start().expect("its own attempt");
    world.settle_for(59 * SECOND);
    assert_eq!(taken.stop_flags(), 0);
    let effects = world.settle_for(3_600 * SECOND);
    assert_eq!(taken.stop_flags(), FLAG_TIMED_OUT);
    assert_eq!(world.counter(Counter::TaskTimedOut), 1);
    // No worker is told: there is no connection, and it reads the flag itself.
    let stops = effects
        .iter()
        .filter(|&effect| matches!(effect, Effect::Stop { .. }));
    assert_eq!(stops.count(), 0);
    let state = world.segment().task(task.slot()).state();
    assert_eq!((state.phase(), state.fence()), (Phase::Running, 1));
    let outcome = Outcome {
        kind: OutcomeKind::TimedOut,
        ..Outcome::default()
    };
    taken.finish(outcome, b"").expect("its own attempt");
    assert_eq!(finished(&world.settle()), [(task, Phase::Failed)]);
    assert_eq!(world.outcome(task), outcome);
    world.verify();
}

#[test]
fn attempt_of_a_local_worker_that_says_not_now_is_made_again_after_the_pause_that_it_asks_for() {
    let (mut world, local) = ground();
    let task = world.submit("exec");
    let worker = local.join_as_worker(&SPEC).expect("a slot is free");
    let later = Outcome {
        kind: OutcomeKind::Again,
        ..Outcome::default()
    };
    for attempt in 1..=2 {
        let taken = worker.take().expect("a task waits");
        assert_eq!(taken.attempt(), attempt);
        taken
            .finish_for(later, b"", 90_000)
            .expect("its own attempt");
        world.settle_for(89 * SECOND);
        assert_eq!(world.phase(task), Phase::Delayed);
        world.settle_for(2 * SECOND);
        assert_eq!(world.phase(task), Phase::Ready);
    }
    // The slot says how the attempt before has ended, and the entry of this one counts all the same.
    let taken = worker.take().expect("a task waits");
    let well = Outcome {
        kind: OutcomeKind::Exited,
        ..Outcome::default()
    };
    taken.finish(well, b"output").expect("its own attempt");
    assert_eq!(finished(&world.settle()), [(task, Phase::Done)]);
    assert_eq!(world.outcome(task), well);
    world.verify();
}

#[test]
fn cancelled_attempt_of_a_living_local_worker_is_ended_by_nobody_else() {
    let (mut world, local) = ground();
    let task = world.submit("exec");
    let worker = local.join_as_worker(&SPEC).expect("a slot is free");
    let taken = worker.take().expect("a task waits");
    taken.start().expect("its own attempt");
    let now = world.now;
    let answer = world.engine.cancel(now, task).expect("it runs");
    assert_eq!(answer.phase, Phase::Running);
    world.settle_for(3_600 * SECOND);
    assert_eq!(world.phase(task), Phase::Running);
    let outcome = Outcome {
        kind: OutcomeKind::Cancelled,
        ..Outcome::default()
    };
    taken.finish(outcome, b"").expect("its own attempt");
    assert_eq!(finished(&world.settle()), [(task, Phase::Cancelled)]);
    world.verify();
}

#[test]
fn task_that_runs_at_most_once_is_a_dead_letter_when_a_local_worker_gives_it_back_half_done() {
    for is_cancelled in [false, true] {
        let (mut world, local) = ground();
        let task = world
            .submit_with("exec", |submission| submission.at_most_once = true)
            .expect("accepted");
        let worker = local.join_as_worker(&SPEC).expect("a slot is free");
        let taken = worker.take().expect("a task waits");
        // What was not begun is handed on.
        taken.give_back();
        let taken = worker.take().expect("it waits again");
        taken.start().expect("its own attempt");
        let now = world.now;
        if is_cancelled {
            world.engine.cancel(now, task).expect("it runs");
        }
        taken.give_back();
        let (phase, kind) = if is_cancelled {
            (Phase::Cancelled, OutcomeKind::Cancelled)
        } else {
            (Phase::DeadLetter, OutcomeKind::WorkerLost)
        };
        assert_eq!(finished(&world.settle()), [(task, phase)]);
        assert_eq!(world.outcome(task).kind, kind);
        assert_eq!(worker.state().running(), 0);
        world.verify();
        if !is_cancelled {
            world.engine.revive(now, task).expect("a person wants it");
            assert!(worker.take().is_some());
        }
    }
}

/// A local process that takes the daemon for dead: nobody holds its byte in the lock file.
fn who_sees_no_daemon(segment: &Segment, folder: &Path) -> Attachment {
    let file = folder.join("a.lock");
    std::fs::write(&file, "").expect("the folder can be written");
    let lock = LockFile::open(&file).expect("it is there");
    segment.set_lock_file(lock.identity());
    let spec = AttachmentSpec::new(AttachRole::Worker, "local", folder).with_lock_file(file);
    let id = segment.shm_id().expect("it is the kernel's");
    let opened = Attachment::open_id(id, &spec).expect("an attach record is free");
    assert!(!opened.daemon_lives());
    opened
}

#[test]
fn task_that_a_local_worker_brings_to_its_end_by_itself_is_counted_and_told_of_when_the_engine_meets_it()
 {
    for is_forgotten in [false, true] {
        let (mut world, _) = ground();
        let folder = tempfile::tempdir().expect("a temporary directory can be made");
        let local = who_sees_no_daemon(world.segment(), folder.path());
        let task = world.submit("exec");
        let worker = local.join_as_worker(&SPEC).expect("a slot is free");
        let taken = worker.take().expect("a task waits");
        let outcome = Outcome {
            kind: OutcomeKind::Exited,
            ..Outcome::default()
        };
        // It looked for a daemon just before this one was there.
        assert_eq!(taken.finish(outcome, b"output"), Ok(Phase::Done));
        let report = world.segment().verify();
        assert!(!report.broken(), "{report:#?}");
        if is_forgotten {
            let now = world.now;
            world.engine.forget(now, task).expect("it has ended");
            assert_eq!(finished(&world.settle()), [(task, Phase::Done)]);
            assert_eq!(world.counts(), (0, 0));
        } else {
            assert_eq!(finished(&world.settle()), [(task, Phase::Done)]);
            assert_eq!(world.counts(), (0, 1));
            assert_eq!(world.outcome(task), outcome);
        }
        world.verify();
    }
}

#[test]
fn take_beside_a_change_of_priority_gets_the_task_once_and_leaves_no_leaf_behind() {
    let mut taken_with = [0, 0];
    for writes in 1.. {
        let (mut world, _) = ground();
        let task = world.submit("exec");
        let worker = process(world.segment());
        let segment = Arc::clone(world.engine.segment());
        let world = Rc::new(RefCell::new(world));
        let has_come = Rc::new(Cell::new(false));
        let (changing, comes) = (Rc::clone(&world), Rc::clone(&has_come));
        let change = move || {
            comes.set(true);
            let mut world = changing.borrow_mut();
            let now = world.now;
            // Refused, if the take was quicker.
            let _ = world.engine.update_priority(now, task, 7);
        };
        let taken = paused_after(writes, change, || worker.take());
        let key = segment.task(task.slot()).key();
        match taken {
            Some(taken) => {
                taken_with[usize::from(key.ready_priority() == 7)] += 1;
                assert_eq!(segment.ready().locate(), None, "{writes}");
                assert_eq!(segment.ready().leaf(task.slot().get()), None, "{writes}");
                taken.give_back();
            }
            None => assert_eq!(
                key.ready_priority(),
                7,
                "{writes}: it was changed meanwhile"
            ),
        }
        let head = segment.ready().locate();
        assert_eq!(head, Some((task.slot().get(), key)), "{writes}");
        world.borrow_mut().settle();
        world.borrow().verify();
        if !has_come.get() {
            break;
        }
    }
    assert!(taken_with.iter().all(|&takes| takes > 0), "{taken_with:?}");
}

#[test]
fn take_that_a_drain_overtakes_is_counted_in_the_workers_word() {
    let mut overtaken = 0;
    for writes in 1.. {
        let (mut world, _) = ground();
        world.submit("exec");
        let worker = process(world.segment());
        let has_come = Rc::new(Cell::new(false));
        let (world, comes) = (Rc::new(RefCell::new(world)), Rc::clone(&has_come));
        let draining = Rc::clone(&world);
        let drain = move || {
            comes.set(true);
            let mut world = draining.borrow_mut();
            let now = world.now;
            world
                .engine
                .drain_worker(now, worker.id())
                .expect("it is there");
        };
        let taken = paused_after(writes, drain, || worker.take());
        let count = worker.state().running();
        assert_eq!(count, u16::from(taken.is_some()), "{writes}");
        if let Some(taken) = taken {
            overtaken += u32::from(worker.state().drains());
            taken.give_back();
            assert_eq!(worker.state().running(), 0, "{writes}");
        }
        world.borrow().verify();
        if !has_come.get() {
            break;
        }
    }
    assert!(overtaken > 0, "no drain came between a take and its count");
}
