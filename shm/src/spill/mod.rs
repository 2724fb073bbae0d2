//! Blobs too large for the arena, one file each.
//!
//! Invariants:
//! - I1: a file is read and written by position, never mapped: a file that shrinks, fails or vanishes is an error of the task it
//!   belongs to, not a signal (`docs/adr/0003`).
//! - I2: space is taken before bytes are written to it, [`SPILL_STEP_BYTES`] at a time: a file under way has at most that much more than was
//!   written, and a full disk is told by the step. A file that was not finished is removed, and its space is free again.
//! - I3: a file's length is compared with its reference at each read.
//! - I4: the files of one store never hold more than its bound together: each step is counted before it is taken, and
//!   until the file is removed or given up: what is given up is nobody's and waits to be removed, soon, by whoever has the time. What
//!   lies there at the start of a daemon is counted by [`SpillStore::remove_others`]. While [`GIVEN_UP_FILES_MAX`] files, or as many bytes
//!   as the store may hold, wait to be removed, nothing new is made.
//! - I5: behind its bytes a file carries a CRC32C of each block of 64 KiB, and each read checks the blocks that it touches: a
//!   flipped bit is an error of the task it belongs to, never other bytes.
//!
//! The directory is made when first needed, mode 0700; files have mode 0600. Tested in `tests.rs`.

mod blocks;
mod removal;
mod room;
mod writer;

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::errno::Errno;

use crate::blob::{BLOB_BYTES_MAX, BlobRef};
use crate::random::random_u64;
use crate::sync::{AtomicU64, Ordering};

use blocks::{Checked, data_bytes, file_bytes};
pub use room::GIVEN_UP_FILES_MAX;
use writer::NewFile;
pub use writer::SpillWriter;

use room::Room;

/// LIMIT: numbers tried for a new file; each miss means that a file of that number is there.
const NUMBERS_TRIED_MAX: u32 = 64;
const SUFFIX: &str = ".spill";
/// Bytes read at a time for a checksum.
const PIECE_BYTES: usize = 64 << 10;
/// LIMIT: space that a file under way takes at once, ahead of the bytes that come.
pub const SPILL_STEP_BYTES: u64 = 1 << 20;
/// LIMIT: 4 GiB, the default of the daemon's setting.
pub const SPILL_LIMIT_DEFAULT: u64 = 4 << 30;

/// Where large blobs go.
#[derive(Debug, Clone)]
pub struct SpillStore {
    dir: PathBuf,
    limit: u64,
    segment_id: u64,
    next: Arc<AtomicU64>,
    room: Arc<Room>,
    /// 1 when the directories above are known to be on stable storage.
    parent_synced: Arc<AtomicU64>,
}

