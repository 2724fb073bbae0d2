//! Whole lives of tasks under a counting allocator.

use qtf_engine::{
    ArrayMember, Beat, Durability, Effect, Engine, Holding, Output, Payload, RejectReason,
    ResultReport, Submission,
};
use qtf_shm::{ClientIndex, Counter, KeyId, Now, Outcome, OutcomeKind, Phase, TaskId, WorkerId};

use qtf_world::JournalWorld;
use qtf_world::{MS, SECOND, task_ref};

const CAPACITY: u32 = 16;
/// Rounds in which buffers may still grow to the size that they keep.
const ROUNDS_WARM: u64 = 3;
const ROUNDS: u64 = 40;
const LARGE: [u8; 3_000] = [3; 3_000];

/// A world in which each call is counted.
struct Counted {
    world: JournalWorld,
    worker: WorkerId,
    effects: Vec<Effect>,
    tasks: Vec<TaskId>,
    keys: Vec<KeyId>,
    made: u64,
    /// Calls that have allocated, and how often.
    found: Vec<(&'static str, u64)>,
}

impl Counted {
    fn new() -> Self {
        let mut world = JournalWorld::new();
        let worker = world.worker(CAPACITY, &["exec"]);
        world.sync();
        Self {
            world,
            worker,
            effects: Vec::with_capacity(10_000),
            tasks: Vec::with_capacity(10_000),
            keys: Vec::with_capacity(10_000),
            made: 0,
            found: Vec::with_capacity(1_000),
        }
    }

    /// One call of the engine.
    fn call<R>(&mut self, name: &'static str, call: impl FnOnce(&mut Engine, Now) -> R) -> R {
        let now = self.world.now;
        let engine = &mut self.world.engine;
        let mut answer = None;
        let counted = allocation_counter::measure(|| answer = Some(call(engine, now)));
        if counted.count_total > 0 {
            self.found.push((name, counted.count_total));
        }
        answer.expect("it was called")
    }

