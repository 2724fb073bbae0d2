//! Making files ahead of need, and using old ones again.
//!
//! A file is zero-filled and synced before it is written, so that no write of a group changes metadata of the file system. Files
//! below a snapshot become spares by renaming; their old records never validate under the new header's epoch.
//!
//! Order, so that a crash at any point leaves a journal that opens: content and header are on stable storage before the rename
//! to `log-`, and the rename before the file is used. Tested in `journal/tests/files.rs` and `crashes.rs`.

use crate::Lsn;
use crate::error::JournalError;
use crate::file::{
    FILE_BYTES_MIN, FileKey, HEADER_BYTES, Header, is_unfinished, snapshot_of_name, spare_name,
    spare_of_name,
};
use crate::room;
use crate::storage::{Storage, StorageFile, write_all};
use crate::writer::FilePlan;

/// Bytes written at once while a file is zero-filled.
const ZERO_BYTES: usize = 1 << 20;

/// A file that is ready to take records.
#[derive(Debug, PartialEq, Eq)]
pub struct SpareFile {
    pub(crate) header: Header,
}

impl SpareFile {
    /// Which file.
    #[must_use]
    pub const fn key(&self) -> FileKey {
        FileKey(self.header.number)
    }

    /// Bytes of records that it takes.
    #[must_use]
    pub const fn room_bytes(&self) -> u64 {
        self.header.file_bytes.saturating_sub(HEADER_BYTES as u64)
    }
}

/// Makes the file that [`crate::Writer::file_plan`] asks for: from a spare of that size if there is one, else a new one, and only
/// where the next snapshot has room beside it ([`crate::make_room_for_snapshot`] says why). The file that a daemon begins with is made as small as may be where
/// the disk has no room for a whole one, and is made whatever it leaves: it takes at least what cannot be refused. Blocks for as
/// long as the disk takes to write it, so it is for a helper thread.
///
/// # Errors
/// An operation failed, as a rule because the disk is full. What was begun is taken away as far as possible; try again later.
pub fn make_spare(storage: &dyn Storage, plan: FilePlan) -> Result<SpareFile, JournalError> {
    let FilePlan {
        mut header,
        replaces,
    } = plan;
    let is_first = header.follows.is_some();
    let may_be_small = is_first && header.file_bytes > FILE_BYTES_MIN;
    let has_room = room::for_file(storage, header.file_bytes);
    let made = match has_room {
        Ok(()) => make_log(storage, &header),
        Err(_) if is_first && has_spare(storage, header.file_bytes)? => make_log(storage, &header),
        Err(error) if may_be_small || !is_first => Err(error),
        Err(_) => make_log(storage, &header),
    };
    match made {
        Err(error) if may_be_small && error.is_disk_full() => {
            header.file_bytes = FILE_BYTES_MIN;
            // What a whole one needs is told, if the small one cannot be had either.
            make_log(storage, &header).map_err(|_| error)?;
        }
        made => made?,
    }
    if let Some(key) = replaces {
        let names = names(storage)?;
        // It has gone already if a step after the making failed before.
        if names.contains(&key.name()) {
            demote(storage, key)?;
        }
        storage
            .sync_dir()
            .map_err(JournalError::io("sync the directory of", "the journal"))?;
    }
    Ok(SpareFile { header })
}

fn make_log(storage: &dyn Storage, header: &Header) -> Result<(), JournalError> {
    let log = FileKey(header.number).name();
    let spare = match take_spare(storage, header.file_bytes)? {
        Some(name) => name,
        None => new_spare(storage, header.file_bytes)?,
    };
    let file = storage
        .open(&spare)
        .map_err(JournalError::io("open", &spare))?;
    write_all(&*file, 0, &header.encode()).map_err(JournalError::io("write", &spare))?;
    file.sync_data().map_err(JournalError::io("sync", &spare))?;
    storage
        .rename(&spare, &log)
        .map_err(JournalError::io("rename", &spare))?;
    storage
        .sync_dir()
        .map_err(JournalError::io("sync the directory of", &log))
}

