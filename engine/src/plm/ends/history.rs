//! Which ends of attempts are kept (`qtf_shm::AttemptNote`): those that failed or were put off, whatever follows, and those
//! that were lost.
//!
//! An end that a worker reported is kept before the state word says that the attempt has ended, since only the report has what the
//! worker said: a daemon that is killed in between hears it again, and the same attempt is kept once. All others are kept after the
//! change, without a text. Nothing of it is in the journal: a cold start knows how many attempts there were, not how they ended.
//!
//! Tested in `engine/tests/rules/history.rs`.

use qtf_shm::{AttemptNote, Outcome, OutcomeKind, Owner, SlotIndex, StateWord};

use super::endings::outcome;
use crate::plm::outcome::{Judgement, Tries, judge};
use crate::turn::Turn;

/// What a worker has to say about the end of an attempt, for people.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Said<'a> {
    /// In words.
    pub message: &'a str,
    /// Standard error, or its end.
    pub stderr: &'a [u8],
}

/// A worker has reported how the attempt that it holds has ended.
pub(in crate::plm) fn keep_reported(
    turn: &Turn<'_>,
    slot: SlotIndex,
    running: StateWord,
    reported: Outcome,
    said: Said<'_>,
) {
    if is_failure(turn, slot, running, reported) {
        keep(turn, slot, running, reported, said);
    }
}

/// An attempt has ended; perhaps its end was kept when it was reported.
pub(in crate::plm) fn keep_unsaid(turn: &Turn<'_>, slot: SlotIndex, ended: StateWord) {
    let outcome = turn.segment.task(slot).outcome();
    let is_kept = |turn: &Turn<'_>| {
        let id = ended.id(slot);
        id.is_some_and(|id| turn.segment.has_attempt(id, ended.fence()))
    };
    if is_failure(turn, slot, ended, outcome) && !is_kept(turn) {
        keep(turn, slot, ended, outcome, Said::default());
    }
}

/// An attempt was lost with its worker, or was given back half done.
pub(in crate::plm) fn keep_lost(turn: &Turn<'_>, slot: SlotIndex, held: StateWord) {
    let lost = outcome(OutcomeKind::WorkerLost);
    keep(turn, slot, held, lost, Said::default());
}

fn is_failure(turn: &Turn<'_>, slot: SlotIndex, state: StateWord, outcome: Outcome) -> bool {
    match judge(Tries::of(turn.segment.task(slot), state), outcome) {
        Judgement::Later | Judgement::Again { .. } | Judgement::Failed { .. } => true,
        Judgement::Done | Judgement::Cancelled => false,
    }
}

fn keep(turn: &Turn<'_>, slot: SlotIndex, held: StateWord, outcome: Outcome, said: Said<'_>) {
    let Some(task) = held.id(slot) else {
        return;
    };
    let worker = match held.owner() {
        Owner::Worker(worker) => Some(turn.worker_id(worker)),
        Owner::None | Owner::Attach(_) => None,
    };
    let note = AttemptNote {
        task,
        attempt: held.fence(),
        worker,
        ended: turn.now.stamp(),
        outcome,
        message: said.message,
        stderr: said.stderr,
    };
    // Whoever asks is told how many are not kept.
    let _is_kept = turn.segment.keep_attempt(turn.right, &note);
}
