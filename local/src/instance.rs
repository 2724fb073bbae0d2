//! Finds the segment of an instance on this machine and opens it to write, or says why that cannot be, and what to do.
//!
//! The kernel says whose a segment is; what another user has made under the same name is passed by. The runtime folder tells the rest: who
//! lives (the lock file), and where large payloads lie (`NAME.local`). Where that folder is not this user's own, as for an instance
//! of another user whose segment is open to a group, the owner of the lock file is taken for the owner of the segment.
//!
//! Tested at the end of this file and in `tests/tests/local.rs`.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use nix::unistd::geteuid;
use qtf_proto::address::{SegmentAddress, runtime_dir};
use qtf_proto::folder::OwnFolder;
use qtf_proto::instance::{LocalFacts, ipc_namespace, lock_file_in, spill_dir_in};
use qtf_shm::layout::HeaderError;
use qtf_shm::layout::attach::AttachRole;
use qtf_shm::{
    AttachError, AttachIndex, Attachment, AttachmentSpec, LockFile, OpenError, SegmentView,
};

/// Why the segment of an instance is not open.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenFailure {
    /// No daemon has run under this name, or what it had is gone.
    #[error("no instance {instance} is here ({cause}): start qtfd --instance {instance}")]
    NotThere {
        /// The instance.
        instance: String,
        /// What is missing.
        cause: String,
    },
    /// Its daemon has made its segment where this process cannot see it.
    #[error(
        "instance {instance} has its files in {} and its segment in another IPC namespace ({theirs}, this process is in {ours}): run this program in the namespace of qtfd (for containers --ipc=container:NAME or --ipc=host), or connect to its socket: --addr unix:{}",
        folder.display(), socket.display()
    )]
    Elsewhere {
        /// The instance.
        instance: String,
        /// Its runtime folder.
        folder: PathBuf,
        /// Its socket.
        socket: PathBuf,
        /// The daemon's namespace.
        theirs: u64,
        /// Ours.
        ours: u64,
    },
    /// This user may not write to it.
    #[error(
        "the segment of instance {instance} may not be written by user {uid}: run as its owner, have qtfd open it to a group of this user (segment_group, segment_group_access = \"write\"), or connect to its socket: --addr unix:{}",
        socket.display()
    )]
    Denied {
        /// The instance.
        instance: String,
        /// This user.
        uid: u32,
        /// Its socket.
        socket: PathBuf,
    },
    /// It is of another version.
    #[error(
        "instance {instance}: {source}; use the programs of the version that qtfd has, or connect to its socket: --addr unix:{}",
        socket.display()
    )]
    Layout {
        /// The instance.
        instance: String,
        /// What is different.
        source: HeaderError,
        /// Its socket.
        socket: PathBuf,
    },
    /// All attach records are in use.
    #[error("instance {instance}: {source}")]
    Full {
        /// The instance.
        instance: String,
        /// How many there are.
        source: OpenError,
    },
    /// A daemon is about to serve.
    #[error("the daemon of instance {instance} is starting: try again")]
    Starting {
        /// The instance.
        instance: String,
    },
    /// No thread for it.
    #[error("no thread can be started: {source}; raise `ulimit -u` (LimitNPROC= of a service)")]
    Thread {
        /// What the kernel says.
        source: std::io::Error,
    },
    /// The runtime folder may be somebody else's.
    #[error(
        "{fault}; somebody else's files could be there: remove the folder or give it back to its user with mode 0700, or name the folder that you mean: shm:FOLDER/NAME"
    )]
    Untrusted {
        /// What is wrong.
        fault: String,
    },
    /// Something else.
    #[error("instance {instance}: {source}")]
    Other {
        /// The instance.
        instance: String,
        /// What.
        source: OpenError,
    },
}

impl OpenFailure {
    /// Nobody is there.
    #[must_use]
    pub const fn is_not_there(&self) -> bool {
        matches!(self, Self::NotThere { .. })
    }

    /// Trying again may help.
    #[must_use]
    pub const fn is_passing(&self) -> bool {
        matches!(
            self,
            Self::NotThere { .. } | Self::Starting { .. } | Self::Full { .. }
        )
    }

    /// The folder may be somebody else's.
    #[must_use]
    pub const fn is_untrusted(&self) -> bool {
        matches!(self, Self::Untrusted { .. })
    }
}

/// An instance, as it is looked for.
#[derive(Debug, Clone)]
pub(crate) struct Instance {
    name: String,
    folder: PathBuf,
    is_own: bool,
}

/// An open segment, with what its daemon has told.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) attachment: Attachment,
    pub(crate) durable_by_default: bool,
}

