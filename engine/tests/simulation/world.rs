//! The simulated world: time, the engine, everybody else, and the checks.

use std::sync::Arc;

use qtf_engine::{ClientHello, Effect, Engine, EngineConfig, StopReason, TaskRef};
use qtf_shm::{
    ClientIndex, Geometry, Key, Now, Phase, Segment, SegmentSpec, SlotIndex, TaskId, WorkerId,
};

use crate::model::Model;
use crate::workers::SimWorker;

const MS: u64 = 1_000_000;
const TASKS: u64 = 200;
const WORKERS: u64 = 8;

/// What may go wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Faults {
    None,
    Workers,
    WorkersAndDaemon,
}

pub(crate) struct World {
    pub(crate) rng: fastrand::Rng,
    pub(crate) engine: Engine,
    pub(crate) now: Now,
    pub(crate) model: Model,
    pub(crate) clients: Vec<ClientIndex>,
    pub(crate) workers: Vec<SimWorker>,
    /// Reports that may come in late.
    pub(crate) ghosts: Vec<(WorkerId, TaskRef)>,
    faults: Faults,
    history: u64,
    seed: u64,
    _directory: tempfile::TempDir,
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprint_seed(self.seed, self.faults);
        }
    }
}

fn eprint_seed(seed: u64, faults: Faults) {
    eprintln!("seed {seed} with faults {faults:?}");
}

fn config(seed: u64) -> EngineConfig {
    EngineConfig {
        lease_ns: 80 * MS,
        probe_ns: 10 * MS,
        heartbeat_ns: 10 * MS,
        result_ttl_ns: 2_000 * MS,
        stop_grace_ns: 10 * MS,
        retry_backoff_ns_min: 5 * MS,
        retry_backoff_ns_max: 40 * MS,
        losses_max: 2,
        tasks_per_cycle_max: 8,
        sweep_slots_per_cycle: 32,
        background_sweep_ns: 20 * MS,
        effects_max: 12,
        payload_limit: 1 << 20,
        seed,
    }
}

