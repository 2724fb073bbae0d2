//! `bench-engine`: what one task costs the engine, step by step, while many others wait.
//!
//! One thread, no network: submit, a cycle that assigns, started, ended with an output, forget. Each
//! round takes one batch through all steps, each as one message does, so the number of waiting tasks stays. The figures are times of batches,
//! divided by their size. What does not grow with the number of waiting tasks (but for cache misses) has no
//! step that walks over them. Run it on an idle machine:
//! `cargo run --release --package qtf-benches --bin bench-engine [ROUNDS [WAITING ..]]`.
#![expect(clippy::print_stdout, reason = "a bench prints its figures")]

use std::error::Error;
use std::fs;
use std::sync::Arc;
use std::time::Instant;

use qtf_engine::{
    Caller, ClientHello, Disposition, Effect, Engine, EngineConfig, Output, Payload, Principal,
    ResultReport, Submission, TaskRef, WorkerHello,
};
use qtf_shm::{ClientIndex, Geometry, Now, Outcome, OutcomeKind, Segment, SegmentSpec, WorkerId};

/// Tasks a batch; also what the worker holds at the same time.
const BATCH: u32 = 200;
const ROUNDS_DEFAULT: usize = 500;
const WAITING: [u32; 4] = [1_000, 100_000, 500_000, 1_000_000];
const STEPS: [&str; 5] = ["submit", "assign", "started", "result", "forget"];
const SECOND_NS: u64 = 1_000_000_000;
const SEGMENT_BYTES: u64 = 256 << 20;

fn main() -> Result<(), Box<dyn Error>> {
    let mut given = std::env::args().skip(1);
    let rounds = given
        .next()
        .map_or(Ok(ROUNDS_DEFAULT), |rounds| rounds.parse())?
        .max(1);
    let mut depths = given
        .map(|waiting| waiting.parse())
        .collect::<Result<Vec<u32>, _>>()?;
    if depths.is_empty() {
        depths = WAITING.to_vec();
    }
    println!("{}", machine());
    println!("{rounds} rounds of {BATCH} tasks; ns a task");
    println!(
        "{:>9}  {:<10} {:>8} {:>8} {:>8} {:>8}",
        "waiting", "step", "best", "p50", "p90", "p99"
    );
    for waiting in depths {
        let mut bench = Bench::new(waiting)?;
        let mut times: [Vec<f64>; 6] = Default::default();
        // The first rounds warm the caches up.
        for round in 0..rounds + rounds / 10 {
            let steps = bench.round()?;
            if round >= rounds / 10 {
                for (all, step) in times.iter_mut().zip(steps.iter().copied()) {
                    all.push(step);
                }
                times[STEPS.len()].push(steps.iter().sum());
            }
        }
        for (name, times) in STEPS.into_iter().chain(["whole life"]).zip(&mut times) {
            print_line(waiting, name, times);
        }
        let report = bench.engine.segment().verify();
        if report.broken() {
            return Err(format!("the segment is broken: {report:?}").into());
        }
    }
    Ok(())
}

fn print_line(waiting: u32, name: &str, times: &mut [f64]) {
    times.sort_by(f64::total_cmp);
    let at = |percent: usize| times[(times.len() - 1) * percent / 100];
    println!(
        "{waiting:>9}  {name:<10} {:>8.0} {:>8.0} {:>8.0} {:>8.0}",
        at(0),
        at(50),
        at(90),
        at(99)
    );
}

/// Processor, cores and load, as figures of different machines cannot be compared.
fn machine() -> String {
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(':'))
        .map_or("unknown processor", |(_, model)| model.trim());
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').next().unwrap_or("?");
    format!("{model}, {cores} cores, load {load}")
}

struct Bench {
    engine: Engine,
    started: Instant,
    client: ClientIndex,
    worker: WorkerId,
    random: fastrand::Rng,
}

impl Bench {
    /// An engine with so many tasks that wait, and one worker.
    fn new(waiting: u32) -> Result<Self, Box<dyn Error>> {
        let mut spec = SegmentSpec::new("bench", std::env::temp_dir().join("qtf-bench-engine"));
        spec.geometry = Geometry::for_bytes(SEGMENT_BYTES)?;
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
        let mut bench = Self {
            engine,
            started,
            client: client.index,
            worker: welcome.id,
            random: fastrand::Rng::with_seed(1),
        };
        bench.get_known()?;
        for first in (0..waiting).step_by(BATCH as usize) {
            bench.submit(BATCH.min(waiting - first))?;
        }
        Ok(bench)
    }

    /// The worker starts and ends tasks until it is given a batch at once: what is ordered ahead of it grows with its starts.
    fn get_known(&mut self) -> Result<(), Box<dyn Error>> {
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
    fn submit(&mut self, count: u32) -> Result<(), Box<dyn Error>> {
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
    fn round(&mut self) -> Result<[f64; 5], Box<dyn Error>> {
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

    fn assign(&mut self) -> Result<Vec<TaskRef>, Box<dyn Error>> {
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
