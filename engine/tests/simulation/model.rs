//! The naive model: what is known of each accepted task from what was asked and answered.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::{Deref, DerefMut};

use qtf_engine::Submission;
use qtf_shm::{ClientIndex, Now, Outcome, OutcomeKind, Phase, TaskId};
use qtf_world::Life;

/// What an attempt has left, as its worker reported it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Report {
    pub(crate) attempt: u16,
    pub(crate) outcome: Outcome,
    pub(crate) output: Vec<u8>,
}

impl Report {
    pub(crate) fn is_success(&self) -> bool {
        self.outcome.kind == OutcomeKind::Exited && self.outcome.code == 0
    }
}

/// One accepted task.
#[derive(Debug, Clone)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a fact of its own, and all combinations occur"
)]
pub(crate) struct ModelTask {
    life: Life,
    pub(crate) client: ClientIndex,
    pub(crate) max_attempts: u32,
    pub(crate) discard_result: bool,
    pub(crate) is_cancel_asked: bool,
    /// It was held, or submitted so, and not released since.
    pub(crate) is_held: bool,
    /// What was recorded last.
    pub(crate) report: Option<Report>,
    /// A local worker is ending an attempt: nobody knows yet whether it has.
    pub(crate) under_way: Option<Report>,
    /// Its word was brought to where no engine leaves it.
    pub(crate) is_damaged: bool,
    /// Whether an attempt has ended was known to a process that is dead.
    pub(crate) is_unsure: bool,
    failures: u32,
    /// Outcome and result, as they were when the end was told.
    pub(crate) ending: Option<(Outcome, Vec<u8>)>,
}

impl Deref for ModelTask {
    type Target = Life;

    fn deref(&self) -> &Life {
        &self.life
    }
}

impl DerefMut for ModelTask {
    fn deref_mut(&mut self) -> &mut Life {
        &mut self.life
    }
}

/// An end that must follow.
#[derive(Debug, Clone, Copy)]
struct Expected {
    phase: Phase,
    /// The cycle from which on it must have been told.
    until: u64,
}

/// All accepted tasks that are not freed yet.
#[derive(Debug, Default)]
pub(crate) struct Model {
    pub(crate) tasks: BTreeMap<TaskId, ModelTask>,
    /// What the end of a task must be, told by a recorded result and not yet by a notice.
    expected: BTreeMap<TaskId, Expected>,
    /// Set aside for inspection.
    pub(crate) aside: BTreeSet<TaskId>,
    pub(crate) accepted: u64,
    pub(crate) ended: u64,
}

impl Model {
    pub(crate) fn accepted(&mut self, id: TaskId, submission: &Submission<'_>) {
        let task = ModelTask {
            life: Life::default(),
            client: submission.client,
            max_attempts: submission.retries + 1,
            discard_result: submission.discard_result,
            is_cancel_asked: false,
            is_held: submission.hold,
            report: None,
            under_way: None,
            is_damaged: false,
            is_unsure: false,
            failures: 0,
            ending: None,
        };
        let before = self.tasks.insert(id, task);
        assert!(before.is_none(), "{id} was given twice");
        self.accepted += 1;
    }

    /// An attempt was handed out, or a local worker has taken it. A local worker that was killed while it took one has used up a
    /// number.
    pub(crate) fn dispatched(&mut self, id: TaskId, attempt: u16) {
        let task = self.tasks.get_mut(&id).expect("only accepted tasks run");
        task.life.dispatched(id, attempt, task.is_held);
    }

    /// A result was recorded: says what must follow, from which cycle on at the latest.
    pub(crate) fn recorded(&mut self, id: TaskId, report: Report, until: u64) {
        let Some(task) = self.tasks.get_mut(&id) else {
            panic!("{id} had a result, and is gone");
        };
        task.life.recorded(id, report.attempt);
        let is_success = report.is_success();
        task.report = Some(report);
        let phase = if is_success {
            Phase::Done
        } else if task.is_cancel_asked {
            Phase::Cancelled
        } else {
            task.failures += 1;
            if task.failures < task.max_attempts {
                return;
            }
            Phase::Failed
        };
        self.expected.insert(id, Expected { phase, until });
    }