impl World {
    pub(crate) fn new(seed: u64, faults: Faults) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory can be made");
        let mut spec = SegmentSpec::new("simulation", directory.path());
        spec.geometry = Geometry::for_counts(TASKS, WORKERS).expect("a small segment fits");
        let segment = Arc::new(Segment::in_process(&spec));
        let now = Now::from_ns(MS);
        let mut engine = Engine::new(segment, config(seed), now).expect("usable");
        let clients = ["one", "two", "three"].map(|name| {
            let hello = client(name);
            let session = engine.client_hello(now, &hello);
            session.expect("there is room for three").index
        });
        Self {
            rng: fastrand::Rng::with_seed(seed),
            engine,
            now,
            model: Model::default(),
            clients: clients.to_vec(),
            workers: Vec::new(),
            ghosts: Vec::new(),
            faults,
            history: 0,
            seed,
            _directory: directory,
        }
    }

    /// Something happens, then the engine has its turn.
    pub(crate) fn step(&mut self) {
        match self.rng.u8(0..16) {
            0..=5 => self.client_acts(),
            6..=12 => {
                if let Some(place) = self.any_worker() {
                    self.worker_acts(place);
                }
            }
            13 => {
                if self.workers.len() < 5 {
                    self.worker_joins();
                }
            }
            _ => self.fault(),
        }
        self.take_effects(None);
        self.now = self.now.plus_ns(self.rng.u64(0..3 * MS));
        self.cycle();
        if self.rng.u8(..) == 0 {
            self.verify();
        }
    }

    fn any_worker(&mut self) -> Option<usize> {
        let count = self.workers.len();
        (count > 0).then(|| self.rng.usize(..count))
    }

    fn fault(&mut self) {
        let lucky = self.rng.u8(..) > 60;
        if self.faults == Faults::None || lucky {
            return;
        }
        match self.rng.u8(0..12) {
            0..=6 => {
                if let Some(place) = self.any_worker() {
                    self.worker_suffers(place);
                }
            }
            7 => self.now = self.now.plus_ns(self.rng.u64(0..200 * MS)),
            8 if self.faults == Faults::WorkersAndDaemon => self.daemon_restarts(),
            _ => self.ghost_speaks(),
        }
    }

    /// The daemon is killed between two calls; the next one takes over.
    fn daemon_restarts(&mut self) {
        self.take_effects(None);
        let segment = Arc::clone(self.engine.segment());
        segment.rebuild_caches(self.now);
        let seed = self.rng.u64(..);
        self.engine = Engine::new(segment, config(seed), self.now).expect("usable");
        self.clients = ["one", "two", "three"]
            .map(|name| {
                let session = self.engine.client_hello(self.now, &client(name));
                session.expect("their records are kept or free").index
            })
            .to_vec();
        for worker in &mut self.workers {
            worker.granted = 0;
            worker.mail.clear();
            worker.is_cut_off = true;
        }
        for place in 0..self.workers.len() {
            if self.rng.u8(..) > 40 {
                self.worker_comes_back(place);
            }
        }
    }

    fn cycle(&mut self) {
        self.engine.cycle(self.now);
        let best_waiting = self.best_waiting();
        self.take_effects(best_waiting);
        self.model.assert_told();
        self.expire();
    }

    /// Takes all effects; nothing that was handed out may be worse than what is still ready.
    fn take_effects(&mut self, best_waiting: Option<Key>) {
        while let Some(effect) = self.engine.pop_effect() {
            match effect {
                Effect::Dispatch {
                    worker,
                    task,
                    attempt,
                } => {
                    self.model.dispatched(task, attempt);
                    self.assert_order(task, best_waiting);
                    self.deliver(worker, task, attempt);
                    self.note(task, u64::from(attempt));
                }
                Effect::Finished { task, phase } => {
                    self.model.finished(task, phase, self.now);
                    self.note(task, phase as u64);
                }
                Effect::Stop {
                    worker,
                    task,
                    attempt,
                    reason,
                } => self.stop(worker, (task, attempt), reason),
                Effect::Probe { worker, nonce } => {
                    for one in self.workers.iter_mut().filter(|one| one.id == worker) {
                        one.probe = nonce;
                    }
                }
                Effect::Evict { worker } => {
                    for one in self.workers.iter_mut().filter(|one| one.id == worker) {
                        one.is_evicted = true;
                    }
                }
                Effect::Drain { .. } => {}
            }
        }
    }

    fn assert_order(&self, task: TaskId, best_waiting: Option<Key>) {
        let handed_out = self.engine.segment().task(task.slot());
        if let Some(best) = best_waiting
            && handed_out.state().is_of(task)
        {
            assert!(handed_out.key() < best, "{task} went before a better one");
        }
    }

    fn deliver(&mut self, worker: WorkerId, task: TaskId, attempt: u8) {
        let one = TaskRef {
            task,
            attempt: u32::from(attempt),
        };
        let Some(to) = self.workers.iter_mut().find(|to| to.id == worker) else {
            return;
        };
        assert!(to.granted > 0, "{to:?} got more than it granted");
        to.granted -= 1;
        to.mail.push(one);
    }

    fn stop(&mut self, worker: WorkerId, (task, attempt): (TaskId, u8), reason: StopReason) {
        let one = TaskRef {
            task,
            attempt: u32::from(attempt),
        };
        let place = self
            .workers
            .iter()
            .position(|to| to.id == worker && !to.is_cut_off && to.holds.contains(&one));
        if let (Some(place), true) = (place, self.rng.bool()) {
            self.ghosts.push((worker, one));
            self.workers[place].holds.retain(|held| *held != one);
            let kind = match reason {
                StopReason::Cancelled => qtf_shm::OutcomeKind::Cancelled,
                StopReason::TimedOut | StopReason::Stale => qtf_shm::OutcomeKind::TimedOut,
            };
            self.report(worker, one, (kind, 0));
            self.grant(place, 1, false);
        }
    }

    /// The key of the best task that is still ready, if any worker could take it.
    fn best_waiting(&self) -> Option<Key> {
        let segment = self.engine.segment();
        self.slots()
            .map(|slot| segment.task(slot))
            .filter(|task| task.state().phase() == Phase::Ready)
            .map(|task| task.key())
            .min()
    }

    fn slots(&self) -> impl Iterator<Item = SlotIndex> + '_ {
        let segment = self.engine.segment();
        (0..segment.geometry().tasks()).filter_map(|number| segment.slot(number))
    }

    /// Results whose time is over are gone, and no others.
    fn expire(&mut self) {
        let ttl = config(0).result_ttl_ns;
        let ended: Vec<_> = self
            .model
            .tasks
            .iter()
            .filter_map(|(&id, task)| Some((id, task.end?)))
            .collect();
        for (id, (phase, at)) in ended {
            if self.engine.check(id).is_err() {
                assert_ne!(
                    phase,
                    Phase::DeadLetter,
                    "{id} is kept until it is forgotten"
                );
                assert!(self.now.since_ns(at) + 256 >= ttl, "{id} expired too early");
                self.model.freed(id);
            }
        }
    }

    pub(crate) fn note(&mut self, task: TaskId, what: u64) {
        let word = task.as_raw() ^ what ^ self.now.ns;
        self.history = self.history.rotate_left(5).wrapping_mul(0x100_0000_01b3) ^ word;
    }

    pub(crate) fn counters(&self) -> qtf_shm::Counters<'_> {
        self.engine.segment().counters()
    }

    /// A hash of all that happened.
    pub(crate) fn history(&self) -> u64 {
        self.history
    }

    /// Model and segment agree, and the segment with itself.
    fn verify(&self) {
        let segment = self.engine.segment();
        let report = segment.verify();
        assert!(!report.broken() && !report.torn(), "{report:#?}");
        for (&id, task) in &self.model.tasks {
            let phase = self
                .engine
                .check(id)
                .expect("accepted and not freed")
                .phase();
            match task.end {
                Some((end, _)) => assert_eq!(phase, end, "{id}"),
                None => assert!(phase.is_unfinished(), "{id} is {phase}"),
            }
        }
        let used = self
            .slots()
            .filter(|&slot| segment.task(slot).state().phase() != Phase::Free)
            .count();
        assert_eq!(
            used,
            self.model.tasks.len(),
            "slots without an accepted task"
        );
        for &client in &self.clients {
            let record = segment.client(client);
            let counts = (record.unfinished(), record.kept());
            assert_eq!(counts, self.model.counts(client), "{client:?}");
        }
        for number in 0..8 {
            let worker = segment.worker_index(number).expect("eight workers");
            let state = segment.worker(worker).state();
            assert!(state.running() <= state.capacity(), "{state:?}");
        }
        assert_eq!(self.engine.effect_overruns(), 0);
    }

    /// All faults end, honest workers do what is left, clients forget: nothing may remain.
    pub(crate) fn come_to_rest(&mut self) {
        self.faults = Faults::None;
        let kinds = ["exec".to_owned(), "render".to_owned(), "odd".to_owned()];
        for worker in std::mem::take(&mut self.workers) {
            self.engine.worker_gone(self.now, worker.id);
        }
        for _ in 0..100_000 {
            if self.model.tasks.values().all(|task| task.end.is_some()) {
                break;
            }
            if self.workers.len() < 3 {
                self.worker_joins_with(4, kinds.to_vec());
            }
            for place in (0..self.workers.len()).rev() {
                if self.workers[place].is_evicted {
                    self.workers.swap_remove(place);
                } else {
                    self.worker_acts(place);
                }
            }
            self.now = self.now.plus_ns(MS);
            self.cycle();
        }
        self.verify();
        let unfinished = self.model.tasks.values().filter(|task| task.end.is_none());
        assert_eq!(unfinished.count(), 0, "some tasks never end");
        assert_eq!(self.model.accepted, self.model.ended);
        let all: Vec<_> = self.model.tasks.keys().copied().collect();
        for id in all {
            self.engine.forget(self.now, id).expect("it has ended");
            self.model.freed(id);
        }
        self.verify();
        let usage = self.engine.segment().arena_usage();
        let chunks: u64 = usage
            .classes
            .iter()
            .map(|class| u64::from(class.chunks_used))
            .sum();
        assert_eq!(chunks, 0, "bytes of no task");
    }
}

fn client(name: &str) -> ClientHello<'_> {
    ClientHello {
        uid: None,
        name,
        host: "nowhere",
        address: "",
        pid: 1,
    }
}
