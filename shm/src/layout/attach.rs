//! The attach record: one for each process or thread that writes to the segment.
//!
//! ```text
//! offset  field       writer: the process it is about, unless told otherwise
//!      0  state       phase 4 | incarnation 20 | low 16 bits of the pid namespace | pid 24, upper part first;
//!                     phases: 0 free, 1 joins (the rest is not yet written), 2 live
//!      8  pid
//!     16  start_time  ticks since boot
//!     24  pid_namespace
//!     32  uid
//!     40  role        1 daemon, 2 edge, 3 client, 4 worker
//!     48  heartbeat   stamp
//!     56  sections    entered so often 48 | within one now 16: work during which caches differ from the truth (see `quiet.rs`)
//!     64  lane        its lane is open 1 | incarnation for which it is 32, see `layout/lane.rs`; 0 = it is not
//!     72  name        31 bytes
//!    104  lock_device device and inode of the lock file of which it holds byte 1 + n; 0 = it holds none
//!    112  lock_inode
//!    120  reserved
//! ```
//! Record 0 is the daemon's, which holds byte 0.
//!
//! Invariants:
//! - I1: only the process that the state word names writes the other fields.
//! - I2: a record becomes free again by its own process, which has then left nothing behind, or by a repairer after a
//!   whole pass over the segment that met nothing of the dead process any more.
//!
//! Tested at the end of this file, modelled in `shm/tests/loom_gate.rs`.

use std::os::unix::fs::MetadataExt as _;

use crate::layout::shared::shared_layout;
use crate::sync::{AtomicU64, Ordering, store_load_cas, store_load_load};

shared_layout! {
    /// One attach record as it lies in the segment; see the drawing in this file's head.
    pub struct AttachRecord: 128 bytes, align 128 {
        0 => state: AtomicU64,
        8 => pid: AtomicU64,
        16 => start_time: AtomicU64,
        24 => pid_namespace: AtomicU64,
        32 => uid: AtomicU64,
        40 => role: AtomicU64,
        48 => heartbeat: AtomicU64,
        56 => sections: AtomicU64,
        64 => lane: AtomicU64,
        72 => name: [AtomicU64; 4],
        104 => lock_device: AtomicU64,
        112 => lock_inode: AtomicU64,
        120 => reserved: AtomicU64,
    }
}

impl AttachRecord {
    /// The state, with the fields that its process wrote before.
    #[must_use]
    pub fn state(&self) -> AttachState {
        let word = if cfg!(qtf_mutant = "attach_state_without_acquire") {
            // ORDERING: a mutant.
            self.state.load(Ordering::Relaxed)
        } else if cfg!(qtf_mutant = "attach_record_is_looked_at_too_early") {
            // ORDERING: a mutant.
            self.state.load(Ordering::Acquire)
        } else {
            // ORDERING: [attach.state] Acquire pairs with the CAS in `change`: the fields are visible. [attach.alone] look half of
            // a daemon that wants to be alone.
            store_load_load(&self.state)
        };
        AttachState::from_raw(word)
    }

    /// Changes the state if it still is `from`.
    pub(crate) fn change(&self, from: AttachState, to: AttachState) -> bool {
        let (from, to) = (from.as_raw(), to.as_raw());
        let result = if cfg!(qtf_mutant = "attach_state_without_release") {
            // ORDERING: a mutant.
            self.state
                .compare_exchange(from, to, Ordering::Acquire, Ordering::Acquire)
        } else {
            // ORDERING: [attach.state] AcqRel: publishes the fields; a new tenant comes after all that the one before did.
            // [attach.alone] write half: who joins looks afterwards whether somebody wants to be alone.
            store_load_cas(&self.state, from, to)
        };
        result.is_ok()
    }

    /// The lane is open for the incarnation that the state word names.
    pub(crate) fn has_lane(&self, state: AttachState) -> bool {
        let order = if cfg!(qtf_mutant = "lane_looked_at_without_acquire") {
            // ORDERING: a mutant.
            Ordering::Relaxed
        } else {
            // ORDERING: [lane.open] Acquire: the lane was made empty before.
            Ordering::Acquire
        };
        // ORDERING: as chosen above.
        let word = self.lane.load(order);
        state.phase() == AttachPhase::Live && word == open_word(state.incarnation())
    }

    /// Says that the lane is open for this incarnation. Its process only.
    pub(crate) fn open_lane(&self, state: AttachState) {
        let order = if cfg!(qtf_mutant = "lane_opened_without_release") {
            // ORDERING: a mutant.
            Ordering::Relaxed
        } else {
            // ORDERING: [lane.open] Release: with the words that make it empty; pairs with `has_lane`.
            Ordering::Release
        };
        // ORDERING: as chosen above.
        self.lane.store(open_word(state.incarnation()), order);
    }

    pub(crate) fn set_lock_file(&self, file: FileIdentity) {
        // ORDERING: published by [attach.state], or the daemon's own, which is told by its process id until it is there.
        self.lock_device.store(file.device, Ordering::Relaxed);
        // ORDERING: as above.
        self.lock_inode.store(file.inode, Ordering::Relaxed);
    }

    /// The file in which its process holds its byte.
    pub(crate) fn lock_file(&self) -> FileIdentity {
        FileIdentity {
            // ORDERING: published by [attach.state], which the caller has acquired.
            device: self.lock_device.load(Ordering::Relaxed),
            // ORDERING: as above.
            inode: self.lock_inode.load(Ordering::Relaxed),
        }
    }
}

/// In the word `lane`: the rest is the incarnation for which the lane is open.
const LANE_IS_OPEN: u64 = 1 << 32;

