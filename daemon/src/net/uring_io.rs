//! One connected socket on the ring, behind hyper's I/O traits.
//!
//! Invariants:
//! - I1: at most one receive and one send are in flight; both are kept here and never dropped by a poll.
//! - I2: bytes to send wait in one coalescing buffer of at most `QUEUED_BYTES_MAX` plus one write; beyond
//!   that `poll_write` is pending, so a peer that does not read cannot make it grow.
//! - I3: dropping shuts the socket down, so that a receive in flight ends at once and gives the descriptor
//!   back; otherwise it would live until the peer speaks.
//!
//! Tested at the end of this file and, through the whole daemon, in `tests/daemon/sockets.rs`.

use std::future::Future as _;
use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use hyper::rt::ReadBufCursor;
use nix::sys::socket::{Shutdown, shutdown};

use crate::sys::socket_op::{Receive, Send};

/// A quiet connection pins this much for its receive in flight; busy ones grow to the maximum.
const RECEIVE_BYTES_MIN: usize = 8 << 10;
const RECEIVE_BYTES_MAX: usize = 64 << 10;
const QUEUED_BYTES_MAX: usize = 256 << 10;
/// A send buffer that grew beyond this is given back when it has been sent.
const SPARE_BYTES_MAX: usize = 64 << 10;

/// A connected socket on the ring.
pub(crate) struct UringIo {
    socket: Rc<OwnedFd>,
    receiving: Option<Receive>,
    received: Vec<u8>,
    consumed: usize,
    receive_bytes: usize,
    peer_has_ended: bool,
    sending: Option<Send>,
    /// How much of the buffer in flight was sent by earlier operations.
    sent: usize,
    queued: Vec<u8>,
    spare: Vec<u8>,
    write_is_shut: bool,
}

impl std::fmt::Debug for UringIo {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UringIo")
            .field("socket", &self.socket)
            .finish_non_exhaustive()
    }
}

impl UringIo {
    /// Takes a connected socket.
    pub(crate) fn new(socket: OwnedFd) -> Self {
        Self {
            socket: Rc::new(socket),
            receiving: None,
            received: Vec::new(),
            consumed: 0,
            receive_bytes: RECEIVE_BYTES_MIN,
            peer_has_ended: false,
            sending: None,
            sent: 0,
            queued: Vec::new(),
            spare: Vec::new(),
            write_is_shut: false,
        }
    }

    fn start_receive(&mut self) -> Receive {
        let mut buffer = std::mem::take(&mut self.received);
        buffer.clear();
        buffer.reserve_exact(self.receive_bytes);
        self.consumed = 0;
        Receive::start(&self.socket, buffer)
    }

    /// Ready when there is something to read, or the peer has ended.
    fn poll_received(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.consumed < self.received.len() || self.peer_has_ended {
            return Poll::Ready(Ok(()));
        }
        let mut operation = match self.receiving.take() {
            Some(operation) => operation,
            None => self.start_receive(),
        };
        let Poll::Ready((result, buffer)) = Pin::new(&mut operation).poll(cx) else {
            self.receiving = Some(operation);
            return Poll::Pending;
        };
        self.received = buffer;
        self.consumed = 0;
        match result {
            Ok(0) => self.peer_has_ended = true,
            Ok(count) if count >= self.receive_bytes => {
                self.receive_bytes = self.receive_bytes.saturating_mul(2).min(RECEIVE_BYTES_MAX);
            }
            Ok(_) => {}
            Err(error) => {
                self.received.clear();
                return Poll::Ready(Err(error));
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Ready when nothing is in flight and nothing is queued.
    fn poll_sent(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            let Some(operation) = self.sending.as_mut() else {
                if self.queued.is_empty() {
                    return Poll::Ready(Ok(()));
                }
                let next = std::mem::replace(&mut self.queued, std::mem::take(&mut self.spare));
                self.sent = 0;
                self.sending = Some(Send::start(&self.socket, next, 0));
                continue;
            };
            let (result, mut buffer) = ready!(Pin::new(operation).poll(cx));
            self.sending = None;
            match result? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                count => self.sent = self.sent.saturating_add(count),
            }
            if self.sent < buffer.len() {
                self.sending = Some(Send::start(&self.socket, buffer, self.sent));
            } else if buffer.capacity() <= SPARE_BYTES_MAX {
                buffer.clear();
                self.spare = buffer;
            }
        }
    }

    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.queued.len() < QUEUED_BYTES_MAX {
            Poll::Ready(Ok(()))
        } else {
            self.poll_sent(cx)
        }
    }
}

impl hyper::rt::Read for UringIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut target: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        ready!(self.poll_received(cx))?;
        let waiting = self.received.get(self.consumed..).unwrap_or_default();
        let count = waiting.len().min(target.remaining());
        target.put_slice(waiting.get(..count).unwrap_or_default());
        self.consumed = self.consumed.saturating_add(count);
        Poll::Ready(Ok(()))
    }
}

impl hyper::rt::Write for UringIo {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_room(cx))?;
        self.queued.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_sent(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_sent(cx))?;
        if !self.write_is_shut {
            self.write_is_shut = true;
            shutdown(self.socket.as_raw_fd(), Shutdown::Write)?;
        }
        Poll::Ready(Ok(()))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_room(cx))?;
        let mut count = 0_usize;
        for slice in slices {
            self.queued.extend_from_slice(slice);
            count = count.saturating_add(slice.len());
        }
        Poll::Ready(Ok(count))
    }
}

