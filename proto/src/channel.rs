//! Opens a gRPC channel to an [`Address`]: TCP, Unix socket or the socket pair of a daemon in this
//! process.
//!
//! The channel reconnects by itself at the next call after a break, to the same address. A peer of which nothing is heard although it is
//! pinged is given up (`silence`).

use core::time::Duration;
use std::error::Error as StdError;
use std::io;
use std::path::Path;

use hyper_util::rt::TokioIo;
use nix::errno::Errno;
use nix::sys::socket::{getsockopt, sockopt};
use nix::unistd::geteuid;
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{Instant, sleep};
use tonic::transport::{Channel, Endpoint};

use crate::address::Address;
use crate::folder::OwnFolder;
use crate::silence::Attentive;

pub use crate::silence::{is_silence, silence_of};

const STREAM_WINDOW_BYTES: u32 = 1 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 4 << 20;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
// Of a Unix listener whose queue is full; within the time for a connection, so that its own error is told.
const FULL_QUEUE_PATIENCE: Duration = Duration::from_secs(4);
const FULL_QUEUE_PAUSE: Duration = Duration::from_millis(20);
// A host that vanished without a word, or a daemon that was stopped, is noticed after this time. Two leases, by default.
const SILENCE_MAX: Duration = Duration::from_secs(10);
// Whatever the lease: a daemon may be busy for a moment, and nobody waits for minutes for a link that carries nothing.
const SILENCE_OF_LEASES: core::ops::RangeInclusive<Duration> =
    Duration::from_secs(2)..=Duration::from_secs(60);
// In the time in which nothing is heard: a peer that lives is heard so often before it would be given up.
const PINGS: u32 = 4;
// Of one ping, whatever else is heard meanwhile: it may be behind much that is on its way over a slow link. Silence alone judges
// a peer, since this time goes on while the process is stopped.
const PING_TIMEOUT: Duration = Duration::from_secs(24 * 3_600);

/// How soon a peer of which nothing is heard is given up, and so how often it is pinged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    silence_max: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            silence_max: SILENCE_MAX,
        }
    }
}

impl Pace {
    /// For a worker with this lease: twice the lease, between 2 and 60 s. That of the default lease is the default.
    #[must_use]
    pub fn of_lease(lease: Duration) -> Self {
        let (least, most) = SILENCE_OF_LEASES.into_inner();
        Self {
            silence_max: lease.saturating_mul(2).clamp(least, most),
        }
    }

    fn ping_interval(self) -> Duration {
        self.silence_max / PINGS
    }
}

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
    /// The socket of the user's own daemon may be another's.
    #[error("{address} is not trusted: {cause}")]
    Untrusted {
        /// The address, as written.
        address: String,
        /// What is wrong, and what to do.
        cause: Untrusted,
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

/// Why a socket is not believed to be the user's own daemon's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Untrusted {
    /// Somebody else could have put it there.
    #[error(
        "{fault}; somebody else's daemon could answer there: remove the folder or give it back to its user with mode 0700, set \
         XDG_RUNTIME_DIR to a folder of your own, or name the daemon that you mean by its address"
    )]
    Folder {
        /// Which folder, and what is wrong with it.
        fault: String,
    },
    /// Somebody else listens.
    #[error(
        "user {listener} listens there, not {uid} or root; if that is the daemon that you mean, name it by its address"
    )]
    Listener {
        /// Who listens, as the kernel says.
        listener: u32,
        /// Who asks.
        uid: u32,
    },
}

impl ConnectError {
    /// True when the socket of the user's own daemon may be another's.
    #[must_use]
    pub const fn is_untrusted(&self) -> bool {
        matches!(self, Self::Untrusted { .. })
    }

    /// True when no daemon listens at the address.
    #[must_use]
    pub const fn is_not_there(&self) -> bool {
        matches!(self, Self::NotThere { .. })
    }
}

