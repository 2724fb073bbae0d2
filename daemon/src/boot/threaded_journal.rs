//! A journal on its way from the start to the daemon's thread, with the threads that work for it.
//!
//! They are started where the process may run anywhere; what the daemon's thread starts after it has been pinned
//! stays on its core.

use std::sync::Arc;

use super::journal::OpenJournal;
use super::{BootError, ThreadEnd};
use crate::config::JournalBackend;
use crate::config::settings::Settings;
use crate::core::journal::{FILES_RESERVED, JournalFacts, JournalParts};
use crate::cycle::journal_tasks::JournalTaskParts;
use crate::journal::backend::{Disk, WriteBackend, WriteThread};
use crate::journal::chores::{Chores, Told};
use crate::net::Backend;

/// A journal, and the threads that work for it.
#[derive(Debug)]
pub(crate) struct ThreadedJournal {
    pub(crate) open: OpenJournal,
    chores: Chores,
    told: Told,
    wanted: JournalBackend,
    /// The thread that writes; `None` where the ring does for sure.
    writing: Option<WriteThread>,
}

impl ThreadedJournal {
    /// Starts the threads.
    pub(crate) fn new(settings: &Settings, open: OpenJournal) -> Result<Self, BootError> {
        let dir = &open.dir;
        let (chores, told) = Chores::start(Arc::clone(&dir.storage), dir.files.clone())
            .map_err(BootError::Thread)?;
        let wanted = settings
            .journal
            .as_ref()
            .map_or(JournalBackend::Auto, |journal| journal.backend);
        let writing = match wanted {
            JournalBackend::IoUring => None,
            JournalBackend::Auto | JournalBackend::Thread => {
                Some(WriteThread::start().map_err(BootError::Thread)?)
            }
        };
        Ok(Self {
            open,
            chores,
            told,
            wanted,
            writing,
        })
    }

    /// What will write it where the sockets are on `network`.
    pub(crate) fn backend(&self, network: Backend) -> &'static str {
        match (self.wanted, network) {
            (JournalBackend::IoUring, Backend::IoUring) => "io_uring",
            _ => "thread",
        }
    }

    /// Divides it between the core and the tasks beside it.
    pub(crate) fn split(
        self,
        settings: &Settings,
        network: Backend,
    ) -> Result<(JournalParts, JournalTaskParts), ThreadEnd> {
        let backend = match (self.wanted, network, self.writing) {
            (JournalBackend::IoUring, Backend::IoUring, _) => WriteBackend::Ring,
            (_, _, Some(thread)) => WriteBackend::Thread(thread),
            (_, _, None) => {
                return Err(ThreadEnd::Boot(BootError::no_ring_for_journal()));
            }
        };
        let OpenJournal {
            dir,
            writer,
            files,
            newest_snapshot,
            mut bytes_since,
            has_files_of_the_version_before,
            shortage,
            ..
        } = self.open;
        let journal = settings.journal.as_ref();
        let facts = JournalFacts {
            backend: backend.name(),
            data_dir: journal
                .map(|journal| journal.data_dir.clone())
                .unwrap_or_default(),
            reserve_bytes: dir.config.file_bytes.saturating_mul(FILES_RESERVED),
            snapshot_after_bytes: journal.map_or(u64::MAX, |journal| journal.snapshot_after_bytes),
            snapshot_interval: journal.map_or(std::time::Duration::MAX, |journal| {
                journal.snapshot_interval
            }),
            config: dir.config,
        };
        if has_files_of_the_version_before {
            tracing::info!("the journal has files of the version before: a snapshot replaces them");
            bytes_since = bytes_since.max(facts.snapshot_after_bytes);
        }
        let parts = JournalParts {
            writer,
            files,
            chores: self.chores,
            facts,
            newest_snapshot,
            bytes_since,
            shortage,
        };
        let rest = JournalTaskParts {
            disk: Disk {
                backend,
                faults: settings.disk_faults.clone(),
            },
            told: self.told,
            lock: dir.lock,
        };
        Ok((parts, rest))
    }
}
