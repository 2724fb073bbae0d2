//! The small process between the worker and a program: it finds what the program has started, and ends it all.
//!
//! It is forked from the worker for each attempt, is never another program, and holds nothing but the pipe over which it
//! reports. It has all signals blocked and takes them one after the other.
//!
//! - In a pid namespace it is pid 1: when it ends the kernel ends all others in there, and it ends when the worker does. The program
//!   is not pid 1 itself, since the kernel keeps signals without a handler from that one: it would ignore TERM.
//! - Else it is the subreaper: whatever the program starts becomes its child when the process between has ended, whichever session or group it
//!   is in. When the worker ends, or asks for it, it kills its children until there are none.
//!
//! Invariants:
//! - N1: it ends when no process of the attempt is left, and never before.
//! - N2: the group of the program is signalled only while the program is not reaped, so its number is nobody else's.

use core::ffi::c_int;
use core::mem::MaybeUninit;
use core::ptr;
use std::os::fd::RawFd;

use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::{Pid, setsid};

use super::birth;
use super::borrowed::{self, Stack};
use super::launch::{Exec, run_exec};

/// Asks the init to send TERM to the program's group.
pub(crate) const TERMINATE: Signal = Signal::SIGTERM;
/// Asks the init to kill all that is left.
pub(crate) const KILL_ALL: Signal = Signal::SIGUSR1;
/// Asks the init to stop the program's group.
pub(crate) const SUSPEND: Signal = Signal::SIGTSTP;
/// Asks the init to let the program's group go on.
pub(crate) const RESUME: Signal = Signal::SIGCONT;

/// What the init has to know; made before the fork.
#[derive(Clone, Copy, Debug)]
pub(super) struct Init {
    pub(super) in_namespace: bool,
    /// The worker, by pidfd.
    pub(super) worker: RawFd,
    /// Where changes of the program's state are written, as `wait` gives them: its end too, unless it exited and left nothing.
    pub(super) report: RawFd,
}

/// Becomes the init, starts the program, and stays until all is over. In a child, with all signals blocked.
pub(super) fn become_init(init: Init, exec: &mut Exec<'_>, stack: &mut Stack) -> ! {
    // Away from the terminal and the group of the worker: what is sent there must not end it.
    birth::take_name(c"qtf-init");
    let prepared = setsid().and_then(|_| prepare(init));
    if let Err(errno) = prepared {
        exec.give_up(errno);
    }
    let argument: *mut Exec<'_> = exec;
    // SAFETY: a forked child has one thread. `run_exec` becomes the program by system calls alone or ends; what `argument` points to is
    // lent to it by `exec`, which is used again only when the child has left this memory.
    let started = unsafe { borrowed::start_from_one_thread(stack, run_exec, argument.cast()) };
    match started {
        Ok(program) => attend(init, program),
        Err(errno) => exec.give_up(errno),
    }
}

fn prepare(init: Init) -> Result<(), Errno> {
    if init.in_namespace {
        birth::die_with_parent(Signal::SIGKILL)?;
        start_numbers_where_the_machine_is()?;
    } else {
        birth::die_with_parent(KILL_ALL)?;
        nix::sys::prctl::set_child_subreaper(true)?;
    }
    // Of an old kernel it is known before anything is started that the descriptors cannot be closed.
    birth::close_from(RawFd::MAX, true)?;
    // The worker may have ended before the signal was asked for; then nobody would send it.
    if birth::has_ended(init.worker) {
        return Err(Errno::ESRCH);
    }
    Ok(())
}

/// Lets the pids of a new namespace go on from this process's number outside. Were the program number 2 each time, all tasks
/// would use the same names wherever they make them of their pid.
fn start_numbers_where_the_machine_is() -> Result<(), Errno> {
    let mut digits = [0_u8; 16];
    // SAFETY: readlink reads a string that ends with NUL and writes at most as many bytes as are given into `digits`.
    let length = unsafe {
        libc::readlink(
            c"/proc/self".as_ptr(),
            digits.as_mut_ptr().cast(),
            digits.len(),
        )
    };
    let length = usize::try_from(Errno::result(length)?).unwrap_or(0);
    let number = digits.get(..length).unwrap_or_default();
    // SAFETY: open reads a string that ends with NUL.
    let file = unsafe { libc::open(c"/proc/sys/kernel/ns_last_pid".as_ptr(), libc::O_WRONLY) };
    let file = Errno::result(file)?;
    // SAFETY: write reads as many bytes as are given from `number`.
    let written = unsafe { libc::write(file, number.as_ptr().cast(), number.len()) };
    Errno::result(written).map(drop)
}

/// The program, as its init sees it.
struct Charge {
    /// Its group, until it is reaped.
    group: Option<Pid>,
    /// How it ended, until that is told.
    end: Option<c_int>,
}

/// Reports, relays and reaps until nobody is left.
fn attend(init: Init, program: Pid) -> ! {
    // No folder is kept from being unmounted.
    let _ = nix::unistd::chdir(c"/");
    // Nothing of the worker's stays open here but the way to report, which becomes descriptor 0.
    let kept = birth::place(init.report, 0).and_then(|()| birth::close_from(1, false));
    let mut charge = Charge {
        group: Some(program),
        end: None,
    };
    let signals = awaited();
    // It was tried before. If it fails all the same, the pipes stay open here, and nothing would ever end.
    let mut ask = kept.is_err().then_some(KILL_ALL);
    loop {
        match ask {
            Some(ask) if ask == KILL_ALL && !init.in_namespace => charge.kill_all(),
            Some(ask) => charge.answer(init, ask),
            None => {}
        }
        charge.reap(libc::WNOHANG);
        ask = next_signal(&signals);
    }
}

