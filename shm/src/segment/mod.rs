//! A segment as a whole: made or adopted, written through [`Segment`], read through [`SegmentView`].
//!
//! | file | what |
//! |---|---|
//! | `spec` | what a segment shall be like, errors |
//! | `create`, `adopt`, `look`, `sanity`, `key`, `limits` | how one is had |
//! | `restore` | tasks of a journal in a new one |
//! | `upgrade/` | a segment of layout 2.0, read into a new one |
//! | `memory` | its pages: how large, locked or not, on which memory node |
//! | `attach` | how one is looked at |
//! | `attachment`, `local_worker`, `taken` | how a local process writes to one: its record, its submissions, the tasks it takes |
//! | `completion`, `own_hand_over` | what a local worker hands over beside the slots, in its lane; the lane as it uses it |
//! | `lanes`, `own_lane` | the lanes of attach records: as the core uses them, as their owners do |
//! | `sleepers` | local workers that sleep for want of work |
//! | `signals` | what local processes and the daemon let each other know without a call |
//! | `judge`, `process`, `lock_file`, `pidfd` | who is attached, and who of them lives |
//! | `header`, `parts` | its front, its regions |
//! | `claim`, `apply`, `free` | the life of a slot |
//! | `gates` | how a slot comes to a number a second time |
//! | `blobs` | payloads and results |
//! | `history`, `tombstones` | how attempts that failed or were lost have ended; which results have expired |
//! | `rebuild`, `survey`, `client_counts` | the caches anew from the state words, while nobody else is attached |
//! | `repair`, `repairer`, `quiet`, `census` | what the dead left behind, brought in order while others live |
//! | `stages` | how long the steps of tasks took |
//! | `view`, `records` | reading |
//! | `verify` | do truth and caches agree |
//! | `image` | an image in a file |
//!
//! Invariants:
//! - I1: the truth about a task is its state word; trees, bitmap, arena bitmaps and counters are caches of it and can be
//!   rebuilt. The state changes before the index, on submit and on take.
//! - I2: every index, length and reference that was read from the segment is checked before it is used. An index
//!   that names no slot meets a spare slot of this process, which belongs to nobody and changes nothing.
//!
//! Sync points: `task.state` (fields, then state; state, then fields), `worker.state`, `client.state`,
//! `segment.ready`; those of trees, bitmap and arena in their files.

mod adopt;
mod ahead;
mod apply;
mod attach;
mod attachment;
mod blobs;
mod census;
mod claim;
mod client_counts;
mod completion;
mod create;
mod free;
mod gates;
mod header;
mod history;
mod image;
mod judge;
mod key;
mod lanes;
mod limits;
mod local_worker;
mod lock_file;
mod look;
mod loops;
mod memory;
mod own_hand_over;
mod own_lane;
mod parts;
mod pidfd;
mod process;
mod pulse;
mod quiet;
mod rebase;
mod rebuild;
mod records;
mod repair;
mod repairer;
mod restore;
mod sanity;
mod signals;
mod sleepers;
mod spec;
mod stages;
mod survey;
mod taken;
#[cfg(test)]
mod tests;
mod tombstones;
mod upgrade;
pub mod verify;
mod view;

use core::ops::Deref;

use crate::arena::Claimant;
use crate::client::ClientSlot;
use crate::counters::Counters;
use crate::id::{AttachIndex, ClientIndex, SlotIndex, WorkerIndex};
use crate::keys::{KeyTable, SettledKeys};
use crate::kinds::KindTable;
use crate::layout::attach::{AttachRole, FileIdentity};
use crate::region::{HeapMemory, Mapping, SharedSlice};
use crate::spill::SpillStore;
use crate::sync::{AtomicU32, AtomicU64, Ordering};
use crate::task::slot::TaskSlot;
use crate::task::state::Phase;
use crate::task::writer::{PlmRight, SlotWriter};
use crate::tree::MinTree;
use crate::worker::{WorkerSlot, WorkerWriter};