/// Opens a channel and waits for its first connection.
///
/// # Errors
/// [`ConnectError::NotThere`] for a missing socket file or a refused connection, [`ConnectError::Untrusted`] for an own
/// socket that may be another's, else [`ConnectError::Other`].
pub async fn connect(address: &Address) -> Result<Channel, ConnectError> {
    connect_at(address, Pace::default()).await
}

/// The same at another pace.
///
/// # Errors
/// As [`connect`].
pub async fn connect_at(address: &Address, pace: Pace) -> Result<Channel, ConnectError> {
    let endpoint = endpoint(address, pace)?;
    let target = address.clone();
    let connector = tower::service_fn(move |_: http::Uri| {
        let target = target.clone();
        async move { open(&target, pace).await }
    });
    endpoint
        .connect_with_connector(connector)
        .await
        .map_err(|error| connect_error(address, &error))
}

fn endpoint(address: &Address, pace: Pace) -> Result<Endpoint, ConnectError> {
    let uri = match address {
        Address::Tcp(host_port) => format!("http://{host_port}"),
        Address::Unix(_) | Address::Own(_) | Address::InProcess(_) => "http://localhost".to_owned(),
        Address::Segment(segment) => {
            return Err(ConnectError::Other {
                address: address.to_string(),
                cause: format!(
                    "this needs the daemon's socket: --addr unix:{}",
                    segment.socket_file().display()
                ),
            });
        }
    };
    let endpoint = Endpoint::from_shared(uri)
        .map_err(|error| connect_error(address, &error))?
        .connect_timeout(CONNECT_TIMEOUT)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES);
    Ok(match address {
        Address::Tcp(_) | Address::Unix(_) | Address::Own(_) => endpoint
            .http2_keep_alive_interval(pace.ping_interval())
            .keep_alive_timeout(PING_TIMEOUT)
            .keep_alive_while_idle(true),
        // Whatever stops the daemon stops this process.
        Address::InProcess(_) | Address::Segment(_) => endpoint,
    })
}

/// One connection of any kind.
#[derive(Debug)]
enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

async fn open(address: &Address, pace: Pace) -> io::Result<TokioIo<Attentive<Socket>>> {
    let limit = match address {
        Address::Tcp(_) | Address::Unix(_) | Address::Own(_) => Some(pace.silence_max),
        Address::InProcess(_) | Address::Segment(_) => None,
    };
    let socket = match address {
        Address::Tcp(host_port) => {
            let stream = TcpStream::connect(host_port.as_str()).await?;
            stream.set_nodelay(true)?;
            Socket::Tcp(stream)
        }
        Address::Unix(path) => Socket::Unix(connect_unix(path).await?),
        Address::Own(path) => Socket::Unix(open_own(path).await?),
        Address::InProcess(way_in) => {
            let stream = way_in.open()?;
            stream.set_nonblocking(true)?;
            Socket::Unix(UnixStream::from_std(stream)?)
        }
        // No endpoint is made for it.
        Address::Segment(_) => return Err(io::ErrorKind::Unsupported.into()),
    };
    Ok(TokioIo::new(Attentive::new(socket, limit)))
}

/// The kernel refuses at once while a Unix listener's queue is full, where TCP tries again: so do we.
async fn connect_unix(path: &Path) -> io::Result<UnixStream> {
    let until = Instant::now() + FULL_QUEUE_PATIENCE;
    loop {
        match UnixStream::connect(path).await {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && Instant::now() < until => {
                sleep(FULL_QUEUE_PAUSE).await;
            }
            done => return done,
        }
    }
}

/// The folder is looked at first, so that what somebody else has put there is named as that; the listener decides, by
/// the kernel's word on the very connection that is used.
async fn open_own(path: &Path) -> io::Result<UnixStream> {
    let folder = path.parent().unwrap_or(path);
    if let Err(error) = OwnFolder::open(folder) {
        if error.is_not_there() {
            // As the kernel says it of any other missing socket.
            return Err(Errno::ENOENT.into());
        }
        let fault = error.to_string();
        return Err(io::Error::other(Untrusted::Folder { fault }));
    }
    let stream = connect_unix(path).await?;
    let listener = getsockopt(&stream, sockopt::PeerCredentials)?.uid();
    match believes(listener, geteuid().as_raw()) {
        Ok(()) => Ok(stream),
        Err(untrusted) => Err(io::Error::other(untrusted)),
    }
}

