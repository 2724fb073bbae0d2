//! Nonsense from peers and in the segment: answered, counted, never a panic.

use std::sync::Arc;

use qtf_engine::snapshot::{Unreadable, WholeTasks};
use qtf_engine::{
    Beat, Disposition, EngineConfig, Held, Holding, Output, Payload, Reconnect, ResultReport,
    Submission, TaskRef, WallTime, WorkerHello,
};
use qtf_shm::{BlobRef, ClientIndex, Now, Outcome, OutcomeKind, TaskId, WorkerId};

use qtf_world::JournalWorld;
use qtf_world::{World, hello};

fn any_task(rng: &mut fastrand::Rng, known: &[TaskId]) -> TaskId {
    match rng.u8(0..3) {
        0 if !known.is_empty() => known[rng.usize(..known.len())],
        1 => TaskId::from_raw(rng.u64(1 << 24..1 << 59)).unwrap(),
        _ => TaskId::from_raw(rng.u64(1 << 24..1 << 26)).unwrap(),
    }
}

fn any_worker(rng: &mut fastrand::Rng) -> WorkerId {
    let slots = if rng.bool() { 4_095 } else { 4 };
    let incarnations = if rng.bool() { 1 << 24 } else { 3 };
    let (slot, incarnation) = (rng.u64(0..slots), rng.u64(0..incarnations));
    WorkerId::from_raw((incarnation << 16) | slot).unwrap()
}

/// What random calls are made with.
struct Fuzz {
    rng: fastrand::Rng,
    world: World,
    known: Vec<TaskId>,
    now: Now,
}

impl Fuzz {
    fn asked(&mut self) -> TaskRef {
        let task = any_task(&mut self.rng, &self.known);
        let attempt = if self.rng.bool() {
            self.rng.u32(..)
        } else {
            self.rng.u32(0..3)
        };
        TaskRef { task, attempt }
    }

    fn as_client(&mut self) {
        let asked = self.asked();
        let (rng, engine, now) = (&mut self.rng, &mut self.world.engine, self.now);
        match rng.u8(0..5) {
            0 => {
                let _ = engine.cancel(now, asked.task);
            }
            1 => {
                let _ = engine.forget(now, asked.task);
            }
            2 => {
                let _ = engine.update_priority(now, asked.task, rng.u32(0..300));
            }
            3 => {
                let client = ClientIndex::new_checked(rng.u16(..u16::MAX), 1 << 16).unwrap();
                engine.client_closed(now, client);
                engine.client_beat(now, client);
                let _ = engine.client_of(rng.u64(..));
            }
            _ => {
                let blob = BlobRef::Arena {
                    unit: rng.u32(..),
                    len: rng.u32(..),
                };
                let payload = Payload::Stored(blob);
                let mut submission = Submission::new(ClientIndex::UNKNOWN, "exec", payload);
                assert!(engine.submit(now, &submission).is_err());
                submission.payload = Payload::Bytes(b"x");
                submission.timeout_ms = rng.u32(..);
                submission.retries = rng.u32(0..300);
                submission.delay_ms = rng.u64(0..3);
                submission.priority = Some(rng.u32(0..300));
                let taken = engine.submit(now, &submission);
                self.known.extend(taken.map(|taken| taken.task));
            }
        }
    }

    fn as_worker(&mut self) {
        let (worker, asked) = (any_worker(&mut self.rng), self.asked());
        let (rng, engine, now) = (&mut self.rng, &mut self.world.engine, self.now);
        match rng.u8(0..8) {
            0 => engine.task_started(now, worker, asked),
            1 => {
                let report = ResultReport {
                    said: qtf_engine::Said::default(),
                    outcome: Outcome {
                        kind: OutcomeKind::from_number(rng.u8(..)),
                        code: rng.u8(..),
                        result_dropped: rng.bool(),
                        output_cut: false,
                    },
                    output: Output::Bytes(&[1; 100]),
                    asked_pause_ns: None,
                };
                let _ = engine.task_result(now, worker, asked, &report);
            }
            2 => {
                let _ = engine.worker_credits(now, worker, rng.u32(..), rng.bool());
            }
            3 => {
                let beat = Beat {
                    holding: Holding::Count(rng.u32(..)),
                    load_milli: rng.u32(..),
                    draining: rng.u8(..) == 0,
                };
                let _ = engine.worker_beat(now, worker, &beat);
            }
            4 => engine.probe_answered(now, worker, rng.u64(..)),
            5 => {
                let _ = engine.payload_for(worker, asked);
                let _ = engine.check_worker(rng.u64(..), rng.u64(..));
            }
            6 if rng.u8(..) < 8 => engine.worker_gone(now, worker),
            7 if rng.u8(..) < 8 => engine.worker_goodbye(now, worker),
            _ => {
                let _ = engine.dispatch_undelivered(now, worker, asked);
            }
        }
    }

    fn as_stranger(&mut self) {
        let (rng, engine) = (&mut self.rng, &mut self.world.engine);
        let kinds = vec!["exec".to_owned()];
        let held = [Held {
            task_id: rng.u64(..),
            attempt: rng.u32(..),
            finished: rng.bool(),
        }];
        let hello = WorkerHello {
            reconnect: Some(Reconnect {
                worker_id: rng.u64(..),
                token: rng.u64(..),
                segment_id: rng.u64(..),
            }),
            held: &held,
            ..hello(rng.u32(..), &kinds)
        };
        if let Ok(welcome) = engine.worker_hello(self.now, &hello) {
            let _ = engine.worker_credits(self.now, welcome.id, rng.u32(..), rng.bool());
        }
    }
}

