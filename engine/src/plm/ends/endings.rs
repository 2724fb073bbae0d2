//! Where a task goes when an attempt is over: to a final state, back to the queue, or to a pause.
//!
//! Every way to a final state passes [`Plm::finish`], so that outcome, leaf, time to live, the
//! client's counts, counters and the notice to waiting clients are the same for all of them.
//! Tested in `engine/tests/rules/results.rs`, `losses.rs`, `cancellation.rs`.

use qtf_journal::{Lsn, Record};
use qtf_shm::{
    Counter, Event, FLAG_CANCEL, Outcome, OutcomeKind, Owner, Phase, SlotIndex, StateWord,
    TaskOptions,
};

use super::burials::{buried, is_half_done};
use super::fresh_ends::LET_BE_IF_KEPT_NS;
use super::history::{keep_lost, keep_unsaid};
use super::retention::kept_for_ns;
use crate::lookup::stop_reason;
use crate::plm::outcome::{ATTEMPT_MAX, Judgement, Tries, judge, retry_pause_ns};
use crate::plm::records::pending::Then;
use crate::plm::records::recorder::{End, Mark};
use crate::plm::{APPLY_TRIES_MAX, Plm};

use crate::lanes::client_to_tell;
use crate::register::{AttemptOver, Ending, Workers};
use crate::turn::Turn;

/// Why a worker no longer holds a task that it did not end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HandBack {
    /// The worker was lost: counts against the task.
    WorkerLost,
    /// The worker gave it back, or never got it: counts against nobody.
    Returned,
}

impl HandBack {
    /// The worker may have begun the attempt. Whoever gives a task back says before what it has begun.
    fn may_have_begun(self, held: StateWord) -> bool {
        match self {
            Self::WorkerLost => true,
            Self::Returned => held.phase() == Phase::Running,
        }
    }
}

/// An attempt that has ended, to be judged with the outcome that lies in its slot.
#[derive(Debug, Clone, Copy)]
pub(crate) struct EndedAttempt {
    pub(crate) slot: SlotIndex,
    pub(crate) state: StateWord,
    /// How long its worker would like the next one to wait.
    pub(crate) asked_pause_ns: Option<u64>,
}

/// The next attempt.
#[derive(Debug, Clone, Copy)]
struct Retry {
    /// How many have failed before it.
    failures: u8,
    pause_ns: u64,
}

/// The step to a final state.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LastStep {
    pub(crate) event: Event,
    /// `None` if it lies in the slot already.
    pub(crate) outcome: Option<Outcome>,
}

impl LastStep {
    pub(crate) fn cancel() -> Self {
        Self {
            event: Event::Cancel,
            outcome: Some(outcome(OutcomeKind::Cancelled)),
        }
    }

    /// To the dead letters; `before` is the state that the task leaves.
    pub(crate) fn bury(before: StateWord) -> Self {
        Self {
            event: Event::Bury,
            outcome: Some(buried(before)),
        }
    }
}

impl Plm {
    /// Judges a task that is ENDED, with the outcome that lies in its slot. Returns whether it
    /// changed.
    pub(in crate::plm) fn conclude(
        &mut self,
        turn: &mut Turn<'_>,
        workers: &mut Workers,
        slot: SlotIndex,
        ended: StateWord,
    ) -> bool {
        let ended = EndedAttempt {
            slot,
            state: ended,
            asked_pause_ns: None,
        };
        self.conclude_after(turn, workers, ended)
    }

