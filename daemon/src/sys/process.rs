//! Other processes by pidfd: a number that cannot come to mean somebody else.
//!
//! Tested at the end.

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, FromRawFd as _, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use qtf_shm::segment::{Liveness, ProcessIdentity};

/// LIMIT: time that a killed process may take to end: what it has in the kernel must come to an end first.
pub(crate) const END_MAX: Duration = Duration::from_secs(10);

/// Kills a process and waits for its end.
pub(crate) fn end_process(process: &OwnedFd, pid: u32) -> Result<(), String> {
    kill_process(process).map_err(|error| format!("it cannot be killed: {error}"))?;
    match wait_for_end(process, END_MAX) {
        Ok(true) => Ok(()),
        Ok(false) => Err(format!(
            "it was killed and has not ended within {} s: the kernel holds it, see /proc/{pid}/stack",
            END_MAX.as_secs()
        )),
        Err(error) => Err(format!("its end cannot be waited for: {error}")),
    }
}

/// The same for a process that is known by pid and start time; one that has ended already is as good.
pub(crate) fn end_known(known: ProcessIdentity) -> Result<(), String> {
    if known.start_time == 0 {
        return Err("its start time is not known, so it may be another process by now".to_owned());
    }
    let process = match open_process(known.pid) {
        Ok(process) => process,
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => return Ok(()),
        Err(error) => return Err(format!("it cannot be opened: {error}")),
    };
    // Asked while the descriptor is open: if it is who it was, the descriptor is its.
    match known.liveness() {
        Liveness::Alive => end_process(&process, known.pid),
        Liveness::Dead => Ok(()),
        Liveness::Unknown => Err("it cannot be seen from here".to_owned()),
    }
}

/// Whether a process is at its end: it was killed and what it has in the kernel is being given back, or it is gone.
pub(crate) fn is_ending(pid: u32) -> bool {
    let read = |name: &str| std::fs::read_to_string(format!("/proc/{pid}/{name}"));
    match (read("stat"), read("status")) {
        (Ok(stat), Ok(status)) => is_exiting(&stat) || has_kill_pending(&status),
        (Err(error), _) | (_, Err(error)) => {
            error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ESRCH)
        }
    }
}

/// Waits for the end of a process that is at its end; not for ever, as the kernel may hold it. Whoever asks looks again.
pub(crate) fn await_killed(pid: u32, bound: Duration) {
    let ended = open_process(pid).and_then(|process| wait_for_end(&process, bound));
    tracing::debug!(pid, ?ended, "a killed process's end was waited for");
}

/// The flag of the kernel for a process in `exit`: field 9, seven behind the name, which may hold anything.
fn is_exiting(stat: &str) -> bool {
    const PF_EXITING: u64 = 4;
    let flags = stat
        .rsplit_once(')')
        .and_then(|(_, rest)| rest.split_whitespace().nth(6)?.parse::<u64>().ok());
    flags.is_some_and(|flags| flags & PF_EXITING != 0)
}

/// `SIGKILL` was sent and has not been looked at.
fn has_kill_pending(status: &str) -> bool {
    let kill = 1_u64 << (libc::SIGKILL - 1);
    status
        .lines()
        .filter_map(|line| {
            line.strip_prefix("SigPnd:")
                .or(line.strip_prefix("ShdPnd:"))
        })
        .filter_map(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .any(|mask| mask & kill != 0)
}

/// Opens a process by its id.
#[expect(unsafe_code, reason = "pidfd_open has no safe wrapper in nix")]
pub(crate) fn open_process(pid: u32) -> io::Result<OwnedFd> {
    // SAFETY: the call takes two integers and touches no memory of ours.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    let fd = i32::try_from(fd).map_err(|_| io::ErrorKind::InvalidData)?;
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel just returned this descriptor to us, so it is open and nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Kills a process; one that is stopped too. One that has ended already is as good.
#[expect(unsafe_code, reason = "pidfd_send_signal has no safe wrapper in nix")]
pub(crate) fn kill_process(process: &OwnedFd) -> io::Result<()> {
    let none = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: the descriptor is open as long as `process` is borrowed; the kernel reads no memory behind a null
    // pointer.
    let result = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            process.as_raw_fd(),
            libc::SIGKILL,
            none,
            0,
        )
    };
    match result {
        0 => Ok(()),
        _ => match io::Error::last_os_error() {
            error if error.raw_os_error() == Some(libc::ESRCH) => Ok(()),
            error => Err(error),
        },
    }
}

