//! The start: settings, lock, segment, pinned thread, ring, engine, sockets; in this order, each with its
//! own error that says what to do.
//!
//! Everything that others could see (lock, segment, sockets) is made before the start is reported, and
//! undone if a later step fails. Tested at the end of this file and in `tests/daemon/start.rs`.

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::mpsc;

use qtf_proto::address::Address;
use qtf_shm::{Access, Adoption, CreateError, Geometry, GeometryError, Segment, SegmentSpec};
use tokio::sync::watch;

use crate::config::settings::{SegmentAccess, SegmentKind, SegmentSize, Settings};
use crate::exit::Exit;
use crate::net::in_process;
use crate::net::listener::{BindError, Listener};
use crate::running::{DaemonInfo, RunningDaemon, StopError};
use crate::serve::{self, Parts};
use crate::sys::lock_file::{LockError, LockFile};

/// Why the daemon did not start. Each says what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BootError {
    /// Another daemon has the name.
    #[error(
        "a daemon named \"{instance}\" is already running (pid {pid}): stop it, choose another name with --instance, or take over with --take-over"
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
            Self::RuntimeDir { kind, .. } | Self::Address { kind, .. } => exit_of(*kind),
            Self::Lock { source, .. } => exit_of(source.kind()),
            Self::RemoteUnauthenticated { .. } | Self::Size(_) | Self::Engine(_) => Exit::Usage,
            Self::Segment(error) => exit_of_segment(error),
            Self::NoRing { .. } | Self::Thread(_) => Exit::Failed,
        }
    }

    fn bind(address: &Address, error: &BindError) -> Self {
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

fn exit_of(kind: io::ErrorKind) -> Exit {
    if kind == io::ErrorKind::PermissionDenied {
        Exit::NoPermission
    } else {
        Exit::Failed
    }
}

fn exit_of_segment(error: &CreateError) -> Exit {
    match error {
        CreateError::Limit { .. } | CreateError::Addresses { .. } => Exit::NoMemory,
        CreateError::WrongOwner { .. } => Exit::NoPermission,
        CreateError::InUse { .. }
        | CreateError::BeingMade { .. }
        | CreateError::KeysTaken { .. } => Exit::InUse,
        CreateError::Instance(_) => Exit::Usage,
        CreateError::Call { source, .. } | CreateError::Park { source, .. } => {
            exit_of(source.kind())
        }
        CreateError::Header(_) => Exit::Failed,
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
        let lock = match settings.segment {
            SegmentKind::Named => Some(lock(&settings)?),
            SegmentKind::Private => None,
        };
        let listeners = bind(&settings)?;
        let (segment, shortage) = make_segment(&settings)?;
        if let Some((device, inode)) = lock.as_ref().and_then(LockFile::identity) {
            segment.set_lock_file(device, inode);
        }
        let (in_process, arrivals) = in_process::channel();
        let (stop, stop_seen) = watch::channel(false);
        let (report, reported) = mpsc::channel();
        let parts = Parts {
            settings,
            lock,
            listeners,
            segment,
            shortage,
            arrivals,
            stop: stop_seen,
        };
        let thread = std::thread::Builder::new()
            .name("qtfd-core".to_owned())
            .spawn(move || serve::run(parts, &report))
            .map_err(BootError::Thread)?;
        match reported.recv() {
            Ok(info) => Ok(RunningDaemon::new(info, in_process, stop, thread)),
            Err(mpsc::RecvError) => Err(failure(thread)),
        }
    }
}

/// How the thread says that it serves.
pub(crate) type Report = mpsc::Sender<DaemonInfo>;

/// Why the thread ended.
#[derive(Debug)]
pub(crate) enum ThreadEnd {
    /// It never served.
    Boot(BootError),
    /// It served, and stopped not cleanly.
    Stop(StopError),
}

fn failure(thread: std::thread::JoinHandle<Result<(), ThreadEnd>>) -> BootError {
    match thread.join() {
        Ok(Err(ThreadEnd::Boot(error))) => error,
        Ok(_) | Err(_) => BootError::Thread(io::ErrorKind::Other.into()),
    }
}

fn lock(settings: &Settings) -> Result<LockFile, BootError> {
    prepare_runtime_dir(&settings.runtime_dir)?;
    let file = settings
        .runtime_dir
        .join(format!("{}.lock", settings.instance));
    let instance = || settings.instance.clone();
    let locked = if settings.take_over {
        LockFile::take_over(&file)
    } else {
        LockFile::acquire(&file).map(|lock| (lock, None))
    };
    let (lock, taken_from) = locked.map_err(|error| match error {
        LockError::Held { pid } => BootError::AlreadyRunning {
            instance: instance(),
            pid,
        },
        LockError::NotTaken { pid, why } => BootError::NotTakenOver {
            instance: instance(),
            pid,
            why,
        },
        LockError::Io { file, source } => BootError::Lock { file, source },
    })?;
    if let Some(pid) = taken_from {
        tracing::warn!(pid, "daemon of the same name killed and taken over from");
    }
    Ok(lock)
}

/// Makes the runtime folder, or checks that the one there is safe: in a folder that others can write, like
/// `/tmp`, somebody else may have made it before us.
fn prepare_runtime_dir(folder: &Path) -> Result<(), BootError> {
    let refused = |reason: String, kind| BootError::RuntimeDir {
        folder: folder.to_owned(),
        reason,
        kind,
    };
    let uid = nix::unistd::geteuid().as_raw();
    let mode = if uid == 0 { 0o755 } else { 0o700 };
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(folder)
        .map_err(|error| refused(format!("cannot be made: {error}"), error.kind()))?;
    let metadata = std::fs::symlink_metadata(folder)
        .map_err(|error| refused(format!("cannot be looked at: {error}"), error.kind()))?;
    let denied = io::ErrorKind::PermissionDenied;
    if !metadata.is_dir() {
        return Err(refused("is not a folder".to_owned(), denied));
    }
    if metadata.uid() != uid {
        return Err(refused(
            format!("belongs to user {}, not to {uid}", metadata.uid()),
            denied,
        ));
    }
    if metadata.mode() & 0o002 != 0 {
        return Err(refused("can be written by everybody".to_owned(), denied));
    }
    Ok(())
}

fn bind(settings: &Settings) -> Result<Vec<Listener>, BootError> {
    let mut listeners = Vec::new();
    for address in &settings.listen {
        let listener = Listener::bind(address).map_err(|error| BootError::bind(address, &error))?;
        if let Some(open) = listener.open_to_others() {
            if !settings.allow_unauthenticated_remote {
                // Nobody has been accepted yet; dropping the listener turns away who knocked meanwhile.
                return Err(BootError::RemoteUnauthenticated {
                    address: address.to_string(),
                    bound: open,
                });
            }
            tracing::warn!(
                address = %open,
                "neither encrypted nor authenticated: whoever reaches this address can run commands on the workers"
            );
        }
        listeners.push(listener);
    }
    Ok(listeners)
}

fn spec(settings: &Settings) -> Result<SegmentSpec, BootError> {
    let geometry = match settings.segment_size {
        SegmentSize::Bytes(bytes) => Geometry::for_bytes(bytes)?,
        SegmentSize::Counts { tasks, workers } => Geometry::for_counts(tasks, workers)?,
    };
    Ok(SegmentSpec {
        geometry,
        mode: match settings.segment_access {
            SegmentAccess::Owner => Access::Owner,
            SegmentAccess::GroupRead(gid) => Access::GroupRead(gid),
            SegmentAccess::GroupWrite(gid) => Access::GroupWrite(gid),
        },
        payload_limit: settings.limits.payload_bytes,
        spill_limit: settings.limits.spill_bytes,
        ..SegmentSpec::new(settings.instance.clone(), settings.spill_dir.clone())
    })
}

/// The segment, and why it is smaller than was asked for.
fn make_segment(settings: &Settings) -> Result<(Segment, Option<String>), BootError> {
    let spec = spec(settings)?;
    match settings.segment {
        SegmentKind::Private => private_segment(spec),
        SegmentKind::Named => {
            let (segment, adoption) = Segment::create_or_adopt_named(&spec, &settings.runtime_dir)?;
            report_adoption(&segment, &adoption);
            Ok((segment, None))
        }
    }
}

fn report_adoption(segment: &Segment, adoption: &Adoption) {
    let id = segment.shm_id();
    match adoption {
        Adoption::Created => tracing::info!(?id, "segment made"),
        Adoption::Adopted {
            epoch,
            clean,
            other_sizes,
        } => {
            tracing::info!(?id, epoch, clean, "segment of an earlier daemon taken over");
            if *other_sizes {
                tracing::warn!("it keeps its own sizes, which are not those of the configuration");
            }
        }
        Adoption::Parked { file, why } => {
            tracing::warn!(?id, file = %file.display(), why, "the old segment cannot be used: saved to a file, new one made");
        }
    }
}

/// A private segment, half as large and again if the system does not give that much.
fn private_segment(mut spec: SegmentSpec) -> Result<(Segment, Option<String>), BootError> {
    let mut shortage = None;
    loop {
        match Segment::create_private(&spec) {
            Ok(segment) => {
                if let Some(why) = &shortage {
                    let bytes = spec.geometry.total_bytes();
                    tracing::warn!(bytes, "smaller segment taken: {why}");
                }
                return Ok((segment, shortage));
            }
            Err(error @ CreateError::Limit { .. }) => match spec.geometry.halved() {
                Some(half) => {
                    // The first refusal tells of the size that was asked for.
                    shortage.get_or_insert_with(|| error.to_string());
                    spec.geometry = half;
                }
                None => return Err(error.into()),
            },
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
                BootError::RuntimeDir {
                    folder: "/x".into(),
                    reason: "no".into(),
                    kind: io::ErrorKind::PermissionDenied,
                },
                "runtime_dir",
                Exit::NoPermission,
            ),
        ];
        for (error, remedy, exit) in cases {
            assert!(error.to_string().contains(remedy), "{error}");
            assert_eq!(error.exit(), exit, "{error}");
        }
    }

    #[test]
    fn runtime_folder_that_everybody_can_write_is_refused() {
        use std::os::unix::fs::PermissionsExt as _;
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("run");
        prepare_runtime_dir(&folder).unwrap();
        std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o777)).unwrap();
        let error = prepare_runtime_dir(&folder).unwrap_err();
        assert!(
            error.to_string().contains("can be written by everybody"),
            "{error}"
        );
    }
}
