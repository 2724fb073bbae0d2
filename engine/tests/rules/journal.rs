//! Rules of journal tasks while the daemon lives: what waits for which record.

use qtf_engine::{Disposition, Durability, EngineConfig, RejectReason};
use qtf_journal::AppenderLimits;
use qtf_shm::{Counter, OutcomeKind, Phase};

use qtf_world::JournalWorld;
use qtf_world::{MS, SECOND, dispatched, finished};

#[test]
fn submission_waits_for_its_record_and_is_ready_when_that_is_durable() {
    let mut world = JournalWorld::new();
    let worker = world.worker(4, &["exec"]);
    let accepted = world.submit_journal("exec");
    assert_eq!(accepted.durability, Durability::Journal);
    assert_eq!(accepted.durable, Some(world.last()));
    assert_eq!(world.phase(accepted.task), Phase::Submitted);
    assert!(world.dispatches().is_empty(), "not before it is durable");
    assert!(world.write());
    assert!(world.dispatches().is_empty(), "not before the engine knows");
    world.tell();
    assert!(accepted.durable.unwrap() <= world.durable());
    assert_eq!(world.dispatches(), [(worker, accepted.task, 1)]);
    world.verify();
}

#[test]
fn best_means_journal_and_memory_tasks_wait_for_nothing() {
    let mut world = JournalWorld::new();
    world.worker(4, &["exec"]);
    let memory = world
        .take_in("exec", |task| task.durability = Durability::Memory)
        .unwrap();
    assert_eq!(
        (memory.durability, memory.durable),
        (Durability::Memory, None)
    );
    let last = world.last();
    let got = world.dispatch();
    assert_eq!(world.end(got, 0), Disposition::Recorded);
    assert_eq!(world.ends(), [(memory.task, Phase::Done)]);
    assert_eq!(world.last(), last, "a memory task leaves no record");
    let best = world.submit_journal("exec");
    assert_eq!(best.durability, Durability::Journal);
    world.verify();
}

#[test]
fn tasks_are_accepted_in_the_order_of_their_records_and_only_as_far_as_durable() {
    let mut world = JournalWorld::new();
    let first = world.submit_journal("exec");
    assert!(world.write());
    let second = world.submit_journal("exec");
    assert!(!world.write(), "one group at a time");
    world.tell();
    assert_eq!(world.phase(first.task), Phase::Ready);
    assert_eq!(world.phase(second.task), Phase::Submitted);
    world.sync();
    assert_eq!(world.phase(second.task), Phase::Ready);
    world.worker(1, &["exec"]);
    assert_eq!(world.dispatch().1, first.task);
}

#[test]
fn many_waits_are_served_over_several_cycles_and_none_is_forgotten() {
    let mut world = JournalWorld::with(EngineConfig {
        tasks_per_cycle_max: 4,
        ..EngineConfig::default()
    });
    let tasks: Vec<_> = (0..100)
        .map(|_| world.submit_journal("exec").task)
        .collect();
    world.sync();
    let ready = |world: &JournalWorld| {
        tasks
            .iter()
            .filter(|&&task| world.phase(task) == Phase::Ready)
            .count()
    };
    assert_eq!(ready(&world), 16, "four for each task of a cycle");
    assert_eq!(world.engine.next_deadline(), Some(world.now));
    world.settle();
    assert_eq!(ready(&world), 100);
    world.verify();
}

#[test]
fn delayed_task_is_delayed_when_durable_and_its_delay_counts_from_the_submission() {
    let mut world = JournalWorld::new();
    world.worker(1, &["exec"]);
    let late = world.take_in("exec", |task| task.delay_ms = 1_000).unwrap();
    world.pass(400 * MS);
    world.sync();
    assert_eq!(world.phase(late.task), Phase::Delayed);
    assert!(dispatched(&world.settle_for(590 * MS)).is_empty());
    assert_eq!(dispatched(&world.settle_for(20 * MS)).len(), 1);
    let overdue = world.take_in("exec", |task| task.delay_ms = 5).unwrap();
    world.pass(10 * MS);
    world.sync();
    assert_eq!(world.phase(overdue.task), Phase::Ready);
    world.verify();
}

