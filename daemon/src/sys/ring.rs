//! The `io_uring` runtime of the daemon's thread, or the reason why there is none.
//!
//! tokio-uring is frozen upstream; this file and `socket_op` are all that know it. What it needs:
//! - cooperative task running and a single issuer (without them many connections cost 15 to 20 % more);
//!   deferred task running is left out, tokio-uring hangs with it;
//! - a submission queue that is never full in one turn, and a larger completion queue;
//! - where the thread is pinned: the kernel's helper threads inherit its core and would starve beside a
//!   spinning thread, so they are sent to the other cores before the first of them exists.
//!
//! Tested at the end.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, RawFd};

use io_uring::{IoUring, Probe, opcode};
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};

const SUBMISSIONS: u32 = 1024;
const COMPLETIONS: u32 = 4096;
/// Helper threads of the kernel, for blocking and for unbounded work. Sockets need none.
const HELPERS_MAX: [u32; 2] = [4, 4];

/// Why there is no ring. The text says what to do.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RingError {
    /// The administrator has turned it off.
    #[error("kernel.io_uring_disabled is {0}: `sysctl kernel.io_uring_disabled=0` allows it")]
    Disabled(u8),
    /// Something above the kernel refuses it.
    #[error(
        "not permitted here, probably by the container's or the service's system-call filter: allow io_uring_setup, io_uring_enter and io_uring_register"
    )]
    NotPermitted,
    /// The kernel does not have it or lacks what we need.
    #[error(
        "this kernel lacks io_uring or a part of it ({0}), or a system-call filter hides it: Linux 6.0 or later has what is needed"
    )]
    Lacking(&'static str),
    /// It cannot be waited for.
    #[error("it cannot be waited for with epoll: {0}")]
    NotAwaited(io::Error),
    /// The memory that it needs is not granted.
    #[error(
        "memory for it is not granted ({0}): raise the limit of locked memory (ulimit -l, LimitMEMLOCK=), which kernels before 5.12 count it in"
    )]
    NoMemory(io::Error),
    /// It has it, but something else failed.
    #[error("{0}")]
    Other(io::Error),
}

fn ring_builder() -> io_uring::Builder {
    let mut builder = IoUring::builder();
    builder
        .setup_coop_taskrun()
        .setup_single_issuer()
        .setup_cqsize(COMPLETIONS);
    builder
}

fn explain(error: io::Error) -> RingError {
    match error.raw_os_error() {
        Some(libc::EPERM) => match disabled_level() {
            0 => RingError::NotPermitted,
            level => RingError::Disabled(level),
        },
        Some(libc::EACCES) => RingError::NotPermitted,
        Some(libc::ENOMEM) => RingError::NoMemory(error),
        Some(libc::ENOSYS) => RingError::Lacking("io_uring_setup"),
        Some(libc::EINVAL) => RingError::Lacking("IORING_SETUP_SINGLE_ISSUER"),
        _ => RingError::Other(error),
    }
}

fn disabled_level() -> u8 {
    let text = std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled").unwrap_or_default();
    text.trim().parse().unwrap_or(0)
}

/// Whether a ring as we need it can be had.
pub(crate) fn probe() -> Result<(), RingError> {
    let mut ring: IoUring = ring_builder().build(SUBMISSIONS).map_err(explain)?;
    let mut probe = Probe::new();
    ring.submitter()
        .register_probe(&mut probe)
        .map_err(explain)?;
    let needed = [
        (opcode::Accept::CODE, "accept"),
        (opcode::Recv::CODE, "recv"),
        (opcode::Send::CODE, "send"),
        (opcode::Nop::CODE, "nop"),
    ];
    for (code, name) in needed {
        if !probe.is_supported(code) {
            return Err(RingError::Lacking(name));
        }
    }
    turn_once(&mut ring)?;
    can_be_awaited(&ring)
}

/// Does one operation. tokio-uring panics, or hangs without a word, where the ring can be made and not be entered.
#[expect(
    unsafe_code,
    reason = "an operation is handed to the kernel by its entry"
)]
fn turn_once(ring: &mut IoUring) -> Result<(), RingError> {
    const NUMBER: u64 = 7;
    let entry = opcode::Nop::new().build().user_data(NUMBER);
    // SAFETY: the operation does nothing, so nothing that it refers to must live.
    let pushed = unsafe { ring.submission().push(&entry) };
    pushed.map_err(|error| RingError::Other(io::Error::other(error)))?;
    loop {
        match ring.submit_and_wait(1) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(explain(error)),
            Ok(_) => break,
        }
    }
    match ring.completion().next() {
        Some(done) if done.user_data() == NUMBER && done.result() >= 0 => Ok(()),
        done => Err(RingError::Other(io::Error::other(format!(
            "an operation that does nothing came back as {done:?}"
        )))),
    }
}

