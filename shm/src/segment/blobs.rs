//! Payloads and results: where they are stored, and how they are read.
//!
//! Order of places: in the slot (up to 48 bytes, of both together where the payload is there), in the arena (up to 64 KiB), in a file.
//! A submission that finds the arena full is refused; a result goes to a file then. In the slot the PLM alone writes results, so those of
//! local workers lie in the arena, or in a file.

use crate::arena::{AllocateError, Purpose, copy_in, copy_out};
use crate::blob::BlobRef;
use crate::counters::Counter;
use crate::id::{SlotIndex, TaskId};
use crate::reading::second_look;
use crate::segment::free::chunk_owner;
use crate::segment::records::{Part, TaskRecord};
use crate::segment::{Segment, SegmentView};
use crate::spill::SpillError;
use crate::task::slot::{INLINE_BYTES_MAX, TaskSlot};

/// Largest blob that lies in the arena; more goes to a file.
pub(super) const ARENA_BLOB_BYTES_MAX: usize = 64 << 10;

/// A blob could not be stored.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Larger than the segment's limit.
    #[error("{bytes} bytes are more than the limit of {limit} (setting `payload_limit`)")]
    TooLarge {
        /// What was to be stored.
        bytes: u64,
        /// The limit.
        limit: u64,
    },
    /// No room for a submission's bytes.
    #[error(
        "no room for {bytes} bytes in the arena: finish or forget tasks, or make the segment larger"
    )]
    ArenaFull {
        /// What was to be stored.
        bytes: u64,
    },
    /// A file could not be written.
    #[error(transparent)]
    Spill(#[from] SpillError),
    /// The id names no slot of this segment.
    #[error("task {0} has no slot in this segment")]
    NoSlot(TaskId),
}

/// A blob could not be read.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The slot or the chunk belongs to a later task by now.
    #[error("the task is gone: its slot or its bytes belong to a later one")]
    Gone,
    /// A file could not be read.
    #[error(transparent)]
    Spill(#[from] SpillError),
    /// The bytes lie in a file, and the directory is not known.
    #[error(
        "the bytes lie in spill file {number:08x}, whose directory is not known: only its daemon can read it"
    )]
    SpillUnknown {
        /// Number of the file.
        number: u32,
    },
    /// The reference makes no sense.
    #[error("the slot refers to {len} bytes {place}, which cannot be: it was damaged")]
    Impossible {
        /// Where they should lie.
        place: &'static str,
        /// How many they should be.
        len: u64,
    },
}

impl Segment {
    /// Stores bytes for a task and returns where they lie. The caller writes the reference into the slot, or releases it.
    ///
    /// # Errors
    /// Too large, no room, or a file cannot be written.
    pub fn store(
        &self,
        owner: TaskId,
        bytes: &[u8],
        purpose: Purpose,
    ) -> Result<BlobRef, StoreError> {
        match self.store_in_memory(owner, bytes, purpose) {
            Err(StoreError::ArenaFull { .. })
                if purpose == Purpose::Result || bytes.len() > ARENA_BLOB_BYTES_MAX =>
            {
                self.store_in_file(bytes)
            }
            stored => stored,
        }
    }

    /// The same without touching a disk: in the slot, or in the arena.
    ///
    /// # Errors
    /// Too large, or no room; also for what is too large for the arena.
    pub fn store_in_memory(
        &self,
        owner: TaskId,
        bytes: &[u8],
        purpose: Purpose,
    ) -> Result<BlobRef, StoreError> {
        let slot = self.slot_of(owner).ok_or(StoreError::NoSlot(owner))?;
        let len = u32::try_from(bytes.len())
            .ok()
            .filter(|&len| u64::from(len) <= self.payload_limit());
        let Some(len) = len else {
            return Err(StoreError::TooLarge {
                bytes: bytes.len() as u64,
                limit: self.payload_limit(),
            });
        };
        if bytes.is_empty() {
            return Ok(BlobRef::None);
        }
        let is_writer = self.plm_right().is_some();
        if purpose == Purpose::Result && is_writer {
            let place = inline_place(self.task(slot), Part::Result);
            if place.saturating_add(bytes.len()) <= INLINE_BYTES_MAX {
                return Ok(self.write_inline(slot, place, bytes));
            }
        }
        let full = StoreError::ArenaFull {
            bytes: u64::from(len),
        };
        if bytes.len() > ARENA_BLOB_BYTES_MAX {
            return Err(full);
        }
        let arena = self.view.parts.arena();
        let stored =
            self.section(|| arena.store(self.claimant(), chunk_owner(owner), bytes, purpose));
        match stored {
            Ok(unit) => Ok(BlobRef::Arena { unit, len }),
            Err(AllocateError::Full { .. } | AllocateError::TooLarge { .. }) => Err(full),
        }
    }

