//! Refusals: what the engine does not do, why, and when to ask again.
//!
//! The codes are those of `RefusalReason` in `proto/proto/qtf/v1/plm.proto` and never change. The
//! text is made only when somebody reads it, so that refusing (under overload the most frequent
//! answer) allocates nothing. Tested at the end of this file.

use std::fmt;

use qtf_shm::{Phase, TaskId, Tombstone};

use crate::shares::ShareUsedUp;
use crate::wall::Utc;

/// LIMIT: long enough for a daemon under load to free slots, short enough not to be noticed.
const RETRY_SOON_MS: u32 = 100;
/// LIMIT: workers and clients come back on a scale of seconds.
const RETRY_LATER_MS: u32 = 1_000;

/// Stable reasons of refusals.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u16)]
#[non_exhaustive]
pub enum RejectReason {
    /// No free task slot.
    TasksFull = 1,
    /// No room for the payload.
    ArenaFull = 2,
    /// Larger than the configured limit.
    PayloadTooLarge = 3,
    /// No task has this id.
    UnknownTask = 4,
    /// The slot of this id belongs to a later task.
    StaleTask = 5,
    /// No worker has this id, or its token is wrong.
    UnknownWorker = 6,
    /// The daemon has no journal.
    NoJournal = 7,
    /// The daemon is stopping.
    Stopping = 8,
    /// A field is out of range.
    InvalidArgument = 9,
    /// The task's state does not allow it.
    WrongState = 10,
    /// No free worker slot.
    WorkersFull = 11,
    /// No free client record.
    ClientsFull = 12,
    /// The table of task kinds is full.
    KindsFull = 13,
    /// The session token is not known.
    UnknownSession = 14,
    /// The upload receipt is not known.
    UnknownUpload = 15,
    /// Asked for something that this version does not offer.
    Unsupported = 16,
    /// The segment's ids are used up.
    IdsExhausted = 17,
    /// Spill directory full or failing.
    SpillFailed = 18,
    /// The table of idempotency keys is full.
    KeysFull = 19,
    /// The journal has no room.
    JournalFull = 20,
    /// The journal cannot be written any more.
    JournalFailed = 21,
}

impl RejectReason {
    /// Every reason, in the order of the codes.
    pub const ALL: [Self; 21] = [
        Self::TasksFull,
        Self::ArenaFull,
        Self::PayloadTooLarge,
        Self::UnknownTask,
        Self::StaleTask,
        Self::UnknownWorker,
        Self::NoJournal,
        Self::Stopping,
        Self::InvalidArgument,
        Self::WrongState,
        Self::WorkersFull,
        Self::ClientsFull,
        Self::KindsFull,
        Self::UnknownSession,
        Self::UnknownUpload,
        Self::Unsupported,
        Self::IdsExhausted,
        Self::SpillFailed,
        Self::KeysFull,
        Self::JournalFull,
        Self::JournalFailed,
    ];

    /// The number of this reason in `RefusalReason`.
    #[must_use]
    pub const fn code(self) -> u16 {
        self as u16
    }
}

