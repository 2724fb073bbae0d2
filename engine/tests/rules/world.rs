//! A world for rule tests: an engine over a segment in this process, and a clock that the test
//! moves.

use std::sync::Arc;

use qtf_engine::{
    ClientHello, Disposition, Effect, Engine, EngineConfig, Output, Payload, Principal, Rejection,
    ResultReport, ShareRule, Submission, TaskRef, WorkerHello,
};
use qtf_shm::{
    ClientIndex, Counter, FLAG_CANCEL, FLAG_TIMED_OUT, Geometry, Heap, Now, Outcome, OutcomeKind,
    Owner, Phase, Segment, SegmentSpec, SlotIndex, SlotWriter, TaskId, WorkerId, WorkerPhase,
};

pub(crate) const MS: u64 = 1_000_000;
pub(crate) const SECOND: u64 = 1_000 * MS;

/// Who got which attempt of which task.
pub(crate) type Dispatched = (WorkerId, TaskId, u8);

pub(crate) struct World {
    pub(crate) engine: Engine,
    pub(crate) now: Now,
    pub(crate) client: ClientIndex,
    directory: tempfile::TempDir,
}

impl World {
    pub(crate) fn new() -> Self {
        Self::with(1_000, EngineConfig::default())
    }

    /// A world of so many task slots whose only client may use all of them.
    pub(crate) fn of_one(tasks: u64) -> Self {
        Self::with(tasks, unshared())
    }

