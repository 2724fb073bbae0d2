//! Starting and watching processes: the system calls that have no safe form.
//!
//! | file | what |
//! |---|---|
//! | `launch` | starts a program, alone, in a cgroup, or below an init of its own |
//! | `birth` | the fork, and what every child does before it becomes something else |
//! | `borrowed` | a child in this process's memory, which costs no copy of it |
//! | `init` | the small process between the worker and a program |
//! | `opened` | notice of whoever opens or changes something in a folder |
//! | `guard` | the process that ends a worker's cgroups when the worker is gone |
//!
//! Tested through `exec` and `contain`.

#![expect(
    unsafe_code,
    reason = "fork, what a child does before exec, and pidfd_open have no safe form in std or nix"
)]

mod birth;
mod borrowed;
mod guard;
mod init;
mod launch;
mod opened;

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, FromRawFd as _, OwnedFd};

use nix::unistd::Pid;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

pub(crate) use guard::{Guard, start_guard};
pub(crate) use init::{KILL_ALL, RESUME, SUSPEND, TERMINATE};
pub(crate) use launch::{Enclosure, NO_FILE, Program, Stdio, launch};
pub(crate) use opened::{FolderNumber, Opened, Told};

/// Makes a descriptor that becomes readable when the process has ended, also before it is reaped.
pub(crate) fn open_process(pid: Pid) -> io::Result<OwnedFd> {
    let flags: libc::c_uint = 0;
    // SAFETY: pidfd_open takes two integers, touches no memory of ours, and returns a new descriptor
    // (close-on-exec) or -1.
    let result = unsafe { libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), flags) };
    let number = i32::try_from(result).unwrap_or(-1);
    if number < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: `number` is an open descriptor that the call above has just made, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Has the tokio runtime of the caller watch a descriptor.
pub(crate) fn watched(descriptor: &OwnedFd) -> io::Result<AsyncFd<BorrowedFd<'_>>> {
    let interest = Interest::READABLE | Interest::WRITABLE;
    // SAFETY: the descriptor is open and stays so for as long as it is borrowed, which is longer than the `AsyncFd` lives; a `BorrowedFd`
    // gives the same number at each call.
    let registered = unsafe { AsyncFd::register_with_interest(descriptor.as_fd(), interest) };
    registered.map_err(io::Error::from)
}
