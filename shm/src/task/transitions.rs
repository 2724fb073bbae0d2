//! What a state word becomes by an event: the code of the table that `state.rs` draws.
//!
//! Tested in `state_tests.rs`, against a second writing of the table.

use super::state::{
    Blocked, Event, FENCE_MAX, FLAG_CANCEL, FLAG_SETTLING, FLAG_TIMED_OUT, IllegalTransition,
    OWNER_NONE, Phase, StateWord, is_before_gate,
};
use crate::id::{AttachIndex, WorkerIndex};

impl StateWord {
    /// What the word becomes by `event`: the whole table.
    ///
    /// # Errors
    /// The table has no such change, or a number is used up (the last fence, a gate before the next generation, a worker or attach
    /// record that does not fit).
    #[inline(always)]
    pub const fn after(self, event: Event) -> Result<Self, IllegalTransition> {
        match self.next(event) {
            Some(next) => Ok(next),
            None => Err(IllegalTransition { from: self, event }),
        }
    }

    #[inline(always)]
    const fn next(self, event: Event) -> Option<Self> {
        match event {
            Event::Claim { attach } => self.claimed_by(attach),
            Event::Assign { worker } => self.assigned_to(worker),
            Event::Submit => self.moved(&[Phase::Claimed], Phase::Submitted),
            Event::Admit => self.unowned(&[Phase::Claimed], Phase::Ready),
            Event::AdmitDelayed => self.unowned(&[Phase::Claimed], Phase::Delayed),
            Event::AdmitHeld => self.unowned(&[Phase::Claimed], Phase::Held),
            Event::Abandon => self.cleared(&[Phase::Claimed], Phase::Free),
            Event::Accept => self.unowned(&[Phase::Submitted], Phase::Ready),
            Event::AcceptDelayed => self.unowned(&[Phase::Submitted], Phase::Delayed),
            Event::Block { why } => self.blocked_for(Phase::Submitted, why),
            Event::Hold => self.held(),
            Event::Refuse => self.cleared(&[Phase::Submitted], Phase::Free),
            Event::Park { why } => self.blocked_for(Phase::Ready, why),
            Event::Release => {
                self.unowned(&[Phase::Blocked, Phase::Held, Phase::Delayed], Phase::Ready)
            }
            Event::ReleaseDelayed => self.unowned(&[Phase::Held], Phase::Delayed),
            Event::Start => self.moved(&[Phase::Assigned], Phase::Running),
            Event::End => self.moved(&[Phase::Running], Phase::Ended),
            Event::Judge => self.judged(),
            Event::Complete => self.concluded(&[Phase::Ended], Phase::Done),
            Event::Fail => self.concluded(&[Phase::Ended], Phase::Failed),
            Event::Retry => self.retried(Phase::Ready),
            Event::RetryLater => self.retried(Phase::Delayed),
            Event::Bury => self.concluded(
                &[Phase::Ended, Phase::Assigned, Phase::Running, Phase::Ready],
                Phase::DeadLetter,
            ),
            Event::Requeue => self.unowned(&[Phase::Assigned, Phase::Running], Phase::Ready),
            Event::Cancel => self.cancelled(),
            Event::RequestCancel => self.flagged(FLAG_CANCEL),
            Event::RequestStop => self.flagged(FLAG_TIMED_OUT),
            Event::CompleteUnattended => self.completed_unattended(),
            Event::Revive => self.revived(),
            Event::Forget => self.forgotten(),
            Event::Free => self.cleared(
                &[
                    Phase::Done,
                    Phase::Failed,
                    Phase::Cancelled,
                    Phase::DeadLetter,
                ],
                Phase::Free,
            ),
            Event::Quarantine => {
                if matches!(self.phase(), Phase::Quarantine) {
                    None
                } else {
                    Some(self.with_phase(Phase::Quarantine))
                }
            }
        }
    }

    const fn claimed_by(self, attach: AttachIndex) -> Option<Self> {
        if !matches!(self.phase(), Phase::Free)
            || is_before_gate(self.generation())
            || attach.get() == OWNER_NONE
        {
            return None;
        }
        Some(
            Self::from_raw(0)
                .at(self.generation() + 1)
                .with_owner(attach.get())
                .with_phase(Phase::Claimed),
        )
    }

