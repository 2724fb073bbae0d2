//! The naive model: what is known of each accepted task from what was asked and answered.

use std::collections::BTreeMap;

use qtf_shm::{ClientIndex, Now, OutcomeKind, Phase, TaskId};

/// One accepted task.
#[derive(Debug, Clone)]
pub(crate) struct ModelTask {
    pub(crate) client: ClientIndex,
    pub(crate) max_attempts: u32,
    pub(crate) discard_result: bool,
    pub(crate) is_cancel_asked: bool,
    /// Attempts handed out so far.
    pub(crate) attempts: u8,
    /// The attempt whose result was recorded last.
    recorded: u8,
    failures: u32,
    pub(crate) end: Option<(Phase, Now)>,
}

/// All accepted tasks that are not freed yet.
#[derive(Debug, Default)]
pub(crate) struct Model {
    pub(crate) tasks: BTreeMap<TaskId, ModelTask>,
    /// What the end of a task must be, told by a recorded result and not yet by a notice.
    expected: BTreeMap<TaskId, Phase>,
    pub(crate) accepted: u64,
    pub(crate) ended: u64,
}

impl Model {
    pub(crate) fn accepted(
        &mut self,
        id: TaskId,
        client: ClientIndex,
        (retries, discard_result): (u32, bool),
    ) {
        let task = ModelTask {
            client,
            max_attempts: retries + 1,
            discard_result,
            is_cancel_asked: false,
            attempts: 0,
            recorded: 0,
            failures: 0,
            end: None,
        };
        let before = self.tasks.insert(id, task);
        assert!(before.is_none(), "{id} was given twice");
        self.accepted += 1;
    }

    pub(crate) fn dispatched(&mut self, id: TaskId, attempt: u8) {
        let task = self.tasks.get_mut(&id).expect("only accepted tasks run");
        assert_eq!(task.end, None, "{id} was handed out after its end");
        assert_eq!(attempt, task.attempts + 1, "attempts of {id}");
        task.attempts = attempt;
    }

    /// A result was recorded: says what must follow.
    pub(crate) fn recorded(&mut self, id: TaskId, attempt: u8, (kind, code): (OutcomeKind, u8)) {
        let task = self
            .tasks
            .get_mut(&id)
            .expect("only accepted tasks have results");
        assert_eq!(task.end, None, "{id} had a result after its end");
        assert_eq!(attempt, task.attempts, "{id}: only the last attempt counts");
        assert!(
            attempt > task.recorded,
            "{id}: attempt {attempt} counted twice"
        );
        task.recorded = attempt;
        if kind == OutcomeKind::Exited && code == 0 {
            self.expected.insert(id, Phase::Done);
        } else if task.is_cancel_asked {
            self.expected.insert(id, Phase::Cancelled);
        } else {
            task.failures += 1;
            if task.failures >= task.max_attempts {
                self.expected.insert(id, Phase::Failed);
            }
        }
    }

    /// The engine says that a task has ended.
    pub(crate) fn finished(&mut self, id: TaskId, phase: Phase, now: Now) {
        let task = self.tasks.get_mut(&id).expect("only accepted tasks end");
        assert_eq!(task.end, None, "{id} ended twice");
        if let Some(expected) = self.expected.remove(&id) {
            assert_eq!(phase, expected, "{id}");
        } else if phase == Phase::Cancelled {
            assert!(task.is_cancel_asked, "{id} was cancelled unasked");
        } else {
            // By the engine alone: a timeout without an answer, or too many losses.
            assert!(
                matches!(phase, Phase::Failed | Phase::DeadLetter),
                "{id} is {phase} without a result"
            );
        }
        task.end = Some((phase, now));
        self.ended += 1;
        if phase == Phase::Done && task.discard_result {
            self.tasks.remove(&id);
        }
    }

    pub(crate) fn freed(&mut self, id: TaskId) {
        let task = self.tasks.remove(&id).expect("only kept tasks are freed");
        assert!(task.end.is_some(), "{id} was freed before its end");
    }

    /// Nothing that was recorded still waits for its notice.
    pub(crate) fn assert_told(&self) {
        assert!(self.expected.is_empty(), "{:?}", self.expected);
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
