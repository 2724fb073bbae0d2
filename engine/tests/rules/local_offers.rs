//! Rules about what local workers offer: heard when they come, and no longer counted when they have gone.
#![expect(
    clippy::mem_forget,
    reason = "a process that is killed drops nothing; the segment is private and goes with this one"
)]

use std::sync::Arc;

use qtf_engine::{Engine, EngineConfig, RejectReason};
use qtf_shm::layout::attach::AttachRole;
use qtf_shm::sync::kill::killed_after;
use qtf_shm::{
    Attachment, AttachmentSpec, Event, FENCE_MAX, LocalWorker, LocalWorkerSpec, Phase, WorkerEvent,
    WorkerId,
};

use qtf_world::{Ground, World, hello, written};

/// LIMIT: joining and leaving take fewer shared writes than this.
const WRITES_MAX: u32 = 128;

/// An engine with a remote worker that runs programs and is free, and a local process.
fn ground() -> (World, WorkerId, Attachment) {
    let (segment, directory) = Ground::of(64, 16).shared().made();
    let local = AttachmentSpec::new(AttachRole::Worker, "local", directory.path());
    let id = segment.shm_id().expect("it is the kernel's");
    let local = Attachment::open_id(id, &local).expect("an attach record is free");
    let now = segment.now();
    let engine = Engine::new(segment, EngineConfig::default(), now).expect("usable");
    let mut world = World::of(engine, now, directory);
    let remote = world.worker(4, &["exec"]);
    (world, remote, local)
}

fn join<'a>(local: &'a Attachment, kind: &str) -> LocalWorker<'a> {
    let kind = local.kinds().intern(kind).expect("there is room");
    let spec = LocalWorkerSpec {
        name: "local",
        host: "here",
        kinds: [kind].into_iter().collect(),
        capacity: 2,
        losses_max: 3,
    };
    local.join_as_worker(&spec).expect("a worker slot is free")
}

/// A task that only the local worker could run stops nobody behind it.
fn assert_takes_no_more(world: &mut World, remote: WorkerId) {
    let (next, behind) = (world.submit("render"), world.submit("exec"));
    let (to, got, _) = world.dispatch();
    assert_eq!((to, got), (remote, behind));
    assert_eq!(world.phase(next), Phase::Blocked);
}

#[test]
fn task_that_only_a_local_worker_can_run_is_parked_until_one_comes() {
    let (mut world, _, local) = ground();
    let task = world.submit("render");
    world.settle();
    assert_eq!(world.phase(task), Phase::Blocked, "nobody offers it");
    let worker = join(&local, "render");
    assert!(worker.take().is_none());
    world.settle();
    assert_eq!(world.phase(task), Phase::Ready);
    let taken = worker.take().expect("it waits for this one");
    assert_eq!(taken.id(), task);
}

#[test]
fn task_that_only_a_worker_could_run_that_has_left_stops_nobody() {
    let (mut world, remote, local) = ground();
    let worker = join(&local, "render");
    let task = world.submit("render");
    world.settle();
    assert_eq!(world.phase(task), Phase::Ready, "for the local one");
    drop(worker);
    let behind = world.submit("exec");
    let (to, got, _) = world.dispatch();
    assert_eq!((to, got), (remote, behind));
    assert_eq!(world.phase(task), Phase::Blocked);
}

#[test]
fn local_worker_that_leaves_while_it_holds_something_takes_no_more() {
    let (mut world, remote, local) = ground();
    let worker = join(&local, "render");
    let held = world.submit("render");
    world.settle();
    let taken = worker.take().expect("it waits");
    assert_eq!(taken.id(), held);
    // Its worker is dropped with the attempt still in its name.
    std::mem::forget(taken);
    drop(worker);
    assert_takes_no_more(&mut world, remote);
    std::mem::forget(local);
}

#[test]
fn local_worker_that_an_operator_drains_takes_no_more() {
    let (mut world, remote, local) = ground();
    let worker = join(&local, "render");
    world.settle();
    let drained = world.engine.drain_worker(world.now, worker.id());
    drained.expect("it is there");
    assert_takes_no_more(&mut world, remote);
}

/// As many local workers as there are slots left.
fn fill<'a>(local: &'a Attachment, remotes: usize) -> Vec<LocalWorker<'a>> {
    (remotes..16).map(|_| join(local, "render")).collect()
}

#[test]
fn worker_slot_that_a_local_worker_has_given_back_is_found_by_the_next_remote_one() {
    let (mut world, _, local) = ground();
    let mut locals = fill(&local, 1);
    let kinds = ["exec".to_owned()];
    for _ in 0..2 {
        let refused = world.engine.worker_hello(world.now, &hello(1, &kinds));
        let refused = refused.expect_err("no slot is free");
        assert_eq!(refused.reason, RejectReason::WorkersFull);
    }
    let gone = locals.remove(3);
    let slot = gone.id().slot();
    drop(gone);
    let welcome = world.engine.worker_hello(world.now, &hello(1, &kinds));
    assert_eq!(welcome.expect("one is free").id.slot(), slot);
}

