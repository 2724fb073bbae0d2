//! Attempts that are to stop: cancelled by their client, or overdue.
//!
//! The flag in the state word is the order, and the order holds until the attempt has ended: nothing that is sent counts as
//! heard. So every flagged attempt of a connected worker has a timer leaf. When it is served the worker is told again, a
//! heartbeat later once more, and at once when the worker comes back with the attempt. What does not end within the grace
//! is ended here: cancelled, or failed for its timeout; from then on the attempt is stale, whatever the worker says of it.
//!
//! How long the grace lasts is remembered beside the segment. After a restart it starts over, as the worker needs time to
//! come back. A local worker reads the flag itself, and its attempt is its own (`docs/adr/0011`): it has no leaf for this.
//! Tested in `engine/tests/rules/stops.rs`.

use std::collections::BTreeMap;

use qtf_shm::{Event, Owner, Segment, SlotIndex, StateWord};
use qtf_shm::{FLAG_CANCEL, FLAG_TIMED_OUT, Now, Outcome, OutcomeKind};

use super::Plm;
use super::endings::HandBack;
use super::results::TIMED_OUT_UNANSWERED;
use crate::effects::{Effect, StopReason};
use crate::register::Workers;
use crate::turn::Turn;

/// Until when flagged attempts may take to end; at most one for each task slot.
#[derive(Debug, Default)]
pub(crate) struct Stops {
    until: BTreeMap<SlotIndex, (Attempt, Now)>,
}

/// Generation of the slot and number of the attempt.
type Attempt = (u64, u16);

fn attempt_of(state: StateWord) -> Attempt {
    (state.generation(), state.fence())
}

impl Stops {
    /// When the attempt is ended without its worker; `grace_end` if it was not flagged before.
    fn until(&mut self, slot: SlotIndex, state: StateWord, grace_end: Now) -> Now {
        let attempt = attempt_of(state);
        let known = self.until.entry(slot).or_insert((attempt, grace_end));
        if known.0 != attempt {
            *known = (attempt, grace_end);
        }
        known.1
    }

    /// The attempt is over.
    pub(super) fn forget(&mut self, slot: SlotIndex, ended: StateWord) {
        if stop_reason(ended).is_some() {
            self.until.remove(&slot);
        }
    }
}

/// Why the attempt is to stop, by the flags of its state word; `None` if it may go on.
pub(crate) fn stop_reason(state: StateWord) -> Option<StopReason> {
    if state.has_flag(FLAG_CANCEL) {
        Some(StopReason::Cancelled)
    } else if state.has_flag(FLAG_TIMED_OUT) {
        Some(StopReason::TimedOut)
    } else {
        None
    }
}

/// The attempt is to stop, and it is for the engine to say so: its worker is no local process.
pub(crate) fn is_to_be_told(segment: &Segment, state: StateWord) -> bool {
    let is_remote = match state.owner() {
        Owner::Worker(worker) => segment.worker(worker).local().is_none(),
        Owner::None | Owner::Attach(_) => false,
    };
    is_remote && stop_reason(state).is_some()
}

impl Plm {
    /// Tells the worker of a flagged attempt to stop it, and looks again after a heartbeat.
    pub(super) fn tell_stop(&mut self, turn: &mut Turn<'_>, slot: SlotIndex, flagged: StateWord) {
        let Some(reason) = stop_reason(flagged) else {
            return;
        };
        if !is_to_be_told(turn.segment, flagged) {
            return;
        }
        let grace_end = turn.now.plus_ns(turn.config.stop_grace_ns);
        let until = self.stops.until(slot, flagged, grace_end);
        push_stop(turn, slot, flagged, reason);
        let again = turn.now.plus_ns(turn.config.heartbeat_ns);
        turn.set_timer(slot, flagged, again.min(until));
    }

    /// The timer of a flagged attempt is due: its worker is told again, or the grace is over.
    pub(super) fn serve_stop(
        &mut self,
        turn: &mut Turn<'_>,
        workers: &mut Workers,
        slot: SlotIndex,
        flagged: StateWord,
    ) {
        if !is_to_be_told(turn.segment, flagged) {
            turn.clear_timer(slot);
            return;
        }
        let grace_end = turn.now.plus_ns(turn.config.stop_grace_ns);
        let until = self.stops.until(slot, flagged, grace_end);
        if turn.now < until {
            if cfg!(qtf_mutant = "sim_stop_is_told_once") {
                turn.set_timer(slot, flagged, until);
            } else {
                self.tell_stop(turn, slot, flagged);
            }
        } else if self.end_unanswered(turn, workers, slot, flagged) {
            push_stop(turn, slot, flagged, StopReason::Stale);
        }
    }

    /// Ends an attempt that its worker did not end. Returns whether it did.
    fn end_unanswered(
        &mut self,
        turn: &mut Turn<'_>,
        workers: &mut Workers,
        slot: SlotIndex,
        flagged: StateWord,
    ) -> bool {
        if flagged.has_flag(FLAG_CANCEL) {
            return self.hand_back(turn, workers, slot, HandBack::Returned);
        }
        turn.drop_result(slot, flagged);
        turn.write(slot).set_outcome(Outcome {
            kind: OutcomeKind::TimedOut,
            code: TIMED_OUT_UNANSWERED,
            result_dropped: false,
            output_cut: false,
        });
        let Some(ended) = turn.advance(slot, flagged, Event::End) else {
            return false;
        };
        turn.clear_timer(slot);
        self.conclude(turn, workers, slot, ended);
        true
    }
}

pub(super) fn push_stop(turn: &mut Turn<'_>, slot: SlotIndex, held: StateWord, reason: StopReason) {
    if let (Owner::Worker(worker), Some(task)) = (held.owner(), held.id(slot)) {
        turn.effects.push(Effect::Stop {
            worker: turn.worker_id(worker),
            task,
            attempt: held.fence(),
            reason,
        });
    }
}
