//! The chores thread: everything of the journal that blocks and is not a write of a group.
//!
//! It makes files ahead of use, sees whether the file that is written is still there, recycles files below a snapshot; one thing
//! after the other, so that no two of them meet in the folder. Snapshots have a thread of their own, because nothing may wait for
//! them; and so have spill files ([`crate::spill`]). The core never waits for either: it hands over a [`Job`] and gets an
//! [`Event`].
//!
//! Invariants:
//! - I1: every job that is handed over is answered by exactly one [`Event::Done`], also when it fails; what else is to be said of it
//!   comes behind that.
//! - I2: of each [`Kind`] one job is under way, and the queue has a place for each of them: a disk that hangs makes nothing grow. What
//!   there is no place for is asked for again when it is due ([`Kind::LookAt`]), or waits as one number ([`Kind::Reclaim`]).
//!
//! Tested at the end of this file.

use std::convert::Infallible;
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;

use qtf_journal::{
    FileKey, FilePlan, JournalError, Lsn, Reclaimed, SpareFile, StdStorage, Storage,
};
use tokio::sync::mpsc as local;

use super::snapshot::{SnapshotError, SnapshotJob, SnapshotReport};

/// LIMIT: used files that are kept as spares beside those that are prepared already.
const SPARES_WANTED: usize = 2;

/// What the chores thread is to do.
#[derive(Debug)]
pub(crate) enum Job {
    /// Make the next file of the journal.
    MakeFile(FilePlan),
    /// Take a snapshot.
    Snapshot(Box<SnapshotJob>),
    /// See whether the file that is being written still has its name.
    LookAt(FileKey, Arc<File>),
    /// Recycle what the snapshot from this record on has made superfluous.
    Reclaim(Lsn),
}

/// What jobs are told apart by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    MakeFile,
    Snapshot,
    LookAt,
    Reclaim,
}

impl Kind {
    const COUNT: usize = 4;
}

impl Job {
    const fn kind(&self) -> Kind {
        match self {
            Self::MakeFile(_) => Kind::MakeFile,
            Self::Snapshot(_) => Kind::Snapshot,
            Self::LookAt(..) => Kind::LookAt,
            Self::Reclaim(_) => Kind::Reclaim,
        }
    }
}

/// What the chores thread says.
#[derive(Debug)]
pub(crate) enum Event {
    /// A job of this kind is no longer under way. What came of it is said next.
    Done(Kind),
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

/// The way to the chores thread, which ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Chores {
    jobs: mpsc::SyncSender<Job>,
    is_under_way: [bool; Kind::COUNT],
    /// What a snapshot has made superfluous while older files were being recycled.
    reclaim_next: Option<Lsn>,
}

impl Chores {
    /// Starts the thread; it runs where the caller may run, so the caller must not be pinned yet.
    pub(crate) fn start(storage: Arc<dyn Storage>, files: StdStorage) -> io::Result<(Self, Told)> {
        let (jobs, taken) = mpsc::sync_channel(Kind::COUNT);
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
        let chores = Self {
            jobs,
            is_under_way: [false; Kind::COUNT],
            reclaim_next: None,
        };
        Ok((chores, told))
    }

    /// Hands a job over, unless one of its kind is under way. Returns whether it was handed over.
    pub(crate) fn hand(&mut self, job: Job) -> bool {
        let kind = job.kind();
        if self.is_under_way[kind as usize] {
            if let Job::Reclaim(from) = job {
                self.reclaim_next = self.reclaim_next.max(Some(from));
            }
            return false;
        }
        match self.jobs.try_send(job) {
            Ok(()) => {
                self.is_under_way[kind as usize] = true;
                true
            }
            Err(mpsc::TrySendError::Disconnected(_)) => {
                tracing::error!("the journal's chores thread has ended");
                false
            }
            Err(mpsc::TrySendError::Full(_)) => {
                // There is a place for each that may be under way.
                tracing::error!(?kind, "no place for a job of the chores thread");
                false
            }
        }
    }

