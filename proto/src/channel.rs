//! Opens a gRPC channel to an [`Address`]: TCP, Unix socket or the socket pair of a daemon in this
//! process.
//!
//! The channel reconnects by itself at the next call after a break, to the same address.

use core::time::Duration;
use std::error::Error as StdError;
use std::io;

use hyper_util::rt::TokioIo;
use tokio::net::{TcpStream, UnixStream};
use tonic::transport::{Channel, Endpoint};

use crate::address::Address;

const STREAM_WINDOW_BYTES: u32 = 1 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 4 << 20;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
// A host that vanished without a word, or a daemon that was stopped, is noticed after 30 s.
const PING_INTERVAL: Duration = Duration::from_secs(10);
const PING_TIMEOUT: Duration = Duration::from_secs(20);

/// Why no connection came about.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// No socket has this path, or nobody listens there. Start a daemon, or give another address.
    #[error("no daemon at {address}: {source}")]
    NotThere {
        /// The address, as written.
        address: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// Something is there, or may be there, but it cannot be talked to.
    #[error("cannot connect to {address}: {cause}")]
    Other {
        /// The address, as written.
        address: String,
        /// What went wrong, with its causes.
        cause: String,
    },
}

impl ConnectError {
    /// True when no daemon listens at the address.
    #[must_use]
    pub const fn is_not_there(&self) -> bool {
        matches!(self, Self::NotThere { .. })
    }
}

/// Opens a channel and waits for its first connection.
///
/// # Errors
/// [`ConnectError::NotThere`] for a missing socket file or a refused connection, else
/// [`ConnectError::Other`].
pub async fn connect(address: &Address) -> Result<Channel, ConnectError> {
    let endpoint = endpoint(address)?;
    let target = address.clone();
    let connector = tower::service_fn(move |_: http::Uri| {
        let target = target.clone();
        async move { open(&target).await }
    });
    endpoint
        .connect_with_connector(connector)
        .await
        .map_err(|error| connect_error(address, &error))
}

fn endpoint(address: &Address) -> Result<Endpoint, ConnectError> {
    let uri = match address {
        Address::Tcp(host_port) => format!("http://{host_port}"),
        Address::Unix(_) | Address::InProcess(_) => "http://localhost".to_owned(),
    };
    let endpoint = Endpoint::from_shared(uri)
        .map_err(|error| connect_error(address, &error))?
        .connect_timeout(CONNECT_TIMEOUT)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES);
    Ok(match address {
        Address::Tcp(_) | Address::Unix(_) => endpoint
            .http2_keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_TIMEOUT)
            .keep_alive_while_idle(true),
        // Whatever stops the daemon stops this process.
        Address::InProcess(_) => endpoint,
    })
}

/// One connection of any kind.
#[derive(Debug)]
enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

async fn open(address: &Address) -> io::Result<TokioIo<Socket>> {
    let socket = match address {
        Address::Tcp(host_port) => {
            let stream = TcpStream::connect(host_port.as_str()).await?;
            stream.set_nodelay(true)?;
            Socket::Tcp(stream)
        }
        Address::Unix(path) => Socket::Unix(UnixStream::connect(path).await?),
        Address::InProcess(way_in) => {
            let stream = way_in.open()?;
            stream.set_nonblocking(true)?;
            Socket::Unix(UnixStream::from_std(stream)?)
        }
    };
    Ok(TokioIo::new(socket))
}

fn connect_error(address: &Address, error: &(dyn StdError + 'static)) -> ConnectError {
    let address = address.to_string();
    let mut causes: Vec<String> = Vec::new();
    let mut next: Option<&(dyn StdError + 'static)> = Some(error);
    while let Some(current) = next {
        if let Some(source) = not_there(current) {
            return ConnectError::NotThere { address, source };
        }
        let text = current.to_string();
        if causes.last() != Some(&text) {
            causes.push(text);
        }
        next = current.source();
    }
    ConnectError::Other {
        address,
        cause: causes.join(": "),
    }
}

fn not_there(error: &(dyn StdError + 'static)) -> Option<io::Error> {
    let error = error.downcast_ref::<io::Error>()?;
    let is_not_there = matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
    );
    is_not_there.then(|| match error.raw_os_error() {
        Some(number) => io::Error::from_raw_os_error(number),
        None => io::Error::new(error.kind(), error.to_string()),
    })
}

mod socket {
    use core::pin::Pin;
    use core::task::{Context, Poll};
    use std::io;

    use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

    use super::Socket;

    impl AsyncRead for Socket {
        fn poll_read(
            self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            buf: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            match self.get_mut() {
                Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
                Self::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
            }
        }
    }

    impl AsyncWrite for Socket {
        fn poll_write(
            self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            buf: &[u8],
        ) -> Poll<io::Result<usize>> {
            match self.get_mut() {
                Self::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
                Self::Unix(stream) => Pin::new(stream).poll_write(cx, buf),
            }
        }

        fn poll_write_vectored(
            self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            bufs: &[io::IoSlice<'_>],
        ) -> Poll<io::Result<usize>> {
            match self.get_mut() {
                Self::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
                Self::Unix(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            }
        }

        fn is_write_vectored(&self) -> bool {
            true
        }

        fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            match self.get_mut() {
                Self::Tcp(stream) => Pin::new(stream).poll_flush(cx),
                Self::Unix(stream) => Pin::new(stream).poll_flush(cx),
            }
        }

        fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            match self.get_mut() {
                Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
                Self::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address::InProcess;

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
    }

    fn error_of(address: &Address) -> ConnectError {
        runtime().block_on(connect(address)).unwrap_err()
    }

    #[test]
    fn missing_socket_file_and_refused_port_are_not_there() {
        let missing = "unix:/nonexistent/qtf.sock".parse().unwrap();
        let error = error_of(&missing);
        assert!(error.is_not_there(), "{error}");
        assert!(error.to_string().contains("unix:/nonexistent/qtf.sock"));

        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let free = Address::Tcp(listener.local_addr().unwrap().to_string());
        drop(listener);
        assert!(error_of(&free).is_not_there());
    }

    #[test]
    fn socket_without_listener_is_not_there() {
        let dir = std::env::temp_dir().join(format!("qtf-proto-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let path = dir.join("dead.sock");
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        drop(listener);
        let error = error_of(&Address::Unix(path));
        std::fs::remove_dir_all(&dir).unwrap();
        assert!(error.is_not_there(), "{error}");
    }

    #[test]
    fn other_failures_are_told_apart() {
        let denied = Address::InProcess(InProcess::new(|| {
            Err(io::Error::from(io::ErrorKind::PermissionDenied))
        }));
        let error = error_of(&denied);
        assert!(!error.is_not_there(), "{error}");
        assert!(error.to_string().contains("permission denied"), "{error}");
    }
}
