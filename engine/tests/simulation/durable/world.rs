//! The simulated world: time, the order of things, and the end.

use std::collections::BTreeSet;

use qtf_engine::{Effect, Engine, EngineConfig, Lsn, ShareRule, TaskRef, TimeAfter, WallTime};
use qtf_journal::{Appender, SimDisk};
use qtf_shm::{Key, KeyId, Now, TaskId, WorkerId};
use qtf_world::{Disk, Ground, hurried, reopened};

use super::deaths::{after, fill_keys, limits};
use super::facts::{Facts, Told};
use super::workers::SimWorker;

pub(crate) const MS: u64 = 1_000_000;
pub(crate) const TASKS: u64 = 120;
pub(crate) const WORKERS: u64 = 6;
pub(crate) const TTL_NS: u64 = 1_500 * MS;
pub(crate) const LOSSES_MAX: u8 = 3;

/// What may go wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Daemons die, the segment stays; the wall clock jumps.
    Hot,
    /// The segment is lost and the machine stops, too.
    Cold,
    /// Both, over years: time comes to the last stamp again and again (`ages.rs`).
    Ages,
}

impl Kind {
    pub(crate) const ALL: [Self; 3] = [Self::Hot, Self::Cold, Self::Ages];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Hot => "hot",
            Self::Cold => "cold",
            Self::Ages => "ages",
        }
    }
}

pub(crate) struct World {
    pub(crate) seed: u64,
    pub(crate) kind: Kind,
    pub(crate) base: qtf_world::World,
    pub(crate) rng: fastrand::Rng,
    pub(crate) disk: Disk,
    pub(crate) wall_skew_ms: i64,
    pub(crate) nonce: u64,
    pub(crate) facts: Facts,
    pub(crate) workers: Vec<SimWorker>,
    /// Results that may come in late.
    pub(crate) ghosts: Vec<(WorkerId, TaskRef)>,
    pub(crate) last_stamp: u64,
    /// A submission was cut off: there may be a task of which nobody knows.
    pub(crate) may_have_orphan: bool,
    /// The task whose result was being reported.
    pub(crate) unsure: Option<TaskId>,
    /// That result was bad.
    pub(crate) unsure_failed: bool,
    /// The dead letter that was being revived.
    pub(crate) revived_just_now: Option<TaskId>,
    /// The task that was being held or released.
    pub(crate) held_just_now: Option<TaskId>,
    /// Workers that get nothing new, in this segment.
    pub(crate) drained: BTreeSet<WorkerId>,
    pub(crate) full_until: Now,
    pub(crate) is_calm: bool,
    pub(crate) hot_starts: u64,
    pub(crate) cold_starts: u64,
    pub(crate) cuts: u64,
    pub(crate) failures: u64,
    pub(crate) refusals: u64,
    pub(crate) put_off: u64,
    pub(crate) revivals: u64,
    pub(crate) drains: u64,
    /// How often time has leapt, the origin was moved, and clients heard that no stamp was left.
    pub(crate) leaps: u64,
    pub(crate) moves: u64,
    pub(crate) times_up: u64,
    /// Keys that clients have given back, and the record after which that is durable, once there is one.
    pub(crate) given_back: Vec<(KeyId, Option<Lsn>)>,
    pub(crate) keys_given_back: u64,
    /// Repeats that found their key gone, rightly.
    pub(crate) keys_gone: u64,
    pub(crate) holds: u64,
    history: u64,
}

pub(crate) fn engine_config(seed: u64) -> EngineConfig {
    EngineConfig {
        // Three names of one user: who is told apart is what the rules test.
        share_rule: ShareRule::Whole,
        result_ttl_ns: TTL_NS,
        failed_result_ttl_ns: TTL_NS,
        losses_max: LOSSES_MAX,
        effects_max: 32,
        ..hurried(seed)
    }
}

/// In every other world keys push others out, as the table is nearly full.
const fn has_few_key_places(seed: u64, kind: Kind) -> bool {
    seed % 2 == 1 && !matches!(kind, Kind::Ages)
}

impl World {
    pub(crate) const fn has_few_key_places(&self) -> bool {
        has_few_key_places(self.seed, self.kind)
    }

    pub(crate) fn new(seed: u64, kind: Kind) -> Self {
        let disk = SimDisk::new();
        let nonce = seed << 20;
        let opened = reopened(&disk, nonce);
        let disk = Disk::after(&opened, disk, nonce);
        let ground = Ground::of(TASKS, WORKERS).with(after(None, TimeAfter::highest(0)));
        let (segment, directory) = ground.made();
        let now = Now::from_ns(MS);
        if has_few_key_places(seed, kind) {
            fill_keys(&segment, now);
        }
        let appender = Appender::new(opened.end.next(), limits());
        let engine = Engine::with_journal(segment, engine_config(seed), appender, wall(now, 0))
            .expect("the configuration is usable");
        Self {
            seed,
            kind,
            base: qtf_world::World::around(engine, now, directory, CLIENTS),
            rng: fastrand::Rng::with_seed(seed),
            disk,
            wall_skew_ms: 0,
            nonce,
            facts: Facts::default(),
            workers: Vec::new(),
            ghosts: Vec::new(),
            last_stamp: 0,
            may_have_orphan: false,
            unsure: None,
            unsure_failed: false,
            revived_just_now: None,
            held_just_now: None,
            drained: BTreeSet::new(),
            full_until: now,
            is_calm: false,
            hot_starts: 0,
            cold_starts: 0,
            cuts: 0,
            failures: 0,
            refusals: 0,
            put_off: 0,
            revivals: 0,
            drains: 0,
            leaps: 0,
            moves: 0,
            times_up: 0,
            given_back: Vec::new(),
            keys_given_back: 0,
            keys_gone: 0,
            holds: 0,
            history: 0,
        }
    }

