//! One accepted socket, on either backend, behind hyper's I/O traits.
//!
//! The first bytes are read here before HTTP/2 sees them: what does not begin with its preface is garbage
//! and gets no further. Tested through the whole daemon in `tests/daemon/sockets.rs`.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use hyper::rt::{Read, ReadBuf, ReadBufCursor, Write};

use super::Backend;
use super::direct_io::DirectIo;
use super::uring_io::UringIo;

/// What every HTTP/2 client sends first.
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A connected socket that no runtime has yet.
#[derive(Debug)]
pub(crate) enum Socket {
    Tcp(std::net::TcpStream),
    Unix(std::os::unix::net::UnixStream),
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(stream) => stream.as_fd(),
            Self::Unix(stream) => stream.as_fd(),
        }
    }
}

impl From<Socket> for OwnedFd {
    fn from(socket: Socket) -> Self {
        match socket {
            Socket::Tcp(stream) => stream.into(),
            Socket::Unix(stream) => stream.into(),
        }
    }
}

#[derive(Debug)]
enum Inner {
    Ring(UringIo),
    Direct(DirectIo),
}

/// A connected socket, ready for HTTP/2.
#[derive(Debug)]
pub(crate) struct EdgeIo {
    inner: Inner,
    /// Bytes of the preface that were read here and not yet handed on.
    head: Vec<u8>,
    head_handed_on: usize,
    /// Called at each flush: the moment at which a busy connection lets others have their turn.
    at_flush: fn(),
}

macro_rules! on_inner {
    ($self:ident, $io:ident => $body:expr) => {
        match &mut $self.inner {
            Inner::Ring($io) => $body,
            Inner::Direct($io) => $body,
        }
    };
}

impl EdgeIo {
    /// Gives the socket to the runtime of the calling thread. `at_flush` is called at each flush.
    pub(crate) fn new(socket: Socket, backend: Backend, at_flush: fn()) -> io::Result<Self> {
        if let Socket::Tcp(stream) = &socket {
            stream.set_nodelay(true)?;
        }
        let inner = match backend {
            Backend::IoUring => Inner::Ring(UringIo::new(socket.into())),
            Backend::Tokio => Inner::Direct(DirectIo::new(socket.into())?),
        };
        Ok(Self {
            inner,
            head: Vec::with_capacity(PREFACE.len()),
            head_handed_on: 0,
            at_flush,
        })
    }

    /// Reads until the preface is there; false at the first byte that does not belong to it, or when
    /// the peer ends.
    pub(crate) async fn speaks_http2(&mut self) -> io::Result<bool> {
        while self.head.len() < PREFACE.len() {
            let count = self.read_head().await?;
            if count == 0 || !PREFACE.starts_with(&self.head) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    async fn read_head(&mut self) -> io::Result<usize> {
        let mut space = [0_u8; PREFACE.len()];
        let missing = PREFACE.len().saturating_sub(self.head.len());
        let space = &mut space[..missing];
        let count = std::future::poll_fn(|cx| {
            let mut buffer = ReadBuf::new(space);
            ready!(on_inner!(self, io => Pin::new(io).poll_read(cx, buffer.unfilled())))?;
            Poll::Ready(Ok::<_, io::Error>(buffer.filled().len()))
        })
        .await?;
        self.head.extend_from_slice(&space[..count]);
        Ok(count)
    }
}

impl Read for EdgeIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut target: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let me = &mut *self;
        let head = me.head.get(me.head_handed_on..).unwrap_or_default();
        if head.is_empty() {
            return on_inner!(me, io => Pin::new(io).poll_read(cx, target));
        }
        let count = head.len().min(target.remaining());
        target.put_slice(head.get(..count).unwrap_or_default());
        me.head_handed_on = me.head_handed_on.saturating_add(count);
        Poll::Ready(Ok(()))
    }
}

impl Write for EdgeIo {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        on_inner!(self, io => Pin::new(io).poll_write(cx, bytes))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = on_inner!(self, io => Pin::new(io).poll_flush(cx));
        (self.at_flush)();
        result
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        on_inner!(self, io => Pin::new(io).poll_shutdown(cx))
    }

    fn is_write_vectored(&self) -> bool {
        match &self.inner {
            Inner::Ring(io) => io.is_write_vectored(),
            Inner::Direct(io) => io.is_write_vectored(),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        on_inner!(self, io => Pin::new(io).poll_write_vectored(cx, slices))
    }
}
