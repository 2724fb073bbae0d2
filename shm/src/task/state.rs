//! The state of a task: one word, changed by compare-and-swap only, and the whole table of its changes.
//!
//! ```text
//!  63    59 58   55 54            39 38        27 26                        0
//! +--------+-------+----------------+------------+---------------------------+
//! |phase 5 |flags 4|    owner 16    |  fence 12  |        tenancy 27         |
//! +--------+-------+----------------+------------+---------------------------+
//! flags: 1 CANCEL (stop was ordered by a client), 2 TIMED_OUT (stop was ordered because of time), 4 SETTLING (a decision waits for
//!        the sync of its record: in ENDED the outcome, which is then judged; in a final phase the release of the slot, which is then
//!        forgotten), 8 DISPLACED (told to stop to make room; nothing writes it yet)
//! owner: attach record in CLAIMED and SUBMITTED; worker in ASSIGNED, RUNNING and ENDED; the last worker, if there was
//!        one, in DONE, FAILED, CANCELLED, DEAD_LETTER and judged ENDED (it owns nothing there); in BLOCKED `reason 6, detail 10`
//!        (`blocked.rs`); else all ones
//! fence: hand-outs of this task; the first is 1. It only rises, does not wrap, and is counted against no budget: what is counted
//!        are the failures and losses in the slot's word `limits`
//! tenancy: the lower 27 bits of the generation. The upper 8, the era, lie in the slot's word `order` and change in FREE only
//! ```
//! The word 0, with era 0, is a slot that was never used: FREE, generation 0.
//!
//! A slot at the generation before a multiple of 2^26 stands at a **gate**, and cannot be claimed there: the PLM lets it through when no process can
//! remember a word of the time before (`segment/gates.rs`). So a word never comes again while anyone remembers it, though the tenancy wraps.
//!
//! ```text
//! from \ event          to
//! FREE        Claim                  CLAIMED    tenancy + 1 (not through a gate), fence 0, no flags, owner = attach record
//! CLAIMED     Submit                 SUBMITTED
//!             Admit                  READY      submission linearizes here (memory tasks)
//!             AdmitDelayed, AdmitHeld  DELAYED, HELD   the same
//!             Abandon                FREE
//! SUBMITTED   Accept, AcceptDelayed  READY, DELAYED
//!             Block, Hold            BLOCKED, HELD
//!             Refuse                 FREE
//!             Cancel                 CANCELLED
//! BLOCKED     Release                READY
//!             Hold, Cancel           HELD, CANCELLED
//! HELD        Release, Cancel        READY, CANCELLED
//!             ReleaseDelayed         DELAYED    its start is later
//! DELAYED     Release, Cancel        READY, CANCELLED
//!             Hold                   HELD
//! READY       Assign                 ASSIGNED   fence + 1 (up to 4,095), owner = worker, TIMED_OUT cleared;
//!                                               the take linearizes here
//!             Park                   BLOCKED    no live worker offers the task's kind, or the journal has no room: the reason says which
//!             Hold                   HELD       not one that is to be cancelled
//!             Bury                   DEAD_LETTER  it may run once at most, and a local worker may have begun it; or its fence is used up
//!             Cancel                 CANCELLED
//! ASSIGNED    Start                  RUNNING
//!             Requeue                READY      the worker is lost; flags kept
//!             Bury                   DEAD_LETTER
//!             RequestCancel          ASSIGNED   flag CANCEL
//!             RequestStop            ASSIGNED   flag TIMED_OUT
//!             Cancel                 CANCELLED  only with flag CANCEL: its worker is lost
//! RUNNING     End                    ENDED      the result linearizes here
//!             CompleteUnattended     DONE       a memory task while no daemon lives; only without flags: who sets one lives, and judges
//!             Requeue, Bury, RequestCancel, RequestStop, Cancel   as in ASSIGNED
//! ENDED       Complete, Fail         DONE, FAILED
//!             Retry, RetryLater      READY, DELAYED   flags cleared
//!             Bury, Cancel           DEAD_LETTER, CANCELLED
//!             Judge                  ENDED      flag SETTLING: the worker owns it no longer; Retry and RetryLater only without
//! DONE        Free                   FREE       tenancy kept
//!             Forget                 DONE       flag SETTLING, once
//! FAILED      Free, Forget           FREE, FAILED
//! CANCELLED   Free, Forget           FREE, CANCELLED
//! DEAD_LETTER Free, Forget           FREE, DEAD_LETTER
//!             Revive                 READY      only without SETTLING; fence kept, so that results of its old attempts
//!                                               stay stale
//! any but QUARANTINE  Quarantine     QUARANTINE everything else kept, as evidence
//! ```
//! Every pair that is not listed is refused. The test enumerates all pairs against a second, independent writing of
//! the table.

