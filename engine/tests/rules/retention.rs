//! How long ended tasks are kept.

use std::sync::Arc;

use qtf_engine::{Engine, EngineConfig, RejectReason};
use qtf_shm::{Counter, Geometry, Now, Phase, Segment, SegmentSpec, TaskId};

use qtf_world::{SECOND, World};

fn done(world: &mut World) -> TaskId {
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
fn end_that_is_acknowledged_at_once_never_enters_the_timer_heap_and_one_that_stays_does_after_a_second()
 {
    let mut world = World::new();
    world.worker(4, &["exec"]);
    let [gone, kept] = [done(&mut world), done(&mut world)];
    let leaf = |world: &World, task: TaskId| world.segment().timers().leaf(task.slot().get());
    assert_eq!([leaf(&world, gone), leaf(&world, kept)], [None, None]);
    let ended = world.now;
    world.engine.forget(ended, gone).unwrap();
    world.settle_for(SECOND - 1_000);
    assert_eq!(leaf(&world, kept), None);
    world.settle_for(1_000);
    assert_eq!(
        [leaf(&world, gone), leaf(&world, kept)].map(|leaf| leaf.is_some()),
        [false, true]
    );
    let over = ended.plus_ns(3_600 * SECOND).stamp();
    assert_eq!(leaf(&world, kept).unwrap().timed_stamp(), over);
    assert_eq!(
        world.counter(Counter::LeafRestored),
        0,
        "the sweep had nothing to mend"
    );
    world.verify();
}

#[test]
fn task_that_has_the_slot_of_an_acknowledged_one_gets_no_leaf_for_the_end_of_that() {
    let mut world = World::of_one(2);
    world.worker(4, &["exec"]);
    let first = done(&mut world);
    let now = world.now;
    world.engine.forget(now, first).unwrap();
    world.pass(SECOND / 2);
    let next = [done(&mut world), done(&mut world)];
    let next = next
        .into_iter()
        .find(|next| next.slot() == first.slot())
        .unwrap();
    world.settle_for(SECOND / 2 + 1_000);
    assert_eq!(world.segment().timers().leaf(next.slot().get()), None);
    world.settle_for(SECOND);
    assert!(world.segment().timers().leaf(next.slot().get()).is_some());
    world.verify();
}

#[test]
fn of_more_ends_than_are_remembered_the_oldest_get_their_leaves_at_once() {
    let mut world = World::of_one(20_000);
    let ended: Vec<TaskId> = (0..18_000)
        .map(|_| {
            let task = world.submit("exec");
            let now = world.now;
            world.engine.cancel(now, task).unwrap();
            world.effects();
            task
        })
        .collect();
    let has_leaf = |task: &TaskId| world.segment().timers().leaf(task.slot().get()).is_some();
    let (before, after) = ended.split_at(18_000 - 16_384);
    assert!(before.iter().all(has_leaf));
    assert!(!after.iter().any(has_leaf));
    world.settle_for(2 * SECOND);
    let has_leaf = |task: &TaskId| world.segment().timers().leaf(task.slot().get()).is_some();
    assert!(ended.iter().all(has_leaf));
    assert_eq!(world.counter(Counter::LeafRestored), 0);
}

#[test]
fn result_that_is_kept_for_less_than_two_seconds_expires_in_time() {
    let mut world = World::new();
    world.worker(1, &["exec"]);
    let task = world
        .submit_with("exec", |task| task.keep_ms = 1_000)
        .unwrap();
    let got = world.dispatch();
    world.end(got, 0);
    world.effects();
    let leaf = world.segment().timers().leaf(task.slot().get()).unwrap();
    assert_eq!(leaf.timed_stamp(), world.now.plus_ns(SECOND).stamp());
    world.settle_for(SECOND);
    assert!(world.engine.check(task).is_err());
}

#[test]
fn failed_result_is_kept_longer_and_what_a_submission_asked_for_as_long_as_it_asked() {
    let mut world = World::new();
    world.worker(4, &["exec"]);
    let mut ended = |keep_ms, code| {
        let task = world
            .submit_with("exec", |task| task.keep_ms = keep_ms)
            .unwrap();
        let got = world.dispatch();
        world.end(got, code);
        task
    };
    let (failed, short, long) = (ended(0, 3), ended(1_500, 3), ended(90_000_000, 0));
    world.settle_for(SECOND);
    assert_eq!(world.phase(short), Phase::Failed);
    world.settle_for(SECOND);
    assert!(world.engine.check(short).is_err());
    world.settle_for(86_390 * SECOND);
    assert_eq!(world.phase(failed), Phase::Failed);
    world.settle_for(20 * SECOND);
    assert!(world.engine.check(failed).is_err());
    assert_eq!(world.phase(long), Phase::Done);
    world.settle_for(3_600 * SECOND);
    assert!(world.engine.check(long).is_err());
    assert_eq!(world.counter(Counter::ResultExpired), 3);
    assert_eq!(world.counter(Counter::FailedExpired), 2);
    world.verify();
}

#[test]
fn result_that_expired_is_told_from_a_task_that_never_was_also_after_a_restart() {
    let mut world = World::of_one(2);
    world.worker(1, &["exec"]);
    world.engine.set_wall(world.now, 1_800_000_000_000);
    let task = world
        .submit_with("exec", |task| task.keep_ms = 1_000)
        .unwrap();
    let got = world.dispatch();
    world.end(got, 3);
    world.settle_for(10 * SECOND);
    let told = |world: &World| world.engine.check(task).unwrap_err();
    assert_eq!(told(&world).reason, RejectReason::UnknownTask);
    let text = told(&world).to_string();
    assert!(
        text.contains("was failed, and its result expired at 2027-01-15T08:00:0"),
        "{text}"
    );
    let mut world = world.restarted();
    assert_eq!(told(&world).to_string(), text);
    // Also when the slot is another task's by now.
    let next = [world.submit("exec"), world.submit("exec")];
    let next = next.into_iter().find(|next| next.slot() == task.slot());
    let next = next.unwrap();
    assert_eq!(told(&world).reason, RejectReason::StaleTask);
    assert!(told(&world).to_string().contains("its result expired"));
    let now = world.now;
    world.engine.cancel(now, next).unwrap();
    world.engine.forget(now, next).unwrap();
    let text = world.engine.check(next).unwrap_err().to_string();
    assert!(text.contains("is not known"), "{text}");
}

#[test]
fn success_whose_result_expired_has_ended_well_for_whoever_waits_and_every_call_says_that_it_expired()
 {
    let mut world = World::of_one(2);
    world.worker(1, &["exec"]);
    world.engine.set_wall(world.now, 1_800_000_000_000);
    let ends = [0, 3].map(|code| {
        let task = world
            .submit_with("exec", |task| task.keep_ms = 1_000)
            .unwrap();
        let got = world.dispatch();
        world.end(got, code);
        task
    });
    world.settle_for(10 * SECOND);
    let [done, failed] = ends;
    assert_eq!(world.engine.settled_end(done), Ok(Some(Phase::Done)));
    assert!(world.engine.settled_end(failed).is_err());
    assert!(world.engine.has_expired_done(done) && !world.engine.has_expired_done(failed));
    let now = world.now;
    let engine = &mut world.engine;
    let told = [
        engine.cancel(now, done).err(),
        engine.hold(now, done).err(),
        engine.release(now, done).err(),
        engine.revive(now, done).err(),
        engine.update_priority(now, done, 1).err(),
        engine.forget(now, done).err(),
    ];
    for told in told {
        let text = told.unwrap().to_string();
        assert!(text.contains("was done, and its result expired"), "{text}");
    }
}

#[test]
fn id_of_another_instance_is_not_said_to_have_been_here() {
    let directory = tempfile::tempdir().unwrap();
    let mut spec = SegmentSpec::new("rules", directory.path());
    spec.geometry = Geometry::for_counts(2, 16).unwrap();
    spec.gen_base = Some(1_000);
    let segment = Arc::new(Segment::in_process(&spec));
    let now = Now::from_ns(SECOND);
    let engine = Engine::new(segment, EngineConfig::default(), now).unwrap();
    let mut world = World::of(engine, now, directory);
    let task = world.submit("exec");
    let told = |world: &World, id: TaskId| {
        let refused = world.engine.check(id).unwrap_err();
        (refused.reason, refused.to_string())
    };
    let slot = task.slot();
    let (reason, text) = told(&world, TaskId::new(task.generation() + 5, slot));
    assert_eq!(reason, RejectReason::UnknownTask);
    assert!(text.contains("never gave that id"), "{text}");
    // Older than what the segment began with.
    let (reason, text) = told(&world, TaskId::new(900, slot));
    assert_eq!(reason, RejectReason::StaleTask);
    assert!(text.contains("older than this daemon's segment"), "{text}");
    let now = world.now;
    world.engine.cancel(now, task).unwrap();
    world.engine.forget(now, task).unwrap();
    let (reason, text) = told(&world, task);
    assert_eq!(reason, RejectReason::UnknownTask);
    assert!(text.contains("it was acknowledged"), "{text}");
}

#[test]
fn longer_time_than_the_setting_allows_is_refused_by_its_name() {
    let config = EngineConfig {
        keep_ns_max: 5 * SECOND,
        ..EngineConfig::default()
    };
    let mut world = World::with(10, config);
    assert!(
        world
            .submit_with("exec", |task| task.keep_ms = 5_000)
            .is_ok()
    );
    let refused = world.submit_with("exec", |task| task.keep_ms = 5_001);
    assert_eq!(
        refused.unwrap_err().to_string(),
        "keep_ms is 5001: the daemon's setting keep_max_ms allows 5000"
    );
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