/// Waits until a process has ended, at most for `bound`. Whether it has.
pub(crate) fn wait_for_end(process: &OwnedFd, bound: Duration) -> io::Result<bool> {
    let until = std::time::Instant::now() + bound;
    loop {
        let left = until.saturating_duration_since(std::time::Instant::now());
        let mut asked = [PollFd::new(process.as_fd(), PollFlags::POLLIN)];
        match poll(&mut asked, timeout_of(left)) {
            Ok(0) if left.is_zero() => return Ok(false),
            Ok(0) | Err(Errno::EINTR) => {}
            Ok(_) => return Ok(true),
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// What is left of a wait, for `poll`: never shorter, but for what is longer than that can wait at once. No time at all is none here too:
/// every connection on the Unix socket asks so, on the thread that does everything else.
fn timeout_of(left: Duration) -> PollTimeout {
    let millis = left.as_nanos().div_ceil(1_000_000);
    PollTimeout::from(u16::try_from(millis).unwrap_or(u16::MAX))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use nix::sys::signal::{Signal, kill};
    use nix::unistd::Pid;

    use super::*;

    #[test]
    fn question_without_a_bound_does_not_wait_and_a_wait_is_not_cut_short() {
        assert_eq!(timeout_of(Duration::ZERO), PollTimeout::ZERO);
        assert_eq!(timeout_of(Duration::from_nanos(1)), PollTimeout::from(1u8));
        assert_eq!(timeout_of(Duration::from_millis(7)), PollTimeout::from(7u8));
        assert_eq!(
            timeout_of(Duration::from_micros(7_001)),
            PollTimeout::from(8u8)
        );
        assert_eq!(timeout_of(Duration::MAX), PollTimeout::from(u16::MAX));
    }

    #[test]
    fn stopped_process_is_killed_and_its_end_is_seen() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let process = open_process(child.id()).unwrap();
        kill(
            Pid::from_raw(i32::try_from(child.id()).unwrap()),
            Signal::SIGSTOP,
        )
        .unwrap();
        assert!(!wait_for_end(&process, Duration::from_millis(20)).unwrap());
        kill_process(&process).unwrap();
        assert!(wait_for_end(&process, Duration::from_secs(20)).unwrap());
        child.wait().unwrap();
        kill_process(&process).unwrap();
    }

    #[test]
    fn killed_process_is_at_its_end_before_and_after_it_is_waited_for_and_a_stopped_one_is_not() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
        kill(pid, Signal::SIGSTOP).unwrap();
        assert!(!is_ending(child.id()));
        assert!(!is_ending(std::process::id()));
        kill(pid, Signal::SIGKILL).unwrap();
        assert!(is_ending(child.id()));
        child.wait().unwrap();
        assert!(is_ending(child.id()));
    }

    #[test]
    fn pending_kill_and_exit_are_read_from_what_the_kernel_shows() {
        let status = |private, shared| format!("Name:\tq\nSigPnd:\t{private}\nShdPnd:\t{shared}\n");
        let (none, term, kill) = ("0000000000000000", "0000000000004000", "0000000000000100");
        assert!(has_kill_pending(&status(kill, none)));
        assert!(has_kill_pending(&status(none, kill)));
        assert!(!has_kill_pending(&status(term, none)));
        let stat = |flags: u64| format!("7 (a) b) R 1 7 7 0 -1 {flags} 0 0");
        assert!(is_exiting(&stat(0x0040_0104)));
        assert!(!is_exiting(&stat(0x0040_0100)));
    }

    #[test]
    fn process_of_another_start_time_is_not_killed() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let pid = child.id();
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        let (_, rest) = stat.rsplit_once(')').unwrap();
        let start_time: u64 = rest.split_whitespace().nth(19).unwrap().parse().unwrap();
        let other = ProcessIdentity {
            pid,
            start_time: start_time + 1,
        };
        end_known(other).unwrap();
        let unknown = ProcessIdentity { pid, start_time: 0 };
        assert!(end_known(unknown).unwrap_err().contains("start time"));
        assert_eq!(child.try_wait().unwrap(), None, "it lives");
        end_known(ProcessIdentity { pid, start_time }).unwrap();
        child.wait().unwrap();
    }
}