/// Whether the runtime can sleep until something happens on the ring; it panics where it cannot.
fn can_be_awaited(ring: &IoUring) -> Result<(), RingError> {
    let refused = |errno: Errno| RingError::NotAwaited(errno.into());
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(refused)?;
    let event = EpollEvent::new(EpollFlags::EPOLLIN, 0);
    epoll.add(borrowed(ring), event).map_err(refused)
}

#[expect(unsafe_code, reason = "IoUring lends its descriptor as a number only")]
fn borrowed(ring: &IoUring) -> BorrowedFd<'_> {
    // SAFETY: the ring owns the descriptor, keeps it open as long as it lives, and is borrowed for as long.
    unsafe { BorrowedFd::borrow_raw(ring.as_raw_fd()) }
}

/// Builds the runtime on the calling thread, which is already pinned to `core` if that is not `None`.
/// `all_cores` are those that the process may use.
pub(crate) fn build_runtime(
    core: Option<u16>,
    all_cores: &[u16],
) -> Result<tokio_uring::Runtime, RingError> {
    probe()?;
    let before = ring_descriptors();
    let mut builder = tokio_uring::builder();
    builder.entries(SUBMISSIONS).uring_builder(&ring_builder());
    let runtime = tokio_uring::Runtime::new(&builder).map_err(explain)?;
    let others: Vec<u16> = all_cores
        .iter()
        .copied()
        .filter(|other| Some(*other) != core)
        .collect();
    if core.is_some() && !others.is_empty() {
        let made: Vec<RawFd> = ring_descriptors().difference(&before).copied().collect();
        match made.as_slice() {
            [ring] => send_helpers_to(*ring, &others),
            _ => tracing::debug!(
                ?made,
                "ring not told from others, helper threads stay on the core"
            ),
        }
    }
    Ok(runtime)
}

/// Descriptors of this process that are rings.
fn ring_descriptors() -> BTreeSet<RawFd> {
    let Ok(entries) = std::fs::read_dir("/proc/self/fd") else {
        return BTreeSet::new();
    };
    let is_ring = |entry: &std::fs::DirEntry| {
        std::fs::read_link(entry.path())
            .is_ok_and(|link| link.as_os_str() == "anon_inode:[io_uring]")
    };
    entries
        .flatten()
        .filter(is_ring)
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect()
}

/// Moves the kernel's helper threads of this ring to other cores, and bounds their number.
#[expect(
    unsafe_code,
    reason = "io_uring_register is called for a ring that tokio-uring keeps to itself"
)]
fn send_helpers_to(ring: RawFd, cores: &[u16]) {
    const REGISTER_IOWQ_AFF: u32 = 17;
    const REGISTER_IOWQ_MAX_WORKERS: u32 = 19;
    let mut mask = [0_u8; 128];
    for core in cores {
        if let Some(byte) = mask.get_mut(usize::from(core / 8)) {
            *byte |= 1 << (core % 8);
        }
    }
    // SAFETY: the kernel reads 128 bytes from `mask`, which lives and is as long; it keeps no pointer.
    let affinity = unsafe {
        libc::syscall(
            libc::SYS_io_uring_register,
            ring,
            REGISTER_IOWQ_AFF,
            mask.as_ptr(),
            mask.len(),
        )
    };
    if affinity != 0 {
        let error = io::Error::last_os_error();
        tracing::warn!(%error, "the kernel's helper threads stay on the daemon's core");
    }
    let mut helpers = HELPERS_MAX;
    // SAFETY: the kernel reads and writes two u32 at `helpers`, which lives and has two; it keeps no pointer.
    let bounded = unsafe {
        libc::syscall(
            libc::SYS_io_uring_register,
            ring,
            REGISTER_IOWQ_MAX_WORKERS,
            helpers.as_mut_ptr(),
            helpers.len(),
        )
    };
    if bounded != 0 {
        tracing::debug!(error = %io::Error::last_os_error(), "number of helper threads not bounded");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_refusal_says_what_to_do() {
        let of = |errno| explain(io::Error::from_raw_os_error(errno)).to_string();
        assert!(of(libc::ENOSYS).contains("Linux 6.0"));
        assert!(of(libc::EINVAL).contains("SINGLE_ISSUER"));
        assert!(of(libc::ENOMEM).contains("ulimit -l"));
        assert!(of(libc::EACCES).contains("io_uring_setup"));
        assert!(
            RingError::Disabled(2)
                .to_string()
                .contains("sysctl kernel.io_uring_disabled=0")
        );
    }

    #[test]
    fn runtime_works_on_a_pinned_thread() {
        if let Err(refused) = probe() {
            return qtf_needs::skip(qtf_needs::Need::IoUring, refused);
        }
        let on_thread = || {
            let cores = crate::sys::affinity::allowed_cores();
            let core = crate::sys::affinity::pin(crate::config::Core::Auto);
            let runtime = build_runtime(core, &cores).unwrap();
            runtime.block_on(async { tokio_uring::no_op().await.unwrap() });
        };
        std::thread::spawn(on_thread).join().unwrap();
    }
}