/// Whether a spare of that size is there.
fn has_spare(storage: &dyn Storage, bytes: u64) -> Result<bool, JournalError> {
    for name in names(storage)? {
        if spare_of_name(&name).is_some() && len_of(storage, &name)? == bytes {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The length of a file.
pub(crate) fn len_of(storage: &dyn Storage, name: &str) -> Result<u64, JournalError> {
    let file = storage.open(name).map_err(JournalError::io("open", name))?;
    file.len().map_err(JournalError::io("read", name))
}

/// A spare of the wanted size. Others, which an interrupted zero-filling or another setting left, are removed.
fn take_spare(storage: &dyn Storage, bytes: u64) -> Result<Option<String>, JournalError> {
    for name in names(storage)? {
        if spare_of_name(&name).is_none() {
            continue;
        }
        if len_of(storage, &name)? == bytes {
            return Ok(Some(name));
        }
        storage
            .remove(&name)
            .map_err(JournalError::io("remove", &name))?;
    }
    Ok(None)
}

fn new_spare(storage: &dyn Storage, bytes: u64) -> Result<String, JournalError> {
    let name = unused_spare_name(storage)?;
    // Zero-filled under a name that nobody takes for a file of full size, whatever happens.
    let unfinished = format!("{name}.tmp");
    remove_if_there(storage, &unfinished)?;
    let file = storage
        .create(&unfinished)
        .map_err(JournalError::io("create", &unfinished))?;
    if let Err(source) = zero_fill(&*file, bytes) {
        drop(file);
        // The space is needed; that it could not be filled is what matters to the caller.
        drop(storage.remove(&unfinished));
        return Err(JournalError::Io {
            operation: "fill with zeros",
            file: unfinished,
            source,
        });
    }
    storage
        .rename(&unfinished, &name)
        .map_err(JournalError::io("rename", &unfinished))?;
    Ok(name)
}

fn zero_fill(file: &dyn StorageFile, bytes: u64) -> std::io::Result<()> {
    let zeros = vec![0; ZERO_BYTES.min(usize::try_from(bytes).unwrap_or(ZERO_BYTES))];
    let mut at = 0_u64;
    while at < bytes {
        let count = usize::try_from(bytes - at)
            .unwrap_or(ZERO_BYTES)
            .min(zeros.len());
        write_all(file, at, zeros.get(..count).unwrap_or_default())?;
        at += count as u64;
    }
    file.sync_data()
}

fn unused_spare_name(storage: &dyn Storage) -> Result<String, JournalError> {
    let used = names(storage)?
        .iter()
        .filter_map(|name| spare_of_name(name))
        .max();
    Ok(spare_name(used.map_or(1, |number| number.wrapping_add(1))))
}

pub(crate) fn names(storage: &dyn Storage) -> Result<Vec<String>, JournalError> {
    storage
        .list()
        .map_err(JournalError::io("list", "the journal's directory"))
}

pub(crate) fn remove_if_there(storage: &dyn Storage, name: &str) -> Result<(), JournalError> {
    match storage.remove(name) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(JournalError::io("remove", name)(error))
        }
        _ => Ok(()),
    }
}

/// Turns a file into a spare. The rename need not be on stable storage before the file is used again: until then it is a log
/// that nobody needs, or one without records.
pub(crate) fn demote(storage: &dyn Storage, key: FileKey) -> Result<(), JournalError> {
    let spare = unused_spare_name(storage)?;
    let log = key.name();
    storage
        .rename(&log, &spare)
        .map_err(JournalError::io("rename", &log))
}

/// What [`reclaim`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Reclaimed {
    /// Logs that became spares.
    pub recycled: u64,
    /// Logs and snapshots that were removed.
    pub removed: u64,
}

/// Gives up what a published snapshot has made superfluous: older snapshots, and logs all of whose records are at or below
/// `keep_from`, the start of the newest snapshot. As many logs as make `spares_wanted` spares are kept as such.
///
/// # Errors
/// An operation failed; call it again after the next snapshot. The journal opens whatever was done.
pub fn reclaim(
    storage: &dyn Storage,
    keep_from: Lsn,
    spares_wanted: usize,
) -> Result<Reclaimed, JournalError> {
    let mut done = Reclaimed::default();
    let all = names(storage)?;
    let mut spares = all
        .iter()
        .filter(|name| spare_of_name(name).is_some())
        .count();
    for name in &all {
        let is_old = snapshot_of_name(name).is_some_and(|start| start < keep_from);
        let is_left_over = is_unfinished(name) && name.starts_with("spare-");
        if is_old || is_left_over {
            storage
                .remove(name)
                .map_err(JournalError::io("remove", name))?;
            done.removed += u64::from(is_old);
        }
    }
    // Oldest first, so that what remains has no gap.
    for key in crate::open::superfluous(storage, keep_from)? {
        if spares < spares_wanted {
            demote(storage, key)?;
            spares += 1;
            done.recycled += 1;
        } else {
            let name = key.name();
            storage
                .remove(&name)
                .map_err(JournalError::io("remove", &name))?;
            done.removed += 1;
        }
        // In this order on stable storage too.
        storage
            .sync_dir()
            .map_err(JournalError::io("sync the directory of", "the journal"))?;
    }
    Ok(done)
}
