//! A spill file that is being written. Tested in `tests.rs`.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;

use nix::fcntl::posix_fallocate;

use super::blocks::BLOCK_BYTES;
use super::{SPILL_STEP_BYTES, SpillError, SpillStore};
use crate::blob::BlobRef;

/// A file that is being written. Dropped before [`SpillWriter::finish`] it is removed.
#[derive(Debug)]
pub struct SpillWriter {
    pub(super) file: File,
    path: PathBuf,
    number: u32,
    len: u32,
    /// Bytes that space was taken for, and that are counted.
    taken: u64,
    written: u64,
    /// Checksum of the block that is being written, and those of the blocks before.
    sum: u32,
    sums: Vec<u8>,
    finished: bool,
    store: SpillStore,
}

/// A file that was made for a blob and is empty.
#[derive(Debug)]
pub(super) struct NewFile {
    pub(super) number: u32,
    pub(super) path: PathBuf,
    pub(super) file: File,
}

impl SpillWriter {
    /// For so many bytes.
    pub(super) fn new(store: SpillStore, made: NewFile, len: u32) -> Self {
        Self {
            file: made.file,
            path: made.path,
            number: made.number,
            len,
            taken: 0,
            written: 0,
            sum: 0,
            sums: Vec::new(),
            finished: false,
            store,
        }
    }

    /// Appends bytes.
    ///
    /// # Errors
    /// More than was announced, the disk or the store is full, or the file cannot be written. Then the file is to be given up.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), SpillError> {
        let end = self.written.saturating_add(bytes.len() as u64);
        if end > u64::from(self.len) {
            return Err(SpillError::Announced {
                written: end,
                expected: u64::from(self.len),
            });
        }
        self.take_up_to(end)?;
        self.file
            .write_all_at(bytes, self.written)
            .map_err(|source| self.store.refusal(source, bytes.len() as u64, &self.path))?;
        self.note_sums(bytes);
        self.written = end;
        Ok(())
    }

    /// Takes the space for everything before `end`, and what is left of that step.
    fn take_up_to(&mut self, end: u64) -> Result<(), SpillError> {
        if end <= self.taken {
            return Ok(());
        }
        let step_end = end.next_multiple_of(SPILL_STEP_BYTES);
        let more = step_end.min(self.len.into()).saturating_sub(self.taken);
        let room = &self.store.room;
        room.take(more).map_err(|used| SpillError::NoRoom {
            bytes: more,
            used,
            limit: room.total,
        })?;
        // LIMIT: blobs are far below the largest offset.
        let [from, length] = [self.taken, more].map(|at| i64::try_from(at).unwrap_or(i64::MAX));
        let taken = posix_fallocate(&self.file, from, length);
        taken.map_err(|errno| {
            room.give_back(more);
            self.store.refusal(errno.into(), more, &self.path)
        })?;
        self.taken = self.taken.saturating_add(more);
        Ok(())
    }

    fn note_sums(&mut self, mut bytes: &[u8]) {
        let mut at = self.written;
        while !bytes.is_empty() {
            let left = BLOCK_BYTES - at % BLOCK_BYTES;
            let count = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
            let (now, later) = bytes.split_at(count);
            self.sum = crc32c::crc32c_append(self.sum, now);
            at = at.saturating_add(now.len() as u64);
            bytes = later;
            if at.is_multiple_of(BLOCK_BYTES) {
                self.end_block();
            }
        }
    }

    fn end_block(&mut self) {
        self.sums.extend_from_slice(&self.sum.to_le_bytes());
        self.sum = 0;
    }

    /// Bytes written so far.
    #[must_use]
    pub const fn written(&self) -> u64 {
        self.written
    }

    /// Ends the file; the reference belongs into a slot from now on.
    ///
    /// # Errors
    /// Fewer bytes were written than announced, or the checksums cannot be written.
    pub fn finish(mut self) -> Result<BlobRef, SpillError> {
        if self.written != u64::from(self.len) {
            return Err(SpillError::Announced {
                written: self.written,
                expected: u64::from(self.len),
            });
        }
        if !self.written.is_multiple_of(BLOCK_BYTES) {
            self.end_block();
        }
        let summed = self.file.write_all_at(&self.sums, self.written);
        summed.map_err(|source| {
            let bytes = self.sums.len() as u64;
            self.store.refusal(source, bytes, &self.path)
        })?;
        self.finished = true;
        Ok(BlobRef::Spill {
            number: self.number,
            len: self.len,
        })
    }
}

impl Drop for SpillWriter {
    fn drop(&mut self) {
        if !self.finished {
            // Nothing refers to the file; one that cannot be removed stays until the directory is cleaned.
            let _ = fs::remove_file(&self.path);
            self.store.room.give_back(self.taken);
        }
    }
}
