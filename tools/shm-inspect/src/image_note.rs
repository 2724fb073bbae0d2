//! The note behind an image: when it was written, and whether the segment changed meanwhile.
//!
//! ```text
//! the last 4096 bytes of the file: "QTFNOTE1", one JSON document, zeros
//! ```
//! An image without a note (saved by a daemon, or cut) is read as well. Any bytes are a legal input.
//! Tested at the end.

use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;

const MAGIC: &[u8] = b"QTFNOTE1";
const NOTE_BYTES: usize = 4096;

/// What is noted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ImageNote {
    /// Nanoseconds since the segment's origin, when the writing began.
    pub(crate) taken_ns: u64,
    /// Counters of the segment moved while the image was written: it may be of several moments.
    pub(crate) changed_while_written: bool,
}

impl ImageNote {
    /// Writes the note behind an image.
    pub(crate) fn append(self, image: &Path) -> io::Result<()> {
        let mut page = MAGIC.to_vec();
        page.extend(serde_json::to_vec(&self)?);
        page.resize(NOTE_BYTES, 0);
        let mut file = OpenOptions::new().append(true).open(image)?;
        file.write_all(&page)?;
        file.sync_all()
    }

    /// Reads the note behind an image; `None` when there is none.
    pub(crate) fn read(image: &Path) -> Option<Self> {
        let mut page = Vec::new();
        let mut file = File::open(image).ok()?;
        let back = i64::try_from(NOTE_BYTES).ok()?;
        file.seek(SeekFrom::End(back.checked_neg()?)).ok()?;
        file.take(u64::try_from(NOTE_BYTES).ok()?)
            .read_to_end(&mut page)
            .ok()?;
        let note = page.strip_prefix(MAGIC)?;
        let end = note
            .iter()
            .position(|&byte| byte == 0)
            .unwrap_or(note.len());
        serde_json::from_slice(note.get(..end)?).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOTE: ImageNote = ImageNote {
        taken_ns: 17,
        changed_while_written: true,
    };

    #[test]
    fn note_is_read_back_from_behind_anything() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for length in [0, 1, 10_000] {
            std::fs::write(file.path(), vec![7; length]).unwrap();
            assert_eq!(ImageNote::read(file.path()), None);
            NOTE.append(file.path()).unwrap();
            assert_eq!(ImageNote::read(file.path()), Some(NOTE));
        }
    }

    #[test]
    fn damaged_note_is_none() {
        let file = tempfile::NamedTempFile::new().unwrap();
        NOTE.append(file.path()).unwrap();
        let whole = std::fs::read(file.path()).unwrap();
        for at in [0, 9, 20] {
            let mut bytes = whole.clone();
            bytes[at] = 0xFF;
            std::fs::write(file.path(), &bytes).unwrap();
            assert_eq!(ImageNote::read(file.path()), None, "{at}");
        }
        assert_eq!(ImageNote::read(Path::new("no/such/file")), None);
    }
}