    /// A world of so many task slots.
    pub(crate) fn with(tasks: u64, config: EngineConfig) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory can be made");
        let mut spec = SegmentSpec::new("rules", directory.path());
        spec.geometry = Geometry::for_counts(tasks, 16).expect("a small segment fits");
        spec.payload_limit = config.payload_limit;
        let segment = Arc::new(Segment::in_process(&spec));
        Self::over(segment, config, Now::from_ns(SECOND), directory)
    }

    /// A world whose spill files hold so many bytes together.
    pub(crate) fn spilling_at_most(bytes: u64) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory can be made");
        let mut spec = SegmentSpec::new("rules", directory.path());
        spec.geometry = Geometry::for_counts(64, 16).expect("a small segment fits");
        spec.spill_limit = bytes;
        let segment = Arc::new(Segment::in_process(&spec));
        let config = EngineConfig::default();
        Self::over(segment, config, Now::from_ns(SECOND), directory)
    }

    fn over(
        segment: Arc<Segment>,
        config: EngineConfig,
        now: Now,
        directory: tempfile::TempDir,
    ) -> Self {
        let engine = Engine::new(segment, config, now).expect("the configuration is usable");
        Self::of(engine, now, directory)
    }

    /// A world around an engine that stands.
    pub(crate) fn of(mut engine: Engine, now: Now, directory: tempfile::TempDir) -> Self {
        let session = engine
            .client_hello(now, &client("tester"))
            .expect("a client record is free");
        Self {
            engine,
            now,
            client: session.index,
            directory,
        }
    }

    /// The daemon is killed and a new one adopts the segment.
    pub(crate) fn restarted(self) -> Self {
        let (segment, config, now, directory) = self.killed();
        segment.rebuild_caches(now);
        Self::over(segment, config, now, directory)
    }

    /// The engine is gone; what is left.
    pub(crate) fn killed(self) -> (Arc<Segment>, EngineConfig, Now, tempfile::TempDir) {
        let segment = Arc::clone(self.engine.segment());
        let config = self.engine.config().clone();
        (segment, config, self.now, self.directory)
    }

    pub(crate) fn segment(&self) -> &Segment {
        self.engine.segment()
    }

    pub(crate) fn pass(&mut self, ns: u64) {
        self.now = self.now.plus_ns(ns);
    }

    /// One cycle at this moment, and its effects.
    pub(crate) fn cycle(&mut self) -> Vec<Effect> {
        self.engine.cycle(self.now);
        self.effects()
    }

    pub(crate) fn effects(&mut self) -> Vec<Effect> {
        std::iter::from_fn(|| self.engine.pop_effect()).collect()
    }

    /// Removes the files that the engine has no use for any more, as the daemon does.
    pub(crate) fn remove_lost_files(&mut self) {
        while let Some(file) = self.engine.pop_lost_file() {
            let removed = self.segment().spill().remove_given_up(file);
            removed.expect("the folder can be written");
        }
    }

    /// Cycles until there is nothing left to do at this moment.
    pub(crate) fn settle(&mut self) -> Vec<Effect> {
        let mut effects = self.effects();
        for _ in 0..10_000 {
            let work = self.engine.cycle(self.now);
            effects.extend(self.effects());
            if work.is_zero() {
                return effects;
            }
        }
        panic!("the engine does not come to rest");
    }

    /// Lets time pass as the daemon would: a cycle at each deadline.
    pub(crate) fn settle_for(&mut self, ns: u64) -> Vec<Effect> {
        let end = self.now.plus_ns(ns);
        let mut effects = self.settle();
        while let Some(next) = self.engine.next_deadline().filter(|&next| next <= end) {
            self.now = self.now.plus_ns(256).max(next);
            effects.extend(self.settle());
        }
        self.now = self.now.max(end);
        effects.extend(self.settle());
        effects
    }

    pub(crate) fn dispatches(&mut self) -> Vec<Dispatched> {
        dispatched(&self.settle())
    }

    /// Settles, and expects exactly one task to be handed out.
    pub(crate) fn dispatch(&mut self) -> Dispatched {
        let all = self.dispatches();
        assert_eq!(all.len(), 1, "{all:?}");
        all[0]
    }

    pub(crate) fn submit(&mut self, kind: &str) -> TaskId {
        self.submit_with(kind, |_| ()).expect("accepted")
    }

    pub(crate) fn submit_with<'a>(
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
    pub(crate) fn worker(&mut self, capacity: u32, kinds: &[&str]) -> WorkerId {
        let worker = self.worker_without_credits(capacity, kinds);
        self.engine
            .worker_credits(self.now, worker, capacity, true)
            .expect("the worker is known");
        worker
    }

    pub(crate) fn worker_without_credits(&mut self, capacity: u32, kinds: &[&str]) -> WorkerId {
        let kinds: Vec<String> = kinds.iter().map(ToString::to_string).collect();
        let welcome = self
            .engine
            .worker_hello(self.now, &hello(capacity, &kinds))
            .expect("a worker slot is free");
        welcome.id
    }

    pub(crate) fn start(&mut self, (worker, task, attempt): Dispatched) {
        self.engine
            .task_started(self.now, worker, task_ref(task, attempt));
    }

    /// Reports an exit code, and grants a credit for the slot that is free again.
    pub(crate) fn end(&mut self, dispatched: Dispatched, code: u8) -> Disposition {
        let disposition = self.report(dispatched, OutcomeKind::Exited, code);
        let _ = self.engine.worker_credits(self.now, dispatched.0, 1, false);
        disposition
    }

    pub(crate) fn report(
        &mut self,
        (worker, task, attempt): Dispatched,
        kind: OutcomeKind,
        code: u8,
    ) -> Disposition {
        let report = ResultReport {
            said: qtf_engine::Said::default(),
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

    pub(crate) fn beat(&mut self, worker: WorkerId, holding: u32) -> Result<(), Rejection> {
        let holding = qtf_engine::Holding::Count(holding);
        self.beat_with(worker, holding).map(drop)
    }

    /// Answers what workers were asked.
    pub(crate) fn answer(&mut self, effects: &[Effect]) {
        for effect in effects {
            if let Effect::Probe { worker, nonce } = *effect {
                self.engine.probe_answered(self.now, worker, nonce);
            }
        }
    }

    /// A heartbeat that says what is held; returns how many attempts are missing.
    pub(crate) fn beat_with(
        &mut self,
        worker: WorkerId,
        holding: qtf_engine::Holding<'_>,
    ) -> Result<u32, Rejection> {
        let beat = qtf_engine::Beat {
            holding,
            ..qtf_engine::Beat::default()
        };
        self.engine.worker_beat(self.now, worker, &beat)
    }

    pub(crate) fn phase(&self, task: TaskId) -> Phase {
        self.engine.check(task).expect("the task is known").phase()
    }

    pub(crate) fn outcome(&self, task: TaskId) -> Outcome {
        self.segment().task(task.slot()).outcome()
    }

    pub(crate) fn counter(&self, counter: Counter) -> u64 {
        self.segment().counters().get(counter)
    }

    /// Unfinished tasks and kept results of the test's client.
    pub(crate) fn counts(&self) -> (u64, u64) {
        let record = self.segment().client(self.client);
        (record.unfinished(), record.kept())
    }

    /// State words, leaves and counts agree; more strictly than the segment's own check, which
    /// allows for other processes.
    pub(crate) fn verify(&self) {
        let segment = self.segment();
        let report = segment.verify();
        assert!(!report.broken() && !report.torn(), "{report:#?}");
        for heap in [Heap::Task, Heap::Worker, Heap::Timer, Heap::Lease] {
            assert_eq!(segment.heap(heap).check().count(), 0, "{heap:?}");
        }
        let mut running = vec![0; 16];
        let mut counts = (0, 0);
        for number in 0..segment.geometry().tasks() {
            let slot = segment.slot(number).expect("below the count");
            let (task, state) = (segment.task(slot), segment.task(slot).state());
            let phase = state.phase();
            let ready = (phase == Phase::Ready).then(|| task.key());
            assert_eq!(segment.ready().leaf(number), ready, "{state:?}");
            let keeps_time = matches!(
                phase,
                Phase::Delayed | Phase::Done | Phase::Failed | Phase::Cancelled
            );
            let is_held = matches!(phase, Phase::Assigned | Phase::Running);
            let is_to_stop = state.has_flag(FLAG_CANCEL) || state.has_flag(FLAG_TIMED_OUT);
            let is_timed = keeps_time && !state.is_forgotten()
                || phase == Phase::Running && task.timeout_ms() > 0
                || is_held && is_to_stop;
            let timer = segment.timers().leaf(number);
            assert_eq!(timer.is_some(), is_timed, "{state:?}");
            if let Owner::Worker(worker) = state.owner() {
                running[worker.position()] += 1;
            }
            if task.client() == self.client {
                counts.0 += u64::from(phase.is_unfinished());
                counts.1 += u64::from(phase.is_final());
            }
        }
        assert_eq!(self.counts(), counts);
        for (number, running) in (0..16).zip(running) {
            let worker = segment.worker_index(number).expect("below the count");
            let state = segment.worker(worker).state();
            assert_eq!(state.running(), running, "{state:?}");
            // Of a local worker the kernel tells whether it lives.
            let leased = !matches!(state.phase(), WorkerPhase::Free | WorkerPhase::Lost)
                && segment.worker(worker).local().is_none();
            let lease = segment.leases().leaf(u32::from(number));
            assert_eq!(lease.is_some(), leased, "{state:?}");
        }
    }
}

/// Settings of a segment that one principal has for itself.
pub(crate) fn unshared() -> EngineConfig {
    EngineConfig {
        share_rule: ShareRule::Whole,
        ..EngineConfig::default()
    }
}

pub(crate) fn client(name: &str) -> ClientHello<'_> {
    ClientHello {
        principal: Principal::Uid(1000),
        name,
        host: "here",
        address: "unix",
        pid: 7,
    }
}

pub(crate) fn hello(capacity: u32, kinds: &[String]) -> WorkerHello<'_> {
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

pub(crate) fn task_ref(task: TaskId, attempt: u8) -> TaskRef {
    TaskRef {
        task,
        attempt: u32::from(attempt),
    }
}

pub(crate) fn dispatched(effects: &[Effect]) -> Vec<Dispatched> {
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

pub(crate) fn finished(effects: &[Effect]) -> Vec<(TaskId, Phase)> {
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
pub(crate) fn written(segment: &Segment, slot: SlotIndex) -> SlotWriter<'_> {
    let right = segment.plm_right().expect("the engine's own segment");
    segment.write_task(right, slot)
}
