//! Sockets: listening, accepting, and HTTP/2 on what was accepted.
//!
//! - `listener`: binds addresses, replaces a socket file that nobody listens on
//! - `edge_io`: one accepted socket, on either backend, behind hyper's I/O traits
//! - `direct_io`: the backend of it that tries at once and waits with the runtime's poll
//! - `uring_io`: the `io_uring` backend of it
//! - `accept`: the accept loop of one listener
//! - `in_process`: connections from the same process, without a listening socket

pub(crate) mod accept;
mod direct_io;
pub(crate) mod edge_io;
pub(crate) mod in_process;
pub(crate) mod listener;
pub(crate) mod uring_io;

/// Which kind of sockets the daemon runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Backend {
    /// Operations on the ring.
    IoUring,
    /// tokio's sockets.
    Tokio,
}

impl Backend {
    /// Name as operators see it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::IoUring => "io_uring",
            Self::Tokio => "tokio",
        }
    }

    /// Lets the runtime look after its I/O and everything else that is ready, then comes back.
    ///
    /// On the ring this must be an operation: a mere yield never flushes the submission queue.
    pub(crate) async fn turn(self) {
        match self {
            Self::IoUring => {
                if let Err(error) = tokio_uring::no_op().await {
                    tracing::debug!(%error, "ring turn");
                    tokio::task::yield_now().await;
                }
            }
            Self::Tokio => tokio::task::yield_now().await,
        }
    }
}
