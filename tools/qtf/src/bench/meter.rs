//! Processor time of processes, to the nanosecond, as the kernel counts it for all their threads.

use std::time::Duration;

use nix::time::{ClockId, clock_getcpuclockid};
use nix::unistd::Pid;

/// Whose time is taken.
#[derive(Clone, Debug)]
pub(super) struct Meter {
    /// The daemon, where it is a process of this machine.
    pub(super) daemon: Option<u32>,
    /// The workers.
    pub(super) workers: Vec<u32>,
}

/// Processor time since the processes began.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Times {
    pub(super) daemon: Option<Duration>,
    pub(super) workers: Duration,
    /// This process: the clients.
    pub(super) clients: Duration,
}

impl Meter {
    /// Looks.
    pub(super) fn read(&self) -> Times {
        Times {
            daemon: self.daemon.and_then(of_process),
            workers: self.workers.iter().copied().filter_map(of_process).sum(),
            clients: now(ClockId::CLOCK_PROCESS_CPUTIME_ID).unwrap_or_default(),
        }
    }
}

impl Times {
    /// What was used between two looks.
    pub(super) fn since(&self, before: &Times) -> Times {
        Times {
            daemon: self
                .daemon
                .zip(before.daemon)
                .map(|(after, before)| after.saturating_sub(before)),
            workers: self.workers.saturating_sub(before.workers),
            clients: self.clients.saturating_sub(before.clients),
        }
    }
}

/// `None` for one that is not there.
pub(super) fn of_process(pid: u32) -> Option<Duration> {
    let pid = Pid::from_raw(i32::try_from(pid).ok()?);
    now(clock_getcpuclockid(pid).ok()?)
}

fn now(clock: ClockId) -> Option<Duration> {
    clock.now().ok().map(Duration::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_a_process_grows_with_its_work_and_one_that_is_gone_has_none() {
        let me = std::process::id();
        let before = of_process(me).unwrap();
        let mut sum = 0_u64;
        while of_process(me).unwrap() <= before {
            sum = std::hint::black_box(sum.wrapping_add(1));
        }
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let pid = child.id();
        child.wait().unwrap();
        assert_eq!(of_process(pid), None);
    }
}
