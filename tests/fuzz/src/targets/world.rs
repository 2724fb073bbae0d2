//! The world of target `commands` on that of all tests of the engine (`qtf_world`), and what is known of each task.
//!
//! Checked all the time: attempts are handed out one after the other and never after the end; a result counts once; a task
//! ends once; a task is gone only after its end; the segment's own check finds nothing.

use std::collections::BTreeMap;

use qtf_engine::{
    Disposition, Effect, EngineConfig, Held, Output, Reconnect, ResultReport, Submission, TaskRef,
    WorkerHello,
};
use qtf_shm::{Now, Outcome, OutcomeKind, Phase, TaskId, WorkerId};
use qtf_world::{Ground, Life, MS, held_list, hello, hurried};

/// The last one is offered by nobody before the end.
pub(crate) const KINDS: [&str; 3] = ["exec", "render", "rare"];
/// LIMIT: turns of the engine until everything has ended; far more than are needed.
const TURNS_MAX: u32 = 20_000;

#[derive(Debug)]
struct Known {
    life: Life,
    discards: bool,
    is_held: bool,
}

impl Known {
    fn end(&self) -> Option<Phase> {
        self.life.end.map(|(phase, _)| phase)
    }
}

#[derive(Debug)]
struct Worker {
    id: WorkerId,
    token: u64,
    holds: Vec<TaskRef>,
}

pub(crate) struct World {
    pub(crate) base: qtf_world::World,
    tasks: BTreeMap<TaskId, Known>,
    workers: Vec<Worker>,
}

fn config() -> EngineConfig {
    EngineConfig {
        result_ttl_ns: 100_000 * MS,
        ..hurried(1)
    }
}

