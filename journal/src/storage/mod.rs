//! The directory of a journal, as the journal sees it: so little of a file system that a fault layer and a simulated disk can
//! stand in for it.
//!
//! | type | what |
//! |---|---|
//! | [`StdStorage`] | a directory of the real file system |
//! | [`FaultyStorage`] | lets operation number N of another storage fail once |
//! | [`SimDisk`] | in memory, with crashes that lose or tear what was not synced |
//!
//! All calls block; they are for the start, for helper threads and for tests. The writes of groups go another way: as steps of
//! the [`crate::Writer`], which a driver executes ([`write_group`] does it for a storage).

mod faulty;
mod sim;
mod std_storage;

use core::fmt;
use core::ops::Deref;
use std::io;
use std::sync::Arc;

pub use faulty::{Fault, FaultyStorage, Operation};
pub use sim::SimDisk;
pub use std_storage::StdStorage;

use crate::write::Write;

/// A directory.
pub trait Storage: fmt::Debug + Send + Sync {
    /// The names in it.
    ///
    /// # Errors
    /// As the file system says; so for all calls.
    fn list(&self) -> io::Result<Vec<String>>;

    /// Makes a new, empty file; one of that name must not be there.
    ///
    /// # Errors
    /// See [`Storage::list`].
    fn create(&self, name: &str) -> io::Result<Box<dyn StorageFile>>;

    /// Opens a file for reading and writing.
    ///
    /// # Errors
    /// See [`Storage::list`].
    fn open(&self, name: &str) -> io::Result<Box<dyn StorageFile>>;

    /// The whole content, for reading.
    ///
    /// # Errors
    /// See [`Storage::list`].
    fn map(&self, name: &str) -> io::Result<Mapped>;

    /// Renames a file; one that has the new name is replaced.
    ///
    /// # Errors
    /// See [`Storage::list`].
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a file.
    ///
    /// # Errors
    /// See [`Storage::list`].
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Bytes that files may still take, as far as can be told; others use the disk too.
    ///
    /// # Errors
    /// See [`Storage::list`].
    fn free_bytes(&self) -> io::Result<u64>;

    /// Brings names made, changed and removed to stable storage.
    ///
    /// # Errors
    /// See [`Storage::list`].
    fn sync_dir(&self) -> io::Result<()>;
}

/// An open file.
pub trait StorageFile: fmt::Debug + Send {
    /// Its length.
    ///
    /// # Errors
    /// As the file system says; so for all calls.
    fn len(&self) -> io::Result<u64>;

    /// It has no bytes.
    ///
    /// # Errors
    /// See [`StorageFile::len`].
    fn is_empty(&self) -> io::Result<bool> {
        self.len().map(|len| len == 0)
    }

    /// Reads from `offset` on; less than asked for only at the end.
    ///
    /// # Errors
    /// See [`StorageFile::len`].
    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<usize>;

    /// Writes at `offset`; may write less than asked for.
    ///
    /// # Errors
    /// See [`StorageFile::len`].
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<usize>;

    /// Brings what was written to stable storage.
    ///
    /// # Errors
    /// See [`StorageFile::len`].
    fn sync_data(&self) -> io::Result<()>;
}

/// The content of a file.
#[derive(Debug, Clone)]
pub enum Mapped {
    /// A memory map.
    Map(Arc<memmap2::Mmap>),
    /// A copy.
    Bytes(Arc<[u8]>),
}

impl Deref for Mapped {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Map(map) => map,
            Self::Bytes(bytes) => bytes,
        }
    }
}

/// Writes all of `bytes`, over short and interrupted writes.
pub(crate) fn write_all(file: &dyn StorageFile, offset: u64, bytes: &[u8]) -> io::Result<()> {
    let (mut offset, mut rest) = (offset, bytes);
    while !rest.is_empty() {
        match file.write_at(offset, rest) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => {
                rest = rest.get(written..).unwrap_or_default();
                offset = offset.saturating_add(written as u64);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Executes a write of the [`crate::Writer`] on a storage, with its sync: what a driver without a ring does. Returns what
/// [`crate::Writer::written`] wants to know.
pub fn write_group(storage: &dyn Storage, write: Write) -> (Vec<u8>, io::Result<usize>) {
    let result = storage.open(&write.file.name()).and_then(|file| {
        let written = file.write_at(write.offset, write.bytes())?;
        if !cfg!(qtf_mutant = "sim_sync_is_left_out") {
            file.sync_data()?;
        }
        Ok(written)
    });
    (write.into_buffer(), result)
}
