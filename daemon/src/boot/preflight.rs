//! What a successor checks before it ends the daemon that runs: a take-over that cannot succeed must not be an outage.
//!
//! Everything is checked that can be without the lock: settings that go together, the ring if one is demanded, the data folder
//! (the same as the predecessor's, writable, of this instance, its journal's end readable), the folder for large
//! payloads, the addresses, and memory for a segment where none can be adopted. Nothing is changed. What happens between
//! this look and the start itself is not covered. Tested in `tests/daemon/take_over.rs`.

use std::io;
use std::path::{Path, PathBuf};

use nix::unistd::{AccessFlags, access};
use qtf_journal::{JournalConfig, JournalError, StdStorage};
use qtf_shm::{Segment, SegmentView};

use super::data_dir;
use super::serve::engine_config;
use super::{BootError, check_cores, refuse_if_open, spec};
use crate::config::journal::JournalSettings;
use crate::config::settings::Settings;
use crate::net::listener::Listener;
use crate::sys::descriptors::locked_files;
use crate::sys::ring;

/// LIMIT: looks at the end of a journal that somebody writes at the same moment.
const LOOKS_MAX: usize = 5;

/// Says why this daemon could not serve in the place of the one with this pid.
pub(super) fn check(settings: &Settings, predecessor: u32) -> Result<(), BootError> {
    try_all(settings, predecessor).map_err(|error| BootError::NotReady {
        pid: predecessor,
        error: Box::new(error),
    })
}

fn try_all(settings: &Settings, predecessor: u32) -> Result<(), BootError> {
    engine_config(settings).checked()?;
    check_cores(settings)?;
    let spec = spec(settings)?;
    check_ring(settings)?;
    check_same_folder(settings, predecessor)?;
    if let Some(journal) = &settings.journal {
        check_journal(settings, journal)?;
    }
    check_spill_folder(&settings.spill_dir)?;
    for address in &settings.listen {
        let open = Listener::check(address, predecessor)
            .map_err(|error| BootError::bind(address, &error))?;
        refuse_if_open(settings, address, open)?;
    }
    let uid = nix::unistd::geteuid().as_raw();
    if SegmentView::attach_by_instance(&settings.instance, uid).is_err() {
        tracing::warn!(
            "the daemon that runs has no segment that can be adopted: its memory tasks end with it"
        );
        // Made and gone at once: whether the kernel gives as much.
        drop(Segment::create_private(&spec)?);
    }
    Ok(())
}

fn check_ring(settings: &Settings) -> Result<(), BootError> {
    if !settings.needs_ring() {
        return Ok(());
    }
    ring::probe().map_err(|reason| BootError::NoRing {
        reason: reason.to_string(),
    })
}

/// A successor with another data folder would not know the tasks of the one before.
fn check_same_folder(settings: &Settings, predecessor: u32) -> Result<(), BootError> {
    let instance = || settings.instance.clone();
    let locked = locked_files(predecessor).map_err(|error| BootError::NotTakenOver {
        instance: instance(),
        pid: predecessor,
        why: format!("which data folder it uses cannot be seen: {error}"),
    })?;
    let theirs = locked
        .into_iter()
        .find(|file| file.path.ends_with(data_dir::LOCK));
    let ours = settings.journal.as_ref().map(|journal| &journal.data_dir);
    let is_same = match (&theirs, ours) {
        (None, None) => true,
        (Some(theirs), Some(ours)) => {
            data_dir::lock_identity(ours) == Some(theirs.identity)
                || theirs.is_removed && is_same_path(&theirs.path, &ours.join(data_dir::LOCK))
        }
        _ => false,
    };
    if is_same {
        return Ok(());
    }
    let folder_of = |lock: PathBuf| lock.parent().map(Path::to_owned).unwrap_or_default();
    Err(BootError::OtherDataDir {
        instance: instance(),
        theirs: theirs.map(|file| folder_of(file.path)),
        ours: ours.cloned(),
    })
}

fn is_same_path(theirs: &Path, ours: &Path) -> bool {
    let folder = |file: &Path| std::fs::canonicalize(file.parent()?).ok();
    folder(theirs).is_some_and(|theirs| Some(theirs) == folder(ours))
}

/// Whether the journal could be opened as it is now. The daemon that runs writes meanwhile, so what looks like damage may be a
/// group that was being written: it counts if it is there again at the next look.
fn check_journal(settings: &Settings, journal: &JournalSettings) -> Result<(), BootError> {
    let folder = journal.data_dir.join(data_dir::JOURNAL);
    data_dir::check_safe(&journal.data_dir)?;
    for folder in [&journal.data_dir, &folder] {
        check_writable(folder)?;
    }
    let storage = StdStorage::existing(folder);
    let config = JournalConfig::new(&settings.instance, 0);
    let mut before = None;
    for _ in 0..LOOKS_MAX {
        let error = match qtf_journal::open_tail(&storage, &config) {
            Ok(_) => return Ok(()),
            Err(error) => error,
        };
        let may_pass = match &error {
            JournalError::Damaged { .. } => true,
            JournalError::Io { source, .. } => source.kind() == io::ErrorKind::NotFound,
            JournalError::Version { .. }
            | JournalError::Instance { .. }
            | JournalError::FileBytes { .. }
            | JournalError::NoRoomForSnapshot { .. }
            | JournalError::NotYetDurable { .. } => false,
        };
        let text = error.to_string();
        if !may_pass || before.as_ref() == Some(&text) {
            return Err(error.into());
        }
        before = Some(text);
    }
    // Something else each time: that is a journal in motion, not damage.
    Ok(())
}

fn check_spill_folder(folder: &Path) -> Result<(), BootError> {
    // It is made when first needed.
    let existing = folder.ancestors().find(|folder| folder.exists());
    existing.map_or(Ok(()), check_writable)
}

fn check_writable(folder: &Path) -> Result<(), BootError> {
    access(folder, AccessFlags::W_OK | AccessFlags::X_OK).map_err(|errno| BootError::DataDir {
        folder: folder.to_owned(),
        source: errno.into(),
    })
}
