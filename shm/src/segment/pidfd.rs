//! A descriptor of a process: tells at once, and without doubt, that this process has ended.
//!
//! Tested at the end of this file.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::segment::process::{Liveness, ProcessIdentity};

/// A process, held so that its id cannot come to mean another one. Readable (for `poll`, `epoll` and rings) when the process has
/// ended.
#[derive(Debug)]
pub struct PidFd {
    fd: OwnedFd,
}

impl PidFd {
    /// Opens a process; `None` if it has ended.
    ///
    /// # Errors
    /// The kernel refuses: an old one, or no descriptor is left.
    pub fn open(process: ProcessIdentity) -> io::Result<Option<Self>> {
        match open_pid(process.pid) {
            Ok(fd) => {
                // Looked at after the open: if the id means this process now, the descriptor does too.
                let same = process.liveness() != Liveness::Dead;
                Ok(same.then_some(Self { fd }))
            }
            Err(error) if error.raw_os_error() == Some(Errno::ESRCH as i32) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Waits at most `timeout_ms` for the end of the process; tells whether it has ended. 0 only looks.
    ///
    /// # Errors
    /// The kernel refuses to wait.
    pub fn wait(&self, timeout_ms: u16) -> io::Result<bool> {
        let mut fds = [PollFd::new(self.fd.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, PollTimeout::from(timeout_ms)) {
            Ok(ready) => Ok(ready > 0),
            Err(Errno::EINTR) => Ok(false),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Sends a signal to this very process; false if it has ended.
    ///
    /// # Errors
    /// Not allowed.
    pub fn signal(&self, signal: nix::sys::signal::Signal) -> io::Result<bool> {
        match send_signal(&self.fd, signal as i32) {
            Ok(()) => Ok(true),
            Err(error) if error.raw_os_error() == Some(Errno::ESRCH as i32) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

impl AsFd for PidFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[expect(unsafe_code, reason = "system call")]
fn open_pid(pid: u32) -> io::Result<OwnedFd> {
    // SAFETY: takes two numbers; the descriptor is closed by exec, as the kernel makes all of this kind.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    let Some(fd) = i32::try_from(fd).ok().filter(|&fd| fd >= 0) else {
        return Err(io::Error::last_os_error());
    };
    // SAFETY: the kernel has just given this descriptor to us, and to nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[expect(unsafe_code, reason = "system call")]
fn send_signal(fd: &OwnedFd, signal: i32) -> io::Result<()> {
    let none = core::ptr::null::<libc::siginfo_t>();
    // SAFETY: takes numbers and no information: a null pointer means that the kernel fills it in.
    let sent =
        unsafe { libc::syscall(libc::SYS_pidfd_send_signal, fd.as_raw_fd(), signal, none, 0) };
    if sent < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use nix::sys::signal::Signal;

    use super::*;

    #[test]
    fn end_of_a_process_is_told_and_a_later_process_is_not_it() {
        let mut child = Command::new("cat")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let pid = child.id();
        let start_time = 0;
        let pidfd = PidFd::open(ProcessIdentity { pid, start_time })
            .unwrap()
            .unwrap();
        assert!(!pidfd.wait(0).unwrap());
        // A stopped process has not ended.
        assert!(pidfd.signal(Signal::SIGSTOP).unwrap());
        assert!(!pidfd.wait(20).unwrap());
        assert!(pidfd.signal(Signal::SIGKILL).unwrap());
        assert!(pidfd.wait(60_000).unwrap());
        child.wait().unwrap();
        assert!(!pidfd.signal(Signal::SIGKILL).unwrap());
        let own = ProcessIdentity::own();
        let other = ProcessIdentity {
            start_time: own.start_time + 1,
            ..own
        };
        assert!(PidFd::open(other).unwrap().is_none());
        assert!(PidFd::open(own).unwrap().is_some());
    }
}
