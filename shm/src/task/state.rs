//! The state of a task: one word, changed by compare-and-swap only, and the whole table of its changes.
//!
//! ```text
//!  63   60 59   56 55          44 43        36 35                                   0
//! +-------+-------+--------------+------------+--------------------------------------+
//! | phase | flags |  owner (12)  | attempt (8)|           generation (36)            |
//! +-------+-------+--------------+------------+--------------------------------------+
//! flags: 1 CANCEL (stop was ordered by a client), 2 TIMED_OUT (stop was ordered because of time), 4 JUDGED (in ENDED: the
//!        outcome is decided and its record waits for its sync), 8 FORGOTTEN (in a final phase: the slot is given back when
//!        the record of that is durable)
//! owner: attach record in CLAIMED and SUBMITTED; worker in ASSIGNED, RUNNING and ENDED; the last worker, if there was
//!        one, in DONE, FAILED, CANCELLED, DEAD_LETTER and judged ENDED (it owns nothing there); else all ones
//! ```
//! The word 0 is a slot that was never used: FREE, generation 0.
//!
//! ```text
//! from \ event          to
//! FREE        Claim                  CLAIMED    generation + 1, attempt 0, no flags, owner = attach record
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
//! READY       Assign                 ASSIGNED   attempt + 1 (up to 255), owner = worker, TIMED_OUT cleared;
//!                                               the take linearizes here
//!             Park                   BLOCKED    no live worker offers the task's kind, or the journal has no room
//!             Hold                   HELD       not one that is to be cancelled
//!             Bury                   DEAD_LETTER  it may run once at most, and a local worker may have begun it
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
//!             Judge                  ENDED      flag JUDGED: the worker owns it no longer; Retry and RetryLater only without
//! DONE        Free                   FREE       generation kept
//!             Forget                 DONE       flag FORGOTTEN, once
//! FAILED      Free, Forget           FREE, FAILED
//! CANCELLED   Free, Forget           FREE, CANCELLED
//! DEAD_LETTER Free, Forget           FREE, DEAD_LETTER
//!             Revive                 READY      only without FORGOTTEN; attempt kept, so that results of its old attempts
//!                                               stay stale
//! any but QUARANTINE  Quarantine     QUARANTINE everything else kept, as evidence
//! ```
//! Every pair that is not listed is refused. The test enumerates all pairs against a second, independent writing of
//! the table.

use core::fmt;

use crate::id::{AttachIndex, GENERATION_BITS, GENERATION_MAX, SlotIndex, TaskId, WorkerIndex};

const ATTEMPT_SHIFT: u32 = GENERATION_BITS;
const OWNER_SHIFT: u32 = 44;
const FLAGS_SHIFT: u32 = 56;
const PHASE_SHIFT: u32 = 60;
pub(super) const OWNER_NONE: u16 = 0xFFF;

/// Highest attempt: the first is 1.
pub const ATTEMPT_MAX: u8 = u8::MAX;
/// A client asked for the task to be stopped.
pub const FLAG_CANCEL: u8 = 1;
/// The task was told to stop because its time was over.
pub const FLAG_TIMED_OUT: u8 = 2;
/// In ENDED: what becomes of the task is decided, and the record of it waits for its sync.
pub const FLAG_JUDGED: u8 = 4;
/// In a final phase: nobody wants the task any more, and the record of that waits for its sync.
pub const FLAG_FORGOTTEN: u8 = 8;

/// Where a task stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Phase {
    /// Nobody's: may be claimed.
    Free = 0,
    /// Being filled in by its submitter; not accepted.
    Claimed = 1,
    /// Handed to the PLM for judgement.
    Submitted = 2,
    /// Waits for something that is not a worker's capacity.
    Blocked = 3,
    /// Waits until it is released: somebody holds it.
    Held = 4,
    /// Waits for its time.
    Delayed = 5,
    /// Waits for a worker.
    Ready = 6,
    /// Handed out, start not reported.
    Assigned = 7,
    /// Runs.
    Running = 8,
    /// An attempt has ended and is not yet judged.
    Ended = 9,
    /// Ended well.
    Done = 10,
    /// Ended badly, no attempt left.
    Failed = 11,
    /// Cancelled.
    Cancelled = 12,
    /// Took its workers down until its attempts were used up.
    DeadLetter = 13,
    /// Seen in an impossible combination; kept for inspection.
    Quarantine = 14,
    /// Never written by this version.
    Reserved = 15,
}

impl Phase {
    /// Number of phases, and of rows in tables over them.
    pub const COUNT: usize = 16;

    /// All phases, in the order of their numbers.
    pub const ALL: [Self; Self::COUNT] = [
        Self::Free,
        Self::Claimed,
        Self::Submitted,
        Self::Blocked,
        Self::Held,
        Self::Delayed,
        Self::Ready,
        Self::Assigned,
        Self::Running,
        Self::Ended,
        Self::Done,
        Self::Failed,
        Self::Cancelled,
        Self::DeadLetter,
        Self::Quarantine,
        Self::Reserved,
    ];

