//! The core's way to the spill thread: handing over never waits, and the queue is bounded by construction.
//!
//! Invariant: each upload has at most one job under way, at most [`READS_MAX`] reads are, which are their owners' to keep, and one removal
//! is. The queue has a place for each of them, and for the last removal. Tested in `core/uploads/` and `core/reads.rs`.

use std::cell::Cell;
use std::sync::mpsc;

use qtf_shm::BlobRef;

use super::thread::{Job, Range, ReadKey, Step, UploadKey};

/// LIMIT: reads under way; others wait.
pub(crate) const READS_MAX: usize = 16;

/// LIMIT: files that one job removes.
pub(crate) const REMOVED_AT_ONCE: usize = 64;

/// The way to the spill thread, which ends when all owners have dropped this.
#[derive(Debug)]
pub(crate) struct SpillJobs {
    jobs: mpsc::SyncSender<Job>,
    is_removing: Cell<bool>,
}

impl SpillJobs {
    /// A queue for so many uploads.
    pub(super) fn new(uploads_max: usize) -> (Self, mpsc::Receiver<Job>) {
        // LIMIT: one for each upload, the reads, a removal, and the last one.
        let places = uploads_max.saturating_add(READS_MAX + 2);
        let (jobs, taken) = mpsc::sync_channel(places);
        let jobs = Self {
            jobs,
            is_removing: Cell::new(false),
        };
        (jobs, taken)
    }

    /// Hands over what is to be done for an upload that has nothing under way. False if the thread has ended.
    pub(crate) fn hand(&self, key: UploadKey, step: Step) -> bool {
        self.send(Job::Upload(key, step))
    }

    /// Hands over a read; fewer than [`READS_MAX`] are under way.
    pub(crate) fn read(&self, key: ReadKey, range: Range) -> bool {
        self.send(Job::Read(key, range))
    }

    /// Whether files are being removed: others wait until that is done.
    pub(crate) fn is_removing(&self) -> bool {
        self.is_removing.get()
    }

    /// Has files removed that were given up; none may be under removal.
    pub(crate) fn remove(&self, files: Vec<BlobRef>) {
        self.is_removing.set(self.send(Job::Remove(files)));
    }

    /// A removal is done.
    pub(crate) fn removed(&self) {
        self.is_removing.set(false);
    }

    /// The last removal, behind everything that was handed over. The owners drop this then.
    pub(crate) fn remove_last(&self, files: Vec<BlobRef>) {
        self.send(Job::Remove(files));
    }

    fn send(&self, job: Job) -> bool {
        let sent = self.jobs.try_send(job);
        if let Err(error) = &sent {
            // There is a place for each that may be under way, so it has ended.
            tracing::error!(%error, "the spill thread takes no job");
        }
        sent.is_ok()
    }
}
