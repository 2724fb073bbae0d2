//! Cancellation of waiting and of running tasks.

use qtf_engine::{Disposition, Effect, RejectReason, StopReason};
use qtf_shm::{OutcomeKind, Phase, TaskId};

use qtf_world::{World, finished};

fn cancel(world: &mut World, task: TaskId) -> Result<Phase, RejectReason> {
    world
        .engine
        .cancel(world.now, task)
        .map(|answer| answer.phase)
        .map_err(|refused| refused.reason)
}

#[test]
fn ready_task_is_cancelled_at_once_and_leaves_the_task_heap() {
    let mut world = World::new();
    let task = world.submit("exec");
    assert_eq!(cancel(&mut world, task), Ok(Phase::Cancelled));
    assert_eq!(world.outcome(task).kind, OutcomeKind::Cancelled);
    assert_eq!(finished(&world.effects()), [(task, Phase::Cancelled)]);
    world.worker(1, &["exec"]);
    assert_eq!(world.dispatches(), []);
    assert_eq!(world.counts(), (0, 1));
    world.verify();
}

#[test]
fn delayed_and_parked_tasks_are_cancelled_at_once() {
    let mut world = World::new();
    world.worker(1, &["exec"]);
    let parked = world.submit("render");
    let delayed = world
        .submit_with("exec", |submission| submission.delay_ms = 1_000)
        .unwrap();
    world.settle();
    assert_eq!(world.phase(parked), Phase::Blocked);
    for task in [parked, delayed] {
        assert_eq!(cancel(&mut world, task), Ok(Phase::Cancelled));
    }
    world.verify();
    world.worker(9, &["render"]);
    assert_eq!(world.dispatches(), []);
}

#[test]
fn running_task_is_flagged_and_its_worker_told_each_time_it_is_asked_for() {
    let mut world = World::new();
    let task = world
        .submit_with("exec", |submission| submission.retries = 5)
        .unwrap();
    let worker = world.worker(1, &["exec"]);
    let got = world.dispatch();
    world.start(got);
    for _ in 0..2 {
        assert_eq!(cancel(&mut world, task), Ok(Phase::Running));
        assert_eq!(
            world.effects(),
            [Effect::Stop {
                worker,
                task,
                attempt: 1,
                reason: StopReason::Cancelled
            }]
        );
    }
    let told = world.report(got, OutcomeKind::Cancelled, 0);
    assert_eq!(told, Disposition::Recorded);
    assert_eq!(world.phase(task), Phase::Cancelled);
    assert_eq!(finished(&world.effects()), [(task, Phase::Cancelled)]);
    let again = world.report(got, OutcomeKind::Cancelled, 0);
    assert_eq!(again, Disposition::AlreadyRecorded);
    world.verify();
}

#[test]
fn task_that_succeeds_in_spite_of_its_cancellation_is_done() {
    let mut world = World::new();
    let task = world.submit("exec");
    world.worker(1, &["exec"]);
    let got = world.dispatch();
    cancel(&mut world, task).unwrap();
    world.end(got, 0);
    assert_eq!(world.phase(task), Phase::Done);
}

#[test]
fn flagged_task_whose_worker_is_lost_is_cancelled_and_not_run_again() {
    let mut world = World::new();
    let task = world.submit("exec");
    let worker = world.worker(1, &["exec"]);
    world.dispatch();
    cancel(&mut world, task).unwrap();
    let now = world.now;
    world.engine.worker_gone(now, worker);
    world.settle();
    assert_eq!(world.phase(task), Phase::Cancelled);
    world.verify();
}

#[test]
fn cancelling_twice_is_the_same_and_ended_or_unknown_tasks_are_refused() {
    let mut world = World::new();
    let task = world.submit("exec");
    assert_eq!(cancel(&mut world, task), Ok(Phase::Cancelled));
    assert_eq!(cancel(&mut world, task), Ok(Phase::Cancelled));
    let done = world.submit("exec");
    world.worker(1, &["exec"]);
    let got = world.dispatch();
    world.end(got, 0);
    assert_eq!(cancel(&mut world, done), Err(RejectReason::WrongState));
    let never = TaskId::new(1 << 34, done.slot());
    assert_eq!(cancel(&mut world, never), Err(RejectReason::UnknownTask));
    let beyond = TaskId::from_raw((1 << 24) | 0xFF_FFFF).unwrap();
    assert_eq!(cancel(&mut world, beyond), Err(RejectReason::UnknownTask));
}
