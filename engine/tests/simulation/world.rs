//! The simulated world: time, the engine, everybody else, and the checks.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "a test names what it is about; everything else is wrong"
)]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use qtf_engine::{ClientHello, Effect, Engine, EngineConfig, Principal, ShareRule, TaskRef};
use qtf_shm::segment::verify::Rule;
use qtf_shm::time::simulated::set_monotonic_ns;
use qtf_shm::{
    AttachIndex, ClientIndex, Event, Geometry, Key, LockFile, Now, Phase, Segment, SegmentSpec,
    SlotIndex, TaskId, WorkerId,
};

use crate::checks::Watch;
use crate::locals::Local;
use crate::model::Model;
use crate::workers::SimWorker;

const MS: u64 = 1_000_000;
const TASKS: u64 = 200;
const WORKERS: u64 = 12;
pub(crate) const LEASE_NS: u64 = 80 * MS;
/// How long what is to stop may take, in every other world.
const GRACE_NS: u64 = 10 * MS;
const LONG_GRACE_NS: u64 = 2_000 * MS;
pub(crate) const LOSSES_MAX: u8 = 2;

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
    /// Results that workers had when they came back to this daemon: they waited, and their attempts did not run so long.
    pub(crate) came_with: BTreeMap<WorkerId, Vec<TaskRef>>,
    pub(crate) locals: Vec<Local>,
    /// Local processes that have died, and whose records are not yet given back; with the kinds of their workers.
    pub(crate) dead_locals: BTreeMap<AttachIndex, u64>,
    /// By which the daemon tells who lives.
    pub(crate) judge: LockFile,
    pub(crate) watch: Watch,
    pub(crate) steps: u64,
    pub(crate) cycles: u64,
    pub(crate) stops: u64,
    pub(crate) local_takes: u64,
    pub(crate) local_kills: u64,
    words_gone_bad: u64,
    faults: Faults,
    history: u64,
    pub(crate) directory: tempfile::TempDir,
}

impl Faults {
    pub(crate) const ALL: [Self; 3] = [Self::None, Self::Workers, Self::WorkersAndDaemon];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::None => "friendly",
            Self::Workers => "workers",
            Self::WorkersAndDaemon => "daemons",
        }
    }
}

