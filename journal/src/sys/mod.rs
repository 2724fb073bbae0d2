//! The one place with `unsafe`: a memory map of a journal's file.
#![expect(unsafe_code, reason = "memmap2 has no safe way to map a file")]

use std::fs::File;
use std::io;

use memmap2::Mmap;

/// Maps a file for reading.
pub(crate) fn map(file: &File) -> io::Result<Mmap> {
    // SAFETY: the bytes are only read, and every reading checks them, so a change under our hands would be read as damage, not
    // as something that cannot be. Nobody shortens these files while they are mapped: the data directory is locked by the
    // daemon, files of a journal keep their length until they are removed, and a removed file stays mapped.
    unsafe { Mmap::map(file) }
}
