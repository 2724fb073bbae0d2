//! Collects records into the group that is written next. Passive: does no I/O and reads no clock.
//!
//! Two buffers of fixed size: one takes records while the other is being written. Ordinary records stop at
//! [`AppenderLimits::group_bytes`]; outcomes and requeues, which must not be refused because the work is done, go on to the
//! reserve's end.
//!
//! Invariant: lsns are given without gaps, in the order of pushing; a refused push takes none. Tested in
//! `journal/tests/writer.rs`.

use crate::Lsn;
use crate::record::Record;
use crate::record::encode::{self, TooLarge};
use crate::record::frame::RECORD_BYTES_MAX;

/// How much may wait to be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AppenderLimits {
    /// Ordinary records are refused beyond.
    pub group_bytes: usize,
    /// What else outcomes and requeues may take.
    pub reserve_bytes: usize,
}

impl Default for AppenderLimits {
    /// LIMIT: 4 MiB hold 15,000 small tasks, more than the disk takes in the millisecond in which one group is written.
    fn default() -> Self {
        Self {
            group_bytes: 4 << 20,
            reserve_bytes: 4 << 20,
        }
    }
}

/// A record was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PushError {
    /// The disk does not keep up. Again, when a group has been written.
    #[error("{pending} bytes wait to be written to the journal; try again when they are")]
    Full {
        /// What waits.
        pending: usize,
    },
    /// Never possible.
    #[error(
        "a record of {bytes} bytes is larger than {RECORD_BYTES_MAX}, or a name in it than 255; spill the payload"
    )]
    TooLarge {
        /// The bytes of it, or of the text.
        bytes: usize,
    },
}

impl From<TooLarge> for PushError {
    fn from(TooLarge { bytes }: TooLarge) -> Self {
        Self::TooLarge { bytes }
    }
}

/// Records that are written together.
#[derive(Debug)]
pub struct Group {
    pub(crate) bytes: Vec<u8>,
    pub(crate) first: Lsn,
    pub(crate) last: Lsn,
}

impl Group {
    /// Its first record.
    #[must_use]
    pub const fn first(&self) -> Lsn {
        self.first
    }

    /// Its last record.
    #[must_use]
    pub const fn last(&self) -> Lsn {
        self.last
    }

    /// Bytes.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.bytes.len()
    }
}

/// The end of the journal at which records are appended.
#[derive(Debug)]
pub struct Appender {
    limits: AppenderLimits,
    pending: Vec<u8>,
    /// Lsn of the first pending record, or of the next one.
    first: Lsn,
    next: Lsn,
    spare: Option<Vec<u8>>,
}

impl Appender {
    /// Starts with the lsn that the first record gets: the one after the journal's end.
    #[must_use]
    pub fn new(next: Lsn, limits: AppenderLimits) -> Self {
        let limits = AppenderLimits {
            group_bytes: limits.group_bytes.max(RECORD_BYTES_MAX),
            reserve_bytes: limits.reserve_bytes.max(RECORD_BYTES_MAX),
        };
        // Twice what is ever used at once, touched only as far as it is.
        let buffer = || Vec::with_capacity(limits.group_bytes.saturating_add(limits.reserve_bytes));
        Self {
            limits,
            pending: buffer(),
            first: next,
            next,
            spare: Some(buffer()),
        }
    }

    /// Appends an ordinary record and returns its lsn. It is durable when [`crate::Writer::durable`] has reached that.
    ///
    /// # Errors
    /// Too much waits, or the record is too large; nothing was appended.
    pub fn push(&mut self, record: &Record<'_>) -> Result<Lsn, PushError> {
        self.push_within(record, self.limits.group_bytes)
    }

    /// The same for what cannot be refused, since it has already happened: up to the end of the reserve.
    ///
    /// # Errors
    /// The reserve is full too, or the record is too large; nothing was appended.
    pub fn push_always(&mut self, record: &Record<'_>) -> Result<Lsn, PushError> {
        let bound = self
            .limits
            .group_bytes
            .saturating_add(self.limits.reserve_bytes);
        self.push_within(record, bound)
    }

    #[inline]
    fn push_within(&mut self, record: &Record<'_>, bound: usize) -> Result<Lsn, PushError> {
        let span = encode::span(record)?;
        let pending = self.pending.len();
        if pending.saturating_add(span) > bound || self.next.next() == self.next {
            return Err(PushError::Full { pending });
        }
        let lsn = self.next;
        encode::append(&mut self.pending, record, lsn)?;
        self.next = lsn.next();
        Ok(lsn)
    }

    /// The record appended last; [`Lsn::NONE`] if there is none in the whole journal.
    #[must_use]
    pub const fn last_lsn(&self) -> Lsn {
        Lsn::new(self.next.get().saturating_sub(1))
    }

    /// What waits to be written.
    #[must_use]
    pub const fn pending_bytes(&self) -> usize {
        self.pending.len()
    }

    /// Bytes that [`Appender::push`] still takes.
    #[must_use]
    pub const fn free_bytes(&self) -> usize {
        self.limits.group_bytes.saturating_sub(self.pending.len())
    }

    /// Bytes that [`Appender::push_always`] still takes.
    #[must_use]
    pub const fn free_reserve_bytes(&self) -> usize {
        let bound = self
            .limits
            .group_bytes
            .saturating_add(self.limits.reserve_bytes);
        bound.saturating_sub(self.pending.len())
    }

    /// Takes everything that waits; `None` if nothing does, or if the other buffer has not been given back yet.
    pub fn take_group(&mut self) -> Option<Group> {
        if self.pending.is_empty() {
            return None;
        }
        let empty = self.spare.take()?;
        let first = core::mem::replace(&mut self.first, self.next);
        Some(Group {
            bytes: core::mem::replace(&mut self.pending, empty),
            first,
            last: self.last_lsn(),
        })
    }

    /// Gives the buffer of a written group back ([`crate::Writer::take_buffer`]).
    pub fn give_back(&mut self, mut buffer: Vec<u8>) {
        buffer.clear();
        self.spare = Some(buffer);
    }
}
