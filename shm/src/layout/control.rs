//! The control region: the few words of the segment that change for the segment as a whole.
//!
//! ```text
//! offset  field            writer
//!      0  ready            creator: 0 blank, 1 building, 2 ready (written last, Release), 3 retiring
//!      8  creator_pid      creator
//!     16  creator_start    creator: start time of the process, in ticks since boot
//!    128  daemon_epoch     daemon: rises by one at each start
//!    136  daemon_pid       daemon
//!    144  daemon_start     daemon
//!    152  lock_device      daemon: device and inode of its lock file
//!    160  lock_inode       daemon
//!    168  shutdown         daemon: 0 = runs or was killed, 1 = stopped in order
//!    176  daemon_beat      daemon: stamp of its last turn of the loop that published counters
//!    184  rebuilding       daemon: 1 while it builds the caches anew and nobody may attach
//!    192  journal_end      daemon: highest record that any daemon of this segment handed to its journal
//!    256  gen_limit        journal's reservation: claims above are refused; 0 = no limit
//!    264  gen_top          any submitter: highest generation ever claimed
//!    384  high_water       any submitter: number of the highest slot ever claimed, plus one
//!    512  sleeping         daemon and local processes: the doorbell, a futex, see `doorbell.rs`
//!    520  keys_used        PLM: 1 = an idempotency key was put in at some time
//!    528  reserved[0]      local processes: count of changes of local workers, see `segment/signals.rs`
//!    536  reserved[1]      local processes, daemon: local workers that sleep for want of work, see `idle_workers.rs`
//!    640  reserved[14..21] a start that is alone: the mark of a move of the origin, see `segment/rebase.rs`
//!   1024 reserved[62..186] daemon: where the history of attempts and tombstones lie, see `segment/history.rs`
//!   2016 reserved[186]    daemon: where the next tombstone goes, see `segment/tombstones.rs`
//!   2048  loops           eight of 64 bytes: stamp of its turn; operation 8, task's slot 24, worker 16, 0 16; turns; longest turn; 0
//!   2560  events_written  core: events of the flight recorder so far
//!   2568  resources       numbers of the names of the 16 resources, 16 bits each
//!   2600  remade          times that a start has made the segment anew
//! ```
//! Of `loops` the turns are counted (`segment/loops.rs`), of PLM, Scheduler and Register; nothing uses the rest and what follows yet, so it is zero.
//!
//! Groups lie 128 bytes apart, so that two cores that write different groups do not share a line or its neighbour.

use crate::gate::Gate;
use crate::layout::shared::shared_layout;
use crate::sync::AtomicU64;

/// The creator is at work, or died at it.
pub(crate) const BUILDING: u64 = 1;
/// The daemon stopped in order.
pub(crate) const SHUTDOWN_CLEAN: u64 = 1;
/// Bytes of the control region.
pub const CONTROL_BYTES: usize = 4096;

shared_layout! {
    /// The control region as it lies in the segment; see the drawing in this file's head.
    pub struct ControlLayout: 4096 bytes, align 128 {
        0 => ready: AtomicU64,
        8 => creator_pid: AtomicU64,
        16 => creator_start: AtomicU64,
        24 => reserved_creator: [AtomicU64; 13],
        128 => daemon_epoch: AtomicU64,
        136 => daemon_pid: AtomicU64,
        144 => daemon_start: AtomicU64,
        152 => lock_device: AtomicU64,
        160 => lock_inode: AtomicU64,
        168 => shutdown: AtomicU64,
        176 => daemon_beat: AtomicU64,
        184 => rebuilding: AtomicU64,
        192 => journal_end: AtomicU64,
        200 => reserved_daemon: [AtomicU64; 7],
        256 => gen_limit: AtomicU64,
        264 => gen_top: AtomicU64,
        272 => reserved_gen: [AtomicU64; 14],
        384 => high_water: AtomicU64,
        392 => reserved_high_water: [AtomicU64; 15],
        512 => sleeping: AtomicU64,
        520 => keys_used: AtomicU64,
        528 => reserved: [AtomicU64; 190],
        2048 => loops: [AtomicU64; 64],
        2560 => events_written: AtomicU64,
        2568 => resources: [AtomicU64; 4],
        2600 => remade: AtomicU64,
        2608 => reserved_tables: [AtomicU64; 186],
    }
}

impl ControlLayout {
    /// Whether a process may come in.
    pub(crate) const fn gate(&self) -> Gate<'_> {
        Gate::new(&self.ready, &self.rebuilding)
    }
}
