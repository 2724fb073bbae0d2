//! Why the daemon did not start: each error says what to do, and has an exit code.
//!
//! Tested at the end of this file.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use qtf_engine::RestoreError;
use qtf_journal::JournalError;
use qtf_proto::address::Address;
use qtf_shm::{CreateError, GeometryError};

use super::name::in_brackets;
use crate::descriptors::NotEnough;
use crate::exit::Exit;
use crate::net::listener::BindError;

/// Why the daemon did not start. Each says what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BootError {
    /// Another daemon has the name.
    #[error(
        "a daemon named \"{instance}\" is already running{}: stop it, choose another name with --instance, or take over with --take-over", in_brackets(*pid)
    )]
    AlreadyRunning {
        /// The name.
        instance: String,
        /// The holder of the lock; 0 if it has not said.
        pid: u32,
    },
    /// The daemon that has the name could not be ended.
    #[error("the daemon named \"{instance}\" (pid {pid}) cannot be taken over: {why}")]
    NotTakenOver {
        /// The name.
        instance: String,
        /// The holder of the lock.
        pid: u32,
        /// What went wrong.
        why: String,
    },
    /// A daemon runs, and this one could not serve in its place.
    #[error("{error}; the daemon that runs (pid {pid}) was left alone")]
    NotReady {
        /// The holder of the lock.
        pid: u32,
        /// What was found.
        error: Box<BootError>,
    },
    /// A take-over keeps the data folder.
    #[error(
        "the daemon named \"{instance}\" {}, this one {}: its tasks would be out of sight; take over with the same data_dir, or stop it first",
        uses(theirs.as_deref()), would_use(ours.as_deref())
    )]
    OtherDataDir {
        /// The name.
        instance: String,
        /// The folder of the daemon that runs.
        theirs: Option<PathBuf>,
        /// Our own.
        ours: Option<PathBuf>,
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
    /// An address can be reached from elsewhere, and that was not asked for.
    #[error(
        "address {address}: other machines can reach {bound}, and there is no authentication yet: whoever does can run commands on the workers; listen on 127.0.0.1 or a Unix socket, or accept that with --allow-unauthenticated-remote (allow_unauthenticated_remote = true in a configuration file)"
    )]
    RemoteUnauthenticated {
        /// The address as given.
        address: String,
        /// What it stands for.
        bound: SocketAddr,
    },
    /// Others could put files into the data folder.
    #[error("data folder {}: {reason}; give it to the daemon's user with mode 0700, or set data_dir to another", folder.display())]
    DataDirUnsafe {
        /// The folder.
        folder: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The data folder cannot be used.
    #[error("data folder {}: {source}; check that it is a folder that the daemon's user can write", folder.display())]
    DataDir {
        /// The folder.
        folder: PathBuf,
        /// What went wrong.
        source: io::Error,
    },
    /// Another daemon has the data folder.
    #[error("data folder {} is in use by another daemon{}: stop it, or choose another folder with --data-dir", folder.display(), in_brackets(*pid))]
    DataDirInUse {
        /// The folder.
        folder: PathBuf,
        /// The holder of its lock; 0 if it has not said.
        pid: u32,
    },
    /// The segment of the name holds tasks that do not go with the data folder.
    #[error(
        "the segment {shm_id} of \"{instance}\" {whose} and holds tasks (a result that is kept is one): start as before, let them end and `qtf forget all`; or choose another name with --instance; or give them up with `ipcrm -m {shm_id}`"
    )]
    OtherSegment {
        /// The name.
        instance: String,
        /// The segment.
        shm_id: i32,
        /// Where it comes from.
        whose: String,
    },
    /// A segment that cannot be used cannot be put aside either.
    #[error("the segment of before cannot be put aside ({}): {source}", file.display())]
    PutAside {
        /// Where it should go.
        file: PathBuf,
        /// What went wrong.
        source: io::Error,
    },
    /// The journal cannot be used. Its text says which file, where in it, and what to do.
    #[error("{0}; `qtf journal verify` tells more")]
    Journal(#[from] JournalError),
    /// The disk has no room for the first file of a new journal.
    #[error("{0}; make room there, or lower journal_file_bytes")]
    NoRoom(String),
    /// The first records could not be written.
    #[error("{0}")]
    JournalFailed(String),
    /// A task of the journal finds no place in the segment.
    #[error("{0}")]
    Restore(#[from] RestoreError),
    /// The sizes of the segment are not possible.
    #[error("size of the segment: {0}; change segment_bytes, or segment_tasks and segment_workers")]
    Size(#[from] GeometryError),
    /// The segment cannot be had.
    #[error(transparent)]
    Segment(#[from] CreateError),
    /// The times of the configuration do not go together.
    #[error("configuration: {0}")]
    Engine(#[from] qtf_engine::ConfigError),
    /// `network = "io_uring"` was asked for and cannot be had.
    #[error("no io_uring: {reason}; or let the daemon choose with network = \"auto\"")]
    NoRing {
        /// Why, and what to do.
        reason: String,
    },
    /// More edge threads than can run at the same time.
    #[error(
        "edge_threads = {asked}: the process may use {cores} cores, choose at most as many; 0 serves on the daemon's own thread"
    )]
    EdgeThreads {
        /// The setting.
        asked: usize,
        /// What the process may use.
        cores: usize,
    },
    /// The thread is to run where it may not.
    #[error(
        "core = {core}: the process may use {allowed:?}: choose one of these, leave it out, or let it use more (AllowedCPUs=, CPUAffinity= of a service)"
    )]
    Core {
        /// The setting.
        core: u16,
        /// What the process may use.
        allowed: Vec<u16>,
    },
    /// Too few descriptors.
    #[error(
        "the limit of open files is {limit}, at least {needed} are needed: raise it with `ulimit -n` (LimitNOFILE= of a service)"
    )]
    Descriptors {
        /// The limit of the process.
        limit: u64,
        /// The least.
        needed: u64,
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
            Self::AlreadyRunning { .. } | Self::NotTakenOver { .. } | Self::AddressInUse { .. } => {
                Exit::InUse
            }
            Self::NotReady { error, .. } => error.exit(),
            Self::OtherDataDir { .. } => Exit::Usage,
            Self::RuntimeDir { kind, .. } | Self::Address { kind, .. } => exit_of(*kind),
            Self::Lock { source, .. } => exit_of(source.kind()),
            Self::RemoteUnauthenticated { .. } | Self::Size(_) | Self::Engine(_) => Exit::Usage,
            Self::Segment(error) => exit_of_segment(error),
            Self::DataDir { source, .. } | Self::PutAside { source, .. } => exit_of(source.kind()),
            Self::DataDirInUse { .. } => Exit::InUse,
            Self::DataDirUnsafe { .. } => Exit::NoPermission,
            Self::OtherSegment { .. } | Self::EdgeThreads { .. } | Self::Core { .. } => Exit::Usage,
            Self::Journal(error) => exit_of_journal(error),
            Self::NoRoom(_) | Self::JournalFailed(_) => Exit::JournalFailed,
            Self::Restore(_) => Exit::Damaged,
            Self::NoRing { .. } | Self::Descriptors { .. } | Self::Thread(_) => Exit::Failed,
        }
    }

    /// The ring is demanded for the journal and excluded for the sockets.
    pub(crate) fn no_ring_for_journal() -> Self {
        Self::NoRing {
            reason: "journal = \"io_uring\" needs network = \"io_uring\" or \"auto\", with a ring"
                .to_owned(),
        }
    }

    pub(super) fn bind(address: &Address, error: &BindError) -> Self {
        let address = address.to_string();
        match error {
            BindError::InUse => Self::AddressInUse { address },
            BindError::NotASocket
            | BindError::NoAddress
            | BindError::Unsupported
            | BindError::Io(_) => Self::Address {
                address,
                reason: error.to_string(),
                kind: error.kind().unwrap_or(io::ErrorKind::Other),
            },
        }
    }
}

