//! Accept, receive and send as `io_uring` operations on tokio-uring's driver, with nameable futures.
//!
//! Invariants:
//! - I1: an operation owns its buffer and a share of its socket until the kernel has answered, so neither
//!   the memory nor the descriptor number can be used again before (dropping the future keeps both alive
//!   inside the driver).
//! - I2: dropping a future does not cancel its operation. A dropped accept would swallow a connection, a
//!   dropped receive keeps its socket open: owners keep accepts for life and shut sockets down.
//!
//! Tested by `net::uring_io::tests` and `net::listener::tests`.

#![expect(
    unsafe_code,
    reason = "buffers are lent to the kernel, descriptors come from it"
)]

use std::future::Future;
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use io_uring::{cqueue, opcode, types};
use tokio_uring::{InFlightOneshot, OneshotOutputTransform, UnsubmittedOneshot};

/// What an operation owns until the kernel has answered (I1).
struct Lent {
    buffer: Vec<u8>,
    /// Length of `buffer` that was filled before the operation.
    filled: usize,
    _socket: Rc<OwnedFd>,
}

fn result_of(entry: &cqueue::Entry) -> io::Result<usize> {
    let result = entry.result();
    usize::try_from(result).map_err(|_| io::Error::from_raw_os_error(result.saturating_neg()))
}

struct Received;

impl OneshotOutputTransform for Received {
    type Output = (io::Result<usize>, Vec<u8>);
    type StoredData = Lent;

    fn transform_oneshot_output(self, mut lent: Lent, entry: cqueue::Entry) -> Self::Output {
        let result = result_of(&entry);
        if let Ok(count) = result {
            let length = lent
                .filled
                .saturating_add(count)
                .min(lent.buffer.capacity());
            // SAFETY: length is at most the capacity, and the kernel has initialised `count` bytes behind
            // the `filled` ones that were initialised before.
            unsafe { lent.buffer.set_len(length) };
        }
        (result, lent.buffer)
    }
}

/// A receive in flight; gives the result and the buffer with what was received.
pub(crate) struct Receive(InFlightOneshot<Lent, Received>);

impl Receive {
    /// Starts to receive into the free capacity of `buffer`.
    pub(crate) fn start(socket: &Rc<OwnedFd>, mut buffer: Vec<u8>) -> Self {
        let filled = buffer.len();
        let space = buffer.spare_capacity_mut();
        let length = u32::try_from(space.len()).unwrap_or(u32::MAX);
        let target = space.as_mut_ptr().cast::<u8>();
        let entry = opcode::Recv::new(types::Fd(socket.as_raw_fd()), target, length).build();
        let lent = Lent {
            buffer,
            filled,
            _socket: Rc::clone(socket),
        };
        Self(UnsubmittedOneshot::new(lent, Received, entry).submit())
    }
}

impl Future for Receive {
    type Output = (io::Result<usize>, Vec<u8>);

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(cx)
    }
}

struct Sent;

impl OneshotOutputTransform for Sent {
    type Output = (io::Result<usize>, Vec<u8>);
    type StoredData = Lent;

    fn transform_oneshot_output(self, lent: Lent, entry: cqueue::Entry) -> Self::Output {
        (result_of(&entry), lent.buffer)
    }
}

/// A send in flight; gives the number of bytes sent and the buffer back.
pub(crate) struct Send(InFlightOneshot<Lent, Sent>);

impl Send {
    /// Starts to send `buffer` from byte `from` on.
    pub(crate) fn start(socket: &Rc<OwnedFd>, buffer: Vec<u8>, from: usize) -> Self {
        let rest = buffer.get(from..).unwrap_or_default();
        let length = u32::try_from(rest.len()).unwrap_or(u32::MAX);
        let entry = opcode::Send::new(types::Fd(socket.as_raw_fd()), rest.as_ptr(), length)
            .flags(libc::MSG_NOSIGNAL)
            .build();
        let lent = Lent {
            filled: buffer.len(),
            buffer,
            _socket: Rc::clone(socket),
        };
        Self(UnsubmittedOneshot::new(lent, Sent, entry).submit())
    }
}

impl Future for Send {
    type Output = (io::Result<usize>, Vec<u8>);

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(cx)
    }
}

struct Accepted;

impl OneshotOutputTransform for Accepted {
    type Output = io::Result<OwnedFd>;
    type StoredData = Rc<OwnedFd>;

    fn transform_oneshot_output(
        self,
        _listener: Rc<OwnedFd>,
        entry: cqueue::Entry,
    ) -> Self::Output {
        let result = entry.result();
        if result < 0 {
            return Err(io::Error::from_raw_os_error(result.saturating_neg()));
        }
        // SAFETY: the kernel just returned this descriptor to us, so it is open and nobody else owns it.
        Ok(unsafe { OwnedFd::from_raw_fd(result) })
    }
}

/// An accept in flight. It must be awaited to its end (I2).
pub(crate) struct Accept(InFlightOneshot<Rc<OwnedFd>, Accepted>);

impl Accept {
    /// Starts to accept one connection.
    pub(crate) fn start(listener: &Rc<OwnedFd>) -> Self {
        let null = std::ptr::null_mut();
        let entry =
            opcode::Accept::new(types::Fd(listener.as_raw_fd()), null, std::ptr::null_mut())
                .flags(libc::SOCK_CLOEXEC)
                .build();
        Self(UnsubmittedOneshot::new(Rc::clone(listener), Accepted, entry).submit())
    }
}

impl Future for Accept {
    type Output = io::Result<OwnedFd>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(cx)
    }
}