    fn submit<'a>(&mut self, change: impl FnOnce(&mut Submission<'a>)) -> TaskId {
        self.made += 1;
        let key = KeyId::from_words([self.made, 5]).expect("not 0");
        let mut submission = Submission::new(self.client(), "exec", Payload::Bytes(b"payload"));
        submission.key = Some(key);
        change(&mut submission);
        let taken = self.call("submit", |engine, now| engine.submit(now, &submission));
        let task = taken.expect("there is room").task;
        self.keys.push(key);
        self.tasks.push(task);
        task
    }

    fn client(&self) -> ClientIndex {
        self.world.client
    }

    /// What was appended becomes durable.
    fn sync(&mut self) {
        while let Some(group) = self.call("take_journal_group", |engine, _| {
            engine.take_journal_group()
        }) {
            self.world.write_group(group);
            let world = &mut self.world;
            let counted = allocation_counter::measure(|| world.tell());
            if counted.count_total > 0 {
                self.found.push(("journal_durable", counted.count_total));
            }
        }
    }

    /// Cycles until nothing is left to do at this moment.
    fn settle(&mut self) {
        loop {
            let work = self.call("cycle", Engine::cycle);
            while let Some(effect) = self.call("pop_effect", |engine, _| engine.pop_effect()) {
                self.effects.push(effect);
            }
            if work.is_zero() {
                return;
            }
        }
    }

    /// Lets time pass, with heartbeats.
    fn pass(&mut self, ns: u64) {
        let end = self.world.now.plus_ns(ns);
        while self.world.now < end {
            self.world.pass(200 * MS);
            self.beat();
            self.settle();
            self.sync();
            self.settle();
        }
    }

    fn beat(&mut self) {
        let (worker, client) = (self.worker, self.client());
        let beat = Beat {
            holding: Holding::Count(self.held()),
            load_milli: 500,
            ..Beat::default()
        };
        let beaten = self.call("worker_beat", |engine, now| {
            engine.worker_beat(now, worker, &beat)
        });
        beaten.expect("the worker is known");
        self.call("client_beat", |engine, now| engine.client_beat(now, client));
        self.call("next_deadline", |engine, _| engine.next_deadline());
        let wall_ms = self.world.wall_ms + self.world.now.ns / MS;
        self.call("set_wall", |engine, now| engine.set_wall(now, wall_ms));
    }

    fn held(&self) -> u32 {
        let index = self.worker.slot();
        self.world.segment().worker(index).state().running().into()
    }

    fn grant(&mut self) {
        let (worker, free) = (self.worker, CAPACITY - self.held());
        let granted = self.call("worker_credits", |engine, now| {
            engine.worker_credits(now, worker, free, true)
        });
        granted.expect("the worker is known");
    }

    /// Runs what is handed out; `end` says how each ends, `None` for "not yet".
    fn work(&mut self, end: impl Fn(TaskId, u16) -> Option<(OutcomeKind, &'static [u8])>) {
        self.grant();
        self.settle();
        let mut at = 0;
        while let Some(&effect) = self.effects.get(at) {
            at += 1;
            let Effect::Dispatch {
                worker,
                task,
                attempt,
            } = effect
            else {
                continue;
            };
            let asked = task_ref(task, attempt);
            let order = self.call("payload_for", |engine, _| engine.payload_for(worker, asked));
            if order.is_err() {
                continue;
            }
            self.call("task_started", |engine, now| {
                engine.task_started(now, worker, asked);
            });
            let Some((kind, output)) = end(task, attempt) else {
                continue;
            };
            let report = ResultReport {
                said: qtf_engine::Said::default(),
                outcome: Outcome {
                    kind,
                    ..Outcome::default()
                },
                output: Output::Bytes(output),
                asked_pause_ns: None,
            };
            self.call("task_result", |engine, now| {
                engine.task_result(now, worker, asked, &report)
            });
            self.grant();
            self.settle();
        }
        self.effects.clear();
    }

    fn forget_all(&mut self) {
        let keys = core::mem::take(&mut self.keys);
        self.call("release_keys", |engine, now| {
            engine.release_keys(now, &keys);
        });
        self.keys = keys;
        self.keys.clear();
        while let Some(task) = self.tasks.pop() {
            // Some have no result that anybody wanted.
            let _ = self.call("forget", |engine, now| engine.forget(now, task));
        }
        self.sync();
        self.settle();
        self.effects.clear();
    }

    /// Many rounds; the first few may still allocate.
    fn rounds(&mut self, mut round: impl FnMut(&mut Self)) {
        for number in 0..ROUNDS_WARM + ROUNDS {
            if number == ROUNDS_WARM {
                self.found.clear();
            }
            round(self);
        }
        assert_eq!(self.found, [], "calls that have allocated, and how often");
        self.world.verify();
    }
}

#[test]
fn lives_that_end_well() {
    let mut counted = Counted::new();
    counted.rounds(|counted| {
        counted.submit(|_| ());
        counted.submit(|task| task.key = None);
        counted.submit(|task| task.durability = Durability::Memory);
        counted.submit(|task| task.payload = Payload::Bytes(&LARGE));
        counted.submit(|task| task.discard_result = true);
        counted.submit(|task| task.delay_ms = 50);
        let first = counted.submit(|task| {
            task.array = Some(ArrayMember {
                array: None,
                index: 0,
            });
        });
        counted.submit(|task| {
            task.estimate_ms = 7;
            task.array = Some(ArrayMember {
                array: Some(first),
                index: 1,
            });
        });
        counted.sync();
        counted.work(|_, _| Some((OutcomeKind::Exited, b"output")));
        counted.sync();
        counted.pass(200 * MS);
        counted.work(|_, _| Some((OutcomeKind::Exited, &LARGE)));
        counted.sync();
        counted.settle();
        counted.forget_all();
    });
    let gauges = counted.world.segment().counters();
    assert_eq!(gauges.gauge(Phase::Free) + 256, 256, "every life has ended");
}

