//! The guard: a process that ends a worker's cgroups when the worker is gone, in whatever way it went.
//!
//! The kernel does not end a cgroup with the process that made it. So a process is forked from the worker at its start, which does
//! nothing but wait for the worker's end; then it kills what is in the cgroups and removes them. It is in a session of its own and has no
//! descriptor but two, so nothing that is sent to the worker's terminal or group reaches it, and nothing of the worker's is held by it.
//!
//! Tested in `contain` and by the tests of the whole system.

use core::ffi::CStr;
use core::mem::MaybeUninit;
use core::ptr;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, RawFd};

use nix::errno::Errno;
use nix::sys::signal::Signal;
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::{Pid, setsid};

use super::birth::{self, Born};

/// The guard of this process.
#[derive(Debug)]
pub(crate) struct Guard {
    pid: Pid,
}

impl Guard {
    /// Whether it is there. One that has ended is reaped.
    pub(crate) fn is_alive(&self) -> bool {
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG;
        matches!(waitid(Id::Pid(self.pid), flags), Ok(WaitStatus::StillAlive))
    }

    /// Ends it, when there is nothing left that it would have to do.
    pub(crate) fn end(self) {
        // It is our child and not reaped: the number is its own.
        if nix::sys::signal::kill(self.pid, Signal::SIGKILL).is_ok() {
            let _ = nix::sys::wait::waitpid(self.pid, None);
        }
    }

    pub(crate) const fn pid(&self) -> Pid {
        self.pid
    }
}

/// Forks a guard for the cgroup in `folder`, called `path`, and all cgroups in it. `worker` is this process as a pidfd.
pub(crate) fn start_guard(
    worker: BorrowedFd<'_>,
    folder: BorrowedFd<'_>,
    path: &CStr,
) -> io::Result<Guard> {
    let path = CString::from(path);
    let (worker, folder) = (worker.as_raw_fd(), folder.as_raw_fd());
    let mask = birth::block_signals()?;
    // SAFETY: `watch` keeps the rules: system calls on integers and on `path`, which was made above; it does not return.
    let born = unsafe { birth::fork(false, None) };
    if let Ok(Born::Child) = born {
        watch(worker, folder, &path);
    }
    birth::restore_signals(&mask);
    match born? {
        Born::Parent(pid) => Ok(Guard { pid }),
        Born::Child => Err(io::Error::from(io::ErrorKind::Other)),
    }
}

/// The two descriptors, once all others are closed.
const WORKER: RawFd = 0;
const FOLDER: RawFd = 1;

fn watch(worker: RawFd, folder: RawFd, path: &CStr) -> ! {
    // All signals stay blocked: only KILL ends it.
    let _ = setsid();
    birth::take_name(c"qtf-guard");
    // No folder is kept from being unmounted.
    let _ = nix::unistd::chdir(c"/");
    let ready = birth::place(worker, WORKER)
        .and_then(|()| birth::place(folder, FOLDER))
        .and_then(|()| birth::close_from(2, false));
    if ready.is_err() {
        birth::leave(1);
    }
    let mut question = libc::pollfd {
        fd: WORKER,
        events: libc::POLLIN,
        revents: 0,
    };
    loop {
        // SAFETY: poll reads and writes one structure, and one is what there is.
        let answers = unsafe { libc::poll(&raw mut question, 1, -1) };
        if answers == 1 {
            break;
        }
    }
    // What the kernel still holds of a killed process keeps its cgroup for as long.
    for _ in 0..ROUNDS_MAX {
        kill_all();
        remove_below(FOLDER, DEPTH_MAX);
        // SAFETY: rmdir reads a string that ends with NUL.
        let removed = unsafe { libc::rmdir(path.as_ptr()) };
        if removed == 0 || Errno::last() == Errno::ENOENT {
            break;
        }
        pause();
    }
    birth::leave(0)
}

// LIMIT: a minute, after which what is left is left to the next worker.
const ROUNDS_MAX: u32 = 6_000;

fn pause() {
    let moment = libc::timespec {
        tv_sec: 0,
        tv_nsec: 10_000_000,
    };
    // SAFETY: nanosleep reads one structure and writes none.
    unsafe { libc::nanosleep(&raw const moment, ptr::null_mut()) };
}

fn kill_all() {
    // SAFETY: openat reads a string that ends with NUL.
    let file = unsafe { libc::openat(FOLDER, c"cgroup.kill".as_ptr(), libc::O_WRONLY) };
    if file >= 0 {
        // SAFETY: write reads one byte of a literal.
        unsafe { libc::write(file, c"1".as_ptr().cast(), 1) };
        // SAFETY: opened above, closed once.
        unsafe { libc::close(file) };
    }
}

/// Removes the cgroups below a folder that are empty, deepest first: also those that a program made in its own.
fn remove_below(folder: RawFd, depth: u32) {
    // SAFETY: lseek takes three integers.
    unsafe { libc::lseek(folder, 0, libc::SEEK_SET) };
    let mut buffer = MaybeUninit::<Entries>::zeroed();
    loop {
        // SAFETY: getdents64 writes at most as many bytes as are given into `buffer`.
        let count = unsafe {
            libc::syscall(
                libc::SYS_getdents64,
                folder,
                buffer.as_mut_ptr(),
                size_of::<Entries>(),
            )
        };
        let count = usize::try_from(count).unwrap_or(0);
        if count == 0 {
            return;
        }
        // SAFETY: it was zeroed to begin with, so every byte has a value.
        let entries = unsafe { buffer.assume_init_ref() };
        let mut rest = entries.0.get(..count).unwrap_or_default();
        while let Some(entry) = first_entry(rest) {
            let is_inner = !matches!(entry.name.to_bytes(), b"." | b"..");
            if entry.kind == libc::DT_DIR && is_inner && depth > 0 {
                remove(folder, entry.name, depth.saturating_sub(1));
            }
            rest = rest.get(entry.length..).unwrap_or_default();
        }
    }
}

// LIMIT: cgroups in cgroups that a program made in its own.
const DEPTH_MAX: u32 = 16;

fn remove(folder: RawFd, name: &CStr, depth: u32) {
    // SAFETY: openat reads a string that ends with NUL.
    let inner = unsafe { libc::openat(folder, name.as_ptr(), libc::O_RDONLY | libc::O_DIRECTORY) };
    if inner >= 0 {
        remove_below(inner, depth);
        // SAFETY: opened above, closed once.
        unsafe { libc::close(inner) };
    }
    // SAFETY: unlinkat reads a string that ends with NUL.
    unsafe { libc::unlinkat(folder, name.as_ptr(), libc::AT_REMOVEDIR) };
}

#[repr(align(8))]
struct Entries([u8; 2048]);

struct Entry<'a> {
    length: usize,
    kind: u8,
    name: &'a CStr,
}

/// An entry of `getdents64`: 16 bytes, its length in 2, its kind in 1, its name with a NUL.
fn first_entry(bytes: &[u8]) -> Option<Entry<'_>> {
    let length = bytes.get(16..18)?;
    let length = usize::from(u16::from_ne_bytes(length.try_into().ok()?));
    let kind = *bytes.get(18)?;
    let name = CStr::from_bytes_until_nul(bytes.get(19..length)?).ok()?;
    Some(Entry { length, kind, name })
}
