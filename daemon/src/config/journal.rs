//! The settings of the journal: where it lies, how it is written, when snapshots are taken.
//!
//! Tested through [`super::settings`].

use std::path::PathBuf;
use std::time::Duration;

use super::check::{bounded, millis, not_one_of};
use super::raw::RawConfig;
use super::settings::SettingsError;

/// LIMIT: 64 MiB: a roll each 64 MiB of records, zero-filled ahead of use.
const FILE_BYTES: u64 = 64 << 20;
/// LIMIT: the smallest file still holds a few of the largest records.
const FILE_BYTES_LOWEST: u64 = 512 << 10;
const FILE_BYTES_HIGHEST: u64 = 4 << 30;
/// LIMIT: so many bytes of records are read at a cold start, beside the snapshot.
const SNAPSHOT_AFTER_BYTES: u64 = 256 << 20;

/// What writes the journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JournalBackend {
    /// What measures faster, which is a thread.
    Auto,
    /// Operations on the ring, or the start fails.
    IoUring,
    /// A thread of its own.
    Thread,
}

impl JournalBackend {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::IoUring => "io_uring",
            Self::Thread => "thread",
        }
    }
}

/// The journal, where there is a data folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct JournalSettings {
    /// The folder that everything lies in that must outlive a reboot.
    pub(crate) data_dir: PathBuf,
    pub(crate) backend: JournalBackend,
    /// Size of each file.
    pub(crate) file_bytes: u64,
    /// A snapshot is taken after so many bytes of records.
    pub(crate) snapshot_after_bytes: u64,
    /// A snapshot is taken after this time if anything was written since the last.
    pub(crate) snapshot_interval: Duration,
}

/// The journal's settings, and whether a task that does not ask is journalled.
pub(super) fn journal_of(
    raw: &RawConfig,
) -> Result<(Option<JournalSettings>, bool), SettingsError> {
    let backend = backend_of(raw.journal.as_deref())?;
    let file_range = (FILE_BYTES_LOWEST, FILE_BYTES_HIGHEST);
    let file_bytes = bounded(
        "journal_file_bytes",
        raw.journal_file_bytes,
        FILE_BYTES,
        file_range,
    )?;
    let snapshot_after_bytes = bounded(
        "snapshot_after_bytes",
        raw.snapshot_after_bytes,
        SNAPSHOT_AFTER_BYTES,
        (FILE_BYTES_LOWEST, 1 << 40),
    )?;
    let snapshot_interval = millis(
        "snapshot_interval_ms",
        raw.snapshot_interval_ms,
        600_000,
        100,
        31_536_000_000,
    )?;
    let journal = raw.data_dir.as_ref().map(|data_dir| JournalSettings {
        data_dir: data_dir.clone(),
        backend,
        // Whole pages, because the kernel writes whole pages.
        file_bytes: file_bytes.next_multiple_of(4096),
        snapshot_after_bytes,
        snapshot_interval,
    });
    let durable = match raw.durability.as_deref() {
        None => journal.is_some(),
        Some("memory") => false,
        Some("journal") if journal.is_none() => return Err(SettingsError::NoDataDir),
        Some("journal") => true,
        Some(other) => {
            return Err(not_one_of("durability", other, "\"memory\" or \"journal\""));
        }
    };
    Ok((journal, durable))
}

fn backend_of(backend: Option<&str>) -> Result<JournalBackend, SettingsError> {
    match backend {
        None | Some("auto") => Ok(JournalBackend::Auto),
        Some("io_uring") => Ok(JournalBackend::IoUring),
        Some("thread") => Ok(JournalBackend::Thread),
        Some(other) => Err(not_one_of(
            "journal",
            other,
            "\"auto\", \"io_uring\" or \"thread\"",
        )),
    }
}
