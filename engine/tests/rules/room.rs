//! Rules of a journal that has little room: submissions are refused first, then nothing more is handed out; what runs
//! may finish, and everything goes on when there is room again.

use qtf_engine::{Disposition, Durability, EngineConfig, RejectReason};
use qtf_journal::{AppenderLimits, RECORD_BYTES_MAX};
use qtf_shm::{Counter, Phase, TaskId};

use qtf_world::JournalWorld;
use qtf_world::SECOND;

#[test]
fn submissions_leave_the_reserve_alone_and_memory_tasks_go_on() {
    let mut world = JournalWorld::new();
    world.engine.set_journal_room(100_000, 100_000);
    for durability in [Durability::Best, Durability::Journal] {
        let refused = world
            .take_in("exec", |task| task.durability = durability)
            .unwrap_err();
        assert_eq!(refused.reason, RejectReason::JournalFull);
        assert!(refused.retry_after_ms > 0);
    }
    assert_eq!(world.counter(Counter::RefusedJournalFull), 2);
    let memory = world.take_in("exec", |task| task.durability = Durability::Memory);
    assert!(memory.is_ok());
    world.engine.set_journal_room(102_000, 100_000);
    world.submit_journal("exec");
    world.verify();
}

#[test]
fn what_waits_to_be_written_counts_as_used_room() {
    let mut world = JournalWorld::new();
    world.engine.set_journal_room(10_000, 0);
    let mut taken = 0;
    while world.take_in("exec", |_| ()).is_ok() {
        taken += 1;
    }
    assert!((10..60).contains(&taken), "{taken}");
    world.verify();
}

#[test]
fn running_tasks_finish_into_the_reserve_and_waiting_ones_wait_for_room() {
    let mut world = JournalWorld::new();
    world.worker(2, &["exec"]);
    let tasks: Vec<_> = (0..4).map(|_| world.ready("exec")).collect();
    let got = world.dispatches();
    assert_eq!(got.len(), 2);
    // Holds the outcomes of the two that run, and no third.
    world.engine.set_journal_room(2_000 + 25_000, 100_000);
    for &one in &got {
        world.grant(one.0);
    }
    for &one in &got {
        let answer = world.result(one, 0, b"output");
        assert_eq!(answer.disposition, Disposition::Recorded);
    }
    world.engine.set_journal_room(600 + 25_000, 100_000);
    world.sync();
    assert!(world.dispatches().is_empty());
    assert!(world.counter(Counter::DispatchPutOff) > 0);
    assert_eq!(world.phase(tasks[0]), Phase::Done);
    let now = world.now;
    let refused = world.engine.update_priority(now, tasks[3], 9).unwrap_err();
    assert_eq!(refused.reason, RejectReason::JournalFull);
    world.engine.set_journal_room(400, 100_000);
    let refused = world.cancel(tasks[3]).unwrap_err();
    assert_eq!(refused.reason, RejectReason::JournalFull);
    let refused = world.forget(tasks[0]).unwrap_err();
    assert_eq!(refused.reason, RejectReason::JournalFull);
    assert_eq!(world.phase(tasks[0]), Phase::Done);
    world.engine.set_journal_room(1 << 20, 1_000);
    assert_eq!(world.dispatches().len(), 2);
    assert!(world.cancel(tasks[3]).is_ok());
    assert!(world.forget(tasks[0]).is_ok());
    world.verify();
}

#[test]
fn what_lets_tasks_go_is_taken_where_results_find_no_room_any_more() {
    let mut world = JournalWorld::new();
    world.worker(3, &["exec"]);
    let tasks: Vec<_> = (0..4).map(|_| world.ready("exec")).collect();
    let got = world.dispatches();
    assert_eq!(got.len(), 3);
    world.result(got[0], 0, b"output");
    world.sync();
    // Nothing but the part that results leave alone.
    world.engine.set_journal_room(25_000, 100_000);
    let put_off = world.result(got[1], 0, b"output");
    assert_eq!(put_off.disposition, Disposition::NotNow);
    assert!(world.forget(got[0].1).is_ok());
    assert!(world.cancel(tasks[3]).is_ok());
    assert!(world.cancel(got[2].1).is_ok());
    world.sync();
    assert_eq!(world.phase(tasks[3]), Phase::Cancelled);
    world.engine.set_journal_room(1 << 20, 100_000);
    let recorded = world.result(got[1], 0, b"output");
    assert_eq!(recorded.disposition, Disposition::Recorded);
    world.verify();
}

