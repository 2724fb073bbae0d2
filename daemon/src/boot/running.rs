//! The daemon as its starter sees it: where it is, how to get in, how to end it.
//!
//! Tested in `tests/daemon/in_process.rs`.

use std::thread::JoinHandle;

use qtf_proto::address::{Address, InProcess};
use tokio::sync::watch;

use crate::boot::{LoopsOfRoles, ThreadEnd};
use crate::core::info::DaemonInfo;
use crate::exit::Exit;

/// Why a stop was not clean.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StopError {
    /// The thread ended by a panic: a bug.
    #[error("the daemon's thread panicked")]
    Panicked,
    /// The journal could not be written.
    #[error("{0}")]
    JournalFailed(String),
    /// Another daemon has adopted the segment.
    #[error("another daemon has adopted the segment of this one")]
    Superseded,
    /// Some connections were still open at the deadline and were cut.
    #[error(
        "connections were still open at the stop deadline and were cut; raise stop_deadline_ms if they need longer"
    )]
    Cut,
}

impl StopError {
    /// The exit code of `qtfd`.
    #[must_use]
    pub fn exit(&self) -> Exit {
        match self {
            Self::JournalFailed(_) => Exit::JournalFailed,
            Self::Panicked | Self::Superseded | Self::Cut => Exit::Failed,
        }
    }
}

/// A daemon that serves. Dropping it stops it.
#[derive(Debug)]
pub struct RunningDaemon {
    info: DaemonInfo,
    loops: LoopsOfRoles,
    in_process: InProcess,
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<Result<(), ThreadEnd>>>,
}

impl RunningDaemon {
    pub(crate) fn new(
        (info, loops): (DaemonInfo, LoopsOfRoles),
        in_process: InProcess,
        stop: watch::Sender<bool>,
        thread: JoinHandle<Result<(), ThreadEnd>>,
    ) -> Self {
        Self {
            info,
            loops,
            in_process,
            stop,
            thread: Some(thread),
        }
    }

    /// Addresses that are served.
    #[must_use]
    pub fn addresses(&self) -> &[Address] {
        &self.info.addresses
    }

    /// A way in that needs no listening socket; works until the daemon is stopped.
    #[must_use]
    pub fn in_process(&self) -> InProcess {
        self.in_process.clone()
    }

    /// `SysV` id of the segment.
    #[must_use]
    pub fn shm_id(&self) -> i32 {
        self.info.shm_id
    }

    /// What it is.
    #[must_use]
    pub fn info(&self) -> &DaemonInfo {
        &self.info
    }

    /// How far its loops have come.
    #[must_use]
    pub fn loops(&self) -> LoopsOfRoles {
        self.loops.clone()
    }

    /// Asks it to stop and comes back at once; [`Self::stop`] waits.
    pub fn request_stop(&self) {
        self.stop.send_replace(true);
    }

    /// Whether the daemon has ended, on request or by itself.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Waits until the daemon's thread has let go of everything it serves with, without blocking the
    /// caller's runtime. [`Self::stop`] then returns at once.
    pub async fn ended(&self) {
        self.stop.closed().await;
    }

    /// Stops it: no more tasks are taken, workers and clients are told, answers under way are finished
    /// until the deadline, a private segment is gone, a named one is kept. Blocks until then.
    ///
    /// # Errors
    /// When it did not end cleanly.
    pub fn stop(mut self) -> Result<(), StopError> {
        self.request_stop();
        self.join()
    }

    fn join(&mut self) -> Result<(), StopError> {
        match self.thread.take() {
            None => Ok(()),
            Some(thread) => match thread.join() {
                Ok(Ok(())) => Ok(()),
                Ok(Err(ThreadEnd::Stop(error))) => Err(error),
                // A start error was reported by the start.
                Ok(Err(ThreadEnd::Boot(_))) | Err(_) => Err(StopError::Panicked),
            },
        }
    }
}

impl Drop for RunningDaemon {
    fn drop(&mut self) {
        self.request_stop();
        if let Err(error) = self.join() {
            tracing::warn!(%error, "daemon stopped");
        }
    }
}
