//! What clients were told, and what may therefore never be otherwise.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::{Deref, DerefMut};

use qtf_engine::{Lsn, TaskRef};
use qtf_shm::{KeyId, Now, Phase, TaskId, WorkerId};
use qtf_world::Life;

use super::holds::Hold;
use super::operators::Revival;
use super::world::LOSSES_MAX;

/// One task, as its client and the world know it.
#[derive(Debug, Clone)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a fact of its own, and all combinations occur"
)]
pub(crate) struct Known {
    pub(crate) life: Life,
    pub(crate) is_journalled: bool,
    pub(crate) discards: bool,
    pub(crate) max_attempts: u32,
    /// The client was told that it is accepted.
    pub(crate) is_accepted: bool,
    /// A daemon found it ended when it began, whether or not a client knew.
    pub(crate) found_final: Option<(Phase, Now)>,
    /// A result was recorded after which only this end can follow.
    pub(crate) expected: Option<Phase>,
    /// A report of a result was cut off: nobody knows what will come of it.
    pub(crate) is_unsure: bool,
    pub(crate) cancel_was_asked: bool,
    /// The client was told that its worker has been asked to stop.
    pub(crate) stop_was_told: bool,
    /// The client was told that it is cancelled.
    pub(crate) is_cancelled: bool,
    pub(crate) forget_was_asked: bool,
    pub(crate) hold: Hold,
    /// Somebody has seen that it is gone: nothing brings it back.
    pub(crate) is_freed: bool,
    /// Years have gone by since it was submitted: nobody here knows when its time was over.
    pub(crate) is_of_an_earlier_age: bool,
    /// Place in the queue, as the journal counts.
    pub(crate) stamp: u64,
    pub(crate) failures: u32,
    /// Its workers die of it.
    pub(crate) is_poison: bool,
    /// Bytes of its payload, if anybody knows.
    pub(crate) payload: Option<usize>,
    /// Bytes of the output that was recorded, if anybody knows.
    pub(crate) output: Option<usize>,
    /// The last time that it was given new attempts, and the one before.
    pub(crate) revival: Option<Revival>,
    pub(crate) earlier_revival: Option<Revival>,
}

impl Deref for Known {
    type Target = Life;

    fn deref(&self) -> &Life {
        &self.life
    }
}

impl DerefMut for Known {
    fn deref_mut(&mut self) -> &mut Life {
        &mut self.life
    }
}

impl Known {
    /// When it is first known to have ended.
    pub(crate) fn first_end(&self) -> Option<(Phase, Now)> {
        let known = [self.found_final, self.end].into_iter().flatten();
        known.min_by_key(|&(_, at)| at)
    }

    /// Each attempt is lost once at most, and the one that is under way is not lost yet, unless it was about to be the last one.
    pub(crate) fn assert_losses(&self, id: TaskId, losses: u8, is_held: bool) {
        let before = self.revival.map_or(0, |revival| revival.attempts);
        let over = self.attempts - before - u16::from(is_held);
        let losses = u16::from(losses);
        let is_last = losses > u16::from(LOSSES_MAX) && losses == over + u16::from(is_held);
        assert!(
            losses <= over || is_last,
            "{id} was lost {losses} times: {self:?}"
        );
    }

    /// So many attempts at least were lost, the last time that it became a dead letter.
    pub(crate) fn assert_may_be_dead(&self, id: TaskId) {
        let before = self.revival.map_or(0, |revival| revival.attempts);
        assert!(
            u32::from(self.attempts) > u32::from(before) + u32::from(LOSSES_MAX),
            "{id} is a dead letter too early: {self:?}"
        );
    }
}

/// An answer that waits for a record.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Told {
    Accepted(TaskId),
    Cancelled(TaskId),
    StopAsked(TaskId),
    Forgotten(TaskId),
    Revived(TaskId),
    /// Held or released, by the change of this number.
    Held(TaskId, u32),
    Verdict(WorkerId, TaskRef),
}

#[derive(Debug, Default)]
pub(crate) struct Facts {
    pub(crate) tasks: BTreeMap<TaskId, Known>,
    /// Which task a key was given.
    pub(crate) keys: BTreeMap<KeyId, TaskId>,
    /// Keys that the clients' library made up.
    pub(crate) automatic: BTreeSet<KeyId>,
    /// Tasks that somebody began to acknowledge.
    pub(crate) acknowledged: BTreeSet<TaskId>,
    /// Every id that was ever seen.
    given: BTreeSet<TaskId>,
    /// Tasks of which clients were told that they are forgotten; whether they were journalled.
    pub(crate) gone: BTreeMap<TaskId, bool>,
    /// Memory tasks that a reboot has taken before they ended.
    pub(crate) lost: BTreeSet<TaskId>,
    pub(crate) answers: Vec<(Lsn, Told)>,
    /// Keys of submissions whose answer did not come: their clients repeat them.
    pub(crate) unanswered: Vec<KeyId>,
    pub(crate) accepted: u64,
    pub(crate) ended: u64,
}

impl Facts {
    /// A new task: its id was never given before.
    pub(crate) fn add(&mut self, id: TaskId, known: Known) {
        assert!(self.given.insert(id), "{id} was given twice");
        assert!(!self.tasks.contains_key(&id));
        self.tasks.insert(id, known);
        self.accepted += 1;
    }

    pub(crate) fn get(&mut self, id: TaskId) -> &mut Known {
        self.tasks
            .get_mut(&id)
            .unwrap_or_else(|| panic!("{id} is not known"))
    }