#[test]
fn result_that_finds_no_room_is_put_off_and_counts_when_it_is_reported_again() {
    let mut world = JournalWorld::new();
    world.worker(1, &["exec"]);
    let task = world.ready("exec");
    let got = world.dispatch();
    world.start(got);
    world.sync();
    world.engine.set_journal_room(1_000, 0);
    let output = [7; 2_000];
    let answer = world.result(got, 0, &output);
    assert_eq!(
        (answer.disposition, answer.durable),
        (Disposition::NotNow, None)
    );
    assert_eq!(world.phase(task), Phase::Running);
    assert_eq!(world.counter(Counter::ResultPutOff), 1);
    world.verify();
    world.engine.set_journal_room(1 << 20, 0);
    assert_eq!(
        world.result(got, 0, &output).disposition,
        Disposition::Recorded
    );
    world.sync();
    assert_eq!(world.ends(), [(task, Phase::Done)]);
}

#[test]
fn larger_outcomes_keep_more_room_for_those_that_run() {
    let mut world = JournalWorld::new();
    world.worker(1, &["exec"]);
    let (room, output) = (20_000, vec![7; 30_000]);
    for _ in 0..40 {
        world.engine.set_journal_room(1 << 20, 0);
        world.ready("exec");
        let got = world.dispatch();
        world.result(got, 0, &output);
        world.sync();
        world.grant(got.0);
        let task = got.1;
        world.forget(task).unwrap();
        world.sync();
    }
    world.ready("exec");
    world.engine.set_journal_room(room, 0);
    assert!(world.dispatches().is_empty(), "its outcome may take 30,000");
    world.engine.set_journal_room(1 << 20, 0);
    assert_eq!(world.dispatches().len(), 1);
}

#[test]
fn full_group_refuses_submissions_and_takes_outcomes() {
    let limits = AppenderLimits {
        group_bytes: RECORD_BYTES_MAX,
        reserve_bytes: RECORD_BYTES_MAX,
    };
    let mut world = JournalWorld::unsynced(EngineConfig::default(), limits);
    world.sync();
    world.worker(4, &["exec"]);
    for _ in 0..4 {
        world.ready("exec");
    }
    let got = world.dispatches();
    let bytes = vec![7; 30_000];
    let mut taken = 0;
    let refused = loop {
        let answer = world.take_in("exec", |task| {
            task.payload = qtf_engine::Payload::Bytes(&bytes);
        });
        match answer {
            Ok(_) => taken += 1,
            Err(refused) => break refused,
        }
    };
    assert_eq!(refused.reason, RejectReason::JournalFull);
    assert_eq!(taken, 5, "so many fit into a group");
    for &one in &got {
        assert_eq!(
            world.result(one, 0, &bytes).disposition,
            Disposition::Recorded
        );
    }
    // The reserve has an end, too.
    world.sync();
    assert_eq!(world.ends().len(), 4);
    world.verify();
}

#[test]
fn change_whose_record_found_no_room_is_journalled_by_the_sweep() {
    let mut world = JournalWorld::new();
    let task = world.ready("exec");
    // As a change does that finds the reserve full.
    qtf_world::written(world.segment(), task.slot()).set_lsn(qtf_journal::LSN_MAX);
    world.settle_for(60 * SECOND);
    assert_eq!(world.counter(Counter::TaskJournalledAgain), 1);
    assert_eq!(world.segment().task(task.slot()).lsn(), world.last().get());
    world.settle_for(60 * SECOND);
    assert_eq!(world.counter(Counter::TaskJournalledAgain), 1);
}

#[test]
fn expiry_waits_for_room() {
    let mut world = JournalWorld::new();
    let task = world.ready("exec");
    world.cancel(task).unwrap();
    world.sync();
    world.engine.set_journal_room(100, 0);
    world.settle_for(3_700 * SECOND);
    assert_eq!(world.phase(task), Phase::Cancelled);
    world.engine.set_journal_room(1 << 20, 0);
    world.settle_for(2 * SECOND);
    world.sync();
    assert!(world.engine.check(task).is_err());
}

#[test]
fn nobody_waits_for_a_record_that_found_no_room_but_asks_again() {
    let mut world = JournalWorld::new();
    let key = qtf_shm::KeyId::from_words([3, 4]).unwrap();
    let taken = world.take_in("exec", |task| task.key = Some(key));
    let task = taken.unwrap().task;
    world.sync();
    world.cancel(task).unwrap();
    world.sync();
    // What is left when a change is not in the journal: the highest lsn there is.
    qtf_world::written(world.segment(), task.slot()).set_lsn(qtf_journal::LSN_MAX);
    let refused = world.cancel(task).unwrap_err();
    assert_eq!(refused.reason, RejectReason::JournalFull);
    let repeat = world.take_in("exec", |task| task.key = Some(key));
    assert_eq!(repeat.unwrap_err().reason, RejectReason::JournalFull);
    // The sweep journals it again.
    world.settle_for(120 * SECOND);
    world.sync();
    let answer = world.cancel(task).unwrap();
    assert!(answer.durable.is_none_or(|lsn| lsn <= world.last()));
    let repeat = world.take_in("exec", |task| task.key = Some(key)).unwrap();
    assert_eq!((repeat.task, repeat.is_repeat), (task, true));
    assert!(repeat.durable.is_none_or(|lsn| lsn <= world.last()));
}