impl World {
    pub(crate) fn new() -> Self {
        let ground = Ground::of(64, 4);
        Self {
            base: qtf_world::World::on(ground, config(), Now::from_ns(MS), &["one"]),
            tasks: BTreeMap::new(),
            workers: Vec::new(),
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
        let Ok(accepted) = self.base.engine.submit(self.base.now, submission) else {
            return;
        };
        let known = Known {
            life: Life::default(),
            discards: submission.discard_result,
            is_held: submission.hold,
        };
        let before = self.tasks.insert(accepted.task, known);
        assert!(before.is_none(), "{} was given twice", accepted.task);
    }

    pub(crate) fn cancel(&mut self, number: u8) {
        if let Some(task) = self.task(number) {
            let end = self.tasks[&task].end();
            if let (Ok(answer), Some(end)) = (self.base.engine.cancel(self.base.now, task), end) {
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
            && self.base.engine.forget(self.base.now, task).is_ok()
        {
            let known = self.tasks.remove(&task).expect("it was there just now");
            assert!(known.end().is_some(), "{task} was forgotten before its end");
        }
    }

    pub(crate) fn hold(&mut self, number: u8) {
        if let Some(task) = self.task(number)
            && self.base.engine.hold(self.base.now, task).is_ok()
        {
            let known = self.tasks.get_mut(&task).expect("it was there just now");
            assert_eq!(known.end(), None, "{task} was held after its end");
            known.is_held = true;
        }
    }

    pub(crate) fn release(&mut self, number: u8) {
        if let Some(task) = self.task(number) {
            self.let_go(task);
        }
    }

    fn let_go(&mut self, task: TaskId) {
        let is_released = self.base.engine.release(self.base.now, task).is_ok();
        let known = self.tasks.get_mut(&task).expect("it was there just now");
        let must_be = known.is_held && known.end().is_none();
        assert!(
            is_released || !must_be,
            "{task} was held, and is not released"
        );
        known.is_held &= !is_released;
    }

    pub(crate) fn revive(&mut self, number: u8) {
        if let Some(task) = self.task(number)
            && self.base.engine.revive(self.base.now, task).is_ok()
        {
            let known = self.tasks.get_mut(&task).expect("it was there just now");
            assert_eq!(known.end(), Some(Phase::DeadLetter), "{task} was revived");
            known.life.end = None;
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
        self.enter(capacity, &kinds, None, &held);
    }

    fn enter(
        &mut self,
        capacity: u32,
        kinds: &[String],
        reconnect: Option<Reconnect>,
        held: &[Held],
    ) {
        let hello = WorkerHello {
            reconnect,
            held,
            ..hello(capacity, kinds)
        };
        let Ok(welcome) = self.base.engine.worker_hello(self.base.now, &hello) else {
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
            .base
            .engine
            .worker_credits(self.base.now, welcome.id, capacity, true);
    }

    /// A worker that was here comes back and says what it holds.
    pub(crate) fn return_of(&mut self, number: u8, which: u8) {
        let Some(worker) = self
            .workers
            .get(usize::from(number) % self.workers.len().max(1))
        else {
            return;
        };
        let holds = worker.holds.iter().copied();
        let held = if which & 1 == 1 {
            held_list([], holds)
        } else {
            held_list(holds, [])
        };
        let reconnect = Reconnect {
            worker_id: worker.id.as_raw(),
            token: worker.token.wrapping_add(u64::from(which / 128)),
            segment_id: self.base.engine.segment().segment_id(),
        };
        let kinds: Vec<String> = KINDS[..2].iter().map(|kind| (*kind).to_owned()).collect();
        self.enter(4, &kinds, Some(reconnect), &held);
    }

    /// A worker ends well, dies, or is to drain.
    pub(crate) fn leave(&mut self, number: u8, how: u8) {
        let Some(worker) = self.worker(number) else {
            return;
        };
        match how % 3 {
            0 => self.base.engine.worker_goodbye(self.base.now, worker),
            1 => self.base.engine.worker_gone(self.base.now, worker),
            _ => drop(self.base.engine.drain_worker(self.base.now, worker)),
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
        let answer = self
            .base
            .engine
            .task_result(self.base.now, worker, asked, report);
        let answer = answer.disposition;
        if answer == Disposition::Recorded {
            let known = self
                .tasks
                .get_mut(&asked.task)
                .expect("only accepted tasks have results");
            let attempt = u16::try_from(asked.attempt).expect("one that was handed out");
            known.life.recorded(asked.task, attempt);
        }
        if answer != Disposition::NotNow {
            for worker in &mut self.workers {
                worker.holds.retain(|held| *held != asked);
            }
        }
    }

    pub(crate) fn cycle(&mut self) {
        self.base.engine.cycle(self.base.now);
        self.take_effects();
    }

    /// The daemon dies between two calls, and the next one adopts the segment.
    pub(crate) fn restart(&mut self) {
        self.take_effects();
        self.base.restart(config());
    }

    pub(crate) fn take_effects(&mut self) {
        while let Some(effect) = self.base.engine.pop_effect() {
            match effect {
                Effect::Dispatch {
                    worker,
                    task,
                    attempt,
                } => self.dispatched(worker, task, attempt),
                Effect::Finished { task, phase } => {
                    let known = self.tasks.get_mut(&task).expect("only accepted tasks end");
                    known.life.ended(task, phase, self.base.now);
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

    fn dispatched(&mut self, worker: WorkerId, task: TaskId, attempt: u16) {
        let known = self.tasks.get_mut(&task).expect("only accepted tasks run");
        known.life.dispatched(task, attempt, known.is_held);
        if let Some(worker) = self.workers.iter_mut().find(|one| one.id == worker) {
            worker.holds.push(TaskRef {
                task,
                attempt: u32::from(attempt),
            });
        }
    }

    /// What is known, the segment, and the segment with itself agree.
    pub(crate) fn verify(&mut self) {
        self.base.assert_sound();
        for (task, known) in &self.tasks {
            match (self.base.engine.check(*task), known.end()) {
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
        let engine = &self.base.engine;
        self.tasks.retain(|task, _| engine.check(*task).is_ok());
    }

    /// One good worker for all kinds runs what is left: everything ends.
    pub(crate) fn come_to_rest(&mut self) {
        // All that were here fall silent; their leases end.
        for _ in 0..40 {
            self.base.pass(20 * MS);
            self.cycle();
        }
        self.workers.clear();
        let all: Vec<TaskId> = self.tasks.keys().copied().collect();
        for task in all {
            self.let_go(task);
        }
        let kinds: Vec<String> = KINDS.iter().map(|kind| (*kind).to_owned()).collect();
        self.enter(8, &kinds, None, &[]);
        for _ in 0..TURNS_MAX {
            if self.tasks.values().all(|known| known.end().is_some()) {
                self.verify();
                return;
            }
            self.base.pass(5 * MS);
            self.cycle();
            let Some(worker) = self.workers.first() else {
                // The kinds or the records are full of what the input has made.
                self.enter(8, &kinds, None, &[]);
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
            if self
                .base
                .engine
                .worker_beat(self.base.now, id, &beat)
                .is_err()
            {
                self.workers.clear();
            } else {
                let _known = self.base.engine.worker_credits(self.base.now, id, 8, true);
            }
        }
        let open: Vec<_> = self
            .tasks
            .iter()
            .filter(|(_, known)| known.end().is_none())
            .map(|(task, _)| (*task, self.base.engine.check(*task)))
            .collect();
        panic!("never end: {open:?}");
    }
}
