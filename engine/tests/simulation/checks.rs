//! What must hold at any time: that ends stay what they are, that orders come through, that nobody waits in vain.
//!
//! Bounds are counted in cycles of the engine and in heartbeats that came through, so that a stalled daemon or a cut connection
//! accuses nobody.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "a test names what it is about; everything else is left alone"
)]

use std::collections::BTreeMap;

use qtf_engine::TaskRef;
use qtf_shm::{
    FLAG_CANCEL, FLAG_TIMED_OUT, Key, KindSet, Now, OutcomeKind, Part, Phase, TaskId, WorkerId,
    WorkerPhase,
};

use crate::links::Down;
use crate::locals::Local;
use crate::model::ModelTask;
use crate::workers::{Hold, SimWorker};
use crate::world::{LEASE_NS, LOSSES_MAX, World};

/// Cycles and heartbeats within which an order must have come through, and a task must have gone to a worker that is free.
const CYCLES_MAX: u64 = 200;
const BEATS_MAX: u64 = 8;

/// After so long a task that its worker does not begin goes to another one that is free.
const UNSTARTED_NS: u64 = 8 * LEASE_NS;

/// Since when something is so.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Since {
    cycle: u64,
    beats: u64,
}

/// What is wrong just now, and since when.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    untold: BTreeMap<(WorkerId, TaskRef), Since>,
    undrained: BTreeMap<WorkerId, Since>,
    unserved: BTreeMap<(TaskId, WorkerId), Since>,
    unstarted: BTreeMap<(WorkerId, TaskId), Since>,
    unknown: BTreeMap<TaskId, Since>,
    unflagged: BTreeMap<(WorkerId, TaskRef), Since>,
}

/// Keeps what still is so, adds what is new; returns what has been so for too long.
fn overdue<K: Ord + Copy>(
    known: &mut BTreeMap<K, Since>,
    found: impl IntoIterator<Item = (K, u64)>,
    cycle: u64,
) -> Option<(K, Since)> {
    let before = std::mem::take(known);
    let mut first = None;
    for (key, beats) in found {
        let fresh = Since { cycle, beats };
        // Heartbeats start over with each connection.
        let since = before
            .get(&key)
            .copied()
            .filter(|since| since.beats <= beats)
            .unwrap_or(fresh);
        if cycle > since.cycle + CYCLES_MAX && beats > since.beats + BEATS_MAX {
            first = first.or(Some((key, since)));
        }
        known.insert(key, since);
    }
    first
}

impl World {
    /// Everything that is checked after each cycle.
    pub(crate) fn check(&mut self) {
        self.check_some_ends();
        if !self.cycles.is_multiple_of(4) {
            return;
        }
        let mut watch = std::mem::take(&mut self.watch);
        let cycle = self.cycles;
        if let Some((key, since)) = overdue(&mut watch.untold, self.untold(), cycle) {
            let (_, one) = key;
            let state = self.base.engine.segment().state(one.task.slot());
            panic!("nobody tells {key:?} to stop, since {since:?}: {state:?}; it is cycle {cycle}");
        }
        if let Some((key, since)) = overdue(&mut watch.undrained, self.undrained(), cycle) {
            panic!("nobody tells {key:?} to drain, since {since:?}; it is cycle {cycle}");
        }
        let aside = self.model.tasks.keys().copied().filter(|id| {
            let state = self.base.engine.segment().state(id.slot());
            state.is_of(*id) && state.phase() == Phase::Quarantine
        });
        let aside: Vec<_> = aside.map(|id| (id, cycle)).collect();
        if let Some((id, since)) = overdue(&mut watch.unknown, aside, cycle) {
            panic!("nobody is told that {id} is set aside, since {since:?}; it is cycle {cycle}");
        }
        if let Some((key, since)) = overdue(&mut watch.unflagged, self.unflagged(), cycle) {
            panic!("{key:?} is overdue, and not flagged, since {since:?}; it is cycle {cycle}");
        }
        if let Some((key, since)) = overdue(&mut watch.unstarted, self.unstarted(), cycle) {
            panic!(
                "{key:?} is not begun, and another is free, since {since:?}; it is cycle {cycle}"
            );
        }
        if let Some((key, since)) = overdue(&mut watch.unserved, self.unserved(), cycle) {
            let task = self.base.engine.segment().state(key.0.slot());
            panic!(
                "{key:?} waits, and the worker is free, since {since:?}: {task:?}; it is cycle {cycle}"
            );
        }
        self.watch = watch;
    }

