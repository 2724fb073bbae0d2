//! What clients do in the simulation.

use qtf_engine::{Caller, Payload, RejectReason, Submission};
use qtf_shm::{ClientIndex, Phase, TaskId};

use crate::world::World;

/// Where a task waits, and whoever wants may hold it.
const HOLDABLE: [Phase; 5] = [
    Phase::Submitted,
    Phase::Blocked,
    Phase::Held,
    Phase::Delayed,
    Phase::Ready,
];

/// No submission with it is taken.
const PRIORITY_WRONG: u32 = 256;

const KINDS: [&str; 4] = ["exec", "render", "odd", "local"];

impl World {
    pub(crate) fn client_acts(&mut self) {
        match self.rng.u8(0..13) {
            0..=5 => self.submit(),
            6 => self.cancel(),
            7 => self.reprioritise(),
            10 => self.hold(),
            11 | 12 => self.release(),
            _ => self.forget(),
        }
    }

    /// One task, or several in one message; one of these may be wrong, and the others are none the worse for it.
    fn submit(&mut self) {
        let client = self.base.clients[self.rng.usize(..self.base.clients.len())];
        let count = if self.rng.u8(0..4) == 0 {
            self.rng.usize(2..6)
        } else {
            1
        };
        let payloads: Vec<Vec<u8>> = (0..count)
            .map(|_| vec![1; self.rng.usize(0..300)])
            .collect();
        let mut submissions: Vec<_> = payloads
            .iter()
            .map(|bytes| self.submission(client, bytes))
            .collect();
        let wrong = (count > 1 && self.rng.bool()).then(|| self.rng.usize(..count));
        if let Some(wrong) = wrong {
            submissions[wrong].priority = Some(PRIORITY_WRONG);
        }
        let mut answers = Vec::new();
        if count > 1 {
            let caller = Caller {
                now: self.base.now,
                who: client,
            };
            let batch = submissions.iter().copied();
            let engine = &mut self.base.engine;
            engine.submit_batch(caller, batch, |answer| answers.push(answer));
        } else {
            answers.push(self.base.engine.submit(self.base.now, &submissions[0]));
        }
        assert_eq!(answers.len(), count, "each submission is answered");
        for (place, (answer, submission)) in answers.into_iter().zip(&submissions).enumerate() {
            match answer {
                Ok(taken) => {
                    assert_ne!(wrong, Some(place), "priority {PRIORITY_WRONG} was taken");
                    self.model.accepted(taken.task, submission);
                }
                Err(refused) => assert_eq!(
                    wrong == Some(place),
                    !matches!(
                        refused.reason,
                        RejectReason::TasksFull | RejectReason::ArenaFull
                    ),
                    "{refused}"
                ),
            }
        }
    }

