//! Who is at the other end of a Unix socket, and when that process ends.
//!
//! The kernel's word is taken, never the peer's: credentials from the socket, the end of the process from
//! a pidfd. `SO_PEERPIDFD` (Linux 6.5) names the process that connected even if its pid was given
//! away since; before that, `pidfd_open` is used at once after accept. Tested at the end.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use nix::sys::socket::{getsockopt, sockopt};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::process::open_process;

/// A local process, as the kernel names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LocalPeer {
    pub(crate) pid: u32,
    pub(crate) uid: u32,
}

/// Credentials of the process that connected; `None` if the socket is not a Unix socket.
pub(crate) fn local_peer(socket: impl AsFd) -> Option<LocalPeer> {
    let credentials = getsockopt(&socket, sockopt::PeerCredentials).ok()?;
    let pid = u32::try_from(credentials.pid())
        .ok()
        .filter(|pid| *pid != 0)?;
    Some(LocalPeer {
        pid,
        uid: credentials.uid(),
    })
}

/// A descriptor of the process that connected.
pub(crate) fn peer_process(socket: impl AsFd, peer: LocalPeer) -> io::Result<OwnedFd> {
    match getsockopt(&socket, sockopt::PeerPidfd) {
        Ok(process) => Ok(process),
        Err(_) => open_process(peer.pid),
    }
}

/// Waits until the process has ended.
#[expect(
    unsafe_code,
    reason = "registering a descriptor is safe only while it stays the same"
)]
pub(crate) async fn process_ended(process: OwnedFd) -> io::Result<()> {
    // SAFETY: an `OwnedFd` refers to the same open descriptor until it is dropped, which happens after the
    // registration, inside the `AsyncFd`.
    let process = unsafe { AsyncFd::register_with_interest(process, Interest::READABLE) }?;
    process.readable().await?.retain_ready();
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;
    use std::process::Command;

    use super::*;

    #[test]
    fn peer_of_a_socket_pair_is_this_process() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let peer = local_peer(&ours).unwrap();
        assert_eq!(peer.pid, std::process::id());
        assert!(peer_process(&ours, peer).is_ok());
    }

    #[test]
    fn tcp_peer_has_no_credentials() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        assert_eq!(local_peer(&stream), None);
    }

    #[test]
    fn end_of_a_process_is_seen() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let mut child = Command::new("cat")
                .stdin(std::process::Stdio::piped())
                .spawn()
                .unwrap();
            let process = open_process(child.id()).unwrap();
            child.kill().unwrap();
            process_ended(process).await.unwrap();
            child.wait().unwrap();
        });
    }
}
