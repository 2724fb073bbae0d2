//! The task of the daemon's thread that takes in what the spill thread says, and its end.
//!
//! Tested in `tests/daemon/transfer.rs`.

use std::convert::Infallible;
use std::sync::mpsc;
use std::time::Duration;

use tokio::task::JoinHandle;

use crate::core::{Core, core_cell};
use crate::spill::thread::Told;

/// The task, and what tells the end of the thread.
#[derive(Debug)]
pub(crate) struct SpillTask {
    task: JoinHandle<()>,
    end: mpsc::Receiver<Infallible>,
}

impl SpillTask {
    /// Starts it; the core is installed already.
    pub(crate) fn start(told: Told) -> Self {
        let Told { mut done, end } = told;
        let task = tokio::task::spawn_local(async move {
            while let Some(done) = done.recv().await {
                if core_cell::attend(|core| Core::spill_done(core, done)).is_none() {
                    return;
                }
            }
        });
        Self { task, end }
    }

    /// Waits until the thread touches the folder no more; the core is gone by now. False if the disk keeps it longer than `bound`.
    pub(crate) fn end(self, bound: Duration) -> bool {
        self.task.abort();
        let ended = self.end.recv_timeout(bound);
        matches!(ended, Err(mpsc::RecvTimeoutError::Disconnected))
    }
}
