//! Who is at the other end of a Unix socket, and when that process ends.
//!
//! The kernel's word is taken, never the peer's: credentials from the socket, the end of the process from
//! a pidfd. `SO_PEERPIDFD` (Linux 6.5) names the process that connected even if its pid was given
//! away since; before that, its pid is believed at once after accept. A connection keeps id and start time of the process and
//! no descriptor: only a worker's process is opened, when it says hello. Tested at the end.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use nix::sys::socket::{getsockopt, sockopt};
use qtf_shm::segment::{Liveness, ProcessIdentity};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::process::{open_process, wait_for_end};

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

/// The process that connected, so that it cannot be taken for a later one; `None` if it has ended, or cannot be seen.
pub(crate) fn peer_identity(socket: impl AsFd, peer: LocalPeer) -> Option<ProcessIdentity> {
    let process = getsockopt(&socket, sockopt::PeerPidfd).ok();
    let identity = ProcessIdentity::of(peer.pid)?;
    // Looked at while the descriptor is open: if that process has not ended, the id is its.
    let has_ended =
        process.is_some_and(|process| wait_for_end(&process, Duration::ZERO).unwrap_or(true));
    (!has_ended).then_some(identity)
}

/// What there is of a process that was known.
#[derive(Debug)]
pub(crate) enum Known {
    /// It runs; readable when it ends.
    Runs(OwnedFd),
    /// It has ended.
    Ended,
    /// It cannot be watched from here.
    Unseen,
}

/// Opens a process that is known.
pub(crate) fn open_known(known: ProcessIdentity) -> Known {
    let process = match open_process(known.pid) {
        Ok(process) => process,
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => return Known::Ended,
        Err(_) => return Known::Unseen,
    };
    // Asked while the descriptor is open, as above.
    match known.liveness() {
        Liveness::Alive => Known::Runs(process),
        Liveness::Dead => Known::Ended,
        Liveness::Unknown => Known::Unseen,
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
        let identity = peer_identity(&ours, peer).unwrap();
        assert_eq!(identity, ProcessIdentity::own());
        assert!(matches!(open_known(identity), Known::Runs(_)));
    }

    #[test]
    fn process_that_has_ended_or_is_another_by_now_is_not_opened() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let identity = ProcessIdentity::of(child.id()).unwrap();
        let later = ProcessIdentity {
            start_time: identity.start_time + 1,
            ..identity
        };
        assert!(matches!(open_known(identity), Known::Runs(_)));
        assert!(matches!(open_known(later), Known::Ended));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(matches!(open_known(identity), Known::Ended));
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
