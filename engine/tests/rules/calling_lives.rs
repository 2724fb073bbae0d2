//! Random lives of workers that call, with calls that break off, callers that die and daemons that are killed: nothing that is accepted is
//! lost, no end is recorded twice, no attempt that was lost is believed, and none that has its lease is taken away.

use std::collections::{BTreeMap, VecDeque};

use qtf_engine::{Disposition, Effect, EngineConfig, Loan, Principal, Reserve, StopReason};
use qtf_shm::{Now, OutcomeKind, Phase, TaskId, WorkerId};

use qtf_world::{Dispatched, MS, SECOND, World, dispatched, task_ref};

const SEEDS: u64 = 60;
const STEPS: u64 = 300;
const NAMES: [&str; 3] = ["one", "two", "three"];

/// A call that waits, as the daemon remembers it.
#[derive(Debug)]
struct Call {
    worker: WorkerId,
    room: u32,
    placed: VecDeque<Dispatched>,
}

/// An attempt that its caller has, or had.
#[derive(Debug, Clone, Copy)]
struct Lent {
    got: Dispatched,
    /// It cannot be taken away before.
    sure_until: Now,
    /// It is lost from then on; after a restart that is not known.
    lost_from: Option<Now>,
}

struct Lives {
    world: World,
    rng: fastrand::Rng,
    calls: Vec<Call>,
    undelivered: Vec<Dispatched>,
    lent: Vec<Lent>,
    /// Of callers that have died.
    ghosts: Vec<Lent>,
    tasks: Vec<TaskId>,
    /// By which attempt a task was ended.
    ended: BTreeMap<TaskId, u16>,
}

impl Lives {
    fn new(seed: u64) -> Self {
        let config = EngineConfig {
            losses_max: 200,
            seed,
            ..EngineConfig::default()
        };
        Self {
            world: World::with(200, config),
            rng: fastrand::Rng::with_seed(seed),
            calls: Vec::new(),
            undelivered: Vec::new(),
            lent: Vec::new(),
            ghosts: Vec::new(),
            tasks: Vec::new(),
            ended: BTreeMap::new(),
        }
    }

    fn step(&mut self) {
        match self.rng.u8(0..32) {
            0..=5 if self.tasks.len() < 150 => self.tasks.push(self.world.submit("exec")),
            6..=11 if self.calls.len() < 6 => self.call(),
            12..=17 => self.answer(),
            18 => self.break_off(),
            19..=21 => self.touch(),
            22..=25 => self.finish(),
            26 => self.die(),
            27 => self.haunt(),
            28 if self.rng.u8(0..6) == 0 => self.restart(),
            _ => {
                let ns = self.rng.u64(0..900 * MS);
                self.pass(ns);
            }
        }
        self.pass(0);
    }

    /// The daemon turns, and brings effects where they belong.
    fn pass(&mut self, ns: u64) {
        for (worker, task, attempt) in std::mem::take(&mut self.undelivered) {
            let asked = task_ref(task, attempt);
            self.world
                .engine
                .dispatch_undelivered(self.world.now, worker, asked);
        }
        let effects = self.world.settle_for(ns);
        assert!(
            !effects
                .iter()
                .any(|effect| matches!(effect, Effect::Probe { .. }))
        );
        for got in dispatched(&effects) {
            let mut calls = self.calls.iter_mut();
            match calls.find(|call| call.worker == got.0 && call.room > 0) {
                Some(call) => {
                    call.room -= 1;
                    call.placed.push_back(got);
                }
                None => self.undelivered.push(got),
            }
        }
    }

    fn call(&mut self) {
        let kinds = ["exec".to_owned()];
        let reserve = Reserve {
            principal: Principal::Uid(1_000),
            name: NAMES[self.rng.usize(..NAMES.len())],
            host: "there",
            pid: 8,
            kinds: &kinds,
            count: self.rng.u32(1..4),
            request: 0,
        };
        let reserved = self.world.engine.reserve(self.world.now, &reserve);
        self.calls.push(Call {
            worker: reserved.expect("there is room for three").id,
            room: reserve.count,
            placed: VecDeque::new(),
        });
    }

    fn any_call(&mut self) -> Option<Call> {
        let count = self.calls.len();
        (count > 0).then(|| self.calls.swap_remove(self.rng.usize(..count)))
    }