/// What a refusal is about; turned into text by [`Rejection`]'s `Display`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Detail {
    /// A sentence that needs no values.
    Plain(&'static str),
    /// A field is out of range.
    Range {
        field: &'static str,
        value: u64,
        least: u64,
        most: u64,
    },
    /// The task is not there.
    Unknown(TaskId),
    /// No task of this segment had the id so far.
    NotGiven(TaskId),
    /// The id is not there, and was given before the segment was made, or elsewhere.
    OlderThanSegment(TaskId),
    /// Its result has expired.
    Expired {
        task: TaskId,
        phase: Phase,
        unix_ms: u64,
    },
    /// A number is above what a setting allows.
    Setting {
        field: &'static str,
        value: u64,
        most: u64,
        setting: &'static str,
    },
    /// The slot has moved on.
    Stale { asked: TaskId, now: TaskId },
    /// The task cannot do this in its state.
    State {
        task: TaskId,
        phase: Phase,
        action: &'static str,
    },
    /// A thing does not fit.
    Size { bytes: u64, limit: u64 },
    /// No room for bytes now.
    NoRoom { bytes: u64 },
    /// No room for bytes in spill files now.
    NoSpillRoom { bytes: u64, limit: u64 },
    /// A fixed table is full.
    Full { what: &'static str, count: u64 },
    /// A principal's share of a table is used up.
    Share(ShareUsedUp),
    /// The same of the keys, of which the first ends then.
    KeyShare(ShareUsedUp, u32),
    /// The table of keys has no place for this one; the first of those in its way ends then.
    NoPlaceForKey { count: u64, retry_after_ms: u32 },
    /// An id or token of a worker.
    Worker(u64),
    /// A client session.
    Session,
}

impl Detail {
    /// Why a task is not there; nothing for another detail.
    fn write_missing(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Unknown(task) => write!(
                f,
                "task {task} is not known: it was acknowledged, or its result expired or was not to be kept"
            ),
            Self::NotGiven(task) => write!(
                f,
                "task {task} is not known: this daemon never gave that id; another instance did (name it with --addr), or it is mistyped"
            ),
            Self::OlderThanSegment(task) => write!(
                f,
                "task {task} is not known: its id is older than this daemon's segment; another instance gave it (name it with --addr), or it was there before a cold start and is gone"
            ),
            Self::Expired {
                task,
                phase,
                unix_ms,
            } => {
                let at = Utc(unix_ms);
                write!(
                    f,
                    "task {task} was {phase}, and its result expired at {at} without having been acknowledged (qtf forget); --keep keeps one longer"
                )
            }
            Self::Stale { asked, now } => write!(
                f,
                "task {asked} is gone: its slot now belongs to the later task {now}"
            ),
            Self::Plain(_)
            | Self::Range { .. }
            | Self::Setting { .. }
            | Self::State { .. }
            | Self::Size { .. }
            | Self::NoRoom { .. }
            | Self::NoSpillRoom { .. }
            | Self::Full { .. }
            | Self::Share(_)
            | Self::KeyShare(..)
            | Self::NoPlaceForKey { .. }
            | Self::Worker(_)
            | Self::Session => Ok(()),
        }
    }
}

impl fmt::Display for Detail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Plain(text) => f.write_str(text),
            Self::Range {
                field,
                value,
                least,
                most,
            } => write!(f, "{field} is {value}: it must be from {least} to {most}"),
            Self::Unknown(_)
            | Self::NotGiven(_)
            | Self::OlderThanSegment(_)
            | Self::Expired { .. }
            | Self::Stale { .. } => self.write_missing(f),
            Self::Setting {
                field,
                value,
                most,
                setting,
            } => write!(
                f,
                "{field} is {value}: the daemon's setting {setting} allows {most}"
            ),
            Self::State {
                task,
                phase,
                action,
            } => write!(f, "task {task} is {phase}: {action}"),
            Self::Size { bytes, limit } => write!(
                f,
                "payload of {bytes} bytes is over the limit of {limit} bytes: pass a file name instead, or raise payload_bytes_max of the daemon"
            ),
            Self::NoRoom { bytes } => write!(
                f,
                "no room for {bytes} bytes of payload in the arena of the segment: try again later, or start the daemon with a larger segment"
            ),
            Self::NoSpillRoom { bytes, limit } => write!(
                f,
                "no room for {bytes} bytes of payload in spill files, which may hold {limit} together: try again later, forget results, or raise spill_limit_bytes"
            ),
            Self::Full { what, count } => write!(
                f,
                "all {count} {what} are in use: try again later, or start the daemon with a larger segment"
            ),
            Self::Share(used_up) => used_up.fmt(f),
            Self::KeyShare(used_up, ms) => write!(f, "{used_up}, the next one in {}", Span(ms)),
            Self::NoPlaceForKey {
                count,
                retry_after_ms,
            } => write!(
                f,
                "none of the {count} places for idempotency keys is free for this one: give keys back in received_keys, acknowledge tasks that have ended, let keys live shorter (key_ttl_ms), or start the daemon with a larger segment (segment_bytes); the next one ends in {}",
                Span(retry_after_ms)
            ),
            Self::Worker(raw) => write!(
                f,
                "worker w{}.{} is not known, or its token is wrong: register anew",
                raw & 0xFFFF,
                raw >> 16
            ),
            Self::Session => f.write_str("the session is not known: open a client session first"),
        }
    }
}

/// Milliseconds, for people.
struct Span(u32);

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            ms @ ..10_000 => write!(f, "{ms} ms"),
            ms => write!(f, "{} s", ms.div_ceil(1_000)),
        }
    }
}

/// A refusal: reason for programs, text for people, and when to try again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub struct Rejection {
    /// For programs.
    pub reason: RejectReason,
    /// When to try again; 0 = trying again does not help.
    pub retry_after_ms: u32,
    detail: Detail,
}

impl Rejection {
    /// A refusal that trying again does not mend.
    pub(crate) const fn new(reason: RejectReason, detail: Detail) -> Self {
        Self {
            reason,
            retry_after_ms: 0,
            detail,
        }
    }

