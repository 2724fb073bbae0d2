//! Timeouts of attempts, as far as the engine enforces them.

use qtf_engine::{Disposition, Effect, StopReason};
use qtf_shm::{Counter, OutcomeKind, Phase, TaskId, WorkerId};

use crate::world::{MS, SECOND, World};

/// A running task with a timeout of one second and no grace but the engine's five.
fn running(world: &mut World, retries: u32) -> (WorkerId, TaskId, u8) {
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

fn stop((worker, task, attempt): (WorkerId, TaskId, u8), reason: StopReason) -> Effect {
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
fn attempt_that_the_engine_ended_is_a_failure_and_may_be_tried_again() {
    let mut world = World::new();
    let got = running(&mut world, 1);
    pass(&mut world, got.0, 13 * SECOND);
    let state = world.engine.check(got.1).unwrap();
    assert_eq!((state.phase(), state.attempt()), (Phase::Assigned, 2));
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