    /// The name in JSON and on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Free => "free",
            Self::Claimed => "claimed",
            Self::Submitted => "submitted",
            Self::Blocked => "blocked",
            Self::Held => "held",
            Self::Delayed => "delayed",
            Self::Ready => "ready",
            Self::Assigned => "assigned",
            Self::Running => "running",
            Self::Ended => "ended",
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::DeadLetter => "dead_letter",
            Self::Quarantine => "quarantine",
            Self::Reserved => "reserved",
        }
    }

    /// The task's story is over: it waits only for being freed.
    #[must_use]
    pub const fn is_final(self) -> bool {
        matches!(
            self,
            Self::Done | Self::Failed | Self::Cancelled | Self::DeadLetter
        )
    }

    /// The task was accepted and has not ended.
    #[must_use]
    pub const fn is_unfinished(self) -> bool {
        matches!(
            self,
            Self::Submitted
                | Self::Blocked
                | Self::Held
                | Self::Delayed
                | Self::Ready
                | Self::Assigned
                | Self::Running
                | Self::Ended
        )
    }

    /// The owner bits name the worker that holds the task.
    #[must_use]
    pub const fn is_with_worker(self) -> bool {
        matches!(self, Self::Assigned | Self::Running | Self::Ended)
    }

    const fn of(word: u64) -> Self {
        // INVARIANT: four bits are below the 16 phases.
        Self::ALL[(word >> PHASE_SHIFT) as usize]
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

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
    /// The PLM accepts; the task waits for another one.
    Block,
    /// A waiting task is not to start until it is released.
    Hold,
    /// The PLM refuses.
    Refuse,
    /// No live worker offers the task's kind, or the journal has no room for what would follow.
    Park,
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

/// A loaded state word. The word in the segment is only changed by comparing with one of these.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct StateWord(u64);

impl StateWord {
    /// A word as it was loaded; every bit pattern is one.
    #[must_use]
    pub const fn from_raw(raw: u64) -> Self {
        Self(raw)
    }

    /// The bits.
    #[must_use]
    pub const fn as_raw(self) -> u64 {
        self.0
    }

    /// Where the task stands.
    #[must_use]
    pub const fn phase(self) -> Phase {
        Phase::of(self.0)
    }

    /// [`FLAG_CANCEL`] and [`FLAG_TIMED_OUT`].
    #[must_use]
    pub const fn flags(self) -> u8 {
        ((self.0 >> FLAGS_SHIFT) & 0xF) as u8
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
            Phase::Ended if self.has_flag(FLAG_JUDGED) => Owner::None,
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
        matches!(self.phase(), Phase::Ended) && self.has_flag(FLAG_JUDGED)
    }

    /// Ended, wanted by nobody, and waiting for the sync of the record that says so.
    #[must_use]
    pub const fn is_forgotten(self) -> bool {
        self.phase().is_final() && self.has_flag(FLAG_FORGOTTEN)
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

    /// Hand-outs so far; the first is 1.
    #[must_use]
    pub const fn attempt(self) -> u8 {
        ((self.0 >> ATTEMPT_SHIFT) & 0xFF) as u8
    }

    /// How often the slot has been claimed.
    #[must_use]
    pub const fn generation(self) -> u64 {
        self.0 & GENERATION_MAX
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

    /// The same word with a generation of at least `base`: a slot that was never used counts as generation
    /// `base`, the segment's first. Only for computing what a claim writes.
    #[must_use]
    pub const fn raised_to(self, base: u64) -> Self {
        let base = base & GENERATION_MAX;
        if self.generation() >= base {
            self
        } else {
            Self(self.0 & !GENERATION_MAX | base)
        }
    }

    /// The word of a task that comes out of a journal: nobody's, in a phase that needs no process behind it. `None` for
    /// the other phases.
    #[must_use]
    pub const fn restored(phase: Phase, flags: u8, attempt: u8, generation: u64) -> Option<Self> {
        let waits = matches!(
            phase,
            Phase::Blocked | Phase::Held | Phase::Delayed | Phase::Ready
        );
        if !waits && !phase.is_final() {
            return None;
        }
        let flags = (flags & 0xF) as u64;
        Some(Self(
            ((phase as u64) << PHASE_SHIFT)
                | (flags << FLAGS_SHIFT)
                | ((OWNER_NONE as u64) << OWNER_SHIFT)
                | ((attempt as u64) << ATTEMPT_SHIFT)
                | (generation & GENERATION_MAX),
        ))
    }

    pub(super) const fn with_phase(self, phase: Phase) -> Self {
        Self(self.0 & !(0xF << PHASE_SHIFT) | ((phase as u64) << PHASE_SHIFT))
    }

    pub(super) const fn with_flags(self, flags: u8) -> Self {
        Self(self.0 & !(0xF << FLAGS_SHIFT) | ((flags as u64 & 0xF) << FLAGS_SHIFT))
    }

    pub(super) const fn with_owner(self, owner: u16) -> Self {
        Self(self.0 & !(0xFFF << OWNER_SHIFT) | ((owner as u64 & 0xFFF) << OWNER_SHIFT))
    }

    pub(super) const fn with_attempt(self, attempt: u8) -> Self {
        Self(self.0 & !(0xFF << ATTEMPT_SHIFT) | ((attempt as u64) << ATTEMPT_SHIFT))
    }

    const fn owner_bits(self) -> u16 {
        ((self.0 >> OWNER_SHIFT) & 0xFFF) as u16
    }

    const fn worker_bits(self) -> Option<WorkerIndex> {
        WorkerIndex::new_checked(self.owner_bits(), OWNER_NONE as u32)
    }
}

impl fmt::Debug for StateWord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "StateWord({} flags {:x} owner {:?} attempt {} generation {})",
            self.phase(),
            self.flags(),
            self.owner(),
            self.attempt(),
            self.generation()
        )
    }
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
