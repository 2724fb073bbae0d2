//! What becomes of the tasks of workers that are lost or leave.

use qtf_engine::{Disposition, EngineConfig};
use qtf_shm::{Counter, OutcomeKind, Phase, WorkerCounter, WorkerPhase};

use qtf_world::{Dispatched, SECOND, World, finished};

fn gone(world: &mut World, worker: qtf_shm::WorkerId) {
    world.engine.worker_gone(world.now, worker);
}

#[test]
fn tasks_of_a_lost_worker_go_to_another_one_with_the_next_attempt_and_in_their_old_order() {
    let mut world = World::new();
    let worker = world.worker(3, &["exec"]);
    let tasks: Vec<_> = (0..3).map(|_| world.submit("exec")).collect();
    let all = world.dispatches();
    world.start(all[0]);
    gone(&mut world, worker);
    world.settle();
    let later = world.submit("exec");
    let other = world.worker(10, &["exec"]);
    let expected: Vec<Dispatched> = vec![
        (other, tasks[0], 2),
        (other, tasks[1], 2),
        (other, tasks[2], 2),
        (other, later, 1),
    ];
    assert_eq!(world.dispatches(), expected);
    for task in tasks {
        let slot = world.segment().task(task.slot());
        assert_eq!((slot.losses(), slot.failures()), (1, 0));
    }
    assert_eq!(world.counter(Counter::TaskRequeued), 3);
    world.verify();
}

#[test]
fn late_result_of_a_lost_worker_is_stale_before_and_after_its_tasks_went_back() {
    let mut world = World::new();
    let worker = world.worker(1, &["exec"]);
    let task = world.submit("exec");
    let got = world.dispatch();
    gone(&mut world, worker);
    assert_eq!(world.end(got, 0), Disposition::Stale);
    world.settle();
    assert_eq!(world.end(got, 0), Disposition::Stale);
    assert_eq!(world.phase(task), Phase::Ready);
    assert_eq!(world.counter(Counter::ResultStale), 2);
}

#[test]
fn losses_do_not_use_up_retries() {
    let mut world = World::new();
    let task = world.submit("exec");
    for _ in 0..3 {
        let worker = world.worker(1, &["exec"]);
        world.dispatch();
        gone(&mut world, worker);
        world.settle();
    }
    world.worker(1, &["exec"]);
    let got = world.dispatch();
    assert_eq!(got.2, 4);
    world.end(got, 0);
    assert_eq!(world.phase(task), Phase::Done);
    assert_eq!(world.segment().task(task.slot()).losses(), 3);
}

#[test]
fn task_that_takes_one_worker_too_many_down_is_dead_lettered_with_its_reason() {
    let mut world = World::new();
    let task = world.submit("exec");
    let mut ends = Vec::new();
    for loss in 1..=4 {
        assert_eq!(world.phase(task), Phase::Ready, "before loss {loss}");
        let worker = world.worker(1, &["exec"]);
        world.dispatch();
        gone(&mut world, worker);
        ends.extend(finished(&world.settle()));
    }
    assert_eq!(ends, [(task, Phase::DeadLetter)]);
    assert_eq!(world.outcome(task).kind, OutcomeKind::WorkerLost);
    assert_eq!(world.counts(), (0, 1));
    world.verify();
}

#[test]
fn task_that_lost_too_many_workers_while_no_daemon_looked_is_buried_and_does_not_hold_the_others_up()
 {
    let mut world = World::new();
    let spent = world.submit("local");
    let behind = world.submit("exec");
    // As repairers leave it: they count, and bury nobody.
    let allowed = EngineConfig::default().losses_max;
    qtf_world::written(world.segment(), spent.slot()).set_losses(allowed + 1);
    world.worker(1, &["exec", "local"]);
    let effects = world.settle();
    assert_eq!(finished(&effects), [(spent, Phase::DeadLetter)]);
    let outcome = world.segment().task(spent.slot()).outcome();
    assert_eq!(outcome.kind, OutcomeKind::WorkerLost);
    let sent: Vec<_> = qtf_world::dispatched(&effects);
    assert_eq!(sent.len(), 1, "{sent:?}");
    assert_eq!((sent[0].1, sent[0].2), (behind, 1));
    world.verify();
}