    /// A refusal of a full thing that empties by itself.
    pub(crate) const fn for_now(reason: RejectReason, detail: Detail) -> Self {
        let peers_must_leave = matches!(
            reason,
            RejectReason::WorkersFull | RejectReason::ClientsFull
        );
        let retry_after_ms = if peers_must_leave {
            RETRY_LATER_MS
        } else {
            RETRY_SOON_MS
        };
        Self {
            reason,
            retry_after_ms,
            detail,
        }
    }

    /// A refusal of a full thing of which it is known when it will be less full.
    pub(crate) const fn until(reason: RejectReason, retry_after_ms: u32, detail: Detail) -> Self {
        Self {
            reason,
            retry_after_ms,
            detail,
        }
    }

    /// A refusal of a field, in one sentence.
    pub(crate) const fn invalid(text: &'static str) -> Self {
        Self::new(RejectReason::InvalidArgument, Detail::Plain(text))
    }

    /// A refusal of a number out of its range.
    pub(crate) const fn range(field: &'static str, value: u64, least: u64, most: u64) -> Self {
        Self::new(
            RejectReason::InvalidArgument,
            Detail::Range {
                field,
                value,
                least,
                most,
            },
        )
    }

    pub(crate) const fn no_journal() -> Self {
        Self::new(
            RejectReason::NoJournal,
            Detail::Plain(
                "the daemon has no journal, so durability journal cannot be promised: submit with durability memory, or start the daemon with a data directory",
            ),
        )
    }

    pub(crate) const fn unknown_task(task: TaskId) -> Self {
        Self::new(RejectReason::UnknownTask, Detail::Unknown(task))
    }

    /// The task is gone as its result has expired.
    pub(crate) const fn expired(reason: RejectReason, task: TaskId, tombstone: Tombstone) -> Self {
        let Tombstone { phase, unix_ms } = tombstone;
        let detail = Detail::Expired {
            task,
            phase,
            unix_ms,
        };
        Self::new(reason, detail)
    }

    /// A refusal of a number above what a setting allows.
    pub(crate) const fn setting(
        field: &'static str,
        value: u64,
        most: u64,
        setting: &'static str,
    ) -> Self {
        let detail = Detail::Setting {
            field,
            value,
            most,
            setting,
        };
        Self::new(RejectReason::InvalidArgument, detail)
    }

    pub(crate) const fn wrong_state(task: TaskId, phase: Phase, action: &'static str) -> Self {
        Self::new(
            RejectReason::WrongState,
            Detail::State {
                task,
                phase,
                action,
            },
        )
    }

    pub(crate) const fn unknown_worker(raw: u64) -> Self {
        Self::new(RejectReason::UnknownWorker, Detail::Worker(raw))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_numbered_from_one_without_a_gap() {
        for (place, reason) in RejectReason::ALL.into_iter().enumerate() {
            assert_eq!(usize::from(reason.code()), place + 1, "{reason:?}");
        }
    }

    #[test]
    fn codes_are_those_of_the_wire_contract() {
        let proto = include_str!("../../proto/proto/qtf/v1/plm.proto");
        for reason in RejectReason::ALL {
            let mut name = String::from("REFUSAL_REASON");
            for letter in format!("{reason:?}").chars() {
                if letter.is_ascii_uppercase() {
                    name.push('_');
                }
                name.push(letter.to_ascii_uppercase());
            }
            let line = format!("{name} = {};", reason.code());
            assert!(proto.contains(&line), "{line} is not in plm.proto");
        }
    }

    #[test]
    fn only_full_things_ask_to_try_again() {
        let detail = Detail::Full {
            what: "task slots",
            count: 7,
        };
        let full = Rejection::for_now(RejectReason::TasksFull, detail);
        assert_eq!(full.retry_after_ms, 100);
        assert_eq!(Rejection::range("priority", 256, 0, 255).retry_after_ms, 0);
        let crowded = Rejection::for_now(RejectReason::WorkersFull, detail);
        assert_eq!(crowded.retry_after_ms, 1_000);
    }

    #[test]
    fn text_names_the_thing_the_values_and_the_fix() {
        assert_eq!(
            Rejection::range("priority", 256, 0, 255).to_string(),
            "priority is 256: it must be from 0 to 255"
        );
        assert_eq!(
            Rejection::unknown_worker((1 << 16) | 3).to_string(),
            "worker w3.1 is not known, or its token is wrong: register anew"
        );
        let task = TaskId::from_raw(1 << 24).unwrap();
        let refused = Rejection::wrong_state(task, Phase::Done, "it cannot be cancelled any more");
        assert!(
            refused
                .to_string()
                .ends_with("is done: it cannot be cancelled any more")
        );
    }
}
