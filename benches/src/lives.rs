//! An engine with so many waiting tasks, and batches of tasks that go through their whole life in it: what `bench-engine` and
//! `bench-pages` measure. One thread, no network.

use std::sync::Arc;
use std::time::Instant;

use qtf_engine::{
    Caller, ClientHello, Disposition, Effect, Engine, EngineConfig, Output, Payload, Principal,
    ResultReport, Submission, TaskRef, WorkerHello,
};
use qtf_shm::{
    ClientIndex, Geometry, HugePages, Now, Outcome, OutcomeKind, Segment, SegmentSpec, WorkerId,
};

use crate::Failure;

/// Tasks a batch; also what the worker holds at the same time.
pub const BATCH: u32 = 200;
/// What a batch goes through.
pub const STEPS: [&str; 5] = ["submit", "assign", "started", "result", "forget"];
const SECOND_NS: u64 = 1_000_000_000;
const SEGMENT_BYTES: u64 = 256 << 20;

/// The engine, a client and a worker.
#[derive(Debug)]
pub struct Lives {
    engine: Engine,
    started: Instant,
    client: ClientIndex,
    worker: WorkerId,
    random: fastrand::Rng,
}

impl Lives {
    /// An engine with so many tasks that wait, and one worker.
    ///
    /// # Errors
    /// A submission or a worker is refused.
    pub fn new(waiting: u32, huge_pages: HugePages) -> Result<Self, Failure> {
        let mut spec = SegmentSpec::new("bench", std::env::temp_dir().join("qtf-bench-engine"));
        spec.geometry = geometry(waiting)?;
        spec.huge_pages = huge_pages;
        let segment = Arc::new(Segment::in_process(&spec));
        let config = EngineConfig {
            // Nobody beats in a bench.
            lease_ns: 86_400 * SECOND_NS,
            tasks_per_cycle_max: BATCH,
            ..EngineConfig::default()
        };
        let started = Instant::now();
        let now = Now::from_ns(SECOND_NS);
        let mut engine = Engine::new(segment, config, now)?;
        let client = engine.client_hello(
            now,
            &ClientHello {
                principal: Principal::Uid(1000),
                name: "bench",
                host: "here",
                address: "none",
                pid: 1,
            },
        )?;
        let kinds = ["noop".to_owned()];
        let welcome = engine.worker_hello(
            now,
            &WorkerHello {
                name: "bench",
                host: "here",
                pid: 2,
                uid: None,
                capacity: BATCH,
                kinds: &kinds,
                reconnect: None,
                held: &[],
            },
        )?;
        let mut lives = Self {
            engine,
            started,
            client: client.index,
            worker: welcome.id,
            random: fastrand::Rng::with_seed(1),
        };
        lives.get_known()?;
        for first in (0..waiting).step_by(BATCH as usize) {
            lives.submit(BATCH.min(waiting - first))?;
        }
        Ok(lives)
    }

    /// What the tasks lie in.
    #[must_use]
    pub fn segment(&self) -> &Segment {
        self.engine.segment()
    }

    /// The worker starts and ends tasks until it is given a batch at once: what is ordered ahead of it grows with its starts.
    fn get_known(&mut self) -> Result<(), Failure> {
        let now = self.now();
        self.engine.worker_credits(now, self.worker, BATCH, true)?;
        self.submit(BATCH)?;
        let report = ResultReport {
            said: qtf_engine::Said::default(),
            outcome: Outcome {
                kind: OutcomeKind::Exited,
                ..Outcome::default()
            },
            output: Output::None,
            asked_pause_ns: None,
        };
        while !self.engine.cycle(self.now()).is_zero() {
            while let Some(effect) = self.engine.pop_effect() {
                if let Effect::Dispatch { task, attempt, .. } = effect {
                    let attempt = attempt.into();
                    let (now, asked) = (self.now(), TaskRef { task, attempt });
                    self.engine.task_result(now, self.worker, asked, &report);
                    self.engine.forget(now, task)?;
                }
            }
        }
        Ok(())
    }

    fn now(&self) -> Now {
        let ns = u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX);
        Now::from_ns(ns.saturating_add(SECOND_NS))
    }

    /// Submits a batch, as one message does.
    fn submit(&mut self, count: u32) -> Result<(), Failure> {
        let caller = Caller {
            now: self.now(),
            who: self.client,
        };
        let random = &mut self.random;
        let submissions = (0..count).map(|_| {
            let mut one = Submission::new(caller.who, "noop", Payload::Bytes(b"a payload"));
            one.priority = Some(random.u8(..).into());
            one
        });
        let mut refused = None;
        self.engine.submit_batch(caller, submissions, |answer| {
            refused = refused.or(answer.err());
        });
        refused.map_or(Ok(()), |refused| Err(refused.into()))
    }

    /// One batch through its life; nanoseconds a task of each step.
    ///
    /// # Errors
    /// A task is refused, or not handed out.
    pub fn round(&mut self) -> Result<[f64; 5], Failure> {
        let mut clock = Instant::now();
        let mut lap = || {
            let ns = clock.elapsed().as_secs_f64() * 1e9 / f64::from(BATCH);
            clock = Instant::now();
            ns
        };
        self.submit(BATCH)?;
        let submit = lap();
        let got = self.assign()?;
        let assign = lap();
        let who = self.worker;
        let now = self.now();
        self.engine
            .started_batch(Caller { now, who }, got.iter().copied());
        let started = lap();
        let report = ResultReport {
            said: qtf_engine::Said::default(),
            outcome: Outcome {
                kind: OutcomeKind::Exited,
                ..Outcome::default()
            },
            output: Output::Bytes(b"an output"),
            asked_pause_ns: None,
        };
        let results: Vec<_> = got.iter().map(|&task| (task, report)).collect();
        let now = self.now();
        let mut recorded = 0;
        self.engine
            .results_batch(Caller { now, who }, &results, |answer| {
                recorded += u32::from(answer.disposition == Disposition::Recorded);
            });
        while self.engine.pop_effect().is_some() {}
        let result = lap();
        let now = self.now();
        let tasks = got.iter().map(|task| task.task);
        self.engine.forget_batch(now, tasks, |_, answer| {
            recorded -= u32::from(answer.is_ok());
        });
        if recorded != 0 {
            return Err(format!("{recorded} results were recorded and not forgotten").into());
        }
        Ok([submit, assign, started, result, lap()])
    }

    fn assign(&mut self) -> Result<Vec<TaskRef>, Failure> {
        let now = self.now();
        self.engine.worker_credits(now, self.worker, BATCH, true)?;
        let mut got = Vec::with_capacity(BATCH as usize);
        while got.len() < BATCH as usize {
            let work = self.engine.cycle(self.now());
            while let Some(effect) = self.engine.pop_effect() {
                if let Effect::Dispatch { task, attempt, .. } = effect {
                    got.push(TaskRef {
                        task,
                        attempt: attempt.into(),
                    });
                }
            }
            if work.is_zero() {
                return Err(format!("only {} of {BATCH} tasks were handed out", got.len()).into());
            }
        }
        Ok(got)
    }
}

/// The default segment as long as it holds them.
fn geometry(waiting: u32) -> Result<Geometry, Failure> {
    let mut bytes = SEGMENT_BYTES;
    loop {
        let geometry = Geometry::for_bytes(bytes)?;
        // With room for a batch, and for what principals leave to others.
        if u64::from(geometry.tasks()) * 31 / 32 >= u64::from(waiting + BATCH) {
            return Ok(geometry);
        }
        bytes *= 2;
    }
}
