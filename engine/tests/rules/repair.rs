//! What a new engine makes of a segment, and what the background sweep mends.

use qtf_shm::sync::kill::killed_after;
use qtf_shm::{Blocked, Counter, Event, MinTree, Phase, Purpose, TaskId, WorkerPhase};

use qtf_world::{SECOND, World};

/// Long enough for the background sweep to come by everywhere.
const A_WHILE: u64 = 3 * SECOND;

/// What a kill between state and leaf leaves behind.
fn lose_leaf(tree: MinTree<'_>, task: TaskId) {
    let leaf = task.slot().get();
    assert!(tree.remove(leaf, tree.leaf(leaf).expect("the leaf is there")));
}

#[test]
fn missing_ready_leaf_is_put_back() {
    let mut world = World::new();
    let task = world.submit("exec");
    lose_leaf(world.segment().ready(), task);
    world.settle_for(A_WHILE);
    world.verify();
    assert_eq!(world.counter(Counter::LeafRestored), 1);
    world.worker(1, &["exec"]);
    assert_eq!(world.dispatch().1, task);
}

#[test]
fn missing_timers_are_put_back() {
    let mut world = World::new();
    let worker = world.worker(1, &["exec"]);
    let running = world
        .submit_with("exec", |submission| submission.timeout_ms = 10_000)
        .unwrap();
    let got = world.dispatch();
    world.start(got);
    let delayed = world
        .submit_with("exec", |submission| submission.delay_ms = 3_600_000)
        .unwrap();
    let cancelled = world.submit("exec");
    let now = world.now;
    world.engine.cancel(now, cancelled).unwrap();
    // The time to live of an end begins in the timer heap a second later.
    world.settle_for(A_WHILE);
    world.beat(worker, 1).unwrap();
    let before: Vec<_> = [running, delayed, cancelled]
        .iter()
        .map(|task| world.segment().timers().leaf(task.slot().get()))
        .collect();
    for task in [running, delayed, cancelled] {
        lose_leaf(world.segment().timers(), task);
    }
    world.settle_for(A_WHILE);
    world.beat(worker, 1).unwrap();
    world.verify();
    for (task, before) in [running, delayed, cancelled].into_iter().zip(before) {
        let leaf = world.segment().timers().leaf(task.slot().get()).unwrap();
        let early = before.unwrap().timed_stamp();
        assert!(leaf.timed_stamp().abs_diff(early) <= 2, "{task}");
    }
}

#[test]
fn leaf_of_a_task_that_is_not_ready_is_met_and_taken_out() {
    let mut world = World::new();
    let task = world.submit("exec");
    let key = world.segment().task(task.slot()).key();
    let now = world.now;
    world.engine.cancel(now, task).unwrap();
    world
        .segment()
        .ready()
        .insert(task.slot().get(), key)
        .unwrap();
    world.worker(1, &["exec"]);
    assert_eq!(world.dispatches(), []);
    world.verify();
}

#[test]
fn attempt_that_ended_without_being_judged_is_judged() {
    let mut world = World::new();
    let worker = world.worker(1, &["exec"]);
    let task = world.submit("exec");
    let got = world.dispatch();
    world.start(got);
    let segment = world.segment();
    let slot = qtf_world::written(segment, task.slot());
    slot.set_outcome(qtf_shm::Outcome {
        kind: qtf_shm::OutcomeKind::Exited,
        ..qtf_shm::Outcome::default()
    });
    segment
        .apply(task.slot(), slot.state(), Event::End)
        .unwrap();
    world.settle_for(A_WHILE);
    world.beat(worker, 0).unwrap();
    assert_eq!(world.phase(task), Phase::Done);
    world.verify();
}

#[test]
fn task_held_by_nobody_who_exists_goes_back() {
    let mut world = World::new();
    let task = world.submit("exec");
    let segment = world.segment();
    let ghost = segment.worker_index(5).unwrap();
    let state = segment.task(task.slot()).state();
    segment
        .apply(task.slot(), state, Event::Assign { worker: ghost })
        .unwrap();
    segment.unindex_ready(task.slot());
    world.settle_for(A_WHILE);
    assert_eq!(world.phase(task), Phase::Ready);
    world.verify();
}

#[test]
fn parked_task_that_nobody_counted_is_released_too() {
    let mut world = World::new();
    let painter = world.worker(4, &["render"]);
    let task = world.submit("render");
    let segment = world.segment();
    let state = segment.task(task.slot()).state();
    let why = Blocked::NO_WORKER_OFFERS;
    segment
        .apply(task.slot(), state, Event::Park { why })
        .unwrap();
    segment.unindex_ready(task.slot());
    let effects = world.settle_for(A_WHILE);
    assert_eq!(qtf_world::dispatched(&effects), [(painter, task, 1)]);
}

