//! Where a task stands: the phases, with the numbers that lie in state words.
//!
//! Numbers 15 to 20 are planned, and readers name them; nothing writes them yet, so here they are all [`Phase::Reserved`], as those from 21 on.
//!
//! Tested in `state_tests.rs`.

use core::fmt;

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
    /// Never written by this version: any number from 15 on.
    Reserved = 31,
}

impl Phase {
    /// Numbers of phases that there can be: rows of tables over them.
    pub const COUNT: usize = 32;

    /// All phases that this version tells apart, in the order of their numbers.
    pub const ALL: [Self; 16] = [
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

    /// The phase of a number in a state word.
    #[inline]
    #[must_use]
    pub const fn from_number(number: u8) -> Self {
        // Arms whose numbers are those of the phases cost one comparison, and none where one phase is asked for; a table would cost a load.
        match number {
            0 => Self::Free,
            1 => Self::Claimed,
            2 => Self::Submitted,
            3 => Self::Blocked,
            4 => Self::Held,
            5 => Self::Delayed,
            6 => Self::Ready,
            7 => Self::Assigned,
            8 => Self::Running,
            9 => Self::Ended,
            10 => Self::Done,
            11 => Self::Failed,
            12 => Self::Cancelled,
            13 => Self::DeadLetter,
            14 => Self::Quarantine,
            _ => Self::Reserved,
        }
    }

    /// What a number in a state word is called, also where this version never writes it.
    #[must_use]
    pub const fn name_of(number: u8) -> &'static str {
        match number {
            15 => "aborted",
            16 => "preparing",
            17 => "suspended",
            18 => "unfolding",
            19 => "suspending",
            20 => "gathered",
            known => Self::from_number(known).name(),
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}