    /// The same; where the task is handed out again, after the pause that the worker asked for, if it did.
    pub(in crate::plm) fn conclude_after(
        &mut self,
        turn: &mut Turn<'_>,
        workers: &mut Workers,
        attempt: EndedAttempt,
    ) -> bool {
        let (slot, ended) = (attempt.slot, attempt.state);
        let said_pause_ns = turn.accept_end(slot, ended);
        let task = turn.segment.task(slot);
        if is_half_done(task) {
            return self.bury_half_done(turn, workers, slot, ended);
        }
        keep_unsaid(turn, slot, ended);
        let judgement = judge(Tries::of(task, ended), task.outcome());
        let is_journalled = self.is_journalled(task);
        self.ends.graces.forget(slot, ended);
        if let Owner::Worker(worker) = ended.owner() {
            let ending = match judgement {
                Judgement::Done => Ending::Done,
                Judgement::Cancelled | Judgement::Later => Ending::Neither,
                Judgement::Again { .. } | Judgement::Failed { .. } => Ending::Failed,
            };
            let phase = Phase::Ended;
            workers.let_go(
                turn,
                worker,
                AttemptOver {
                    slot,
                    phase,
                    ending,
                },
            );
            self.count_handed_back(task);
        }
        match judgement {
            Judgement::Again { failures } => {
                turn.drop_result(slot, ended);
                let pause_ns = retry_pause_ns(turn.config, failures, &mut self.ends.rng);
                self.pause(turn, slot, ended, Retry { failures, pause_ns })
            }
            Judgement::Later => {
                let failures = task.failures();
                let pause_ns = attempt
                    .asked_pause_ns
                    .or(said_pause_ns)
                    .unwrap_or_else(|| retry_pause_ns(turn.config, 1, &mut self.ends.rng));
                self.pause(turn, slot, ended, Retry { failures, pause_ns })
            }
            Judgement::Done | Judgement::Cancelled | Judgement::Failed { .. } if is_journalled => {
                self.await_outcome(turn, slot, ended, judgement)
            }
            Judgement::Done | Judgement::Cancelled | Judgement::Failed { .. } => {
                self.finish_judged(turn, slot, ended, judgement)
            }
        }
    }

    /// Brings a judged task to the phase that was decided: its outcome is durable now.
    pub(in crate::plm) fn settle(
        &mut self,
        turn: &mut Turn<'_>,
        slot: SlotIndex,
        judged: StateWord,
    ) -> bool {
        let task = turn.segment.task(slot);
        let judgement = judge(Tries::of(task, judged), task.outcome());
        self.finish_judged(turn, slot, judged, judgement)
    }

    #[inline]
    fn finish_judged(
        &mut self,
        turn: &mut Turn<'_>,
        slot: SlotIndex,
        ended: StateWord,
        judgement: Judgement,
    ) -> bool {
        let event = match judgement {
            Judgement::Done => Event::Complete,
            Judgement::Cancelled => Event::Cancel,
            Judgement::Later | Judgement::Again { .. } | Judgement::Failed { .. } => Event::Fail,
        };
        self.finish(
            turn,
            slot,
            ended,
            LastStep {
                event,
                outcome: None,
            },
        )
    }

    /// ENDED -> ENDED, judged: the outcome is recorded, the rest waits until that is durable.
    fn await_outcome(
        &mut self,
        turn: &Turn<'_>,
        slot: SlotIndex,
        ended: StateWord,
        judgement: Judgement,
    ) -> bool {
        let task = turn.write(slot);
        let Some(mark) = self.mark(task, ended) else {
            return false;
        };
        let Ok(judged) = turn.segment.apply(slot, ended, Event::Judge) else {
            self.unmark(task, Some(mark));
            return false;
        };
        if task.timeout_ms() > 0 || stop_reason(ended).is_some() {
            turn.clear_timer(slot);
        }
        let (phase, failures) = judgement.end(task.failures());
        if let (Some(id), Some(recorder)) = (judged.id(slot), &mut self.recorder) {
            let end = End {
                task: id,
                phase,
                failures,
            };
            if let Some(lsn) = recorder.note_outcome(turn, slot, mark, end) {
                recorder.wait(lsn, id, Then::Settle);
            }
        }
        true
    }

    /// ENDED -> DELAYED, until the pause before the next attempt is over.
    fn pause(&mut self, turn: &Turn<'_>, slot: SlotIndex, ended: StateWord, retry: Retry) -> bool {
        let task = turn.write(slot);
        let due = turn.now.plus_ns(retry.pause_ns);
        let mark = self.mark(task, ended);
        if cfg!(qtf_mutant = "sim_failure_is_counted_too_early") {
            task.set_failures(retry.failures);
        }
        task.set_phase_time(due.stamp());
        let Ok(delayed) = turn.segment.apply(slot, ended, Event::RetryLater) else {
            self.unmark(task, mark);
            return false;
        };
        // Not before: after a kill in between the next daemon judges the same attempt, and would count it twice.
        task.set_failures(retry.failures);
        turn.set_timer(slot, delayed, due);
        self.note_requeue(turn, slot, mark, delayed);
        true
    }

