//! The world of target `commands`: an engine over a small segment in memory, and what is known of each task.
//!
//! Checked all the time: attempts are handed out one after the other and never after the end; a result counts once; a task
//! ends once; a task is gone only after its end; the segment's own check finds nothing.

use std::collections::BTreeMap;
use std::sync::Arc;

use qtf_engine::{
    ClientHello, Disposition, Effect, Engine, EngineConfig, Held, Output, Principal, Reconnect,
    ResultReport, Submission, TaskRef, WorkerHello,
};
use qtf_shm::{
    ClientIndex, Geometry, Now, Outcome, OutcomeKind, Phase, Segment, SegmentSpec, TaskId, WorkerId,
};

pub(crate) const MS: u64 = 1_000_000;
/// The last one is offered by nobody before the end.
pub(crate) const KINDS: [&str; 3] = ["exec", "render", "rare"];
/// LIMIT: turns of the engine until everything has ended; far more than are needed.
const TURNS_MAX: u32 = 20_000;

#[derive(Debug)]
struct Known {
    attempts: u8,
    recorded: u8,
    end: Option<Phase>,
    discards: bool,
    is_held: bool,
}

#[derive(Debug)]
struct Worker {
    id: WorkerId,
    token: u64,
    holds: Vec<TaskRef>,
}

pub(crate) struct World {
    pub(crate) engine: Engine,
    pub(crate) now: Now,
    pub(crate) client: ClientIndex,
    tasks: BTreeMap<TaskId, Known>,
    workers: Vec<Worker>,
    /// Held for its drop.
    _folder: tempfile::TempDir,
}

fn config() -> EngineConfig {
    EngineConfig {
        lease_ns: 80 * MS,
        probe_ns: 10 * MS,
        heartbeat_ns: 10 * MS,
        result_ttl_ns: 100_000 * MS,
        stop_grace_ns: 10 * MS,
        start_within_ns: 240 * MS,
        retry_backoff_ns_min: 5 * MS,
        retry_backoff_ns_max: 40 * MS,
        losses_max: 2,
        tasks_per_cycle_max: 8,
        sweep_slots_per_cycle: 32,
        background_sweep_ns: 20 * MS,
        effects_max: 12,
        seed: 1,
        ..EngineConfig::default()
    }
}

fn hello() -> ClientHello<'static> {
    ClientHello {
        principal: Principal::Uid(1),
        name: "one",
        host: "here",
        address: "unix",
        pid: 1,
    }
}