/// Root can be whoever it wants, so nothing is lost by believing it.
const fn believes(listener: u32, uid: u32) -> Result<(), Untrusted> {
    if listener == uid || listener == 0 {
        Ok(())
    } else {
        Err(Untrusted::Listener { listener, uid })
    }
}

fn connect_error(address: &Address, error: &(dyn StdError + 'static)) -> ConnectError {
    let address = address.to_string();
    let mut causes: Vec<String> = Vec::new();
    let mut next: Option<&(dyn StdError + 'static)> = Some(error);
    while let Some(current) = next {
        if let Some(source) = not_there(current) {
            return ConnectError::NotThere { address, source };
        }
        if let Some(cause) = untrusted(current) {
            return ConnectError::Untrusted { address, cause };
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

fn untrusted(error: &(dyn StdError + 'static)) -> Option<Untrusted> {
    let inner = error.downcast_ref::<io::Error>()?.get_ref()?;
    inner.downcast_ref::<Untrusted>().cloned()
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
    //! A peer that has no room says so in an HTTP/2 frame and closes at once. If that is before our first bytes went out, writing
    //! them fails, and nobody would read what it said.

    use core::pin::Pin;
    use core::task::{Context, Poll};
    use std::io;
    use std::os::fd::{AsRawFd as _, RawFd};

    use nix::sys::socket::{MsgFlags, recv};
    use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

    use super::Socket;

    /// LIMIT: bytes of a peer's last words that are looked at.
    const WORDS_MAX: usize = 1024;

    impl Socket {
        fn fd(&self) -> RawFd {
            match self {
                Self::Tcp(stream) => stream.as_raw_fd(),
                Self::Unix(stream) => stream.as_raw_fd(),
            }
        }

        /// What a write came to; for a connection that the peer has closed, with its last words.
        fn told(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
            written.map_err(|error| {
                use io::ErrorKind::{BrokenPipe, ConnectionReset};
                if !matches!(error.kind(), BrokenPipe | ConnectionReset) {
                    return error;
                }
                let mut bytes = [0; WORDS_MAX];
                let count = recv(self.fd(), &mut bytes, MsgFlags::MSG_DONTWAIT).unwrap_or(0);
                match last_words(bytes.get(..count).unwrap_or_default()) {
                    Some(words) => io::Error::new(error.kind(), words),
                    None => error,
                }
            })
        }
    }

    /// The text in the frame that ends an HTTP/2 connection, if there is one.
    pub(super) fn last_words(mut bytes: &[u8]) -> Option<String> {
        const GOAWAY: u8 = 7;
        loop {
            let (&[high, middle, low, kind, ..], rest) = bytes.split_first_chunk::<9>()?;
            let length = u32::from_be_bytes([0, high, middle, low]);
            let (payload, after) = rest.split_at_checked(usize::try_from(length).ok()?)?;
            if kind == GOAWAY {
                // Behind the last stream and the code.
                let words = payload.get(8..).filter(|words| !words.is_empty())?;
                return Some(String::from_utf8_lossy(words).into_owned());
            }
            bytes = after;
        }
    }

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
            let me = self.get_mut();
            let written = match me {
                Self::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
                Self::Unix(stream) => Pin::new(stream).poll_write(cx, buf),
            };
            me.told(written)
        }

        fn poll_write_vectored(
            self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            bufs: &[io::IoSlice<'_>],
        ) -> Poll<io::Result<usize>> {
            let me = self.get_mut();
            let written = match me {
                Self::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
                Self::Unix(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            };
            me.told(written)
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
    fn full_queue_of_a_listener_is_waited_for() {
        use nix::sys::socket::{
            AddressFamily, Backlog, SockFlag, SockType, UnixAddr, accept, bind, listen, socket,
        };
        use std::os::fd::AsRawFd as _;

        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("qtf.sock");
        let (family, flags) = (AddressFamily::Unix, SockFlag::SOCK_CLOEXEC);
        let listener = socket(family, SockType::Stream, flags, None).unwrap();
        bind(listener.as_raw_fd(), &UnixAddr::new(&path).unwrap()).unwrap();
        listen(&listener, Backlog::new(1).unwrap()).unwrap();
        runtime().block_on(async {
            let mut queued = Vec::new();
            while let Ok(stream) = UnixStream::connect(&path).await {
                queued.push(stream);
            }
            assert!(!queued.is_empty());
            let mut connecting = core::pin::pin!(connect_unix(&path));
            let pending = core::future::poll_fn(|context| {
                core::task::Poll::Ready(connecting.as_mut().poll(context).is_pending())
            });
            assert!(pending.await, "no room, and no error either");
            assert!(accept(listener.as_raw_fd()).is_ok());
            connecting.await.unwrap();
        });
    }

    #[test]
    fn pace_of_a_worker_follows_its_lease_within_bounds() {
        let of = |ms| {
            Pace::of_lease(Duration::from_millis(ms))
                .silence_max
                .as_millis()
        };
        assert_eq!(
            [1, 1_000, 1_300, 30_000].map(of),
            [2_000, 2_000, 2_600, 60_000]
        );
        assert_eq!(of(86_400_000), 60_000);
        assert_eq!(Pace::of_lease(Duration::from_secs(5)), Pace::default());
        assert!(Pace::default().ping_interval() * 4 <= SILENCE_MAX);
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
    fn own_socket_is_talked_to_only_in_a_folder_of_ones_own() {
        use std::os::unix::fs::PermissionsExt as _;
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("qtf");
        let own = Address::Own(folder.join("default.sock"));
        assert!(error_of(&own).is_not_there(), "no folder, no daemon");
        OwnFolder::make(&folder, 0o700).unwrap();
        assert!(error_of(&own).is_not_there());
        let _listener =
            std::os::unix::net::UnixListener::bind(folder.join("default.sock")).unwrap();
        let is_open = |address: &Address| {
            runtime().block_on(async { open(address, Pace::default()).await.is_ok() })
        };
        assert!(is_open(&own));
        std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o777)).unwrap();
        let error = error_of(&own);
        assert!(
            error.is_untrusted() && error.to_string().contains("mode 0777"),
            "{error}"
        );
        assert!(
            is_open(&Address::Unix(folder.join("default.sock"))),
            "asked for"
        );
    }

    #[test]
    fn listener_is_believed_if_it_is_the_same_user_or_root() {
        assert_eq!(believes(1000, 1000), Ok(()));
        assert_eq!(believes(0, 1000), Ok(()));
        let listener = Untrusted::Listener {
            listener: 1001,
            uid: 1000,
        };
        assert_eq!(believes(1001, 1000), Err(listener));
        assert!(
            believes(1000, 0).is_err(),
            "root does not run what a user says"
        );
    }

    #[test]
    fn last_words_of_a_peer_that_closes_before_it_hears_anything_are_told() {
        // Settings, and the end: no stream was looked at, calm down, and why.
        let words = b"\0\0\0\x04\0\0\0\0\0\0\0\x10\x07\0\0\0\0\0\0\0\0\0\0\0\0\x0bno room!";
        assert_eq!(socket::last_words(words).unwrap(), "no room!");
        for end in 0..words.len() {
            assert_eq!(socket::last_words(&words[..end]), None, "{end}");
        }
        let closed = Address::InProcess(InProcess::new(|| {
            let (ours, mut theirs) = std::os::unix::net::UnixStream::pair()?;
            io::Write::write_all(&mut theirs, words)?;
            Ok(ours)
        }));
        let error = error_of(&closed).to_string();
        assert!(error.ends_with(": no room!"), "{error}");
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
