//! Orders hold as long as what they are about: a worker is told again to stop an attempt, and to leave.

use qtf_engine::{Beat, Disposition, Effect, Held, Reconnect, StopReason, WorkerHello};
use qtf_shm::{Counter, OutcomeKind, Phase, TaskId, WorkerId};

use qtf_world::{Dispatched, MS, SECOND, World, finished, hello};

/// A world with one task that a worker holds, and that was cancelled since.
fn cancelled(is_started: bool) -> (World, Dispatched) {
    let mut world = World::new();
    world.submit("exec");
    world.worker(2, &["exec"]);
    let got = world.dispatch();
    if is_started {
        world.start(got);
    }
    let asked = world.engine.cancel(world.now, got.1);
    asked.expect("a held task can be cancelled");
    assert_eq!(stops(&world.effects()), [(got, StopReason::Cancelled)]);
    (world, got)
}

fn stops(effects: &[Effect]) -> Vec<(Dispatched, StopReason)> {
    let stop = |effect: &Effect| match *effect {
        Effect::Stop {
            worker,
            task,
            attempt,
            reason,
        } => Some(((worker, task, attempt), reason)),
        Effect::Dispatch { .. }
        | Effect::Probe { .. }
        | Effect::Evict { .. }
        | Effect::Drain { .. }
        | Effect::Finished { .. } => None,
    };
    effects.iter().filter_map(stop).collect()
}

fn drains(effects: &[Effect]) -> usize {
    let is_drain = |effect: &&Effect| matches!(effect, Effect::Drain { .. });
    effects.iter().filter(is_drain).count()
}

/// One heartbeat period, at whose end the worker beats.
fn heartbeat(world: &mut World, worker: WorkerId) -> Vec<Effect> {
    let mut effects = world.settle_for(SECOND);
    world.beat(worker, 1).expect("the worker is known");
    effects.extend(world.settle());
    effects
}

/// The worker's link was down: it introduces itself again, with what it holds.
fn come_back(world: &mut World, worker: WorkerId, task: TaskId) -> Vec<Effect> {
    let kinds = ["exec".to_owned()];
    let held = [Held {
        task_id: task.as_raw(),
        attempt: 1,
        finished: false,
    }];
    let hello = WorkerHello {
        reconnect: Some(Reconnect {
            worker_id: worker.as_raw(),
            token: world.segment().worker(worker.slot()).token(),
            segment_id: world.segment().header().segment_id,
        }),
        held: &held,
        ..hello(2, &kinds)
    };
    let welcome = world.engine.worker_hello(world.now, &hello);
    let welcome = welcome.expect("it is known");
    assert!(welcome.is_known && welcome.abandon.is_empty());
    world.settle()
}

#[test]
fn worker_of_a_cancelled_attempt_is_told_with_each_heartbeat_until_it_has_ended() {
    for is_started in [false, true] {
        let (mut world, got) = cancelled(is_started);
        for beat in 0..4 {
            let told = stops(&heartbeat(&mut world, got.0));
            assert_eq!(told, [(got, StopReason::Cancelled)], "{beat}");
            world.verify();
        }
        let said = world.report(got, OutcomeKind::Cancelled, 0);
        assert_eq!(said, Disposition::Recorded);
        assert_eq!(world.phase(got.1), Phase::Cancelled);
        assert_eq!(stops(&heartbeat(&mut world, got.0)), []);
        world.verify();
    }
}

#[test]
fn worker_that_comes_back_with_a_cancelled_attempt_is_told_at_once() {
    let (mut world, got) = cancelled(true);
    world.pass(MS);
    let effects = come_back(&mut world, got.0, got.1);
    assert_eq!(stops(&effects), [(got, StopReason::Cancelled)]);
    world.verify();
}

#[test]
fn attempt_that_was_cancelled_while_the_daemon_was_away_from_its_worker_is_stopped_when_that_is_back()
 {
    let mut world = World::new();
    let task = world.submit("exec");
    let worker = world.worker(2, &["exec"]);
    let got = world.dispatch();
    world.start(got);
    let mut world = world.restarted();
    world.engine.cancel(world.now, task).unwrap();
    // There is no connection to the worker: this goes nowhere.
    assert_eq!(stops(&world.settle()).len(), 1);
    world.pass(3 * SECOND);
    let effects = come_back(&mut world, worker, task);
    assert!(stops(&effects).contains(&(got, StopReason::Cancelled)));
    world.verify();
}

#[test]
fn attempt_that_was_cancelled_before_a_restart_is_stopped_after_it() {
    let (world, got) = cancelled(true);
    let mut world = world.restarted();
    let effects = come_back(&mut world, got.0, got.1);
    assert_eq!(stops(&effects), [(got, StopReason::Cancelled)]);
    let mut told = 0;
    while world.phase(got.1) == Phase::Running {
        told += stops(&heartbeat(&mut world, got.0)).len();
    }
    // The grace starts over, as the worker needs time to come back.
    assert_eq!(told, 5);
    world.verify();
}

