//! A seam between the daemon and its disk, for tests: what they put there may refuse or shorten any operation.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;

use qtf_journal::Storage;

/// How a write of the journal fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WriteFault {
    /// With this errno; nothing is written.
    Errno(i32),
    /// Only half of it is written.
    Short,
}

/// Stands between the daemon and its disk.
pub trait DiskFaults: fmt::Debug + Send + Sync {
    /// The journal's folder as the daemon is to see it.
    fn storage(&self, real: Arc<dyn Storage>) -> Arc<dyn Storage> {
        real
    }

    /// Comes before each job of the spill thread, and may keep it. True: the disk has no room for the bytes of an upload.
    fn spill(&self) -> bool {
        false
    }

    /// What the next write of a group waits for, as for a slow disk; `None` = it begins at once.
    fn held(&self) -> Option<Pin<Box<dyn Future<Output = ()> + Send>>> {
        None
    }

    /// What becomes of the next write of a group; `None` = it is done.
    fn write(&self) -> Option<WriteFault> {
        None
    }
}
