//! Rules of how a journal task goes: its slot and its files stay until the record of that is durable, so whoever comes
//! after a crash finds the whole of it, or nothing.

use std::sync::Arc;

use qtf_engine::snapshot::{Unreadable, WholeTasks};
use qtf_engine::{Durability, EngineConfig, Output, Payload, RejectReason, ResultReport, WallTime};
use qtf_journal::AppenderLimits;
use qtf_shm::{Counter, Outcome, OutcomeKind, Part, Phase, TaskId};

use qtf_world::JournalWorld;
use qtf_world::{MS, SECOND, task_ref};

static OUTPUT: [u8; 100_000] = [7; 100_000];

/// A task that is done, with an output in a file; everything is durable and told.
fn done(world: &mut JournalWorld) -> TaskId {
    world.worker(1, &["exec"]);
    let task = world.ready("exec");
    let got = world.dispatch();
    let report = ResultReport {
        said: qtf_engine::Said::default(),
        outcome: Outcome {
            kind: OutcomeKind::Exited,
            ..Outcome::default()
        },
        output: Output::Stored(world.segment().spill().store(&OUTPUT).unwrap()),
        asked_pause_ns: None,
    };
    let now = world.now;
    world
        .engine
        .task_result(now, got.0, task_ref(task, got.2), &report);
    world.sync();
    assert_eq!(world.ends(), [(task, Phase::Done)]);
    task
}

/// The output of a task as a client would fetch it.
fn assert_is_whole(world: &JournalWorld, task: TaskId) {
    let mut output = vec![0; OUTPUT.len()];
    let read = world.segment().load(task, Part::Result, 0, &mut output);
    assert_eq!(read.unwrap(), OUTPUT.len());
    assert_eq!(output, OUTPUT);
}

fn files(world: &JournalWorld) -> usize {
    world.segment().spill().files().unwrap().len()
}

#[test]
fn forgotten_task_keeps_slot_and_output_until_that_is_durable() {
    let mut world = JournalWorld::new();
    let task = done(&mut world);
    let answer = world.forget(task).unwrap();
    assert_eq!(
        (answer.phase, answer.durable),
        (Phase::Done, Some(world.last()))
    );
    world.settle();
    world.write();
    assert_eq!(world.phase(task), Phase::Done, "nothing else is told yet");
    assert_is_whole(&world, task);
    world.tell();
    assert!(world.engine.check(task).is_err());
    assert_eq!(world.segment().state(task.slot()).phase(), Phase::Free);
    world.remove_lost_files();
    assert_eq!(files(&world), 0);
    assert_eq!(world.counts(), (0, 0));
    world.verify();
}

#[test]
fn task_whose_forgetting_was_not_written_is_back_whole_after_a_reboot() {
    let mut world = JournalWorld::new();
    let task = done(&mut world);
    world.forget(task).unwrap();
    world.settle();
    world.remove_lost_files();
    let world = world.cold_restart();
    assert_eq!(world.phase(task), Phase::Done);
    assert_is_whole(&world, task);
    world.verify();
}

#[test]
fn forgetting_that_a_kill_has_cut_off_is_brought_to_its_end_by_the_next_daemon() {
    let mut world = JournalWorld::new();
    let task = done(&mut world);
    world.forget(task).unwrap();
    let mut world = world.hot_restart();
    assert_eq!(world.phase(task), Phase::Done, "it is not durable");
    world.settle();
    world.sync();
    assert!(world.engine.check(task).is_err());
    assert_eq!(world.segment().state(task.slot()).phase(), Phase::Free);
    world.verify();
    let mut world = world.cold_restart();
    assert!(world.engine.check(task).is_err());
    world.segment().remove_lost_spills();
    assert_eq!(files(&world), 0);
    world.settle();
    world.verify();
}

#[test]
fn forgetting_that_is_durable_and_was_not_told_is_not_undone_by_a_kill() {
    let mut world = JournalWorld::new();
    let task = done(&mut world);
    world.forget(task).unwrap();
    assert!(world.write());
    let mut world = world.hot_restart();
    assert!(world.engine.check(task).is_err(), "the journal says so");
    let refused = world.forget(task).unwrap_err();
    assert_eq!(refused.reason, RejectReason::UnknownTask);
    world.sync();
    world.settle_for(60 * SECOND);
    assert_eq!(world.segment().state(task.slot()).phase(), Phase::Free);
    world.verify();
}

#[test]
fn slot_is_given_to_nobody_else_before_its_release_is_durable() {
    let mut world = JournalWorld::with(qtf_world::unshared());
    let task = done(&mut world);
    world.forget(task).unwrap();
    let memory = |world: &mut JournalWorld| {
        let taken = world.take_in("render", |task| task.durability = Durability::Memory);
        taken.ok().map(|taken| taken.task)
    };
    let others: Vec<TaskId> = std::iter::from_fn(|| memory(&mut world))
        .take(300)
        .collect();
    assert!(others.len() < 300, "all slots are taken");
    assert!(others.iter().all(|other| other.slot() != task.slot()));
    world.sync();
    let next = memory(&mut world).unwrap();
    assert_eq!(next.slot(), task.slot(), "the only free one");
    assert!(next.generation() > task.generation());
    world.verify();
}

#[test]
fn whoever_forgets_a_task_once_more_waits_for_the_same_record() {
    let mut world = JournalWorld::new();
    let task = done(&mut world);
    let answer = world.forget(task).unwrap();
    assert_eq!(world.forget(task), Ok(answer));
    assert_eq!(answer.durable, Some(world.last()));
    world.sync();
    assert!(world.forget(task).is_err());
}

