//! The accept loop of one listener.
//!
//! On the ring one accept is in flight at any time and is awaited to its end: a dropped one would
//! swallow the next connection. Only the end of the loop drops it, after the socket stopped listening
//! (TCP) or lost its name (Unix); what it may still swallow is closed with the ring. Tested at the end
//! of this file and in `tests/daemon/sockets.rs`.

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::rc::Rc;
use std::time::Duration;

use nix::sys::socket::{Shutdown, shutdown};
use tokio::sync::watch;

use super::Backend;
use super::edge_io::Socket;
use super::listener::{Listener, Origin, SocketFile};
use crate::sys::socket_op::Accept;

/// Pause after the process ran out of descriptors or memory.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(100);

enum Source {
    Ring {
        listener: Rc<OwnedFd>,
        is_tcp: bool,
        /// Nobody else listens on it.
        is_own: bool,
    },
    Tcp(tokio::net::TcpListener),
    Unix(tokio::net::UnixListener),
}

/// Accepts connections of one listener.
pub(crate) struct Acceptor {
    source: Source,
    file: Option<SocketFile>,
}

impl Acceptor {
    /// Takes a listener.
    pub(crate) fn new(listener: Listener, backend: Backend) -> io::Result<Self> {
        let (source, file) = match (backend, listener) {
            (Backend::IoUring, Listener::Tcp(listener, origin)) => (
                Source::Ring {
                    listener: Rc::new(listener.into()),
                    is_tcp: true,
                    is_own: origin == Origin::Bound,
                },
                None,
            ),
            (Backend::IoUring, Listener::Unix(listener, file)) => (
                Source::Ring {
                    listener: Rc::new(listener.into()),
                    is_tcp: false,
                    is_own: true,
                },
                Some(file),
            ),
            (Backend::Tokio, Listener::Tcp(listener, _)) => {
                listener.set_nonblocking(true)?;
                (
                    Source::Tcp(tokio::net::TcpListener::from_std(listener)?),
                    None,
                )
            }
            (Backend::Tokio, Listener::Unix(listener, file)) => {
                listener.set_nonblocking(true)?;
                (
                    Source::Unix(tokio::net::UnixListener::from_std(listener)?),
                    Some(file),
                )
            }
        };
        Ok(Self { source, file })
    }

    async fn accept(&self) -> io::Result<Socket> {
        match &self.source {
            Source::Ring {
                listener, is_tcp, ..
            } => {
                let socket = Accept::start(listener).await?;
                Ok(if *is_tcp {
                    Socket::Tcp(socket.into())
                } else {
                    Socket::Unix(socket.into())
                })
            }
            Source::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                Ok(Socket::Tcp(stream.into_std()?))
            }
            Source::Unix(listener) => {
                let (stream, _) = listener.accept().await?;
                Ok(Socket::Unix(stream.into_std()?))
            }
        }
    }

    /// Accepts until `stop` becomes true, and gives each connection to `take`.
    pub(crate) async fn run(
        mut self,
        mut stop: watch::Receiver<bool>,
        mut take: impl FnMut(Socket),
    ) {
        tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => {}
            () = self.accept_all(&mut take) => {}
        }
        self.close();
    }

    fn close(&mut self) {
        self.file = None;
        if let Source::Ring {
            listener,
            is_tcp: true,
            is_own: true,
        } = &self.source
        {
            // A listening TCP socket stops to listen; on a Unix socket this would make accepts spin.
            if let Err(error) = shutdown(listener.as_raw_fd(), Shutdown::Both) {
                tracing::debug!(%error, "listening socket");
            }
        }
    }

    async fn accept_all(&self, take: &mut impl FnMut(Socket)) {
        let mut was_exhausted = false;
        loop {
            match self.accept().await {
                Ok(socket) => {
                    was_exhausted = false;
                    take(socket);
                }
                Err(error) => match verdict(&error) {
                    Verdict::PeerLeft => {}
                    Verdict::Exhausted => {
                        if !was_exhausted {
                            tracing::error!(%error, "no connections accepted for now: raise the limit of open files");
                        }
                        was_exhausted = true;
                        tokio::time::sleep(EXHAUSTED_PAUSE).await;
                    }
                    Verdict::Closed => {
                        tracing::debug!(%error, "listener closed");
                        return;
                    }
                },
            }
        }
    }
}

enum Verdict {
    PeerLeft,
    Exhausted,
    Closed,
}

fn verdict(error: &io::Error) -> Verdict {
    match error.raw_os_error() {
        Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM) => Verdict::Exhausted,
        Some(libc::EINVAL | libc::EBADF | libc::ENOTSOCK | libc::ECANCELED) => Verdict::Closed,
        // ECONNABORTED and the network errors that accept(2) passes on concern one peer only.
        _ => Verdict::PeerLeft,
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use qtf_proto::address::Address;

    use super::*;

    async fn accept_all_then_close(backend: Backend, address: Address) {
        let listener = Listener::bind(&address).unwrap().remove(0);
        let bound = listener.address().unwrap();
        let (stop, stopped) = watch::channel(false);
        let acceptor = Acceptor::new(listener, backend).unwrap();
        let count = Rc::new(Cell::new(0));
        let counted = Rc::clone(&count);
        let task = tokio::task::spawn_local(
            acceptor.run(stopped, move |_| counted.set(counted.get() + 1)),
        );
        let mut peers: Vec<Socket> = Vec::new();
        for _ in 0..20 {
            peers.push(match &bound {
                Address::Unix(path) | Address::Own(path) => {
                    Socket::Unix(std::os::unix::net::UnixStream::connect(path).unwrap())
                }
                Address::Tcp(_) | Address::InProcess(_) | Address::Segment(_) => {
                    Socket::Tcp(std::net::TcpStream::connect(bound.to_string()).unwrap())
                }
            });
        }
        while count.get() < 20 {
            backend.turn().await;
        }
        stop.send_replace(true);
        task.await.unwrap();
    }

    fn on_both(test: impl Fn(Backend)) {
        test(Backend::Tokio);
        if crate::sys::ring::probe().is_ok() {
            test(Backend::IoUring);
        }
    }

    fn run<F: Future<Output = ()>>(backend: Backend, future: F) {
        match backend {
            Backend::IoUring => crate::sys::ring::build_runtime(None, &[])
                .unwrap()
                .block_on(future),
            Backend::Tokio => {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .unwrap();
                tokio::task::LocalSet::new().block_on(&runtime, future);
            }
        }
    }

    #[test]
    fn every_tcp_connection_is_accepted_and_closing_ends_the_loop() {
        on_both(|backend| {
            run(
                backend,
                accept_all_then_close(backend, Address::Tcp("127.0.0.1:0".into())),
            );
        });
    }

    #[test]
    fn every_unix_connection_is_accepted_and_closing_ends_the_loop() {
        let folder = tempfile::tempdir().unwrap();
        on_both(|backend| {
            let path = folder.path().join("a.sock");
            run(backend, accept_all_then_close(backend, Address::Unix(path)));
        });
    }
}
