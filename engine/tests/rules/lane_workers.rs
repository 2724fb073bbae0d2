//! Rules about local workers and their lanes: a stop is told there, and one that sleeps is rung for work that nobody else gets.

use qtf_shm::lane::Event as LaneEvent;
use qtf_shm::{Attachment, KindSet, LocalWorker, LocalWorkerSpec, Outcome, OutcomeKind, Phase};

use crate::attaches::ground;

fn join(process: &Attachment) -> LocalWorker<'_> {
    let spec = LocalWorkerSpec {
        name: "local",
        host: "here",
        kinds: KindSet::ALL,
        capacity: 1,
        losses_max: 3,
    };
    process.join_as_worker(&spec).expect("a slot is free")
}

#[test]
fn local_worker_is_told_to_stop_an_attempt_by_its_lane() {
    let (mut world, process) = ground();
    let lane = process.open_lane().expect("the first time");
    let worker = join(&process);
    world.settle();
    let task = world.submit("exec");
    let taken = worker.take().expect("it waits");
    taken.start().expect("it is ours");
    world.engine.cancel(world.now, task).expect("it runs");
    let rung: Vec<_> = std::iter::from_fn(|| world.engine.pop_lane_to_ring()).collect();
    assert_eq!(rung, [process.index()]);
    let event = lane.next();
    let fence = taken.attempt();
    assert_eq!(
        event,
        Some(LaneEvent::Stop {
            task,
            fence,
            flags: taken.stop_flags()
        })
    );
    let stopped = Outcome {
        kind: OutcomeKind::Cancelled,
        ..Outcome::default()
    };
    taken.finish(stopped, b"").expect("it is ours");
    world.settle();
    assert_eq!(world.phase(task), Phase::Cancelled);
}

#[test]
fn sleeping_local_worker_is_rung_for_a_task_that_no_remote_one_gets_and_a_stopped_one_keeps_nothing()
 {
    let (mut world, process) = ground();
    let lane = process.open_lane().expect("the first time");
    let worker = join(&process);
    world.settle();
    let _stood = lane.take_missed();
    while world.engine.pop_lane_to_ring().is_some() {}
    let segment = std::sync::Arc::clone(world.engine.segment());
    let (mut first, mut rung) = (None, Vec::new());
    // What happens while it sleeps, or believes to.
    worker.sleep_beside(&lane.events, || {
        first = Some(world.submit("exec"));
        world.cycle();
        rung.extend(std::iter::from_fn(|| world.engine.pop_lane_to_ring()));
        assert!(segment.ring_lane(process.index()), "it sleeps");
    });
    assert_eq!(rung, [process.index()]);
    // It is stopped before it takes the task: another one gets it.
    let remote = world.worker(1, &["exec"]);
    let (to, task, _) = world.dispatch();
    assert_eq!((to, Some(task)), (remote, first));
    assert!(worker.take().is_none());
}