    /// A local worker says that its attempt has ended, perhaps long after others have seen it.
    pub(crate) fn local_recorded(&mut self, id: TaskId, until: u64) {
        let Some(task) = self.tasks.get_mut(&id) else {
            return;
        };
        let Some(report) = task.under_way.take() else {
            return;
        };
        if task.end.is_none() && task.attempts == report.attempt {
            self.recorded(id, report, until);
        } else if task.end.is_none() {
            // The next attempt is under way already.
            task.failures += u32::from(!report.is_success());
        }
    }

    /// The engine says that a task has ended.
    pub(crate) fn finished(&mut self, id: TaskId, phase: Phase, now: Now) {
        let task = self.tasks.get_mut(&id).expect("only accepted tasks end");
        task.life.ended(id, phase, now);
        if let Some(report) = task.under_way.as_ref()
            && report.attempt == task.attempts
            && report.is_success() == (phase == Phase::Done)
            && task.report.as_ref().is_none_or(|before| before != report)
        {
            // Only now one knows that it had ended the attempt.
            let mut expected = None;
            if phase == Phase::Done {
                expected = Some(report.clone());
            }
            task.report = expected.or_else(|| task.report.take());
        }
        let has_succeeded = task.report.as_ref().is_some_and(|report| {
            report.attempt == task.attempts && report.is_success() && phase == Phase::Done
        });
        if let Some(expected) = self.expected.remove(&id) {
            assert_eq!(phase, expected.phase, "{id}");
        } else if phase == Phase::Cancelled {
            assert!(task.is_cancel_asked, "{id} was cancelled unasked");
        } else if !has_succeeded {
            // By the engine alone: a timeout without an answer, or too many losses.
            assert!(
                matches!(phase, Phase::Failed | Phase::DeadLetter),
                "{id} is {phase} without a result"
            );
        }
        self.ended += 1;
        if phase == Phase::Done && task.discard_result {
            self.tasks.remove(&id);
        }
    }

    /// The engine says that a slot is set aside, perhaps once more.
    pub(crate) fn set_aside(&mut self, id: TaskId) {
        if self.aside.contains(&id) {
            return;
        }
        let task = self.tasks.remove(&id);
        let task = task.unwrap_or_else(|| panic!("{id} is set aside after its end"));
        assert!(task.is_damaged && task.end.is_none(), "{id}: {task:?}");
        self.aside.insert(id);
        self.ended += 1;
    }

    pub(crate) fn freed(&mut self, id: TaskId) {
        let task = self.tasks.remove(&id).expect("only kept tasks are freed");
        assert!(task.end.is_some(), "{id} was freed before its end");
    }

    /// Nothing that was recorded still waits for its notice.
    pub(crate) fn assert_told(&self, cycle: u64) {
        for (id, expected) in &self.expected {
            assert!(
                cycle < expected.until,
                "{id}: nobody was told its end, {expected:?}"
            );
        }
    }

    /// It has ended, or somebody has ended an attempt of it: what follows is not known to clients yet.
    pub(crate) fn may_have_ended(&self, id: TaskId) -> bool {
        let task = &self.tasks[&id];
        task.end.is_some()
            || task.is_damaged
            || task.under_way.is_some()
            || self.expected.contains_key(&id)
    }

    /// What is held and has not ended.
    pub(crate) fn held(&self) -> Vec<TaskId> {
        let held = self.tasks.iter();
        held.filter(|(_, task)| task.is_held && task.end.is_none())
            .map(|(&id, _)| id)
            .collect()
    }

    /// Unfinished and kept tasks of a client.
    pub(crate) fn counts(&self, client: ClientIndex) -> (u64, u64) {
        let mut counts = (0, 0);
        for task in self.tasks.values().filter(|task| task.client == client) {
            match task.end {
                None => counts.0 += 1,
                Some(_) => counts.1 += 1,
            }
        }
        counts
    }

    pub(crate) fn random(&self, rng: &mut fastrand::Rng) -> Option<TaskId> {
        let count = self.tasks.len();
        (count > 0).then(|| {
            *self
                .tasks
                .keys()
                .nth(rng.usize(..count))
                .expect("below the count")
        })
    }
}