#[test]
fn outcome_waits_for_its_record_while_the_worker_is_free_at_once() {
    let mut world = JournalWorld::new();
    world.worker(1, &["exec"]);
    let task = world.ready("exec");
    let next = world.ready("exec");
    let got = world.dispatch();
    let answer = world.result(got, 0, b"output");
    assert_eq!(answer.disposition, Disposition::Recorded);
    assert_eq!(answer.durable, Some(world.last()));
    assert_eq!(world.phase(task), Phase::Ended);
    assert_eq!(world.engine.settled_end(task), Ok(None));
    world.verify();
    world.grant(got.0);
    assert_eq!(world.dispatch().1, next, "its worker has room again");
    assert!(world.ends().is_empty());
    world.sync();
    assert_eq!(world.phase(task), Phase::Done);
    assert_eq!(world.engine.settled_end(task), Ok(Some(Phase::Done)));
    assert_eq!(world.ends(), [(task, Phase::Done)]);
    world.verify();
}

#[test]
fn repeated_result_waits_for_the_same_record() {
    let mut world = JournalWorld::new();
    world.worker(1, &["exec"]);
    let task = world.ready("exec");
    let got = world.dispatch();
    let first = world.result(got, 0, b"");
    let again = world.result(got, 0, b"");
    assert_eq!(again.disposition, Disposition::AlreadyRecorded);
    assert_eq!(again.durable, first.durable);
    world.sync();
    let after = world.result(got, 0, b"");
    assert_eq!(
        (after.disposition, after.durable),
        (Disposition::AlreadyRecorded, None)
    );
    assert_eq!(world.ends(), [(task, Phase::Done)]);
}

#[test]
fn retry_is_recorded_and_nobody_waits_for_it() {
    let mut world = JournalWorld::new();
    world.worker(1, &["exec"]);
    let task = world.take_in("exec", |task| task.retries = 1).unwrap().task;
    world.sync();
    let got = world.dispatch();
    let before = world.last();
    let answer = world.result(got, 1, b"");
    assert_eq!(
        (answer.disposition, answer.durable),
        (Disposition::Recorded, None)
    );
    assert!(world.last() > before);
    assert_eq!(world.phase(task), Phase::Delayed);
    let again = world.result(got, 1, b"");
    assert_eq!(
        (again.disposition, again.durable),
        (Disposition::AlreadyRecorded, None)
    );
    world.grant(got.0);
    let got = dispatched(&world.settle_for(SECOND))[0];
    assert_eq!(got.2, 2);
    assert!(world.result(got, 1, b"").durable.is_some());
    world.sync();
    assert_eq!(world.ends(), [(task, Phase::Failed)]);
    world.verify();
}

#[test]
fn cancelled_before_its_submission_is_durable_it_never_runs_and_is_told_when_that_is_durable() {
    let mut world = JournalWorld::new();
    world.worker(1, &["exec"]);
    let accepted = world.submit_journal("exec");
    let answer = world.cancel(accepted.task).unwrap();
    assert_eq!(answer.phase, Phase::Cancelled);
    assert!(answer.durable > accepted.durable);
    assert_eq!(world.cancel(accepted.task), Ok(answer), "asked again");
    assert!(world.settle().is_empty());
    assert_eq!(world.engine.settled_end(accepted.task), Ok(None));
    world.sync();
    assert_eq!(world.phase(accepted.task), Phase::Cancelled);
    assert_eq!(world.ends(), [(accepted.task, Phase::Cancelled)]);
    assert_eq!(world.cancel(accepted.task).unwrap().durable, None);
    world.verify();
}

#[test]
fn submission_that_becomes_durable_after_its_cancellation_changes_nothing() {
    let mut world = JournalWorld::new();
    let accepted = world.submit_journal("exec");
    assert!(world.write());
    world.cancel(accepted.task).unwrap();
    world.tell();
    assert_eq!(world.phase(accepted.task), Phase::Cancelled);
    assert!(world.ends().is_empty());
    world.sync();
    assert_eq!(world.ends(), [(accepted.task, Phase::Cancelled)]);
    world.verify();
}

