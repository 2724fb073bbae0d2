//! A local process that writes to a segment: it submits, takes tasks, repairs, without asking the daemon.
//!
//! Order when it opens: the byte of a free attach record in the lock file; the record by compare-and-swap, with the process id in the
//! state word; the fields; live. So a record that is not free names a process whose life can be told, at any moment.
//!
//! # Fork
//! The lock file is closed by `exec`. A process that forks and goes on in the child without `exec` must not use the attachment
//! there, nor drop it expecting a detach: the record is the parent's. (A drop in a child does nothing to it.) The child also keeps the
//! parent's lock byte; see [`LockFile`].
//!
//! Tested in `segment/tests/attachment.rs`.

use core::ops::Deref;
use std::io;
use std::path::{Path, PathBuf};

use crate::id::AttachIndex;
use crate::layout::attach::{AttachPhase, AttachRole, AttachState, FileIdentity};
use crate::region::Mapping;
use crate::region::sysv::SysvMemory;
use crate::segment::lock_file::LockFile;
use crate::segment::process::pid_namespace;
use crate::segment::pulse::Pulse;
use crate::segment::spec::AttachError;
use crate::segment::{ClaimError, ClaimedTask, Convicted, Repairer, Segment, SegmentView};
use crate::spill::{SPILL_LIMIT_DEFAULT, SpillStore};
use crate::sync::{AtomicU64, Ordering};
use crate::time::monotonic_ns;

/// How a process opens a segment to write to it.
#[derive(Debug, Clone)]
pub struct AttachmentSpec {
    /// What it does.
    pub role: AttachRole,
    /// Its name, for listings; 31 bytes are kept.
    pub name: String,
    /// The lock file of the instance, `RUNTIME_DIR/INSTANCE.lock`. Without it only processes of this pid namespace can
    /// tell whether this one lives.
    pub lock_file: Option<PathBuf>,
    /// Where payloads and results above 64 KiB lie: the daemon's folder.
    pub spill_dir: PathBuf,
    /// Bytes that this process's files may have together.
    pub spill_limit: u64,
}

impl AttachmentSpec {
    /// The usual one.
    #[must_use]
    pub fn new(role: AttachRole, name: impl Into<String>, spill_dir: impl Into<PathBuf>) -> Self {
        Self {
            role,
            name: name.into(),
            lock_file: None,
            spill_dir: spill_dir.into(),
            spill_limit: SPILL_LIMIT_DEFAULT,
        }
    }

    /// With the lock file of the instance.
    #[must_use]
    pub fn with_lock_file(mut self, lock_file: impl Into<PathBuf>) -> Self {
        self.lock_file = Some(lock_file.into());
        self
    }
}

/// Why a segment cannot be opened for writing.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// It cannot be found or attached.
    #[error(transparent)]
    Attach(#[from] AttachError),
    /// The lock file cannot be used.
    #[error(
        "lock file {file}: {source}; is qtfd running, and may this user read its runtime folder?"
    )]
    Lock {
        /// The file.
        file: PathBuf,
        /// What failed.
        source: io::Error,
    },
    /// All attach records are in use.
    #[error(
        "all {records} attach records of the segment are in use: start qtfd if none runs, which gives back those of processes that were killed; else end some local clients or workers, or connect to the daemon's socket"
    )]
    Full {
        /// How many there are.
        records: u32,
    },
    /// A daemon is building the caches anew and must be alone.
    #[error(
        "a daemon is taking the segment over: try again when it serves; if it has died, start qtfd"
    )]
    Rebuilding,
}

/// A segment opened by a local process, with an attach record of its own.
#[derive(Debug)]
pub struct Attachment {
    segment: Segment,
    state: AttachState,
    lock: Option<LockFile>,
    pid: u32,
    last_stamp: AtomicU64,
    /// 1: something is left under the record's name; it is given back by a repairer after this process's end. 2: the process
    /// counts as killed, in simulations only.
    kept: AtomicU64,
    /// 1: the lane was opened.
    has_lane: AtomicU64,
    pulse: Pulse,
}

