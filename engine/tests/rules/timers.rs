//! Timeouts of attempts, as far as the engine enforces them.

use qtf_engine::{Disposition, Effect, Held, Reconnect, StopReason, WorkerHello};
use qtf_shm::{Counter, OutcomeKind, Phase, TaskId, WorkerId};

use qtf_world::{MS, SECOND, World, hello};

/// A running task with a timeout of one second and no grace but the engine's five.
fn running(world: &mut World, retries: u32) -> (WorkerId, TaskId, u16) {
    world
        .submit_with("exec", |submission| {
            submission.timeout_ms = 1_000;
            submission.retries = retries;
        })
        .unwrap();
    world.worker(2, &["exec"]);
    let got = world.dispatch();
    world.start(got);
    got
}

fn stop((worker, task, attempt): (WorkerId, TaskId, u16), reason: StopReason) -> Effect {
    Effect::Stop {
        worker,
        task,
        attempt,
        reason,
    }
}

/// Lets time pass while the worker goes on giving signs of life; the stop orders that came.
fn pass(world: &mut World, worker: WorkerId, ns: u64) -> Vec<Effect> {
    let mut left = ns;
    let mut stops = Vec::new();
    while left > 0 {
        let step = left.min(SECOND);
        left -= step;
        world.pass(step);
        world.beat(worker, 1).unwrap();
        stops.extend(world.settle());
    }
    stops.retain(|effect| matches!(effect, Effect::Stop { .. }));
    stops
}

#[test]
fn worker_enforces_the_timeout_and_the_engine_stays_out_of_it() {
    let mut world = World::new();
    let got = running(&mut world, 0);
    assert_eq!(pass(&mut world, got.0, 2 * SECOND), []);
    let told = world.report(got, OutcomeKind::TimedOut, 0);
    assert_eq!(told, Disposition::Recorded);
    assert_eq!(world.phase(got.1), Phase::Failed);
    assert_eq!(world.outcome(got.1).kind, OutcomeKind::TimedOut);
    world.verify();
}

#[test]
fn after_timeout_and_grace_the_worker_is_ordered_to_stop() {
    let mut world = World::new();
    let got = running(&mut world, 0);
    assert_eq!(pass(&mut world, got.0, 6 * SECOND - MS), []);
    let stops = pass(&mut world, got.0, 2 * MS);
    assert_eq!(stops, [stop(got, StopReason::TimedOut)]);
    assert_eq!(world.phase(got.1), Phase::Running);
    assert_eq!(world.counter(Counter::TaskTimedOut), 1);
    let told = world.report(got, OutcomeKind::TimedOut, 0);
    assert_eq!(told, Disposition::Recorded);
    world.verify();
}

#[test]
fn after_another_grace_the_engine_ends_the_attempt_and_a_late_result_is_stale() {
    let mut world = World::new();
    let got = running(&mut world, 0);
    let stops = pass(&mut world, got.0, 12 * SECOND);
    let (last, before) = stops.split_last().unwrap();
    assert_eq!(*last, stop(got, StopReason::Stale));
    assert_eq!(before, [stop(got, StopReason::TimedOut); 5]);
    assert_eq!(world.phase(got.1), Phase::Failed);
    assert_eq!(world.outcome(got.1).kind, OutcomeKind::TimedOut);
    let state = world.segment().worker(got.0.slot()).state();
    assert_eq!(state.running(), 0);
    let told = world.report(got, OutcomeKind::TimedOut, 0);
    assert_eq!(told, Disposition::Stale);
    world.verify();
}

#[test]
fn success_that_comes_beyond_limit_and_grace_is_a_timeout_and_its_output_is_kept() {
    let mut world = World::new();
    let got = running(&mut world, 0);
    let stops = pass(&mut world, got.0, 7 * SECOND);
    assert!(stops.contains(&stop(got, StopReason::TimedOut)));
    let told = world.report(got, OutcomeKind::Exited, 0);
    assert_eq!(told, Disposition::Recorded);
    assert_eq!(world.phase(got.1), Phase::Failed);
    let outcome = world.outcome(got.1);
    assert_eq!((outcome.kind, outcome.code), (OutcomeKind::TimedOut, 0));
    let kept = world.segment().task(got.1.slot()).result();
    assert_eq!(kept.len(), "output".len() as u64);
    let told = world.report(got, OutcomeKind::Exited, 0);
    assert_eq!(told, Disposition::AlreadyRecorded);
    world.verify();
}

