//! Starts a program: in a session of its own, with three descriptors, and with whatever holds its processes together.
//!
//! Everything that takes memory is made before the fork. Invariants:
//! - L1: a program leads a session of its own, and so a group: it has no terminal that could stop it.
//! - L2: a program, or its init, is killed when the thread that started it ends. Start programs from threads that live as
//!   long as the worker, never from a pool that shrinks.
//! - L3: what kept a program from being started is known when [`launch`] returns, and then no process is left.

use core::ffi::{CStr, c_char, c_int, c_void};
use core::ptr;
use std::borrow::Cow;
use std::ffi::CString;
use std::io::{self, Read as _};
use std::os::fd::{AsRawFd as _, BorrowedFd, RawFd};

use nix::errno::Errno;
use nix::sys::resource::{Resource, rlim_t, setrlimit};
use nix::sys::signal::Signal;
use nix::sys::wait::waitpid;
use nix::unistd::{Pid, getpid, setsid};

use super::birth::{self, Born};
use super::borrowed::{self, Stack};
use super::init::{Init, become_init};
use crate::descriptors;

/// What is run.
#[derive(Debug)]
pub(crate) struct Program {
    /// Files that may be the program, tried in order. None: a try whether it would come as far as that, see [`NO_FILE`].
    pub(crate) files: Vec<CString>,
    /// Its arguments, the name first.
    pub(crate) arguments: Vec<CString>,
    /// `NAME=VALUE`, all of them.
    pub(crate) environment: Vec<Cow<'static, CStr>>,
    /// Where it runs, if not where the worker does.
    pub(crate) directory: Option<CString>,
}

/// What [`launch`] fails with if all is well but there is no file to run.
pub(crate) const NO_FILE: Errno = Errno::ENOTUNIQ;

/// Its first three descriptors.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stdio<'a> {
    pub(crate) stdin: BorrowedFd<'a>,
    pub(crate) stdout: BorrowedFd<'a>,
    pub(crate) stderr: BorrowedFd<'a>,
}

/// What holds its processes together besides their group.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Enclosure<'a> {
    /// Nothing.
    Group,
    /// A cgroup, by its folder.
    Cgroup(BorrowedFd<'a>),
    /// An init that reports over `report` and goes with `worker`, this process as a pidfd.
    Init {
        in_namespace: bool,
        worker: BorrowedFd<'a>,
        report: BorrowedFd<'a>,
    },
}

/// Starts a program. The pid is that of its init where it has one, else its own.
pub(crate) fn launch(
    program: &Program,
    stdio: Stdio<'_>,
    enclosure: Enclosure<'_>,
) -> io::Result<Pid> {
    // The standard three are placed one after the other: one that is among them would be overwritten.
    let ends = [stdio.stdin, stdio.stdout, stdio.stderr].map(|end| end.as_raw_fd());
    if ends.iter().any(|end| *end < 3) {
        return Err(io::Error::other(
            "this process runs without its standard descriptors",
        ));
    }
    let arguments = pointers(None, &program.arguments);
    // For a script that does not say what runs it: the shell, the script, its arguments.
    let rest = program.arguments.get(1..).unwrap_or_default();
    let mut for_shell = pointers(Some([SHELL.as_ptr(), ptr::null()]), rest);
    let environment = pointers(None, &program.environment);
    let mut exec = Exec {
        files: &program.files,
        arguments: &arguments,
        for_shell: &mut for_shell,
        environment: &environment,
        directory: program.directory.as_deref(),
        stdio: ends,
        failure: Failure::Left(None),
        has_handlers: true,
        limit: descriptors::given(),
        parent: match enclosure {
            Enclosure::Init { .. } => None,
            Enclosure::Group | Enclosure::Cgroup(_) => Some(getpid()),
        },
    };
    let mut stack = Stack::take();
    let begun = match enclosure {
        Enclosure::Group => launch_in_borrowed_memory(&mut exec, &mut stack, None),
        Enclosure::Cgroup(folder) => launch_in_borrowed_memory(&mut exec, &mut stack, Some(folder)),
        // It stays a copy of this process for as long as its program runs.
        Enclosure::Init { .. } => Ok(None),
    };
    let child = match begun {
        Ok(None) => launch_in_a_copy(&mut exec, &mut stack, enclosure),
        Ok(Some(pid)) => Ok(pid),
        Err(error) => Err(error),
    };
    stack.give_back();
    child
}

