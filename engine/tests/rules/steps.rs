//! How long the steps of a task's life took, as the engine counts it in the segment.

use qtf_shm::histogram::Stage;

use qtf_world::{JournalWorld, SECOND, World};

const MS: u64 = 1_000_000;

/// Values counted for a step, and the greatest.
fn counted(world: &World, stage: Stage) -> (u64, u64) {
    let reading = world
        .segment()
        .stage(stage)
        .expect("there is one for each step");
    (reading.count(), reading.most_ns)
}

/// A stamp counts units of 256 ns.
fn assert_took(world: &World, stage: Stage, count: u64, ns: u64) {
    let (found, most) = counted(world, stage);
    assert_eq!(found, count, "{stage:?}");
    assert!(most.abs_diff(ns) <= 512, "{stage:?}: {most} of {ns}");
}

#[test]
fn each_step_of_a_life_is_counted_once_with_the_time_it_took() {
    let mut world = World::new();
    let task = world.submit("exec");
    world.pass(7 * MS);
    world.worker(1, &["exec"]);
    let got = world.dispatch();
    world.pass(3 * MS);
    world.start(got);
    world.start(got);
    world.pass(11 * MS);
    world.end(got, 0);
    world.end(got, 0);
    world.pass(5 * MS);
    world.engine.forget(world.now, task).unwrap();
    world.engine.forget(world.now, task).unwrap_err();
    assert_took(&world, Stage::Dispatch, 1, 3 * MS);
    assert_took(&world, Stage::Run, 1, 11 * MS);
    assert_took(&world, Stage::Deliver, 1, 5 * MS);
    assert_eq!(counted(&world, Stage::Wait).0, 1);
    for stage in [Stage::Admit, Stage::Decide, Stage::Result, Stage::Sync] {
        assert_eq!(counted(&world, stage).0, 0, "{stage:?} is the daemon's");
    }
    world.verify();
}

#[test]
fn task_waits_from_the_moment_it_is_ready_and_runs_from_its_hand_out_where_no_beginning_was_told() {
    let mut world = World::new();
    world.worker(1, &["exec"]);
    let (first, second) = (world.submit("exec"), world.submit("exec"));
    let got = world.dispatch();
    assert_eq!(got.1, first);
    world.pass(20 * MS);
    world.end(got, 0);
    let got = world.dispatch();
    assert_eq!(got.1, second);
    assert_took(&world, Stage::Wait, 2, 20 * MS);
    assert_took(&world, Stage::Run, 1, 20 * MS);
    assert_eq!(counted(&world, Stage::Dispatch).0, 0);
    let least = world.segment().stage(Stage::Wait).unwrap().least_ns;
    assert_eq!(least, 0, "the first found a free worker");
}

#[test]
fn acknowledgement_that_waits_for_its_record_is_counted_once() {
    let mut world = JournalWorld::new();
    let task = world.submit("exec");
    world.sync();
    world.worker(1, &["exec"]);
    let got = world.dispatch();
    world.end(got, 0);
    world.sync();
    world.pass(2 * SECOND);
    world.forget(task).unwrap();
    world.sync();
    let reading = world.segment().stage(Stage::Deliver).unwrap();
    assert_eq!(reading.count(), 1);
    assert!(
        reading.most_ns.abs_diff(2 * SECOND) <= 512,
        "{}",
        reading.most_ns
    );
}