impl Instance {
    pub(crate) fn of(address: &SegmentAddress) -> Self {
        Self {
            name: address.instance().to_owned(),
            folder: address.folder().map_or_else(runtime_dir, Path::to_path_buf),
            is_own: address.folder().is_none(),
        }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Where to turn to with what is only a daemon's.
    pub(crate) fn socket(&self) -> PathBuf {
        qtf_proto::instance::socket_in(&self.folder, &self.name)
    }

    /// Opens the segment.
    pub(crate) fn open(&self, role: AttachRole, name: &str) -> Result<Opened, OpenFailure> {
        let uid = self.owner()?;
        let facts = LocalFacts::read(&self.folder, &self.name);
        let spill_dir = match &facts {
            Some(facts) => facts.spill_dir.clone(),
            None => spill_dir_in(&self.folder, &self.name),
        };
        let mut spec = AttachmentSpec::new(role, name, spill_dir);
        let lock_file = lock_file_in(&self.folder, &self.name);
        match LockFile::open(&lock_file) {
            Ok(_) => spec = spec.with_lock_file(lock_file),
            // Of another user: who lives is told by process ids then.
            Err(error) => tracing::debug!(%error, file = %lock_file.display(), "no lock file"),
        }
        let opened = Attachment::open_instance(&self.name, uid, &spec);
        let attachment = opened.map_err(|error| self.failure(error, facts.as_ref()))?;
        Ok(Opened {
            attachment,
            durable_by_default: facts.is_some_and(|facts| facts.durable_by_default),
        })
    }

    /// The segment that is to be found under the name now; `None` if none can be looked at.
    pub(crate) fn segment_now(&self) -> Option<u64> {
        let view = SegmentView::attach_by_instance(&self.name, self.owner().ok()?);
        view.ok().map(|view| view.segment_id())
    }

    /// Whose the segment is.
    fn owner(&self) -> Result<u32, OpenFailure> {
        if self.is_own {
            return match OwnFolder::open(&self.folder) {
                Ok(_) => Ok(geteuid().as_raw()),
                Err(error) if error.is_not_there() => {
                    Err(self.not_there(format!("there is no folder {}", self.folder.display())))
                }
                Err(error) => Err(OpenFailure::Untrusted {
                    fault: error.to_string(),
                }),
            };
        }
        let lock_file = lock_file_in(&self.folder, &self.name);
        match std::fs::symlink_metadata(&lock_file) {
            Ok(metadata) => Ok(metadata.uid()),
            Err(error) => Err(self.not_there(format!("{}: {error}", lock_file.display()))),
        }
    }

    fn not_there(&self, cause: String) -> OpenFailure {
        OpenFailure::NotThere {
            instance: self.name.clone(),
            cause,
        }
    }

    /// What an error of opening means, by all that is known of the instance.
    fn failure(&self, error: OpenError, facts: Option<&LocalFacts>) -> OpenFailure {
        let instance = self.name.clone();
        match error {
            OpenError::Attach(
                AttachError::NoInstance { .. }
                | AttachError::NoId(_)
                | AttachError::Header(HeaderError::NotReady { .. }),
            ) => self.missing(facts),
            OpenError::Attach(AttachError::Denied(_) | AttachError::DeniedKey(_)) => {
                OpenFailure::Denied {
                    instance,
                    uid: geteuid().as_raw(),
                    socket: self.socket(),
                }
            }
            OpenError::Attach(AttachError::Header(source)) => OpenFailure::Layout {
                instance,
                source,
                socket: self.socket(),
            },
            source @ OpenError::Full { .. } => OpenFailure::Full { instance, source },
            OpenError::Rebuilding => OpenFailure::Starting { instance },
            source @ (OpenError::Attach(_) | OpenError::Lock { .. }) => {
                OpenFailure::Other { instance, source }
            }
        }
    }

    /// There is no segment that is ready.
    fn missing(&self, facts: Option<&LocalFacts>) -> OpenFailure {
        let (ours, lock_file) = (ipc_namespace(), lock_file_in(&self.folder, &self.name));
        match facts.map(|facts| facts.ipc_namespace) {
            Some(theirs) if theirs != ours && theirs != 0 && ours != 0 => OpenFailure::Elsewhere {
                instance: self.name.clone(),
                folder: self.folder.clone(),
                socket: self.socket(),
                theirs,
                ours,
            },
            _ => match LockFile::open(&lock_file) {
                Ok(lock)
                    if lock
                        .is_locked(LockFile::byte_of(AttachIndex::DAEMON))
                        .unwrap_or(false) =>
                {
                    OpenFailure::Starting {
                        instance: self.name.clone(),
                    }
                }
                Ok(_) => self.not_there("its daemon has ended, and its segment is gone".to_owned()),
                Err(error) => self.not_there(format!("{}: {error}", lock_file.display())),
            },
        }
    }
}
