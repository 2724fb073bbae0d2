//! A socket in the poll of the thread's runtime, of which it can be said for what.
//!
//! Invariant I1: the socket is the same from its registration until it is taken out, and closed after that only. Nobody gets more
//! than a shared reference to it before.
//!
//! Tested by `net::direct_io::tests`.

#![expect(
    unsafe_code,
    reason = "tokio asks for a promise that the descriptor stays the same"
)]

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::task::{Context, Poll};

use tokio::io::Interest;
use tokio::io::unix::{AsyncFd, AsyncFdReadyGuard};

/// A socket in the poll.
#[derive(Debug)]
pub(crate) struct Polled(AsyncFd<OwnedFd>);

/// Says that there is something to do, until it is cleared.
pub(crate) type Ready<'a> = AsyncFdReadyGuard<'a, OwnedFd>;

impl Polled {
    /// Has the runtime of the calling thread listen for this. What is the case already counts as news.
    pub(crate) fn new(socket: OwnedFd, interest: Interest) -> io::Result<Self> {
        // SAFETY: an `OwnedFd` is one open descriptor from its making to its drop, and gives the same number each time. It is moved
        // into the `AsyncFd`, of which `Polled` lends shared references only, so nobody can exchange or close it; and
        // dropping, taking out and failing take it out of the poll first (I1).
        let made = unsafe { AsyncFd::register_with_interest(socket, interest) };
        Ok(Self(made?))
    }

    /// Ready when there are bytes, or an end or an error of the peer.
    pub(crate) fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<Ready<'_>>> {
        self.0.poll_read_ready(cx)
    }

    /// Ready when there is room, or an end or an error.
    pub(crate) fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<io::Result<Ready<'_>>> {
        self.0.poll_write_ready(cx)
    }

    /// Takes the socket out of the poll.
    pub(crate) fn into_inner(self) -> OwnedFd {
        self.0.into_inner()
    }
}

impl AsFd for Polled {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.get_ref().as_fd()
    }
}
