//! The fork, and what every child does before it becomes something else. How a child begins in this process's own memory stands
//! in `borrowed`.
//!
//! A child of a process with threads is a copy in which only the forking thread goes on: a lock that another
//! thread held stays locked for ever. Invariant: from its begin to `exec` or `_exit` a child makes bare system calls,
//! allocates nothing, takes no lock and cannot panic.

use core::ffi::{CStr, c_int};
use core::mem::MaybeUninit;
use core::ptr;
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, RawFd};

use nix::errno::Errno;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::unistd::Pid;

/// `CLONE_INTO_CGROUP`, which has a place only in the 64 bits of clone3.
pub(super) const INTO_CGROUP: u64 = 0x2_0000_0000;

/// Who goes on behind a fork.
#[derive(Debug)]
pub(super) enum Born {
    /// The new process.
    Child,
    /// The old one.
    Parent(Pid),
}

/// Forks, into a cgroup or a new pid namespace if that is asked for. Nothing is told to the C library: its
/// handlers of forks do not run.
///
/// # Safety
/// The child obeys the invariant of this file.
pub(super) unsafe fn fork(
    in_new_namespace: bool,
    cgroup: Option<BorrowedFd<'_>>,
) -> io::Result<Born> {
    let namespace = if in_new_namespace {
        libc::CLONE_NEWPID
    } else {
        0
    };
    let flags = u64::try_from(namespace).unwrap_or(0);
    let descriptor = cgroup.map_or(0, |cgroup| {
        u64::try_from(cgroup.as_raw_fd()).unwrap_or(u64::MAX)
    });
    // SAFETY: every field is an integer, for which zero is a value and means "not asked for".
    let mut arguments: libc::clone_args = unsafe { MaybeUninit::zeroed().assume_init() };
    arguments.flags = flags | cgroup.map_or(0, |_| INTO_CGROUP);
    arguments.exit_signal = u64::try_from(libc::SIGCHLD).unwrap_or(0);
    arguments.cgroup = descriptor;
    // SAFETY: clone3 reads the structure, whose size is given. Without CLONE_VM the child has memory of its own, so
    // that the stack may be shared in number; what it does with it is the caller's promise.
    let result = unsafe {
        libc::syscall(
            libc::SYS_clone3,
            &raw mut arguments,
            size_of::<libc::clone_args>(),
        )
    };
    let result = match (result, Errno::last()) {
        // An old kernel, or a sandbox that does not let it through because it cannot look into the structure.
        (-1, Errno::ENOSYS | Errno::EPERM) if cgroup.is_none() => {
            let flags = libc::c_long::from(libc::SIGCHLD | namespace);
            let none: libc::c_long = 0;
            // SAFETY: clone takes five integers; a stack of zero means the same one, in memory of the child's own, as above.
            unsafe { libc::syscall(libc::SYS_clone, flags, none, none, none, none) }
        }
        (result, _) => result,
    };
    match i32::try_from(result) {
        Ok(0) => Ok(Born::Child),
        Ok(pid) if pid > 0 => Ok(Born::Parent(Pid::from_raw(pid))),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Blocks every signal, until the returned mask is put back: a handler of this process must not run in its child.
pub(super) fn block_signals() -> io::Result<SigSet> {
    let mut before = SigSet::empty();
    sigprocmask(
        SigmaskHow::SIG_SETMASK,
        Some(&SigSet::all()),
        Some(&mut before),
    )?;
    Ok(before)
}

/// Puts a mask back.
pub(super) fn restore_signals(mask: &SigSet) {
    // It fails for a wrong `how` alone.
    let _ = sigprocmask(SigmaskHow::SIG_SETMASK, Some(mask), None);
}

/// In a child: signals do what they do by default, those that were ignored from the start stay so, none is blocked.
pub(super) fn forget_handlers() {
    for number in 1..=libc::SIGRTMAX() {
        let mut known = MaybeUninit::<libc::sigaction>::zeroed();
        // SAFETY: sigaction writes what is set for the signal to `known`, which is large enough; a signal that the C
        // library keeps to itself is refused, and `known` stays all zero, which is a value of each of its fields.
        unsafe { libc::sigaction(number, ptr::null(), known.as_mut_ptr()) };
        // SAFETY: all zero or written, see above.
        let mut action = unsafe { known.assume_init() };
        let is_ours = number == OURS;
        if is_ours || !matches!(action.sa_sigaction, libc::SIG_DFL | libc::SIG_IGN) {
            action.sa_sigaction = libc::SIG_DFL;
            action.sa_flags = 0;
            // SAFETY: reads `action`, a whole structure that says "by default"; no handler is installed.
            unsafe { libc::sigaction(number, &raw const action, ptr::null_mut()) };
        }
    }
    restore_signals(&SigSet::empty());
}

/// Ignored by the Rust runtime and not by whoever started it.
const OURS: c_int = libc::SIGPIPE;

/// In a child that the kernel has taken the handlers from: the rest of [`forget_handlers`].
pub(super) fn ignore_no_signal_of_ours() {
    // SAFETY: every field is an integer or an optional function, for which zero is a value: by default, with no flag.
    let action: libc::sigaction = unsafe { MaybeUninit::zeroed().assume_init() };
    // SAFETY: reads `action`, a whole structure; no handler is installed.
    unsafe { libc::sigaction(OURS, &raw const action, ptr::null_mut()) };
    restore_signals(&SigSet::empty());
}

/// In a child: asks for a signal when the parent's thread ends, which the kernel sends.
pub(super) fn die_with_parent(signal: Signal) -> Result<(), Errno> {
    nix::sys::prctl::set_pdeathsig(signal)
}

/// Whether the process behind a pidfd has ended.
pub(super) fn has_ended(process: RawFd) -> bool {
    let mut question = libc::pollfd {
        fd: process,
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: poll reads and writes one structure, and one is what there is; it does not wait.
    let answers = unsafe { libc::poll(&raw mut question, 1, 0) };
    answers == 1
}

/// Closes the descriptors from `first` on, or marks them to be closed on exec.
pub(super) fn close_from(first: RawFd, on_exec: bool) -> Result<(), Errno> {
    let first = libc::c_uint::try_from(first).unwrap_or(libc::c_uint::MAX);
    let flags = if on_exec {
        libc::CLOSE_RANGE_CLOEXEC
    } else {
        0
    };
    // SAFETY: close_range takes three integers. It is called in a child between fork and exec, whose descriptors are a
    // copy: nothing that this program will use is closed under its hands.
    let result = unsafe { libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, flags) };
    Errno::result(result).map(drop)
}

/// Copies a descriptor over another, which stays open on exec.
pub(super) fn place(from: RawFd, to: RawFd) -> Result<(), Errno> {
    // SAFETY: dup2 takes two integers; in a child, whose descriptors are a copy, `to` is nobody else's.
    Errno::result(unsafe { libc::dup2(from, to) }).map(drop)
}

/// The name that `ps` and `top` show for this process.
pub(super) fn take_name(name: &CStr) {
    // It fails for a name that is too long alone.
    let _ = nix::sys::prctl::set_name(name);
}

/// Ends this process without anything that exit does besides.
pub(super) fn leave(code: i32) -> ! {
    // SAFETY: _exit runs no handler and touches no memory.
    unsafe { libc::_exit(code) }
}