    const fn blocked_for(self, from: Phase, why: Blocked) -> Option<Self> {
        match self.moved(&[from], Phase::Blocked) {
            Some(next) => Some(next.with_owner(why.to_bits())),
            None => None,
        }
    }

    const fn assigned_to(self, worker: WorkerIndex) -> Option<Self> {
        if !matches!(self.phase(), Phase::Ready)
            || self.fence() == FENCE_MAX
            || worker.get() == OWNER_NONE
        {
            return None;
        }
        let is_kept = self.fence() > 0 && cfg!(qtf_mutant = "sim_requeue_keeps_the_attempt");
        let fence = self.fence() + !is_kept as u16;
        Some(
            self.with_phase(Phase::Assigned)
                .with_owner(worker.get())
                .with_fence(fence)
                .with_flags(self.flags() & !FLAG_TIMED_OUT),
        )
    }

    /// Whoever cancelled a task that then came back from a local worker was answered: it is not kept from its end.
    const fn held(self) -> Option<Self> {
        if self.has_flag(FLAG_CANCEL) {
            return None;
        }
        let waiting = [
            Phase::Submitted,
            Phase::Blocked,
            Phase::Delayed,
            Phase::Ready,
        ];
        self.unowned(&waiting, Phase::Held)
    }

    const fn judged(self) -> Option<Self> {
        if matches!(self.phase(), Phase::Ended) && !self.is_judged() {
            Some(self.with_flags(self.flags() | FLAG_SETTLING))
        } else {
            None
        }
    }

    const fn forgotten(self) -> Option<Self> {
        if self.phase().is_final() && !self.is_forgotten() {
            Some(self.with_flags(self.flags() | FLAG_SETTLING))
        } else {
            None
        }
    }

    const fn revived(self) -> Option<Self> {
        if self.is_forgotten() {
            return None;
        }
        match self.unowned(&[Phase::DeadLetter], Phase::Ready) {
            Some(next) => Some(next.with_flags(0)),
            None => None,
        }
    }

    /// A flag is a daemon's word: one lives, and judges what comes of the attempt.
    const fn completed_unattended(self) -> Option<Self> {
        if self.flags() != 0 && !cfg!(qtf_mutant = "unattended_end_passes_over_a_flag") {
            return None;
        }
        self.moved(&[Phase::Running], Phase::Done)
    }

    /// A final phase: the flag of the waiting goes.
    const fn concluded(self, from: &[Phase], to: Phase) -> Option<Self> {
        match self.moved(from, to) {
            Some(next) => Some(next.with_flags(next.flags() & !FLAG_SETTLING)),
            None => None,
        }
    }

    const fn retried(self, to: Phase) -> Option<Self> {
        if self.is_judged() {
            return None;
        }
        match self.unowned(&[Phase::Ended], to) {
            Some(next) => Some(next.with_flags(0)),
            None => None,
        }
    }

    const fn cancelled(self) -> Option<Self> {
        let phase = self.phase();
        if phase.is_with_worker() {
            let judged = matches!(phase, Phase::Ended) || self.has_flag(FLAG_CANCEL);
            return if judged {
                self.concluded(&[phase], Phase::Cancelled)
            } else {
                None
            };
        }
        if phase.is_unfinished() {
            Some(self.with_owner(OWNER_NONE).with_phase(Phase::Cancelled))
        } else {
            None
        }
    }

    const fn flagged(self, flag: u8) -> Option<Self> {
        if matches!(self.phase(), Phase::Assigned | Phase::Running) {
            Some(self.with_flags(self.flags() | flag))
        } else {
            None
        }
    }

    /// The phase changes, the rest stays.
    const fn moved(self, from: &[Phase], to: Phase) -> Option<Self> {
        let mut index = 0;
        while index < from.len() {
            if from[index] as u8 == self.phase() as u8 {
                return Some(self.with_phase(to));
            }
            index += 1;
        }
        None
    }

    /// The phase changes and the owner goes.
    const fn unowned(self, from: &[Phase], to: Phase) -> Option<Self> {
        match self.moved(from, to) {
            Some(next) => Some(next.with_owner(OWNER_NONE)),
            None => None,
        }
    }

    /// The phase changes, owner, fence and flags go.
    const fn cleared(self, from: &[Phase], to: Phase) -> Option<Self> {
        match self.unowned(from, to) {
            Some(next) => Some(next.with_fence(0).with_flags(0)),
            None => None,
        }
    }
}
