//! Who speaks on a connection: what the kernel says of it, never what it says of itself.

use std::fmt;
use std::net::SocketAddr;

use qtf_shm::segment::ProcessIdentity;

use qtf_engine::Principal;

use crate::net::edge_io::Socket;
use crate::sys::peer::{Known, LocalPeer, local_peer, open_known, peer_identity};

/// The other end of a connection.
#[derive(Debug)]
pub(crate) struct Peer {
    address: Option<SocketAddr>,
    local: Option<LocalPeer>,
    process: Option<ProcessIdentity>,
}

impl Peer {
    /// Asks the kernel about a fresh connection.
    pub(crate) fn of(socket: &Socket) -> Self {
        match socket {
            Socket::Tcp(stream) => Self {
                address: stream.peer_addr().ok(),
                local: None,
                process: None,
            },
            Socket::Unix(stream) => {
                let local = local_peer(stream);
                let other = local.filter(|peer| peer.pid != std::process::id());
                let process = other.and_then(|peer| peer_identity(stream, peer));
                Self {
                    address: None,
                    local,
                    process,
                }
            }
        }
    }

    /// For whom its calls are made: the user on a Unix socket, else the host.
    pub(crate) fn principal(&self) -> Principal {
        principal(self.local, self.address)
    }

    /// The machine it is on, for lists: this one's name, or its address.
    pub(crate) fn node(&self) -> String {
        match self.address {
            Some(address) => address.ip().to_canonical().to_string(),
            None => nix::unistd::gethostname()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned(),
        }
    }

    /// User of the process; `None` over TCP.
    pub(crate) fn uid(&self) -> Option<u32> {
        self.local.map(|peer| peer.uid)
    }

    /// The process, by the kernel's word; `None` over TCP.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.local.map(|peer| peer.pid)
    }

    /// Whether it is the process that the daemon runs in: its connection ends with a part of it, not
    /// with the process.
    pub(crate) fn is_this_process(&self) -> bool {
        self.pid() == Some(std::process::id())
    }

    /// The process, opened so that its end is seen; `None` over TCP and for this process. Opened when it is wanted, so that
    /// a connection costs one descriptor and not two.
    pub(crate) fn open_process(&self) -> Option<Known> {
        self.process.map(open_known)
    }
}

/// Who is at the other end, before anything else is asked about it.
pub(crate) fn principal_of(socket: &Socket) -> Principal {
    match socket {
        Socket::Tcp(stream) => principal(None, stream.peer_addr().ok()),
        Socket::Unix(stream) => principal(local_peer(stream), None),
    }
}

fn principal(local: Option<LocalPeer>, address: Option<SocketAddr>) -> Principal {
    match (local, address) {
        (Some(local), _) => Principal::Uid(local.uid),
        (None, Some(address)) => Principal::of_address(address.ip()),
        (None, None) => Principal::Unknown,
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.address, self.local) {
            (Some(address), _) => write!(f, "{address}"),
            (None, Some(_)) if self.is_this_process() => f.write_str("in-process"),
            (None, Some(peer)) => write!(f, "unix:pid={},uid={}", peer.pid, peer.uid),
            (None, None) => f.write_str("unknown"),
        }
    }
}
