//! One program and whatever it starts: notice of its end, signals, and the last rites.
//!
//! What holds them together is said in `contain`. Tested in `exec/tests.rs` and `exec/tree_tests.rs`.

use core::pin::pin;
use core::time::Duration;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt as _;
use std::process::ExitStatus;

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill, killpg};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use nix::unistd::Pid;
use tokio::net::unix::pipe;

use super::roster::{self, Ear};
use crate::contain::Cgroup;
use crate::sys;

// Only where the kernel has no pidfd (before 5.3, or a sandbox).
const POLL_PERIOD: Duration = Duration::from_millis(10);
/// How often a program is looked at whether it is stopped.
const LOOK_PERIOD: Duration = Duration::from_secs(1);
/// What was killed has this long to be gone; what the kernel holds for longer keeps the attempt no further.
const GONE_MAX: Duration = Duration::from_secs(10);

/// What holds a program's processes together.
#[derive(Debug)]
pub(super) enum Hold {
    Group,
    Cgroup(Cgroup),
    /// An init, which tells what becomes of the program.
    Init {
        in_namespace: bool,
        reports: pipe::Receiver,
    },
}

/// The processes of one attempt. Dropping it kills and reaps.
#[derive(Debug)]
pub(super) struct Tree {
    /// The program or its init; `None` once reaped: from then on the number may be somebody else's (E1).
    child: Option<Pid>,
    /// How it ended, if that is known: of one that is reaped.
    status: Option<ExitStatus>,
    hold: Hold,
}

impl Tree {
    /// Takes a child that was started that way.
    pub(super) fn new(child: Pid, hold: Hold) -> Self {
        let ear = match hold {
            Hold::Group | Hold::Cgroup(_) => Ear::Group,
            Hold::Init { .. } => Ear::Init,
        };
        roster::add(child, ear);
        Self {
            child: Some(child),
            status: None,
            hold,
        }
    }

    /// A descriptor that is readable when the program has ended. `None` where only the runtime can wait for that.
    pub(super) fn notice(&self) -> Option<OwnedFd> {
        match self.hold {
            Hold::Group | Hold::Cgroup(_) => sys::open_process(self.child?).ok(),
            Hold::Init { .. } => None,
        }
    }

    /// Reaps a program that has ended, and takes leave of what it was in. False when something of it is left, or may be: that is
    /// for [`Tree::finish`].
    pub(super) fn finish_at_once(&mut self) -> bool {
        match &self.hold {
            Hold::Group => self.kill(),
            Hold::Cgroup(_) => {}
            Hold::Init { .. } => return false,
        }
        self.reap();
        let is_reaped = self.child.is_none();
        match &mut self.hold {
            Hold::Cgroup(cgroup) => is_reaped && cgroup.has_ended(),
            Hold::Group | Hold::Init { .. } => is_reaped,
        }
    }

    /// How the program ended, if it is reaped and anybody knows.
    pub(super) const fn status(&self) -> Option<ExitStatus> {
        self.status
    }

    /// Waits until the program has ended, and says how if that is known already. Nothing is reaped by this. What was stopped
    /// meanwhile, and stays so for a moment, is told to `on_stop`.
    pub(super) async fn ended(&self, on_stop: impl Fn(Signal)) -> Option<ExitStatus> {
        let mut gone = pin!(self.child_ended());
        let mut stop = None;
        loop {
            let look = tokio::time::sleep(LOOK_PERIOD);
            tokio::select! {
                biased;
                report = self.next_report() => match report {
                    // The init is about to be gone.
                    None => {
                        gone.as_mut().await;
                        return None;
                    }
                    Some(status) if is_end(status) => return Some(status),
                    Some(status) => stop = stop_of(status),
                },
                () = gone.as_mut() => return self.last_report(),
                () = look => {
                    if let Hold::Group | Hold::Cgroup(_) = self.hold {
                        stop = self.stop_of_child();
                    }
                    if let Some(signal) = stop.take().filter(|_| !roster::is_suspended()) {
                        on_stop(signal);
                    }
                }
            }
        }
    }

    /// Whether a child without an init was stopped since the last look, and did not go on.
    fn stop_of_child(&self) -> Option<Signal> {
        let flags = WaitPidFlag::WSTOPPED | WaitPidFlag::WCONTINUED | WaitPidFlag::WNOHANG;
        match waitid(Id::Pid(self.child?), flags) {
            Ok(WaitStatus::Stopped(_, signal)) => Some(signal),
            Ok(_) | Err(_) => None,
        }
    }

    /// The next thing that an init tells; `None` when it is gone. Without an init, never.
    async fn next_report(&self) -> Option<ExitStatus> {
        match &self.hold {
            Hold::Init { reports, .. } => next_report(reports).await,
            Hold::Group | Hold::Cgroup(_) => core::future::pending().await,
        }
    }

    /// What an init told before it was gone, if that was the end of its program.
    fn last_report(&self) -> Option<ExitStatus> {
        let Hold::Init { reports, .. } = &self.hold else {
            return None;
        };
        let mut bytes = [0; size_of::<i32>()];
        let mut last = None;
        while reports
            .try_read(&mut bytes)
            .is_ok_and(|count| count == bytes.len())
        {
            last = Some(ExitStatus::from_raw(i32::from_ne_bytes(bytes)));
        }
        last.filter(|status| is_end(*status))
    }

    async fn child_ended(&self) {
        if let Some(child) = self.child {
            child_ended(child).await;
        }
    }