const fn open_word(incarnation: u32) -> u64 {
    LANE_IS_OPEN | incarnation as u64
}

/// What a file is known by as long as anybody has it open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileIdentity {
    /// Number of its device.
    pub device: u64,
    /// Its number there; no file has 0.
    pub inode: u64,
}

impl FileIdentity {
    /// No file.
    pub const NONE: Self = Self {
        device: 0,
        inode: 0,
    };

    /// Of an open file.
    #[must_use]
    pub fn of(metadata: &std::fs::Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
        }
    }

    /// It names a file.
    #[must_use]
    pub const fn is_known(self) -> bool {
        self.inode != 0
    }
}

/// What a process does with the segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u64)]
pub enum AttachRole {
    /// The daemon.
    Daemon = 1,
    /// An edge of the daemon on another thread.
    Edge = 2,
    /// A local client.
    Client = 3,
    /// A local worker.
    Worker = 4,
    /// Repairs and nothing else.
    Repairer = 5,
}

impl AttachRole {
    /// The name in listings; `None` for a number that no version has written.
    #[must_use]
    pub const fn from_number(number: u64) -> Option<Self> {
        match number {
            1 => Some(Self::Daemon),
            2 => Some(Self::Edge),
            3 => Some(Self::Client),
            4 => Some(Self::Worker),
            5 => Some(Self::Repairer),
            _ => None,
        }
    }

    /// The name in listings.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Daemon => "daemon",
            Self::Edge => "edge",
            Self::Client => "client",
            Self::Worker => "worker",
            Self::Repairer => "repairer",
        }
    }
}

/// Where an attach record stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum AttachPhase {
    /// Nobody's.
    Free = 0,
    /// Taken; its fields are being written. Its process owns nothing yet.
    Joins = 1,
    /// A process's.
    Live = 2,
    /// Never written by this version.
    Reserved = 15,
}

/// The state word of an attach record: changed by compare-and-swap, never the same twice while anyone remembers it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct AttachState(u64);

impl AttachState {
    const PHASE_SHIFT: u32 = 60;
    const INCARNATION_SHIFT: u32 = 40;
    const INCARNATION_MASK: u64 = (1 << 20) - 1;
    const NAMESPACE_SHIFT: u32 = 24;
    const PID_MASK: u64 = (1 << 24) - 1;

    /// A word as it was loaded; every bit pattern is one.
    #[must_use]
    pub const fn from_raw(raw: u64) -> Self {
        Self(raw)
    }

    /// The bits.
    #[must_use]
    pub const fn as_raw(self) -> u64 {
        self.0
    }

    /// Where the record stands.
    #[must_use]
    pub const fn phase(self) -> AttachPhase {
        match self.0 >> Self::PHASE_SHIFT {
            0 => AttachPhase::Free,
            1 => AttachPhase::Joins,
            2 => AttachPhase::Live,
            _ => AttachPhase::Reserved,
        }
    }

    /// How often the record has been given out, modulo 2^20.
    #[must_use]
    pub const fn incarnation(self) -> u32 {
        // LIMIT: 20 bits.
        ((self.0 >> Self::INCARNATION_SHIFT) & Self::INCARNATION_MASK) as u32
    }

    /// The process; 0 in a free record.
    #[must_use]
    pub const fn pid(self) -> u32 {
        // LIMIT: Linux gives no process a higher number than 2^22.
        (self.0 & Self::PID_MASK) as u32
    }

    /// Low bits of the inode of its pid namespace.
    #[must_use]
    pub const fn namespace(self) -> u16 {
        ((self.0 >> Self::NAMESPACE_SHIFT) & 0xFFFF) as u16
    }

    /// What the next process that takes the record writes first.
    #[must_use]
    pub const fn joined_by(self, pid: u32, namespace: u64) -> Self {
        let incarnation = (self.incarnation() as u64 + 1) & Self::INCARNATION_MASK;
        Self(
            ((AttachPhase::Joins as u64) << Self::PHASE_SHIFT)
                | (incarnation << Self::INCARNATION_SHIFT)
                | ((namespace & 0xFFFF) << Self::NAMESPACE_SHIFT)
                | (pid as u64 & Self::PID_MASK),
        )
    }

    /// The same process, live.
    #[must_use]
    pub const fn live(self) -> Self {
        Self(
            self.0 & !(0xF << Self::PHASE_SHIFT)
                | ((AttachPhase::Live as u64) << Self::PHASE_SHIFT),
        )
    }

    /// Nobody's; the incarnation stays, so that the next one is another.
    #[must_use]
    pub const fn freed(self) -> Self {
        Self(self.0 & (Self::INCARNATION_MASK << Self::INCARNATION_SHIFT))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_the_word_do_not_touch_each_other_and_incarnations_rise() {
        let joins = AttachState::default().joined_by(0x003f_ffff, 0xffff_1234);
        assert_eq!(
            (
                joins.phase(),
                joins.incarnation(),
                joins.pid(),
                joins.namespace()
            ),
            (AttachPhase::Joins, 1, 0x003f_ffff, 0x1234)
        );
        let live = joins.live();
        assert_eq!((live.phase(), live.pid()), (AttachPhase::Live, 0x003f_ffff));
        let free = live.freed();
        assert_eq!(
            (free.phase(), free.pid(), free.incarnation()),
            (AttachPhase::Free, 0, 1)
        );
        assert_eq!(free.joined_by(1, 1).incarnation(), 2);
        let last = AttachState::from_raw(u64::MAX);
        assert_eq!(last.joined_by(1, 1).incarnation(), 0);
        assert_eq!(last.phase(), AttachPhase::Reserved);
    }
}