impl Attachment {
    /// Opens the segment of a user's instance.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open_instance(
        instance: &str,
        uid: u32,
        spec: &AttachmentSpec,
    ) -> Result<Self, OpenError> {
        let view = SegmentView::attach_by_instance(instance, uid)?;
        let shm_id = view.shm_id().ok_or(AttachError::NoId(-1))?;
        let opened = Self::open_id(shm_id, spec)?;
        if opened.segment_id() != view.segment_id() {
            // Removed and made anew in between.
            return Err(AttachError::NoId(shm_id).into());
        }
        Ok(opened)
    }

    /// Opens a segment by the kernel's id.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open_id(shm_id: i32, spec: &AttachmentSpec) -> Result<Self, OpenError> {
        let lock = spec.lock_file.as_deref().map(open_lock).transpose()?;
        let memory = SysvMemory::attach(shm_id, false)
            .map_err(|source| crate::segment::attach::refusal(source, shm_id))?;
        let view =
            SegmentView::of(Mapping::Sysv(memory), Some(shm_id)).map_err(AttachError::from)?;
        let spill = SpillStore::open(&spec.spill_dir, view.header.payload_limit);
        Self::join(
            Segment::of(view, spill.bounded(spec.spill_limit)),
            lock,
            spec,
        )
    }

    fn join(
        mut segment: Segment,
        lock: Option<LockFile>,
        spec: &AttachmentSpec,
    ) -> Result<Self, OpenError> {
        if let Some(lock) = lock.as_ref()
            && segment.is_being_rebuilt()
        {
            rescue(&mut segment, lock);
        }
        let records = segment.geometry().attaches();
        let others = (1..u16::MAX).map_while(|number| AttachIndex::new_checked(number, records));
        for index in others {
            let Some(state) = take_record(&segment, index, lock.as_ref(), spec) else {
                continue;
            };
            segment.attach = index;
            // ORDERING: of this process, which has not yet begun.
            segment
                .incarnation
                .store(state.incarnation(), Ordering::Relaxed);
            let opened = Self {
                segment,
                state,
                lock,
                pid: std::process::id(),
                last_stamp: AtomicU64::new(0),
                kept: AtomicU64::new(0),
                has_lane: AtomicU64::new(0),
                pulse: Pulse::default(),
            };
            // Dropped again if so, before anything was done.
            return if opened.segment.is_being_rebuilt() {
                Err(OpenError::Rebuilding)
            } else {
                Ok(opened)
            };
        }
        Err(OpenError::Full { records })
    }

    /// The segment.
    #[must_use]
    pub const fn segment(&self) -> &Segment {
        &self.segment
    }

    /// The attach record of this process.
    #[must_use]
    pub const fn index(&self) -> AttachIndex {
        self.segment.attach
    }

    /// The state word of its attach record.
    pub(super) const fn record_state(&self) -> AttachState {
        self.state
    }

    /// What this process knows of the daemon's life.
    pub(super) const fn pulse(&self) -> &Pulse {
        &self.pulse
    }

    /// The lane is the caller's now; false if it is somebody's.
    pub(super) fn take_lane(&self) -> bool {
        // ORDERING: of this process; whoever comes second does nothing.
        self.has_lane.swap(1, Ordering::Relaxed) == 0
    }

    /// The lock file, by which the life of others is told.
    #[must_use]
    pub const fn lock(&self) -> Option<&LockFile> {
        self.lock.as_ref()
    }

    /// Claims a slot for a task of this process. A memory task that needs no judgement is then published with
    /// [`crate::Event::Admit`] (or `AdmitDelayed`), any other with `Submit`, for the daemon to judge.
    ///
    /// # Errors
    /// No slot is free, the ids are used up, or the stamps are.
    pub fn claim(&self) -> Result<ClaimedTask<'_>, ClaimError> {
        if self.segment.now().is_out_of_stamps() {
            return Err(ClaimError::OutOfStamps);
        }
        self.segment.claim_task(self.index())
    }

    /// The stamp of the next submission of this process: now, and later than every one before.
    #[must_use]
    pub fn next_stamp(&self) -> u64 {
        let now = self.segment.now().stamp();
        // ORDERING: of this process; each caller gets another one.
        let before = self.last_stamp.fetch_max(now, Ordering::Relaxed);
        if before < now {
            return now;
        }
        // ORDERING: as above.
        self.last_stamp
            .fetch_add(1, Ordering::Relaxed)
            .wrapping_add(1)
    }

    /// Who of the others is dead.
    #[must_use]
    pub fn convict(&self) -> Convicted {
        self.segment.convict(self.lock.as_ref())
    }

    /// Begins a repair of what the dead have left behind.
    #[must_use]
    pub fn repairer(&self) -> Repairer {
        Repairer::new(&self.segment, self.lock.as_ref())
    }

    /// Leaves the record taken when this process detaches.
    pub(super) fn keep_record(&self) {
        // ORDERING: of this process.
        self.kept.store(1, Ordering::Relaxed);
    }

    /// From now on nothing that is dropped writes anything, and the lock goes with the attachment: what others see of a process
    /// that was killed.
    #[cfg(any(test, feature = "kill-points"))]
    pub fn dies(&self) {
        // ORDERING: of this process.
        self.kept.store(2, Ordering::Relaxed);
    }

    /// Not a forked child of the process that opened it.
    pub(super) fn is_own_process(&self) -> bool {
        // ORDERING: of this process.
        self.pid == std::process::id() && self.kept.load(Ordering::Relaxed) < 2
    }

    /// Gives the record back and detaches. The segment stays.
    pub fn detach(self) {
        drop(self);
    }
}