    /// Asks the program to end, and what is in its group. One that is stopped goes on, or it would not hear of it.
    pub(super) fn terminate(&self) {
        match self.hold {
            Hold::Group | Hold::Cgroup(_) => {
                self.signal_group(Signal::SIGTERM);
                self.signal_group(Signal::SIGCONT);
            }
            Hold::Init { .. } => self.signal_init(sys::TERMINATE),
        }
    }

    /// Kills all of them.
    pub(super) fn kill(&self) {
        match &self.hold {
            Hold::Group => self.signal_group(Signal::SIGKILL),
            Hold::Cgroup(cgroup) => cgroup.kill(),
            // With it the kernel kills all the others.
            Hold::Init {
                in_namespace: true, ..
            } => self.signal_init(Signal::SIGKILL),
            Hold::Init {
                in_namespace: false,
                ..
            } => self.signal_init(sys::KILL_ALL),
        }
    }

    fn signal_group(&self, signal: Signal) {
        if let Some(child) = self.child {
            // The only possible error is that nobody is left who may be signalled.
            let _ = killpg(child, signal);
        }
    }

    fn signal_init(&self, signal: Signal) {
        if let Some(child) = self.child {
            // It is not reaped: it is there, if only as a zombie.
            let _ = kill(child, signal);
        }
    }

    /// Kills what is left, and waits until it is gone. How the program ended is `known` if that was reported.
    pub(super) async fn finish(&mut self, known: Option<ExitStatus>) {
        if tokio::time::timeout(GONE_MAX, self.clear()).await.is_err() {
            let child = self.child.map_or(0, Pid::as_raw);
            tracing::warn!(
                child,
                "a process was killed and is still there: the kernel holds it"
            );
        }
        self.status = known.or(self.status);
    }

    async fn clear(&mut self) {
        match &mut self.hold {
            Hold::Group => {
                self.kill();
                self.child_ended().await;
                self.reap();
            }
            // Mostly nothing is left, and an empty cgroup can be removed without a kill.
            Hold::Cgroup(cgroup) => {
                if let Some(child) = self.child
                    && !has_ended(child)
                {
                    cgroup.kill();
                    child_ended(child).await;
                }
                reap(&mut self.child, &mut self.status);
                cgroup.end().await;
            }
            Hold::Init { .. } => {
                self.reap();
                if self.child.is_some() {
                    self.kill();
                    self.child_ended().await;
                    self.reap();
                }
            }
        }
    }

    /// Takes the exit status of a child that has ended.
    fn reap(&mut self) {
        reap(&mut self.child, &mut self.status);
    }
}

/// Reaps a child that has ended, once, and notes how if anybody knows.
fn reap(child: &mut Option<Pid>, status: &mut Option<ExitStatus>) {
    let Some(pid) = *child else { return };
    let waited = roster::reap(pid, || {
        let waited = waitpid(pid, Some(WaitPidFlag::WNOHANG));
        (
            !matches!(waited, Ok(WaitStatus::StillAlive) | Err(Errno::EINTR)),
            waited,
        )
    });
    *status = match waited {
        Ok(WaitStatus::StillAlive) | Err(Errno::EINTR) => return,
        Ok(WaitStatus::Exited(_, code)) => Some(ExitStatus::from_raw((code & 0xff) << 8)),
        Ok(WaitStatus::Signaled(_, signal, has_core)) => {
            let core = if has_core { 0x80 } else { 0 };
            Some(ExitStatus::from_raw(signal as i32 | core))
        }
        // Somebody else has reaped it: it has ended, but nobody knows how.
        Ok(_) | Err(_) => None,
    };
    *child = None;
}

async fn child_ended(child: Pid) {
    if let Ok(notice) = sys::open_process(child)
        && let Ok(notice) = sys::watched(&notice)
    {
        // An error would mean that the runtime is going down, and this future with it.
        let _ = notice.readable().await;
        return;
    }
    while !has_ended(child) {
        tokio::time::sleep(POLL_PERIOD).await;
    }
}

fn has_ended(child: Pid) -> bool {
    let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    !matches!(waitid(Id::Pid(child), flags), Ok(WaitStatus::StillAlive))
}

fn is_end(status: ExitStatus) -> bool {
    status.code().is_some() || status.signal().is_some()
}

fn stop_of(status: ExitStatus) -> Option<Signal> {
    Signal::try_from(status.stopped_signal()?).ok()
}

/// The next thing that an init tells; `None` when it is gone.
async fn next_report(reports: &pipe::Receiver) -> Option<ExitStatus> {
    let mut bytes = [0; size_of::<i32>()];
    loop {
        // It fails only with the runtime, which takes this future with it.
        reports.readable().await.ok()?;
        match reports.try_read(&mut bytes) {
            // So few bytes are written and read as one.
            Ok(count) if count == bytes.len() => {
                return Some(ExitStatus::from_raw(i32::from_ne_bytes(bytes)));
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Ok(_) | Err(_) => return None,
        }
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        let Some(child) = self.child else { return };
        self.kill();
        self.reap();
        if self.child.is_some() {
            // Killed, but not dead yet: a short thread waits for it, so that no zombie is left behind.
            let hold = core::mem::replace(&mut self.hold, Hold::Group);
            let wait = move || {
                let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT;
                let _ = waitid(Id::Pid(child), flags);
                reap(&mut Some(child), &mut None);
                drop(hold);
            };
            let _ = std::thread::Builder::new()
                .name("qtf-reap".to_owned())
                .spawn(wait);
        }
    }
}
