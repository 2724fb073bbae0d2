//! What operators do: they give dead letters new attempts, and have workers drained. Purging is what clients do, too: they forget.

use qtf_engine::RejectReason;
use qtf_shm::{Phase, TaskId, WorkerId};

use super::checks::assert_has_its_place;
use super::clients::is_for_now;
use super::facts::Told;
use super::world::World;

/// A revival of a dead letter.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Revival {
    /// Attempts that it had before: they count on.
    pub(crate) attempts: u16,
    /// The operator was told that it will last.
    pub(crate) was_told: bool,
    /// Clients knew that it was a dead letter.
    pub(crate) was_dead: bool,
}

impl World {
    pub(crate) fn operator_acts(&mut self) {
        match self.rng.u8(0..8) {
            0..6 => self.revive(None),
            6 => self.drain(None),
            _ => self.revives_what_lives(),
        }
    }

    /// A dead letter gets new attempts, whether or not somebody was told that it is one.
    pub(crate) fn revive(&mut self, cut: Option<u32>) {
        let dead = |id: &TaskId| {
            let state = self.base.engine.check(*id);
            state.is_ok_and(|state| state.phase() == Phase::DeadLetter)
        };
        let dead: Vec<TaskId> = self.facts.tasks.keys().copied().filter(dead).collect();
        if dead.is_empty() {
            return;
        }
        let id = dead[self.rng.usize(..dead.len())];
        let now = self.base.now;
        // Its purge was taken in: it must not come back.
        let is_purged = self
            .base
            .engine
            .check(id)
            .is_ok_and(|state| state.is_forgotten());
        self.revived_just_now = Some(id);
        let answer = self.cut_off(cut, |engine| engine.revive(now, id));
        self.revived_just_now = None;
        match answer {
            // What came of it was seen by the next daemon.
            None => {}
            Some(Ok(answer)) => {
                assert!(!is_purged, "{id} was purged, and is revived");
                assert_eq!(answer.phase, Phase::Ready, "{id}");
                self.note(id, 77);
                self.facts.revived(id);
                self.assert_is_as_before(id);
                self.revivals += 1;
                if self.rng.u8(0..4) > 0 {
                    self.facts.get(id).is_poison = false;
                }
                self.wait_for(answer.durable, Told::Revived(id));
            }
            Some(Err(refused)) => assert!(
                is_for_now(&refused) || is_purged && refused.reason == RejectReason::WrongState,
                "{id}: {refused}"
            ),
        }
    }

    /// A revived task waits at its old place, with its failures and without its losses.
    pub(crate) fn assert_is_as_before(&mut self, id: TaskId) {
        let segment = std::sync::Arc::clone(self.base.engine.segment());
        let slot = segment.task(id.slot());
        let task = self.facts.get(id);
        let state = slot.state();
        let found = (state.phase(), state.fence(), u32::from(slot.failures()));
        let told = (Phase::Ready, task.attempts, task.failures);
        assert_eq!(found, told, "{id} was revived");
        assert_eq!(slot.losses(), 0, "{id} was revived");
        assert_has_its_place(&segment, id, task);
    }

    fn revives_what_lives(&mut self) {
        let Some(id) = self.facts.random(&mut self.rng) else {
            return;
        };
        let state = self.base.engine.check(id).expect("it is there");
        if state.phase() != Phase::DeadLetter {
            let refused = self
                .base
                .engine
                .revive(self.base.now, id)
                .expect_err("it lives");
            assert_eq!(refused.reason, RejectReason::WrongState, "{id}: {refused}");
            assert_eq!(self.base.engine.check(id).ok(), Some(state), "{id}");
        }
    }

    /// A worker is to get nothing new.
    pub(crate) fn drain(&mut self, cut: Option<u32>) {
        if self.workers.is_empty() {
            return;
        }
        let worker = self.workers[self.rng.usize(..self.workers.len())].id;
        let now = self.base.now;
        if let Some(Ok(())) = self.cut_off(cut, |engine| engine.drain_worker(now, worker)) {
            self.drained.insert(worker);
            self.drains += 1;
        }
    }

    /// The worker is told that it is to drain, if its connection stands.
    pub(crate) fn told_to_drain(&mut self, worker: WorkerId) {
        self.drained.insert(worker);
        for one in self.workers.iter_mut().filter(|one| one.id == worker) {
            one.drains |= !one.is_cut_off;
        }
    }

    pub(crate) fn assert_may_be_given_tasks(&self, worker: WorkerId, task: TaskId) {
        assert!(
            !self.drained.contains(&worker),
            "{worker} drains, and was given {task}"
        );
    }
}