    /// Copies bytes of a task's payload or result from `offset` on; returns how many, 0 at the end.
    ///
    /// # Errors
    /// The task is gone, or its bytes cannot be read.
    pub fn load(
        &self,
        owner: TaskId,
        part: Part,
        offset: u64,
        out: &mut [u8],
    ) -> Result<usize, LoadError> {
        let slot = self.slot_of(owner).ok_or(LoadError::Gone)?;
        let task = self.task(slot);
        let state = task.state();
        if !state.is_of(owner) {
            return Err(LoadError::Gone);
        }
        let blob = match part {
            Part::Payload => task.payload(),
            Part::Result => match self.end_beside(slot, state) {
                Some(end) => end.result,
                None => task.result(),
            },
        };
        self.read_blob(owner, (part, blob), offset, out)
    }

    fn store_in_file(&self, bytes: &[u8]) -> Result<BlobRef, StoreError> {
        match self.spill.store(bytes) {
            Ok(blob) => {
                self.counters().add(Counter::SpillWritten, 1);
                self.counters().add(Counter::SpillBytes, bytes.len() as u64);
                Ok(blob)
            }
            Err(error) => {
                self.counters().add(Counter::SpillFailed, 1);
                Err(error.into())
            }
        }
    }

    /// Writes at most 48 bytes into the slot, from `place` on. The caller is the one that the state makes the writer.
    pub(super) fn write_inline(&self, slot: SlotIndex, place: usize, bytes: &[u8]) -> BlobRef {
        let count = bytes.len().min(INLINE_BYTES_MAX);
        if !copy_in(&self.task(slot).inline_bytes, place, &bytes[..count]) {
            return BlobRef::None;
        }
        // LIMIT: at most 48.
        BlobRef::Inline {
            len: u32::try_from(count).unwrap_or(0),
        }
    }
}

/// Where a part lies in its slot, if it does: the payload in front, the result at the next word behind it, so that no word has bytes
/// of both.
pub(super) fn inline_place(task: &TaskSlot, part: Part) -> usize {
    match (part, task.payload()) {
        (Part::Result, BlobRef::Inline { len }) => {
            (len as usize).next_multiple_of(size_of::<u64>())
        }
        (Part::Payload | Part::Result, _) => 0,
    }
}

impl SegmentView {
    /// Copies bytes of a task's payload or result from `offset` on; returns how many, 0 at the end. Compares the
    /// generation before and after the copy.
    ///
    /// # Errors
    /// The task is gone, or its bytes cannot be read.
    pub fn load_blob(
        &self,
        task: &TaskRecord,
        part: Part,
        offset: u64,
        out: &mut [u8],
    ) -> Result<usize, LoadError> {
        let owner = task.id.ok_or(LoadError::Gone)?;
        let blob = match part {
            Part::Payload => task.payload,
            Part::Result => task.result,
        };
        self.read_blob(owner, (part, blob), offset, out)
    }

    pub(super) fn read_blob(
        &self,
        owner: TaskId,
        (part, blob): (Part, BlobRef),
        offset: u64,
        out: &mut [u8],
    ) -> Result<usize, LoadError> {
        let slot = self
            .parts
            .tasks
            .get(owner.slot().position())
            .ok_or(LoadError::Gone)?;
        let impossible = LoadError::Impossible {
            place: blob.place(),
            len: blob.len(),
        };
        let rest = blob.len().saturating_sub(offset);
        let count = usize::try_from(rest).unwrap_or(usize::MAX).min(out.len());
        let place = usize::try_from(offset).unwrap_or(usize::MAX);
        let out = &mut out[..count];
        match blob {
            BlobRef::None => {}
            BlobRef::Spill { number, .. } => {
                let spill = self
                    .spill
                    .as_ref()
                    .ok_or(LoadError::SpillUnknown { number })?;
                let read = spill.read_at(blob, offset, out)?;
                // A freed slot's file may be gone or replaced; the state tells whether it was ours.
                return if slot.state().is_of(owner) {
                    Ok(read)
                } else {
                    Err(LoadError::Gone)
                };
            }
            BlobRef::Inline { .. } => {
                let place = place.saturating_add(inline_place(slot, part));
                if count > 0 && !copy_out(&slot.inline_bytes, place, out) {
                    return Err(impossible);
                }
            }
            BlobRef::Arena { unit, len } => {
                if len as usize > ARENA_BLOB_BYTES_MAX {
                    return Err(impossible);
                }
                if count > 0 {
                    let read = self
                        .parts
                        .arena()
                        .read(unit, chunk_owner(owner), place, out);
                    read.map_err(|_| LoadError::Gone)?;
                }
            }
        }
        if second_look(|| slot.state()).is_of(owner) {
            Ok(count)
        } else {
            Err(LoadError::Gone)
        }
    }
}