impl Deref for Attachment {
    type Target = Segment;

    fn deref(&self) -> &Segment {
        &self.segment
    }
}

impl Drop for Attachment {
    fn drop(&mut self) {
        if !self.is_own_process() {
            // The record and the lock are the parent's.
            return;
        }
        let index = self.index();
        let record = self.segment.view.parts.attaches.get(index.position());
        // ORDERING: of this process.
        let kept = self.kept.load(Ordering::Relaxed) != 0;
        if let Some(record) = record.filter(|_| !kept) {
            // Nothing is left behind: claims and workers borrow the attachment and have been dropped before.
            record.change(self.state, self.state.freed());
            // ORDERING: of this process.
            if self.has_lane.load(Ordering::Relaxed) != 0 {
                // The core looks which lanes there are.
                self.segment.note_local_change();
            }
        }
        if let Some(lock) = &self.lock {
            // Said expressly: a child that was forked at this moment and has not come to its `exec` shares the lock. If it
            // fails, the record is taken for that of a living process until that child is gone.
            let _ = lock.unlock(LockFile::byte_of(index));
        }
    }
}

fn open_lock(file: &Path) -> Result<LockFile, OpenError> {
    LockFile::open(file).map_err(|source| OpenError::Lock {
        file: file.to_owned(),
        source,
    })
}

/// A daemon was killed while it was alone and built the caches anew: does it in its place, as a daemon that starts and stops
/// at once. If one lives (it holds the byte) there is nothing to do but to come back later.
fn rescue(segment: &mut Segment, lock: &LockFile) {
    let byte = LockFile::byte_of(AttachIndex::DAEMON);
    if !lock.lock(byte).unwrap_or(false) {
        return;
    }
    if segment.is_being_rebuilt() {
        segment.raise_epoch();
        segment.bring_in_order(Some(lock), monotonic_ns());
    }
    // Dropped with the file at the latest.
    let _ = lock.unlock(byte);
}

/// Takes an attach record if it is free: its byte first, then its word.
fn take_record(
    segment: &Segment,
    index: AttachIndex,
    lock: Option<&LockFile>,
    spec: &AttachmentSpec,
) -> Option<AttachState> {
    let record = segment.view.parts.attaches.get(index.position())?;
    let free = record.state();
    if free.phase() != AttachPhase::Free {
        return None;
    }
    let byte = LockFile::byte_of(index);
    // A file system without locks: process id and start time decide.
    let locked = match lock.map(|lock| lock.lock(byte)) {
        Some(Ok(true)) => lock,
        Some(Ok(false)) => return None,
        Some(Err(_)) | None => None,
    };
    let joins = free.joined_by(std::process::id(), pid_namespace());
    if record.change(free, joins) {
        let file = locked.map_or(FileIdentity::NONE, LockFile::identity);
        record.fill(spec.role, &spec.name, file);
        if record.change(joins, joins.live()) {
            return Some(joins.live());
        }
    }
    if let Some(lock) = locked {
        // It stays locked if this fails, which costs the others one record.
        let _ = lock.unlock(byte);
    }
    None
}
