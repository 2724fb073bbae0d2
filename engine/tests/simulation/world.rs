//! The simulated world: time, the engine, everybody else, and the checks.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "a test names what it is about; everything else is wrong"
)]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use qtf_engine::{Effect, Engine, EngineConfig, ShareRule, TaskRef};
use qtf_shm::segment::verify::Rule;
use qtf_shm::time::simulated::set_monotonic_ns;
use qtf_shm::{AttachIndex, Event, Key, KindSet, LockFile, Now, Phase, TaskId, WorkerId};
use qtf_world::{Ground, hurried};

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
/// How long after its time a result may still be there: what a kill took out of the timer heap is found by a pass of the sweep, which takes
/// half of that here.
const EXPIRY_MAX_NS: u64 = 1_500 * MS;

/// What may go wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Faults {
    None,
    Workers,
    WorkersAndDaemon,
}

pub(crate) struct World {
    pub(crate) base: qtf_world::World,
    pub(crate) rng: fastrand::Rng,
    pub(crate) model: Model,
    pub(crate) workers: Vec<SimWorker>,
    /// Reports that may come in late.
    pub(crate) ghosts: Vec<(WorkerId, TaskRef)>,
    /// Results that workers had when they came back to this daemon: they waited, and their attempts did not run so long.
    pub(crate) came_with: BTreeMap<WorkerId, Vec<TaskRef>>,
    pub(crate) locals: Vec<Local>,
    /// Local processes that have died, and whose records are not yet given back; with the kinds of their workers.
    pub(crate) dead_locals: BTreeMap<AttachIndex, KindSet>,
    /// By which the daemon tells who lives.
    pub(crate) judge: LockFile,
    pub(crate) watch: Watch,
    /// What workers had before a cycle, and have been given in it: those that may be given tasks and with which nothing has gone wrong.
    pub(crate) loads: BTreeMap<WorkerId, u16>,
    pub(crate) steps: u64,
    pub(crate) cycles: u64,
    pub(crate) stops: u64,
    pub(crate) local_takes: u64,
    pub(crate) local_kills: u64,
    words_gone_bad: u64,
    faults: Faults,
    history: u64,
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
        lease_ns: LEASE_NS,
        result_ttl_ns: 2_000 * MS,
        failed_result_ttl_ns: 2_000 * MS,
        stop_grace_ns: if seed.is_multiple_of(2) {
            GRACE_NS
        } else {
            LONG_GRACE_NS
        },
        losses_max: LOSSES_MAX,
        ..hurried(seed)
    }
}

impl World {
    pub(crate) fn new(seed: u64, faults: Faults) -> Self {
        let ground = Ground::of(TASKS, WORKERS).with(|spec| spec.gen_base = Some(0));
        let lock_file = ground.folder().join(LOCK_FILE);
        std::fs::write(&lock_file, "").expect("the directory is new");
        let judge = LockFile::open(&lock_file).expect("it is there");
        set_monotonic_ns(Some(0));
        let ground = ground.shared();
        let mut base = qtf_world::World::on(ground, config(seed), Now::from_ns(MS), CLIENTS);
        base.be_the_clock();
        Self {
            base,
            rng: fastrand::Rng::with_seed(seed),
            model: Model::default(),
            workers: Vec::new(),
            ghosts: Vec::new(),
            came_with: BTreeMap::new(),
            locals: Vec::new(),
            dead_locals: BTreeMap::new(),
            judge,
            watch: Watch::default(),
            loads: BTreeMap::new(),
            steps: 0,
            cycles: 0,
            stops: 0,
            local_takes: 0,
            local_kills: 0,
            words_gone_bad: 0,
            faults,
            history: 0,
        }
    }

    pub(crate) fn lock_file(&self) -> PathBuf {
        self.base.folder().join(LOCK_FILE)
    }