impl From<NotEnough> for BootError {
    fn from(why: NotEnough) -> Self {
        match why {
            NotEnough::Unknown(error) => Self::Thread(error),
            NotEnough::TooFew { limit, needed } => Self::Descriptors { limit, needed },
        }
    }
}

fn exit_of(kind: io::ErrorKind) -> Exit {
    use io::ErrorKind::{NotADirectory, PermissionDenied, ReadOnlyFilesystem};
    if matches!(kind, PermissionDenied | ReadOnlyFilesystem) {
        Exit::NoPermission
    } else if kind == NotADirectory {
        Exit::Usage
    } else {
        Exit::Failed
    }
}

fn uses(folder: Option<&Path>) -> String {
    folder.map_or_else(
        || "has no data folder".to_owned(),
        |folder| format!("uses data folder {}", folder.display()),
    )
}

fn would_use(folder: Option<&Path>) -> String {
    folder.map_or_else(
        || "would have none".to_owned(),
        |folder| format!("would use {}", folder.display()),
    )
}

fn exit_of_journal(error: &JournalError) -> Exit {
    match error {
        JournalError::Io { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
            Exit::NoPermission
        }
        JournalError::Io { .. }
        | JournalError::NotYetDurable { .. }
        | JournalError::NoRoomForSnapshot { .. } => Exit::JournalFailed,
        JournalError::Instance { .. } | JournalError::FileBytes { .. } => Exit::Usage,
        JournalError::Damaged { .. } | JournalError::Version { .. } => Exit::Damaged,
    }
}

