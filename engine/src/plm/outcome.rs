//! The judgement of an attempt that has ended: done, cancelled, once more, or failed.
//!
//! A pure function of what the worker reported and what the slot says, and the pause before a
//! retry. Rules, in this order:
//! 1. Exit code 0 is success, also when a cancellation was under way: the work is complete. (What has run beyond its limit and
//!    the grace has timed out, whatever its worker says: `attempts/results.rs`.)
//! 2. A task whose cancellation was asked for is cancelled.
//! 3. A worker that says "not now" has not failed: the task is handed out again after the pause that it asked for. What runs at
//!    most once has failed with it, as nobody may have it again.
//! 4. Anything else is a failure, a timeout too. `max_attempts` bounds the failures: the task fails
//!    for good with failure number `max_attempts` (retries + 1), and with one that the worker calls final. Lost workers are counted apart.
//! 5. No task gets more than [`ATTEMPT_MAX`] attempts of any sort.
//!
//! Tested at the end of this file.

use qtf_shm::{
    FENCE_MAX, FLAG_CANCEL, Outcome, OutcomeKind, Phase, StateWord, TaskOptions, TaskRecord,
    TaskSlot,
};

use crate::EngineConfig;

/// LIMIT: the fence of a hand-out has 12 bits in the state word, and does not wrap.
pub(crate) const ATTEMPT_MAX: u16 = FENCE_MAX;

/// What the slot says about the task when an attempt of it has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tries {
    /// Cancellation was asked for.
    pub(crate) cancel_requested: bool,
    /// Number of the attempt that has ended.
    pub(crate) attempt: u16,
    /// Failures before this one.
    pub(crate) failures: u8,
    /// Failures that end the task: retries + 1.
    pub(crate) max_attempts: u8,
    /// It runs at most once.
    pub(crate) is_once: bool,
}

impl Tries {
    /// What the slot says; `ended` is its state word.
    pub(crate) fn of(task: &TaskSlot, ended: StateWord) -> Self {
        Self {
            cancel_requested: ended.has_flag(FLAG_CANCEL),
            attempt: ended.fence(),
            failures: task.failures(),
            max_attempts: task.max_attempts(),
            is_once: task.options().has(TaskOptions::AT_MOST_ONCE),
        }
    }
}

/// The phase in which a judged task will end, and its failures then.
pub(crate) fn judged_end(task: &TaskRecord) -> (Phase, u8) {
    let tries = Tries {
        cancel_requested: task.state.has_flag(FLAG_CANCEL),
        attempt: task.state.fence(),
        failures: task.failures,
        max_attempts: task.max_attempts,
        is_once: task.options.has(TaskOptions::AT_MOST_ONCE),
    };
    judge(tries, task.outcome).end(task.failures)
}

impl Judgement {
    /// The final phase, and the failures then, of a task that has so many now.
    pub(crate) const fn end(self, failures: u8) -> (Phase, u8) {
        match self {
            Self::Done => (Phase::Done, failures),
            Self::Cancelled => (Phase::Cancelled, failures),
            // Where it waits for another attempt it has no end yet, and is not asked for one.
            Self::Later => (Phase::Failed, failures),
            Self::Again { failures } | Self::Failed { failures } => (Phase::Failed, failures),
        }
    }
}

/// What becomes of the task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Judgement {
    /// It is done.
    Done,
    /// It is cancelled.
    Cancelled,
    /// Its worker puts it off: it gets another attempt, and no failure is counted.
    Later,
    /// It gets another attempt; this many failures are counted now.
    Again { failures: u8 },
    /// It has failed for good; this many failures are counted now.
    Failed { failures: u8 },
}

/// Decides what becomes of a task whose attempt has ended.
pub(crate) fn judge(tries: Tries, outcome: Outcome) -> Judgement {
    if outcome.kind == OutcomeKind::Exited && outcome.code == 0 {
        return Judgement::Done;
    }
    if tries.cancel_requested {
        return Judgement::Cancelled;
    }
    let has_attempts = tries.attempt < ATTEMPT_MAX;
    if outcome.kind == OutcomeKind::Again && has_attempts && !tries.is_once {
        return Judgement::Later;
    }
    let failures = tries.failures.saturating_add(1);
    let is_final = matches!(
        outcome.kind,
        OutcomeKind::FailedForGood | OutcomeKind::Again
    );
    if failures < tries.max_attempts && has_attempts && !is_final {
        Judgement::Again { failures }
    } else {
        Judgement::Failed { failures }
    }
}

