//! How long ended tasks are kept.

use qtf_engine::{EngineConfig, RejectReason};
use qtf_shm::{Counter, Phase};

use crate::world::{SECOND, World};

fn done(world: &mut World) -> qtf_shm::TaskId {
    let task = world.submit("exec");
    let got = world.dispatch();
    world.end(got, 0);
    world.effects();
    task
}

#[test]
fn result_is_kept_until_its_time_is_over_and_then_freed() {
    let mut world = World::new();
    world.worker(1, &["exec"]);
    let task = done(&mut world);
    world.settle_for(3_599 * SECOND);
    assert_eq!(world.phase(task), Phase::Done);
    world.settle_for(2 * SECOND);
    assert_eq!(
        world.engine.check(task).unwrap_err().reason,
        RejectReason::UnknownTask
    );
    assert_eq!(world.counts(), (0, 0));
    assert_eq!(world.counter(Counter::ResultExpired), 1);
    world.verify();
}

#[test]
fn forgotten_task_is_freed_at_once_and_cannot_be_forgotten_again() {
    let mut world = World::new();
    world.worker(1, &["exec"]);
    let task = done(&mut world);
    let now = world.now;
    world.engine.forget(now, task).unwrap();
    assert_eq!(world.counts(), (0, 0));
    let again = world.engine.forget(now, task).unwrap_err();
    assert_eq!(again.reason, RejectReason::UnknownTask);
    world.verify();
}

#[test]
fn unfinished_task_cannot_be_forgotten() {
    let mut world = World::new();
    let task = world.submit("exec");
    let now = world.now;
    let refused = world.engine.forget(now, task).unwrap_err();
    assert_eq!(refused.reason, RejectReason::WrongState);
    assert_eq!(world.phase(task), Phase::Ready);
}

#[test]
fn dead_lettered_task_is_kept_beyond_the_time_to_live() {
    let config = EngineConfig {
        losses_max: 0,
        ..EngineConfig::default()
    };
    let mut world = World::with(100, config);
    let task = world.submit("exec");
    let worker = world.worker(1, &["exec"]);
    world.dispatch();
    let now = world.now;
    world.engine.worker_gone(now, worker);
    world.settle();
    assert_eq!(world.phase(task), Phase::DeadLetter);
    world.settle_for(10_000 * SECOND);
    assert_eq!(world.phase(task), Phase::DeadLetter);
    assert_eq!(world.counts(), (0, 1));
    let now = world.now;
    world.engine.forget(now, task).unwrap();
    assert_eq!(world.counts(), (0, 0));
    world.verify();
}