    /// Attempts that a reachable worker holds, that are cancelled, overdue or not its own any more, and of which it was not told.
    fn untold(&self) -> Vec<((WorkerId, TaskRef), u64)> {
        let reachable = self.workers.iter().filter(|worker| is_reachable(worker));
        let holds =
            reachable.flat_map(|worker| worker.holds.iter().map(move |hold| (worker, hold)));
        let untold = holds.filter(|(worker, hold)| {
            let is_under_way = worker
                .link
                .down
                .iter()
                .any(|message| matches!(message, Down::Stop(one, _) if *one == hold.one));
            hold.stop.is_none() && !is_under_way && self.is_to_stop(worker.id, hold)
        });
        untold
            .map(|(worker, hold)| ((worker.id, hold.one), worker.link.beats))
            .collect()
    }

    /// What was taken back before it began is told when it begins.
    fn is_to_stop(&self, worker: WorkerId, hold: &Hold) -> bool {
        let one = hold.one;
        let segment = self.base.engine.segment();
        let state = segment.state(one.task.slot());
        let is_its_own = state.is_of(one.task)
            && matches!(state.phase(), Phase::Assigned | Phase::Running)
            && state.owner() == qtf_shm::Owner::Worker(worker.slot())
            && u32::from(state.fence()) == one.attempt;
        if !is_its_own {
            return hold.is_started;
        }
        state.has_flag(FLAG_CANCEL) || state.has_flag(FLAG_TIMED_OUT) || self.is_overdue(one)
    }

    /// It runs for longer than it may, and so long that the engine has stepped in.
    fn is_overdue(&self, one: TaskRef) -> bool {
        let task = self.base.engine.segment().task(one.task.slot());
        let timeout_ns = u64::from(task.timeout_ms()) * 1_000_000;
        let since = self.base.now.since_ns(Now::from_stamp(task.phase_time()));
        task.state().phase() == Phase::Running
            && timeout_ns > 0
            && since > timeout_ns + 2 * self.base.engine.config().stop_grace_ns
    }

    /// Workers that are to drain, and have not been told.
    fn undrained(&self) -> Vec<(WorkerId, u64)> {
        let segment = self.base.engine.segment();
        let workers = self.workers.iter().filter(|worker| {
            let state = segment.worker(worker.id.slot()).state();
            is_reachable(worker)
                && state.incarnation() == worker.id.incarnation()
                && state.drains()
                && !worker.drains
                && !worker.link.down.contains(&Down::Drain)
        });
        workers
            .map(|worker| (worker.id, worker.link.beats))
            .collect()
    }

    /// Attempts of local workers that are overdue, and say so to nobody. Cycles alone count.
    fn unflagged(&self) -> Vec<((WorkerId, TaskRef), u64)> {
        let segment = self.base.engine.segment();
        let holds = self
            .locals
            .iter()
            .flat_map(|local| local.holds.iter().map(move |&one| (local.id, one)));
        let unflagged = holds.filter(|&(_, one)| {
            let state = segment.state(one.task.slot());
            let is_its_own = state.is_of(one.task) && u32::from(state.fence()) == one.attempt;
            is_its_own && state.flags() == 0 && self.is_overdue(one)
        });
        unflagged.map(|key| (key, self.cycles)).collect()
    }

    /// Tasks that a worker was given long ago and has not begun, while another one is free.
    fn unstarted(&self) -> Vec<((WorkerId, TaskId), u64)> {
        let segment = self.base.engine.segment();
        let lazy = self.workers.iter().filter(|worker| worker.is_lazy);
        let holds = lazy.flat_map(|worker| worker.holds.iter().map(|hold| (worker.id, hold.one)));
        let unstarted = holds.filter(|&(id, one)| {
            let state = segment.state(one.task.slot());
            let given = Now::from_stamp(segment.task(one.task.slot()).phase_time());
            let mut others = self.workers.iter().filter(|other| other.id != id);
            state.is_of(one.task)
                && state.phase() == Phase::Assigned
                && u32::from(state.fence()) == one.attempt
                && self.base.now.since_ns(given) > UNSTARTED_NS
                && others.any(|other| is_free(other) && self.fits(one.task, &other.kinds))
        });
        unstarted
            .map(|(id, one)| ((id, one.task), self.cycles))
            .collect()
    }