impl World {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder can be made");
        let mut spec = SegmentSpec::new("fuzz", folder.path());
        spec.geometry = Geometry::for_counts(64, 4).expect("a small segment fits");
        let segment = Arc::new(Segment::in_process(&spec));
        let now = Now::from_ns(MS);
        let mut engine = Engine::new(segment, config(), now).expect("the settings are usable");
        let session = engine.client_hello(now, &hello());
        Self {
            engine,
            now,
            client: session.expect("there is room for one").index,
            tasks: BTreeMap::new(),
            workers: Vec::new(),
            _folder: folder,
        }
    }

    /// Any task that is known, by a number.
    pub(crate) fn task(&self, number: u8) -> Option<TaskId> {
        let count = self.tasks.len().max(1);
        self.tasks.keys().nth(usize::from(number) % count).copied()
    }

    /// Any worker that has joined, by a number.
    pub(crate) fn worker(&self, number: u8) -> Option<WorkerId> {
        let count = self.workers.len().max(1);
        self.workers
            .get(usize::from(number) % count)
            .map(|worker| worker.id)
    }

    /// Something that a worker holds.
    pub(crate) fn held(&self, worker: u8, task: u8) -> Option<(WorkerId, TaskRef)> {
        let worker = self
            .workers
            .get(usize::from(worker) % self.workers.len().max(1))?;
        let held = worker
            .holds
            .get(usize::from(task) % worker.holds.len().max(1))?;
        Some((worker.id, *held))
    }

    pub(crate) fn submit(&mut self, submission: &Submission<'_>) {
        let Ok(accepted) = self.engine.submit(self.now, submission) else {
            return;
        };
        let known = Known {
            attempts: 0,
            recorded: 0,
            end: None,
            discards: submission.discard_result,
            is_held: submission.hold,
        };
        let before = self.tasks.insert(accepted.task, known);
        assert!(before.is_none(), "{} was given twice", accepted.task);
    }

    pub(crate) fn cancel(&mut self, number: u8) {
        if let Some(task) = self.task(number) {
            let end = self.tasks[&task].end;
            if let (Ok(answer), Some(end)) = (self.engine.cancel(self.now, task), end) {
                // Asked twice, answered twice.
                assert_eq!(
                    (answer.phase, end),
                    (Phase::Cancelled, Phase::Cancelled),
                    "{task}"
                );
            }
        }
    }

    pub(crate) fn forget(&mut self, number: u8) {
        if let Some(task) = self.task(number)
            && self.engine.forget(self.now, task).is_ok()
        {
            let known = self.tasks.remove(&task).expect("it was there just now");
            assert!(known.end.is_some(), "{task} was forgotten before its end");
        }
    }

    pub(crate) fn hold(&mut self, number: u8) {
        if let Some(task) = self.task(number)
            && self.engine.hold(self.now, task).is_ok()
        {
            let known = self.tasks.get_mut(&task).expect("it was there just now");
            assert_eq!(known.end, None, "{task} was held after its end");
            known.is_held = true;
        }
    }

    pub(crate) fn release(&mut self, number: u8) {
        if let Some(task) = self.task(number) {
            self.let_go(task);
        }
    }

    fn let_go(&mut self, task: TaskId) {
        let is_released = self.engine.release(self.now, task).is_ok();
        let known = self.tasks.get_mut(&task).expect("it was there just now");
        let must_be = known.is_held && known.end.is_none();
        assert!(
            is_released || !must_be,
            "{task} was held, and is not released"
        );
        known.is_held &= !is_released;
    }

    pub(crate) fn revive(&mut self, number: u8) {
        if let Some(task) = self.task(number)
            && self.engine.revive(self.now, task).is_ok()
        {
            let known = self.tasks.get_mut(&task).expect("it was there just now");
            assert_eq!(known.end, Some(Phase::DeadLetter), "{task} was revived");
            known.end = None;
        }
    }

    /// A worker joins, by the bits of `kinds` with some kinds or none.
    pub(crate) fn join(&mut self, capacity: u32, kinds: u32, held: Option<Held>) {
        let kinds: Vec<String> = KINDS[..2]
            .iter()
            .enumerate()
            .filter(|(bit, _)| (kinds >> bit) & 1 == 1)
            .map(|(_, kind)| (*kind).to_owned())
            .collect();
        let held: Vec<Held> = held.into_iter().collect();
        self.enter(capacity, &kinds, (None, &held));
    }

    fn enter(
        &mut self,
        capacity: u32,
        kinds: &[String],
        (reconnect, held): (Option<Reconnect>, &[Held]),
    ) {
        let hello = WorkerHello {
            name: "w",
            host: "here",
            pid: 1,
            uid: None,
            capacity,
            kinds,
            reconnect,
            held,
        };
        let Ok(welcome) = self.engine.worker_hello(self.now, &hello) else {
            return;
        };
        if welcome.is_known {
            for worker in self
                .workers
                .iter_mut()
                .filter(|worker| worker.id == welcome.id)
            {
                worker.holds.retain(|held| {
                    !welcome.abandon.iter().any(|abandoned| {
                        abandoned.task_id == held.task.as_raw() && abandoned.attempt == held.attempt
                    })
                });
            }
        } else {
            self.workers.push(Worker {
                id: welcome.id,
                token: welcome.token,
                holds: Vec::new(),
            });
        }
        let _known = self
            .engine
            .worker_credits(self.now, welcome.id, capacity, true);
    }

    /// A worker that was here comes back and says what it holds.
    pub(crate) fn return_of(&mut self, number: u8, which: u8) {
        let Some(worker) = self
            .workers
            .get(usize::from(number) % self.workers.len().max(1))
        else {
            return;
        };
        let held: Vec<Held> = worker
            .holds
            .iter()
            .map(|held| Held {
                task_id: held.task.as_raw(),
                attempt: held.attempt,
                finished: which & 1 == 1,
            })
            .collect();
        let reconnect = Reconnect {
            worker_id: worker.id.as_raw(),
            token: worker.token.wrapping_add(u64::from(which / 128)),
            segment_id: self.engine.segment().segment_id(),
        };
        let kinds: Vec<String> = KINDS[..2].iter().map(|kind| (*kind).to_owned()).collect();
        self.enter(4, &kinds, (Some(reconnect), &held));
    }

    /// A worker ends well, dies, or is to drain.
    pub(crate) fn leave(&mut self, number: u8, how: u8) {
        let Some(worker) = self.worker(number) else {
            return;
        };
        match how % 3 {
            0 => self.engine.worker_goodbye(self.now, worker),
            1 => self.engine.worker_gone(self.now, worker),
            _ => drop(self.engine.drain_worker(self.now, worker)),
        }
    }

    /// A worker reports about something that it was handed, whether it may or not.
    pub(crate) fn report(&mut self, worker: u8, task: u8, outcome: Outcome) {
        let Some((worker, held)) = self.held(worker, task) else {
            return;
        };
        let bytes = [7; 100];
        let report = ResultReport {
            said: qtf_engine::Said::default(),
            outcome,
            output: if task & 1 == 0 {
                Output::Bytes(&bytes)
            } else {
                Output::None
            },
            asked_pause_ns: None,
        };
        self.hand_in(worker, held, &report);
    }

    /// Hands a result in and notes what became of it.
    pub(crate) fn hand_in(&mut self, worker: WorkerId, asked: TaskRef, report: &ResultReport<'_>) {
        let answer = self.engine.task_result(self.now, worker, asked, report);
        let answer = answer.disposition;
        if answer == Disposition::Recorded {
            let known = self
                .tasks
                .get_mut(&asked.task)
                .expect("only accepted tasks have results");
            assert_eq!(known.end, None, "{}: a result after its end", asked.task);
            assert_eq!(
                u32::from(known.attempts),
                asked.attempt,
                "{}: an old attempt",
                asked.task
            );
            assert!(
                known.recorded < known.attempts,
                "{}: counted twice",
                asked.task
            );
            known.recorded = known.attempts;
        }
        if answer != Disposition::NotNow {
            for worker in &mut self.workers {
                worker.holds.retain(|held| *held != asked);
            }
        }
    }

    /// Time goes on.
    pub(crate) fn pass(&mut self, ns: u64) {
        self.now = self.now.plus_ns(ns);
    }

    pub(crate) fn cycle(&mut self) {
        self.engine.cycle(self.now);
        self.take_effects();
    }

    /// The daemon dies between two calls, and the next one adopts the segment.
    pub(crate) fn restart(&mut self) {
        self.take_effects();
        let segment = Arc::clone(self.engine.segment());
        segment.rebuild_caches(self.now);
        self.engine = Engine::new(segment, config(), self.now).expect("the settings are usable");
        let session = self.engine.client_hello(self.now, &hello());
        self.client = session.expect("its record is kept").index;
    }

    pub(crate) fn take_effects(&mut self) {
        while let Some(effect) = self.engine.pop_effect() {
            match effect {
                Effect::Dispatch {
                    worker,
                    task,
                    attempt,
                } => self.dispatched(worker, task, attempt),
                Effect::Finished { task, phase } => {
                    let known = self.tasks.get_mut(&task).expect("only accepted tasks end");
                    assert_eq!(known.end, None, "{task} ended twice");
                    known.end = Some(phase);
                    if known.discards && phase == Phase::Done {
                        self.tasks.remove(&task);
                    }
                }
                Effect::Stop { .. }
                | Effect::Probe { .. }
                | Effect::Evict { .. }
                | Effect::Drain { .. } => {}
            }
        }
    }

    fn dispatched(&mut self, worker: WorkerId, task: TaskId, attempt: u8) {
        let known = self.tasks.get_mut(&task).expect("only accepted tasks run");
        assert_eq!(known.end, None, "{task} was handed out after its end");
        assert!(!known.is_held, "{task} was handed out while it was held");
        assert!(attempt > known.attempts, "{task}: attempt {attempt} again");
        known.attempts = attempt;
        if let Some(worker) = self.workers.iter_mut().find(|one| one.id == worker) {
            worker.holds.push(TaskRef {
                task,
                attempt: u32::from(attempt),
            });
        }
    }

    /// What is known, the segment, and the segment with itself agree.
    pub(crate) fn verify(&mut self) {
        let report = self.engine.segment().verify();
        assert!(!report.broken() && !report.torn(), "{report:#?}");
        for (task, known) in &self.tasks {
            match (self.engine.check(*task), known.end) {
                (Ok(state), None) => {
                    let phase = state.phase();
                    assert!(phase.is_unfinished(), "{task} is {phase}");
                }
                (Ok(state), Some(end)) => assert_eq!(state.phase(), end, "{task}"),
                (Err(error), None) => panic!("{task} is lost: {error}"),
                // Its time to live is over.
                (Err(_), Some(end)) => assert_ne!(end, Phase::DeadLetter, "{task} is gone"),
            }
        }
        let engine = &self.engine;
        self.tasks.retain(|task, _| engine.check(*task).is_ok());
    }

    /// One good worker for all kinds runs what is left: everything ends.
    pub(crate) fn come_to_rest(&mut self) {
        // All that were here fall silent; their leases end.
        for _ in 0..40 {
            self.pass(20 * MS);
            self.cycle();
        }
        self.workers.clear();
        let all: Vec<TaskId> = self.tasks.keys().copied().collect();
        for task in all {
            self.let_go(task);
        }
        let kinds: Vec<String> = KINDS.iter().map(|kind| (*kind).to_owned()).collect();
        self.enter(8, &kinds, (None, &[]));
        for _ in 0..TURNS_MAX {
            if self.tasks.values().all(|known| known.end.is_some()) {
                self.verify();
                return;
            }
            self.pass(5 * MS);
            self.cycle();
            let Some(worker) = self.workers.first() else {
                // The kinds or the records are full of what the input has made.
                self.enter(8, &kinds, (None, &[]));
                continue;
            };
            let (id, holds) = (worker.id, worker.holds.clone());
            for held in holds {
                let report = ResultReport {
                    said: qtf_engine::Said::default(),
                    outcome: Outcome {
                        kind: OutcomeKind::Exited,
                        code: 0,
                        result_dropped: false,
                        output_cut: false,
                    },
                    output: Output::None,
                    asked_pause_ns: None,
                };
                self.hand_in(id, held, &report);
                self.take_effects();
            }
            let beat = qtf_engine::Beat {
                holding: qtf_engine::Holding::Count(0),
                load_milli: 0,
                draining: false,
            };
            if self.engine.worker_beat(self.now, id, &beat).is_err() {
                self.workers.clear();
            } else {
                let _known = self.engine.worker_credits(self.now, id, 8, true);
            }
        }
        let open: Vec<_> = self
            .tasks
            .iter()
            .filter(|(_, known)| known.end.is_none())
            .map(|(task, _)| (*task, self.engine.check(*task)))
            .collect();
        panic!("never end: {open:?}");
    }
}
