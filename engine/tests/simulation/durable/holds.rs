//! Holds in the worlds with a journal: what was told of them, and what must be so after a start.

use qtf_shm::{Phase, StateWord, TaskId};

use super::clients::is_for_now;
use super::facts::Told;
use super::world::World;

/// What is known of whether a task is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Hold {
    pub(crate) is_held: bool,
    /// Somebody was told that it lasts.
    pub(crate) was_told: bool,
    /// How often it was changed: an answer to an earlier change tells nothing of a later one.
    pub(crate) changes: u32,
}

impl Hold {
    /// As a task is that is submitted so.
    pub(crate) const fn submitted(is_held: bool) -> Self {
        Self {
            is_held,
            was_told: false,
            changes: 0,
        }
    }

    fn change(&mut self, is_held: bool) {
        self.was_told &= self.is_held == is_held;
        self.is_held = is_held;
        self.changes += 1;
    }
}

impl World {
    /// Somebody holds a task, whatever becomes of it.
    pub(crate) fn hold(&mut self, cut: Option<u32>) {
        if let Some(id) = self.facts.random(&mut self.rng) {
            self.change_hold(id, true, cut);
        }
    }

    /// Somebody releases a held task, or one that is not held.
    pub(crate) fn release(&mut self, cut: Option<u32>) {
        let held = self.held();
        let any = held.get(self.rng.usize(..held.len().max(1))).copied();
        if let Some(id) = any.or_else(|| self.facts.random(&mut self.rng)) {
            self.change_hold(id, false, cut);
        }
    }

    /// What is held and has not ended.
    pub(crate) fn held(&self) -> Vec<TaskId> {
        let held = self.facts.tasks.iter().filter(|(_, task)| {
            let has_ended = task.is_freed || task.end.is_some();
            task.hold.is_held && !has_ended
        });
        held.map(|(&id, _)| id).collect()
    }

    pub(crate) fn change_hold(&mut self, id: TaskId, is_hold: bool, cut: Option<u32>) {
        let now = self.base.now;
        self.held_just_now = Some(id);
        let answer = self.cut_off(cut, |engine| {
            if is_hold {
                engine.hold(now, id)
            } else {
                engine.release(now, id)
            }
        });
        self.held_just_now = None;
        match answer {
            // What came of it was seen by the next daemon.
            None => {}
            Some(Ok(answer)) => {
                assert_eq!(answer.phase == Phase::Held, is_hold, "{id}");
                let hold = &mut self.facts.get(id).hold;
                hold.change(is_hold);
                let changes = hold.changes;
                self.wait_for(answer.durable, Told::Held(id, changes));
                self.holds += 1;
            }
            Some(Err(refused)) => assert!(
                is_for_now(&refused) || refused.reason == qtf_engine::RejectReason::WrongState,
                "{id}: {refused}"
            ),
        }
    }

    /// A hold lasts, and a release does: in the segment from the call on, in the journal from the answer on.
    pub(crate) fn settle_hold(&mut self, id: TaskId, state: StateWord, is_cold: bool) {
        let is_unsure = self.held_just_now == Some(id);
        let is_found = state.phase() == Phase::Held;
        let hold = &mut self.facts.get(id).hold;
        let lasts = hold.was_told || !is_cold;
        if lasts && !is_unsure && !state.phase().is_final() {
            assert_eq!(is_found, hold.is_held, "{id}: {hold:?}, and {state:?}");
        }
        if hold.is_held != is_found {
            hold.change(is_found);
        }
    }
}