fn config(seed: u64) -> EngineConfig {
    EngineConfig {
        // Three names of one user: who is told apart is what the rules test.
        share_rule: ShareRule::Whole,
        operator_uid: 0,
        lease_ns: LEASE_NS,
        probe_ns: 10 * MS,
        heartbeat_ns: 10 * MS,
        result_ttl_ns: 2_000 * MS,
        failed_result_ttl_ns: 2_000 * MS,
        keep_ns_max: 60_000 * MS,
        stop_grace_ns: if seed.is_multiple_of(2) {
            GRACE_NS
        } else {
            LONG_GRACE_NS
        },
        start_within_ns: 240 * MS,
        retry_backoff_ns_min: 5 * MS,
        retry_backoff_ns_max: 40 * MS,
        losses_max: LOSSES_MAX,
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
        spec.gen_base = Some(0);
        let lock_file = directory.path().join(LOCK_FILE);
        std::fs::write(&lock_file, "").expect("the directory is new");
        let judge = LockFile::open(&lock_file).expect("it is there");
        set_monotonic_ns(Some(0));
        let segment = Segment::create_private(&spec).expect("shared memory can be had");
        let segment = Arc::new(segment);
        let now = Now::from_ns(MS);
        set_monotonic_ns(Some(now.ns));
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
            came_with: BTreeMap::new(),
            locals: Vec::new(),
            dead_locals: BTreeMap::new(),
            judge,
            watch: Watch::default(),
            steps: 0,
            cycles: 0,
            stops: 0,
            local_takes: 0,
            local_kills: 0,
            words_gone_bad: 0,
            faults,
            history: 0,
            directory,
        }
    }

    pub(crate) fn lock_file(&self) -> PathBuf {
        self.directory.path().join(LOCK_FILE)
    }

    pub(crate) fn has_faults(&self) -> bool {
        self.faults != Faults::None
    }

    fn pass(&mut self, ns: u64) {
        self.now = self.now.plus_ns(ns);
        set_monotonic_ns(Some(self.now.ns));
    }

    /// Something happens, then the engine has its turn.
    pub(crate) fn step(&mut self) {
        self.steps += 1;
        match self.rng.u8(0..24) {
            0..=6 => self.client_acts(),
            7..=15 => {
                if let Some(place) = self.any_worker() {
                    self.worker_acts(place);
                }
            }
            16 => {
                if self.workers.len() < 5 {
                    self.worker_joins();
                }
            }
            17..=20 => {
                let count = self.locals.len();
                if count > 0 {
                    let place = self.rng.usize(..count);
                    self.local_acts(place);
                }
            }
            21 => {
                self.daemon_looks_around();
                self.locals_come_and_go();
            }
            _ => self.fault(),
        }
        self.take_effects(None);
        let ns = self.rng.u64(0..3 * MS);
        self.pass(ns);
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
        match self.rng.u8(0..17) {
            16 => self.word_goes_bad(),
            12..=14 => {
                let count = self.locals.len();
                if count > 0 {
                    let place = self.rng.usize(..count);
                    self.local_suffers(place);
                }
            }
            0..=6 => {
                if let Some(place) = self.any_worker() {
                    self.worker_suffers(place);
                }
            }
            7 => {
                let ns = self.rng.u64(0..200 * MS);
                self.pass(ns);
            }
            8 if self.faults == Faults::WorkersAndDaemon => self.daemon_restarts(),
            _ => self.ghost_speaks(),
        }
    }

    /// A waiting task comes to have more attempts than there can be. Few: their slots are kept for good.
    fn word_goes_bad(&mut self) {
        let segment = Arc::clone(self.engine.segment());
        let is_waiting = |id: &TaskId| segment.state(id.slot()).phase() == Phase::Ready;
        let Some(id) = self.model.random(&mut self.rng).filter(is_waiting) else {
            return;
        };
        let has_room = self.model.tasks.values().all(|task| !task.is_damaged);
        if self.any_stands() || self.model.aside.len() > 2 || !has_room {
            return;
        }
        let worker = segment.worker_index(0).expect("it has workers");
        loop {
            let state = segment.state(id.slot());
            let Ok(_) = segment.apply(id.slot(), state, Event::Assign { worker }) else {
                break;
            };
            let state = segment.state(id.slot());
            let back = segment.apply(id.slot(), state, Event::Requeue);
            back.expect("nobody else is at it");
        }
        let task = self.model.tasks.get_mut(&id).expect("it was found there");
        task.is_damaged = true;
        self.words_gone_bad += 1;
    }

    /// The daemon is killed between two calls; the next one adopts the segment.
    fn daemon_restarts(&mut self) {
        self.take_effects(None);
        let segment = Arc::clone(self.engine.segment());
        self.lose_links();
        segment.adopt_again(Some(&self.judge));
        self.watch = Watch::default();
        let seed = (self.rng.u64(..) & !1) | (self.engine.config().seed & 1);
        self.came_with.clear();
        self.engine = Engine::new(segment, config(seed), self.now).expect("usable");
        self.clients = ["one", "two", "three"]
            .map(|name| {
                let session = self.engine.client_hello(self.now, &client(name));
                session.expect("their records are kept or free").index
            })
            .to_vec();
        for place in 0..self.workers.len() {
            if self.rng.u8(..) > 40 {
                self.worker_comes_back(place);
            }
        }
    }

    fn cycle(&mut self) {
        self.cycles += 1;
        self.engine.cycle(self.now);
        let best_waiting = self.best_waiting();
        self.take_effects(best_waiting);
        self.model.assert_told(self.cycles);
        self.expire();
        self.check();
    }

    /// Takes all effects; nothing that was handed out may be worse than what is still ready.
    pub(crate) fn take_effects(&mut self, best_waiting: Option<Key>) {
        while let Some(effect) = self.engine.pop_effect() {
            match effect {
                Effect::Dispatch { task, attempt, .. } => {
                    self.model.dispatched(task, attempt);
                    self.assert_order(task, best_waiting);
                    self.note(task, u64::from(attempt));
                    self.send_down(effect);
                }
                Effect::Finished {
                    task,
                    phase: Phase::Quarantine,
                } => self.model.set_aside(task),
                Effect::Finished { task, phase } => {
                    self.model.finished(task, phase, self.now);
                    self.note_ending(task);
                    self.note(task, phase as u64);
                }
                Effect::Stop { .. }
                | Effect::Probe { .. }
                | Effect::Evict { .. }
                | Effect::Drain { .. } => self.send_down(effect),
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

    /// The key of the best task that is still ready, if any worker could take it.
    fn best_waiting(&self) -> Option<Key> {
        let segment = self.engine.segment();
        self.slots()
            .filter(|&slot| segment.state(slot).phase() == Phase::Ready)
            .filter(|&slot| {
                let id = segment.state(slot).id(slot);
                id.is_some_and(|id| !self.is_in_hands(id))
            })
            .map(|slot| segment.task(slot).key())
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
                assert!(
                    self.now.since_ns(at) + 256 >= ttl,
                    "{id} expired too early, at {}: {:?}",
                    self.now.ns,
                    self.model.tasks[&id]
                );
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
        for &id in self.model.tasks.keys() {
            self.check_end(id);
        }
        if self.any_stands() || !self.dead_locals.is_empty() {
            return;
        }
        let segment = self.engine.segment();
        // It waits for others where something is under way.
        set_monotonic_ns(None);
        let report = segment.verify();
        set_monotonic_ns(Some(self.now.ns));
        // A process that is killed between a word and its count, or stands there while a daemon starts and counts anew, leaves the
        // gauge wrong; an output that a dead one had not yet put down lies about until its task goes.
        let may_be = |rule| match rule {
            Rule::Gauge => self.stops > 0,
            Rule::Chunk => self.local_kills > 0,
            Rule::Quarantine => self.words_gone_bad > 0,
            _ => false,
        };
        let mut findings = report.findings.iter();
        let is_in_order = findings.all(|finding| may_be(finding.rule));
        assert!(is_in_order && !report.torn(), "{report:#?}");
        for (&id, task) in &self.model.tasks {
            let phase = self
                .engine
                .check(id)
                .expect("accepted and not freed")
                .phase();
            match task.end {
                Some((end, _)) => assert_eq!(phase, end, "{id}"),
                None if task.is_held && !task.is_damaged => assert_eq!(phase, Phase::Held, "{id}"),
                None => assert!(
                    phase.is_unfinished() || self.model.may_have_ended(id),
                    "{id} is {phase}"
                ),
            }
        }
        let used = self
            .slots()
            .map(|slot| segment.state(slot).phase())
            .filter(|&phase| phase != Phase::Free && phase != Phase::Quarantine)
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
        for number in 0..12 {
            let worker = segment.worker_index(number).expect("twelve workers");
            let state = segment.worker(worker).state();
            assert!(state.running() <= state.capacity(), "{state:?}");
        }
        assert_eq!(self.engine.effect_overruns(), 0);
    }

    /// All faults end, honest workers do what is left, clients forget: nothing may remain.
    pub(crate) fn come_to_rest(&mut self) {
        self.faults = Faults::None;
        let kinds = ["exec", "render", "odd", "local"].map(str::to_owned);
        self.locals_end();
        self.daemon_looks_around();
        for worker in std::mem::take(&mut self.workers) {
            self.engine.worker_gone(self.now, worker.id);
        }
        for id in self.model.held() {
            self.let_go(id);
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
                    self.workers[place].is_lazy = false;
                    self.worker_acts(place);
                }
            }
            self.take_effects(None);
            self.pass(MS);
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
        let own = self.engine.segment().own_chunks();
        let is_kept = !self.model.aside.is_empty();
        assert!(
            chunks == own || is_kept,
            "{chunks} chunks, {own} of no task"
        );
    }
}

const LOCK_FILE: &str = "simulation.lock";

fn client(name: &str) -> ClientHello<'_> {
    ClientHello {
        principal: Principal::Uid(1000),
        name,
        host: "nowhere",
        address: "",
        pid: 1,
    }
}
