//! Connections from the process that the daemon runs in: one end of a socket pair is handed to the
//! daemon's thread, the other to the caller. No listening socket, no file.
//!
//! Tested in `tests/daemon/in_process.rs`.

use std::io;
use std::os::unix::net::UnixStream;

use qtf_proto::address::InProcess;
use tokio::sync::mpsc;

/// LIMIT: connections that may wait for the daemon's thread; it takes them within microseconds.
const WAITING_MAX: usize = 1024;

/// The daemon's side: ends of socket pairs.
pub(crate) type Arrivals = mpsc::Receiver<UnixStream>;

/// Makes a way in and its other side.
pub(crate) fn channel() -> (InProcess, Arrivals) {
    let (sender, arrivals) = mpsc::channel(WAITING_MAX);
    let open = move || {
        let (theirs, ours) = UnixStream::pair()?;
        match sender.try_send(ours) {
            Ok(()) => Ok(theirs),
            Err(mpsc::error::TrySendError::Full(_)) => Err(io::ErrorKind::WouldBlock.into()),
            Err(mpsc::error::TrySendError::Closed(_)) => {
                Err(io::ErrorKind::ConnectionRefused.into())
            }
        }
    };
    (InProcess::new(open), arrivals)
}
