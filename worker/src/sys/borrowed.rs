//! A child in its parent's memory, until it has become a program or ended; the thread that started it waits for that.
//!
//! A fork copies the tables of every page of this process, and each page that a thread writes to afterwards is copied too. That
//! costs more than the program that is started, and the more the larger the worker is; in borrowed memory nothing is copied.
//! The other threads of this process go on meanwhile. Invariants, besides that of `birth`:
//! - B1: a child runs on a stack of its own, and writes to that, to what it was lent, and to the errno of the thread that waits for it.
//! - B2: no handler of this process runs in a child: all signals are blocked when it begins, and it has no handlers when it unblocks
//!   them.
//!
//! Tested through `exec`: the cost, signals and errors in `exec/tree_tests.rs`.

use core::cell::Cell;
use core::ffi::{c_int, c_void};
use core::mem::MaybeUninit;
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};

use nix::errno::Errno;
use nix::unistd::Pid;

use super::birth::INTO_CGROUP;

/// `CLONE_CLEAR_SIGHAND`: the child has no handlers; what is ignored stays so. It too has a place only in clone3.
const WITHOUT_HANDLERS: u64 = 0x1_0000_0000;

/// A stack for a child; made before it begins.
#[derive(Debug)]
pub(super) struct Stack(Vec<u128>);

// LIMIT: what becomes a program calls few functions with small frames.
const STACK_BYTES: usize = 64 << 10;

thread_local! {
    /// The stack of this thread's last child, for its next one: so large a piece of memory has the allocator tidy up each time.
    static SPARE: Cell<Option<Stack>> = const { Cell::new(None) };
}

impl Stack {
    /// A stack that nobody uses.
    pub(super) fn take() -> Self {
        let spare = SPARE.try_with(Cell::take).ok().flatten();
        spare.unwrap_or_else(|| Self(Vec::with_capacity(STACK_BYTES / size_of::<u128>())))
    }

    /// Keeps it for the next child of this thread, when no child uses it any more.
    pub(super) fn give_back(self) {
        // A thread that is ending keeps nothing.
        let _ = SPARE.try_with(|spare| spare.set(Some(self)));
    }

    /// Its end: stacks grow towards lower addresses. Aligned to 16 bytes, as an ABI may ask for.
    fn top(&mut self) -> *mut c_void {
        self.0.spare_capacity_mut().as_mut_ptr_range().end.cast()
    }
}

/// What a child runs.
pub(super) type Run = extern "C" fn(*mut c_void) -> c_int;

/// Starts a child of a process that has one thread; it inherits handlers.
///
/// # Safety
/// This process has one thread. `run` keeps the invariant of `birth`, does not return, and may use `argument` as this
/// process may.
pub(super) unsafe fn start_from_one_thread(
    stack: &mut Stack,
    run: Run,
    argument: *mut c_void,
) -> Result<Pid, Errno> {
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
    // SAFETY: the child runs on a stack of its own, which is as large as it has to be and stays until this process goes on, that is after
    // the child has left this memory. What it does with the memory meanwhile is the caller's promise.
    let pid = unsafe { libc::clone(run, stack.top(), flags, argument) };
    Errno::result(pid).map(Pid::from_raw)
}

/// Starts a child of this thread, in a cgroup if that is asked for. It has no handlers, and the C library is told nothing. `None`
/// where that cannot be: on another processor than this is written for, on a kernel before 5.7, in a sandbox.
///
/// # Safety
/// All signals are blocked in this thread. `run` keeps the invariant of `birth`, does not return, and may use `argument` as this
/// thread may while it waits.
pub(super) unsafe fn start(
    stack: &mut Stack,
    cgroup: Option<BorrowedFd<'_>>,
    run: Run,
    argument: *mut c_void,
) -> Option<io::Result<Pid>> {
    let both = u64::try_from(libc::CLONE_VM | libc::CLONE_VFORK).unwrap_or(0);
    // SAFETY: every field is an integer, for which zero is a value and means "not asked for".
    let mut arguments: libc::clone_args = unsafe { MaybeUninit::zeroed().assume_init() };
    arguments.flags = both | WITHOUT_HANDLERS | cgroup.map_or(0, |_| INTO_CGROUP);
    arguments.exit_signal = u64::try_from(libc::SIGCHLD).unwrap_or(0);
    arguments.cgroup = cgroup.map_or(0, |cgroup| {
        u64::try_from(cgroup.as_raw_fd()).unwrap_or(u64::MAX)
    });
    let bytes = stack.0.capacity().saturating_mul(size_of::<u128>());
    let lowest = stack.top().wrapping_byte_sub(bytes);
    arguments.stack = u64::try_from(lowest.addr()).unwrap_or(0);
    arguments.stack_size = u64::try_from(bytes).unwrap_or(0);
    // SAFETY: the stack is `stack`, whose top is aligned to 16 bytes and which is lent until this thread goes on, that is after the child has
    // left this memory; B2 and the rest are the caller's promise.
    let result = unsafe { clone_onto_stack(&raw mut arguments, run, argument) }?;
    if let Ok(pid) = i32::try_from(result)
        && pid > 0
    {
        return Some(Ok(Pid::from_raw(pid)));
    }
    let errno = Errno::from_raw(i32::try_from(result.saturating_neg()).unwrap_or(0));
    // EINVAL: a flag that the kernel does not know yet. EPERM, ENOSYS: what a sandbox says.
    let is_impossible = matches!(errno, Errno::ENOSYS | Errno::EPERM | Errno::EINVAL);
    (!is_impossible).then(|| Err(errno.into()))
}

/// Calls clone3; the child calls `run` with `argument` on its stack. Gives what the kernel gives to the parent: a pid, or less than 0.
///
/// # Safety
/// As for [`start`]. The stack in `arguments` is a whole one that nobody else uses, with a top that is aligned to 16 bytes.
#[cfg(target_arch = "x86_64")]
unsafe fn clone_onto_stack(
    arguments: *mut libc::clone_args,
    run: Run,
    argument: *mut c_void,
) -> Option<i64> {
    let result: i64;
    // SAFETY: clone3 reads the structure, whose size is given, and changes rax, rcx and r11. The parent goes on at label 2 with its
    // own stack and registers, of which no other is changed. The child has copies of the registers and a stack of its own: there it calls
    // `run`, with the stack aligned as a call wants it, and does not come back.
    unsafe {
        core::arch::asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "xor ebp, ebp",
            "mov rdi, r9",
            "call r8",
            "ud2",
            "2:",
            inlateout("rax") libc::SYS_clone3 => result,
            in("rdi") arguments,
            in("rsi") size_of::<libc::clone_args>(),
            in("r8") run,
            in("r9") argument,
            lateout("rcx") _,
            lateout("r11") _,
        );
    }
    Some(result)
}

/// Elsewhere children are forked.
///
/// # Safety
/// None is needed.
#[cfg(not(target_arch = "x86_64"))]
unsafe fn clone_onto_stack(_: *mut libc::clone_args, _: Run, _: *mut c_void) -> Option<i64> {
    None
}