pub use apply::ApplyError;
pub use attachment::{Attachment, AttachmentSpec, OpenError};
pub use blobs::{LoadError, StoreError};
pub use census::PhaseCensus;
pub use claim::{ClaimError, ClaimedTask, TaskFields};
pub use completion::{Completion, End, MovedEnd};
pub use gates::GateWatch;
pub use header::ControlInfo;
pub use history::{
    ATTEMPTS_KEPT_PER_TASK, AttemptNote, KeptAttempt, MESSAGE_BYTES_MAX, TAIL_BYTES_MAX,
};
pub use image::ImageReport;
pub use judge::AttachInfo;
pub use lanes::{CoreLane, LaneInfo};
pub use local_worker::{JoinError, LocalWorker, LocalWorkerSpec};
pub use lock_file::LockFile;
pub use loops::RoleLoop;
pub use memory::{Extent, MemoryFacts, Node};
pub use own_lane::{Full, LaneCommands, LaneEvents, LaneTaken, OwnedLane};
pub use pidfd::PidFd;
pub use process::{Liveness, ProcessIdentity};
pub use rebase::ANCIENT_STAMPS;
pub use rebuild::Rebuilt;
pub use records::{ClientRecord, Part, TaskRecord, WorkerName, WorkerRecord};
pub use repair::{Convicted, RepairCounts, RepairScope};
pub use repairer::Repairer;
pub use restore::{RestoreError, RestoredBytes, RestoredTask};
pub use spec::{Access, Adoption, AttachError, CreateError, Earlier, HugePages, SegmentSpec};
pub use stages::Took;
pub use taken::Taken;
pub use tombstones::Tombstone;
#[cfg(any(test, feature = "kill-points"))]
pub use upgrade::left_behind::leave_segment_of_before;
pub use verify::VerifyReport;
pub use view::{CounterView, Heap, HeapView, SegmentView};

/// A segment that this process may write to. Shared by reference between threads.
#[derive(Debug)]
pub struct Segment {
    view: SegmentView,
    spill: SpillStore,
    /// The attach record of this process, and its incarnation; the daemon's gets one when it raises the epoch.
    attach: AttachIndex,
    incarnation: AtomicU32,
    /// Where the next claim starts to look; of this process only.
    hint: AtomicU64,
    spare: Spare,
    rebuilt: std::sync::Mutex<Option<Rebuilt>>,
}

/// What an index meets that names nothing: memory of this process, written and read by nobody else.
#[derive(Debug)]
struct Spare {
    tasks: SharedSlice<TaskSlot>,
    workers: SharedSlice<WorkerSlot>,
    clients: SharedSlice<ClientSlot>,
}

impl Spare {
    fn new() -> Self {
        let mapping = std::sync::Arc::new(Mapping::Heap(HeapMemory::zeroed(4096)));
        let at = |offset, bytes: usize| crate::layout::RegionEntry {
            offset,
            bytes: bytes as u64,
            count: 1,
            unit_bytes: bytes as u64,
        };
        let fits = "three slots fit in a page";
        Self {
            tasks: SharedSlice::of(&mapping, at(0, size_of::<TaskSlot>())).expect(fits),
            workers: SharedSlice::of(&mapping, at(1024, size_of::<WorkerSlot>())).expect(fits),
            clients: SharedSlice::of(&mapping, at(2048, size_of::<ClientSlot>())).expect(fits),
        }
    }
}

impl Deref for Segment {
    type Target = SegmentView;

    fn deref(&self) -> &SegmentView {
        &self.view
    }
}

impl Segment {
    pub(crate) fn of(mut view: SegmentView, spill: SpillStore) -> Self {
        let spill = spill.of_segment(view.header.spill_id);
        view.spill = Some(spill.clone());
        Self {
            view,
            spill,
            attach: AttachIndex::DAEMON,
            incarnation: AtomicU32::new(0),
            hint: AtomicU64::new(0),
            spare: Spare::new(),
            rebuilt: std::sync::Mutex::new(None),
        }
    }

    /// The read-only face.
    #[must_use]
    pub const fn view(&self) -> &SegmentView {
        &self.view
    }

    /// A task slot. An index beyond the last meets a spare slot that is nobody's.
    #[inline]
    #[must_use]
    pub fn task(&self, slot: SlotIndex) -> &TaskSlot {
        self.view
            .parts
            .tasks
            .get(slot.position())
            .unwrap_or(&self.spare.tasks[0])
    }

    /// A worker slot. An index beyond the last meets a spare slot that is nobody's.
    #[inline]
    #[must_use]
    pub fn worker(&self, worker: WorkerIndex) -> &WorkerSlot {
        self.view
            .parts
            .workers
            .get(worker.position())
            .unwrap_or(&self.spare.workers[0])
    }