#[test]
fn result_that_expires_goes_with_its_record_too() {
    let mut world = JournalWorld::new();
    let task = done(&mut world);
    world.settle_for(3_601 * SECOND);
    assert_eq!(world.counter(Counter::ResultExpired), 1);
    assert_eq!(world.phase(task), Phase::Done);
    assert_eq!(world.engine.awaited_lsn(), None, "nobody waits for that");
    let mut world = world.cold_restart();
    assert_is_whole(&world, task);
    world.settle_for(3_601 * SECOND);
    world.sync();
    assert!(world.engine.check(task).is_err());
    world.verify();
}

#[test]
fn purged_dead_letter_cannot_be_revived_any_more() {
    let mut world = JournalWorld::with(EngineConfig {
        losses_max: 0,
        ..EngineConfig::default()
    });
    let worker = world.worker(1, &["exec"]);
    let task = world.ready("exec");
    world.dispatch();
    world.lose(worker);
    world.settle();
    world.sync();
    assert_eq!(world.ends(), [(task, Phase::DeadLetter)]);
    world.forget(task).unwrap();
    let now = world.now;
    let refused = world.engine.revive(now, task).unwrap_err();
    assert_eq!(refused.reason, RejectReason::WrongState);
    world.sync();
    assert!(world.engine.check(task).is_err());
    world.verify();
}

#[test]
fn who_asks_for_the_end_of_a_task_that_is_being_forgotten_is_told_it() {
    let mut world = JournalWorld::new();
    let task = done(&mut world);
    world.forget(task).unwrap();
    let settled = world.engine.settled_end(task).unwrap();
    world.sync();
    let ends = world.ends();
    assert!(settled == Some(Phase::Done) || ends == [(task, Phase::Done)]);
}

#[test]
fn snapshot_leaves_out_what_is_forgotten_and_waits_for_the_record_of_that() {
    let mut world = JournalWorld::new();
    let task = done(&mut world);
    let kept = world.ready("render");
    world.forget(task).unwrap();
    let forgotten = world.last();
    let wall = WallTime {
        now: world.now,
        unix_ms: world.wall_ms + world.now.ns / MS,
    };
    let mut whole_tasks = WholeTasks::new(Arc::clone(world.engine.segment()), wall);
    let mut seen = Vec::new();
    let end = whole_tasks.end();
    let count = whole_tasks.read::<Unreadable>(0..end, |whole| {
        seen.push(whole.id);
        Ok(())
    });
    assert_eq!((count.unwrap(), seen), (1, vec![kept]));
    assert_eq!(whole_tasks.highest(), forgotten);
}

#[test]
fn forgetting_whose_record_found_no_room_is_made_up_for_by_the_sweep() {
    let mut world = JournalWorld::new();
    let task = done(&mut world);
    world.forget(task).unwrap();
    // As it is when the reserve was full.
    qtf_world::written(world.segment(), task.slot()).set_lsn(qtf_journal::LSN_MAX);
    let refused = world.forget(task).unwrap_err();
    assert_eq!(refused.reason, RejectReason::JournalFull);
    world.settle_for(60 * SECOND);
    world.sync();
    assert!(world.engine.check(task).is_err());
    world.verify();
}

#[test]
fn number_that_the_daemon_before_gave_a_record_says_nothing_until_the_task_is_journalled_again() {
    let mut world = JournalWorld::new();
    let bytes = vec![7; 4_000];
    for _ in 0..60 {
        let taken = world.take_in("render", |task| task.payload = Payload::Bytes(&bytes));
        taken.unwrap();
    }
    let [ended, forgotten] = [(); 2].map(|()| {
        let task = world.ready("render");
        world.cancel(task).unwrap();
        world.sync();
        task
    });
    world.forget(forgotten).unwrap();
    let first = world.durable().next();
    // More than a group was not written when the daemon was killed; the next one gives these numbers to other records.
    for number in 0..60 {
        let slot = world.segment().slot(number).unwrap();
        qtf_world::written(world.segment(), slot).set_lsn(qtf_journal::LSN_MAX);
    }
    for task in [ended, forgotten] {
        qtf_world::written(world.segment(), task.slot()).set_lsn(first.get());
    }
    let limits = AppenderLimits {
        group_bytes: 0,
        reserve_bytes: 0,
    };
    let mut world = world.hot_restart_with(limits);
    world.sync();
    assert!(world.engine.is_adopting() && world.durable() > first);
    assert_eq!(world.engine.settled_end(ended), Ok(None));
    let refused = world.cancel(ended).unwrap_err();
    assert_eq!(refused.reason, RejectReason::JournalFull);
    let refused = world.forget(forgotten).unwrap_err();
    assert_eq!(refused.reason, RejectReason::JournalFull, "not unknown");
    for _ in 0..100 {
        world.sync();
        world.cycle();
    }
    assert!(!world.engine.is_adopting());
    assert_eq!(world.engine.settled_end(ended), Ok(Some(Phase::Cancelled)));
    assert!(world.engine.check(forgotten).is_err());
    let world = world.cold_restart();
    assert!(world.engine.check(forgotten).is_err());
    world.verify();
}

#[test]
fn memory_task_is_gone_at_once() {
    let mut world = JournalWorld::new();
    let taken = world.take_in("render", |task| task.durability = Durability::Memory);
    let task = taken.unwrap().task;
    world.cancel(task).unwrap();
    world.forget(task).unwrap();
    assert_eq!(world.segment().state(task.slot()).phase(), Phase::Free);
}