    /// Tasks that wait while a worker is free that they could go to.
    fn unserved(&self) -> Vec<((TaskId, WorkerId), u64)> {
        let segment = self.base.engine.segment();
        let mut ready: Vec<(Key, TaskId)> = Vec::new();
        let mut unserved = Vec::new();
        for &id in self.model.tasks.keys() {
            let state = segment.state(id.slot());
            if !state.is_of(id) || self.is_in_hands(id) && state.phase() != Phase::Ready {
                continue;
            }
            match state.phase() {
                Phase::Ready => ready.push((segment.task(id.slot()).key(), id)),
                Phase::Blocked => {
                    let offers = self
                        .workers
                        .iter()
                        .find(|worker| is_serving(worker) && self.fits(id, &worker.kinds));
                    unserved.extend(offers.map(|worker| ((id, worker.id), worker.link.beats)));
                    // One that wants more, and finds nothing.
                    let mut locals = self.locals.iter();
                    let offers = locals.find(|local| self.local_offers(local, id));
                    unserved.extend(offers.map(|local| ((id, local.id), local.vain_takes)));
                }
                _ => {}
            }
        }
        ready.sort_unstable();
        for &(_, id) in &ready {
            let free = self
                .workers
                .iter()
                .find(|worker| is_free(worker) && self.fits(id, &worker.kinds));
            if let Some(worker) = free {
                if self.is_in_hands(id) {
                    // Who stands still in the middle of giving it back may not have put its leaf there: it may be the head, and need not.
                    continue;
                }
                unserved.push(((id, worker.id), worker.link.beats));
                break;
            }
            let is_offered = self
                .workers
                .iter()
                .any(|worker| is_serving(worker) && self.fits(id, &worker.kinds))
                || self.is_offered_by_a_local(id);
            if is_offered {
                // The head waits for its workers, and the rest with it.
                break;
            }
        }
        for local in &self.locals {
            let waits = ready.iter().take(64).find(|&&(_, id)| {
                self.local_offers(local, id)
                    && !self.is_in_hands(id)
                    && local.holds.len() < local.capacity
                    && segment.task(id.slot()).losses() <= LOSSES_MAX
                    // One whose attempts cannot be counted any more is the daemon's.
                    && segment.state(id.slot()).fence() < qtf_shm::FENCE_MAX
                    && segment.worker(local.id.slot()).state().has_room()
            });
            unserved.extend(waits.map(|&(_, id)| ((id, local.id), local.vain_takes)));
        }
        unserved
    }

    /// What each worker has, of those that may be given tasks and with which nothing has gone wrong, ever: nothing keeps the engine from
    /// giving them tasks but what they have.
    pub(crate) fn loads_of_unhurt(&self) -> BTreeMap<WorkerId, u16> {
        let unhurt = self.workers.iter().filter(|worker| {
            worker.is_unhurt && is_serving(worker) && self.may_be_given_more(worker.id)
        });
        let running = |id: WorkerId| {
            self.base
                .engine
                .segment()
                .worker(id.slot())
                .state()
                .running()
        };
        unhurt
            .map(|worker| (worker.id, running(worker.id)))
            .collect()
    }

    fn may_be_given_more(&self, id: WorkerId) -> bool {
        let slot = self.base.engine.segment().worker(id.slot());
        let state = slot.state();
        state.phase() == WorkerPhase::Live
            && state.incarnation() == id.incarnation()
            && !state.drains()
            && slot.credits() > 0
    }

    /// Tasks go to the least loaded worker, so to one with none where one is there that they fit.
    pub(crate) fn assert_no_idle_one_was_left_out(&mut self, to: WorkerId, task: TaskId) {
        let Some(load) = self.loads.get(&to).copied() else {
            return;
        };
        let mut idle = self.workers.iter().filter(|worker| {
            self.loads.get(&worker.id) == Some(&0)
                && self.may_be_given_more(worker.id)
                && self.fits(task, &worker.kinds)
        });
        let left_out = idle.next().map(|worker| worker.id);
        assert!(
            load == 0 || left_out.is_none(),
            "{task} went to {to:?}, which has {load} tasks; {left_out:?} has none"
        );
        self.loads.insert(to, load + 1);
    }

    fn fits(&self, id: TaskId, kinds: &[String]) -> bool {
        let segment = self.base.engine.segment();
        let kind = segment.task(id.slot()).kind();
        kinds.iter().any(|name| segment.kinds().find(name) == kind)
    }