/// A blob could not be written to, or read from, a file.
#[derive(Debug, thiserror::Error)]
pub enum SpillError {
    /// Larger than allowed.
    #[error("{bytes} bytes are more than the limit of {limit}")]
    TooLarge {
        /// What was to be stored.
        bytes: u64,
        /// The limit.
        limit: u64,
    },
    /// All files together would be larger than allowed.
    #[error(
        "no room for {bytes} bytes in spill files: {used} of {limit} are in use; forget results, or raise spill_limit_bytes"
    )]
    NoRoom {
        /// What was to be stored.
        bytes: u64,
        /// What the files hold.
        used: u64,
        /// What they may hold.
        limit: u64,
    },
    /// What was given up is not removed as fast as new files come.
    #[error(
        "{files} files wait to be removed from {dir}, whose disk does not keep up: no more are made until it does; try again later, and look at that disk"
    )]
    Behind {
        /// The directory.
        dir: PathBuf,
        /// How many wait.
        files: u64,
    },
    /// The directory cannot be made or written.
    #[error(
        "spill directory {dir}: {source}; make it writable for the daemon's user, or set another one"
    )]
    Directory {
        /// The directory.
        dir: PathBuf,
        /// What failed.
        source: io::Error,
    },
    /// The disk is full.
    #[error(
        "no room for {bytes} bytes in {dir}: {source}; free some space, or set another directory"
    )]
    Full {
        /// The directory.
        dir: PathBuf,
        /// What was to be stored.
        bytes: u64,
        /// What failed.
        source: io::Error,
    },
    /// A file cannot be read or written.
    #[error("spill file {file}: {source}")]
    File {
        /// The file.
        file: PathBuf,
        /// What failed.
        source: io::Error,
    },
    /// A file has another length than was written.
    #[error(
        "spill file {file} has {found} bytes, {expected} were written: it was changed by somebody else"
    )]
    Length {
        /// The file.
        file: PathBuf,
        /// Its length.
        found: u64,
        /// What it should be.
        expected: u64,
    },
    /// Bytes are not what was written.
    #[error(
        "spill file {file} is damaged in the 64 KiB from byte {offset} on: the checksum does not fit; check the disk, and submit the task again"
    )]
    Damaged {
        /// The file.
        file: PathBuf,
        /// Where the block begins.
        offset: u64,
    },
    /// More or fewer bytes were written than announced.
    #[error("{written} bytes were written of {expected} announced")]
    Announced {
        /// Bytes written.
        written: u64,
        /// Bytes announced.
        expected: u64,
    },
    /// The reference names no file.
    #[error("the blob does not lie in a file")]
    NotSpilled,
}

impl SpillStore {
    /// How many bytes all files together may hold.
    #[must_use]
    pub fn total_limit(&self) -> u64 {
        self.room.total
    }

    /// Names a directory; nothing is made or opened yet. No blob may be larger than `limit` bytes, and all together not
    /// larger than [`SPILL_LIMIT_DEFAULT`].
    #[must_use]
    pub fn open(dir: impl Into<PathBuf>, limit: u64) -> Self {
        Self {
            dir: dir.into(),
            limit: limit.min(BLOB_BYTES_MAX),
            segment_id: 0,
            next: Arc::new(AtomicU64::new(random_u64())),
            room: Room::shared(SPILL_LIMIT_DEFAULT),
            parent_synced: Arc::new(AtomicU64::new(0)),
        }
    }

    /// The same with another bound on all blobs together. Before the first blob: the count starts anew.
    #[must_use]
    pub fn bounded(mut self, total_bytes: u64) -> Self {
        self.room = Room::shared(total_bytes);
        self
    }

    /// Bytes that the files hold together, those under way with what they have taken.
    #[must_use]
    pub fn used_bytes(&self) -> u64 {
        // ORDERING: a count of its own.
        self.room.used.load(Ordering::Relaxed)
    }

    /// The same for the blobs of one segment: its files are told from those of others in the same directory.
    #[must_use]
    pub const fn of_segment(mut self, segment_id: u64) -> Self {
        self.segment_id = segment_id;
        self
    }