    pub(crate) fn dispatched(&mut self, id: TaskId, attempt: u16) {
        let task = self.get(id);
        assert!(!task.is_freed, "{id} was handed out after it was freed");
        assert!(
            !task.is_cancelled,
            "{id} was handed out after it was cancelled"
        );
        assert_eq!(attempt, task.attempts + 1, "attempts of {id}");
        task.life.dispatched(id, attempt, task.hold.is_held);
    }

    /// A worker's result was taken.
    pub(crate) fn recorded(&mut self, id: TaskId, attempt: u16, output: Option<usize>) {
        let succeeded = output.is_some();
        let task = self.get(id);
        task.life.recorded(id, attempt);
        task.output = output;
        task.failures += u32::from(!succeeded);
        if succeeded {
            task.expected = Some(Phase::Done);
        } else if task.cancel_was_asked {
            task.expected = Some(Phase::Cancelled);
        } else if task.failures >= task.max_attempts {
            task.expected = Some(Phase::Failed);
        }
    }

    /// A client is told that a task has ended.
    pub(crate) fn ended(&mut self, id: TaskId, phase: Phase, now: Now) {
        let task = self.get(id);
        if let Some((end, _)) = task.end {
            assert_eq!(end, phase, "{id} has two ends");
            return;
        }
        if phase == Phase::DeadLetter {
            task.assert_may_be_dead(id);
        }
        if phase == Phase::Failed {
            assert!(
                task.failures >= task.max_attempts,
                "{id} failed too early: {task:?}"
            );
        }
        if let Some(expected) = task.expected {
            assert_eq!(phase, expected, "{id}: a recorded result decides");
        } else if !task.is_unsure {
            let unasked = phase == Phase::Cancelled && !task.cancel_was_asked;
            assert!(!unasked, "{id} was cancelled unasked");
            assert_ne!(phase, Phase::Done, "{id} is done without a result");
        }
        task.life.ended(id, phase, now);
        self.ended += 1;
    }

    /// A dead letter has new attempts: that it had ended counts no more.
    pub(crate) fn revived(&mut self, id: TaskId) {
        let task = self.get(id);
        assert!(
            matches!(task.end, None | Some((Phase::DeadLetter, _))),
            "{id} had ended otherwise: {task:?}"
        );
        let was_dead = task.end.is_some();
        (task.end, task.expected, task.is_unsure) = (None, None, false);
        task.found_final = None;
        task.earlier_revival = task.revival;
        task.revival = Some(Revival {
            attempts: task.attempts,
            was_told: false,
            was_dead,
        });
    }

    /// The revival was never recorded and nobody was told of it: it is a dead letter as before, or not even that.
    pub(crate) fn revival_is_lost(&mut self, id: TaskId, now: Now, dead: bool) {
        let task = self.get(id);
        task.revival = task.earlier_revival;
        task.end = dead.then_some((Phase::DeadLetter, now));
    }

    /// Answers whose records are durable reach their clients.
    pub(crate) fn tell(&mut self, durable: Lsn) -> Vec<Told> {
        let (due, waiting) = self.answers.drain(..).partition(|(lsn, _)| *lsn <= durable);
        self.answers = waiting;
        let due: Vec<(Lsn, Told)> = due;
        let told: Vec<Told> = due.into_iter().map(|(_, told)| told).collect();
        for &one in &told {
            self.is_told(one);
        }
        told
    }

    pub(crate) fn is_told(&mut self, told: Told) {
        match told {
            // The same write has made the task's end and its going durable: whoever asked about it is answered all the same.
            Told::Accepted(id) | Told::Cancelled(id) | Told::StopAsked(id) | Told::Held(id, _)
                if self.gone.contains_key(&id) => {}
            Told::Accepted(id) => {
                let task = self.get(id);
                task.is_accepted = true;
                task.hold.was_told |= task.hold.changes == 0;
            }
            Told::Held(id, changes) => {
                let hold = &mut self.get(id).hold;
                hold.was_told |= hold.changes == changes;
            }
            Told::Cancelled(id) => self.get(id).is_cancelled = true,
            Told::StopAsked(id) => self.get(id).stop_was_told = true,
            Told::Forgotten(id) => {
                // Whoever has asked once more is told once more.
                if let Some(task) = self.tasks.remove(&id) {
                    self.gone.insert(id, task.is_journalled);
                }
            }
            Told::Revived(id) => {
                let revival = self
                    .tasks
                    .get_mut(&id)
                    .and_then(|task| task.revival.as_mut());
                if let Some(revival) = revival {
                    revival.was_told = true;
                }
            }
            Told::Verdict(..) => {}
        }
    }

    /// The daemon died: what was not told yet is told to nobody.
    pub(crate) fn lose_answers(&mut self) {
        for (_, told) in core::mem::take(&mut self.answers) {
            if let Told::Accepted(id) = told {
                let key = self.keys.iter().find(|(_, task)| **task == id);
                self.unanswered.extend(key.map(|(key, _)| *key));
            }
        }
    }

    pub(crate) fn random(&self, rng: &mut fastrand::Rng) -> Option<TaskId> {
        let live = || self.tasks.iter().filter(|(_, task)| !task.is_freed);
        let count = live().count();
        let place = (count > 0).then(|| rng.usize(..count))?;
        live().nth(place).map(|(&id, _)| id)
    }
}