/// The cheap way; `None` where it is not possible.
fn launch_in_borrowed_memory(
    exec: &mut Exec<'_>,
    stack: &mut Stack,
    cgroup: Option<BorrowedFd<'_>>,
) -> io::Result<Option<Pid>> {
    exec.has_handlers = false;
    exec.failure = Failure::Left(None);
    let argument: *mut Exec<'_> = &raw mut *exec;
    let failure = &raw const exec.failure;
    let mask = birth::block_signals()?;
    // SAFETY: signals are blocked. `run_exec` keeps the rules: system calls on integers and on memory that was made before, nothing that
    // allocates, locks or panics, and it does not return. What `argument` points to is lent to it by `exec`, which is not used before
    // this thread goes on.
    let begun = unsafe { borrowed::start(stack, cgroup, run_exec, argument.cast()) };
    birth::restore_signals(&mask);
    let Some(begun) = begun else { return Ok(None) };
    let pid = begun?;
    // SAFETY: it points into `exec`, whole and valid; the child that wrote to it has left this memory.
    let failure = unsafe { ptr::read_volatile(failure) };
    match failure {
        Failure::Left(Some(errno)) => {
            // It ends by itself.
            let _ = waitpid(pid, None);
            Err(errno.into())
        }
        Failure::Left(None) | Failure::Told(_) => Ok(Some(pid)),
    }
}

/// The way that is possible everywhere, and the one of an init.
fn launch_in_a_copy(
    exec: &mut Exec<'_>,
    stack: &mut Stack,
    enclosure: Enclosure<'_>,
) -> io::Result<Pid> {
    let (mut failure, failing) = io::pipe()?;
    if failing.as_raw_fd() < 3 {
        return Err(io::Error::other(
            "this process runs without its standard descriptors",
        ));
    }
    exec.has_handlers = true;
    exec.failure = Failure::Told(failing.as_raw_fd());
    let (in_namespace, cgroup, init) = match enclosure {
        Enclosure::Group => (false, None, None),
        Enclosure::Cgroup(folder) => (false, Some(folder), None),
        Enclosure::Init {
            in_namespace,
            worker,
            report,
        } => {
            let (worker, report) = (worker.as_raw_fd(), report.as_raw_fd());
            let init = Init {
                in_namespace,
                worker,
                report,
            };
            (in_namespace, None, Some(init))
        }
    };
    let mask = birth::block_signals()?;
    // SAFETY: both ways of the child (`become_init`, `Exec::run`) keep the rules: system calls on integers and on memory that was
    // made above, nothing that allocates, locks or panics, and they do not return.
    let born = unsafe { birth::fork(in_namespace, cgroup) };
    if let Ok(Born::Child) = born {
        match init {
            Some(init) => become_init(init, exec, stack),
            None => exec.run(),
        }
    }
    birth::restore_signals(&mask);
    drop(failing);
    let Born::Parent(pid) = born? else {
        return Err(io::Error::from(io::ErrorKind::Other));
    };
    let mut errno = [0_u8; size_of::<i32>()];
    match failure.read_exact(&mut errno) {
        // Closed by exec.
        Err(_) => Ok(pid),
        Ok(()) => {
            // It ends by itself; with an init, that one too, as it has nobody left.
            let _ = waitpid(pid, None);
            Err(io::Error::from_raw_os_error(i32::from_ne_bytes(errno)))
        }
    }
}

const SHELL: &CStr = c"/bin/sh";

fn pointers(
    before: Option<[*const c_char; 2]>,
    strings: &[impl AsRef<CStr>],
) -> Vec<*const c_char> {
    let strings = strings.iter().map(|string| string.as_ref().as_ptr());
    let before = before.into_iter().flatten();
    before.chain(strings).chain([ptr::null()]).collect()
}

/// How the parent learns what kept a child from becoming a program.
#[derive(Clone, Copy, Debug)]
enum Failure {
    /// It is left here, in the memory of both.
    Left(Option<Errno>),
    /// It is written to this descriptor.
    Told(RawFd),
}