#[test]
fn flagged_attempt_whose_timer_was_lost_is_found_by_the_sweep() {
    let (mut world, got) = cancelled(true);
    world.segment().unindex_timer(got.1.slot());
    let mut told = Vec::new();
    for _ in 0..2 {
        told.extend(stops(&heartbeat(&mut world, got.0)));
    }
    assert!(told.contains(&(got, StopReason::Cancelled)));
    world.verify();
}

#[test]
fn cancelled_attempt_ends_after_its_grace_whether_its_worker_says_so_or_not() {
    for is_started in [false, true] {
        let (mut world, got) = cancelled(is_started);
        let mut effects = Vec::new();
        for _ in 0..4 {
            effects.extend(heartbeat(&mut world, got.0));
        }
        assert_eq!(finished(&effects), []);
        effects.extend(heartbeat(&mut world, got.0));
        assert_eq!(finished(&effects), [(got.1, Phase::Cancelled)]);
        assert_eq!(
            stops(&effects).last(),
            Some(&(got, StopReason::Stale)),
            "{is_started}"
        );
        assert_eq!(world.outcome(got.1).kind, OutcomeKind::Cancelled);
        let state = world.segment().worker(got.0.slot()).state();
        assert_eq!(state.running(), 0);
        let late = world.end(got, 0);
        assert_ne!(late, Disposition::Recorded);
        assert_eq!(world.phase(got.1), Phase::Cancelled);
        world.verify();
    }
}

#[test]
fn asking_again_for_a_cancellation_does_not_prolong_the_grace() {
    let (mut world, got) = cancelled(true);
    for _ in 0..4 {
        heartbeat(&mut world, got.0);
        world.engine.cancel(world.now, got.1).unwrap();
    }
    heartbeat(&mut world, got.0);
    assert_eq!(world.phase(got.1), Phase::Cancelled);
}

#[test]
fn next_attempt_of_a_task_that_was_overdue_has_a_grace_of_its_own() {
    let mut world = World::new();
    let task = world
        .submit_with("exec", |submission| {
            submission.timeout_ms = 1_000;
            submission.retries = 1;
        })
        .unwrap();
    let worker = world.worker(2, &["exec"]);
    for attempt in 1..=2 {
        let mut got = Vec::new();
        while got.is_empty() {
            world.beat(worker, 0).unwrap();
            got = world.dispatches();
            world.pass(10 * MS);
        }
        assert_eq!(got, [(worker, task, attempt)]);
        world.start(got[0]);
        let mut told = Vec::new();
        for _ in 0..7 {
            told.extend(stops(&heartbeat(&mut world, worker)));
        }
        assert_eq!(told, [(got[0], StopReason::TimedOut); 2]);
        world.report(got[0], OutcomeKind::TimedOut, 0);
    }
    assert_eq!(world.phase(task), Phase::Failed);
    world.verify();
}

#[test]
fn many_flagged_attempts_are_told_within_the_bounds_of_a_cycle() {
    let mut world = World::new();
    let worker = world.worker(900, &["exec"]);
    let tasks: Vec<_> = (0..900).map(|_| world.submit("exec")).collect();
    loop {
        let got = world.dispatches();
        if got.is_empty() {
            break;
        }
        got.into_iter().for_each(|one| world.start(one));
    }
    for &task in &tasks {
        world.engine.cancel(world.now, task).unwrap();
        world.effects();
    }
    let told = stops(&heartbeat(&mut world, worker));
    assert_eq!(told.len(), 900);
    assert_eq!(world.engine.effect_overruns(), 0);
    assert_eq!(world.counter(Counter::TaskStopped), 900);
}

#[test]
fn worker_that_is_to_leave_is_told_with_each_heartbeat_until_it_says_that_it_does() {
    let mut world = World::new();
    let worker = world.worker(1, &["exec"]);
    world.engine.drain_worker(world.now, worker).unwrap();
    assert_eq!(drains(&world.effects()), 1);
    world.engine.drain_worker(world.now, worker).unwrap();
    assert_eq!(
        drains(&world.effects()),
        1,
        "who asks again has it told again"
    );
    for _ in 0..3 {
        assert_eq!(drains(&heartbeat(&mut world, worker)), 1);
        world.beat(worker, 0).unwrap();
        assert_eq!(drains(&world.settle()), 0, "once in a heartbeat period");
    }
    world.pass(SECOND);
    let beat = Beat {
        draining: true,
        ..Beat::default()
    };
    world.engine.worker_beat(world.now, worker, &beat).unwrap();
    assert_eq!(drains(&world.settle()), 0);
}

#[test]
fn worker_that_begins_what_was_taken_back_is_told_to_stop_it() {
    let mut world = World::new();
    world.submit("exec");
    let worker = world.worker(2, &["exec"]);
    let got = world.dispatch();
    // It has the order for longer than a lease, and its heartbeats say that it holds nothing.
    for _ in 0..8 {
        world.pass(SECOND);
        world.beat(worker, 0).expect("the worker is known");
        let effects = world.cycle();
        world.answer(&effects);
    }
    world.settle();
    let state = world.segment().state(got.1.slot());
    assert_eq!(state.fence(), 2, "it has gone out again: {state:?}");
    world.start(got);
    let told = stops(&world.effects());
    assert_eq!(told, [(got, StopReason::Stale)]);
}
