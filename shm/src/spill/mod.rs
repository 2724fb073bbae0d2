//! Blobs too large for the arena, one file each.
//!
//! Invariants:
//! - I1: a file is read and written by position, never mapped: a file that shrinks, fails or vanishes is an error of the task it
//!   belongs to, not a signal (`docs/adr/0003`).
//! - I2: space is taken before the first byte is written, so a full disk is told at creation; a file that was not finished is
//!   removed.
//! - I3: a file's length is compared with its reference at each read.
//! - I4: the files of one store never hold more than its bound together: a file's length is counted before the file is made, and
//!   until it is removed or given up: what is given up is nobody's and waits to be removed, soon, by whoever has the time. What
//!   lies there at the start of a daemon is counted by [`SpillStore::remove_others`].
//! - I5: behind its bytes a file carries a CRC32C of each block of 64 KiB, and each read checks the blocks that it touches: a
//!   flipped bit is an error of the task it belongs to, never other bytes.
//!
//! The directory is made when first needed, mode 0700; files have mode 0600. Tested at the end of this file.

mod blocks;
mod removal;
mod room;

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::posix_fallocate;

use crate::blob::{BLOB_BYTES_MAX, BlobRef};
use crate::random::random_u64;
use crate::sync::{AtomicU64, Ordering};

use blocks::{BLOCK_BYTES, Checked, data_bytes, file_bytes};
use room::Room;