/// The pause before the next attempt: doubles with each failure, plus up to a quarter of jitter so
/// that tasks that failed together do not come back together; never above the maximum.
pub(crate) fn retry_pause_ns(config: &EngineConfig, failures: u8, rng: &mut fastrand::Rng) -> u64 {
    let doublings = u32::from(failures.saturating_sub(1)).min(63);
    let pause = config
        .retry_backoff_ns_min
        .saturating_mul(1 << doublings)
        .min(config.retry_backoff_ns_max);
    pause
        .saturating_add(rng.u64(0..=pause / 4))
        .min(config.retry_backoff_ns_max)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(kind: OutcomeKind, code: u8) -> Outcome {
        Outcome {
            kind,
            code,
            result_dropped: false,
            output_cut: false,
        }
    }

    fn tries(failures: u8, max_attempts: u8) -> Tries {
        Tries {
            cancel_requested: false,
            attempt: 1,
            failures,
            max_attempts,
            is_once: false,
        }
    }

    #[test]
    fn exit_code_zero_is_done_even_if_a_cancellation_was_under_way() {
        let flagged = Tries {
            cancel_requested: true,
            ..tries(0, 1)
        };
        let well = outcome(OutcomeKind::Exited, 0);
        assert_eq!(judge(tries(0, 1), well), Judgement::Done);
        assert_eq!(judge(flagged, well), Judgement::Done);
    }

    #[test]
    fn a_flagged_task_that_did_not_succeed_is_cancelled_whatever_retries_it_has() {
        let flagged = Tries {
            cancel_requested: true,
            ..tries(0, 9)
        };
        for kind in [
            OutcomeKind::Cancelled,
            OutcomeKind::Signalled,
            OutcomeKind::TimedOut,
        ] {
            assert_eq!(judge(flagged, outcome(kind, 15)), Judgement::Cancelled);
        }
    }

    #[test]
    fn only_the_budget_of_failures_decides_about_a_retry() {
        let bad = outcome(OutcomeKind::Exited, 3);
        assert_eq!(judge(tries(0, 3), bad), Judgement::Again { failures: 1 });
        assert_eq!(judge(tries(1, 3), bad), Judgement::Again { failures: 2 });
        assert_eq!(judge(tries(2, 3), bad), Judgement::Failed { failures: 3 });
        assert_eq!(judge(tries(0, 1), bad), Judgement::Failed { failures: 1 });
    }

    #[test]
    fn worker_that_puts_a_task_off_has_not_failed_whatever_retries_are_left() {
        let again = outcome(OutcomeKind::Again, 0);
        assert_eq!(judge(tries(0, 1), again), Judgement::Later);
        assert_eq!(judge(tries(2, 3), again), Judgement::Later);
        let flagged = Tries {
            cancel_requested: true,
            ..tries(0, 1)
        };
        assert_eq!(judge(flagged, again), Judgement::Cancelled);
        let last = Tries {
            attempt: ATTEMPT_MAX,
            ..tries(0, 200)
        };
        assert_eq!(judge(last, again), Judgement::Failed { failures: 1 });
        let once = Tries {
            is_once: true,
            ..tries(0, 1)
        };
        assert_eq!(judge(once, again), Judgement::Failed { failures: 1 });
    }

    #[test]
    fn failure_that_its_worker_calls_final_uses_no_retries() {
        let good = outcome(OutcomeKind::FailedForGood, 3);
        assert_eq!(judge(tries(0, 9), good), Judgement::Failed { failures: 1 });
    }

    #[test]
    fn a_timeout_counts_as_a_failure() {
        let late = outcome(OutcomeKind::TimedOut, 0);
        assert_eq!(judge(tries(0, 2), late), Judgement::Again { failures: 1 });
        assert_eq!(judge(tries(1, 2), late), Judgement::Failed { failures: 2 });
    }

    #[test]
    fn last_hand_out_is_the_last_one_whatever_budget_is_left() {
        let last = Tries {
            attempt: ATTEMPT_MAX,
            ..tries(0, 200)
        };
        let bad = outcome(OutcomeKind::HandlerFailed, 0);
        assert_eq!(judge(last, bad), Judgement::Failed { failures: 1 });
    }

    #[test]
    fn the_pause_doubles_from_the_minimum_and_stays_between_the_bounds() {
        let config = EngineConfig::default();
        let mut rng = fastrand::Rng::with_seed(7);
        for failures in 0..=255 {
            let pause = retry_pause_ns(&config, failures, &mut rng);
            assert!(pause >= config.retry_backoff_ns_min);
            assert!(pause <= config.retry_backoff_ns_max);
        }
        let second = retry_pause_ns(&config, 2, &mut rng);
        assert!((200_000_000..=250_000_000).contains(&second));
    }

    #[test]
    fn the_same_seed_gives_the_same_jitter() {
        let config = EngineConfig::default();
        let draw = || {
            let mut rng = fastrand::Rng::with_seed(42);
            (1..10)
                .map(|n| retry_pause_ns(&config, n, &mut rng))
                .collect::<Vec<_>>()
        };
        assert_eq!(draw(), draw());
    }
}