use core::fmt;

pub use super::blocked::Blocked;
pub use super::phase::Phase;
use crate::id::{
    AttachIndex, GATE_BITS, GENERATION_MAX, SlotIndex, TENANCY_BITS, TaskId, WorkerIndex,
};

const TENANCY_MASK: u64 = (1 << TENANCY_BITS) - 1;
const FENCE_SHIFT: u32 = TENANCY_BITS;
const FENCE_MASK: u64 = 0xFFF;
const OWNER_SHIFT: u32 = 39;
const OWNER_MASK: u64 = 0xFFFF;
const FLAGS_SHIFT: u32 = 55;
const PHASE_SHIFT: u32 = 59;
pub(super) const OWNER_NONE: u16 = 0xFFFF;

/// Highest fence: the first hand-out has 1. It does not wrap: a task that has used it up gets no further one.
pub const FENCE_MAX: u16 = 0xFFF;
/// A client asked for the task to be stopped.
pub const FLAG_CANCEL: u8 = 1;
/// The task was told to stop because its time was over.
pub const FLAG_TIMED_OUT: u8 = 2;
/// A decision waits for the sync of its record: in ENDED what becomes of the task, in a final phase that nobody wants it any more.
pub const FLAG_SETTLING: u8 = 4;

/// Whose turn it is to change the task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// The PLM's or nobody's.
    None,
    /// The submitter behind this attach record.
    Attach(AttachIndex),
    /// The worker in this slot.
    Worker(WorkerIndex),
}

/// One change of a state word; each is one compare-and-swap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// A submitter takes a free slot.
    Claim {
        /// The submitter's attach record.
        attach: AttachIndex,
    },
    /// The submitter hands the task to the PLM.
    Submit,
    /// The submitter makes a task ready that needs no judgement.
    Admit,
    /// The same for a task with a later start.
    AdmitDelayed,
    /// The same for a task that is not to start until it is released.
    AdmitHeld,
    /// The submitter gives up, or died.
    Abandon,
    /// The PLM accepts.
    Accept,
    /// The PLM accepts a task with a later start.
    AcceptDelayed,
    /// The PLM accepts; the task waits for something else than a worker.
    Block {
        /// For what.
        why: Blocked,
    },
    /// A waiting task is not to start until it is released.
    Hold,
    /// The PLM refuses.
    Refuse,
    /// No live worker offers the task's kind, or the journal has no room for what would follow.
    Park {
        /// Which of the two.
        why: Blocked,
    },
    /// What the task waited for has come.
    Release,
    /// A held task is released whose start is later.
    ReleaseDelayed,
    /// The Scheduler, or a worker that takes directly, hands the task out.
    Assign {
        /// The worker that gets it.
        worker: WorkerIndex,
    },
    /// The worker has started it.
    Start,
    /// The worker has reported the attempt's end.
    End,
    /// The PLM has decided what becomes of a journal task, and waits for the record's sync.
    Judge,
    /// Ended well.
    Complete,
    /// Ended badly, no attempt left.
    Fail,
    /// Ended badly, again at once.
    Retry,
    /// Ended badly, again later.
    RetryLater,
    /// Takes its workers down: no more attempts.
    Bury,
    /// The worker is lost: another one gets the task.
    Requeue,
    /// Cancelled, and nobody runs it.
    Cancel,
    /// A client wants a task stopped that a worker holds.
    RequestCancel,
    /// The time of a task is over that a worker holds.
    RequestStop,
    /// A worker ends a task while no daemon lives. One that has been flagged ends by [`Event::End`]: a daemon has come since.
    CompleteUnattended,
    /// An operator gives a buried task new attempts.
    Revive,
    /// Nobody wants the task any more: its slot is given back when the record of that is durable.
    Forget,
    /// The slot is given back.
    Free,
    /// A repairer met an impossible combination.
    Quarantine,
}

/// The table has no such change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a task that is {} cannot take the event {event:?}", from.phase())]
pub struct IllegalTransition {
    /// The word that was to be changed.
    pub from: StateWord,
    /// What was to happen.
    pub event: Event,
}

/// A loaded state word, and the era that lay in its slot then. The word in the segment is only changed by comparing with one of these; the era
/// stays as it is while the slot is in use.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct StateWord {
    raw: u64,
    era: u8,
}

impl StateWord {
    /// A word as it was loaded, of a slot in its first era; every bit pattern is one.
    #[must_use]
    pub const fn from_raw(raw: u64) -> Self {
        Self { raw, era: 0 }
    }