impl Drop for UringIo {
    fn drop(&mut self) {
        // I3. The socket may be closed by the peer already: nothing to be done about an error.
        let _ = shutdown(self.socket.as_raw_fd(), Shutdown::Both);
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::os::unix::net::UnixStream;

    use hyper::rt::{Read as _, Write as _};

    use super::*;

    fn on_ring<F: Future>(future: F) -> Option<F::Output> {
        match crate::sys::ring::build_runtime(None, &[]) {
            Ok(runtime) => Some(runtime.block_on(future)),
            Err(refused) => {
                qtf_needs::skip(qtf_needs::Need::IoUring, refused);
                None
            }
        }
    }

    async fn read_some(io: &mut UringIo, count: usize) -> io::Result<Vec<u8>> {
        let mut space = vec![std::mem::MaybeUninit::uninit(); count];
        std::future::poll_fn(|cx| {
            let mut buffer = hyper::rt::ReadBuf::uninit(&mut space);
            ready!(Pin::new(&mut *io).poll_read(cx, buffer.unfilled()))?;
            Poll::Ready(Ok(buffer.filled().to_vec()))
        })
        .await
    }

    async fn write_all(io: &mut UringIo, bytes: &[u8]) -> io::Result<()> {
        for chunk in bytes.chunks(16 << 10) {
            std::future::poll_fn(|cx| Pin::new(&mut *io).poll_write(cx, chunk)).await?;
        }
        std::future::poll_fn(|cx| Pin::new(&mut *io).poll_flush(cx)).await
    }

    #[test]
    fn what_is_written_is_read_at_the_other_end_in_both_directions() {
        on_ring(async {
            let (ours, mut theirs) = UnixStream::pair().unwrap();
            let mut io = UringIo::new(ours.into());
            theirs.write_all(b"ping").unwrap();
            assert_eq!(read_some(&mut io, 2).await.unwrap(), b"pi");
            assert_eq!(read_some(&mut io, 100).await.unwrap(), b"ng");
            write_all(&mut io, b"pong").await.unwrap();
            let mut four = [0; 4];
            theirs.read_exact(&mut four).unwrap();
            assert_eq!(&four, b"pong");
            drop(theirs);
            assert_eq!(read_some(&mut io, 10).await.unwrap(), b"");
        });
    }

    #[test]
    fn large_transfer_arrives_whole_through_short_sends() {
        let bytes: Vec<u8> = (0..3_000_000_u32).map(|i| (i % 251) as u8).collect();
        let expected = bytes.clone();
        on_ring(async move {
            let (ours, mut theirs) = UnixStream::pair().unwrap();
            let reader = std::thread::spawn(move || {
                let mut all = Vec::new();
                theirs.read_to_end(&mut all).unwrap();
                all
            });
            let mut io = UringIo::new(ours.into());
            write_all(&mut io, &bytes).await.unwrap();
            drop(io);
            assert!(reader.join().unwrap() == expected);
        });
    }

    #[test]
    fn writer_waits_for_a_peer_that_does_not_read() {
        on_ring(async {
            let (ours, _theirs) = UnixStream::pair().unwrap();
            let mut io = UringIo::new(ours.into());
            let chunk = vec![0; 64 << 10];
            let mut taken = 0;
            let waker = std::task::Waker::noop();
            for _ in 0..1000 {
                match Pin::new(&mut io).poll_write(&mut Context::from_waker(waker), &chunk) {
                    Poll::Ready(result) => taken += result.unwrap(),
                    Poll::Pending => break,
                }
            }
            assert!(
                taken <= 2 * (QUEUED_BYTES_MAX + chunk.len()),
                "{taken} bytes were taken"
            );
        });
    }

    #[test]
    fn dropping_with_a_receive_in_flight_gives_the_descriptor_back() {
        on_ring(async {
            let open = || std::fs::read_dir("/proc/self/fd").unwrap().count();
            let mut peers = Vec::new();
            let before = open();
            for _ in 0..50 {
                let (ours, theirs) = UnixStream::pair().unwrap();
                peers.push(theirs);
                let mut io = UringIo::new(ours.into());
                let waker = std::task::Waker::noop();
                assert!(
                    io.poll_received(&mut Context::from_waker(waker))
                        .is_pending()
                );
            }
            // The peers are still open and silent: only the shutdown can end the receives.
            for _ in 0..1000 {
                tokio_uring::no_op().await.unwrap();
                if open() < before + 80 {
                    break;
                }
            }
            assert!(
                open() < before + 80,
                "descriptors of dropped sockets are still open"
            );
            drop(peers);
        });
    }

    #[test]
    fn operation_completes_while_the_loop_is_busy_turning() {
        on_ring(async {
            let (ours, mut theirs) = UnixStream::pair().unwrap();
            let task = tokio::task::spawn_local(async move {
                let mut io = UringIo::new(ours.into());
                read_some(&mut io, 10).await.unwrap()
            });
            theirs.write_all(b"x").unwrap();
            for _ in 0..100_000 {
                super::super::Backend::IoUring.turn().await;
                if task.is_finished() {
                    return;
                }
            }
            panic!("the receive was starved by the busy loop");
        });
    }
}