#[test]
fn random_ids_attempts_credits_and_tokens_never_panic() {
    let mut world = World::with(200, EngineConfig::default());
    world.worker(2, &["exec"]);
    let mut fuzz = Fuzz {
        rng: fastrand::Rng::with_seed(11),
        now: world.now,
        world,
        known: Vec::new(),
    };
    for step in 0..20_000 {
        fuzz.now = match fuzz.rng.u8(..) {
            0 => Now::from_ns(fuzz.rng.u64(..)),
            _ => fuzz.world.now.plus_ns(step),
        };
        match fuzz.rng.u8(0..8) {
            0..=2 => fuzz.as_client(),
            3..=5 => fuzz.as_worker(),
            6 => fuzz.as_stranger(),
            _ => {
                fuzz.world.engine.cycle(fuzz.now);
            }
        }
        fuzz.world.effects();
    }
}

#[test]
fn segment_full_of_random_words_never_panics_the_engine() {
    for seed in 0..20 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut world = World::with(64, EngineConfig::default());
        let worker = world.worker(4, &["exec"]);
        let tasks: Vec<_> = (0..20).map(|_| world.submit("exec")).collect();
        let all = world.dispatches();
        for _ in 0..200 {
            let segment = world.segment();
            let slot = segment.slot(rng.u32(0..64)).unwrap();
            let record = qtf_world::written(segment, slot);
            match rng.u8(0..7) {
                0 => record.set_key(qtf_shm::Key::from_raw(rng.u64(..))),
                1 => record.set_result(BlobRef::from_raw(rng.u64(..))),
                2 => record.set_phase_time(rng.u64(..)),
                3 => record.set_losses(rng.u8(..)),
                4 => {
                    let key = qtf_shm::Key::from_raw(rng.u64(..u64::MAX - 1));
                    segment.ready().set(slot.get(), key);
                }
                5 => {
                    let key = qtf_shm::Key::from_raw(rng.u64(..u64::MAX - 1));
                    segment.timers().set(slot.get(), key);
                }
                _ => {
                    let heap = segment.worker_heap();
                    heap.set(
                        rng.u32(0..16),
                        qtf_shm::Key::from_raw(rng.u64(..u64::MAX - 1)),
                    );
                }
            }
            world.pass(rng.u64(0..1_000_000_000));
            world.cycle();
            let _ = world.beat(worker, 3);
            if let Some(&one) = all.get(rng.usize(0..4)) {
                world.end(one, rng.u8(0..2));
            }
            let now = world.now;
            let _ = world.engine.cancel(now, tasks[rng.usize(..tasks.len())]);
        }
    }
}

#[test]
fn worker_that_repeats_its_reports_for_ever_changes_nothing() {
    let mut world = World::new();
    let task = world.submit("exec");
    world.worker(1, &["exec"]);
    let got = world.dispatch();
    world.end(got, 0);
    let state = world.engine.check(task).unwrap();
    for code in 0..=255 {
        world.start(got);
        assert_eq!(world.end(got, code), Disposition::AlreadyRecorded);
    }
    assert_eq!(world.engine.check(task).unwrap(), state);
    world.verify();
}

#[test]
fn segment_full_of_random_words_never_panics_a_journal_nor_a_restart_over_it() {
    for seed in 0..20 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut world = JournalWorld::new();
        let worker = world.worker(4, &["exec"]);
        let tasks: Vec<_> = (0..20).map(|_| world.ready("exec")).collect();
        let mut all = world.dispatches();
        for _ in 0..200 {
            let segment = world.segment();
            let slot = segment.slot(rng.u32(0..64)).unwrap();
            let record = qtf_world::written(segment, slot);
            match rng.u8(0..8) {
                0 => record.set_key(qtf_shm::Key::from_raw(rng.u64(..))),
                1 => record.set_result(BlobRef::from_raw(rng.u64(..))),
                2 => record.set_phase_time(rng.u64(..)),
                3 => record.set_failures(rng.u8(..)),
                4 | 5 => record.set_lsn(rng.u64(..)),
                _ => record.set_outcome(Outcome::from_bits(rng.u16(..))),
            }
            world.pass(rng.u64(0..100_000_000));
            world.cycle();
            let _ = world.beat(worker, 3);
            if !all.is_empty() {
                let one = all[rng.usize(..all.len())];
                world.result(one, rng.u8(0..2), b"output");
            }
            let _ = world.cancel(tasks[rng.usize(..tasks.len())]);
            let _ = world.forget(tasks[rng.usize(..tasks.len())]);
            if rng.bool() {
                world.sync();
            }
            let mut whole_tasks = WholeTasks::new(
                Arc::clone(world.engine.segment()),
                WallTime {
                    now: world.now,
                    unix_ms: 1,
                },
            );
            let end = whole_tasks.end();
            let _ = whole_tasks.read::<Unreadable>(0..end, |_| Ok(()));
            if rng.u8(..) < 4 {
                world = world.hot_restart();
                world.sync();
                all = world.dispatches();
            }
        }
        // What got into the journal is believed by a cold start, as far as it fits.
        world.sync();
        drop(world.cold_restart());
    }
}
