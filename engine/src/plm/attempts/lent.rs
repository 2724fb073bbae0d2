//! Attempts of workers that call: what a call is answered with, what is touched, and those whose lease is over.
//!
//! Tested in `engine/tests/rules/calling.rs`.

use qtf_shm::Phase;

use super::results::Fence;
use crate::effects::{PER_CALL_MAX, StopReason};
use crate::lookup::{TaskRef, held, stop_reason};
use crate::plm::Plm;
use crate::plm::ends::endings::HandBack;
use crate::register::{Loan, Workers, count_lease_over};
use crate::turn::Turn;
use crate::work_count::WorkCount;

impl Plm {
    /// A call is answered with an attempt: it counts as begun. False, and it goes to nobody, if it is not the worker's any more, or is to stop.
    pub(crate) fn lend(
        &mut self,
        turn: &mut Turn<'_>,
        workers: &mut Workers,
        fence: Fence,
        loan: Loan,
    ) -> bool {
        let Ok((slot, state)) = held(turn.segment, fence.worker, fence.asked) else {
            return false;
        };
        if state.phase() == Phase::Assigned && stop_reason(state).is_some() {
            self.hand_back(turn, workers, slot, HandBack::Returned);
            return false;
        }
        self.started(turn, workers, fence) && self.lease(turn, workers, fence, loan)
    }

    /// The lease of an attempt starts over. `Stale` if it is not the worker's (any more), else why it is to stop.
    pub(crate) fn touch(
        &mut self,
        turn: &mut Turn<'_>,
        workers: &mut Workers,
        fence: Fence,
        lease_ns: u64,
    ) -> Option<StopReason> {
        let loan = Loan {
            lease_ns,
            request: None,
        };
        if !self.lease(turn, workers, fence, loan) {
            return Some(StopReason::Stale);
        }
        let held = held(turn.segment, fence.worker, fence.asked);
        held.ok().and_then(|(_, state)| stop_reason(state))
    }

    fn lease(&self, turn: &mut Turn<'_>, workers: &mut Workers, fence: Fence, loan: Loan) -> bool {
        let Ok((_, held)) = held(turn.segment, fence.worker, fence.asked) else {
            return false;
        };
        workers.lease_attempt(turn, fence.asked.task, held, loan);
        true
    }

    /// Takes attempts back whose lease is over, up to a number: their caller has died with them, and they count as lost. What no call was
    /// answered with has harmed nobody.
    pub(crate) fn serve_attempt_leases(
        &mut self,
        turn: &mut Turn<'_>,
        workers: &mut Workers,
    ) -> WorkCount {
        let mut work = WorkCount::NONE;
        for _ in 0..turn.config.tasks_per_cycle_max {
            if !turn.effects.has_room(PER_CALL_MAX) {
                break;
            }
            let Some(over) = workers.pop_lease_over(turn.now) else {
                break;
            };
            work += WorkCount::ONE;
            let asked = TaskRef {
                task: over.task,
                attempt: over.attempt.into(),
            };
            let worker = over.worker;
            self.take_back_lent(turn, workers, Fence { worker, asked });
        }
        work
    }

    fn take_back_lent(&mut self, turn: &mut Turn<'_>, workers: &mut Workers, fence: Fence) {
        let Ok((slot, state)) = held(turn.segment, fence.worker, fence.asked) else {
            return;
        };
        let why = if state.phase() == Phase::Running {
            HandBack::WorkerLost
        } else {
            HandBack::Returned
        };
        if self.hand_back(turn, workers, slot, why) && why == HandBack::WorkerLost {
            count_lease_over(turn);
        }
    }
}
