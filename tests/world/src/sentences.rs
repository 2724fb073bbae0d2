//! The sentences that tests are written in: what clients and workers do, one call each, and what is read of it.

use qtf_engine::{
    Beat, ClientHello, Disposition, Effect, Held, Holding, Output, Payload, Principal, Rejection,
    ResultReport, Said, Submission, TaskRef, WorkerHello,
};
use qtf_shm::{
    Counter, Outcome, OutcomeKind, Phase, Segment, SlotIndex, SlotWriter, TaskId, WorkerId,
};

use crate::world::World;

/// Who got which attempt of which task.
pub type Dispatched = (WorkerId, TaskId, u16);

impl World {
    /// Submits a task of this kind.
    pub fn submit(&mut self, kind: &str) -> TaskId {
        self.submit_with(kind, |_| ()).expect("accepted")
    }

    /// Submits, with changes.
    pub fn submit_with<'a>(
        &mut self,
        kind: &'a str,
        change: impl FnOnce(&mut Submission<'a>),
    ) -> Result<TaskId, Rejection> {
        let mut submission = Submission::new(self.client, kind, Payload::Bytes(b"payload"));
        change(&mut submission);
        let accepted = self.engine.submit(self.now, &submission)?;
        Ok(accepted.task)
    }

    /// A worker that has granted all it can take.
    pub fn worker(&mut self, capacity: u32, kinds: &[&str]) -> WorkerId {
        let worker = self.worker_without_credits(capacity, kinds);
        self.engine
            .worker_credits(self.now, worker, capacity, true)
            .expect("the worker is known");
        worker
    }

    /// A worker that has granted nothing yet.
    pub fn worker_without_credits(&mut self, capacity: u32, kinds: &[&str]) -> WorkerId {
        let kinds: Vec<String> = kinds.iter().map(ToString::to_string).collect();
        let welcome = self
            .engine
            .worker_hello(self.now, &hello(capacity, &kinds))
            .expect("a worker slot is free");
        welcome.id
    }

    /// Its worker has begun it.
    pub fn start(&mut self, (worker, task, attempt): Dispatched) {
        self.engine
            .task_started(self.now, worker, task_ref(task, attempt));
    }

    /// Reports an exit code, and grants a credit for the slot that is free again.
    pub fn end(&mut self, dispatched: Dispatched, code: u8) -> Disposition {
        let disposition = self.report(dispatched, OutcomeKind::Exited, code);
        let _ = self.engine.worker_credits(self.now, dispatched.0, 1, false);
        disposition
    }

    /// Reports an end.
    pub fn report(
        &mut self,
        (worker, task, attempt): Dispatched,
        kind: OutcomeKind,
        code: u8,
    ) -> Disposition {
        let report = ResultReport {
            said: Said::default(),
            outcome: Outcome {
                kind,
                code,
                result_dropped: false,
                output_cut: false,
            },
            output: Output::Bytes(b"output"),
            asked_pause_ns: None,
        };
        self.engine
            .task_result(self.now, worker, task_ref(task, attempt), &report)
            .disposition
    }

    /// A heartbeat that says how many attempts are held.
    pub fn beat(&mut self, worker: WorkerId, holding: u32) -> Result<(), Rejection> {
        let holding = Holding::Count(holding);
        self.beat_with(worker, holding).map(drop)
    }

    /// Answers what workers were asked.
    pub fn answer(&mut self, effects: &[Effect]) {
        for effect in effects {
            if let Effect::Probe { worker, nonce } = *effect {
                self.engine.probe_answered(self.now, worker, nonce);
            }
        }
    }

    /// A heartbeat that says what is held; returns how many attempts are missing.
    pub fn beat_with(&mut self, worker: WorkerId, holding: Holding<'_>) -> Result<u32, Rejection> {
        let beat = Beat {
            holding,
            ..Beat::default()
        };
        self.engine.worker_beat(self.now, worker, &beat)
    }

    /// Where a task is.
    pub fn phase(&self, task: TaskId) -> Phase {
        self.engine.check(task).expect("the task is known").phase()
    }

    /// The outcome in the slot of a task.
    pub fn outcome(&self, task: TaskId) -> Outcome {
        self.segment().task(task.slot()).outcome()
    }

    /// A counter of the segment.
    pub fn counter(&self, counter: Counter) -> u64 {
        self.segment().counters().get(counter)
    }

    /// Unfinished tasks and kept results of the test's client.
    pub fn counts(&self) -> (u64, u64) {
        let record = self.segment().client(self.client);
        (record.unfinished(), record.kept())
    }
}

/// The hello of a client.
pub fn client(name: &str) -> ClientHello<'_> {
    ClientHello {
        principal: Principal::Uid(1000),
        name,
        host: "here",
        address: "unix",
        pid: 7,
    }
}

/// The hello of a worker.
pub fn hello(capacity: u32, kinds: &[String]) -> WorkerHello<'_> {
    WorkerHello {
        name: "worker",
        host: "there",
        pid: 8,
        uid: None,
        capacity,
        kinds,
        reconnect: None,
        held: &[],
    }
}

/// An attempt of a task.
pub fn task_ref(task: TaskId, attempt: u16) -> TaskRef {
    TaskRef {
        task,
        attempt: u32::from(attempt),
    }
}

/// What these effects hand out.
pub fn dispatched(effects: &[Effect]) -> Vec<Dispatched> {
    effects
        .iter()
        .filter_map(|&effect| match effect {
            Effect::Dispatch {
                worker,
                task,
                attempt,
            } => Some((worker, task, attempt)),
            Effect::Stop { .. }
            | Effect::Probe { .. }
            | Effect::Evict { .. }
            | Effect::Drain { .. }
            | Effect::Finished { .. } => None,
        })
        .collect()
}

/// The ends that these effects tell.
pub fn finished(effects: &[Effect]) -> Vec<(TaskId, Phase)> {
    effects
        .iter()
        .filter_map(|&effect| match effect {
            Effect::Finished { task, phase } => Some((task, phase)),
            Effect::Stop { .. }
            | Effect::Probe { .. }
            | Effect::Evict { .. }
            | Effect::Drain { .. }
            | Effect::Dispatch { .. } => None,
        })
        .collect()
}

/// A slot to write to, as something that is not the engine would have left it.
pub fn written(segment: &Segment, slot: SlotIndex) -> SlotWriter<'_> {
    let right = segment.plm_right().expect("the engine's own segment");
    segment.write_task(right, slot)
}

/// What a worker holds, for its hello or its heartbeat: what runs, and what has ended and is still to be delivered.
pub fn held_list(
    running: impl IntoIterator<Item = TaskRef>,
    finished: impl IntoIterator<Item = TaskRef>,
) -> Vec<Held> {
    let running = running.into_iter().map(|one| (one, false));
    let finished = finished.into_iter().map(|one| (one, true));
    running
        .chain(finished)
        .map(|(one, finished)| Held {
            task_id: one.task.as_raw(),
            attempt: one.attempt,
            finished,
        })
        .collect()
}
