//! What the calls from outside answer, and when the answer may be passed on.
//!
//! Rule: an answer with `durable: Some(lsn)` is passed on to a client or worker only when
//! [`crate::Engine::durable_lsn`] has reached that lsn; one with `None` at once. In memory operation
//! it is always `None`. Tested in `engine/tests/rules/journal.rs`.

use qtf_shm::{Phase, TaskId};

use crate::Lsn;
use crate::plm::{Disposition, Durability};

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

/// The answer to a change of a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer {
    /// The phase after the change; the one before it if the slot was freed.
    pub phase: Phase,
    /// Pass the answer on only when this is durable.
    pub durable: Option<Lsn>,
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
