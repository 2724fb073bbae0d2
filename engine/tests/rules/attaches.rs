//! Rules about local processes: what they submit and end directly, and what becomes of it when they die.
#![expect(
    clippy::mem_forget,
    reason = "a process that is killed drops nothing; the segment is private and goes with this one"
)]

use qtf_engine::{Engine, EngineConfig};
use qtf_shm::layout::attach::AttachRole;
use qtf_shm::{
    Attachment, AttachmentSpec, Event, KindSet, LocalWorkerSpec, Outcome, OutcomeKind, Phase,
    TaskFields, TaskId,
};

use qtf_world::{Ground, World, finished};

/// A real segment, an engine over it, and a local process, which this one is too.
pub(crate) fn ground() -> (World, Attachment) {
    let (segment, directory) = Ground::of(64, 16).shared().made();
    let local = AttachmentSpec::new(AttachRole::Client, "local", directory.path());
    let id = segment.shm_id().expect("it is the kernel's");
    let local = Attachment::open_id(id, &local).expect("an attach record is free");
    let now = segment.now();
    let engine = Engine::new(segment, EngineConfig::default(), now).expect("usable");
    (World::of(engine, now, directory), local)
}

fn submit(local: &Attachment, event: Event) -> TaskId {
    let mut claimed = local.claim().expect("a slot is free");
    let fields = TaskFields {
        kind: local.kinds().find("exec"),
        priority: 9,
        ..TaskFields::default()
    };
    claimed.write(&fields).expect("no side record");
    claimed.publish(event, local.next_stamp()).expect("claimed")
}

#[test]
fn what_a_local_process_hands_to_the_judgement_is_judged_whether_it_lives_or_not() {
    let (mut world, local) = ground();
    for is_dead in [false, true] {
        let task = submit(&local, Event::Submit);
        assert_eq!(world.phase(task), Phase::Submitted);
        if is_dead {
            world.engine.attach_gone(world.now, local.index());
        }
        world.cycle();
        let phase = world.phase(task);
        assert!(matches!(phase, Phase::Ready | Phase::Blocked), "{phase}");
    }
    std::mem::forget(local);
}

#[test]
fn claim_of_a_dead_process_is_given_back_and_then_its_record() {
    let (mut world, local) = ground();
    let claimed = local.claim().expect("a slot is free");
    let slot = claimed.slot();
    // As if it had been killed here.
    std::mem::forget(claimed);
    world.settle();
    let state = world.segment().task(slot).state();
    assert_eq!(
        state.phase(),
        Phase::Claimed,
        "nobody has said that it is dead"
    );
    let index = local.index();
    assert!(world.segment().attach_info(index).is_some());
    world.engine.attach_gone(world.now, index);
    world.settle();
    assert_eq!(world.segment().task(slot).state().phase(), Phase::Free);
    assert!(world.segment().attach_info(index).is_none());
    assert!(!world.segment().verify().broken());
    std::mem::forget(local);
}

#[test]
fn task_of_a_dead_local_worker_goes_to_another() {
    let (mut world, local) = ground();
    let task = world.submit("exec");
    let spec = LocalWorkerSpec {
        name: "local",
        host: "here",
        kinds: KindSet::ALL,
        capacity: 1,
        losses_max: 3,
    };
    let worker = local.join_as_worker(&spec).expect("a worker slot is free");
    let taken = worker.take().expect("a task waits");
    assert_eq!(taken.id(), task);
    std::mem::forget(taken);
    std::mem::forget(worker);
    world.engine.attach_gone(world.now, local.index());
    world.settle();
    world.worker(1, &["exec"]);
    let got = world.dispatch();
    assert_eq!((got.1, got.2), (task, 2));
    assert_eq!(world.segment().task(task.slot()).losses(), 1);
    assert!(world.segment().attach_info(local.index()).is_none());
    std::mem::forget(local);
}

#[test]
fn end_that_a_local_worker_reports_is_judged_at_once() {
    let (mut world, local) = ground();
    let task = world.submit("exec");
    let spec = LocalWorkerSpec {
        name: "local",
        host: "here",
        kinds: KindSet::ALL,
        capacity: 1,
        losses_max: 3,
    };
    let worker = local.join_as_worker(&spec).expect("a worker slot is free");
    let taken = worker.take().expect("a task waits");
    let outcome = Outcome {
        kind: OutcomeKind::Exited,
        ..Outcome::default()
    };
    // A daemon lives, so it judges.
    assert_eq!(taken.finish(outcome, b"output"), Ok(Phase::Ended));
    let effects = world.cycle();
    assert_eq!(finished(&effects), [(task, Phase::Done)]);
    assert_eq!(world.outcome(task), outcome);
    assert_eq!(worker.state().running(), 0);
    world.verify();
}

#[test]
fn nobody_dies_twice_and_a_record_that_nobody_has_is_nobody() {
    let (mut world, local) = ground();
    let index = local.index();
    drop(local);
    assert!(world.segment().attach_info(index).is_none());
    world.engine.attach_gone(world.now, index);
    world.engine.attach_gone(world.now, index);
    assert!(world.settle().is_empty());
}