#[test]
fn worker_slot_of_a_local_worker_that_was_killed_before_it_said_that_it_has_left_is_found_too() {
    let (mut world, _, local) = ground();
    let mut locals = fill(&local, 1);
    let kinds = ["exec".to_owned()];
    let refused = world.engine.worker_hello(world.now, &hello(1, &kinds));
    assert!(refused.is_err(), "no slot is free");
    let gone = locals.remove(3);
    let slot = world.segment().worker(gone.id().slot());
    let left = slot.apply(slot.state(), WorkerEvent::Leave);
    left.expect("it holds nothing");
    std::mem::forget(gone);
    locals.into_iter().for_each(std::mem::forget);
    world.engine.attach_gone(world.now, local.index());
    let welcome = world.engine.worker_hello(world.now, &hello(1, &kinds));
    welcome.expect("one is free");
    std::mem::forget(local);
}

#[test]
fn local_worker_that_is_killed_at_any_step_of_joining_or_leaving_is_counted_as_gone() {
    for leaves in [false, true] {
        for writes in 1..WRITES_MAX {
            let (mut world, remote, local) = ground();
            let cut = if leaves {
                let worker = join(&local, "render");
                world.settle();
                killed_after(writes, || drop(worker)).is_err()
            } else {
                killed_after(writes, || std::mem::forget(join(&local, "render"))).is_err()
            };
            if !cut {
                assert!(writes > 1, "it writes something");
                break;
            }
            assert!(writes + 1 < WRITES_MAX, "every step was tried");
            world.settle();
            world.engine.attach_gone(world.now, local.index());
            let (task, behind) = (world.submit("render"), world.submit("exec"));
            let (to, got, _) = world.dispatch();
            assert_eq!((to, got), (remote, behind), "after {writes} writes");
            assert_eq!(
                world.phase(task),
                Phase::Blocked,
                "after {writes} writes, leaving: {leaves}"
            );
            std::mem::forget(local);
        }
    }
}

#[test]
fn task_that_was_cancelled_at_a_local_worker_and_taken_back_by_another_process_is_cancelled_and_not_run()
 {
    for losses in [0, 9] {
        let (mut world, _, local) = ground();
        let worker = join(&local, "render");
        let task = world.submit("render");
        world.settle();
        let taken = worker.take().expect("it waits");
        let answer = world.engine.cancel(world.now, task);
        answer.expect("it runs");
        // As a repairer does while no daemon looks, when the process is dead.
        let segment = Arc::clone(world.engine.segment());
        let state = segment.task(task.slot()).state();
        std::mem::forget(taken);
        written(&segment, task.slot()).set_losses(losses);
        let ready = segment.apply(task.slot(), state, Event::Requeue);
        segment.index_ready(task.slot(), ready.expect("it was held"));
        world.worker(4, &["render"]);
        let effects = world.settle();
        assert_eq!(qtf_world::dispatched(&effects), []);
        assert_eq!(world.phase(task), Phase::Cancelled, "after {losses} losses");
        std::mem::forget(worker);
        std::mem::forget(local);
    }
}

#[test]
fn task_that_was_cancelled_and_is_given_back_ends_at_once_also_where_only_local_workers_are() {
    let (mut world, remote, local) = ground();
    let now = world.now;
    world.engine.worker_gone(now, remote);
    let worker = join(&local, "render");
    let task = world.submit("render");
    world.settle();
    let taken = worker.take().expect("it waits");
    let answer = world.engine.cancel(world.now, task);
    answer.expect("it runs");
    taken.give_back();
    assert!(worker.take().is_none(), "nobody runs it any more");
    world.cycle();
    assert_eq!(world.phase(task), Phase::Cancelled);
    assert!(!world.segment().verify().broken());
}

#[test]
fn task_of_a_local_worker_whose_hand_outs_are_used_up_is_buried_and_blocks_nobody() {
    let (mut world, _, local) = ground();
    let worker = join(&local, "render");
    world.settle();
    let used_up = world.submit("render");
    let segment = Arc::clone(world.engine.segment());
    let by = segment.worker_index(9).unwrap();
    for _ in 0..FENCE_MAX {
        for event in [Event::Assign { worker: by }, Event::Requeue] {
            let state = segment.state(used_up.slot());
            segment.apply(used_up.slot(), state, event).unwrap();
        }
    }
    let next = world.submit("exec");
    assert!(worker.take().is_none());
    assert_eq!(world.dispatch().1, next);
    assert_eq!(world.phase(used_up), Phase::DeadLetter);
}