    /// A local worker takes tasks of this kind, may stand still, or is dead without anybody having noticed.
    fn is_offered_by_a_local(&self, id: TaskId) -> bool {
        let segment = self.base.engine.segment();
        let kind = segment.task(id.slot()).kind();
        let is_among = |kinds: KindSet| kind.is_some_and(|kind| kinds.contains(kind));
        let is_there = |local: &Local| {
            let state = segment.worker(local.id.slot()).state();
            state.incarnation() == local.id.incarnation() && !state.drains()
        };
        let mut living = self.locals.iter();
        living.any(|local| is_among(local.kinds) && is_there(local))
            || self.dead_locals.values().any(|&kinds| is_among(kinds))
    }

    fn local_offers(&self, local: &Local, id: TaskId) -> bool {
        let segment = self.base.engine.segment();
        let state = segment.worker(local.id.slot()).state();
        let kind = segment.task(id.slot()).kind();
        local.standing.is_none()
            && state.incarnation() == local.id.incarnation()
            && !state.drains()
            && kind.is_some_and(|kind| local.kinds.contains(kind))
    }

    /// What a task has left, when its end is told.
    pub(crate) fn note_ending(&mut self, id: TaskId) {
        let Some(found) = self.ending_of(id) else {
            return;
        };
        let Some(task) = self.model.tasks.get_mut(&id) else {
            return;
        };
        assert_ending(id, task, &found);
        task.ending = Some(found);
    }

    fn ending_of(&self, id: TaskId) -> Option<(qtf_shm::Outcome, Vec<u8>)> {
        let segment = self.base.engine.segment();
        let task = segment.task(id.slot());
        if !task.state().is_of(id) || !task.state().phase().is_final() {
            return None;
        }
        let mut bytes = vec![0; usize::try_from(task.result().len()).expect("it fits")];
        let read = segment.load(id, Part::Result, 0, &mut bytes);
        let read = read.unwrap_or_else(|error| panic!("result of {id}: {error}"));
        assert_eq!(read, bytes.len(), "result of {id}");
        Some((task.outcome(), bytes))
    }

    fn check_some_ends(&mut self) {
        for _ in 0..2 {
            if let Some(id) = self.model.random(&mut self.rng) {
                self.check_end(id);
            }
        }
    }

    /// An end stays what it was when it was told.
    pub(crate) fn check_end(&self, id: TaskId) {
        let task = &self.model.tasks[&id];
        if let (Some(told), Some(found)) = (&task.ending, self.ending_of(id)) {
            assert!(
                *told == found,
                "{id} had ended, and its end is another now: {:?} with {} bytes, and {:?} with {}",
                told.0,
                told.1.len(),
                found.0,
                found.1.len()
            );
        }
    }
}

/// The end is what the last attempt's worker has reported, or the engine's own.
fn assert_ending(id: TaskId, task: &ModelTask, (outcome, bytes): &(qtf_shm::Outcome, Vec<u8>)) {
    let (phase, _) = task.end.expect("it has ended");
    let reports = [&task.report, &task.under_way];
    let mut reports = reports
        .into_iter()
        .flatten()
        .filter(|report| report.attempt == task.attempts || task.is_unsure);
    let is_as_reported = reports.any(|report| {
        let is_same = (outcome.kind, outcome.code) == (report.outcome.kind, report.outcome.code);
        is_same && (outcome.result_dropped || *bytes == report.output)
    });
    let is_the_engines = bytes.is_empty()
        && match phase {
            Phase::Cancelled => {
                matches!(outcome.kind, OutcomeKind::Cancelled | OutcomeKind::TimedOut)
            }
            Phase::Failed => outcome.kind == OutcomeKind::TimedOut,
            Phase::DeadLetter => outcome.kind == OutcomeKind::WorkerLost,
            _ => false,
        };
    assert!(
        is_as_reported || is_the_engines,
        "{id} has an end that nobody has reported: {outcome:?} with {} bytes, {task:?}",
        bytes.len()
    );
}

fn is_reachable(worker: &SimWorker) -> bool {
    worker.link.is_up() && !worker.is_evicted
}

/// It may be given tasks, now or later.
fn is_serving(worker: &SimWorker) -> bool {
    is_reachable(worker) && !worker.drains && !worker.link.down.contains(&Down::Drain)
}

fn is_free(worker: &SimWorker) -> bool {
    let is_assign = |message: &&Down| matches!(message, Down::Assign(_));
    let under_way = worker.link.down.iter().filter(is_assign).count();
    let busy = worker.holds.len() + worker.finished.len() + under_way;
    let capacity = usize::try_from(worker.capacity).expect("few");
    is_serving(worker) && worker.open > 0 && busy < capacity
}