    /// A word and the era of its slot, read after it.
    #[must_use]
    pub const fn in_era(raw: u64, era: u8) -> Self {
        Self { raw, era }
    }

    /// The bits of the word.
    #[must_use]
    pub const fn as_raw(self) -> u64 {
        self.raw
    }

    /// The upper 8 bits of the generation.
    #[must_use]
    pub const fn era(self) -> u8 {
        self.era
    }

    /// Where the task stands.
    #[must_use]
    pub const fn phase(self) -> Phase {
        Phase::from_number(self.phase_number())
    }

    /// What the phase is called, also where this version never writes it.
    #[must_use]
    pub const fn phase_name(self) -> &'static str {
        Phase::name_of(self.phase_number())
    }

    /// [`FLAG_CANCEL`] and the others.
    #[must_use]
    pub const fn flags(self) -> u8 {
        ((self.raw >> FLAGS_SHIFT) & 0xF) as u8
    }

    /// All bits of `flag` are set.
    #[must_use]
    pub const fn has_flag(self, flag: u8) -> bool {
        self.flags() & flag == flag
    }
    /// Who may change the task now.
    #[must_use]
    pub const fn owner(self) -> Owner {
        match self.phase() {
            Phase::Claimed | Phase::Submitted => {
                match AttachIndex::new_checked(self.owner_bits(), OWNER_NONE as u32) {
                    Some(attach) => Owner::Attach(attach),
                    None => Owner::None,
                }
            }
            Phase::Ended if self.has_flag(FLAG_SETTLING) => Owner::None,
            Phase::Assigned | Phase::Running | Phase::Ended => match self.worker_bits() {
                Some(worker) => Owner::Worker(worker),
                None => Owner::None,
            },
            Phase::Free
            | Phase::Blocked
            | Phase::Held
            | Phase::Delayed
            | Phase::Ready
            | Phase::Done
            | Phase::Failed
            | Phase::Cancelled
            | Phase::DeadLetter
            | Phase::Quarantine
            | Phase::Reserved => Owner::None,
        }
    }

    /// The owner bits name the worker that holds the task.
    #[must_use]
    pub const fn is_with_worker(self) -> bool {
        self.phase().is_with_worker() && !self.is_judged()
    }

    /// ENDED, decided, and waiting for the sync of its outcome's record.
    #[must_use]
    pub const fn is_judged(self) -> bool {
        matches!(self.phase(), Phase::Ended) && self.has_flag(FLAG_SETTLING)
    }

    /// Ended, wanted by nobody, and waiting for the sync of the record that says so.
    #[must_use]
    pub const fn is_forgotten(self) -> bool {
        self.phase().is_final() && self.has_flag(FLAG_SETTLING)
    }

    /// The worker that holds the task, or held it last in a finished one.
    #[must_use]
    pub const fn last_worker(self) -> Option<WorkerIndex> {
        let phase = self.phase();
        if phase.is_with_worker() || phase.is_final() {
            self.worker_bits()
        } else {
            None
        }
    }

    /// A task that ended while it waited, by its word: it was cancelled, or buried. Whoever changes a word that others may change too writes
    /// the outcome after the change, and may be killed in between.
    #[must_use]
    pub const fn ended_while_waiting(self) -> bool {
        matches!(self.phase(), Phase::Cancelled | Phase::DeadLetter) && self.last_worker().is_none()
    }

    /// Why a blocked task waits; `None` in any other phase, or where no reason is said.
    #[must_use]
    pub const fn blocked(self) -> Option<Blocked> {
        if matches!(self.phase(), Phase::Blocked) {
            Blocked::of_bits(self.owner_bits())
        } else {
            None
        }
    }

    /// Hand-outs so far; the first is 1. What a worker says is of the hand-out that it names, or is late.
    #[must_use]
    pub const fn fence(self) -> u16 {
        ((self.raw >> FENCE_SHIFT) & FENCE_MASK) as u16
    }

    /// How often the slot has been claimed, era included.
    #[must_use]
    pub const fn generation(self) -> u64 {
        ((self.era as u64) << TENANCY_BITS) | (self.raw & TENANCY_MASK)
    }

    /// The id of the task in `slot`; `None` in a slot that was never used.
    #[must_use]
    pub const fn id(self, slot: SlotIndex) -> Option<TaskId> {
        if self.generation() == 0 {
            None
        } else {
            Some(TaskId::new(self.generation(), slot))
        }
    }

    /// The word is that of `id`, in any phase but free.
    #[must_use]
    pub const fn is_of(self, id: TaskId) -> bool {
        self.generation() == id.generation() && !matches!(self.phase(), Phase::Free)
    }

    /// The slot was never used.
    #[must_use]
    pub const fn is_unused(self) -> bool {
        self.raw == 0 && self.era == 0
    }

    /// What a claim compares its next word with: a slot that was never used counts as generation `base`, the segment's first, and so does one
    /// that was last used in an earlier segment. `None` where the PLM must let the slot through a gate first.
    #[must_use]
    pub const fn raised_to(self, base: u64) -> Option<Self> {
        // Nobody remembers a word of a slot that was never used: it may begin behind a gate.
        let base = if is_before_gate(base) { base + 1 } else { base };
        let generation = self.generation();
        let raised = if self.is_unused() {
            base
        } else if generation >= base {
            generation
        } else if generation >> GATE_BITS == base >> GATE_BITS {
            base
        } else {
            return None;
        };
        if is_before_gate(raised) || raised > GENERATION_MAX {
            return None;
        }
        Some(self.at(raised))
    }

    /// A free slot stands at a gate, in a segment whose first generation is `base`, and can be let through: what it is then. `None` where it can be
    /// claimed as it is, is in use, or has used up all generations.
    #[must_use]
    pub const fn beyond_gate(self, base: u64) -> Option<Self> {
        if !matches!(self.phase(), Phase::Free) || self.raised_to(base).is_some() {
            return None;
        }
        let (own, first) = (
            self.generation() + 1,
            if is_before_gate(base) { base + 1 } else { base },
        );
        let next = if own > first { own } else { first };
        if next > GENERATION_MAX {
            None
        } else {
            Some(self.at(next))
        }
    }

    /// The word of a task that comes out of a journal: nobody's, in a phase that needs no process behind it. `None` for
    /// the other phases.
    #[must_use]
    pub const fn restored(phase: Phase, flags: u8, fence: u16, generation: u64) -> Option<Self> {
        let waits = matches!(
            phase,
            Phase::Blocked | Phase::Held | Phase::Delayed | Phase::Ready
        );
        if !waits && !phase.is_final() {
            return None;
        }
        let fresh = Self::from_raw(0).at(generation);
        Some(
            fresh
                .with_phase(phase)
                .with_flags(flags)
                .with_owner(OWNER_NONE)
                .with_fence(fence),
        )
    }

    /// A word of these parts.
    #[cfg(not(loom))]
    pub(crate) const fn of_parts(
        phase: Phase,
        flags: u8,
        owner: u16,
        fence: u16,
        generation: u64,
    ) -> Self {
        Self::from_raw(0)
            .at(generation)
            .with_phase(phase)
            .with_flags(flags)
            .with_owner(owner)
            .with_fence(fence)
    }

    pub(super) const fn with_phase(self, phase: Phase) -> Self {
        self.with(0x1F, PHASE_SHIFT, phase as u64)
    }

    pub(super) const fn with_flags(self, flags: u8) -> Self {
        self.with(0xF, FLAGS_SHIFT, flags as u64)
    }

    pub(super) const fn with_owner(self, owner: u16) -> Self {
        self.with(OWNER_MASK, OWNER_SHIFT, owner as u64)
    }

    pub(super) const fn with_fence(self, fence: u16) -> Self {
        self.with(FENCE_MASK, FENCE_SHIFT, fence as u64)
    }

    /// The same at another generation.
    pub(crate) const fn at(self, generation: u64) -> Self {
        let generation = generation & GENERATION_MAX;
        Self {
            era: (generation >> TENANCY_BITS) as u8,
            ..self.with(TENANCY_MASK, 0, generation & TENANCY_MASK)
        }
    }

    const fn with(self, mask: u64, shift: u32, value: u64) -> Self {
        Self {
            raw: self.raw & !(mask << shift) | ((value & mask) << shift),
            era: self.era,
        }
    }

    /// The number of the phase, as it lies in the word.
    #[must_use]
    pub const fn phase_number(self) -> u8 {
        (self.raw >> PHASE_SHIFT) as u8
    }

    const fn owner_bits(self) -> u16 {
        ((self.raw >> OWNER_SHIFT) & OWNER_MASK) as u16
    }

    const fn worker_bits(self) -> Option<WorkerIndex> {
        WorkerIndex::new_checked(self.owner_bits(), OWNER_NONE as u32)
    }
}

/// The generation after this one is not to be given before the gate was passed. The first of all has no gate before it.
pub(super) const fn is_before_gate(generation: u64) -> bool {
    (generation + 1).trailing_zeros() >= GATE_BITS
}

impl fmt::Debug for StateWord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "StateWord({} flags {:x} owner {:?} fence {} generation {})",
            self.phase_name(),
            self.flags(),
            self.owner(),
            self.fence(),
            self.generation()
        )
    }
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