    pub(crate) fn has_faults(&self) -> bool {
        self.faults != Faults::None
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
        self.base.pass(ns);
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
                self.base.pass(ns);
            }
            8 if self.faults == Faults::WorkersAndDaemon => self.daemon_restarts(),
            _ => self.ghost_speaks(),
        }
    }

    /// A waiting task comes to have more attempts than there can be. Few: their slots are kept for good.
    fn word_goes_bad(&mut self) {
        let segment = Arc::clone(self.base.engine.segment());
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
        let segment = Arc::clone(self.base.engine.segment());
        self.lose_links();
        segment.adopt_again(Some(&self.judge));
        self.watch = Watch::default();
        let seed = (self.rng.u64(..) & !1) | (self.base.engine.config().seed & 1);
        self.came_with.clear();
        let engine = Engine::new(segment, config(seed), self.base.now).expect("usable");
        self.base.goes_on_with(engine);
        for place in 0..self.workers.len() {
            if self.rng.u8(..) > 40 {
                self.worker_comes_back(place);
            }
        }
    }

    fn cycle(&mut self) {
        self.cycles += 1;
        self.loads = self.loads_of_unhurt();
        self.base.engine.cycle(self.base.now);
        // What somebody stands still with may be missing in the heap.
        let best_waiting = self.base.best_waiting(|id| self.is_in_hands(id));
        self.take_effects(best_waiting);
        self.loads.clear();
        self.model.assert_told(self.cycles);
        self.expire();
        self.check();
    }

    /// Takes all effects; nothing that was handed out may be worse than what is still ready.
    pub(crate) fn take_effects(&mut self, best_waiting: Option<Key>) {
        while let Some(effect) = self.base.engine.pop_effect() {
            match effect {
                Effect::Dispatch {
                    worker,
                    task,
                    attempt,
                } => {
                    self.model.dispatched(task, attempt);
                    self.assert_no_idle_one_was_left_out(worker, task);
                    self.base.assert_order(task, best_waiting);
                    self.note(task, u64::from(attempt));
                    self.send_down(effect);
                }
                Effect::Finished {
                    task,
                    phase: Phase::Quarantine,
                } => self.model.set_aside(task),
                Effect::Finished { task, phase } => {
                    self.model.finished(task, phase, self.base.now);
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

    /// Results whose time is over are gone soon, and no others.
    fn expire(&mut self) {
        let ttl = config(0).result_ttl_ns;
        let ended: Vec<_> = self
            .model
            .tasks
            .iter()
            .filter_map(|(&id, task)| Some((id, task.end?)))
            .collect();
        for (id, (phase, at)) in ended {
            let age = self.base.now.since_ns(at);
            if self.base.engine.check(id).is_ok() {
                assert!(
                    phase == Phase::DeadLetter || age < ttl + EXPIRY_MAX_NS,
                    "{id} is still there, {age} ns after its end"
                );
            } else {
                assert_ne!(
                    phase,
                    Phase::DeadLetter,
                    "{id} is kept until it is forgotten"
                );
                assert!(
                    age + 256 >= ttl,
                    "{id} expired too early, at {}: {:?}",
                    self.base.now.ns,
                    self.model.tasks[&id]
                );
                self.model.freed(id);
            }
        }
    }

    pub(crate) fn note(&mut self, task: TaskId, what: u64) {
        let word = task.as_raw() ^ what ^ self.base.now.ns;
        self.history = self.history.rotate_left(5).wrapping_mul(0x100_0000_01b3) ^ word;
    }

    pub(crate) fn counters(&self) -> qtf_shm::Counters<'_> {
        self.base.engine.segment().counters()
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
        let segment = self.base.engine.segment();
        // It waits for others where something is under way.
        set_monotonic_ns(None);
        let report = segment.verify();
        set_monotonic_ns(Some(self.base.now.ns));
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
                .base
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
            .base
            .slots()
            .map(|slot| segment.state(slot).phase())
            .filter(|&phase| phase != Phase::Free && phase != Phase::Quarantine)
            .count();
        assert_eq!(
            used,
            self.model.tasks.len(),
            "slots without an accepted task"
        );
        for &client in &self.base.clients {
            let record = segment.client(client);
            let counts = (record.unfinished(), record.kept());
            assert_eq!(counts, self.model.counts(client), "{client:?}");
        }
        for number in 0..12 {
            let worker = segment.worker_index(number).expect("twelve workers");
            let state = segment.worker(worker).state();
            assert!(state.running() <= state.capacity(), "{state:?}");
        }
        assert_eq!(self.base.engine.effect_overruns(), 0);
    }

    /// All faults end, honest workers do what is left, clients forget: nothing may remain.
    pub(crate) fn come_to_rest(&mut self) {
        self.faults = Faults::None;
        let kinds = ["exec", "render", "odd", "local"].map(str::to_owned);
        self.locals_end();
        self.daemon_looks_around();
        for worker in std::mem::take(&mut self.workers) {
            self.base.engine.worker_gone(self.base.now, worker.id);
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
            self.base.pass(MS);
            self.cycle();
        }
        self.verify();
        let unfinished = self.model.tasks.values().filter(|task| task.end.is_none());
        assert_eq!(unfinished.count(), 0, "some tasks never end");
        assert_eq!(self.model.accepted, self.model.ended);
        let all: Vec<_> = self.model.tasks.keys().copied().collect();
        for id in all {
            self.base
                .engine
                .forget(self.base.now, id)
                .expect("it has ended");
            self.model.freed(id);
        }
        self.verify();
        let (chunks, own) = self.base.chunks();
        let is_kept = !self.model.aside.is_empty();
        assert!(
            chunks == own || is_kept,
            "{chunks} chunks, {own} of no task"
        );
    }
}

const LOCK_FILE: &str = "simulation.lock";
const CLIENTS: &[&str] = &["one", "two", "three"];
