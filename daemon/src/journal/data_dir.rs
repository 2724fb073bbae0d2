//! The data folder: everything that must outlive a reboot lies in it, and one daemon at a time uses it.
//!
//! ```text
//! LOCK        locked for as long as the daemon lives
//! journal/    files of the journal, snapshots
//! spill/      payloads and outputs that are too large for the segment
//! ```
//! Tested in `tests/daemon/take_over.rs` and `tests/daemon/cold_start.rs`.

use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use qtf_journal::{JournalConfig, StdStorage, Storage};

use crate::boot::BootError;
use crate::config::journal::JournalSettings;
use crate::config::settings::Settings;
use crate::sys::lock_file::{LockError, LockFile};

/// The folder of a daemon that has it.
#[derive(Debug)]
pub(crate) struct DataDir {
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
        let lock = LockFile::acquire(&folder.join("LOCK")).map_err(|error| match error {
            LockError::Held { pid } | LockError::NotTaken { pid, .. } => BootError::DataDirInUse {
                folder: folder.clone(),
                pid,
            },
            LockError::Io { source, .. } => failed(source),
        })?;
        let files = StdStorage::open_dir(folder.join("journal")).map_err(failed)?;
        let real: Arc<dyn Storage> = Arc::new(files.clone());
        let storage = match &settings.disk_faults {
            None => real,
            Some(faults) => faults.storage(real),
        };
        let nonce =
            getrandom::u64().map_err(|error| failed(io::Error::other(error.to_string())))?;
        let config = JournalConfig {
            file_bytes: journal.file_bytes,
            ..JournalConfig::new(&settings.instance, nonce)
        };
        Ok(Self {
            lock,
            files,
            storage,
            config,
        })
    }
}

/// Makes a folder of our own, and brings its name to stable storage.
fn make(folder: &Path) -> io::Result<()> {
    if folder.is_dir() {
        return Ok(());
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