/// A program as the child needs it: pointers into memory that is the parent's, which the child borrows or has a copy of.
#[derive(Debug)]
pub(super) struct Exec<'a> {
    files: &'a [CString],
    arguments: &'a [*const c_char],
    /// The second place is for the file.
    for_shell: &'a mut [*const c_char],
    environment: &'a [*const c_char],
    directory: Option<&'a CStr>,
    stdio: [RawFd; 3],
    failure: Failure,
    /// The child has the handlers of the parent.
    has_handlers: bool,
    limit: Option<(rlim_t, rlim_t)>,
    /// The worker, if the program is its child.
    parent: Option<Pid>,
}

/// [`Exec::run`] for the start of a child.
pub(super) extern "C" fn run_exec(argument: *mut c_void) -> c_int {
    let exec: *mut Exec<'_> = argument.cast();
    // SAFETY: it is the exclusive reference that whoever starts the child lends, and does not use before the child has left its memory.
    let exec = unsafe { &mut *exec };
    exec.run()
}

impl Exec<'_> {
    /// Becomes the program, or says why not. In a child, with all signals blocked.
    pub(super) fn run(&mut self) -> ! {
        if let Err(errno) = self.prepare() {
            self.give_up(errno);
        }
        let errno = self.try_files();
        self.give_up(errno)
    }

    fn prepare(&self) -> Result<(), Errno> {
        setsid()?;
        birth::die_with_parent(Signal::SIGKILL)?;
        // The parent may have died before the signal was asked for; then nobody would send it. An init is looked
        // after by its own signal: if it died, this process goes with it or was never asked to stay.
        if self
            .parent
            .is_some_and(|parent| nix::unistd::getppid() != parent)
        {
            return Err(Errno::ESRCH);
        }
        for (place, end) in (0..).zip(self.stdio) {
            birth::place(end, place)?;
        }
        if let Some(directory) = self.directory {
            nix::unistd::chdir(directory)?;
        }
        if let Some((soft, hard)) = self.limit {
            setrlimit(Resource::RLIMIT_NOFILE, soft, hard)?;
        }
        // Ours are closed on exec anyway; those that the worker itself has inherited from a careless starter are
        // not. Kernels before 5.11 cannot do it, which is no reason to fail.
        let _ = birth::close_from(3, true);
        if self.has_handlers {
            birth::forget_handlers();
        } else {
            birth::ignore_no_signal_of_ours();
        }
        Ok(())
    }

    /// Returns only with what kept it from running.
    fn try_files(&mut self) -> Errno {
        if self.files.is_empty() {
            return NO_FILE;
        }
        let mut worst = Errno::ENOENT;
        for file in self.files {
            let errno = execve(file, self.arguments, self.environment);
            // The next folder may have it.
            let is_elsewhere = matches!(
                errno,
                Errno::ENOENT | Errno::ENOTDIR | Errno::ENODEV | Errno::ESTALE
            );
            if errno == Errno::ENOEXEC {
                if let Some(place) = self.for_shell.get_mut(1) {
                    *place = file.as_ptr();
                }
                let _ = execve(SHELL, self.for_shell, self.environment);
                return errno;
            }
            if errno == Errno::EACCES || (is_elsewhere && self.files.len() == 1) {
                worst = errno;
            } else if !is_elsewhere {
                return errno;
            }
        }
        worst
    }

    /// Tells the parent, and ends.
    pub(super) fn give_up(&mut self, errno: Errno) -> ! {
        match &mut self.failure {
            Failure::Left(place) => {
                let place: *mut Option<Errno> = place;
                // SAFETY: `place` was a reference this moment. Volatile, as nothing in this process reads it again: the parent does.
                unsafe { ptr::write_volatile(place, Some(errno)) };
            }
            Failure::Told(descriptor) => {
                let number: i32 = errno as i32;
                let bytes = number.to_ne_bytes();
                // SAFETY: write reads the four bytes of `bytes`. If the parent is gone, nobody wants to know.
                let _ = unsafe { libc::write(*descriptor, bytes.as_ptr().cast(), bytes.len()) };
            }
        }
        birth::leave(127)
    }
}

fn execve(file: &CStr, arguments: &[*const c_char], environment: &[*const c_char]) -> Errno {
    // SAFETY: the file is a string that ends with NUL; both lists end with a null pointer and hold pointers to such strings
    // that live in the parent's frame, which this child borrows or has a copy of. It returns only when it has failed.
    unsafe { libc::execve(file.as_ptr(), arguments.as_ptr(), environment.as_ptr()) };
    Errno::last()
}
