//! Removal of spill files: at once, or given up first and removed when there is time. Tested in `spill/mod.rs`.

use std::fs;
use std::io::ErrorKind;

use super::{SpillError, SpillStore};
use crate::blob::BlobRef;

impl SpillStore {
    /// Removes a blob's file, whose bytes are free from now on. A file that is not there is as good as removed.
    ///
    /// # Errors
    /// The file is there and cannot be removed.
    pub fn remove(&self, blob: BlobRef) -> Result<(), SpillError> {
        if self.unlink(blob)? {
            self.room.give_back(blob.len());
        }
        Ok(())
    }

    /// Counts a blob's bytes as free from now on, once: its file is nobody's and waits for [`SpillStore::remove_given_up`].
    pub fn give_up(&self, blob: BlobRef) {
        if matches!(blob, BlobRef::Spill { .. }) {
            self.room.give_up(blob.len());
        }
    }

    /// Removes the file of a blob that was given up, once. It waits no more, also if it cannot be removed: then it is left to the
    /// next start.
    ///
    /// # Errors
    /// The file is there and cannot be removed.
    pub fn remove_given_up(&self, blob: BlobRef) -> Result<(), SpillError> {
        let removed = self.unlink(blob).map(|_| ());
        if matches!(blob, BlobRef::Spill { .. }) {
            self.room.end_waiting(blob.len());
        }
        removed
    }

    /// Files that were given up and are not removed yet.
    #[must_use]
    pub fn given_up_files(&self) -> u64 {
        self.room.given_up()
    }

    /// Returns whether there was a file.
    fn unlink(&self, blob: BlobRef) -> Result<bool, SpillError> {
        let BlobRef::Spill { number, .. } = blob else {
            return Ok(false);
        };
        let file = self.path_of(number);
        match fs::remove_file(&file) {
            Ok(()) => Ok(true),
            Err(source) if source.kind() == ErrorKind::NotFound => Ok(false),
            Err(source) => Err(SpillError::File { file, source }),
        }
    }
}
