//! The attach record: one for each process or thread that writes to the segment.
//!
//! ```text
//! offset  field       writer: the process it is about, unless told otherwise
//!      0  state       0 free, 1 live; low 32 bits of the incarnation above
//!      8  pid
//!     16  start_time  ticks since boot
//!     24  pid_namespace
//!     32  uid
//!     40  role        1 daemon, 2 edge, 3 client, 4 worker
//!     48  heartbeat   stamp
//!     56  intent      reserved: what it is about to do, for repair
//!     64  lane        reserved: where its lane lies
//!     72  name        31 bytes
//!    104  reserved
//! ```
//! Record 0 is the daemon's.

use crate::layout::shared::shared_layout;
use crate::layout::text::store_text;
use crate::sync::{AtomicU64, Ordering};

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
        56 => intent: AtomicU64,
        64 => lane: AtomicU64,
        72 => name: [AtomicU64; 4],
        104 => reserved: [AtomicU64; 3],
    }
}

/// What a process does with the segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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
}

impl AttachRecord {
    /// Gives the record to a process.
    pub(crate) fn occupy(&self, pid: u32, start_time: u64, role: AttachRole, name: &str) {
        // ORDERING: read for display, and by repairers after the kernel has told of the death.
        let write = |word: &AtomicU64, value: u64| word.store(value, Ordering::Relaxed);
        write(&self.pid, u64::from(pid));
        write(&self.start_time, start_time);
        write(&self.uid, u64::from(nix::unistd::geteuid().as_raw()));
        write(&self.role, role as u64);
        store_text(&self.name, name);
        // ORDERING: the record counts from here on; Release, so that whoever sees it live sees whose it is.
        let incarnation = (self.state.load(Ordering::Relaxed) >> 32).wrapping_add(1);
        // ORDERING: as above.
        self.state.store(1 | (incarnation << 32), Ordering::Release);
    }
}
