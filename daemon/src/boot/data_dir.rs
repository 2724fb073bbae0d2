//! The data folder: everything that must outlive a reboot lies in it, and one daemon at a time uses it.
//!
//! ```text
//! LOCK        locked for as long as the daemon lives
//! journal/    files of the journal, snapshots
//! spill/      payloads and outputs that are too large for the segment
//! ```
//! Tested in `tests/daemon/take_over.rs` and `tests/daemon/data_dir.rs`.

use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use qtf_journal::{JournalConfig, StdStorage, Storage};
use qtf_shm::FileIdentity;

use super::BootError;
use crate::config::journal::JournalSettings;
use crate::config::settings::Settings;
use crate::sys::lock_file::{LockError, LockFile};

/// Name of the lock file in it.
pub(crate) const LOCK: &str = "LOCK";
/// Name of the journal's folder in it.
pub(crate) const JOURNAL: &str = "journal";

/// The folder of a daemon that has it.
#[derive(Debug)]
pub(crate) struct DataDir {
    pub(crate) folder: PathBuf,
    pub(crate) lock: LockFile,
    pub(crate) files: StdStorage,
    /// The journal's folder, with the faults that a test wants.
    pub(crate) storage: Arc<dyn Storage>,
    pub(crate) config: JournalConfig,
}

impl DataDir {
    /// Makes the folder if it is not there, and locks it.
    pub(crate) fn open(settings: &Settings, journal: &JournalSettings) -> Result<Self, BootError> {
        let folder = &journal.data_dir;
        let failed = |source: io::Error| BootError::DataDir {
            folder: folder.clone(),
            source,
        };
        make(folder).map_err(failed)?;
        check_safe(folder)?;
        let not_locked = |error| match error {
            LockError::Held { pid } | LockError::NotTaken { pid, .. } => BootError::DataDirInUse {
                folder: folder.clone(),
                pid,
            },
            LockError::Io { source, .. } => failed(source),
        };
        let lock = LockFile::acquire_after_kill(&folder.join(LOCK)).map_err(not_locked)?;
        let files = StdStorage::open_dir(folder.join(JOURNAL)).map_err(failed)?;
        // The folder itself too: the lock file may be removed while it is held.
        let lock = lock.also_folder(files.dir()).map_err(not_locked)?;
        let real: Arc<dyn Storage> = Arc::new(files.clone());
        let storage = match &settings.disk_faults {
            None => real,
            Some(faults) => faults.storage(real),
        };
        let nonce =
            getrandom::u64().map_err(|error| failed(io::Error::other(error.to_string())))?;
        let config = JournalConfig {
            file_bytes: journal.file_bytes,
            progress: settings.replayed.clone(),
            ..JournalConfig::new(&settings.instance, nonce)
        };
        Ok(Self {
            folder: folder.clone(),
            lock,
            files,
            storage,
            config,
        })
    }
}

/// What names a folder's lock file, if there is one.
pub(crate) fn lock_identity(folder: &Path) -> Option<FileIdentity> {
    let metadata = std::fs::metadata(folder.join(LOCK)).ok()?;
    Some(FileIdentity::of(&metadata))
}

/// Refuses a folder in which everybody could put files in the place of ours. With the sticky bit only their owner can.
pub(crate) fn check_safe(folder: &Path) -> Result<(), BootError> {
    let metadata = std::fs::metadata(folder).map_err(|source| BootError::DataDir {
        folder: folder.to_owned(),
        source,
    })?;
    if metadata.mode() & 0o1002 == 0o002 {
        return Err(BootError::DataDirUnsafe {
            folder: folder.to_owned(),
            reason: "can be written by everybody".to_owned(),
        });
    }
    let uid = nix::unistd::geteuid().as_raw();
    if metadata.uid() != uid {
        tracing::warn!(
            folder = %folder.display(), owner = metadata.uid(), uid,
            "the data folder belongs to another user, who can change what is in it"
        );
    }
    Ok(())
}

/// Makes a folder of our own, and brings its name to stable storage.
fn make(folder: &Path) -> io::Result<()> {
    match std::fs::metadata(folder) {
        Ok(metadata) if metadata.is_dir() => return Ok(()),
        Ok(_) => return Err(io::ErrorKind::NotADirectory.into()),
        // Whatever it is, the making tells.
        Err(_) => {}
    }
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)?;
    let absolute: PathBuf = std::path::absolute(folder)?;
    match absolute.parent() {
        None => Ok(()),
        Some(parent) => File::open(parent)?.sync_all(),
    }
}