    /// The files of this segment: number and length, in no order. None when there is no directory.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn files(&self) -> io::Result<Vec<(u32, u64)>> {
        let entries = match fs::read_dir(&self.dir) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let prefix = format!("{:016x}-", self.segment_id);
        let mut files = Vec::new();
        for entry in entries {
            let entry = entry?;
            let name = entry.file_name();
            let number = name
                .to_str()
                .and_then(|name| name.strip_prefix(&prefix)?.strip_suffix(SUFFIX))
                .and_then(|digits| u32::from_str_radix(digits, 16).ok());
            if let Some(number) = number {
                files.push((number, data_bytes(entry.metadata()?.len())));
            }
        }
        Ok(files)
    }

    /// Removes the files of this segment whose numbers `keeps` does not want; returns how many. For the start of a
    /// daemon: files that a killed one had not yet written into a slot. What is kept is counted as in use.
    ///
    /// # Errors
    /// The directory cannot be read, or a file cannot be removed.
    pub fn remove_others(&self, keeps: impl Fn(u32) -> bool) -> io::Result<u64> {
        let files = self.files()?;
        let (mut removed, mut held) = (0, 0_u64);
        // ORDERING: as in `Room`; nobody else stores blobs yet.
        self.room.used.store(0, Ordering::Relaxed);
        for (number, len) in files {
            if keeps(number) {
                held = held.saturating_add(len);
                // ORDERING: as above. Counted one by one: an error later on must not make these look free.
                self.room.used.store(held, Ordering::Relaxed);
            } else {
                fs::remove_file(self.path_of(number))?;
                removed += 1;
            }
        }
        Ok(removed)
    }

    /// Brings a blob's file to stable storage. Its name is another matter: [`SpillStore::sync_dir`]. An error is for good:
    /// the file must not be taken for durable after a second try.
    ///
    /// # Errors
    /// The file is gone, or cannot be synced.
    pub fn sync(&self, number: u32) -> Result<(), SpillError> {
        let path = self.path_of(number);
        let synced = File::open(&path).and_then(|file| file.sync_all());
        synced.map_err(|source| SpillError::File { file: path, source })
    }

    /// Brings the names of all files made so far to stable storage, and the directory's own when this process does it for
    /// the first time.
    ///
    /// # Errors
    /// The directory is gone, or cannot be synced.
    pub fn sync_dir(&self) -> Result<(), SpillError> {
        let synced = self.sync_names();
        synced.map_err(|source| SpillError::Directory {
            dir: self.dir.clone(),
            source,
        })
    }

    fn sync_names(&self) -> io::Result<()> {
        // ORDERING: says whether the sync below was done by somebody before; done twice it does no harm.
        if self.parent_synced.load(Ordering::Acquire) == 0 {
            // The directories above may have been made by `make_dir`, up to the first that was there.
            for above in self.dir.ancestors().skip(1) {
                let above = if above.as_os_str().is_empty() {
                    Path::new(".")
                } else {
                    above
                };
                match File::open(above).and_then(|dir| dir.sync_all()) {
                    // One that this process may not open it has not made either.
                    Err(error) if error.kind() == ErrorKind::PermissionDenied => break,
                    synced => synced?,
                }
            }
            // ORDERING: as above.
            self.parent_synced.store(1, Ordering::Release);
        }
        File::open(&self.dir)?.sync_all()
    }

    /// Brings a blob's file and its name to stable storage. Blocks for as long as the disk takes.
    ///
    /// # Errors
    /// The file is gone, or cannot be synced: then nobody may be told that it is there.
    pub fn secure(&self, blob: BlobRef) -> Result<(), SpillError> {
        let BlobRef::Spill { number, .. } = blob else {
            return Err(SpillError::NotSpilled);
        };
        self.sync(number)?;
        self.sync_dir()
    }

    /// CRC32C of a blob's bytes, read from its file piece by piece.
    ///
    /// # Errors
    /// The file is gone, has another length, or cannot be read.
    pub fn crc32c(&self, blob: BlobRef) -> Result<u32, SpillError> {
        let mut piece = vec![0_u8; PIECE_BYTES];
        let (mut crc, mut offset) = (0, 0);
        loop {
            let count = self.read_at(blob, offset, &mut piece)?;
            if count == 0 {
                return Ok(crc);
            }
            crc = crc32c::crc32c_append(crc, &piece[..count]);
            offset = offset.saturating_add(count as u64);
        }
    }

    /// The directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Starts a file of `total_len` bytes. Its space is taken as the bytes come.
    ///
    /// # Errors
    /// Too large, too much together with the others as they are now, or the directory cannot be written.
    pub fn create(&self, total_len: u64) -> Result<SpillWriter, SpillError> {
        let len = u32::try_from(total_len)
            .ok()
            .filter(|_| total_len <= self.limit)
            .ok_or(SpillError::TooLarge {
                bytes: total_len,
                limit: self.limit,
            })?;
        if self.room.is_behind() {
            return Err(SpillError::Behind {
                dir: self.dir.clone(),
                files: self.room.given_up(),
            });
        }
        let used = self.used_bytes();
        if used.saturating_add(total_len) > self.room.total {
            return Err(SpillError::NoRoom {
                bytes: total_len,
                used,
                limit: self.room.total,
            });
        }
        Ok(SpillWriter::new(self.clone(), self.new_file()?, len))
    }

    /// Stores a whole blob.
    ///
    /// # Errors
    /// As [`SpillStore::create`] and [`SpillWriter::write`].
    pub fn store(&self, bytes: &[u8]) -> Result<BlobRef, SpillError> {
        let mut writer = self.create(bytes.len() as u64)?;
        writer.write(bytes)?;
        writer.finish()
    }

    /// Reads from `offset` on, as much as `out` takes; returns how much that was, 0 at the end.
    ///
    /// # Errors
    /// The file is gone, has another length, or cannot be read.
    pub fn read_at(&self, blob: BlobRef, offset: u64, out: &mut [u8]) -> Result<usize, SpillError> {
        let BlobRef::Spill { number, len } = blob else {
            return Err(SpillError::NotSpilled);
        };
        let path = self.path_of(number);
        let failed = |source| SpillError::File {
            file: path.clone(),
            source,
        };
        let file = File::open(&path).map_err(failed)?;
        let found = file.metadata().map_err(failed)?.len();
        let expected = u64::from(len);
        if found != file_bytes(expected) {
            return Err(SpillError::Length {
                file: path,
                found,
                expected: file_bytes(expected),
            });
        }
        let rest = expected.saturating_sub(offset);
        let count = usize::try_from(rest).unwrap_or(usize::MAX).min(out.len());
        let whole = Checked {
            file: &file,
            len: expected,
        };
        match whole.read(offset, &mut out[..count]).map_err(failed)? {
            None => Ok(count),
            Some(offset) => Err(SpillError::Damaged { file: path, offset }),
        }
    }

    fn path_of(&self, number: u32) -> PathBuf {
        self.dir
            .join(format!("{:016x}-{number:08x}{SUFFIX}", self.segment_id))
    }

    fn new_file(&self) -> Result<NewFile, SpillError> {
        let mut refusal = io::Error::from(ErrorKind::AlreadyExists);
        let mut made = false;
        for _ in 0..NUMBERS_TRIED_MAX {
            // ORDERING: a source of different numbers; the exclusive creation decides.
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            // LIMIT: 32 bits of the number are kept, as the reference has no more.
            let number = u32::try_from(number & 0xFFFF_FFFF).unwrap_or(0);
            let path = self.path_of(number);
            let attempt = OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&path);
            match attempt {
                Ok(file) => return Ok(NewFile { number, path, file }),
                Err(source) if source.kind() == ErrorKind::NotFound && !made => {
                    self.make_dir()?;
                    made = true;
                }
                Err(source) if source.kind() == ErrorKind::AlreadyExists => {}
                Err(source) => {
                    refusal = source;
                    break;
                }
            }
        }
        Err(SpillError::Directory {
            dir: self.dir.clone(),
            source: refusal,
        })
    }

    fn make_dir(&self) -> Result<(), SpillError> {
        let made = DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.dir);
        made.map_err(|source| SpillError::Directory {
            dir: self.dir.clone(),
            source,
        })
    }

    fn refusal(&self, source: io::Error, bytes: u64, path: &Path) -> SpillError {
        let errno = source.raw_os_error().map(Errno::from_raw);
        if matches!(errno, Some(Errno::ENOSPC | Errno::EDQUOT | Errno::EFBIG)) {
            SpillError::Full {
                dir: self.dir.clone(),
                bytes,
                source,
            }
        } else {
            SpillError::File {
                file: path.to_owned(),
                source,
            }
        }
    }
}

#[cfg(test)]
mod tests;