/// LIMIT: numbers tried for a new file; each miss means that a file of that number is there.
const NUMBERS_TRIED_MAX: u32 = 64;
const SUFFIX: &str = ".spill";
/// Bytes read at a time for a checksum.
const PIECE_BYTES: usize = 64 << 10;
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

    /// Bytes that the files hold together, those under way with the length that was announced.
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

    /// Starts a file of `total_len` bytes and takes the space for it.
    ///
    /// # Errors
    /// Too large, too much together with the others, the directory cannot be written, or the disk is full.
    pub fn create(&self, total_len: u64) -> Result<SpillWriter, SpillError> {
        let len = u32::try_from(total_len)
            .ok()
            .filter(|_| total_len <= self.limit)
            .ok_or(SpillError::TooLarge {
                bytes: total_len,
                limit: self.limit,
            })?;
        self.room
            .take(total_len)
            .map_err(|used| SpillError::NoRoom {
                bytes: total_len,
                used,
                limit: self.room.total,
            })?;
        let made = self.new_file();
        let (number, path, file) = made.inspect_err(|_| self.room.give_back(total_len))?;
        let writer = SpillWriter {
            file,
            path,
            number,
            len,
            written: 0,
            sum: 0,
            sums: Vec::new(),
            finished: false,
            room: Arc::clone(&self.room),
        };
        if len > 0 {
            // LIMIT: blobs are far below the largest offset.
            let length = i64::try_from(file_bytes(total_len)).unwrap_or(i64::MAX);
            posix_fallocate(&writer.file, 0, length)
                .map_err(|errno| self.refusal(errno, total_len, &writer.path))?;
        }
        Ok(writer)
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

    fn new_file(&self) -> Result<(u32, PathBuf, File), SpillError> {
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
                Ok(file) => return Ok((number, path, file)),
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

    fn refusal(&self, errno: Errno, bytes: u64, path: &Path) -> SpillError {
        let source = io::Error::from(errno);
        if matches!(errno, Errno::ENOSPC | Errno::EDQUOT | Errno::EFBIG) {
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

/// A file that is being written. Dropped before [`SpillWriter::finish`] it is removed.
#[derive(Debug)]
pub struct SpillWriter {
    file: File,
    path: PathBuf,
    number: u32,
    len: u32,
    written: u64,
    /// Checksum of the block that is being written, and those of the blocks before.
    sum: u32,
    sums: Vec<u8>,
    finished: bool,
    room: Arc<Room>,
}

impl SpillWriter {
    /// Appends bytes.
    ///
    /// # Errors
    /// More than was announced, or the file cannot be written.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), SpillError> {
        let end = self.written.saturating_add(bytes.len() as u64);
        if end > u64::from(self.len) {
            return Err(SpillError::Announced {
                written: end,
                expected: u64::from(self.len),
            });
        }
        self.file
            .write_all_at(bytes, self.written)
            .map_err(|source| SpillError::File {
                file: self.path.clone(),
                source,
            })?;
        self.note_sums(bytes);
        self.written = end;
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
        summed.map_err(|source| SpillError::File {
            file: self.path.clone(),
            source,
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
            self.room.give_back(u64::from(self.len));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn store() -> (tempfile::TempDir, SpillStore) {
        let dir = tempfile::tempdir().unwrap();
        let store = SpillStore::open(dir.path().join("deep/spill"), 1 << 20);
        (dir, store)
    }

    fn files(store: &SpillStore) -> usize {
        fs::read_dir(store.dir()).map_or(0, Iterator::count)
    }

    #[test]
    fn blob_that_is_there_can_be_synced_and_one_that_is_gone_cannot() {
        let (_dir, store) = store();
        let blob = store.store(b"kept").unwrap();
        store.secure(blob).unwrap();
        store.remove(blob).unwrap();
        assert!(matches!(store.secure(blob), Err(SpillError::File { .. })));
        assert!(matches!(
            store.secure(BlobRef::None),
            Err(SpillError::NotSpilled)
        ));
    }

    #[test]
    fn each_flipped_bit_is_named_by_whoever_reads_the_block() {
        let (_dir, store) = store();
        let bytes: Vec<u8> = (0..140_000_u32).map(|at| (at % 251) as u8).collect();
        let mut writer = store.create(bytes.len() as u64).unwrap();
        for piece in bytes.chunks(50_001) {
            writer.write(piece).unwrap();
        }
        let blob = writer.finish().unwrap();
        let BlobRef::Spill { number, .. } = blob else {
            panic!("in a file");
        };
        let path = store.path_of(number);
        let whole = fs::read(&path).unwrap();
        let mut out = vec![0; 140_000];
        assert_eq!(store.read_at(blob, 0, &mut out).unwrap(), 140_000);
        assert_eq!(out, bytes);
        assert_eq!(store.read_at(blob, 65_530, &mut out[..100]).unwrap(), 100);
        assert_eq!(out[..100], bytes[65_530..65_630]);
        for at in (0..whole.len()).step_by(4_999).chain(140_000..whole.len()) {
            let mut flipped = whole.clone();
            flipped[at] ^= 1 << (at % 8);
            fs::write(&path, &flipped).unwrap();
            let block = if at < 140_000 {
                at >> 16
            } else {
                (at - 140_000) / 4
            };
            match store.crc32c(blob) {
                Err(SpillError::Damaged { offset, .. }) => assert_eq!(offset, (block as u64) << 16),
                other => panic!("byte {at}: {other:?}"),
            }
        }
    }

    #[test]
    fn lengths_of_files_and_of_their_bytes_belong_together() {
        for bytes in [0, 1, 65_535, 65_536, 65_537, 131_072, 131_073, 1 << 30] {
            assert_eq!(data_bytes(file_bytes(bytes)), bytes);
        }
    }

    #[test]
    fn blob_comes_back_in_pieces_and_is_removed() {
        let (_dir, store) = store();
        assert!(!store.dir().exists(), "nothing is made before it is needed");
        let bytes: Vec<u8> = (0..100_000_u32)
            .map(|number| (number % 251) as u8)
            .collect();
        let mut writer = store.create(bytes.len() as u64).unwrap();
        for part in bytes.chunks(7_000) {
            writer.write(part).unwrap();
        }
        let blob = writer.finish().unwrap();
        let mut out = vec![0; 60_000];
        assert_eq!(store.read_at(blob, 0, &mut out).unwrap(), 60_000);
        assert_eq!(out, bytes[..60_000]);
        assert_eq!(store.read_at(blob, 60_000, &mut out).unwrap(), 40_000);
        assert_eq!(out[..40_000], bytes[60_000..]);
        assert_eq!(store.read_at(blob, 100_000, &mut out).unwrap(), 0);
        assert_eq!(store.read_at(blob, u64::MAX, &mut out).unwrap(), 0);
        store.remove(blob).unwrap();
        store.remove(blob).unwrap();
        assert!(matches!(
            store.read_at(blob, 0, &mut out),
            Err(SpillError::File { .. })
        ));
    }

    #[test]
    fn directory_and_files_are_the_owners_only() {
        let (_dir, store) = store();
        store.store(b"secret").unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(store.dir()), 0o700);
        let file = fs::read_dir(store.dir())
            .unwrap()
            .next()
            .unwrap()
            .unwrap()
            .path();
        assert_eq!(mode(&file), 0o600);
    }

    #[test]
    fn file_that_was_cut_short_or_grew_is_an_error() {
        let (_dir, store) = store();
        let blob = store.store(&[7; 5000]).unwrap();
        let file = fs::read_dir(store.dir())
            .unwrap()
            .next()
            .unwrap()
            .unwrap()
            .path();
        for length in [0, 4999, 5001] {
            OpenOptions::new()
                .write(true)
                .open(&file)
                .unwrap()
                .set_len(length)
                .unwrap();
            let read = store.read_at(blob, 0, &mut [0; 10]);
            assert!(matches!(read, Err(SpillError::Length { .. })), "{length}");
        }
    }

    #[test]
    fn unfinished_file_is_removed() {
        let (_dir, store) = store();
        let mut writer = store.create(10).unwrap();
        writer.write(b"12345").unwrap();
        assert!(matches!(
            writer.write(b"678901"),
            Err(SpillError::Announced { .. })
        ));
        assert!(matches!(writer.finish(), Err(SpillError::Announced { .. })));
        drop(store.create(100).unwrap());
        assert_eq!(files(&store), 0);
    }

    #[test]
    fn blob_above_the_limit_is_refused() {
        let (_dir, store) = store();
        assert!(matches!(
            store.create((1 << 20) + 1),
            Err(SpillError::TooLarge { .. })
        ));
        assert!(matches!(
            store.create(u64::MAX),
            Err(SpillError::TooLarge { .. })
        ));
        assert!(store.create(1 << 20).is_ok());
    }

    #[test]
    fn all_blobs_together_stay_below_the_bound() {
        let (_dir, store) = store();
        let store = store.bounded(1000);
        let first = store.store(&[1; 600]).unwrap();
        let under_way = store.clone().create(300).unwrap();
        let refused = store.store(&[3; 101]).unwrap_err();
        assert!(
            matches!(
                refused,
                SpillError::NoRoom {
                    bytes: 101,
                    used: 900,
                    limit: 1000
                }
            ),
            "{refused}"
        );
        assert!(
            refused.to_string().contains("spill_limit_bytes"),
            "{refused}"
        );
        assert_eq!(files(&store), 2, "nothing is made of what is refused");
        drop(under_way);
        let second = store.store(&[2; 400]).unwrap();
        assert_eq!(store.used_bytes(), 1000);
        store.remove(first).unwrap();
        store.remove(first).unwrap();
        assert_eq!(store.used_bytes(), 400, "given back once");
        store.remove(second).unwrap();
        assert_eq!((store.used_bytes(), files(&store)), (0, 0));
    }

    #[test]
    fn file_that_cannot_be_made_takes_no_room() {
        let dir = tempfile::tempdir().unwrap();
        let occupied = dir.path().join("file");
        fs::write(&occupied, "").unwrap();
        let store = SpillStore::open(occupied.join("spill"), 100);
        assert!(store.store(b"x").is_err());
        assert_eq!(store.used_bytes(), 0);
    }

    #[test]
    fn files_that_are_kept_at_the_start_of_a_daemon_count() {
        let (_dir, store) = store();
        let before = store.of_segment(7);
        let kept = before.store(&[1; 70]).unwrap();
        before.store(&[2; 30]).unwrap();
        let after = SpillStore::open(before.dir(), 1000)
            .bounded(100)
            .of_segment(7);
        let wanted = |number| kept == BlobRef::Spill { number, len: 70 };
        assert_eq!(after.remove_others(wanted).unwrap(), 1);
        assert_eq!(after.used_bytes(), 70);
        assert!(matches!(
            after.store(&[3; 31]),
            Err(SpillError::NoRoom { .. })
        ));
        after.remove(kept).unwrap();
        assert!(after.store(&[3; 100]).is_ok());
    }

    #[test]
    fn directory_that_cannot_be_made_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let occupied = dir.path().join("file");
        fs::write(&occupied, "").unwrap();
        let store = SpillStore::open(occupied.join("spill"), 100);
        let error = store.store(b"x").unwrap_err().to_string();
        assert!(error.contains("file/spill"), "{error}");
    }

    #[test]
    fn reference_to_something_else_is_refused() {
        let (_dir, store) = store();
        let read = store.read_at(BlobRef::Inline { len: 3 }, 0, &mut [0; 3]);
        assert!(matches!(read, Err(SpillError::NotSpilled)));
        store.remove(BlobRef::None).unwrap();
    }

    #[test]
    fn files_that_nobody_refers_to_are_removed_and_those_of_other_segments_stay() {
        let (_dir, store) = store();
        let ours = store.clone().of_segment(7);
        assert_eq!(ours.remove_others(|_| false).unwrap(), 0);
        let kept = ours.store(b"kept").unwrap();
        ours.store(b"lost").unwrap();
        let other = store.of_segment(8).store(b"other").unwrap();
        fs::write(ours.dir().join("note.txt"), "").unwrap();
        let wanted = |number| kept == BlobRef::Spill { number, len: 4 };
        assert_eq!(ours.remove_others(wanted).unwrap(), 1);
        assert_eq!(files(&ours), 3);
        assert_eq!(ours.read_at(kept, 0, &mut [0; 4]).unwrap(), 4);
        assert!(
            ours.read_at(other, 0, &mut [0; 5]).is_err(),
            "of another segment"
        );
    }

    #[test]
    fn two_stores_of_one_directory_do_not_overwrite_each_other() {
        let (_dir, store) = store();
        let other = SpillStore::open(store.dir(), 100);
        other
            .next
            .store(store.next.load(Ordering::Relaxed), Ordering::Relaxed);
        let first = store.store(b"first").unwrap();
        let second = other.store(b"second").unwrap();
        let mut out = [0; 5];
        store.read_at(first, 0, &mut out).unwrap();
        assert_eq!(&out, b"first");
        assert_ne!(first.as_raw() & 0xFFFF_FFFF, second.as_raw() & 0xFFFF_FFFF);
    }

    #[test]
    fn what_is_given_up_makes_room_before_its_file_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let store = SpillStore::open(dir.path(), 1 << 20).bounded(10);
        let first = store.store(&[1; 8]).unwrap();
        assert!(matches!(
            store.store(&[2; 8]),
            Err(SpillError::NoRoom { .. })
        ));
        store.give_up(first);
        assert_eq!(store.used_bytes(), 0);
        let second = store.store(&[2; 8]).unwrap();
        store.remove_given_up(first).unwrap();
        assert_eq!(store.used_bytes(), 8, "it counts once");
        assert_eq!(store.files().unwrap().len(), 1);
        store.remove(second).unwrap();
        assert_eq!(store.used_bytes(), 0);
        store.remove_given_up(second).unwrap();
    }

    #[test]
    fn file_that_is_gone_can_neither_be_synced_nor_summed_and_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let store = SpillStore::open(dir.path().join("a/b"), 1 << 20);
        assert_eq!(store.files().unwrap(), Vec::new());
        assert!(matches!(
            store.sync_dir(),
            Err(SpillError::Directory { .. })
        ));
        let blob = store.store(&vec![1; 70_000]).unwrap();
        let BlobRef::Spill { number, len } = blob else {
            panic!("{blob:?} is no file");
        };
        store.sync(number).unwrap();
        store.sync_dir().unwrap();
        store.sync_dir().unwrap();
        assert_eq!(store.files().unwrap(), vec![(number, u64::from(len))]);
        assert_eq!(
            store.crc32c(blob).unwrap(),
            crc32c::crc32c(&vec![1; 70_000])
        );
        store.remove(blob).unwrap();
        let text = store.sync(number).unwrap_err().to_string();
        assert!(text.contains(&format!("{number:08x}.spill")), "{text}");
        assert!(store.crc32c(blob).is_err());
        assert!(matches!(
            store.crc32c(BlobRef::None),
            Err(SpillError::NotSpilled)
        ));
    }
}
