//! What clients do: submit, repeat what was not answered, cancel, re-prioritise, forget, ask.

use qtf_engine::{Accepted, Durability, Payload, RejectReason, Rejection, Submission};
use qtf_shm::{KeyId, Phase, TaskId};
use qtf_world::Life;

use super::facts::{Known, Told};
use super::holds::Hold;
use super::world::{Kind, World};

const KINDS: [&str; 2] = ["exec", "render"];

/// One thing that a client asks for.
#[expect(
    clippy::struct_excessive_bools,
    reason = "what a client may ask for, each by itself"
)]
pub(crate) struct Wish {
    kind: &'static str,
    bytes: Vec<u8>,
    priority: u32,
    retries: u32,
    delay_ms: u64,
    discards: bool,
    holds: bool,
    pub(crate) durability: Durability,
    pub(crate) key: Option<KeyId>,
    is_automatic: bool,
    is_poison: bool,
}

impl Wish {
    fn random(rng: &mut fastrand::Rng) -> Self {
        let key = (rng.u8(..) < 200).then(|| KeyId::from_words([rng.u64(1..), rng.u64(..)]));
        let memory = rng.u8(..) < 40;
        let is_poison = rng.u8(..) < 16;
        Self {
            kind: KINDS[usize::from(rng.u8(..) < 60)],
            bytes: vec![
                1;
                if rng.u8(0..8) == 0 {
                    rng.usize(0..8000)
                } else {
                    rng.usize(0..400)
                }
            ],
            // What does harm does it soon.
            priority: if is_poison { 0 } else { rng.u32(0..4) * 64 },
            retries: rng.u32(0..3),
            delay_ms: if rng.u8(..) < 24 { rng.u64(1..40) } else { 0 },
            discards: rng.u8(..) < 40,
            holds: rng.u8(..) < 16,
            durability: if memory {
                Durability::Memory
            } else {
                Durability::Journal
            },
            key: key.flatten(),
            is_automatic: rng.bool(),
            is_poison,
        }
    }

    pub(crate) const fn nothing() -> Self {
        Self {
            kind: KINDS[0],
            bytes: Vec::new(),
            priority: 0,
            retries: 0,
            delay_ms: 0,
            discards: false,
            holds: false,
            durability: Durability::Journal,
            key: None,
            is_automatic: false,
            is_poison: false,
        }
    }

    pub(crate) fn submission(&self, client: qtf_shm::ClientIndex) -> Submission<'_> {
        let mut submission = Submission::new(client, self.kind, Payload::Bytes(&self.bytes));
        submission.priority = Some(self.priority);
        submission.retries = self.retries;
        submission.delay_ms = self.delay_ms;
        submission.discard_result = self.discards;
        submission.hold = self.holds;
        submission.durability = self.durability;
        submission.key = self.key;
        submission.key_is_automatic = self.is_automatic;
        submission
    }

    pub(crate) fn known(&self, stamp: u64) -> Known {
        Known {
            life: Life::default(),
            is_journalled: self.durability != Durability::Memory,
            discards: self.discards,
            max_attempts: self.retries + 1,
            is_accepted: false,
            found_final: None,
            expected: None,
            is_unsure: false,
            cancel_was_asked: false,
            stop_was_told: false,
            is_cancelled: false,
            forget_was_asked: false,
            hold: Hold::submitted(self.holds),
            is_freed: false,
            is_of_an_earlier_age: false,
            stamp,
            failures: 0,
            is_poison: self.is_poison,
            payload: Some(self.bytes.len()),
            output: None,
            revival: None,
            earlier_revival: None,
        }
    }
}

/// Refusals that a client must expect; it tries again.
pub(crate) fn is_for_now(refused: &Rejection) -> bool {
    matches!(
        refused.reason,
        RejectReason::TasksFull
            | RejectReason::ArenaFull
            | RejectReason::JournalFull
            | RejectReason::JournalFailed
            | RejectReason::KeysFull
            | RejectReason::IdsExhausted
    )
}

