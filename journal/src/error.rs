//! What can be wrong with a journal. Each error names the file, the place in it, and what to do.

use std::io;

use crate::Lsn;
use crate::record::BadRecord;
use crate::record::frame::BadFrame;

/// What is wrong with bytes that were on stable storage.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Why {
    /// The bytes are no record.
    #[error("{0}")]
    Frame(#[from] BadFrame),
    /// The record says what cannot be.
    #[error("{0}")]
    Record(#[from] BadRecord),
    /// The header of the file is not as it was written.
    #[error("its header is damaged: {0}")]
    Header(&'static str),
    /// A record is missing, and a later one proves that it had been on stable storage.
    #[error("{frame}; but {witness} says that this record had been on stable storage")]
    Missing {
        /// What lies in its place.
        frame: BadFrame,
        /// Where the proof lies.
        witness: String,
    },
    /// Files are missing.
    #[error("{0}")]
    Gap(String),
}

/// The journal cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// Bytes that were on stable storage have changed.
    #[error(
        "journal damaged: {file}, offset {offset}{}: {why}; nothing was changed. Restore the file from a copy, or see docs/OPERATING.md on what `qtf journal` can save",
        told(*.lsn)
    )]
    Damaged {
        /// The file.
        file: String,
        /// Where in it.
        offset: u64,
        /// Which record should be there; [`Lsn::NONE`] where that cannot be told.
        lsn: Lsn,
        /// What is wrong.
        why: Why,
    },
    /// Written by another version.
    #[error(
        "{file} is of journal version {found}, this program reads version {known} and the one before; use the version that wrote it"
    )]
    Version {
        /// The file.
        file: String,
        /// Its version.
        found: u32,
        /// Ours.
        known: u32,
    },
    /// Belongs to another instance.
    #[error("{file} belongs to instance `{found}`, not `{wanted}`; set data_dir or --instance")]
    Instance {
        /// The file.
        file: String,
        /// Whose it is.
        found: String,
        /// Who asks.
        wanted: String,
    },
    /// A setting cannot be.
    #[error("journal_file_bytes = {found}: at least {min}, at most {max}")]
    FileBytes {
        /// What was asked for.
        found: u64,
        /// Least.
        min: u64,
        /// Most.
        max: u64,
    },
    /// An operation failed.
    #[error("cannot {operation} {file}: {source}")]
    Io {
        /// What was to be done.
        operation: &'static str,
        /// To what.
        file: String,
        /// What the system says.
        source: io::Error,
    },
    /// A further file would take the room in which the next snapshot is to be written, without which no older file ever goes.
    #[error(
        "no room for {file_bytes} bytes more and for a snapshot of up to {snapshot_bytes} bytes beside: {free_bytes} are free"
    )]
    NoRoomForSnapshot {
        /// Size of the file.
        file_bytes: u64,
        /// What the next snapshot can come to.
        snapshot_bytes: u64,
        /// What the disk has.
        free_bytes: u64,
    },
    /// A snapshot cannot be published yet.
    #[error(
        "the snapshot shows lsn {shown}, only {durable} is on stable storage; publish it later"
    )]
    NotYetDurable {
        /// Highest lsn shown.
        shown: Lsn,
        /// What is durable.
        durable: Lsn,
    },
}

/// Nothing where it is not known.
fn told(lsn: Lsn) -> String {
    if lsn == Lsn::NONE {
        String::new()
    } else {
        format!(", lsn {lsn}")
    }
}

impl JournalError {
    /// Whether the disk had no room for what was to be done.
    #[must_use]
    pub fn is_disk_full(&self) -> bool {
        use io::ErrorKind::{QuotaExceeded, StorageFull};
        if let Self::Io { source, .. } = self {
            return matches!(source.kind(), StorageFull | QuotaExceeded);
        }
        matches!(self, Self::NoRoomForSnapshot { .. })
    }

    pub(crate) fn io(operation: &'static str, file: &str) -> impl FnOnce(io::Error) -> Self {
        let file = file.to_owned();
        move |source| Self::Io {
            operation,
            file,
            source,
        }
    }

    pub(crate) fn damaged(file: &str, offset: usize, lsn: Lsn, why: impl Into<Why>) -> Self {
        Self::Damaged {
            file: file.to_owned(),
            offset: offset as u64,
            lsn,
            why: why.into(),
        }
    }
}

/// A write or sync of the journal failed: nothing may be acknowledged from now on.
#[derive(Debug, thiserror::Error)]
#[error(
    "journal write failed: {file}, offset {offset}, lsn {lsn}: {source}; nothing is acknowledged any more"
)]
pub struct WriteFailed {
    /// The file.
    pub file: String,
    /// Where the write began.
    pub offset: u64,
    /// First record of the write.
    pub lsn: Lsn,
    /// What the system says.
    pub source: io::Error,
}
