//! Heartbeats, leases, probes.

use qtf_engine::{Effect, RejectReason};
use qtf_shm::{Counter, Phase, WorkerId, WorkerPhase};

use qtf_world::{MS, SECOND, World};

fn phase(world: &World, worker: WorkerId) -> WorkerPhase {
    world.segment().worker(worker.slot()).state().phase()
}

fn probe(effects: &[Effect]) -> Option<(WorkerId, u64)> {
    effects.iter().find_map(|&effect| match effect {
        Effect::Probe { worker, nonce } => Some((worker, nonce)),
        Effect::Stop { .. }
        | Effect::Dispatch { .. }
        | Effect::Evict { .. }
        | Effect::Drain { .. }
        | Effect::Finished { .. } => None,
    })
}

#[test]
fn silent_worker_is_suspected_and_probed_when_its_lease_is_over() {
    let mut world = World::new();
    let worker = world.worker(1, &["exec"]);
    assert_eq!(probe(&world.settle_for(5 * SECOND - MS)), None);
    assert_eq!(phase(&world, worker), WorkerPhase::Live);
    let (asked, nonce) = probe(&world.settle_for(2 * MS)).unwrap();
    assert_eq!(asked, worker);
    assert_ne!(nonce, 0);
    assert_eq!(phase(&world, worker), WorkerPhase::Suspect);
    assert_eq!(world.counter(Counter::WorkerSuspected), 1);
}

#[test]
fn worker_that_beats_is_never_suspected() {
    let mut world = World::new();
    let worker = world.worker(1, &["exec"]);
    for _ in 0..100 {
        assert_eq!(probe(&world.settle_for(SECOND)), None);
        world.beat(worker, 0).unwrap();
    }
    assert_eq!(phase(&world, worker), WorkerPhase::Live);
}

#[test]
fn suspect_that_answers_the_probe_is_live_again_with_a_fresh_lease() {
    let mut world = World::new();
    let worker = world.worker(1, &["exec"]);
    let (_, nonce) = probe(&world.settle_for(5 * SECOND + MS)).unwrap();
    let now = world.now;
    world.engine.probe_answered(now, worker, nonce ^ 1);
    assert_eq!(phase(&world, worker), WorkerPhase::Suspect);
    world.engine.probe_answered(now, worker, nonce);
    assert_eq!(phase(&world, worker), WorkerPhase::Live);
    assert_eq!(probe(&world.settle_for(4 * SECOND)), None);
}

#[test]
fn any_sign_of_life_ends_the_suspicion() {
    for sign in 0..3 {
        let mut world = World::new();
        world.submit("exec");
        let worker = world.worker(2, &["exec"]);
        let got = world.dispatch();
        world.settle_for(5 * SECOND + MS);
        assert_eq!(phase(&world, worker), WorkerPhase::Suspect);
        match sign {
            0 => world.beat(worker, 1).unwrap(),
            1 => world.start(got),
            _ => {
                world.end(got, 0);
            }
        }
        assert_eq!(phase(&world, worker), WorkerPhase::Live, "{sign}");
        world.verify();
    }
}

#[test]
fn suspect_gets_nothing_new_and_its_kinds_are_not_parked() {
    let mut world = World::new();
    let worker = world.worker(2, &["exec"]);
    let other = world.worker(2, &["noop"]);
    for _ in 0..5 {
        world.settle_for(SECOND);
        world.beat(other, 0).unwrap();
    }
    world.settle_for(MS);
    assert_eq!(phase(&world, worker), WorkerPhase::Suspect);
    let task = world.submit("exec");
    assert_eq!(world.dispatches(), []);
    assert_eq!(world.phase(task), Phase::Ready);
    world.beat(worker, 0).unwrap();
    assert_eq!(world.dispatch(), (worker, task, 1));
}

#[test]
fn suspect_that_stays_silent_is_lost_and_evicted() {
    let mut world = World::new();
    let worker = world.worker(1, &["exec"]);
    world.settle_for(5 * SECOND + MS);
    let effects = world.settle_for(SECOND + MS);
    assert!(effects.contains(&Effect::Evict { worker }));
    assert_eq!(world.counter(Counter::WorkerLost), 1);
    let refused = world.beat(worker, 0).unwrap_err();
    assert_eq!(refused.reason, RejectReason::UnknownWorker);
    world.verify();
}

#[test]
fn draining_worker_stays_draining_over_a_suspicion() {
    let mut world = World::new();
    let worker = world.worker(1, &["exec"]);
    let now = world.now;
    world.engine.drain_worker(now, worker).unwrap();
    world.settle_for(5 * SECOND + MS);
    assert_eq!(phase(&world, worker), WorkerPhase::Suspect);
    world.beat(worker, 0).unwrap();
    assert_eq!(phase(&world, worker), WorkerPhase::Draining);
}

#[test]
fn after_a_gap_of_the_loop_every_lease_starts_over() {
    let mut world = World::new();
    let worker = world.worker(1, &["exec"]);
    world.settle();
    // The process was stopped for a minute.
    world.pass(60 * SECOND);
    assert_eq!(probe(&world.settle()), None);
    assert_eq!(phase(&world, worker), WorkerPhase::Live);
    assert_eq!(probe(&world.settle_for(5 * SECOND - MS)), None);
    assert!(probe(&world.settle_for(2 * MS)).is_some());
}

#[test]
fn idle_loop_that_sleeps_until_its_deadline_is_not_a_gap() {
    let config = qtf_engine::EngineConfig {
        lease_ns: SECOND,
        heartbeat_ns: SECOND / 4,
        background_sweep_ns: 3_600 * SECOND,
        ..qtf_engine::EngineConfig::default()
    };
    let mut world = World::with(64, config);
    world.worker(1, &["exec"]);
    assert!(probe(&world.settle_for(SECOND + MS)).is_some());
}

#[test]
fn beat_is_noted_with_load() {
    let mut world = World::new();
    let worker = world.worker(1, &["exec"]);
    world.pass(SECOND);
    let beat = qtf_engine::Beat {
        load_milli: 1_500,
        ..qtf_engine::Beat::default()
    };
    let now = world.now;
    world.engine.worker_beat(now, worker, &beat).unwrap();
    let slot = world.segment().worker(worker.slot());
    assert_eq!(slot.load_milli(), 1_500);
    assert_eq!(slot.heartbeat(), now.stamp());
    assert!(slot.lease_end() > now.plus_ns(4 * SECOND).stamp());
}