    /// The right to write fields as the PLM; `None` in a process that is attached beside the daemon.
    #[must_use]
    pub fn plm_right(&self) -> Option<PlmRight> {
        (self.attach == AttachIndex::DAEMON).then(PlmRight::of_daemon)
    }

    /// A task slot, to write to.
    #[inline]
    #[must_use]
    pub fn write_task(&self, _right: PlmRight, slot: SlotIndex) -> SlotWriter<'_> {
        SlotWriter::of(self.task(slot))
    }

    /// A worker slot, to write to.
    #[inline]
    #[must_use]
    pub fn write_worker(&self, _right: PlmRight, worker: WorkerIndex) -> WorkerWriter<'_> {
        WorkerWriter::of(self.worker(worker))
    }

    /// A client record. An index beyond the last meets a spare record that is nobody's.
    #[inline]
    #[must_use]
    pub fn client(&self, client: ClientIndex) -> &ClientSlot {
        self.view
            .parts
            .clients
            .get(client.position())
            .unwrap_or(&self.spare.clients[0])
    }

    /// The task heap: leaf = task slot.
    #[inline]
    #[must_use]
    pub fn ready(&self) -> MinTree<'_> {
        self.view.parts.ready()
    }

    /// The timer heap: leaf = task slot.
    #[inline]
    #[must_use]
    pub fn timers(&self) -> MinTree<'_> {
        self.view.parts.timers()
    }

    /// The worker heap: leaf = worker slot.
    #[inline]
    #[must_use]
    pub fn worker_heap(&self) -> MinTree<'_> {
        self.view.parts.worker_heap()
    }

    /// The leases: leaf = worker slot.
    #[inline]
    #[must_use]
    pub fn leases(&self) -> MinTree<'_> {
        self.view.parts.leases()
    }

    /// The table of kinds.
    #[must_use]
    pub fn kinds(&self) -> KindTable<'_> {
        self.view.parts.kinds()
    }

    /// The idempotency keys. Written by the PLM only.
    #[must_use]
    pub fn keys(&self) -> KeyTable<'_> {
        KeyTable::new(self.view.keys(), &self.view.parts.control().keys_used)
    }

    /// Settles the idempotency keys that a killed daemon left unconfirmed.
    pub(super) fn settle_keys(&self) -> SettledKeys {
        self.keys().settle_by(|task| {
            let state = self.slot_of(task).map(|slot| self.task(slot).state());
            state.is_some_and(|state| state.is_of(task) && state.phase() != Phase::Claimed)
        })
    }

    /// The counters.
    #[inline]
    #[must_use]
    pub fn counters(&self) -> Counters<'_> {
        self.view.parts.counters()
    }

    /// The store of large blobs.
    #[must_use]
    pub const fn spill(&self) -> &SpillStore {
        &self.spill
    }

    /// Largest payload or result in bytes.
    #[must_use]
    pub const fn payload_limit(&self) -> u64 {
        self.view.header.payload_limit
    }

    /// Writes that this process is the daemon now; returns the new epoch.
    pub fn raise_epoch(&self) -> u64 {
        let control = self.view.parts.control();
        let own = ProcessIdentity::own();
        self.take_daemons_record(own.pid);
        // ORDERING: read for display, and by the daemon itself once a turn.
        control
            .daemon_pid
            .store(u64::from(own.pid), Ordering::Relaxed);
        // ORDERING: as above.
        control
            .daemon_start
            .store(own.start_time, Ordering::Relaxed);
        // ORDERING: as above.
        control.shutdown.store(0, Ordering::Relaxed);
        // ORDERING: AcqRel, so that a daemon that sees a higher epoch also sees who raised it.
        control
            .daemon_epoch
            .fetch_add(1, Ordering::AcqRel)
            .wrapping_add(1)
    }

    /// The epoch; when it is no longer the one that `raise_epoch` gave, another daemon has adopted the segment.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        // ORDERING: pairs with the AcqRel of `raise_epoch`.
        self.view
            .parts
            .control()
            .daemon_epoch
            .load(Ordering::Acquire)
    }

    /// Takes the daemon's attach record. Who calls it holds the instance's lock, so nobody else writes there.
    fn take_daemons_record(&self, pid: u32) {
        let Some(record) = self.view.parts.attaches.get(AttachIndex::DAEMON.position()) else {
            return;
        };
        let before = record.state();
        let joins = before.joined_by(pid, process::pid_namespace());
        if record.change(before, joins) {
            let control = self.control();
            record.fill(AttachRole::Daemon, "qtfd", control.lock_file);
            record.change(joins, joins.live());
            // ORDERING: of this process; written before anything is claimed.
            self.incarnation
                .store(joins.incarnation(), Ordering::Relaxed);
        }
    }

    /// Who this process is when it claims a chunk.
    fn claimant(&self) -> Claimant {
        Claimant {
            attach: self.attach.get(),
            // ORDERING: of this process; see `take_daemons_record`.
            incarnation: self.incarnation.load(Ordering::Relaxed),
        }
    }

    /// Whether somebody has removed the segment from the system: it lives on for those who are attached, and nobody finds it
    /// any more. A private segment is so from its first moment.
    #[must_use]
    pub fn is_removed(&self) -> bool {
        self.view.shm_id.is_some_and(|shm_id| {
            crate::region::sysv::status(shm_id).is_ok_and(|status| status.is_removed())
        })
    }

    /// Writes which lock file the daemon holds.
    pub fn set_lock_file(&self, file: FileIdentity) {
        if let Some(record) = self.view.parts.attaches.get(AttachIndex::DAEMON.position()) {
            record.set_lock_file(file);
        }
        let control = self.view.parts.control();
        // ORDERING: read by people and by the next daemon, which compares with its own.
        control.lock_device.store(file.device, Ordering::Relaxed);
        // ORDERING: as above.
        control.lock_inode.store(file.inode, Ordering::Relaxed);
    }

    /// Writes the daemon's sign of life.
    pub fn set_daemon_beat(&self, stamp: u64) {
        // ORDERING: for display, and a hint to local processes.
        self.view
            .parts
            .control()
            .daemon_beat
            .store(stamp, Ordering::Relaxed);
    }

    /// Writes how far the journal goes: before the record of this number is written to the disk. A journal that goes
    /// further than a segment says was written by a daemon of another segment.
    pub fn set_journal_end(&self, lsn: u64) {
        // ORDERING: read by the next daemon, after this process has ended.
        self.view
            .parts
            .control()
            .journal_end
            .store(lsn, Ordering::Relaxed);
    }

    /// The highest record that any daemon of this segment handed to its journal.
    #[must_use]
    pub fn journal_end(&self) -> u64 {
        // ORDERING: written by a daemon that has ended.
        self.view
            .parts
            .control()
            .journal_end
            .load(Ordering::Relaxed)
    }

    /// Writes that the daemon stopped in order.
    pub fn set_clean_shutdown(&self) {
        let control = self.view.parts.control();
        // ORDERING: read by the next daemon, after this process has ended.
        control
            .shutdown
            .store(crate::layout::control::SHUTDOWN_CLEAN, Ordering::Relaxed);
    }

    /// Highest generation that claims may reach; 0 = no limit.
    #[must_use]
    pub fn gen_limit(&self) -> u64 {
        // ORDERING: the value that the daemon itself wrote, or one before it.
        self.view.parts.control().gen_limit.load(Ordering::Acquire)
    }

    /// Highest generation that any claim has reached so far (at least the first one of the segment): when it comes near
    /// [`Segment::gen_limit`], the journal must reserve more.
    #[must_use]
    pub fn gen_top(&self) -> u64 {
        // ORDERING: a hint: a limit that is reached meanwhile refuses claims, no more.
        let top = self.view.parts.control().gen_top.load(Ordering::Relaxed);
        top.max(self.view.header.gen_base)
    }

    /// The generation before the first that was given in this segment. An older id is one that was restored into it, or is another
    /// segment's.
    #[must_use]
    pub fn gen_base(&self) -> u64 {
        self.view.header.gen_base
    }

    /// Highest generation that claims may reach; 0 = no limit. The next segment begins with it as its `gen_base`, which is the
    /// generation before the first.
    pub fn set_gen_limit(&self, generation: u64) {
        // ORDERING: raised after the journal's reservation is stable; a claim that sees the old one is refused.
        self.view
            .parts
            .control()
            .gen_limit
            .store(generation, Ordering::Release);
    }
}