#[test]
fn slot_of_a_lost_worker_is_used_again_only_after_a_clean_pass() {
    let config = EngineConfig {
        sweep_slots_per_cycle: 8,
        ..EngineConfig::default()
    };
    let mut world = World::with(200, config);
    let worker = world.worker(4, &["exec"]);
    for _ in 0..100 {
        world.submit("exec");
    }
    assert_eq!(world.dispatches().len(), 4);
    gone(&mut world, worker);
    let phase = |world: &World| world.segment().worker(worker.slot()).state().phase();
    let mut cycles = 0;
    while phase(&world) == WorkerPhase::Lost {
        world.cycle();
        cycles += 1;
        assert!(cycles < 1_000);
    }
    // The pass that found its tasks, and the clean one.
    assert!(cycles >= 2 * 100 / 8, "{cycles}");
    let next = world.worker(4, &["exec"]);
    assert_eq!(next.slot(), worker.slot());
    assert_eq!(next.incarnation(), worker.incarnation() + 1);
    world.verify();
}

#[test]
fn goodbye_hands_tasks_back_without_counting_them_as_lost() {
    let mut world = World::new();
    let worker = world.worker(2, &["exec"]);
    let task = world.submit("exec");
    world.dispatch();
    let now = world.now;
    world.engine.worker_goodbye(now, worker);
    assert_eq!(world.settle(), [], "nobody is evicted");
    assert_eq!(world.phase(task), Phase::Ready);
    let slot = world.segment().task(task.slot());
    assert_eq!(slot.losses(), 0);
    assert_eq!(world.counter(Counter::WorkerLeft), 1);
    assert_eq!(world.counter(Counter::WorkerLost), 0);
    let state = world.segment().worker(worker.slot()).state();
    assert_eq!(state.phase(), WorkerPhase::Free);
    world.verify();
}

#[test]
fn death_that_is_told_twice_counts_once() {
    let mut world = World::new();
    let worker = world.worker(2, &["exec"]);
    let task = world.submit("exec");
    world.dispatch();
    gone(&mut world, worker);
    gone(&mut world, worker);
    let now = world.now;
    world.engine.worker_goodbye(now, worker);
    world.settle();
    gone(&mut world, worker);
    world.settle();
    assert_eq!(world.counter(Counter::WorkerLost), 1);
    assert_eq!(world.segment().task(task.slot()).losses(), 1);
    let lost = world
        .segment()
        .worker(worker.slot())
        .counter(WorkerCounter::Lost);
    assert_eq!(lost, 1);
}

#[test]
fn workers_lost_one_after_the_other_during_a_sweep_all_lose_their_tasks_once() {
    let config = EngineConfig {
        sweep_slots_per_cycle: 8,
        ..EngineConfig::default()
    };
    let mut world = World::with(500, config);
    let workers: Vec<_> = (0..8).map(|_| world.worker(10, &["exec"])).collect();
    let tasks: Vec<_> = (0..200).map(|_| world.submit("exec")).collect();
    assert_eq!(world.dispatches().len(), 80);
    for worker in workers {
        gone(&mut world, worker);
        world.cycle();
        world.cycle();
    }
    world.settle();
    let segment = world.segment();
    let losses: u32 = tasks
        .iter()
        .map(|task| u32::from(segment.task(task.slot()).losses()))
        .sum();
    assert_eq!(losses, 80);
    assert!(tasks.iter().all(|&task| world.phase(task) == Phase::Ready));
    world.verify();
}

#[test]
fn loss_by_silence_hands_tasks_back_within_lease_and_probe_time() {
    let mut world = World::new();
    world.worker(2, &["exec"]);
    let task = world.submit("exec");
    world.dispatch();
    world.settle_for(6 * SECOND + SECOND / 10);
    assert_eq!(world.phase(task), Phase::Ready);
    world.verify();
}

#[test]
fn timeout_leaf_of_a_lost_attempt_does_not_stop_the_next_one() {
    let mut world = World::new();
    let task = world
        .submit_with("exec", |submission| submission.timeout_ms = 1_000)
        .unwrap();
    let worker = world.worker(1, &["exec"]);
    let got = world.dispatch();
    world.start(got);
    gone(&mut world, worker);
    world.settle();
    world.verify();
    let other = world.worker(1, &["exec"]);
    let got = world.dispatch();
    assert_eq!(got, (other, task, 2));
    for _ in 0..20 {
        world.settle_for(SECOND);
        world.beat(other, 1).unwrap();
    }
    assert_eq!(world.phase(task), Phase::Assigned);
}
