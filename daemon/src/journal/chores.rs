//! The chores thread: everything of the journal that blocks and is not a write of a group.
//!
//! It makes files ahead of use, brings spill files to stable storage before their receipt is given, recycles files below
//! a snapshot; one thing after the other, so that no two of them meet in the folder. Snapshots have a thread of their
//! own, because nothing may wait for them. The core never waits for either: it hands over a [`Job`] and gets an
//! [`Event`].
//!
//! Invariant: every job is answered by exactly one event or reply, also when it fails; but nobody waits for the removal of
//! files.

use std::convert::Infallible;
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;

use qtf_journal::{
    FileKey, FilePlan, JournalError, Lsn, Reclaimed, SpareFile, StdStorage, Storage,
};
use qtf_shm::BlobRef;
use qtf_shm::spill::{SpillError, SpillStore};
use tokio::sync::{mpsc as local, oneshot};

use super::snapshot::{SnapshotError, SnapshotJob, SnapshotReport};

/// LIMIT: used files that are kept as spares beside those that are prepared already.
const SPARES_WANTED: usize = 2;

/// What the chores thread is to do.
#[derive(Debug)]
pub(crate) enum Job {
    /// Make the next file of the journal.
    MakeFile(FilePlan),
    /// Bring a spill file and its name to stable storage.
    SyncSpill {
        store: SpillStore,
        blob: BlobRef,
        done: oneshot::Sender<Result<(), SpillError>>,
    },
    /// Remove spill files that were given up: what a task leaves may be large, and the core does not wait for that.
    RemoveFiles {
        store: SpillStore,
        files: Vec<BlobRef>,
    },
    /// Take a snapshot.
    Snapshot(Box<SnapshotJob>),
    /// See whether the file that is being written still has its name.
    LookAt(FileKey, Arc<File>),
    /// Recycle what the snapshot from this record on has made superfluous.
    Reclaim(Lsn),
}

/// What the chores thread says.
#[derive(Debug)]
pub(crate) enum Event {
    /// A file was made, and can be written through this.
    FileMade(Result<(SpareFile, Arc<File>), JournalError>),
    /// The snapshot's tasks are read: it may be published when everything that was appended by now is stable. The
    /// answer says up to where that is; no answer means that it never will be.
    SnapshotRead(mpsc::Sender<Lsn>),
    /// The snapshot is there, or could not be made.
    SnapshotTaken(Result<SnapshotReport, SnapshotError>),
    /// The file that is being written was removed or replaced: the next start would not find what is in it.
    FileGone(String),
    /// Files were recycled.
    Reclaimed(Result<Reclaimed, JournalError>),
    /// So many files have the name of a log.
    Files(u64),
}

/// The way to the chores thread. The thread ends when all clones are gone.
#[derive(Debug, Clone)]
pub(crate) struct Chores {
    jobs: mpsc::Sender<Job>,
}

impl Chores {
    /// Starts the thread; it runs where the caller may run, so the caller must not be pinned yet.
    pub(crate) fn start(storage: Arc<dyn Storage>, files: StdStorage) -> io::Result<(Self, Told)> {
        let (jobs, taken) = mpsc::channel();
        let (events, told) = local::unbounded_channel();
        let (alive, end) = mpsc::channel();
        let mut hands = Hands {
            storage,
            files,
            events,
            snapshot: None,
        };
        let run = move || {
            hands.work(&taken);
            hands.end();
            drop(alive);
        };
        std::thread::Builder::new()
            .name("qtfd-chores".to_owned())
            .spawn(run)?;
        let told = Told { events: told, end };
        Ok((Self { jobs }, told))
    }

    /// Hands a job over. After the end of the thread it is dropped, which its reply tells.
    pub(crate) fn hand(&self, job: Job) {
        if self.jobs.send(job).is_err() {
            tracing::error!("the journal's chores thread has ended");
        }
    }
}

/// What comes back from the thread.
#[derive(Debug)]
pub(crate) struct Told {
    pub(crate) events: local::UnboundedReceiver<Event>,
    /// Breaks off when the thread and that of a snapshot have ended: nobody touches the folder any more.
    pub(crate) end: mpsc::Receiver<Infallible>,
}

