//! One write as the writer orders it and the storage executes it. Tested in `journal/tests/journal/writer.rs`.

use core::ops::Range;

use crate::file::FileKey;

/// One write to one file, to be followed by a sync of its data. The driver owns the buffer until it hands it back.
#[derive(Debug)]
pub struct Write {
    /// Which file.
    pub file: FileKey,
    /// Where in it.
    pub offset: u64,
    pub(crate) buffer: Vec<u8>,
    pub(crate) range: Range<usize>,
}

impl Write {
    /// What is to be written.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        self.buffer.get(self.range.clone()).unwrap_or_default()
    }

    /// The buffer, and which part of it is to be written: for drivers that hand buffers to the kernel.
    #[must_use]
    pub fn into_parts(self) -> (Vec<u8>, Range<usize>) {
        (self.buffer, self.range)
    }

    /// The buffer, for [`Writer::written`](crate::Writer::written).
    #[must_use]
    pub fn into_buffer(self) -> Vec<u8> {
        self.buffer
    }
}