    fn answer(&mut self) {
        let Some(call) = self.any_call() else {
            return;
        };
        for got in call.placed {
            let lease_ns = self.rng.u64(SECOND / 2..8 * SECOND);
            let asked = task_ref(got.1, got.2);
            let now = self.world.now;
            let loan = Loan {
                lease_ns,
                request: Some(0),
            };
            let is_lent = self.world.engine.lend_attempt(now, got.0, asked, loan);
            assert!(is_lent, "nobody cancels, and nobody took it away");
            let end = now.plus_ns(lease_ns);
            self.lent.push(Lent {
                got,
                sure_until: end,
                lost_from: Some(end),
            });
        }
        let now = self.world.now;
        self.world.engine.reserve_ended(now, call.worker, call.room);
    }

    fn break_off(&mut self) {
        if let Some(call) = self.any_call() {
            let now = self.world.now;
            self.world.engine.reserve_ended(now, call.worker, call.room);
            self.undelivered.extend(call.placed);
        }
    }

    fn any_lent(&mut self) -> Option<Lent> {
        let count = self.lent.len();
        (count > 0).then(|| self.lent.swap_remove(self.rng.usize(..count)))
    }

    fn touch(&mut self) {
        let Some(lent) = self.any_lent() else {
            return;
        };
        let now = self.world.now;
        let lease_ns = self.rng.u64(SECOND / 2..8 * SECOND);
        let (worker, task, attempt) = lent.got;
        let asked = task_ref(task, attempt);
        let told = self
            .world
            .engine
            .touch_attempt(now, worker, asked, lease_ns);
        match told {
            None => {
                assert!(
                    lent.lost_from.is_none_or(|from| now < from),
                    "{lent:?} at {now:?}"
                );
                let end = now.plus_ns(lease_ns);
                self.lent.push(Lent {
                    sure_until: end,
                    lost_from: Some(end),
                    ..lent
                });
            }
            Some(reason) => {
                assert_eq!(reason, StopReason::Stale);
                assert!(now >= lent.sure_until, "{lent:?} at {now:?}");
            }
        }
    }

    fn finish(&mut self) {
        if let Some(lent) = self.any_lent() {
            self.report(lent);
        }
    }

    fn report(&mut self, lent: Lent) {
        let now = self.world.now;
        let (_, task, attempt) = lent.got;
        match self.world.report(lent.got, OutcomeKind::Exited, 0) {
            Disposition::Recorded => {
                assert!(
                    lent.lost_from.is_none_or(|from| now < from),
                    "{lent:?} at {now:?}"
                );
                assert_eq!(self.ended.insert(task, attempt), None, "{task}");
            }
            Disposition::AlreadyRecorded => assert_eq!(self.ended.get(&task), Some(&attempt)),
            told @ (Disposition::Stale | Disposition::NotNow | Disposition::NeedsFile) => {
                assert_eq!(told, Disposition::Stale);
                let was_recorded = self.ended.get(&task) == Some(&attempt);
                assert!(
                    was_recorded || now >= lent.sure_until,
                    "{lent:?} at {now:?}"
                );
            }
        }
        self.ghosts.push(lent);
    }

    fn die(&mut self) {
        if let Some(lent) = self.any_lent() {
            self.ghosts.push(lent);
        }
    }

    /// Somebody who was taken for dead reports.
    fn haunt(&mut self) {
        let count = self.ghosts.len();
        if count > 0 {
            let ghost = self.ghosts.swap_remove(self.rng.usize(..count));
            self.report(ghost);
        }
    }

    /// The daemon is killed: calls and what was on its way to them are gone with it.
    fn restart(&mut self) {
        let unused = World::with(64, EngineConfig::default());
        let world = std::mem::replace(&mut self.world, unused);
        self.world = world.restarted();
        self.calls.clear();
        self.undelivered.clear();
        for lent in self.lent.iter_mut().chain(&mut self.ghosts) {
            // The longest lease of its worker is what it has now, unless it was over before.
            if lent.lost_from.is_none_or(|from| self.world.now < from) {
                lent.lost_from = None;
            }
        }
    }

    /// Everybody behaves, until all is done.
    fn end(mut self) {
        for _ in 0..10_000 {
            if self.ended.len() == self.tasks.len() {
                break;
            }
            self.call();
            self.pass(0);
            while !self.calls.is_empty() {
                self.answer();
            }
            while !self.lent.is_empty() {
                self.finish();
            }
            self.pass(SECOND);
        }
        for task in &self.tasks {
            assert!(self.ended.contains_key(task), "{task} is lost");
            assert_eq!(self.world.phase(*task), Phase::Done);
        }
        self.world.verify();
    }
}

#[test]
fn whatever_breaks_off_no_task_is_lost_and_no_end_is_believed_of_an_attempt_that_was() {
    for seed in 0..SEEDS {
        let mut lives = Lives::new(seed);
        for step in 0..STEPS {
            lives.step();
            if step % 50 == 0 {
                lives.world.verify();
            }
        }
        lives.end();
    }
}