#[test]
fn lives_with_failures_retries_cancellations_and_lost_time() {
    let mut counted = Counted::new();
    counted.rounds(|counted| {
        let waiting = counted.submit(|task| task.delay_ms = 60_000);
        let running = counted.submit(|task| task.priority = Some(200));
        counted.submit(|task| task.retries = 2);
        counted.submit(|_| ());
        let slow = counted.submit(|task| task.timeout_ms = 100);
        counted.sync();
        counted.work(|task, attempt| {
            let ends = task != running && task != slow && attempt < 2;
            ends.then_some((OutcomeKind::HandlerFailed, b"no"))
        });
        for task in [waiting, running] {
            let priority = counted.call("update_priority", |engine, now| {
                engine.update_priority(now, task, 7)
            });
            // The one that runs has none any more.
            let _ = priority;
            let asked = counted.call("cancel", |engine, now| engine.cancel(now, task));
            asked.expect("can be cancelled");
            counted
                .call("check", |engine, _| engine.check(task))
                .expect("is known");
        }
        counted.sync();
        counted.pass(SECOND);
        counted.work(|_, _| Some((OutcomeKind::Exited, b"output")));
        counted.sync();
        // What runs on beyond its timeout is ended without it.
        counted.pass(12 * SECOND);
        counted.work(|_, _| Some((OutcomeKind::Exited, b"output")));
        counted.sync();
        counted.pass(SECOND);
        counted.forget_all();
    });
    assert!(counted.world.counter(Counter::TaskTimedOut) > 0);
}

#[test]
fn workers_that_are_lost_and_their_tasks_that_others_do() {
    let mut counted = Counted::new();
    counted.rounds(|counted| {
        for _ in 0..4 {
            counted.submit(|_| ());
        }
        counted.sync();
        counted.work(|_, _| None);
        // Silent beyond its lease and an unanswered probe: its tasks go back.
        for _ in 0..40 {
            counted.world.pass(200 * MS);
            counted.settle();
            counted.sync();
        }
        counted.effects.clear();
        counted.worker = counted.world.worker(CAPACITY, &["exec"]);
        counted.work(|_, _| Some((OutcomeKind::Exited, b"output")));
        counted.sync();
        counted.settle();
        counted.forget_all();
    });
    assert!(counted.world.counter(Counter::WorkerLost) > ROUNDS);
}

#[test]
fn refusals_repeats_and_questions() {
    let mut counted = Counted::new();
    // Segments are full oftener than anything else.
    while counted.world.take_in("exec", |_| ()).is_ok() {}
    counted.world.sync();
    let segment = counted.world.segment();
    let slot = segment.slot(0).expect("the first");
    let task = segment.task(slot).state().id(slot).expect("a task");
    counted.world.cancel(task).expect("it waits");
    counted.sync();
    counted.world.forget(task).expect("it has ended");
    counted.sync();
    let first = counted.submit(|_| ());
    let key = counted.keys.first().copied();
    counted.rounds(|counted| {
        let client = counted.client();
        let mut submission = Submission::new(client, "exec", Payload::Bytes(&LARGE));
        let full = counted.call("submit", |engine, now| engine.submit(now, &submission));
        assert_eq!(full.expect_err("full").reason, RejectReason::TasksFull);
        submission.key = key;
        let again = counted.call("submit", |engine, now| engine.submit(now, &submission));
        assert_eq!(again.map(|again| again.task), Ok(first));
        let key = key.expect("it was given one");
        let known = counted.call("submitted_before", |engine, now| {
            engine.submitted_before(now, key)
        });
        assert!(known.is_ok_and(|known| known.is_some()));
        let end = counted.call("settled_end", |engine, _| engine.settled_end(first));
        assert_eq!(end, Ok(None));
        counted.call("awaited_lsn", |engine, _| engine.awaited_lsn());
        let ended = counted.call("forget", |engine, now| engine.forget(now, first));
        assert_eq!(
            ended.expect_err("it waits").reason,
            RejectReason::WrongState
        );
        counted.pass(SECOND);
    });
}
