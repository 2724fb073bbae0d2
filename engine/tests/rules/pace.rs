//! Workers that take tasks and do not start them.

use qtf_engine::{Effect, StopReason};
use qtf_shm::{Phase, TaskId, WorkerId, WorkerPhase};

use qtf_world::{Dispatched, SECOND, World};

/// Lets time pass while these workers beat, each holding something.
fn pass(world: &mut World, workers: &[WorkerId], seconds: u64) -> Vec<Effect> {
    let mut effects = Vec::new();
    for _ in 0..seconds {
        world.pass(SECOND);
        for &worker in workers {
            world.beat(worker, 1).expect("the worker is known");
        }
        effects.extend(world.settle());
    }
    effects
}

/// What went to this worker.
fn of(dispatches: &[Dispatched], worker: WorkerId) -> usize {
    dispatches.iter().filter(|got| got.0 == worker).count()
}

fn is_stale_at(effects: &[Effect], worker: WorkerId, task: TaskId) -> bool {
    effects.contains(&Effect::Stop {
        worker,
        task,
        attempt: 1,
        reason: StopReason::Stale,
    })
}

#[test]
fn large_claim_of_a_worker_that_starts_nothing_does_not_draw_the_tasks() {
    let mut world = World::with(3_000, qtf_engine::EngineConfig::default());
    let greedy = world.worker(60_000, &["exec"]);
    let honest = world.worker(8, &["exec"]);
    for _ in 0..2_000 {
        world.submit("exec");
    }
    let mut taken = 0;
    loop {
        let got = world.dispatches();
        if got.is_empty() {
            break;
        }
        taken += of(&got, greedy);
        for one in got.into_iter().filter(|one| one.0 == honest) {
            world.start(one);
            world.end(one, 0);
        }
    }
    assert_eq!(taken, 64);
    world.verify();
}

#[test]
fn orders_ahead_of_a_worker_grow_with_what_it_starts() {
    let mut world = World::new();
    world.worker(900, &["exec"]);
    for _ in 0..900 {
        world.submit("exec");
    }
    let mut rounds = Vec::new();
    loop {
        let got = world.dispatches();
        if got.is_empty() {
            break;
        }
        rounds.push(got.len());
        for one in got {
            world.start(one);
        }
    }
    assert_eq!(rounds, [64, 128, 256, 452]);
    world.verify();
}

#[test]
fn task_that_its_worker_does_not_start_goes_to_another_and_counts_as_no_loss() {
    let mut world = World::new();
    let idle = world.worker(4, &["exec"]);
    let task = world.submit("exec");
    let got = world.dispatch();
    let other = world.worker(4, &["exec"]);
    assert_eq!(pass(&mut world, &[idle, other], 15), []);
    let effects = pass(&mut world, &[idle, other], 2);
    assert!(is_stale_at(&effects, idle, task));
    let again = (other, task, 2);
    assert_eq!(qtf_world::dispatched(&effects), [again]);
    assert_eq!(world.segment().task(task.slot()).losses(), 0);
    assert_ne!(world.end(got, 0), qtf_engine::Disposition::Recorded);
    world.start(again);
    world.end(again, 0);
    assert_eq!(world.phase(task), Phase::Done);
    world.verify();
}

#[test]
fn worker_that_let_a_task_lie_comes_after_all_others_until_it_starts_one() {
    let mut world = World::new();
    let idle = world.worker(4, &["exec"]);
    world.submit("exec");
    world.dispatch();
    let other = world.worker(2, &["exec"]);
    pass(&mut world, &[idle, other], 17);
    let second = world.submit("exec");
    assert_eq!(world.dispatch().0, other, "although it is half full");
    world.submit("exec");
    let last = world.dispatch();
    assert_eq!(last.0, idle, "nobody else is free");
    world.start(last);
    world.end(last, 0);
    world.submit("exec");
    assert_eq!(world.dispatch().0, idle);
    assert_eq!(world.phase(second), Phase::Assigned);
    world.verify();
}

#[test]
fn task_that_nobody_else_could_take_stays_with_its_worker() {
    let mut world = World::new();
    let only = world.worker(4, &["exec"]);
    let other = world.worker(4, &["render"]);
    let task = world.submit("exec");
    world.dispatch();
    assert_eq!(pass(&mut world, &[only, other], 60), []);
    assert_eq!(world.phase(task), Phase::Assigned);
}

#[test]
fn task_that_runs_at_most_once_stays_with_its_worker() {
    let mut world = World::new();
    let idle = world.worker(1, &["exec"]);
    let task = world
        .submit_with("exec", |submission| submission.at_most_once = true)
        .unwrap();
    world.dispatch();
    let other = world.worker(4, &["exec"]);
    assert_eq!(pass(&mut world, &[idle, other], 60), []);
    assert_eq!(world.phase(task), Phase::Assigned);
}

#[test]
fn draining_worker_gives_back_what_it_does_not_start() {
    let mut world = World::new();
    let idle = world.worker(1, &["exec"]);
    let task = world.submit("exec");
    world.dispatch();
    world.engine.drain_worker(world.now, idle).unwrap();
    pass(&mut world, &[idle], 5);
    assert_eq!(world.phase(task), Phase::Assigned);
    let effects = pass(&mut world, &[idle], 2);
    assert!(is_stale_at(&effects, idle, task));
    assert!(matches!(world.phase(task), Phase::Ready | Phase::Blocked));
    world.verify();
}

#[test]
fn what_a_worker_runs_is_known_after_a_restart() {
    let mut world = World::new();
    world.worker(900, &["exec"]);
    for _ in 0..64 {
        world.submit("exec");
    }
    let got = world.dispatches();
    let worker = got[0].0;
    got.into_iter().for_each(|one| world.start(one));
    let mut world = world.restarted();
    world
        .engine
        .worker_credits(world.now, worker, 836, true)
        .unwrap();
    for _ in 0..100 {
        world.submit("exec");
    }
    assert_eq!(world.dispatches().len(), 64);
}

#[test]
fn evicted_worker_is_lost_at_once_and_its_tasks_go_to_others() {
    let mut world = World::new();
    let bad = world.worker(1, &["exec"]);
    let task = world.submit("exec");
    let got = world.dispatch();
    world.start(got);
    let good = world.worker(1, &["exec"]);
    world.engine.evict_worker(world.now, bad).unwrap();
    let effects = world.settle();
    assert!(effects.contains(&Effect::Evict { worker: bad }));
    assert_eq!(qtf_world::dispatched(&effects), [(good, task, 2)]);
    assert!(world.beat(bad, 1).is_err());
    assert!(world.engine.evict_worker(world.now, bad).is_err());
    let state = world.segment().worker(bad.slot()).state();
    assert_eq!(state.phase(), WorkerPhase::Free);
    world.verify();
}