/// A task that the journal has nothing to do with.
fn memory(world: &mut JournalWorld, kind: &str) -> TaskId {
    let taken = world.take_in(kind, |task| task.durability = Durability::Memory);
    taken.expect("accepted").task
}

#[test]
fn memory_tasks_do_not_wait_behind_journal_tasks_that_wait_for_room() {
    let mut world = JournalWorld::new();
    let (first, second) = (world.ready("exec"), world.ready("exec"));
    let behind = memory(&mut world, "exec");
    world.engine.set_journal_room(600, 100_000);
    let worker = world.worker(1, &["exec"]);
    assert_eq!(world.dispatch().1, behind);
    assert_eq!(world.phase(first), Phase::Blocked);
    assert_eq!(world.phase(second), Phase::Blocked);
    world.verify();
    // The sweep lets them wait.
    world.beat(worker, 1).unwrap();
    world.settle_for(SECOND);
    assert_eq!(world.phase(first), Phase::Blocked);
    let later = memory(&mut world, "exec");
    world.end((worker, behind, 1), 0);
    world.engine.set_journal_room(1 << 20, 1_000);
    for expected in [first, second, later] {
        let got = world.dispatch();
        assert_eq!(got.1, expected, "each at its old place in the order");
        world.result(got, 0, b"");
        world.grant(worker);
    }
    assert_eq!(world.counter(Counter::DispatchPutOff), 2);
    world.verify();
}

#[test]
fn room_for_one_lets_the_best_go_and_the_others_are_not_touched() {
    let mut world = JournalWorld::new();
    let tasks: Vec<TaskId> = (0..100).map(|_| world.ready("exec")).collect();
    let worker = world.worker(2, &["exec"]);
    world.engine.set_journal_room(600, 0);
    assert!(world.dispatches().is_empty());
    assert_eq!(world.counter(Counter::DispatchPutOff), 100);
    let now = world.now;
    world
        .engine
        .update_priority(now, tasks[70], 200)
        .unwrap_err();
    world.engine.set_journal_room(1 << 20, 0);
    world.engine.update_priority(now, tasks[70], 200).unwrap();
    world.sync();
    let mut order = Vec::new();
    for _ in 0..10 {
        // Holds one outcome and the records before it.
        world.engine.set_journal_room(1_200, 0);
        let got = world.dispatches();
        assert_eq!(got.len(), 1, "{order:?}");
        order.push(got[0].1);
        world.engine.set_journal_room(1 << 20, 0);
        world.result(got[0], 0, b"");
        world.sync();
        world.grant(worker);
        world.engine.set_journal_room(600, 0);
        assert!(world.dispatches().is_empty());
    }
    assert_eq!(
        order[0], tasks[70],
        "its priority was raised while it waited"
    );
    assert_eq!(order[1..], tasks[..9]);
    assert!(world.counter(Counter::DispatchPutOff) <= 120, "no churn");
    world.verify();
}

#[test]
fn task_that_waits_for_room_can_be_cancelled_and_the_next_daemon_knows_the_others() {
    let mut world = JournalWorld::new();
    let tasks: Vec<TaskId> = (0..3).map(|_| world.ready("exec")).collect();
    world.worker(3, &["exec"]);
    world.engine.set_journal_room(600, 0);
    assert!(world.dispatches().is_empty());
    world.engine.set_journal_room(1 << 20, 0);
    world.cancel(tasks[0]).unwrap();
    world.sync();
    world.engine.set_journal_room(600, 0);
    let mut world = world.hot_restart();
    world.engine.set_journal_room(600, 0);
    world.worker(3, &["exec"]);
    assert!(world.dispatches().is_empty());
    assert_eq!(world.phase(tasks[1]), Phase::Blocked);
    world.engine.set_journal_room(1 << 20, 0);
    world.sync();
    let got: Vec<TaskId> = world.dispatches().iter().map(|got| got.1).collect();
    assert_eq!(got, tasks[1..]);
    world.verify();
}
