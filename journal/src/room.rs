//! Room for the next snapshot: older files go only below a snapshot, so a disk that is full of logs would be full for ever.
//!
//! A snapshot shows what the newest one shows and what the logs have added, and both lie beside it until it has its name. So it
//! takes at most as many bytes as they do, and the rule is: **what the journal holds has room a second time**. It is looked at whenever
//! a further file is made; a group that is written changes nothing in it, since its file counts as a whole from the beginning. A
//! snapshot that is published keeps it: it is no larger than what it replaces.
//!
//! Spares count as free, since [`make_room_for_snapshot`] gives them up where their room is needed; so does a snapshot that is not finished,
//! which becomes the newest one or goes. What others write to the disk is not known beforehand: they may take that room, and when
//! they give it back everything goes on. Tested in `journal/tests/room.rs` and, on a real disk, `daemon/tests/daemon/full_disk.rs`.

use crate::error::JournalError;
use crate::file::{FileKey, is_unfinished, snapshot_of_name, spare_of_name};
use crate::spare::{len_of, names};
use crate::storage::Storage;

/// What lies in the folder, and beside it on the disk.
struct Found {
    /// Bytes of the logs, those that are ready too, and of the newest snapshot: the next one is no larger.
    held: u64,
    free: u64,
    /// Bytes of the snapshot that is being written.
    unfinished: u64,
    /// Names and sizes of the spares.
    spares: Vec<(String, u64)>,
}

impl Found {
    fn look(storage: &dyn Storage) -> Result<Self, JournalError> {
        let free = storage
            .free_bytes()
            .map_err(JournalError::io("look at the disk of", "the journal"))?;
        let mut found = Self {
            held: 0,
            free,
            unfinished: 0,
            spares: Vec::new(),
        };
        let mut newest = None;
        for name in names(storage)? {
            let is_snapshot = name.starts_with("snapshot-");
            if let Some(start) = snapshot_of_name(&name) {
                newest = newest.max(Some((start, name)));
            } else if is_unfinished(&name) && is_snapshot {
                // It may have got its name or gone since the names were read.
                found.unfinished = len_of(storage, &name).unwrap_or(0);
            } else if FileKey::of_name(&name).is_some() {
                found.hold(len_of(storage, &name)?);
            } else if spare_of_name(&name).is_some() {
                let bytes = len_of(storage, &name)?;
                found.spares.push((name, bytes));
            }
        }
        if let Some((_, name)) = newest {
            found.hold(len_of(storage, &name)?);
        }
        Ok(found)
    }

    fn hold(&mut self, bytes: u64) {
        self.held = self.held.saturating_add(bytes);
    }

    /// What a snapshot may take, once the spares are gone.
    fn room(&self) -> u64 {
        let spares = self.spares.iter().map(|(_, bytes)| *bytes);
        spares.fold(
            self.free.saturating_add(self.unfinished),
            u64::saturating_add,
        )
    }
}

/// Whether a further file of this size leaves the next snapshot its room.
pub(crate) fn for_file(storage: &dyn Storage, file_bytes: u64) -> Result<(), JournalError> {
    let found = Found::look(storage)?;
    let snapshot_bytes = found.held.saturating_add(file_bytes);
    if found.room() >= snapshot_bytes.saturating_add(file_bytes) {
        return Ok(());
    }
    Err(JournalError::NoRoomForSnapshot {
        file_bytes,
        snapshot_bytes,
        free_bytes: found.free,
    })
}

/// Gives up spares until the next snapshot has room, or none is left. Returns how many. Nobody else makes or takes files
/// meanwhile.
///
/// # Errors
/// An operation failed; the journal opens whatever was done.
pub fn make_room_for_snapshot(storage: &dyn Storage) -> Result<u64, JournalError> {
    let mut found = Found::look(storage)?;
    let mut removed = 0;
    while found.free.saturating_add(found.unfinished) < found.held
        && let Some((name, bytes)) = found.spares.pop()
    {
        storage
            .remove(&name)
            .map_err(JournalError::io("remove", &name))?;
        found.free = found.free.saturating_add(bytes);
        removed += 1;
    }
    Ok(removed)
}
