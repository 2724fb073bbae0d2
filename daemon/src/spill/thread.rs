//! The spill thread: everything that is done to the files of uploads, the reading of what is fetched, and the removal of files that nobody
//! needs.
//!
//! The core never waits for it: it hands over a [`Job`] and gets a [`Done`]. The files under way are the thread's own, by the number
//! of their upload, so that none is ever closed or removed on another thread.
//!
//! Invariants:
//! - I1: every job is answered by exactly one [`Done`], in the order in which they came.
//! - I2: a file under way is finished, or removed: by [`Step::Drop`], by a step that fails, or by the end of the thread.
//!
//! Tested at the end of this file, in `core/uploads/` and in `tests/daemon/transfer.rs`.

use std::collections::HashMap;
use std::convert::Infallible;
use std::io;
use std::sync::{Arc, mpsc};

use bytes::Bytes;
use qtf_shm::BlobRef;
use qtf_shm::spill::{SpillError, SpillStore, SpillWriter};
use tokio::sync::mpsc as local;

use super::jobs::SpillJobs;
use crate::config::faults::DiskFaults;

/// Names an upload under way; never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct UploadKey(pub(crate) u64);

/// What is to be done for one upload.
#[derive(Debug)]
pub(crate) enum Step {
    /// Make its file, for so many bytes.
    Begin(u64),
    /// Append.
    Write(Bytes),
    /// End it; bring it to stable storage too, if a record may name it from then on.
    Finish { is_durable: bool },
    /// All of these in one: a file of these bytes.
    Whole { data: Bytes, is_durable: bool },
    /// Remove it, if it is there.
    Drop,
}

/// Names a read; never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ReadKey(pub(crate) u64);

/// A part of a blob that is to be read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Range {
    pub(crate) blob: BlobRef,
    pub(crate) offset: u64,
    pub(crate) length: usize,
}

/// What was read: less than asked for only at the end of the blob.
pub(crate) type ReadAnswer = Result<Vec<u8>, SpillError>;

/// What the thread is to do.
#[derive(Debug)]
pub(crate) enum Job {
    Upload(UploadKey, Step),
    Read(ReadKey, Range),
    /// Remove files that were given up.
    Remove(Vec<BlobRef>),
}

/// A job is done, or has failed.
#[derive(Debug)]
pub(crate) enum Done {
    Upload(UploadKey, Answer),
    Read(ReadKey, ReadAnswer),
    Removed,
}

/// What came of a step: the blob, if it was the last one.
pub(crate) type Answer = Result<Option<BlobRef>, SpillError>;

/// What comes back from the thread.
#[derive(Debug)]
pub(crate) struct Told {
    pub(crate) done: local::UnboundedReceiver<Done>,
    /// Breaks off when the thread has ended: nobody touches the folder any more.
    pub(crate) end: mpsc::Receiver<Infallible>,
}

/// Starts the thread; it runs where the caller may run, so the caller must not be pinned yet. At most `uploads_max` uploads have a
/// job under way.
pub(crate) fn start(
    store: SpillStore,
    uploads_max: usize,
    faults: Option<Arc<dyn DiskFaults>>,
) -> io::Result<(SpillJobs, Told)> {
    let (jobs, taken) = SpillJobs::new(uploads_max);
    let (answers, done) = local::unbounded_channel();
    let (alive, end) = mpsc::channel();
    let run = move || {
        let mut hands = Hands {
            store,
            faults,
            files: HashMap::new(),
        };
        for job in taken {
            // The core is gone when nobody listens; what it has handed over is done all the same.
            let _ = answers.send(hands.work(job));
        }
        drop(hands);
        drop(alive);
    };
    std::thread::Builder::new()
        .name("qtfd-spill".to_owned())
        .spawn(run)?;
    Ok((jobs, Told { done, end }))
}

/// The thread's own.
struct Hands {
    store: SpillStore,
    faults: Option<Arc<dyn DiskFaults>>,
    /// Files under way.
    files: HashMap<UploadKey, SpillWriter>,
}

impl Hands {
    fn work(&mut self, job: Job) -> Done {
        let is_full = self.faults.as_ref().is_some_and(|faults| faults.spill());
        match job {
            Job::Upload(key, step) => {
                let answer = match &step {
                    Step::Write(data) | Step::Whole { data, .. } if is_full => {
                        Err(self.full(data.len()))
                    }
                    Step::Begin(_)
                    | Step::Write(_)
                    | Step::Finish { .. }
                    | Step::Whole { .. }
                    | Step::Drop => self.step(key, step),
                };
                if answer.is_err() {
                    // Nothing more comes of it: its space is free now, not when its peer has been told.
                    self.files.remove(&key);
                }
                Done::Upload(key, answer)
            }
            Job::Read(key, range) => Done::Read(key, self.read(range)),
            Job::Remove(files) => {
                for file in files {
                    if let Err(error) = self.store.remove_given_up(file) {
                        tracing::warn!(%error, "a file that nobody needs is left to the next start");
                    }
                }
                Done::Removed
            }
        }
    }

    fn read(&self, range: Range) -> ReadAnswer {
        let mut data = vec![0; range.length];
        let count = self.store.read_at(range.blob, range.offset, &mut data)?;
        data.truncate(count);
        Ok(data)
    }

    fn step(&mut self, key: UploadKey, step: Step) -> Answer {
        match step {
            Step::Begin(bytes) => {
                let writer = self.store.create(bytes)?;
                self.files.insert(key, writer);
                Ok(None)
            }
            Step::Write(data) => {
                let writer = self.files.get_mut(&key).ok_or(SpillError::NotSpilled)?;
                writer.write(&data)?;
                Ok(None)
            }
            Step::Finish { is_durable } => {
                let writer = self.files.remove(&key).ok_or(SpillError::NotSpilled)?;
                let blob = writer.finish()?;
                if is_durable && let Err(error) = self.store.secure(blob) {
                    // Nobody may be told that it is there.
                    if let Err(error) = self.store.remove(blob) {
                        tracing::warn!(%error, "upload not removed");
                    }
                    return Err(error);
                }
                Ok(Some(blob))
            }
            Step::Whole { data, is_durable } => {
                let bytes = u64::try_from(data.len()).unwrap_or(u64::MAX);
                self.step(key, Step::Begin(bytes))?;
                self.step(key, Step::Write(data))?;
                self.step(key, Step::Finish { is_durable })
            }
            Step::Drop => {
                self.files.remove(&key);
                Ok(None)
            }
        }
    }

    fn full(&self, bytes: usize) -> SpillError {
        SpillError::Full {
            dir: self.store.dir().to_owned(),
            bytes: u64::try_from(bytes).unwrap_or(u64::MAX),
            source: io::Error::from_raw_os_error(libc::ENOSPC),
        }
    }
}
