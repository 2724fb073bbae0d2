//! The image of a segment in a file: for people, not for recovery.
//!
//! The image is what the memory holds, page by page, with holes where it is zero; nothing is stopped for it, so records that
//! change while they are copied may be torn, and the inspector says so of each. It is written beside its name and renamed, so
//! that a file of that name is always whole. Parts that nobody ever used (slots above the high-water mark, free blocks
//! of the arena) are not even read, since reading shared memory allocates it.
//!
//! Tested in `shm/tests/images.rs`.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::layout::region_table::PAGE_BYTES;
use crate::layout::{RegionEntry, RegionKind};
use crate::region::Mapping;
use crate::segment::SegmentView;
use crate::sync::{AtomicU64, Ordering};
use crate::task::slot::TaskSlot;
use crate::time::wall_ns;

const PAGE_WORDS: usize = 512;
const _: () = assert!(PAGE_WORDS as u64 * 8 == PAGE_BYTES);
const BLOCK_BYTES: u64 = 64 << 10;

/// What was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageReport {
    /// Bytes of the image, holes included.
    pub image_bytes: u64,
    /// Bytes that were not zero and were written.
    pub written_bytes: u64,
}

impl SegmentView {
    /// Writes an image of the segment, live or dead, to `path`, which must not exist. Mode 0600.
    ///
    /// # Errors
    /// The file exists or cannot be written.
    pub fn write_image(&self, path: &Path) -> io::Result<ImageReport> {
        let spans = self.used_spans();
        write_image(&self.parts.mapping, path, &spans, self.header.total_bytes)
    }

    /// Byte ranges that may hold something.
    fn used_spans(&self) -> Vec<(u64, u64)> {
        let mut spans = Vec::new();
        for (kind, entry) in self.parts.table.iter() {
            match kind {
                RegionKind::Tasks => {
                    let used = u64::from(self.high_water()) * size_of::<TaskSlot>() as u64;
                    spans.push((entry.offset, used.min(entry.bytes)));
                }
                RegionKind::ArenaData => self.push_used_blocks(entry, &mut spans),
                RegionKind::Header
                | RegionKind::Control
                | RegionKind::Counters
                | RegionKind::Kinds
                | RegionKind::Names
                | RegionKind::Principals
                | RegionKind::Queues
                | RegionKind::Shapes
                | RegionKind::Lines
                | RegionKind::LineHeap
                | RegionKind::Pages
                | RegionKind::Attaches
                | RegionKind::Lanes
                | RegionKind::Clients
                | RegionKind::Workers
                | RegionKind::WorkerHeap
                | RegionKind::Leases
                | RegionKind::TaskBitmap
                | RegionKind::Ready
                | RegionKind::Timers
                | RegionKind::Idempotency
                | RegionKind::Histograms
                | RegionKind::Events
                | RegionKind::Errors
                | RegionKind::ArenaIndex => spans.push((entry.offset, entry.bytes)),
            }
        }
        spans
    }

    fn push_used_blocks(&self, data: RegionEntry, spans: &mut Vec<(u64, u64)>) {
        for chunk in self
            .parts
            .arena()
            .chunks(0..self.parts.geometry.arena_blocks())
        {
            let start = u64::from(chunk.unit) * 64 / BLOCK_BYTES * BLOCK_BYTES;
            let span = (data.offset.saturating_add(start), BLOCK_BYTES);
            if spans.last() != Some(&span) {
                spans.push(span);
            }
        }
    }
}

/// Saves memory that cannot be used under a new name in `dir`; gives the name, also with an error.
pub(super) fn put_aside(
    memory: &Mapping,
    dir: &Path,
    instance: &str,
) -> Result<PathBuf, (PathBuf, io::Error)> {
    let file = dir.join(format!("aside-{instance}-{}.image", wall_ns() / 1_000_000));
    let whole = [(0, memory.bytes())];
    let written =
        fs::create_dir_all(dir).and_then(|()| write_image(memory, &file, &whole, memory.bytes()));
    match written {
        Ok(_) => Ok(file),
        Err(error) => Err((file, error)),
    }
}

fn write_image(
    memory: &Mapping,
    path: &Path,
    spans: &[(u64, u64)],
    image_bytes: u64,
) -> io::Result<ImageReport> {
    if path.symlink_metadata().is_ok() {
        let message = format!("{} exists; choose another name", path.display());
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, message));
    }
    let unfinished = path.with_added_extension("partial");
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&unfinished)?;
    let written = write_spans(memory, &file, spans, image_bytes).and_then(|written_bytes| {
        file.sync_all()?;
        fs::rename(&unfinished, path)?;
        Ok(ImageReport {
            image_bytes,
            written_bytes,
        })
    });
    if written.is_err() {
        // What failed is told; a partial file of that name is overwritten by the next attempt.
        let _ = fs::remove_file(&unfinished);
    }
    written
}

fn write_spans(
    memory: &Mapping,
    file: &File,
    spans: &[(u64, u64)],
    image_bytes: u64,
) -> io::Result<u64> {
    let mut out = BufWriter::with_capacity(1 << 20, file);
    let mut written = 0;
    let mut at = 0;
    let mut page = Vec::with_capacity(PAGE_WORDS * 8);
    for &(offset, bytes) in spans {
        let first = usize::try_from(offset / 8).unwrap_or(usize::MAX);
        let count = usize::try_from(bytes / 8).unwrap_or(0);
        let words = memory
            .words()
            .get(first..first.saturating_add(count))
            .unwrap_or_default();
        for (index, words) in words.chunks(PAGE_WORDS).enumerate() {
            if !copy_page(words, &mut page) {
                continue;
            }
            let place = offset.saturating_add(index as u64 * PAGE_BYTES);
            if place != at {
                out.seek(SeekFrom::Start(place))?;
            }
            out.write_all(&page)?;
            at = place.saturating_add(page.len() as u64);
            written += page.len() as u64;
        }
    }
    out.flush()?;
    file.set_len(image_bytes)?;
    Ok(written)
}

/// Copies a page out; false when it is all zeros.
fn copy_page(words: &[AtomicU64], page: &mut Vec<u8>) -> bool {
    page.clear();
    let mut any = 0;
    for word in words {
        // ORDERING: an image may be torn; state words are read with the fields around them by the inspector.
        let value = word.load(Ordering::Relaxed);
        any |= value;
        page.extend_from_slice(&value.to_le_bytes());
    }
    any != 0
}
