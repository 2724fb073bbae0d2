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

use qtf_shm::{Event, Owner, SlotIndex, StateWord};
use qtf_shm::{FLAG_CANCEL, Now, Outcome, OutcomeKind};

use super::results::TIMED_OUT_UNANSWERED;
use crate::effects::{Effect, StopReason};
use crate::lookup::{is_to_be_told, stop_reason};
use crate::plm::Plm;
use crate::plm::ends::endings::HandBack;
use crate::register::Workers;
use crate::turn::Turn;

impl Plm {
    /// Tells the worker of a flagged attempt to stop it, and looks again after a heartbeat.
    pub(in crate::plm) fn tell_stop(
        &mut self,
        turn: &mut Turn<'_>,
        slot: SlotIndex,
        flagged: StateWord,
    ) {
        let Some(reason) = stop_reason(flagged) else {
            return;
        };
        if !is_to_be_told(turn.segment, flagged) {
            hint_stop(turn, slot, flagged);
            return;
        }
        let grace_end = turn.now.plus_ns(turn.config.stop_grace_ns);
        let until = self.grace_of(slot, flagged, grace_end);
        push_stop(turn, slot, flagged, reason);
        let again = turn.now.plus_ns(turn.config.heartbeat_ns);
        turn.set_timer(slot, flagged, again.min(until));
    }

    /// The timer of a flagged attempt is due: its worker is told again, or the grace is over.
    pub(in crate::plm) fn serve_stop(
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
        let until = self.grace_of(slot, flagged, grace_end);
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

/// A local worker reads the flag itself; its lane tells it when to look.
fn hint_stop(turn: &mut Turn<'_>, slot: SlotIndex, flagged: StateWord) {
    if let (Owner::Worker(worker), Some(task)) = (flagged.owner(), flagged.id(slot))
        && let Some(number) = turn.segment.worker(worker).local()
        && let Some(attach) = turn.segment.attach_index(number)
    {
        let (segment, right) = (turn.segment, turn.right);
        turn.lanes
            .tell_stop(segment, right, (task, flagged), attach);
    }
}

pub(in crate::plm) fn push_stop(
    turn: &mut Turn<'_>,
    slot: SlotIndex,
    held: StateWord,
    reason: StopReason,
) {
    if let (Owner::Worker(worker), Some(task)) = (held.owner(), held.id(slot)) {
        turn.effects.push(Effect::Stop {
            worker: turn.worker_id(worker),
            task,
            attempt: held.fence(),
            reason,
        });
    }
}

/// When a running attempt is so late that the engine steps in; `None` without a timeout.
pub(in crate::plm) fn overdue_at(turn: &Turn<'_>, slot: SlotIndex) -> Option<Now> {
    let task = turn.segment.task(slot);
    let timeout_ns = u64::from(task.timeout_ms()).saturating_mul(1_000_000);
    (timeout_ns > 0).then(|| {
        let state = task.state();
        // A local worker is asked to stop when its time is over; nobody does that beside the engine.
        let (started, grace_ns) = match turn.segment.completion(slot, state) {
            Some(attempt) => (attempt.started, 0),
            None => (task.phase_time(), turn.config.stop_grace_ns),
        };
        Now::from_stamp(started)
            .plus_ns(timeout_ns)
            .plus_ns(grace_ns)
    })
}