    pub(crate) fn wall(&self) -> WallTime {
        wall(self.base.now, self.wall_skew_ms)
    }

    /// Something happens, then everybody has a turn.
    pub(crate) fn step(&mut self) {
        let place = self.rng.usize(..self.workers.len().max(1));
        let has_workers = !self.workers.is_empty();
        match self.rng.u8(0..32) {
            0..11 => self.client_acts(),
            11 => self.operator_acts(),
            12..26 if has_workers => self.worker_acts(place),
            26 | 27 if self.workers.len() < 4 => {
                let capacity = self.rng.u32(1..5);
                self.worker_joins(capacity);
            }
            28 => self.ghost_speaks(),
            29 if has_workers && self.rng.u8(0..4) == 0 => self.worker_suffers(place),
            30.. if self.rng.bool() => self.disaster(),
            _ => {}
        }
        self.turn();
    }

    /// Time goes on; the engine, the disk and the helper thread do their part.
    pub(crate) fn turn(&mut self) {
        self.take_effects(None);
        self.base.pass(self.rng.u64(0..3 * MS));
        if self.base.now >= self.full_until {
            self.disk.disk.set_capacity(None);
        }
        let wall = self.wall();
        self.base.engine.set_wall(wall.now, wall.unix_ms);
        let is_done = self.is_calm || self.rng.u8(0..3) > 0;
        self.journal_turn(is_done);
        if self.disk.writer.failure().is_none() {
            self.disk.help(&mut self.base.engine, &mut self.rng, wall);
        }
        self.base.engine.cycle(self.base.now);
        self.remove_files();
        let best_waiting = self.base.best_waiting(|_| false);
        self.take_effects(best_waiting);
        self.note_expired();
    }

    /// The helper thread removes files that nobody refers to, now or later; a daemon's death leaves them to the next one.
    fn remove_files(&mut self) {
        while self.is_calm || self.rng.bool() {
            if !self.base.remove_a_lost_file() {
                return;
            }
        }
    }

    pub(crate) fn journal_turn(&mut self, is_done: bool) {
        if let Some(lsn) = self.disk.turn(&mut self.base.engine, is_done) {
            self.base.engine.journal_durable(self.base.now, lsn);
            self.tell();
        }
    }

    /// Passes answers on whose records the engine says are durable.
    fn tell(&mut self) {
        let durable = self.base.engine.durable_lsn();
        assert!(durable <= self.disk.writer.durable());
        for told in self.facts.tell(durable) {
            if let Told::Verdict(worker, one) = told {
                self.verdict(worker, one);
            }
        }
    }

    /// An answer that waits for a record, or for none.
    pub(crate) fn wait_for(&mut self, durable: Option<Lsn>, told: Told) {
        match durable {
            Some(lsn) if lsn > self.base.engine.durable_lsn() => {
                self.facts.answers.push((lsn, told));
            }
            _ => {
                self.facts.is_told(told);
                if let Told::Verdict(worker, one) = told {
                    self.verdict(worker, one);
                }
            }
        }
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
                    self.assert_may_be_given_tasks(worker, task);
                    self.facts.dispatched(task, attempt);
                    self.assert_payload(task);
                    self.base.assert_order(task, best_waiting);
                    let one = TaskRef {
                        task,
                        attempt: u32::from(attempt),
                    };
                    for to in self.workers.iter_mut().filter(|to| to.id == worker) {
                        to.mail.push(one);
                    }
                    self.note(task, u64::from(attempt));
                }
                Effect::Finished { task, phase } => {
                    self.assert_durable(task);
                    self.assert_has_reason(task);
                    if self.facts.tasks.contains_key(&task) {
                        self.facts.ended(task, phase, self.base.now);
                    }
                    self.note(task, phase as u64);
                }
                Effect::Stop {
                    worker,
                    task,
                    attempt,
                    ..
                } => {
                    let attempt = u32::from(attempt);
                    let one = TaskRef { task, attempt };
                    for to in self.workers.iter_mut().filter(|to| to.id == worker) {
                        if let Some(place) = to.holds.iter().position(|held| *held == one) {
                            to.holds.swap_remove(place);
                            to.finished.push((one, 1));
                        }
                    }
                }
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
                Effect::Drain { worker } => self.told_to_drain(worker),
            }
        }
    }

    pub(crate) fn note(&mut self, task: TaskId, what: u64) {
        let word = task.as_raw() ^ what ^ self.base.now.ns;
        self.history = self.history.rotate_left(5).wrapping_mul(0x100_0000_01b3) ^ word;
    }

    /// A hash of all that happened.
    pub(crate) const fn history(&self) -> u64 {
        self.history
    }
}

const CLIENTS: &[&str] = &["one", "two", "three"];

/// The wall clock, which may be wrong.
fn wall(now: Now, skew_ms: i64) -> WallTime {
    const START_MS: u64 = 1_800_000_000_000;
    let unix_ms = START_MS
        .saturating_add(now.ns / MS)
        .saturating_add_signed(skew_ms);
    WallTime { now, unix_ms }
}
