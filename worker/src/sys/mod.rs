//! Starting and watching processes: the system calls that have no safe form.
//!
//! Tested through `exec`.

#![expect(
    unsafe_code,
    reason = "fork handlers and pidfd_open have no safe form in std or nix"
)]

use std::io;
use std::os::fd::{FromRawFd as _, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use nix::sys::resource::{Resource, rlim_t, setrlimit};
use nix::sys::signal::Signal;
use nix::unistd::{Pid, getpid, getppid};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::descriptors;

/// Lets the child die with the thread that starts it, so that no task outlives a killed worker, and gives
/// it no descriptors but its three.
///
/// What a program has started in turn is not reached by this when the worker is killed with SIGKILL: that
/// takes a control group around the worker, which a service manager gives.
///
/// The kernel ties this to the *thread*: start children from threads that live as long as the worker,
/// never from a pool that shrinks.
pub(crate) fn isolate_child(command: &mut Command) {
    let parent = getpid();
    let limit = descriptors::given();
    let in_child = move || after_fork(parent, limit);
    // SAFETY: the closure runs between fork and exec. It calls only close_range, setrlimit, prctl and getppid,
    // which are bare system calls, allocates nothing, takes no lock, and touches no memory that another thread may
    // have been changing: it captures integers by value.
    unsafe { command.pre_exec(in_child) };
}

/// What happens in the child before it becomes the program.
fn after_fork(parent: Pid, limit: Option<(rlim_t, rlim_t)>) -> io::Result<()> {
    keep_descriptors_back();
    if let Some((soft, hard)) = limit {
        setrlimit(Resource::RLIMIT_NOFILE, soft, hard)?;
    }
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
    // The parent may have died before the signal was asked for; then nobody would send it.
    if getppid() == parent {
        Ok(())
    } else {
        Err(io::Error::from_raw_os_error(libc::ESRCH))
    }
}

/// Ours are closed on exec anyway; those that the worker itself has inherited from a careless starter are
/// not. Kernels before 5.11 cannot do it, which is no reason to fail.
fn keep_descriptors_back() {
    let (first, last): (libc::c_uint, libc::c_uint) = (3, libc::c_uint::MAX);
    // SAFETY: close_range takes three integers and, with this flag, closes nothing now: it only marks
    // descriptors of this child as close-on-exec. It is async-signal-safe, being a bare system call.
    unsafe {
        libc::syscall(
            libc::SYS_close_range,
            first,
            last,
            libc::CLOSE_RANGE_CLOEXEC,
        )
    };
}

/// Makes a descriptor that becomes readable when the process has ended, also before it is reaped.
/// To be called within a tokio runtime.
pub(crate) fn notice_of_end(pid: Pid) -> io::Result<AsyncFd<OwnedFd>> {
    let flags: libc::c_uint = 0;
    // SAFETY: pidfd_open takes two integers, touches no memory of ours, and returns a new descriptor
    // (close-on-exec) or -1.
    let result = unsafe { libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), flags) };
    let number = i32::try_from(result).unwrap_or(-1);
    if number < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: `number` is an open descriptor that the call above has just made, and nobody else has it.
    let pid_fd = unsafe { OwnedFd::from_raw_fd(number) };
    // SAFETY: the descriptor is open and owned by the `OwnedFd`, which moves into the `AsyncFd`: it stays
    // open until that is dropped, and an `OwnedFd` gives the same number at each call.
    let registered = unsafe { AsyncFd::register_with_interest(pid_fd, Interest::READABLE) };
    registered.map_err(io::Error::from)
}