#[test]
fn new_engine_goes_on_where_the_old_one_was() {
    let mut world = World::new();
    let worker = world.worker(2, &["exec"]);
    let token = world.segment().worker(worker.slot()).token();
    let running = world.submit("exec");
    let got = world.dispatch();
    world.start(got);
    let parked = world.submit("render");
    world.settle();
    let waiting = world.submit("exec");
    let delayed = world
        .submit_with("exec", |submission| submission.delay_ms = 10_000)
        .unwrap();
    let mut world = world.restarted();
    world.settle();
    world.verify();
    for (task, phase) in [
        (running, Phase::Running),
        (parked, Phase::Blocked),
        (waiting, Phase::Ready),
        (delayed, Phase::Delayed),
    ] {
        assert_eq!(world.phase(task), phase);
    }
    assert_eq!(world.counts(), (4, 0));
    // The worker is still believed in, and must come back for more.
    assert!(world.engine.check_worker(worker.as_raw(), token).is_ok());
    assert_eq!(world.dispatches(), []);
    world.end(got, 0);
    assert_eq!(world.phase(running), Phase::Done);
    // Somebody who can do what is parked frees it.
    let painter = world.worker(1, &["render"]);
    let all = world.dispatches();
    assert!(all.contains(&(painter, parked, 1)), "{all:?}");
}

#[test]
fn new_engine_loses_the_workers_that_do_not_come_back() {
    let mut world = World::new();
    let worker = world.worker(2, &["exec"]);
    let task = world.submit("exec");
    world.dispatch();
    let mut world = world.restarted();
    world.settle_for(7 * SECOND);
    assert_eq!(world.phase(task), Phase::Ready);
    let state = world.segment().worker(worker.slot()).state();
    assert_eq!(state.phase(), WorkerPhase::Free);
    world.verify();
}

#[test]
fn new_engine_finishes_the_sweep_for_a_worker_that_was_lost_before() {
    let mut world = World::new();
    let worker = world.worker(2, &["exec"]);
    let task = world.submit("exec");
    world.dispatch();
    let now = world.now;
    world.engine.worker_gone(now, worker);
    let mut world = world.restarted();
    world.settle();
    assert_eq!(world.phase(task), Phase::Ready);
    let state = world.segment().worker(worker.slot()).state();
    assert_eq!(state.phase(), WorkerPhase::Free);
    world.verify();
}

#[test]
fn chunks_of_tasks_that_are_gone_are_freed_and_those_of_others_stay() {
    let mut world = World::new();
    let (gone, kept) = (world.submit("exec"), world.submit("exec"));
    let store = |task| world.segment().store(task, &[7; 5_000], Purpose::Result);
    let blob = store(kept).unwrap();
    qtf_world::written(world.segment(), kept.slot()).set_result(blob);
    // As a process leaves it that is killed between the free state and the freeing of the bytes.
    store(gone).unwrap();
    let now = world.now;
    world.engine.cancel(now, gone).unwrap();
    world.engine.forget(now, gone).unwrap();
    let used = |world: &World| -> u64 {
        let usage = world.segment().arena_usage();
        usage
            .classes
            .iter()
            .map(|class| u64::from(class.chunks_used))
            .sum()
    };
    assert_eq!(used(&world), 2);
    let blocks = u64::from(world.segment().geometry().arena_blocks());
    world.settle_for(blocks * SECOND);
    assert_eq!(used(&world), 1);
    assert_eq!(world.counter(Counter::ChunkReclaimed), 1);
    world.verify();
}

#[test]
fn leaf_of_an_idle_worker_that_was_lost_is_put_back_at_its_next_heartbeat() {
    let mut world = World::new();
    let worker = world.worker(1, &["exec"]);
    let leaf = u32::from(worker.slot().get());
    let heap = world.segment().worker_heap();
    let key = heap.leaf(leaf).expect("it may be given a task");
    assert!(heap.remove(leaf, key));
    let task = world.submit("exec");
    world.beat(worker, 0).unwrap();
    assert!(world.segment().worker_heap().leaf(leaf).is_some());
    assert_eq!(world.dispatch().1, task);
    world.verify();
}

#[test]
fn gauges_that_a_process_killed_before_its_count_left_wrong_are_counted_anew_by_the_sweep() {
    let mut world = World::new();
    let tasks: Vec<TaskId> = (0..3).map(|_| world.submit("exec")).collect();
    world.settle_for(A_WHILE);
    let phases = [Phase::Ready, Phase::Blocked];
    let gauges = |world: &World| phases.map(|phase| world.segment().counters().gauge(phase));
    let there_are = |world: &World| {
        let of = |phase| {
            let state = |task: &&TaskId| world.segment().task(task.slot()).state();
            tasks
                .iter()
                .filter(|task| state(task).phase() == phase)
                .count() as u64
        };
        phases.map(of)
    };
    let segment = world.segment();
    let slot = tasks[1].slot();
    let state = segment.task(slot).state();
    // The word is changed, and then it is over.
    assert!(
        killed_after(1, || {
            let why = Blocked::BEING_CHANGED;
            segment.apply(slot, state, Event::Park { why })
        })
        .is_err()
    );
    lose_leaf(segment.ready(), tasks[1]);
    assert_eq!((gauges(&world), there_are(&world)), ([3, 0], [2, 1]));
    world.settle_for(4 * A_WHILE);
    assert_eq!(gauges(&world), there_are(&world));
    world.verify();
}
