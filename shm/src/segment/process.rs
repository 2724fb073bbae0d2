//! Who this process is, and whether another one still is who it was.
//!
//! A process is told by its id and its start time: ids are given again, together they are not. Tested at the end of this
//! file.

use std::fs;
use std::os::unix::fs::MetadataExt;

use nix::errno::Errno;
use nix::sys::signal::kill;
use nix::unistd::Pid;

/// A process that cannot be taken for a later one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProcessIdentity {
    /// Process id.
    pub pid: u32,
    /// Start time in ticks since boot; 0 when not known.
    pub start_time: u64,
}

/// What can be said of another process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Liveness {
    /// It runs, or is stopped.
    Alive,
    /// It has ended. A zombie has.
    Dead,
    /// It cannot be seen from here; nothing of its may be touched.
    Unknown,
}

impl ProcessIdentity {
    /// This process.
    #[must_use]
    pub fn own() -> Self {
        let pid = std::process::id();
        let start_time = match look_at(pid) {
            Look::Runs(start) => start,
            Look::Ended | Look::Hidden => 0,
        };
        Self { pid, start_time }
    }

    /// The process that has this id now; `None` if none has it, or its start time cannot be seen from here.
    #[must_use]
    pub fn of(pid: u32) -> Option<Self> {
        match look_at(pid) {
            Look::Runs(start_time) => Some(Self { pid, start_time }),
            Look::Ended | Look::Hidden => None,
        }
    }

    /// Whether the process still is there. Where nothing is known of its start time, a process with its id counts as
    /// itself. Only for ids of this process's pid namespace.
    #[must_use]
    pub fn liveness(self) -> Liveness {
        match look_at(self.pid) {
            Look::Ended => Liveness::Dead,
            Look::Hidden => Liveness::Unknown,
            Look::Runs(start) if self.start_time == 0 || start == self.start_time => {
                Liveness::Alive
            }
            Look::Runs(_) => Liveness::Dead,
        }
    }

    /// The process still runs (or is stopped), as far as one can see from here.
    #[must_use]
    pub fn is_alive(self) -> bool {
        self.liveness() != Liveness::Dead
    }
}

/// What there is of a process id.
enum Look {
    /// A process that runs or is stopped, by its start time in ticks since boot.
    Runs(u64),
    /// None, or a zombie.
    Ended,
    /// Somebody else's, of whom nothing can be read.
    Hidden,
}

fn look_at(pid: u32) -> Look {
    let Some(number) = i32::try_from(pid).ok().filter(|&pid| pid > 0) else {
        return Look::Ended;
    };
    // Signal 0 is sent to nobody, and answered also where /proc hides the processes of others.
    if kill(Pid::from_raw(number), None) == Err(Errno::ESRCH) {
        return Look::Ended;
    }
    match fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(stat) => read_stat(&stat).unwrap_or(Look::Hidden),
        // Gone in between, or hidden: the next look tells.
        Err(_) => Look::Hidden,
    }
}

fn read_stat(stat: &str) -> Option<Look> {
    // The name in parentheses may hold anything, also parentheses and blanks.
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace();
    let state = fields.next()?;
    // Fields 20 and 22 of the line; the state was field 3.
    let threads: u64 = fields.nth(16)?.parse().ok()?;
    let start = fields.nth(1)?.parse().ok()?;
    // The first thread may have ended before the others.
    let ended = matches!(state, "Z" | "X" | "x") && threads <= 1;
    Some(if ended {
        Look::Ended
    } else {
        Look::Runs(start)
    })
}

/// The kernel's boot id; zeros when it cannot be read.
pub(crate) fn boot_id() -> [u64; 2] {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let digits: String = text.chars().filter(char::is_ascii_hexdigit).collect();
    let half = |range| {
        digits
            .get(range)
            .and_then(|digits| u64::from_str_radix(digits, 16).ok())
            .unwrap_or(0)
    };
    [half(0..16), half(16..32)]
}

/// Inode of this process's pid namespace; 0 when it cannot be read.
pub(crate) fn pid_namespace() -> u64 {
    fs::metadata("/proc/self/ns/pid").map_or(0, |metadata| metadata.ino())
}

/// Inode of this process's IPC namespace; 0 when it cannot be read.
pub(crate) fn ipc_namespace() -> u64 {
    fs::metadata("/proc/self/ns/ipc").map_or(0, |metadata| metadata.ino())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_alive_and_a_process_of_another_start_is_not() {
        let own = ProcessIdentity::own();
        assert!(own.start_time > 0);
        assert!(own.is_alive());
        let other = ProcessIdentity {
            start_time: own.start_time + 1,
            ..own
        };
        assert!(!other.is_alive());
        assert!(
            ProcessIdentity {
                start_time: 0,
                ..own
            }
            .is_alive()
        );
        assert!(
            !ProcessIdentity {
                pid: 0,
                start_time: 0
            }
            .is_alive()
        );
    }

    #[test]
    fn child_that_has_ended_is_dead_before_and_after_it_is_waited_for() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let pid = child.id();
        child.wait().unwrap();
        assert!(!ProcessIdentity { pid, start_time: 0 }.is_alive());
    }

    #[test]
    fn boot_id_and_namespace_can_be_read() {
        assert_ne!(boot_id(), [0, 0]);
        assert_eq!(boot_id(), boot_id());
        assert_ne!(ipc_namespace(), 0);
    }
}
