//! Sockets that the service manager listens on, and hands over at the start (`LISTEN_FDS`): clients that come while the daemon starts anew
//! wait in their queue instead of being refused.
//!
//! Tested at the end and, with a real systemd, in `tests/tests/service/`.

use std::io;
use std::net::TcpListener;
use std::os::fd::{AsFd as _, FromRawFd as _, OwnedFd, RawFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use nix::sys::socket::sockopt::{AcceptConn, SockType};
use nix::sys::socket::{
    SockType as Kind, SockaddrLike as _, SockaddrStorage, getsockname, getsockopt,
};

/// A listening socket of the service manager's.
#[derive(Debug)]
pub enum Inherited {
    /// Of TCP.
    Tcp(TcpListener),
    /// With the name that it has in the file system.
    Unix(UnixListener, PathBuf),
}

impl Inherited {
    /// Takes what was handed over to this process. To be called once, before anything else is opened.
    ///
    /// # Errors
    /// What was handed over cannot be listened on as a stream, or has no name; or the variables that tell of it make no sense.
    pub fn take() -> io::Result<Vec<Self>> {
        sd_notify::listen_fds()?.map(Self::take_one).collect()
    }

    #[expect(unsafe_code, reason = "a descriptor is handed over by its number")]
    fn take_one(number: RawFd) -> io::Result<Self> {
        // SAFETY: the service manager has opened this descriptor for this process, as LISTEN_PID says, and `listen_fds` has just set a
        // flag on it, so it is open; nobody else in this process knows its number, as this is called once, before others open any.
        let socket = unsafe { OwnedFd::from_raw_fd(number) };
        Self::of(socket).map_err(|error| {
            let text = format!("socket {number} of the service manager: {error}");
            io::Error::new(error.kind(), text)
        })
    }

    fn of(socket: OwnedFd) -> io::Result<Self> {
        let wrong = |what: &str| io::Error::new(io::ErrorKind::InvalidInput, what.to_owned());
        if getsockopt(&socket, SockType)? != Kind::Stream || !getsockopt(&socket, AcceptConn)? {
            return Err(wrong(
                "no stream that is listened on: use ListenStream= and Accept=no",
            ));
        }
        let address: SockaddrStorage =
            getsockname(std::os::fd::AsRawFd::as_raw_fd(&socket.as_fd()))?;
        match address.family() {
            Some(
                nix::sys::socket::AddressFamily::Inet | nix::sys::socket::AddressFamily::Inet6,
            ) => Ok(Self::Tcp(socket.into())),
            Some(nix::sys::socket::AddressFamily::Unix) => {
                let listener = UnixListener::from(socket);
                let address = listener.local_addr()?;
                let path = address.as_pathname().map(Path::to_owned);
                let path = path.ok_or_else(|| wrong("it has no name in the file system"))?;
                Ok(Self::Unix(listener, path))
            }
            _ => Err(wrong("neither TCP nor Unix")),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn listening_stream_is_taken_and_anything_else_is_refused_with_what_to_write() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s.sock");
        let unix = UnixListener::bind(&path).unwrap();
        match Inherited::of(unix.into()).unwrap() {
            Inherited::Unix(_, of) => assert_eq!(of, path),
            Inherited::Tcp(_) => panic!("it is a Unix socket"),
        }
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let bound = tcp.local_addr().unwrap();
        match Inherited::of(tcp.into()).unwrap() {
            Inherited::Tcp(of) => assert_eq!(of.local_addr().unwrap(), bound),
            Inherited::Unix(..) => panic!("it is TCP"),
        }
        let datagrams = UdpSocket::bind("127.0.0.1:0").unwrap();
        let (connected, _peer) = UnixStream::pair().unwrap();
        for other in [OwnedFd::from(datagrams), connected.into()] {
            let error = Inherited::of(other).unwrap_err().to_string();
            assert!(error.contains("ListenStream="), "{error}");
        }
    }

    #[test]
    fn nothing_is_taken_where_nothing_was_handed_over() {
        assert_eq!(Inherited::take().unwrap().len(), 0);
    }
}
