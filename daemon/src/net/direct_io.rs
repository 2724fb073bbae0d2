//! One connected socket that is read and written at once, behind hyper's I/O traits; the runtime's poll is for waiting only.
//!
//! Invariants:
//! - I1: a write is tried before anything waits for it: what the peer has room for is one system call, and nothing comes back for it.
//! - I2: the poll is asked about room only while the peer has none. Asked always, it would wake the thread each time that a peer
//!   has read what it was sent.
//! - I3: what was read and not yet taken is at most [`READ_BYTES_MAX`]; the next bytes are read when it is gone. A quiet connection
//!   holds no buffer at all: what all of a thread's connections read goes through one.
//! - I4: each read and each write takes from the budget of its task, so that a peer that never stops leaves turns to the others.
//!
//! Tested at the end of this file and, through the whole daemon, in `tests/daemon/sockets.rs`.

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use hyper::rt::ReadBufCursor;
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, Shutdown, recv, sendmsg, shutdown};
use tokio::io::Interest;
use tokio::task::coop;

use crate::sys::polled::Polled;

/// LIMIT: so much is read at once.
const READ_BYTES_MAX: usize = 64 << 10;
/// What lies in a connection's own buffer beyond this is given back with it.
const KEPT_BYTES_MAX: usize = 4 << 10;

thread_local! {
    /// What is read lands here. It is in the cache, whichever connection it comes from.
    static LANDING: RefCell<Vec<u8>> = RefCell::new(vec![0; READ_BYTES_MAX]);
}

/// A connected socket that is tried before it is waited for.
#[derive(Debug)]
pub(crate) struct DirectIo {
    /// `None` only if the kernel did not take it back into its poll.
    socket: Option<Polled>,
    /// The poll is asked about room too (I2).
    awaits_room: bool,
    /// Read and not yet taken (I3).
    received: Vec<u8>,
    taken: usize,
}

fn lost() -> io::Error {
    io::ErrorKind::NotConnected.into()
}

impl DirectIo {
    /// Takes a connected socket, on a thread with a runtime.
    pub(crate) fn new(socket: OwnedFd) -> io::Result<Self> {
        Ok(Self {
            socket: Some(Polled::new(socket, Interest::READABLE)?),
            awaits_room: false,
            received: Vec::new(),
            taken: 0,
        })
    }

    fn socket(&self) -> io::Result<&Polled> {
        self.socket.as_ref().ok_or_else(lost)
    }

    /// What the socket has, without waiting.
    fn read_now(&self, target: &mut [u8]) -> io::Result<Result<usize, Errno>> {
        let socket = self.socket()?.as_fd().as_raw_fd();
        Ok(recv(socket, target, MsgFlags::MSG_DONTWAIT))
    }

    /// What the peer has room for, without waiting.
    fn write_now(&self, slices: &[IoSlice<'_>]) -> io::Result<Result<usize, Errno>> {
        let socket = self.socket()?.as_fd().as_raw_fd();
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        Ok(sendmsg::<()>(socket, slices, &[], flags, None))
    }

    /// Gives what was read before to `target`; false if there is nothing.
    fn take_received(&mut self, target: &mut ReadBufCursor<'_>) -> bool {
        let left = self.received.get(self.taken..).unwrap_or_default();
        if left.is_empty() {
            return false;
        }
        let count = left.len().min(target.remaining());
        target.put_slice(left.get(..count).unwrap_or_default());
        self.taken = self.taken.saturating_add(count);
        if self.taken >= self.received.len() {
            self.taken = 0;
            self.received.clear();
            self.received.shrink_to(KEPT_BYTES_MAX);
        }
        true
    }

    fn read(
        &mut self,
        cx: &mut Context<'_>,
        target: &mut ReadBufCursor<'_>,
        landing: &mut [u8],
    ) -> Poll<io::Result<()>> {
        let count = loop {
            // Takes from the budget (I4).
            let mut ready = ready!(self.socket()?.poll_readable(cx))?;
            match self.read_now(landing)? {
                Ok(count) => {
                    if count < landing.len() {
                        // All that there was: what comes now makes it ready again. An end of the peer stays.
                        ready.clear_ready();
                    }
                    break count;
                }
                Err(Errno::EAGAIN) => ready.clear_ready(),
                Err(Errno::EINTR) => {}
                Err(errno) => return Poll::Ready(Err(errno.into())),
            }
        };
        let bytes = landing.get(..count).unwrap_or_default();
        let (now, later) = bytes.split_at(count.min(target.remaining()));
        target.put_slice(now);
        self.received.extend_from_slice(later);
        Poll::Ready(Ok(()))
    }

    fn write(&mut self, cx: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        // I4
        let budget = ready!(coop::poll_proceed(cx));
        loop {
            match self.write_now(slices)? {
                Ok(count) => {
                    budget.made_progress();
                    self.await_room(false, cx)?;
                    return Poll::Ready(Ok(count));
                }
                Err(Errno::EAGAIN) => {
                    self.await_room(true, cx)?;
                    ready!(self.socket()?.poll_writable(cx))?.clear_ready();
                }
                Err(Errno::EINTR) => {}
                Err(errno) => return Poll::Ready(Err(errno.into())),
            }
        }
    }

    /// Asks the poll about room or asks it no more. It tells of everything anew then, and whoever waited for something is to look again.
    fn await_room(&mut self, awaits_room: bool, cx: &Context<'_>) -> io::Result<()> {
        if self.awaits_room == awaits_room {
            return Ok(());
        }
        let socket = self.socket.take().ok_or_else(lost)?.into_inner();
        let interest = if awaits_room {
            Interest::READABLE | Interest::WRITABLE
        } else {
            Interest::READABLE
        };
        self.socket = Some(Polled::new(socket, interest)?);
        self.awaits_room = awaits_room;
        cx.waker().wake_by_ref();
        Ok(())
    }
}

impl hyper::rt::Read for DirectIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut target: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        if self.take_received(&mut target) {
            return Poll::Ready(Ok(()));
        }
        LANDING.with_borrow_mut(|landing| self.read(cx, &mut target, landing))
    }
}