#[test]
fn ended_task_cannot_be_cancelled_while_its_outcome_waits() {
    let mut world = JournalWorld::new();
    world.worker(1, &["exec"]);
    let task = world.ready("exec");
    let got = world.dispatch();
    world.result(got, 0, b"");
    let refused = world.cancel(task).unwrap_err();
    assert_eq!(refused.reason, RejectReason::WrongState);
    let refused = world.forget(task).unwrap_err();
    assert_eq!(refused.reason, RejectReason::WrongState);
    world.sync();
    assert_eq!(world.ends(), [(task, Phase::Done)]);
}

#[test]
fn cancellation_of_a_running_task_waits_for_its_record_and_so_does_the_end() {
    let mut world = JournalWorld::new();
    world.worker(1, &["exec"]);
    let task = world.ready("exec");
    let got = world.dispatch();
    world.start(got);
    let answer = world.cancel(task).unwrap();
    assert_eq!(
        (answer.phase, answer.durable),
        (Phase::Running, Some(world.last()))
    );
    assert_eq!(world.cancel(task), Ok(answer), "asked again");
    world.report(got, OutcomeKind::Cancelled, 0);
    let again = world.cancel(task).unwrap();
    assert_eq!(again.phase, Phase::Cancelled);
    assert_eq!(again.durable, Some(world.last()));
    world.settle();
    world.sync();
    assert_eq!(world.phase(task), Phase::Cancelled);
    assert_eq!(world.ends(), [(task, Phase::Cancelled)]);
    world.verify();
}

#[test]
fn worker_lost_while_an_outcome_waits_loses_nothing() {
    let mut world = JournalWorld::new();
    let worker = world.worker(2, &["exec"]);
    let (done, held) = (world.ready("exec"), world.ready("exec"));
    let got = world.dispatches();
    world.result(got[0], 0, b"output");
    world.lose(worker);
    let effects = world.settle();
    assert!(finished(&effects).is_empty());
    assert_eq!(world.phase(done), Phase::Ended);
    assert_eq!(world.phase(held), Phase::Ready);
    world.verify();
    world.sync();
    assert_eq!(world.ends(), [(done, Phase::Done)]);
    let record = world.segment().read_task(done.slot()).unwrap().record;
    let mut output = [0; 6];
    let part = qtf_shm::Part::Result;
    assert_eq!(
        world
            .segment()
            .load_blob(&record, part, 0, &mut output)
            .unwrap(),
        6
    );
    assert_eq!(&output, b"output");
    world.verify();
}

#[test]
fn dead_letter_and_cancellation_by_a_loss_are_told_when_durable() {
    let mut world = JournalWorld::with(EngineConfig {
        losses_max: 0,
        ..EngineConfig::default()
    });
    let worker = world.worker(2, &["exec"]);
    let (poison, stopped) = (world.ready("exec"), world.ready("exec"));
    world.dispatches();
    world.cancel(stopped).unwrap();
    world.sync();
    world.lose(worker);
    assert!(world.ends().is_empty());
    assert_eq!(world.phase(poison), Phase::DeadLetter);
    assert_eq!(world.phase(stopped), Phase::Cancelled);
    assert_eq!(world.engine.settled_end(poison), Ok(None));
    world.sync();
    let mut ends = world.ends();
    ends.sort_unstable_by_key(|end| end.0);
    assert_eq!(
        ends,
        [(poison, Phase::DeadLetter), (stopped, Phase::Cancelled)]
    );
    world.verify();
}

#[test]
fn end_that_is_told_after_its_task_was_forgotten_is_told_all_the_same() {
    let mut world = JournalWorld::new();
    let task = world.ready("exec");
    world.cancel(task).unwrap();
    world.forget(task).unwrap();
    assert!(world.ends().is_empty());
    world.sync();
    // Told with its own record, and to those who asked while it was being forgotten.
    let ends = world.ends();
    assert!(!ends.is_empty());
    assert!(ends.iter().all(|end| *end == (task, Phase::Cancelled)));
}

