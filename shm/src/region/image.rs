//! The image of a segment in a file, mapped read-only.
//!
//! The length is checked against the header once, at opening. An image that is cut short while it is mapped would raise
//! SIGBUS; images are files that the person who inspects them has made, and nobody shortens them. What a
//! running daemon reads (spill files) is never mapped, see `docs/adr/0003`. Tested in `shm/tests/`.

use core::ptr::NonNull;
use std::fs::File;
use std::io;
use std::path::Path;

use memmap2::{Mmap, MmapOptions};

/// A mapped image.
#[derive(Debug)]
pub(crate) struct ImageMemory {
    map: Mmap,
}

impl ImageMemory {
    /// Maps a file.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        // Before it is opened, which for a pipe would wait for a writer.
        if !std::fs::metadata(path)?.is_file() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "no regular file, as an image is",
            ));
        }
        let file = File::open(path)?;
        let length = file.metadata()?.len();
        if length < 16 * 1024 {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("{length} bytes are too few for the image of a segment"),
            ));
        }
        #[expect(unsafe_code, reason = "mapping a file")]
        // SAFETY: the map is private to us and read-only, and is read through atomics, so that a change of the file by
        // others gives other values and not undefined behaviour; shortening it is dealt with in this file's head.
        let map = unsafe { MmapOptions::new().map(&file) }?;
        Ok(Self { map })
    }

    pub(super) fn span(&self) -> (NonNull<u8>, usize) {
        let bytes: &[u8] = &self.map;
        (NonNull::from_ref(bytes).cast(), bytes.len())
    }
}