fn awaited() -> SigSet {
    let mut signals = SigSet::empty();
    for signal in [TERMINATE, KILL_ALL, SUSPEND, RESUME, Signal::SIGCHLD] {
        signals.add(signal);
    }
    signals
}

fn next_signal(signals: &SigSet) -> Option<Signal> {
    // It fails for a set with nothing in it, or when interrupted; then the children are looked at once more.
    signals.wait().ok()
}

impl Charge {
    fn answer(&self, init: Init, ask: Signal) {
        if ask == TERMINATE {
            self.signal(Signal::SIGTERM);
            // What is stopped cannot hear it.
            self.signal(Signal::SIGCONT);
        } else if ask == SUSPEND {
            self.signal(Signal::SIGSTOP);
        } else if ask == RESUME {
            self.signal(Signal::SIGCONT);
        } else if ask == KILL_ALL && init.in_namespace {
            // With this process the kernel ends all others.
            birth::leave(0);
        }
    }

    fn signal(&self, signal: Signal) {
        if let Some(group) = self.group {
            // The only possible error is that nobody is left who may be signalled.
            let _ = nix::sys::signal::killpg(group, signal);
        }
    }

    /// Takes in what has happened to children, and ends this process when none is left.
    fn reap(&mut self, flags: c_int) {
        let mut flags = flags | libc::WUNTRACED | libc::WCONTINUED;
        loop {
            let mut status = 0;
            // SAFETY: waitpid writes one integer to `status`.
            let pid = unsafe { libc::waitpid(-1, &raw mut status, flags) };
            if pid < 0 && Errno::last() == Errno::ECHILD {
                self.leave();
            }
            if pid <= 0 {
                if let Some(end) = self.end.take() {
                    report(end);
                }
                return;
            }
            if self.group.is_some_and(|program| program.as_raw() == pid) {
                if libc::WIFEXITED(status) || libc::WIFSIGNALED(status) {
                    self.group = None;
                    self.end = Some(status);
                } else {
                    report(status);
                }
            }
            // One was waited for, the others are taken if they are there.
            flags |= libc::WNOHANG;
        }
    }

    /// Ends as the program did. Mostly nothing is left behind: then this is all that the worker has to be told.
    fn leave(&self) -> ! {
        match self.end {
            Some(end) if libc::WIFEXITED(end) => birth::leave(libc::WEXITSTATUS(end)),
            Some(end) => report(end),
            None => {}
        }
        birth::leave(0)
    }

    /// Kills children until there are none. Whoever a killed one had started becomes a child in turn.
    fn kill_all(&mut self) -> ! {
        self.signal(Signal::SIGKILL);
        loop {
            let flags = match kill_children() {
                Ok(()) => 0,
                // Without the list (no descriptor, no memory) the program at least is killed: a moment later again.
                Err(_) => {
                    pause();
                    libc::WNOHANG
                }
            };
            self.reap(flags);
        }
    }
}

fn report(status: c_int) {
    let bytes = status.to_ne_bytes();
    // SAFETY: write reads the four bytes of `bytes`. The pipe takes them at once, or the worker is gone.
    let _ = unsafe { libc::write(0, bytes.as_ptr().cast(), bytes.len()) };
}

fn pause() {
    let moment = libc::timespec {
        tv_sec: 0,
        tv_nsec: 1_000_000,
    };
    // SAFETY: nanosleep reads one structure and writes none.
    unsafe { libc::nanosleep(&raw const moment, ptr::null_mut()) };
}

/// Sends KILL to each child of this process.
fn kill_children() -> Result<(), Errno> {
    // SAFETY: open reads a string that ends with NUL.
    let list = unsafe { libc::open(CHILDREN.as_ptr(), libc::O_RDONLY) };
    let list = Errno::result(list)?;
    let mut buffer = MaybeUninit::<[u8; 4096]>::zeroed();
    let mut number: i32 = 0;
    let result = loop {
        // SAFETY: read writes at most as many bytes as `buffer` has.
        let count = unsafe { libc::read(list, buffer.as_mut_ptr().cast(), 4096) };
        let count = match Errno::result(count) {
            Ok(0) => break Ok(()),
            Ok(count) => usize::try_from(count).unwrap_or(0),
            Err(errno) => break Err(errno),
        };
        // SAFETY: it was zeroed to begin with, so every byte has a value.
        let bytes = unsafe { buffer.assume_init_ref() };
        for byte in bytes.iter().take(count) {
            if byte.is_ascii_digit() {
                let digit = i32::from(byte.wrapping_sub(b'0'));
                number = number.wrapping_mul(10).wrapping_add(digit);
            } else if number > 0 {
                // A child that is not reaped keeps its number; one that may not be killed is waited for.
                let _ = nix::sys::signal::kill(Pid::from_raw(number), Signal::SIGKILL);
                number = 0;
            }
        }
    };
    // SAFETY: `list` was opened above and is closed once.
    unsafe { libc::close(list) };
    result
}

/// The children of this process, which has one thread.
pub(super) const CHILDREN: &core::ffi::CStr = c"/proc/thread-self/children";
