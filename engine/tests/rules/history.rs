//! Rules about what is kept of attempts: each that failed or was lost, with what its worker said, over any restart of the daemon.

use qtf_engine::{Disposition, Output, ResultReport, Said};
use qtf_shm::{KeptAttempt, Outcome, OutcomeKind, Phase, TaskId};

use qtf_world::{Dispatched, SECOND, World, task_ref};

fn fails_saying(world: &mut World, (worker, task, attempt): Dispatched, code: u8, said: Said<'_>) {
    let report = ResultReport {
        outcome: Outcome {
            kind: OutcomeKind::Exited,
            code,
            result_dropped: false,
            output_cut: false,
        },
        output: Output::Bytes(b"output"),
        said,
        asked_pause_ns: None,
    };
    let answer = world
        .engine
        .task_result(world.now, worker, task_ref(task, attempt), &report);
    assert_eq!(answer.disposition, Disposition::Recorded);
    let _ = world.engine.worker_credits(world.now, worker, 1, false);
}

fn kept(world: &World, task: TaskId) -> Vec<KeptAttempt> {
    world.segment().attempts_kept(task)
}

/// Attempts, how they ended, and with which code.
fn ends(world: &World, task: TaskId) -> Vec<(u16, OutcomeKind, u8)> {
    let end = |kept: &KeptAttempt| (kept.attempt, kept.outcome.kind, kept.outcome.code);
    kept(world, task).iter().map(end).collect()
}

#[test]
fn each_failed_attempt_is_kept_with_worker_time_and_what_was_said() {
    let mut world = World::new();
    let worker = world.worker(1, &["k"]);
    let task = world.submit_with("k", |task| task.retries = 1).unwrap();
    let first = world.dispatch();
    world.start(first);
    let said = Said {
        message: "why",
        stderr: b"no such input\n",
    };
    fails_saying(&mut world, first, 3, said);
    let ended = world.now.stamp();
    let expected = KeptAttempt {
        attempt: 1,
        worker: Some(worker),
        worker_name: world.segment().worker(worker.slot()).name(),
        ended,
        outcome: Outcome {
            kind: OutcomeKind::Exited,
            code: 3,
            result_dropped: false,
            output_cut: false,
        },
        message: "why".to_owned(),
        stderr_tail: b"no such input\n".to_vec(),
    };
    assert_eq!(kept(&world, task), [expected]);
}

#[test]
fn attempts_that_succeed_or_were_cancelled_are_not_kept() {
    let mut world = World::new();
    world.worker(1, &["k"]);
    for code in [0, 9] {
        let task = world.submit("k");
        let attempt = world.dispatch();
        world.start(attempt);
        if code != 0 {
            world.engine.cancel(world.now, task).unwrap();
        }
        fails_saying(&mut world, attempt, code, Said::default());
        assert_eq!(ends(&world, task), []);
    }
}

#[test]
fn lost_attempts_are_kept_and_told_from_failed_ones() {
    let mut world = World::new();
    let task = world.submit_with("k", |task| task.retries = 0).unwrap();
    for _ in 0..2 {
        let worker = world.worker(1, &["k"]);
        let attempt = world.dispatch();
        world.start(attempt);
        world.engine.worker_gone(world.now, worker);
        world.settle();
    }
    let lost = |attempt| (attempt, OutcomeKind::WorkerLost, 0);
    assert_eq!(ends(&world, task), [lost(1), lost(2)]);
    world.worker(1, &["k"]);
    let third = world.dispatch();
    fails_saying(&mut world, third, 7, Said::default());
    assert_eq!(world.phase(task), Phase::Failed);
    let failed = (3, OutcomeKind::Exited, 7);
    assert_eq!(ends(&world, task), [lost(1), lost(2), failed]);
}

#[test]
fn attempt_that_was_given_back_is_no_failure() {
    let mut world = World::new();
    let worker = world.worker(1, &["k"]);
    let task = world.submit("k");
    world.dispatch();
    world.engine.worker_goodbye(world.now, worker);
    world.settle();
    assert_eq!(world.phase(task), Phase::Ready);
    assert_eq!(ends(&world, task), []);
}

#[test]
fn burial_is_kept_as_the_loss_that_it_is() {
    let mut world = World::new();
    let once = world.submit_with("k", |task| task.at_most_once = true);
    let once = once.unwrap();
    let worker = world.worker(1, &["k"]);
    let attempt = world.dispatch();
    world.start(attempt);
    world.engine.worker_gone(world.now, worker);
    world.settle();
    assert_eq!(world.phase(once), Phase::DeadLetter);
    assert_eq!(ends(&world, once), [(1, OutcomeKind::WorkerLost, 0)]);
}

#[test]
fn attempt_that_the_engine_ends_itself_is_kept_without_a_text() {
    let mut world = World::new();
    world.worker(1, &["k"]);
    let task = world
        .submit_with("k", |task| task.timeout_ms = 1_000)
        .unwrap();
    let attempt = world.dispatch();
    world.start(attempt);
    for _ in 0..20 {
        world.pass(SECOND);
        let _ = world.beat(attempt.0, 1);
        let effects = world.settle();
        world.answer(&effects);
    }
    assert_eq!(world.phase(task), Phase::Failed);
    let [kept] = kept(&world, task).try_into().unwrap();
    assert_eq!(kept.outcome.kind, OutcomeKind::TimedOut);
    assert_eq!((kept.message.as_str(), kept.stderr_tail.len()), ("", 0));
}

#[test]
fn history_outlives_the_daemon() {
    let mut world = World::new();
    world.worker(1, &["k"]);
    let task = world.submit_with("k", |task| task.retries = 1).unwrap();
    let first = world.dispatch();
    let said = Said {
        stderr: b"one\n",
        ..Said::default()
    };
    fails_saying(&mut world, first, 3, said);
    let before = kept(&world, task);
    assert_eq!(before.len(), 1);
    let world = world.restarted();
    assert_eq!(kept(&world, task), before);
    assert!(!world.segment().verify().broken());
}
