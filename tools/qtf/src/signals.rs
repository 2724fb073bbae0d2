//! The signals that ask the program to end, or to stop for a while, as events of the async runtime.
//!
//! SIGINT, SIGTERM, and SIGHUP unless it is ignored (`nohup`). With own tasks SIGTSTP (Ctrl-Z) too: they are in sessions of their
//! own, so the terminal stops this process alone, which then stops and continues them.
//!
//! Whoever ends a program may send two kinds at once, and means one end: after the first signal only one of a kind that has come
//! before is a second wish. Tested in `tests/map_ends.rs`,
//! `tests/terminal.rs` and `tests/dev.rs`.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::exit::{Exit, Failure};

/// The signals that ask for the end.
#[derive(Debug)]
pub(crate) struct EndSignals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Option<Signal>,
    /// SIGTSTP and SIGCONT, once there are own tasks.
    pause: Option<(Signal, Signal)>,
    come: Vec<SignalKind>,
}

impl EndSignals {
    /// Starts to listen. From here on the signals no longer end the program by themselves.
    pub(crate) fn listen() -> io::Result<Self> {
        let hangup = if is_ignored(SignalKind::hangup()) {
            None
        } else {
            Some(signal(SignalKind::hangup())?)
        };
        Ok(EndSignals {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup,
            pause: None,
            come: Vec::new(),
        })
    }

    /// From here on this process runs tasks, which stop and go on with it.
    pub(crate) fn pause_own_tasks(&mut self) -> Result<(), Failure> {
        let failed =
            |error| Failure::new(Exit::Usage, format!("cannot listen to signals: {error}"));
        let stop = SignalKind::from_raw(nix::sys::signal::Signal::SIGTSTP as i32);
        let go_on = SignalKind::from_raw(nix::sys::signal::Signal::SIGCONT as i32);
        if !is_ignored(stop) {
            self.pause = Some((
                signal(stop).map_err(failed)?,
                signal(go_on).map_err(failed)?,
            ));
        }
        Ok(())
    }

    /// Waits for the next one that asks for the end; the way to end for it. Behind the first that is one which asks again.
    pub(crate) async fn next(&mut self) -> Exit {
        loop {
            let kind = tokio::select! {
                _ = self.interrupt.recv() => SignalKind::interrupt(),
                _ = self.terminate.recv() => SignalKind::terminate(),
                _ = recv_if_any(&mut self.hangup) => SignalKind::hangup(),
                is_stop = next_pause(&mut self.pause) => {
                    if is_stop {
                        stop_with_tasks();
                    } else {
                        qtf_worker::resume_programs();
                    }
                    continue;
                }
            };
            let is_first = self.come.is_empty();
            let is_again = self.come.contains(&kind);
            self.come.push(kind);
            if is_first || is_again {
                return if kind == SignalKind::interrupt() {
                    Exit::Interrupted
                } else {
                    Exit::Terminated
                };
            }
        }
    }
}

async fn recv_if_any(signal: &mut Option<Signal>) -> Option<()> {
    match signal {
        Some(signal) => signal.recv().await,
        None => std::future::pending().await,
    }
}

/// True for SIGTSTP, false for SIGCONT.
async fn next_pause(pause: &mut Option<(Signal, Signal)>) -> bool {
    match pause {
        Some((stop, go_on)) => tokio::select! {
            _ = stop.recv() => true,
            _ = go_on.recv() => false,
        },
        None => std::future::pending().await,
    }
}

/// Does what SIGTSTP does by default, which its handler keeps from happening, and to the tasks too.
fn stop_with_tasks() {
    // As the kernel sees to it: nobody stops where nobody would continue him.
    if is_orphaned() {
        return;
    }
    qtf_worker::suspend_programs(|| {
        // It comes back when SIGCONT has come, which continues the tasks.
        let _ = nix::sys::signal::raise(nix::sys::signal::Signal::SIGSTOP);
    });
}

/// Whether no process of this session, outside of this group, has a child in this group: then no shell looks after it.
fn is_orphaned() -> bool {
    let group = nix::unistd::getpgrp();
    let session = nix::unistd::getsid(None);
    let mut parent = nix::unistd::getppid();
    while parent.as_raw() > 0 && nix::unistd::getpgid(Some(parent)) == Ok(group) {
        let status = std::fs::read_to_string(format!("/proc/{parent}/status")).unwrap_or_default();
        let above = status.lines().find_map(|line| line.strip_prefix("PPid:"));
        let above = above.and_then(|above| above.trim().parse().ok());
        parent = nix::unistd::Pid::from_raw(above.unwrap_or(0));
    }
    parent.as_raw() == 0 || nix::unistd::getsid(Some(parent)) != session
}

/// Whether this process was started with the signal ignored, which a handler would undo.
fn is_ignored(signal: SignalKind) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let place = signal.as_raw_value() - 1;
    ignored_signals(&status).is_some_and(|mask| (mask >> place) & 1 != 0)
}

fn ignored_signals(status: &str) -> Option<u64> {
    let mask = status
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:"))?;
    u64::from_str_radix(mask.trim(), 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mask_of_ignored_signals_is_read() {
        assert_eq!(
            ignored_signals("SigBlk:\t00\nSigIgn:\t0000000000001001\n"),
            Some(0x1001)
        );
        assert_eq!(ignored_signals("nothing"), None);
    }
}