    /// Brings a task to a final state. The outcome is given, or lies in the slot already. Returns whether it
    /// did; if not, another process was quicker, nothing of the slot was written, and the sweep looks at it again.
    pub(in crate::plm) fn finish(
        &mut self,
        turn: &mut Turn<'_>,
        slot: SlotIndex,
        from: StateWord,
        last: LastStep,
    ) -> bool {
        let task = turn.write(slot);
        let mark = self.mark(task, from);
        let (before, after) = if turn.is_contested(from) {
            (None, last.outcome)
        } else {
            (last.outcome, None)
        };
        if let Some(outcome) = before {
            task.set_outcome(outcome);
        }
        let Some(ended) = turn.advance(slot, from, last.event) else {
            self.unmark(task, mark);
            return false;
        };
        if let Some(outcome) = after {
            task.set_outcome(outcome);
        }
        if ended.phase() == Phase::Failed {
            // Not before, see `pause`.
            task.set_failures(task.failures().saturating_add(1));
        }
        if from.phase() == Phase::Ready {
            turn.segment.unindex_ready_key(slot, task.key());
        }
        if from.phase() == Phase::Blocked
            && let Some(kind) = task.kind()
        {
            self.count_unparked(kind);
        }
        turn.clients.task_ended(turn.segment, &task);
        self.tell(turn, slot, mark, ended);
        let succeeded_unwanted =
            ended.phase() == Phase::Done && task.options().has(TaskOptions::DISCARD_RESULT);
        if succeeded_unwanted {
            let id = ended.id(slot);
            if turn.free(slot, ended)
                && mark.is_none()
                && let Some(id) = id
            {
                self.ends.unkept.note(id);
            }
        } else if ended.phase() == Phase::DeadLetter {
            turn.clear_timer(slot);
        } else {
            self.let_live(turn, slot, from, ended);
        }
        true
    }

    /// The time to live of an ended task begins. One that may have a leaf gets its new one at once.
    #[inline]
    fn let_live(&mut self, turn: &Turn<'_>, slot: SlotIndex, from: StateWord, ended: StateWord) {
        let kept_ns = kept_for_ns(turn, slot, ended);
        let may_have_leaf = from.phase() == Phase::Delayed
            || stop_reason(from).is_some()
            || turn.segment.task(slot).timeout_ms() > 0;
        if may_have_leaf || kept_ns < LET_BE_IF_KEPT_NS {
            turn.set_timer(slot, ended, turn.now.plus_ns(kept_ns));
        } else {
            self.note_fresh_end(turn, slot, ended);
        }
    }

    /// Gives notice of a task's end: at once, or when the record of it is durable.
    #[inline]
    fn tell(&mut self, turn: &mut Turn<'_>, slot: SlotIndex, mark: Option<Mark>, ended: StateWord) {
        let Some(task) = ended.id(slot) else {
            return;
        };
        let phase = ended.phase();
        let (Some(mark), Some(recorder)) = (mark, &mut self.recorder) else {
            turn.finished(task, phase, client_to_tell(turn.segment.task(slot)));
            return;
        };
        let failures = turn.segment.task(slot).failures();
        let end = End {
            task,
            phase,
            failures,
        };
        if let Some(lsn) = recorder.note_outcome(turn, slot, mark, end) {
            let client = client_to_tell(turn.segment.task(slot));
            recorder.wait(lsn, task, Then::Tell(phase, client));
        }
    }

    /// Takes a task from the worker that holds it without a result. Returns whether it changed.
    pub(in crate::plm) fn hand_back(
        &mut self,
        turn: &mut Turn<'_>,
        workers: &mut Workers,
        slot: SlotIndex,
        why: HandBack,
    ) -> bool {
        let task = turn.write(slot);
        // More than there may be: a daemon was killed while it buried the task, and has counted this one.
        let is_counted = task.losses() > turn.config.losses_max;
        let losses = match why {
            HandBack::WorkerLost if !is_counted => task.losses().saturating_add(1),
            HandBack::WorkerLost | HandBack::Returned => task.losses(),
        };
        let is_once = task.options().has(TaskOptions::AT_MOST_ONCE);
        for _ in 0..APPLY_TRIES_MAX {
            let held = task.state();
            let Owner::Worker(worker) = held.owner() else {
                return false;
            };
            // Nobody takes an attempt away from a living local process.
            if held.phase() == Phase::Ended || turn.is_local(worker) {
                return false;
            }
            if cfg!(qtf_mutant = "sim_loss_is_counted_too_early") {
                task.set_losses(losses);
            }
            // A result that was cut off before its end: no record knows of it.
            turn.drop_result(slot, held);
            let is_spent = losses > turn.config.losses_max
                || is_once && why.may_have_begun(held)
                || held.fence() >= ATTEMPT_MAX;
            let changed = if held.has_flag(FLAG_CANCEL) {
                self.finish(turn, slot, held, LastStep::cancel())
            } else if is_spent {
                task.set_losses(losses);
                self.finish(turn, slot, held, LastStep::bury(held))
            } else {
                self.requeue(turn, slot, held, losses)
            };
            if changed {
                if why == HandBack::WorkerLost || is_spent {
                    keep_lost(turn, slot, held);
                }
                self.ends.graces.forget(slot, held);
                self.count_handed_back(&task);
                let ending = match why {
                    HandBack::WorkerLost => Ending::Lost,
                    HandBack::Returned => Ending::Neither,
                };
                let phase = held.phase();
                workers.let_go(
                    turn,
                    worker,
                    AttemptOver {
                        slot,
                        phase,
                        ending,
                    },
                );
                return true;
            }
        }
        false
    }

