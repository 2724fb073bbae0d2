//! What the calls from outside answer, in which words, and when the answer may be passed on.
//!
//! Rule: an answer with `durable: Some(lsn)` is passed on to a client or worker only when
//! [`crate::Engine::durable_lsn`] has reached that lsn; one with `None` at once. In memory operation
//! it is always `None`. Tested in `engine/tests/rules/journal.rs`.

use qtf_shm::{Phase, TaskId};

use crate::Lsn;

/// How durable the client wants its task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Durability {
    /// The best that the daemon can do: journal if it has one.
    #[default]
    Best,
    /// Survives the daemon, not a reboot.
    Memory,
    /// On stable storage before the answer. Refused by a daemon without a journal.
    Journal,
}

/// The answer to a submission.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Accepted {
    /// The task; with `is_repeat` the first task of the key.
    pub task: TaskId,
    /// Pass the answer on only when this is durable.
    pub durable: Option<Lsn>,
    /// What the answer promises: `Memory` or `Journal`, never `Best`.
    pub durability: Durability,
    /// The key was known: nothing was submitted now.
    pub is_repeat: bool,
    /// With `is_repeat`: the first task has ended and its result is no longer kept.
    pub result_expired: bool,
}

impl Accepted {
    /// A task of its own.
    pub(crate) const fn once(task: TaskId, durable: Option<Lsn>) -> Self {
        Self {
            task,
            durable,
            durability: if durable.is_some() {
                Durability::Journal
            } else {
                Durability::Memory
            },
            is_repeat: false,
            result_expired: false,
        }
    }
}

/// The answer to a change of a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer {
    /// The phase after the change; the one before it if the slot was freed.
    pub phase: Phase,
    /// Pass the answer on only when this is durable.
    pub durable: Option<Lsn>,
}

/// What became of a reported result. In each case but the last two the worker may forget it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disposition {
    /// It was current and is recorded.
    Recorded,
    /// The same attempt's result was recorded before.
    AlreadyRecorded,
    /// The attempt is no longer current: refused and counted.
    Stale,
    /// The journal has no room for it now: nothing changed, the worker keeps the result and reports it again.
    NotNow,
    /// The segment has no room for its output: nothing is recorded. To be reported again with [`Output::Stored`], or
    /// [`Output::Lost`].
    NeedsFile,
}

/// The answer to a worker's result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResultAnswer {
    /// What became of it.
    pub disposition: Disposition,
    /// Pass the answer on only when this is durable: until then the worker keeps the result.
    pub durable: Option<Lsn>,
}

impl ResultAnswer {
    /// An answer that waits for nothing.
    pub(crate) const fn at_once(disposition: Disposition) -> Self {
        Self {
            disposition,
            durable: None,
        }
    }
}
