//! What the daemon is: for its starter, and for operators who ask it. Tested in `tests/daemon/in_process.rs`.

use qtf_proto::address::Address;

use crate::descriptors::Descriptors;

/// How a daemon found its tasks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartKind {
    /// There were none.
    Fresh,
    /// In the segment of an earlier daemon.
    Hot,
    /// In the journal.
    Cold,
}

/// What a daemon is.
#[derive(Debug, Clone)]
pub struct DaemonInfo {
    /// Its name.
    pub instance: String,
    /// `SysV` id of the segment, for `shm-inspect --id`.
    pub shm_id: i32,
    /// Size of the segment.
    pub segment_bytes: u64,
    /// Why it is smaller than was asked for, if it is.
    pub segment_shortage: Option<String>,
    /// Task slots in it.
    pub task_slots: u64,
    /// Worker slots in it.
    pub worker_slots: u64,
    /// Whether the segment vanishes with its last user.
    pub segment_is_private: bool,
    /// Core that the thread is pinned to.
    pub core: Option<u16>,
    /// Threads that serve connections; 0: the pinned one does.
    pub edge_threads: usize,
    /// What the process may open, and for what.
    pub descriptors: Descriptors,
    /// `io_uring` or `tokio`.
    pub network: &'static str,
    /// How it found its tasks.
    pub start: StartKind,
    /// What writes its journal: `io_uring` or `thread`; `None` without a data folder.
    pub journal: Option<&'static str>,
    /// Addresses that are served.
    pub addresses: Vec<Address>,
}