    /// Any phase that cannot be -> QUARANTINE: the slot is kept as evidence, and whoever waits for the task is told. Returns
    /// whether it did.
    pub(in crate::plm) fn quarantine(
        &mut self,
        turn: &mut Turn<'_>,
        slot: SlotIndex,
        from: StateWord,
    ) -> bool {
        turn.segment.counters().add(Counter::WordImpossible, 1);
        let Ok(kept) = turn.segment.apply(slot, from, Event::Quarantine) else {
            return false;
        };
        let task = turn.segment.task(slot);
        turn.segment.unindex_ready_key(slot, task.key());
        turn.clear_timer(slot);
        let client = task.client();
        turn.clients.task_ended(turn.segment, task);
        turn.clients.task_freed(turn.segment, client);
        tell_quarantine(turn, slot, kept);
        true
    }

    /// ASSIGNED or RUNNING -> READY, at its old place in the order.
    fn requeue(&mut self, turn: &Turn<'_>, slot: SlotIndex, held: StateWord, losses: u8) -> bool {
        let task = turn.write(slot);
        let mark = self.mark(task, held);
        task.set_outcome(Outcome::default());
        let Some(ready) = turn.advance(slot, held, Event::Requeue) else {
            self.unmark(task, mark);
            return false;
        };
        // Not before: after a kill in between the next daemon takes the same attempt back, and would count it twice.
        task.set_losses(losses);
        turn.clear_timer(slot);
        turn.index_ready(slot, ready);
        self.note_requeue(turn, slot, mark, ready);
        true
    }

    /// Records that a journal task waits again, for a worker, its time or its release.
    pub(in crate::plm) fn note_requeue(
        &mut self,
        turn: &Turn<'_>,
        slot: SlotIndex,
        mark: Option<Mark>,
        waiting: StateWord,
    ) -> Option<Lsn> {
        let (Some(mark), Some(recorder)) = (mark, &mut self.recorder) else {
            return None;
        };
        let task = turn.segment.task(slot);
        let is_due_later = waiting.phase() == Phase::Delayed || starts_later(turn, slot, waiting);
        let due_unix_ms = if is_due_later {
            recorder.wall.unix_ms_of(task.phase_time())
        } else {
            0
        };
        let record = Record::Requeue {
            task: waiting.id(slot)?,
            phase: waiting.phase(),
            attempt: waiting.fence(),
            failures: task.failures(),
            losses: task.losses(),
            due_unix_ms,
        };
        recorder.note(turn, slot, mark, &record)
    }
}

/// Whoever waits for a task that is kept in QUARANTINE learns that it will not end. No record of it is awaited: there is none.
pub(in crate::plm) fn tell_quarantine(turn: &mut Turn<'_>, slot: SlotIndex, kept: StateWord) {
    if let Some(task) = kept.id(slot)
        && !cfg!(qtf_mutant = "sim_quarantine_tells_nobody")
    {
        let phase = Phase::Quarantine;
        turn.finished(task, phase, client_to_tell(turn.segment.task(slot)));
    }
}

/// An outcome without a code.
pub(crate) fn outcome(kind: OutcomeKind) -> Outcome {
    Outcome {
        kind,
        ..Outcome::default()
    }
}

/// The time in the slot is that of a start which is still to come, and not the moment of the submission, whose stamp may be a little
/// ahead of the clock.
pub(in crate::plm) fn starts_later(turn: &Turn<'_>, slot: SlotIndex, waiting: StateWord) -> bool {
    let may_be_due = matches!(
        waiting.phase(),
        Phase::Submitted | Phase::Delayed | Phase::Held
    );
    let task = turn.segment.task(slot);
    let time = task.phase_time();
    may_be_due && time > task.key().ready_stamp() && !turn.now.has_reached(time)
}