#[test]
fn success_beyond_limit_and_grace_is_a_timeout_also_when_nobody_has_looked_yet() {
    let mut world = World::new();
    let got = running(&mut world, 1);
    assert_eq!(pass(&mut world, got.0, 5 * SECOND), []);
    world.pass(SECOND);
    let told = world.report(got, OutcomeKind::Exited, 0);
    assert_eq!(told, Disposition::Recorded);
    assert_ne!(world.phase(got.1), Phase::Done, "it has a retry left");
    assert_eq!(world.segment().task(got.1.slot()).failures(), 1);
}

#[test]
fn success_within_the_grace_is_one_and_a_failure_stays_what_it_is() {
    let mut world = World::new();
    let got = running(&mut world, 0);
    pass(&mut world, got.0, 6 * SECOND - MS);
    assert_eq!(world.end(got, 0), Disposition::Recorded);
    assert_eq!(world.phase(got.1), Phase::Done);
    let got = running(&mut world, 0);
    pass(&mut world, got.0, 7 * SECOND);
    world.report(got, OutcomeKind::Exited, 3);
    assert_eq!(world.outcome(got.1).kind, OutcomeKind::Exited);
    assert_eq!(world.phase(got.1), Phase::Failed);
    world.verify();
}

#[test]
fn success_that_waited_for_its_worker_to_come_back_is_one_however_late_it_comes() {
    for finished in [false, true] {
        let mut world = World::new();
        let got = running(&mut world, 0);
        let mut world = world.restarted();
        // Nobody was there for longer than limit and grace; when the worker is back it has the result, or runs still.
        world.pass(4 * SECOND);
        world.settle();
        world.pass(3 * SECOND);
        let kinds = ["exec".to_owned()];
        let held = [Held {
            task_id: got.1.as_raw(),
            attempt: 1,
            finished,
        }];
        let hello = WorkerHello {
            reconnect: Some(Reconnect {
                worker_id: got.0.as_raw(),
                token: world.segment().worker(got.0.slot()).token(),
                segment_id: world.segment().header().segment_id,
            }),
            held: &held,
            ..hello(2, &kinds)
        };
        let welcome = world.engine.worker_hello(world.now, &hello);
        assert!(welcome.expect("it is known").is_known);
        assert_eq!(world.end(got, 0), Disposition::Recorded);
        let phase = match finished {
            true => Phase::Done,
            false => Phase::Failed,
        };
        assert_eq!(world.phase(got.1), phase);
        world.verify();
    }
}

#[test]
fn attempt_that_the_engine_ended_is_a_failure_and_may_be_tried_again() {
    let mut world = World::new();
    let got = running(&mut world, 1);
    pass(&mut world, got.0, 13 * SECOND);
    let state = world.engine.check(got.1).unwrap();
    assert_eq!((state.phase(), state.fence()), (Phase::Assigned, 2));
    let told = world.report(got, OutcomeKind::Exited, 0);
    assert_eq!(told, Disposition::Stale);
    assert_eq!(world.segment().task(got.1.slot()).failures(), 1);
}

#[test]
fn task_without_a_timeout_runs_as_long_as_it_likes() {
    let mut world = World::new();
    let task = world.submit("exec");
    let worker = world.worker(1, &["exec"]);
    let got = world.dispatch();
    world.start(got);
    assert_eq!(pass(&mut world, worker, 1_000 * SECOND), []);
    assert_eq!(world.phase(task), Phase::Running);
    assert_eq!(world.end(got, 0), Disposition::Recorded);
}

#[test]
fn timeout_counts_from_the_start_and_not_from_the_assignment() {
    let mut world = World::new();
    world
        .submit_with("exec", |submission| submission.timeout_ms = 1_000)
        .unwrap();
    let worker = world.worker(1, &["exec"]);
    let got = world.dispatch();
    assert_eq!(pass(&mut world, worker, 60 * SECOND), []);
    world.start(got);
    assert_eq!(pass(&mut world, worker, 5 * SECOND), []);
    assert_eq!(pass(&mut world, worker, 1_500 * MS).len(), 1);
}