fn exit_of_segment(error: &CreateError) -> Exit {
    match error {
        CreateError::Limit { .. }
        | CreateError::HugePages { .. }
        | CreateError::Addresses { .. } => Exit::NoMemory,
        CreateError::WrongOwner { .. } => Exit::NoPermission,
        CreateError::InUse { .. }
        | CreateError::BeingMade { .. }
        | CreateError::KeysTaken { .. }
        | CreateError::StillAttached { .. } => Exit::InUse,
        CreateError::Instance(_) => Exit::Usage,
        CreateError::Call { source, .. } | CreateError::PutAside { source, .. } => {
            exit_of(source.kind())
        }
        CreateError::Header(_) | CreateError::TakeOver { .. } => Exit::Failed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(cases: &[(BootError, &str, Exit)]) {
        for (error, remedy, exit) in cases {
            assert!(error.to_string().contains(remedy), "{error}");
            assert_eq!(error.exit(), *exit, "{error}");
        }
    }

    #[test]
    fn each_error_of_the_data_folder_names_a_remedy_and_has_an_exit_code() {
        check(&[
            (
                BootError::DataDirInUse {
                    folder: "/d".into(),
                    pid: 7,
                },
                "--data-dir",
                Exit::InUse,
            ),
            (
                BootError::OtherDataDir {
                    instance: "a".into(),
                    theirs: Some("/old".into()),
                    ours: Some("/new".into()),
                },
                "uses data folder /old, this one would use /new",
                Exit::Usage,
            ),
            (
                BootError::NotReady {
                    pid: 7,
                    error: Box::new(BootError::NoRoom("full".into())),
                },
                "make room there, or lower journal_file_bytes; the daemon that runs (pid 7) was left alone",
                Exit::JournalFailed,
            ),
            (
                BootError::DataDirUnsafe {
                    folder: "/d".into(),
                    reason: "can be written by everybody".into(),
                },
                "mode 0700",
                Exit::NoPermission,
            ),
            (
                BootError::OtherSegment {
                    instance: "a".into(),
                    shm_id: 3,
                    whose: "belongs to another data folder".into(),
                },
                "ipcrm -m 3",
                Exit::Usage,
            ),
            (
                BootError::Journal(JournalError::Damaged {
                    file: "log-1".into(),
                    offset: 4096,
                    lsn: qtf_journal::Lsn::new(1),
                    why: qtf_journal::Why::Gap("gone".into()),
                }),
                "qtf journal verify",
                Exit::Damaged,
            ),
        ]);
    }

    #[test]
    fn each_start_error_names_a_remedy_and_has_an_exit_code() {
        let denied = || io::Error::from(io::ErrorKind::PermissionDenied);
        let cases = [
            (
                BootError::AlreadyRunning {
                    instance: "a".into(),
                    pid: 7,
                },
                "--instance",
                Exit::InUse,
            ),
            (
                BootError::AddressInUse {
                    address: "unix:/x".into(),
                },
                "--listen",
                Exit::InUse,
            ),
            (
                BootError::Lock {
                    file: "/x".into(),
                    source: denied(),
                },
                "permissions",
                Exit::NoPermission,
            ),
            (
                BootError::NoRing {
                    reason: "off".into(),
                },
                "network",
                Exit::Failed,
            ),
            (
                BootError::Core {
                    core: 9,
                    allowed: vec![0, 1],
                },
                "AllowedCPUs=",
                Exit::Usage,
            ),
            (
                BootError::EdgeThreads { asked: 9, cores: 8 },
                "at most",
                Exit::Usage,
            ),
            (
                BootError::RuntimeDir {
                    folder: "/x".into(),
                    reason: "no".into(),
                    kind: io::ErrorKind::PermissionDenied,
                },
                "runtime_dir",
                Exit::NoPermission,
            ),
        ];
        check(&cases);
    }
}
