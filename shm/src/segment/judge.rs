//! Who is attached, and who of them is dead.
//!
//! Death is told by the kernel, never by silence: by the byte in the lock file if the process holds one there, else by process id and
//! start time, if it is of this pid namespace; else nothing is known, and nothing of its is touched. A stopped process is
//! alive.
//!
//! Invariant: a judgement is about one state word of an attach record, which never comes again: a repairer that was
//! stopped after the judgement compares the word once more after it has read what it is about to repair. If the word still is there, what was
//! read is of the dead process or older; a later tenant of the record has another word.
//!
//! Tested in `segment/tests/attachment.rs`.

use crate::id::AttachIndex;
use crate::layout::attach::{AttachPhase, AttachRecord, AttachRole, AttachState, FileIdentity};
use crate::layout::text::load_text;
use crate::segment::SegmentView;
use crate::segment::lock_file::LockFile;
use crate::segment::process::{Liveness, ProcessIdentity, pid_namespace};
use crate::sync::{AtomicU64, Ordering};

/// An attached process, copied out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttachInfo {
    /// Its record.
    pub index: AttachIndex,
    /// The state of the record.
    pub state: AttachState,
    /// The process.
    pub process: ProcessIdentity,
    /// Inode of its pid namespace; 0 when it could not be read.
    pub pid_namespace: u64,
    /// Its user.
    pub uid: u32,
    /// What it does; `None` for a number of a later version.
    pub role: Option<AttachRole>,
    /// Its name.
    pub name: String,
    /// The file in which it holds its byte.
    pub lock_file: FileIdentity,
}

impl SegmentView {
    /// Processes that are attached to write, dead or alive.
    pub fn attached(&self) -> impl Iterator<Item = AttachInfo> + '_ {
        let count = self.geometry().attaches();
        (0..u16::MAX)
            .map_while(move |number| AttachIndex::new_checked(number, count))
            .filter_map(|index| self.attach_info(index))
    }

    /// The attach record with this number, if there is one.
    #[must_use]
    pub const fn attach_index(&self, number: u16) -> Option<AttachIndex> {
        AttachIndex::new_checked(number, self.geometry().attaches())
    }

    /// The process behind an attach record; `None` if there is none.
    #[must_use]
    pub fn attach_info(&self, index: AttachIndex) -> Option<AttachInfo> {
        let record = self.parts.attaches.get(index.position())?;
        let state = record.state();
        (state.phase() != AttachPhase::Free).then(|| record.info(index, state))
    }

    /// Whether the process of an attach record lives. `lock` is the instance's lock file, if it can be read.
    #[must_use]
    pub fn judge(&self, info: &AttachInfo, lock: Option<&LockFile>) -> Liveness {
        judge_record(info, lock)
    }
}

/// Whether the process of an attach record lives, of whichever segment.
pub(super) fn judge_record(info: &AttachInfo, lock: Option<&LockFile>) -> Liveness {
    let byte = LockFile::byte_of(info.index);
    let same_file =
        |lock: &&LockFile| lock.identity() == info.lock_file && info.lock_file.is_known();
    match info.state.phase() {
        AttachPhase::Free => Liveness::Dead,
        AttachPhase::Reserved => Liveness::Unknown,
        AttachPhase::Joins => {
            // It owns nothing yet. Which file it has locked is not written yet either.
            let held = lock.is_some_and(|lock| lock.is_locked(byte).unwrap_or(true));
            let visible = u64::from(info.state.namespace()) == pid_namespace() & 0xFFFF;
            let start_time = 0;
            let pid = info.state.pid();
            match (held, visible) {
                (true, _) => Liveness::Alive,
                (false, true) => ProcessIdentity { pid, start_time }.liveness(),
                (false, false) => Liveness::Unknown,
            }
        }
        AttachPhase::Live => match lock.filter(same_file).map(|lock| lock.is_locked(byte)) {
            Some(Ok(true)) => Liveness::Alive,
            Some(Ok(false)) => Liveness::Dead,
            Some(Err(_)) | None if info.pid_namespace == pid_namespace() => info.process.liveness(),
            Some(Err(_)) | None => Liveness::Unknown,
        },
    }
}

impl AttachRecord {
    /// Writes who the process is. The record is the caller's, and JOINS.
    pub(crate) fn fill(&self, role: AttachRole, name: &str, lock_file: FileIdentity) {
        let own = ProcessIdentity::own();
        // ORDERING: published by [attach.state].
        let write = |word: &AtomicU64, value: u64| word.store(value, Ordering::Relaxed);
        write(&self.pid, u64::from(own.pid));
        write(&self.start_time, own.start_time);
        write(&self.pid_namespace, pid_namespace());
        write(&self.uid, u64::from(nix::unistd::geteuid().as_raw()));
        write(&self.role, role as u64);
        write(&self.heartbeat, 0);
        write(&self.sections, 0);
        write(&self.lane, 0);
        crate::layout::text::store_text(&self.name, name);
        self.set_lock_file(lock_file);
    }

    /// What it says, as the record of that number.
    pub(super) fn info_at(&self, number: usize, state: AttachState) -> Option<AttachInfo> {
        let number = u16::try_from(number).ok()?;
        let index = AttachIndex::new_checked(number, u32::from(u16::MAX))?;
        Some(self.info(index, state))
    }

    fn info(&self, index: AttachIndex, state: AttachState) -> AttachInfo {
        // ORDERING: published by [attach.state], which the caller has acquired.
        let read = |word: &AtomicU64| word.load(Ordering::Relaxed);
        AttachInfo {
            index,
            state,
            process: ProcessIdentity {
                pid: u32::try_from(read(&self.pid)).unwrap_or(0),
                start_time: read(&self.start_time),
            },
            pid_namespace: read(&self.pid_namespace),
            uid: u32::try_from(read(&self.uid)).unwrap_or(u32::MAX),
            role: AttachRole::from_number(read(&self.role)),
            name: load_text(&self.name),
            lock_file: self.lock_file(),
        }
    }
}