    /// A job is no longer under way; what waited for its place takes it.
    pub(crate) fn done(&mut self, kind: Kind) {
        self.is_under_way[kind as usize] = false;
        if kind == Kind::Reclaim
            && let Some(from) = self.reclaim_next.take()
        {
            self.hand(Job::Reclaim(from));
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
            let kind = job.kind();
            let event = match job {
                Job::MakeFile(plan) => Some(Event::FileMade(self.make_file(plan))),
                Job::LookAt(key, file) => self.missing(key, &file).map(Event::FileGone),
                Job::Snapshot(job) => self.snapshot(job),
                Job::Reclaim(from) => Some(Event::Reclaimed(self.reclaim(from))),
            };
            let changes_files = matches!(event, Some(Event::FileMade(_) | Event::Reclaimed(_)));
            let count = if changes_files { self.count() } else { None };
            let told = [Some(Event::Done(kind)), event, count.map(Event::Files)];
            for event in told.into_iter().flatten() {
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
        match qtf_journal::make_room_for_snapshot(&*self.storage) {
            Ok(0) => {}
            Ok(spares) => tracing::info!(spares, "given up, for the room of the next snapshot"),
            // The snapshot says what is wrong with the folder, if it meets it too.
            Err(error) => tracing::warn!(%error, "no room made for the next snapshot"),
        }
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

#[cfg(test)]
mod tests {
    use std::sync::{Condvar, Mutex};

    use qtf_journal::{Mapped, StorageFile};

    use super::*;

    /// A folder on a disk that hangs until it is woken.
    #[derive(Debug)]
    struct HangingDisk {
        real: StdStorage,
        hangs: Mutex<bool>,
        woken: Condvar,
    }

    impl HangingDisk {
        fn wake(&self) {
            *self.hangs.lock().unwrap() = false;
            self.woken.notify_all();
        }

        fn wait(&self) {
            let hangs = self.hangs.lock().unwrap();
            drop(self.woken.wait_while(hangs, |hangs| *hangs).unwrap());
        }
    }

    impl Storage for HangingDisk {
        fn list(&self) -> io::Result<Vec<String>> {
            self.wait();
            self.real.list()
        }
        fn create(&self, name: &str) -> io::Result<Box<dyn StorageFile>> {
            self.wait();
            self.real.create(name)
        }
        fn open(&self, name: &str) -> io::Result<Box<dyn StorageFile>> {
            self.wait();
            self.real.open(name)
        }
        fn map(&self, name: &str) -> io::Result<Mapped> {
            self.wait();
            self.real.map(name)
        }
        fn rename(&self, from: &str, to: &str) -> io::Result<()> {
            self.wait();
            self.real.rename(from, to)
        }
        fn remove(&self, name: &str) -> io::Result<()> {
            self.wait();
            self.real.remove(name)
        }
        fn free_bytes(&self) -> io::Result<u64> {
            self.wait();
            self.real.free_bytes()
        }
        fn sync_dir(&self) -> io::Result<()> {
            self.wait();
            self.real.sync_dir()
        }
    }

    fn jobs_under_way(chores: &Chores) -> usize {
        chores.is_under_way.iter().filter(|is| **is).count()
    }

    /// Takes in what the thread says until nothing is under way.
    fn take_all(chores: &mut Chores, told: &mut Told) -> Vec<Event> {
        let mut all = Vec::new();
        while jobs_under_way(chores) > 0 {
            let event = told.events.blocking_recv().expect("the thread lives");
            if let Event::Done(kind) = event {
                chores.done(kind);
            }
            all.push(event);
        }
        all
    }

    #[test]
    fn disk_that_hangs_makes_no_queue_grow_and_all_is_done_when_it_wakes() {
        let folder = tempfile::tempdir().unwrap();
        let files = StdStorage::open_dir(folder.path().join("journal")).unwrap();
        let disk = Arc::new(HangingDisk {
            real: files.clone(),
            hangs: Mutex::new(true),
            woken: Condvar::new(),
        });
        let (mut chores, mut told) =
            Chores::start(Arc::clone(&disk) as Arc<dyn Storage>, files).unwrap();
        let written = Arc::new(File::open(folder.path()).unwrap());
        for number in 1..=10_000 {
            chores.hand(Job::Reclaim(Lsn::new(number)));
            chores.hand(Job::LookAt(FileKey(1), Arc::clone(&written)));
            assert!(jobs_under_way(&chores) <= 2);
        }
        assert_eq!(chores.reclaim_next, Some(Lsn::new(10_000)));
        disk.wake();
        let mut events = take_all(&mut chores, &mut told);
        drop(chores);
        events.extend(std::iter::from_fn(|| told.events.blocking_recv()));
        let recycled = |event: &&Event| matches!(event, Event::Reclaimed(Ok(_)));
        let recycled = events.iter().filter(recycled).count();
        assert_eq!(recycled, 2, "the last one too");
        assert!(
            told.end.recv().is_err(),
            "nobody touches the folder any more"
        );
    }
}