impl hyper::rt::Write for DirectIo {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.write(cx, &[IoSlice::new(bytes)])
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Nothing is held back.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let socket = self.socket()?.as_fd().as_raw_fd();
        Poll::Ready(shutdown(socket, Shutdown::Write).map_err(io::Error::from))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.write(cx, slices)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::io::{Read as _, Write as _};
    use std::os::unix::net::UnixStream;
    use std::rc::Rc;

    use hyper::rt::{Read as _, Write as _};

    use super::*;

    fn on_sockets<F: Future>(future: F) -> F::Output {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        tokio::task::LocalSet::new().block_on(&runtime, future)
    }

    fn pair() -> (DirectIo, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        (DirectIo::new(ours.into()).unwrap(), theirs)
    }

    async fn read_some(io: &mut DirectIo, count: usize) -> io::Result<Vec<u8>> {
        let mut space = vec![std::mem::MaybeUninit::uninit(); count];
        std::future::poll_fn(|cx| {
            let mut buffer = hyper::rt::ReadBuf::uninit(&mut space);
            ready!(Pin::new(&mut *io).poll_read(cx, buffer.unfilled()))?;
            Poll::Ready(Ok(buffer.filled().to_vec()))
        })
        .await
    }

    async fn write_all(io: &mut DirectIo, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let (first, second) = bytes.split_at(bytes.len() / 2);
            let slices = [IoSlice::new(first), IoSlice::new(second)];
            let writing =
                |cx: &mut Context<'_>| Pin::new(&mut *io).poll_write_vectored(cx, &slices);
            let count = std::future::poll_fn(writing).await?;
            bytes = &bytes[count..];
        }
        Ok(())
    }

    /// What the poll of this thread is asked about this socket, as the kernel says it.
    fn asked(io: &DirectIo) -> u32 {
        let socket = io.socket().unwrap().as_fd().as_raw_fd();
        let of_poll = std::fs::read_dir("/proc/self/fdinfo").unwrap();
        // Other tests' descriptors come and go.
        let infos = of_poll
            .flatten()
            .filter_map(|info| std::fs::read_to_string(info.path()).ok());
        let lines: Vec<String> = infos
            .flat_map(|info| info.lines().map(str::to_owned).collect::<Vec<_>>())
            .collect();
        let mut found = lines.iter().filter_map(|line| {
            let mut words = line.split_whitespace();
            let is_it = words.next() == Some("tfd:") && words.next()?.parse() == Ok(socket);
            (is_it && words.next() == Some("events:"))
                .then(|| u32::from_str_radix(words.next()?, 16).ok())?
        });
        found.next().unwrap()
    }

    const ROOM: u32 = libc::EPOLLOUT.cast_unsigned();
    const BYTES: u32 = libc::EPOLLIN.cast_unsigned();

    #[test]
    fn what_is_written_is_read_at_the_other_end_in_both_directions() {
        on_sockets(async {
            let (mut io, mut theirs) = pair();
            theirs.write_all(b"ping").unwrap();
            assert_eq!(read_some(&mut io, 2).await.unwrap(), b"pi");
            assert_eq!(read_some(&mut io, 100).await.unwrap(), b"ng");
            write_all(&mut io, b"pong").await.unwrap();
            let mut four = [0; 4];
            theirs.read_exact(&mut four).unwrap();
            assert_eq!(&four, b"pong");
        });
    }

    #[test]
    fn last_words_and_the_end_of_a_peer_that_come_together_are_both_read() {
        on_sockets(async {
            let (mut io, mut theirs) = pair();
            theirs.write_all(b"bye").unwrap();
            drop(theirs);
            assert_eq!(read_some(&mut io, 100).await.unwrap(), b"bye");
            assert_eq!(read_some(&mut io, 100).await.unwrap(), b"");
            assert_eq!(read_some(&mut io, 100).await.unwrap(), b"", "still");
        });
    }

    #[test]
    fn large_transfer_arrives_whole_through_short_writes_and_in_the_other_direction_too() {
        let bytes: Vec<u8> = (0..3_000_000_u32).map(|i| (i % 251) as u8).collect();
        let expected = bytes.clone();
        on_sockets(async move {
            let (mut io, mut theirs) = pair();
            let echo = std::thread::spawn(move || {
                let mut all = vec![0; 3_000_000];
                theirs.read_exact(&mut all).unwrap();
                theirs.write_all(&all).unwrap();
            });
            write_all(&mut io, &bytes).await.unwrap();
            let mut back = Vec::new();
            while back.len() < expected.len() {
                back.extend(read_some(&mut io, 8 << 10).await.unwrap());
            }
            assert!(back == expected);
            echo.join().unwrap();
        });
    }

    #[test]
    fn poll_is_asked_about_room_only_while_the_peer_has_none() {
        on_sockets(async {
            let (mut io, mut theirs) = pair();
            write_all(&mut io, b"x").await.unwrap();
            assert_eq!(asked(&io) & (ROOM | BYTES), BYTES);
            let waker = std::task::Waker::noop();
            let chunk = [0; 4 << 10];
            let mut written = 1;
            while let Poll::Ready(count) =
                Pin::new(&mut io).poll_write(&mut Context::from_waker(waker), &chunk)
            {
                written += count.unwrap();
            }
            assert!(written < 8 << 20, "a peer that does not read is waited for");
            assert_eq!(asked(&io) & (ROOM | BYTES), ROOM | BYTES);
            let reader = std::thread::spawn(move || {
                theirs.read_exact(&mut vec![0; written]).unwrap();
                theirs
            });
            // Comes when there is room, and then nobody asks any more.
            write_all(&mut io, b"y").await.unwrap();
            assert_eq!(asked(&io) & (ROOM | BYTES), BYTES);
            let mut theirs = reader.join().unwrap();
            theirs.write_all(b"z").unwrap();
            assert_eq!(read_some(&mut io, 1).await.unwrap(), b"z", "still heard");
        });
    }

    #[test]
    fn reader_that_waits_while_room_is_awaited_is_woken_by_bytes() {
        on_sockets(async {
            let (mut io, mut theirs) = pair();
            let chunk = [0; 4 << 10];
            let mut waited = 0;
            // One task for both directions, as a connection is: it reads where it cannot write.
            let read = std::future::poll_fn(|cx| {
                while Pin::new(&mut io).poll_write(cx, &chunk).is_ready() {}
                let mut space = [std::mem::MaybeUninit::uninit(); 4];
                let mut buffer = hyper::rt::ReadBuf::uninit(&mut space);
                match Pin::new(&mut io).poll_read(cx, buffer.unfilled()) {
                    Poll::Ready(result) => Poll::Ready(result.map(|()| buffer.filled().to_vec())),
                    Poll::Pending => {
                        waited += 1;
                        if waited == 2 {
                            // It has looked again after the poll was asked anew; from now on it sleeps.
                            theirs.write_all(b"word").unwrap();
                        }
                        Poll::Pending
                    }
                }
            });
            assert_eq!(read.await.unwrap(), b"word");
        });
    }

    #[test]
    fn quiet_connection_holds_no_buffer_and_a_flood_at_most_one_read() {
        on_sockets(async {
            let (mut io, mut theirs) = pair();
            theirs.write_all(&vec![7; 100 << 10]).unwrap();
            assert_eq!(read_some(&mut io, 1).await.unwrap(), [7]);
            assert!(io.received.len() <= READ_BYTES_MAX);
            let mut left = (100 << 10) - 1;
            while left > 0 {
                left -= read_some(&mut io, 8 << 10).await.unwrap().len();
            }
            assert!(io.received.capacity() <= KEPT_BYTES_MAX);
        });
    }

    #[test]
    fn connections_that_never_stop_to_be_readable_or_writable_leave_turns_to_others() {
        const ROUNDS: u32 = 20_000;
        on_sockets(async {
            let chunk = [0; 1 << 10];
            let rounds = Rc::new(Cell::new(0));
            let (mut flooded, mut flooding) = pair();
            let counted = Rc::clone(&rounds);
            let reading = tokio::task::spawn_local(async move {
                for _ in 0..ROUNDS {
                    flooding.write_all(&chunk).unwrap();
                    read_some(&mut flooded, chunk.len()).await.unwrap();
                    counted.set(counted.get() + 1);
                }
            });
            let (mut greedy, mut drain) = pair();
            let counted = Rc::clone(&rounds);
            let writing = tokio::task::spawn_local(async move {
                for _ in 0..ROUNDS {
                    write_all(&mut greedy, &chunk).await.unwrap();
                    drain.read_exact(&mut [0; 1 << 10]).unwrap();
                    counted.set(counted.get() + 1);
                }
            });
            let (mut io, mut theirs) = pair();
            theirs.write_all(b"x").unwrap();
            assert_eq!(read_some(&mut io, 1).await.unwrap(), b"x");
            assert!(rounds.get() < ROUNDS / 2, "after {} rounds", rounds.get());
            reading.await.unwrap();
            writing.await.unwrap();
        });
    }
}
