//! The doorbell's futex in the poll of the pinned thread's runtime, by an `io_uring` that does nothing else: who rings wakes the thread itself, and no
//! thread in between.
//!
//! The kernel waits in the thread's place (`IORING_OP_FUTEX_WAIT`, Linux 6.7 and later), and the ring becomes readable when it was rung.
//!
//! Invariants:
//! - I1: one wait at most is with the kernel. It stays there while the thread is awake, and is given anew when it was over.
//! - I2: the address that the kernel has been given is looked at when the wait begins and not after that; the segment is mapped for as long as
//!   this is there all the same.
//!
//! Tested in `cycle/bell.rs`.

use core::fmt;
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::sync::Arc;

use io_uring::{IoUring, Probe, opcode};
use qtf_shm::Segment;
use tokio::io::Interest;

use super::polled::Polled;

const ENTRIES: u32 = 2;
/// Of futex2: 32 bits, not private.
const FUTEX2_SIZE_U32: u32 = 2;
const MATCH_ANY: u64 = 0xFFFF_FFFF;

/// See the head of this file.
pub(crate) struct Ear {
    polled: Polled,
    ring: IoUring,
    is_waiting: bool,
    segment: Arc<Segment>,
}

/// Whether the kernel can wait for a futex in a thread's place.
pub(crate) fn is_to_be_had() -> bool {
    let supported = || -> io::Result<bool> {
        let ring: IoUring = IoUring::new(ENTRIES)?;
        let mut probe = Probe::new();
        ring.submitter().register_probe(&mut probe)?;
        Ok(probe.is_supported(opcode::FutexWait::CODE))
    };
    supported().unwrap_or(false)
}

impl fmt::Debug for Ear {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ear")
            .field("is_waiting", &self.is_waiting)
            .finish_non_exhaustive()
    }
}

impl Ear {
    /// Listens on the calling thread, whose runtime polls the ring.
    ///
    /// # Errors
    /// The kernel has no ring for it.
    pub(crate) fn on_this_thread(segment: Arc<Segment>) -> io::Result<Self> {
        let ring = IoUring::new(ENTRIES)?;
        #[expect(unsafe_code, reason = "IoUring lends its descriptor as a number only")]
        // SAFETY: the ring owns the descriptor and keeps it open beyond this statement, which makes one of our own of it.
        let descriptor =
            unsafe { BorrowedFd::borrow_raw(ring.as_raw_fd()) }.try_clone_to_owned()?;
        Ok(Self {
            polled: Polled::new(descriptor, Interest::READABLE)?,
            ring,
            is_waiting: false,
            segment,
        })
    }

    /// Comes back when somebody has rung since the sleeper said that it goes to sleep; perhaps for no reason.
    ///
    /// # Errors
    /// The kernel does not wait.
    pub(crate) async fn rung(&mut self) -> io::Result<()> {
        if !self.begin()? {
            return Ok(());
        }
        core::future::poll_fn(|cx| self.polled.poll_readable(cx))
            .await?
            .clear_ready();
        while let Some(over) = self.ring.completion().next() {
            self.is_waiting = false;
            match over.result() {
                // Rung, or it was before the wait began, or a signal came.
                0.. => {}
                result if [libc::EAGAIN, libc::EINTR].contains(&-result) => {}
                result => return Err(io::Error::from_raw_os_error(-result)),
            }
        }
        Ok(())
    }

    /// Has the kernel wait. False if somebody has rung already.
    fn begin(&mut self) -> io::Result<bool> {
        let bell = self.segment.doorbell();
        let seen = bell.rings();
        if !seen.is_asleep() {
            return Ok(false);
        }
        if self.is_waiting {
            return Ok(true);
        }
        let (futex, value) = bell.futex(seen);
        let wait = opcode::FutexWait::new(futex, u64::from(value), MATCH_ANY, FUTEX2_SIZE_U32);
        #[expect(
            unsafe_code,
            reason = "an operation is handed to the kernel by its entry"
        )]
        // SAFETY: the operation names a word of the segment, which `segment` keeps mapped until this is dropped; nothing else is referred to.
        let pushed = unsafe { self.ring.submission().push(&wait.build()) };
        pushed.map_err(io::Error::other)?;
        self.ring.submit()?;
        self.is_waiting = true;
        Ok(true)
    }
}
