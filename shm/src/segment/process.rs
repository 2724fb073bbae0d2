//! Who this process is, and whether another one still is who it was.
//!
//! A process is told by its id and its start time: ids are given again, together they are not. Tested at the end of this
//! file.

use std::fs;
use std::os::unix::fs::MetadataExt;

/// A process that cannot be taken for a later one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProcessIdentity {
    /// Process id.
    pub pid: u32,
    /// Start time in ticks since boot; 0 when not known.
    pub start_time: u64,
}

impl ProcessIdentity {
    /// This process.
    #[must_use]
    pub fn own() -> Self {
        let pid = std::process::id();
        Self {
            pid,
            start_time: start_time_of(pid).unwrap_or(0),
        }
    }

    /// The process still runs (or is stopped). A zombie is dead. Where nothing is known of its start time, a process with
    /// its id counts as itself.
    #[must_use]
    pub fn is_alive(self) -> bool {
        match start_time_of(self.pid) {
            None => false,
            Some(start) => self.start_time == 0 || start == self.start_time,
        }
    }
}

/// Start time of a living process, in ticks since boot.
fn start_time_of(pid: u32) -> Option<u64> {
    if pid == 0 {
        return None;
    }
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything, also parentheses and blanks.
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace();
    if matches!(fields.next()?, "Z" | "X" | "x") {
        return None;
    }
    // Field 22 of the line; the state was field 3.
    fields.nth(18)?.parse().ok()
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