/// The thread's own.
struct Hands {
    storage: Arc<dyn Storage>,
    files: StdStorage,
    events: local::UnboundedSender<Event>,
    snapshot: Option<JoinHandle<()>>,
}

impl Hands {
    fn work(&mut self, jobs: &mpsc::Receiver<Job>) {
        for job in jobs {
            let event = match job {
                Job::MakeFile(plan) => Some(Event::FileMade(self.make_file(plan))),
                Job::SyncSpill { store, blob, done } => {
                    // Whoever uploaded it may be gone by now.
                    let _ = done.send(store.secure(blob));
                    None
                }
                Job::RemoveFiles { store, files } => {
                    remove_files(&store, &files);
                    None
                }
                Job::LookAt(key, file) => self.missing(key, &file).map(Event::FileGone),
                Job::Snapshot(job) => self.snapshot(job),
                Job::Reclaim(from) => Some(Event::Reclaimed(self.reclaim(from))),
            };
            let changes_files = matches!(event, Some(Event::FileMade(_) | Event::Reclaimed(_)));
            let count = if changes_files { self.count() } else { None };
            for event in event.into_iter().chain(count.map(Event::Files)) {
                if self.events.send(event).is_err() {
                    return;
                }
            }
        }
    }

    /// Waits for the thread of a snapshot, which gives up when nobody listens to it.
    fn end(&mut self) {
        if let Some(snapshot) = self.snapshot.take()
            && snapshot.join().is_err()
        {
            tracing::error!("the thread of a snapshot panicked");
        }
    }

    fn count(&self) -> Option<u64> {
        let names = self.storage.list().ok()?;
        let logs = names.iter().filter(|name| name.starts_with("log-"));
        u64::try_from(logs.count()).ok()
    }

    fn make_file(&self, plan: FilePlan) -> Result<(SpareFile, Arc<File>), JournalError> {
        let name = plan.key().name();
        let spare = qtf_journal::make_spare(&*self.storage, plan)?;
        let opened = self.files.open_file(&name);
        let file = opened.map_err(|source| JournalError::Io {
            operation: "open",
            file: name,
            source,
        })?;
        Ok((spare, Arc::new(file)))
    }

    /// The name of a file that others have taken away. What cannot be looked at is believed to be there.
    fn missing(&self, key: FileKey, file: &File) -> Option<String> {
        let path = self.files.dir().join(key.name());
        let held = file.metadata().ok()?;
        let is_there = match std::fs::symlink_metadata(&path) {
            Ok(found) => (found.dev(), found.ino()) == (held.dev(), held.ino()),
            Err(error) => error.kind() != io::ErrorKind::NotFound,
        };
        (!is_there).then(|| path.display().to_string())
    }

    fn reclaim(&self, from: Lsn) -> Result<Reclaimed, JournalError> {
        qtf_journal::reclaim(&*self.storage, from, SPARES_WANTED)
    }

    /// The event if the thread cannot be had.
    fn snapshot(&mut self, job: Box<SnapshotJob>) -> Option<Event> {
        // The one before has said that it is done.
        self.end();
        let (storage, events) = (Arc::clone(&self.storage), self.events.clone());
        let run = move || {
            let taken = job.take(&storage, &events);
            // Nobody listens when the daemon has ended meanwhile.
            let _ = events.send(Event::SnapshotTaken(taken));
        };
        let started = std::thread::Builder::new()
            .name("qtfd-snapshot".to_owned())
            .spawn(run);
        match started {
            Ok(thread) => {
                self.snapshot = Some(thread);
                None
            }
            Err(error) => Some(Event::SnapshotTaken(Err(error.into()))),
        }
    }
}

/// Removes spill files that were given up.
pub(crate) fn remove_files(store: &SpillStore, files: &[BlobRef]) {
    for &file in files {
        if let Err(error) = store.remove_given_up(file) {
            tracing::warn!(%error, "a file that nobody needs is left to the next start");
        }
    }
}
