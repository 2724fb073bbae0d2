//! What a journal says: one record for each change of a task that must outlive a reboot.
//!
//! | file | what |
//! |---|---|
//! | `frame.rs` | the head of each record: length, kind, checksum, chain, lsn |
//! | `encode.rs`, `decode.rs` | the bodies: a fixed part, and fields that may be passed over |
//! | `earlier.rs` | reading the bodies of the version before |
//! | `parts.rs` | taking a body apart |
//!
//! Invariant: records carry absolute values (the attempt it is now, not "one more"), so that applying one twice does no harm.
//! Tested in `journal/tests/records.rs`.

pub(crate) mod decode;
mod earlier;
pub(crate) mod encode;
pub(crate) mod frame;
mod parts;

use qtf_shm::{KeyId, Outcome, Phase, TaskId};

use crate::Lsn;

pub use decode::BadRecord;
pub use frame::RECORD_BYTES_MAX;

/// Bytes of a payload or result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Blob<'a> {
    /// No bytes.
    #[default]
    None,
    /// These.
    Bytes(&'a [u8]),
    /// In a spill file, which was on stable storage before the record was appended.
    Spill {
        /// Number of the file.
        number: u32,
        /// Its bytes.
        len: u64,
        /// Their checksum.
        crc32c: u32,
    },
}

/// Who submitted a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ClientRef<'a> {
    /// User, where the kernel told it.
    pub uid: Option<u32>,
    /// Name of the program or session; at most 255 bytes.
    pub name: &'a str,
    /// Host; at most 255 bytes.
    pub host: &'a str,
}

/// Everything that is to be known of a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WholeTask<'a> {
    /// Its name.
    pub id: TaskId,
    /// Where it stands.
    pub phase: Phase,
    /// Its cancellation was asked for.
    pub cancel_requested: bool,
    /// How often it was handed out.
    pub attempt: u16,
    /// How often it failed.
    pub failures: u8,
    /// How often its worker was lost.
    pub losses: u8,
    /// Failures that end it.
    pub max_attempts: u8,
    /// Bits of [`qtf_shm::TaskOptions`].
    pub options: u8,
    /// 255 is the most urgent.
    pub priority: u8,
    /// Place in the queue: stamp of the submission.
    pub stamp: u64,
    /// Run time allowed; 0 = any.
    pub timeout_ms: u32,
    /// Run time expected; 0 = unknown.
    pub estimate_ms: u32,
    /// How long its result is kept, in seconds; 0 = as long as others.
    pub keep_s: u32,
    /// Kind; at most 255 bytes.
    pub kind: &'a str,
    /// Who submitted it.
    pub client: ClientRef<'a>,
    /// Wall clock of the submission.
    pub submitted_unix_ms: u64,
    /// Wall clock before which it is not handed out; 0 = at once.
    pub due_unix_ms: u64,
    /// Wall clock of its end; 0 = not ended.
    pub ended_unix_ms: u64,
    /// Raw id of the array's first member, and the index in the array.
    pub array: Option<(u64, u64)>,
    /// Idempotency key and the wall clock at which it may be forgotten.
    pub key: Option<(KeyId, u64)>,
    /// How it ended.
    pub outcome: Outcome,
    /// What goes in.
    pub payload: Blob<'a>,
    /// What came out.
    pub result: Blob<'a>,
    /// The slot's lsn: of the last record that is reflected in this whole task. [`Lsn::NONE`] in a fresh submission, whose lsn is
    /// that of the record which carries the whole task.
    pub lsn: Lsn,
}

/// One record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record<'a> {
    /// A task as a whole: submitted, or journalled again after a restart. Kind `submit`.
    Task(WholeTask<'a>),
    /// It was handed out.
    Attempt {
        /// Which.
        task: TaskId,
        /// The attempt.
        attempt: u16,
        /// Raw id of the worker.
        worker: u64,
    },
    /// It waits again: after a failed attempt, a lost worker, for an operator (attempt 0), or because it was held or released.
    /// An earlier outcome is void.
    Requeue {
        /// Which.
        task: TaskId,
        /// READY, DELAYED or HELD.
        phase: Phase,
        /// Attempts so far.
        attempt: u16,
        /// Failures so far.
        failures: u8,
        /// Lost workers so far.
        losses: u8,
        /// Wall clock before which it is not handed out, whether or not it is held; 0 = at once.
        due_unix_ms: u64,
    },
    /// It ended for good.
    Outcome {
        /// Which.
        task: TaskId,
        /// The last attempt.
        attempt: u16,
        /// DONE, FAILED, CANCELLED or `DEAD_LETTER`.
        phase: Phase,
        /// How.
        outcome: Outcome,
        /// Failures in all.
        failures: u8,
        /// Lost workers in all.
        losses: u8,
        /// Wall clock.
        ended_unix_ms: u64,
        /// What came out.
        result: Blob<'a>,
    },
    /// Its cancellation was asked for while a worker held it.
    Cancel {
        /// Which.
        task: TaskId,
    },
    /// Its client has the result: the slot is free.
    Acknowledged {
        /// Which.
        task: TaskId,
    },
    /// Its time to live is over, or an operator removed it: the slot is free.
    Purge {
        /// Which.
        task: TaskId,
    },
    /// Generations below this limit may be given.
    Reserve {
        /// The limit.
        gen_limit: u64,
    },
    /// Its priority was changed.
    Update {
        /// Which.
        task: TaskId,
        /// 255 is the most urgent.
        priority: u8,
    },
    /// A key that is still alive though its task is gone, in snapshots; one without time left was given back, in logs.
    Key {
        /// The key.
        key: KeyId,
        /// The task it stood for.
        task: TaskId,
        /// Wall clock at which it may be forgotten; 0 = it was given back and is forgotten now.
        expires_unix_ms: u64,
    },
}

impl Record<'_> {
    /// The word for people, and for `qtf journal dump`.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Task(_) => "submit",
            Self::Attempt { .. } => "attempt",
            Self::Requeue { .. } => "requeue",
            Self::Outcome { .. } => "outcome",
            Self::Cancel { .. } => "cancel",
            Self::Acknowledged { .. } => "acknowledged",
            Self::Purge { .. } => "purge",
            Self::Reserve { .. } => "reserve",
            Self::Update { .. } => "update",
            Self::Key { .. } => "key",
        }
    }

    /// The task it is about; a reserve is about none.
    #[must_use]
    pub const fn task(&self) -> Option<TaskId> {
        match self {
            Self::Task(whole) => Some(whole.id),
            Self::Attempt { task, .. }
            | Self::Requeue { task, .. }
            | Self::Outcome { task, .. }
            | Self::Cancel { task }
            | Self::Acknowledged { task }
            | Self::Purge { task }
            | Self::Update { task, .. }
            | Self::Key { task, .. } => Some(*task),
            Self::Reserve { .. } => None,
        }
    }
}
