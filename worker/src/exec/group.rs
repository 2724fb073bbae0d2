//! One child as the leader of a process group: notice of its end, signals, and the last rites.

use core::time::Duration;
use std::process::{Child, ExitStatus};

use nix::sys::signal::{Signal, killpg};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;

use crate::sys;

// Only where the kernel has no pidfd (before 5.3, or a sandbox).
const POLL_PERIOD: Duration = Duration::from_millis(10);

/// The group of one child. Dropping it kills and reaps.
#[derive(Debug)]
pub(super) struct Group {
    /// `None` once reaped: from then on the number may be somebody else's (E1).
    leader: Option<Child>,
    pid: Pid,
}

impl Group {
    /// Takes a child that was started as a group leader.
    pub(super) fn new(leader: Child) -> Self {
        // Pids are positive and fit; 0 would mean our own group, so a wrong one is made impossible.
        let pid = Pid::from_raw(i32::try_from(leader.id()).unwrap_or(i32::MAX));
        Self {
            leader: Some(leader),
            pid,
        }
    }

    /// Waits until the leader has ended; it is not reaped by this.
    pub(super) async fn ended(&self) {
        if let Ok(notice) = sys::notice_of_end(self.pid) {
            // An error would mean that the runtime is going down, and this future with it.
            let _ = notice.readable().await;
            return;
        }
        while !self.has_ended() {
            tokio::time::sleep(POLL_PERIOD).await;
        }
    }

    fn has_ended(&self) -> bool {
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        !matches!(waitid(Id::Pid(self.pid), flags), Ok(WaitStatus::StillAlive))
    }

    pub(super) fn terminate(&self) {
        self.signal(Signal::SIGTERM);
    }

    pub(super) fn kill(&self) {
        self.signal(Signal::SIGKILL);
    }

    fn signal(&self, signal: Signal) {
        if self.leader.is_some() {
            // The only possible error is that nobody is left.
            let _ = killpg(self.pid, signal);
        }
    }

    /// Takes the exit status of a leader that has ended.
    pub(super) fn reap(&mut self) -> Option<ExitStatus> {
        let status = self.leader.as_mut()?.try_wait();
        if !matches!(status, Ok(None)) {
            self.leader = None;
        }
        status.ok().flatten()
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
        let Some(mut leader) = self.leader.take() else {
            return;
        };
        if matches!(leader.try_wait(), Ok(None)) {
            // Killed, but not dead yet: a short thread waits for it, so that no zombie is left behind.
            let _ = std::thread::Builder::new()
                .name("qtf-reap".to_owned())
                .spawn(move || leader.wait());
        }
    }
}
