//! What happens because of time alone: a delayed task is due, an attempt is overdue, a result
//! expires.
//!
//! Each slot has one leaf in the timer tree, its earliest event. The leaf is only a reason to look:
//! the state says what it means, and a leaf that means nothing is taken out.
//!
//! An attempt that outlives its timeout is stopped by its worker. The engine comes in when the
//! worker does not: after a grace it orders the stop (`attempts/stops.rs`), after another one it ends the
//! attempt itself; a result that comes after that is stale, and a success that comes before it is a timeout. The attempt of a living local process is flagged and nothing else.
//! Tested in `engine/tests/rules/timers.rs`.

use qtf_shm::{Counter, Event, FLAG_CANCEL, Key, Now, Phase, SlotIndex, StateWord};

use crate::effects::PER_CALL_MAX;
use crate::lookup::stop_reason;
use crate::plm::Plm;
use crate::plm::attempts::stops::overdue_at;
use crate::register::Workers;
use crate::turn::Turn;
use crate::work_count::WorkCount;

impl Plm {
    /// Serves what is due, up to a number of events.
    pub(crate) fn serve_timers(&mut self, turn: &mut Turn<'_>, workers: &mut Workers) -> WorkCount {
        let mut work = WorkCount::NONE;
        for _ in 0..turn.config.tasks_per_cycle_max {
            if !turn.effects.has_room(PER_CALL_MAX) {
                break;
            }
            let Some((leaf, key)) = turn.segment.timers().locate() else {
                break;
            };
            if !turn.now.has_reached(key.timed_stamp()) {
                break;
            }
            let Some(slot) = SlotIndex::new_checked(leaf, turn.segment.geometry().tasks()) else {
                turn.segment.timers().remove(leaf, key);
                continue;
            };
            self.serve(turn, workers, slot, key);
            work += WorkCount::ONE;
        }
        work
    }

    fn serve(&mut self, turn: &mut Turn<'_>, workers: &mut Workers, slot: SlotIndex, key: Key) {
        let state = turn.segment.task(slot).state();
        match state.phase() {
            Phase::Delayed => self.serve_delayed(turn, slot, state),
            Phase::Assigned | Phase::Running => self.serve_held(turn, workers, slot, state),
            Phase::Done | Phase::Failed | Phase::Cancelled => self.serve_ended(turn, slot, state),
            // By a local worker, which says so in this way.
            Phase::Ended if !state.is_judged() => {
                turn.segment.timers().remove(slot.get(), key);
                self.conclude(turn, workers, slot, state);
            }
            // It was taken back from a local worker.
            Phase::Ready if state.has_flag(FLAG_CANCEL) => {
                turn.segment.timers().remove(slot.get(), key);
                self.end_cancelled(turn, slot, state);
            }
            // A local process has submitted it, and the journal does not have it yet.
            Phase::Submitted | Phase::Held => {
                turn.segment.timers().remove(slot.get(), key);
                self.repair(turn, workers, slot);
            }
            Phase::Free
            | Phase::Claimed
            | Phase::Blocked
            | Phase::Ready
            | Phase::Ended
            | Phase::DeadLetter
            | Phase::Quarantine
            | Phase::Reserved => {
                turn.segment.timers().remove(slot.get(), key);
                turn.segment.counters().add(Counter::LeafStale, 1);
            }
        }
    }

    fn serve_delayed(&mut self, turn: &mut Turn<'_>, slot: SlotIndex, state: StateWord) {
        let due = turn.segment.task(slot).phase_time();
        if !turn.now.has_reached(due) {
            turn.set_timer(slot, state, Now::from_stamp(due));
            return;
        }
        self.release(turn, slot, state);
    }

    /// An attempt that a worker holds: it is to stop, or perhaps overdue.
    fn serve_held(
        &mut self,
        turn: &mut Turn<'_>,
        workers: &mut Workers,
        slot: SlotIndex,
        state: StateWord,
    ) {
        if stop_reason(state).is_some() {
            self.serve_stop(turn, workers, slot, state);
            return;
        }
        let overdue = overdue_at(turn, slot).filter(|_| state.phase() == Phase::Running);
        match overdue {
            Some(at) if !turn.now.has_reached(at.stamp()) => turn.set_timer(slot, state, at),
            Some(_) => {
                if let Ok(flagged) = turn.segment.apply(slot, state, Event::RequestStop) {
                    turn.segment.counters().add(Counter::TaskTimedOut, 1);
                    turn.clear_timer(slot);
                    self.tell_stop(turn, slot, flagged);
                }
            }
            None => turn.clear_timer(slot),
        }
    }
}