#[test]
fn expired_result_leaves_a_record_and_nobody_waits() {
    let mut world = JournalWorld::new();
    world.worker(1, &["exec"]);
    let task = world.ready("exec");
    let got = world.dispatch();
    world.result(got, 0, b"");
    world.sync();
    let before = world.last();
    world.settle_for(3_601 * SECOND);
    assert_eq!(world.last(), before.next());
    assert_eq!(world.engine.awaited_lsn(), None);
    world.sync();
    assert!(world.engine.check(task).is_err());
}

#[test]
fn unwanted_result_frees_the_slot_when_its_outcome_is_durable() {
    let mut world = JournalWorld::new();
    world.worker(1, &["exec"]);
    let taken = world.take_in("exec", |task| task.discard_result = true);
    let task = taken.unwrap().task;
    world.sync();
    let got = world.dispatch();
    world.result(got, 0, b"output");
    assert_eq!(world.phase(task), Phase::Ended);
    assert_eq!(world.engine.settled_end(task), Ok(None));
    world.sync();
    assert_eq!(world.ends(), [(task, Phase::Done)]);
    assert!(world.engine.check(task).is_err());
    assert_eq!(world.engine.settled_end(task), Ok(Some(Phase::Done)));
    world.verify();
}

#[test]
fn attempt_that_outlives_its_timeout_ends_with_a_record() {
    let mut world = JournalWorld::new();
    world.worker(1, &["exec"]);
    let taken = world.take_in("exec", |task| task.timeout_ms = 100);
    let task = taken.unwrap().task;
    world.sync();
    let got = world.dispatch();
    world.start(got);
    for _ in 0..15 {
        world.beat(got.0, 1).unwrap();
        world.settle_for(SECOND);
    }
    assert_eq!(world.phase(task), Phase::Ended);
    world.verify();
    world.sync();
    assert_eq!(world.ends(), [(task, Phase::Failed)]);
    assert_eq!(world.outcome(task).kind, OutcomeKind::TimedOut);
    world.verify();
}

#[test]
fn priority_of_a_waiting_task_is_recorded() {
    let mut world = JournalWorld::new();
    let task = world.ready("exec");
    let now = world.now;
    let answer = world.engine.update_priority(now, task, 7).unwrap();
    assert_eq!(
        (answer.phase, answer.durable),
        (Phase::Ready, Some(world.last()))
    );
}

#[test]
fn first_ids_are_given_when_their_reservation_is_durable() {
    let mut world = JournalWorld::unsynced(EngineConfig::default(), AppenderLimits::default());
    for durability in [Durability::Memory, Durability::Journal] {
        let refused = world
            .take_in("exec", |task| task.durability = durability)
            .unwrap_err();
        assert_eq!(refused.reason, RejectReason::IdsExhausted);
        assert!(refused.retry_after_ms > 0);
    }
    world.sync();
    let limit = world.segment().gen_limit();
    assert_eq!(limit, world.engine.reserved_generations());
    assert!(world.submit_journal("exec").task.generation() < limit);
    assert_eq!(world.counter(Counter::IdsReserved), 1);
}

#[test]
fn ids_are_reserved_long_before_they_run_out() {
    let mut world = JournalWorld::new();
    let step = 1 << 20;
    let limit = world.segment().gen_limit();
    assert!(limit >= step);
    // A limit that is near, as after months.
    let mut near = world.submit_journal("exec").task.generation();
    world.segment().set_gen_limit(near + 2);
    let mut world = world.hot_restart();
    world.sync();
    assert!(world.segment().gen_limit() >= near + step);
    near = world.submit_journal("exec").task.generation();
    assert!(near < world.segment().gen_limit());
}

#[test]
fn failed_journal_promises_nothing_any_more() {
    let mut world = JournalWorld::new();
    let waiting = world.submit_journal("exec");
    let ready = world.submit_journal("exec");
    world.engine.journal_failed();
    let refused = world.take_in("exec", |_| ()).unwrap_err();
    assert_eq!(refused.reason, RejectReason::JournalFailed);
    let refused = world.cancel(ready.task).unwrap_err();
    assert_eq!(refused.reason, RejectReason::JournalFailed);
    world.settle_for(10 * SECOND);
    assert_eq!(world.phase(waiting.task), Phase::Submitted);
}