impl World {
    pub(crate) fn client_acts(&mut self) {
        if self.kind == Kind::Ages && self.rng.u8(0..10) == 0 {
            return self.gives_a_key_back();
        }
        match self.rng.u8(0..19) {
            0..8 => self.submit(None),
            8..10 => self.repeat(),
            10 => self.cancel(None),
            11 => self.reprioritise(),
            12 => self.asks(),
            16 => self.hold(None),
            17 | 18 => self.release(None),
            _ => self.forget(None),
        }
    }

    /// Submits something; dies after so many shared writes if it is told to.
    pub(crate) fn submit(&mut self, cut: Option<u32>) {
        let wish = Wish::random(&mut self.rng);
        self.submit_wish(&wish, cut);
    }

    fn submit_wish(&mut self, wish: &Wish, cut: Option<u32>) {
        let client = self.base.clients[self.rng.usize(..self.base.clients.len())];
        let now = self.base.now;
        let submission = wish.submission(client);
        if wish.is_automatic {
            self.facts.automatic.extend(wish.key);
        }
        self.may_have_orphan = cut.is_some();
        let answer = self.cut_off(cut, |engine| engine.submit(now, &submission));
        self.may_have_orphan = false;
        let Some(answer) = answer else {
            // Nobody knows whether there is such a task now; with a key one can ask.
            self.facts.unanswered.extend(wish.key);
            return;
        };
        match answer {
            Ok(accepted) => self.accepted(wish, accepted),
            Err(refused) => {
                assert!(
                    is_for_now(&refused) || self.has_no_time_for(wish.delay_ms),
                    "{refused}"
                );
                if refused.reason == RejectReason::JournalFull {
                    self.refusals += 1;
                }
                self.times_up += u64::from(refused.reason == RejectReason::IdsExhausted);
            }
        }
    }

    fn accepted(&mut self, wish: &Wish, accepted: Accepted) {
        let id = accepted.task;
        if accepted.is_repeat {
            self.repeated(wish, accepted);
            return;
        }
        let segment = self.base.engine.segment();
        let stamp = segment.journal_stamp(segment.task(id.slot()).key().ready_stamp());
        assert!(stamp > self.last_stamp, "{id} stands before an earlier one");
        self.last_stamp = stamp;
        self.facts.add(id, wish.known(stamp));
        if let Some(key) = wish.key
            && let Some(earlier) = self.facts.keys.insert(key, id)
        {
            self.assert_may_be_gone(earlier, key);
        }
        assert_eq!(
            accepted.durable.is_some(),
            wish.durability == Durability::Journal
        );
        self.note_recorded(accepted.durable);
        self.wait_for(accepted.durable, Told::Accepted(id));
    }

    /// The key was known.
    fn repeated(&mut self, wish: &Wish, accepted: Accepted) {
        let id = accepted.task;
        let key = wish.key.expect("only a key can be known");
        let known = self.facts.keys.get(&key).copied();
        if let Some(known) = known {
            assert_eq!(known, id, "a key stands for two tasks");
        } else {
            // Submitted by a call that was cut off.
            self.facts.keys.insert(key, id);
        }
        let is_over = self.facts.automatic.contains(&key) && self.facts.gone.contains_key(&id);
        assert!(
            !is_over,
            "the automatic key of {id} has outlived its acknowledgement"
        );
        let is_live = self.facts.tasks.get(&id).is_some_and(|task| !task.is_freed);
        assert_eq!(accepted.result_expired, !is_live, "{id}");
        let is_lost = self.facts.lost.contains(&id);
        assert!(!is_lost, "{id} was lost in a reboot, and counts as done");
        if is_live {
            self.wait_for(accepted.durable, Told::Accepted(id));
        }
    }

    /// A client that has no answer, or does not believe it, submits with the same key.
    fn repeat(&mut self) {
        let unanswered = self.facts.unanswered.len();
        let key = if unanswered > 0 {
            Some(
                self.facts
                    .unanswered
                    .swap_remove(self.rng.usize(..unanswered)),
            )
        } else {
            let count = self.facts.keys.len();
            (count > 0)
                .then(|| self.rng.usize(..count))
                .and_then(|place| self.facts.keys.keys().nth(place).copied())
        };
        let Some(key) = key else {
            return;
        };
        let before = self.facts.keys.get(&key).copied();
        let wish = Wish {
            key: Some(key),
            is_automatic: self.facts.automatic.contains(&key),
            durability: Durability::Journal,
            ..Wish::random(&mut self.rng)
        };
        self.submit_wish(&wish, None);
        let after = self.facts.keys.get(&key).copied();
        if let Some(before) = before
            && after != Some(before)
        {
            // A new task: then the first one's acceptance was never told.
            self.assert_may_be_gone(before, key);
        }
    }