    fn submission<'b>(&mut self, client: ClientIndex, bytes: &'b [u8]) -> Submission<'b> {
        let kind = match self.rng.u8(..) {
            0..6 => KINDS[2],
            6..12 => KINDS[3],
            12..60 => KINDS[1],
            _ => KINDS[0],
        };
        let mut submission = Submission::new(client, kind, Payload::Bytes(bytes));
        submission.priority = Some(self.rng.u32(0..4) * 64);
        submission.retries = self.rng.u32(0..3);
        submission.discard_result = self.rng.u8(..) < 64;
        submission.timeout_ms = if self.rng.bool() { 20 } else { 0 };
        submission.estimate_ms = self.rng.u32(0..2);
        submission.delay_ms = if self.rng.u8(..) < 32 {
            self.rng.u64(0..50)
        } else {
            0
        };
        submission.hold = self.rng.u8(..) < 24;
        submission
    }

    fn cancel(&mut self) {
        // What runs is one of many.
        let held = self.workers.iter().flat_map(|worker| &worker.holds);
        let held: Vec<_> = held.map(|hold| hold.one.task).collect();
        let held = held
            .get(self.rng.usize(..held.len().max(1)))
            .copied()
            .filter(|id| self.model.tasks.contains_key(id) && self.rng.bool());
        let Some(id) = held.or_else(|| self.model.random(&mut self.rng)) else {
            return;
        };
        let answer = self
            .base
            .engine
            .cancel(self.base.now, id)
            .map(|answer| answer.phase);
        let may_have_ended = self.model.may_have_ended(id) || self.is_in_hands(id);
        let task = self.model.tasks.get_mut(&id).expect("it was found there");
        match (task.end, answer) {
            (None, Err(refused)) if may_have_ended => {
                let is_gone = refused.reason != RejectReason::WrongState;
                assert!(task.discard_result || !is_gone, "{id}: {refused}");
            }
            (None, Ok(phase)) => {
                assert!(
                    matches!(phase, Phase::Cancelled | Phase::Assigned | Phase::Running),
                    "{id} is {phase}"
                );
                task.is_cancel_asked = true;
            }
            (Some((Phase::Cancelled, _)), Ok(phase)) => assert_eq!(phase, Phase::Cancelled),
            (Some(_), Err(refused)) => assert_eq!(refused.reason, RejectReason::WrongState),
            (end, answer) => panic!("{id}: {end:?} {answer:?}"),
        }
    }

    /// Somebody holds a task. What a worker has or what has ended is refused, whatever this client knows of it.
    fn hold(&mut self) {
        let Some(id) = self.model.random(&mut self.rng) else {
            return;
        };
        let before = self.base.engine.check(id);
        match self.base.engine.hold(self.base.now, id) {
            Ok(answer) => {
                assert_eq!(answer.phase, Phase::Held, "{id}");
                let task = self.model.tasks.get_mut(&id).expect("it was found there");
                assert_eq!(task.end, None, "{id} had ended, and is held");
                task.is_held = true;
            }
            Err(_) => assert!(
                before.is_ok_and(|state| !HOLDABLE.contains(&state.phase()))
                    || self.is_in_hands(id)
                    || self.model.may_have_ended(id)
                    || self.model.tasks[&id].is_cancel_asked,
                "{id} waits, and cannot be held: {before:?}"
            ),
        }
    }

    /// Somebody releases a task that is held, or one that is not.
    fn release(&mut self) {
        let held = self.model.held();
        let any = held.get(self.rng.usize(..held.len().max(1))).copied();
        let Some(id) = any.or_else(|| self.model.random(&mut self.rng)) else {
            return;
        };
        if self.model.tasks[&id].is_held {
            self.let_go(id);
        } else if let Ok(answer) = self.base.engine.release(self.base.now, id) {
            assert_ne!(answer.phase, Phase::Held, "{id} was held by nobody");
        }
    }

    /// Releases a task that is held.
    pub(crate) fn let_go(&mut self, id: TaskId) {
        let task = self.model.tasks.get_mut(&id).expect("it was found there");
        // From here on, whatever the answer says.
        task.is_held = false;
        let is_over = task.end.is_some() || task.is_damaged;
        let answer = self
            .base
            .engine
            .release(self.base.now, id)
            .map(|answer| answer.phase);
        assert!(
            is_over || matches!(answer, Ok(Phase::Ready | Phase::Delayed)),
            "{id} was held: {answer:?}"
        );
    }

    fn reprioritise(&mut self) {
        if let Some(id) = self.model.random(&mut self.rng) {
            let priority = self.rng.u32(0..256);
            if self
                .base
                .engine
                .update_priority(self.base.now, id, priority)
                .is_ok()
            {
                assert!(self.model.tasks[&id].end.is_none());
            }
        }
    }

    fn forget(&mut self) {
        let Some(id) = self.model.random(&mut self.rng) else {
            return;
        };
        let answer = self.base.engine.forget(self.base.now, id);
        let has_ended = self.model.tasks[&id].end.is_some();
        assert_eq!(answer.is_ok(), has_ended, "{id}: {answer:?}");
        if has_ended {
            self.model.freed(id);
        }
    }
}
