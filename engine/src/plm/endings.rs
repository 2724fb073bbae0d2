//! Where a task goes when an attempt is over: to a final state, back to the queue, or to a pause.
//!
//! Every way to a final state passes [`Plm::finish`], so that outcome, leaf, time to live, the
//! client's counts, counters and the notice to waiting clients are the same for all of them.
//! Tested in `engine/tests/rules/results.rs`, `losses.rs`, `cancellation.rs`.

use qtf_shm::{
    Event, FLAG_CANCEL, Outcome, OutcomeKind, Owner, Phase, SlotIndex, StateWord, TaskOptions,
};

use super::outcome::{ATTEMPT_MAX, Judgement, Record, judge, retry_pause_ns};
use super::{APPLY_TRIES_MAX, Plm};

use crate::effects::Effect;
use crate::register::{Ending, Workers};
use crate::turn::Turn;

/// Why a worker no longer holds a task that it did not end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HandBack {
    /// The worker was lost: counts against the task.
    WorkerLost,
    /// The worker gave it back, or never got it: counts against nobody.
    Returned,
}

impl Plm {
    /// Judges a task that is ENDED, with the outcome that lies in its slot. Returns whether it
    /// changed.
    pub(crate) fn conclude(
        &mut self,
        turn: &mut Turn<'_>,
        workers: &mut Workers,
        slot: SlotIndex,
        ended: StateWord,
    ) -> bool {
        let task = turn.segment.task(slot);
        let outcome = task.outcome();
        let record = Record {
            cancel_requested: ended.has_flag(FLAG_CANCEL),
            attempt: ended.attempt(),
            failures: task.failures(),
            max_attempts: task.max_attempts(),
        };
        let judgement = judge(record, outcome);
        if let Owner::Worker(worker) = ended.owner() {
            let ending = match judgement {
                Judgement::Done => Ending::Done,
                Judgement::Cancelled => Ending::Neither,
                Judgement::Again { .. } | Judgement::Failed { .. } => Ending::Failed,
            };
            workers.let_go(turn, worker, ending);
        }
        match judgement {
            Judgement::Done => self.finish(turn, slot, ended, Event::Complete),
            Judgement::Cancelled => self.finish(turn, slot, ended, Event::Cancel),
            Judgement::Failed { failures } => {
                task.set_failures(failures);
                self.finish(turn, slot, ended, Event::Fail)
            }
            Judgement::Again { failures } => {
                task.set_failures(failures);
                self.pause(turn, slot, ended, failures)
            }
        }
    }

    /// ENDED -> DELAYED, until the pause before the next attempt is over.
    fn pause(
        &mut self,
        turn: &mut Turn<'_>,
        slot: SlotIndex,
        ended: StateWord,
        failures: u8,
    ) -> bool {
        let task = turn.segment.task(slot);
        turn.drop_result(slot, ended);
        let due = turn
            .now
            .plus_ns(retry_pause_ns(turn.config, failures, &mut self.rng));
        task.set_phase_time(due.stamp());
        let Ok(delayed) = turn.segment.apply(slot, ended, Event::RetryLater) else {
            return false;
        };
        turn.set_timer(slot, delayed, due);
        true
    }

    /// Brings a task to a final state. The outcome lies in the slot already. Returns whether it
    /// did; if not, another process was quicker and the sweep looks at the slot again.
    pub(crate) fn finish(
        &mut self,
        turn: &mut Turn<'_>,
        slot: SlotIndex,
        from: StateWord,
        event: Event,
    ) -> bool {
        let task = turn.segment.task(slot);
        let Some(ended) = turn.advance(slot, from, event) else {
            return false;
        };
        if from.phase() == Phase::Ready {
            turn.segment.ready().remove(slot.get(), task.key());
        }
        if from.phase() == Phase::Blocked
            && let Some(kind) = task.kind()
        {
            self.count_unparked(kind);
        }
        let client = task.client();
        turn.clients.task_ended(turn.segment, client);
        if let Some(task) = ended.id(slot) {
            turn.effects.push(Effect::Finished {
                task,
                phase: ended.phase(),
            });
        }
        let succeeded_unwanted =
            ended.phase() == Phase::Done && task.options().has(TaskOptions::DISCARD_RESULT);
        if succeeded_unwanted {
            turn.free(slot, ended);
        } else if ended.phase() == Phase::DeadLetter {
            turn.clear_timer(slot);
        } else {
            let over = turn.now.plus_ns(turn.config.result_ttl_ns);
            turn.set_timer(slot, ended, over);
        }
        true
    }

    /// Takes a task from the worker that holds it without a result. Returns whether it changed.
    pub(crate) fn hand_back(
        &mut self,
        turn: &mut Turn<'_>,
        workers: &mut Workers,
        slot: SlotIndex,
        why: HandBack,
    ) -> bool {
        let task = turn.segment.task(slot);
        let losses = match why {
            HandBack::WorkerLost => task.losses().saturating_add(1),
            HandBack::Returned => task.losses(),
        };
        let may_be_buried = !task.options().has(TaskOptions::KEEP_TRYING);
        for _ in 0..APPLY_TRIES_MAX {
            let held = task.state();
            let Owner::Worker(worker) = held.owner() else {
                return false;
            };
            if held.phase() == Phase::Ended {
                return false;
            }
            task.set_losses(losses);
            let is_spent =
                losses > turn.config.losses_max && may_be_buried || held.attempt() >= ATTEMPT_MAX;
            let changed = if held.has_flag(FLAG_CANCEL) {
                task.set_outcome(outcome(OutcomeKind::Cancelled));
                self.finish(turn, slot, held, Event::Cancel)
            } else if is_spent {
                task.set_outcome(outcome(OutcomeKind::WorkerLost));
                self.finish(turn, slot, held, Event::Bury)
            } else {
                requeue(turn, slot, held)
            };
            if changed {
                let ending = match why {
                    HandBack::WorkerLost => Ending::Lost,
                    HandBack::Returned => Ending::Neither,
                };
                workers.let_go(turn, worker, ending);
                return true;
            }
        }
        false
    }
}

/// An outcome without a code.
pub(crate) fn outcome(kind: OutcomeKind) -> Outcome {
    Outcome {
        kind,
        ..Outcome::default()
    }
}

/// ASSIGNED or RUNNING -> READY, at its old place in the order.
fn requeue(turn: &Turn<'_>, slot: SlotIndex, held: StateWord) -> bool {
    turn.segment.task(slot).set_outcome(Outcome::default());
    let Some(ready) = turn.advance(slot, held, Event::Requeue) else {
        return false;
    };
    turn.clear_timer(slot);
    turn.index_ready(slot, ready);
    true
}