    /// A second task under the same key, or none at all, is right only if the first one was never promised to last, or if it was
    /// acknowledged and the key automatic, or its place needed.
    fn assert_may_be_gone(&mut self, id: TaskId, key: KeyId) {
        let may_go = self.facts.automatic.contains(&key) || self.has_few_key_places();
        if may_go && self.facts.acknowledged.contains(&id) {
            self.keys_gone += 1;
            return;
        }
        assert_ne!(
            self.facts.gone.get(&id),
            Some(&true),
            "the key of {id} was forgotten with it"
        );
        if let Some(task) = self.facts.tasks.get(&id) {
            let was_promised = task.is_accepted && task.is_journalled;
            assert!(
                !was_promised,
                "the key of {id} stands for another task: {task:?}"
            );
            let there = self.base.engine.check(id);
            assert!(
                there.is_err(),
                "{id} is there ({there:?}), and its key stands for another task: {task:?}"
            );
        }
    }

    pub(crate) fn cancel(&mut self, cut: Option<u32>) {
        let Some(id) = self.facts.random(&mut self.rng) else {
            return;
        };
        let now = self.base.now;
        self.unsure = Some(id);
        let Some(answer) = self.cut_off(cut, |engine| engine.cancel(now, id)) else {
            return;
        };
        self.unsure = None;
        match answer {
            Ok(answer) => {
                let task = self.facts.get(id);
                task.cancel_was_asked = true;
                let told = if answer.phase == Phase::Cancelled {
                    Told::Cancelled(id)
                } else {
                    Told::StopAsked(id)
                };
                self.wait_for(answer.durable, told);
            }
            Err(refused) => assert!(
                is_for_now(&refused) || refused.reason == RejectReason::WrongState,
                "{refused}"
            ),
        }
    }

    fn reprioritise(&mut self) {
        if let Some(id) = self.facts.random(&mut self.rng) {
            let priority = self.rng.u32(0..256);
            let _ = self
                .base
                .engine
                .update_priority(self.base.now, id, priority);
        }
    }

    /// A client that missed the notice asks how its task stands.
    fn asks(&mut self) {
        if let Some(id) = self.facts.random(&mut self.rng) {
            let settled = self.base.engine.settled_end(id).expect("it is there");
            if let Some(phase) = settled {
                self.facts.ended(id, phase, self.base.now);
            }
        }
    }

    /// Forgets a task that has ended, or purges a dead letter; perhaps one that is being forgotten already.
    pub(crate) fn forget(&mut self, cut: Option<u32>) {
        let ended: Vec<TaskId> = self
            .facts
            .tasks
            .iter()
            .filter(|(_, task)| task.end.is_some() && !task.is_freed)
            .map(|(&id, _)| id)
            .collect();
        if ended.is_empty() {
            return;
        }
        let id = ended[self.rng.usize(..ended.len())];
        let now = self.base.now;
        // A client learns the id by the answer: while it repeats the submission it acknowledges nothing.
        let is_repeated = |key| self.facts.keys.get(key) == Some(&id);
        if self.facts.unanswered.iter().any(is_repeated) {
            return;
        }
        self.facts.acknowledged.insert(id);
        let task = self.facts.get(id);
        let was_asked = core::mem::replace(&mut task.forget_was_asked, true);
        let Some(answer) = self.cut_off(cut, |engine| engine.forget(now, id)) else {
            return;
        };
        match answer {
            Ok(answer) => self.wait_for(answer.durable, Told::Forgotten(id)),
            Err(refused) => {
                assert!(is_for_now(&refused), "{id}: {refused}");
                self.facts.get(id).forget_was_asked = was_asked;
            }
        }
    }
}
