//! Attempts that their worker puts off ("not now"), and failures that it calls final.

use qtf_engine::{Disposition, Output, ResultReport, Said};
use qtf_shm::{FENCE_MAX, Outcome, OutcomeKind, Phase};

use qtf_world::{Dispatched, MS, SECOND, World, task_ref};

/// The worker puts its attempt off, for this long if it says so.
fn put_off(world: &mut World, got: Dispatched, pause_ns: Option<u64>) -> Disposition {
    let (worker, task, attempt) = got;
    let report = ResultReport {
        outcome: Outcome {
            kind: OutcomeKind::Again,
            ..Outcome::default()
        },
        output: Output::InMemory(b"output"),
        said: Said {
            message: "the bank is closed",
            stderr: b"",
        },
        asked_pause_ns: pause_ns,
    };
    let asked = task_ref(task, attempt);
    let answer = world.engine.task_result(world.now, worker, asked, &report);
    let _ = world.engine.worker_credits(world.now, worker, 1, false);
    answer.disposition
}

#[test]
fn task_that_is_put_off_comes_again_after_the_pause_its_worker_asked_for_and_has_not_failed() {
    let mut world = World::new();
    let task = world.submit("exec");
    world.worker(1, &["exec"]);
    let got = world.dispatch();
    let told = put_off(&mut world, got, Some(4 * SECOND));
    assert_eq!(told, Disposition::Recorded);
    assert_eq!(world.phase(task), Phase::Delayed);
    let slot = world.segment().task(task.slot());
    assert_eq!((slot.failures(), slot.losses()), (0, 0));
    assert_eq!(world.outcome(task).kind, OutcomeKind::Again);
    let again = put_off(&mut world, got, Some(SECOND));
    assert_eq!(again, Disposition::AlreadyRecorded);
    world.verify();
    world.settle_for(4 * SECOND - MS);
    assert_eq!(world.phase(task), Phase::Delayed);
    world.pass(2 * MS);
    let next = world.dispatch();
    assert_eq!((next.1, next.2), (task, 2));
    assert_eq!(world.end(next, 0), Disposition::Recorded);
    assert_eq!(world.phase(task), Phase::Done);
    world.verify();
}

#[test]
fn pause_that_nobody_asked_for_is_that_before_a_first_retry() {
    let mut world = World::new();
    let task = world.submit("exec");
    world.worker(1, &["exec"]);
    let got = world.dispatch();
    put_off(&mut world, got, None);
    let due = world.segment().task(task.slot()).phase_time();
    let pause = qtf_shm::Now::from_stamp(due).since_ns(world.now);
    let least = world.engine.config().retry_backoff_ns_min;
    assert!((least - MS..=least + least / 4).contains(&pause), "{pause}");
}

#[test]
fn what_the_worker_said_of_it_is_kept_as_that_of_a_failure_is_and_over_a_restart() {
    let mut world = World::new();
    let task = world.submit("exec");
    world.worker(1, &["exec"]);
    let got = world.dispatch();
    put_off(&mut world, got, Some(SECOND));
    let world = world.restarted();
    let kept = world.segment().attempts_kept(task).remove(0);
    assert_eq!((kept.attempt, kept.outcome.kind), (1, OutcomeKind::Again));
    assert_eq!(kept.message, "the bank is closed");
    assert_eq!(world.segment().task(task.slot()).result().len(), 0);
    world.verify();
}

#[test]
fn task_that_is_always_put_off_has_failed_with_its_last_attempt() {
    let mut world = World::new();
    let task = world.submit("exec");
    let worker = world.worker(1, &["exec"]);
    for attempt in 1..=FENCE_MAX {
        world.beat(worker, 0).unwrap();
        let got = world.dispatch();
        assert_eq!(got.2, attempt);
        put_off(&mut world, got, Some(MS));
        world.pass(2 * MS);
    }
    assert_eq!(world.phase(task), Phase::Failed);
    assert_eq!(world.outcome(task).kind, OutcomeKind::Again);
    world.verify();
}

#[test]
fn task_that_runs_at_most_once_has_failed_when_it_is_put_off() {
    let mut world = World::new();
    let once = world.submit_with("exec", |task| task.at_most_once = true);
    let once = once.unwrap();
    world.worker(1, &["exec"]);
    let got = world.dispatch();
    put_off(&mut world, got, Some(SECOND));
    assert_eq!(world.phase(once), Phase::Failed);
    world.verify();
}

#[test]
fn task_that_is_cancelled_while_it_is_put_off_is_cancelled() {
    let mut world = World::new();
    let task = world.submit("exec");
    world.worker(1, &["exec"]);
    let got = world.dispatch();
    put_off(&mut world, got, Some(SECOND));
    world.engine.cancel(world.now, task).unwrap();
    assert_eq!(world.phase(task), Phase::Cancelled);
    world.verify();
}

#[test]
fn failure_that_its_worker_calls_final_is_not_retried() {
    let mut world = World::new();
    let task = world.submit_with("exec", |task| task.retries = 9).unwrap();
    world.worker(1, &["exec"]);
    let got = world.dispatch();
    let told = world.report(got, OutcomeKind::FailedForGood, 65);
    assert_eq!(told, Disposition::Recorded);
    assert_eq!(world.phase(task), Phase::Failed);
    assert_eq!(world.segment().task(task.slot()).failures(), 1);
    assert_eq!(world.outcome(task).code, 65);
    world.verify();
}
