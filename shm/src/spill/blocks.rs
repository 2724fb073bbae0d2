//! The checksums behind the bytes of a file: a CRC32C of each block of 64 KiB. Tested in `spill/mod.rs`.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// Bytes with a checksum of their own, and its size.
pub(super) const BLOCK_BYTES: u64 = 64 << 10;
const SUM_BYTES: u64 = size_of::<u32>() as u64;

/// Length of a file with so many bytes: behind them lies a checksum of each block.
pub(super) const fn file_bytes(bytes: u64) -> u64 {
    bytes.saturating_add(bytes.div_ceil(BLOCK_BYTES) * SUM_BYTES)
}

/// Bytes in a file of this length, without the checksums.
pub(super) const fn data_bytes(file_bytes: u64) -> u64 {
    file_bytes.saturating_sub(file_bytes.div_ceil(BLOCK_BYTES + SUM_BYTES) * SUM_BYTES)
}

/// A file that is read block by block.
pub(super) struct Checked<'f> {
    pub(super) file: &'f File,
    /// Bytes in front of the checksums.
    pub(super) len: u64,
}

impl Checked<'_> {
    /// Fills `out` from `offset` on; the range lies within the bytes. `Some` is where a damaged block begins.
    pub(super) fn read(&self, offset: u64, mut out: &mut [u8]) -> io::Result<Option<u64>> {
        let mut block = Vec::new();
        let mut at = offset;
        while !out.is_empty() {
            let start = at - at % BLOCK_BYTES;
            let size = (self.len - start).min(BLOCK_BYTES);
            block.resize(usize::try_from(size).unwrap_or(usize::MAX), 0);
            self.file.read_exact_at(&mut block, start)?;
            let mut sum = [0; size_of::<u32>()];
            let place = self.len + start / BLOCK_BYTES * SUM_BYTES;
            self.file.read_exact_at(&mut sum, place)?;
            if crc32c::crc32c(&block) != u32::from_le_bytes(sum) {
                return Ok(Some(start));
            }
            let skipped = usize::try_from(at - start).unwrap_or(usize::MAX);
            let wanted = block.get(skipped..).unwrap_or_default();
            let count = wanted.len().min(out.len());
            let (now, later) = out.split_at_mut(count);
            now.copy_from_slice(&wanted[..count]);
            out = later;
            at = at.saturating_add(count as u64);
        }
        Ok(None)
    }
}
