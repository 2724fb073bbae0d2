//! The payload arena: chunks of 64 bytes to 64 KiB, allocated and freed by any process without locks.
//!
//! The arena is blocks of 64 KiB. A block is unassigned, or cut into chunks of one size class as long as
//! any of them is in use. A chunk is named by its first 64-byte unit.
//!
//! # Truth and caches
//! The **chunk word** (one for each unit) is the truth: free, claimed by a process that is filling it, or
//! used by a task (slot, generation). A chunk changes hands by one CAS on it. The **block word** holds
//! the class and how many chunks are used or reserved. Everything else (taken bits, blocks with room,
//! free blocks, hints) only helps to find room, and may be wrong.
//!
//! # Invariants
//! - **I1** count in the block word >= chunk words that are not free + reservations under way. A process
//!   raises it before it looks for a chunk and lowers it after the chunk word is free.
//! - **I2** So a block loses its class only when no chunk of it is in use or about to be: chunks of
//!   different classes never overlap.
//! - **I3** A kill leaves the count too high at worst (a chunk's worth of room, back after `correct_count`),
//!   or a claimed chunk, or a block that nobody finds (both back after `sweep`).
//! - **I4** Submissions open no block beyond 75 % of them, so that results find room.
//! - **I5** Every number that comes from the words is checked: nonsense costs room, not safety.
//!
//! # Sync points
//! | label | what | against |
//! |---|---|---|
//! | `arena.commit` | bytes written, then chunk word -> used (release) | `read`: chunk word (acquire), then bytes |
//! | `arena.reuse` | chunk word -> claimed, release fence, then bytes | `read`: bytes, acquire fence, then chunk word again |
//! | `arena.free` | chunk word -> free (release) | `allocate`: chunk word -> claimed (acquire) |
//! | `arena.room` | block word lowered, then "has room" set | block word raised to full, "has room" cleared, then block word again |
//! | `arena.quiet` | a section is entered (release), then the block word is raised or a chunk freed | `correct_count`: block and chunk words (acquire), then sections again |
//!
//! `arena.reuse` is a sequence lock with the chunk word as its version: a reader that met a byte of the
//! next tenant also meets a chunk word that is no longer its own. `arena.room` is a store-load pair, as
//! in the bitmap.
//!
//! # Where tested
//! `arena/tests.rs` (naive model, kill points, nonsense, threads), `shm/tests/loom_arena.rs`.

mod blocks;
mod bytes;
mod repair;
mod shape;
#[cfg(test)]
mod tests;
mod words;

use core::fmt;

pub use bytes::{copy_in, copy_out};
pub use repair::{ArenaUsage, ArenaViolation, ChunkEntry, ClassUsage};
pub use shape::ArenaShape;
pub use words::{ChunkOwner, ChunkState, Claimant};

use crate::bitmap::Bitmap;
use crate::sync::{AtomicU64, Backoff, Ordering, fence};
use shape::{UNIT_BYTES, UNIT_WORDS};

/// LIMIT: blocks tried by one allocation whose count promised room that was not there.
const BLOCKS_TRIED_MAX: u32 = 16;

/// LIMIT: each round means that somebody else took the chunk just seen free.
const CLAIM_ROUNDS_MAX: u32 = 10_000;

/// What the bytes are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// A task's payload: may fill three quarters of the arena.
    Submission,
    /// A task's result: may fill all of it.
    Result,
}

/// Why there is no chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AllocateError {
    /// No room of that size for that purpose: retry after tasks have ended, or spill.
    #[error("arena: no room for {bytes} bytes; free tasks or make the segment larger")]
    Full {
        /// Bytes wanted.
        bytes: usize,
    },
    /// More than a block holds: spill.
    #[error("arena: {bytes} bytes are more than a block of {max} holds; spill them to a file")]
    TooLarge {
        /// Bytes wanted.
        bytes: usize,
        /// Bytes of the largest chunk.
        max: usize,
    },
}

/// The chunk is not (or no longer) that owner's, or the range lies outside of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("arena: the chunk at unit {unit} is no longer what it was; read the task again")]
pub struct ChunkGone {
    /// First unit of the chunk.
    pub unit: u32,
}

/// A chunk that this process is filling. Ends in `commit` or `abandon`; if neither happens (a kill), the
/// sweep for dead processes frees it.
#[derive(Debug)]
#[must_use = "a claimed chunk is lost until a sweep unless it is committed or abandoned"]
pub struct ClaimedChunk {
    unit: u32,
    bytes: usize,
    claimant: Claimant,
}

impl ClaimedChunk {
    /// First unit of the chunk: its name from the commit on.
    #[must_use]
    pub const fn unit(&self) -> u32 {
        self.unit
    }

    /// How many bytes the chunk holds.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.bytes
    }
}

/// The arena over words of the segment (or of private memory). Zeroed words are an empty arena.
#[derive(Clone, Copy)]
pub struct Arena<'s, const UNITS: u32 = 1024> {
    shape: ArenaShape<UNITS>,
    free: &'s [AtomicU64],
    partial: &'s [AtomicU64],
    hints: &'s [AtomicU64],
    blocks: &'s [AtomicU64],
    bits: &'s [AtomicU64],
    chunks: &'s [AtomicU64],
    data: &'s [AtomicU64],
}

impl<'s, const UNITS: u32> Arena<'s, UNITS> {
    /// Looks at words as an arena of that shape.
    ///
    /// # Panics
    /// When there are fewer words than the shape needs.
    #[inline(always)]
    #[must_use]
    pub fn new(meta: &'s [AtomicU64], data: &'s [AtomicU64], shape: ArenaShape<UNITS>) -> Self {
        let [free, partial, hints, blocks, bits, _] = shape.parts();
        let (free, rest) = meta.split_at(free);
        let (partial, rest) = rest.split_at(partial);
        let (hints, rest) = rest.split_at(hints);
        let (blocks, rest) = rest.split_at(blocks);
        let (bits, chunks) = rest.split_at(bits);
        Self {
            shape,
            free,
            partial,
            hints,
            blocks: &blocks[..shape.blocks() as usize],
            bits,
            chunks: &chunks[..shape.blocks() as usize * UNITS as usize],
            data: &data[..shape.data_words()],
        }
    }

    /// The free blocks, looked at as a bitmap where they are asked for: a chunk is mostly found without them.
    fn free(&self) -> Bitmap<'s> {
        Bitmap::new(self.free, self.shape.blocks())
    }

    /// The sizes of the parts.
    #[must_use]
    pub const fn shape(&self) -> ArenaShape<UNITS> {
        self.shape
    }

    /// Claims a chunk of at least `bytes` bytes for a process.
    ///
    /// While the last free block is on its way from one class to another it may say full for a moment.
    ///
    /// # Errors
    /// No room for this purpose, or more bytes than a block holds.
    pub fn allocate(
        &self,
        claimant: Claimant,
        bytes: usize,
        purpose: Purpose,
    ) -> Result<ClaimedChunk, AllocateError> {
        let max = ArenaShape::<UNITS>::BLOCK_BYTES;
        let wanted =
            ArenaShape::<UNITS>::class_for(bytes).ok_or(AllocateError::TooLarge { bytes, max })?;
        for _ in 0..BLOCKS_TRIED_MAX {
            let Some((block, class)) = self.reserve(wanted, purpose) else {
                break;
            };
            if let Some(unit) = self.claim_in(block, class, claimant) {
                return Ok(ClaimedChunk {
                    unit,
                    bytes: ArenaShape::<UNITS>::chunk_bytes(class),
                    claimant,
                });
            }
            // The count promised room that is not there: somebody wrote nonsense. The reservation
            // stays, so that this block is not tried for ever.
        }
        Err(AllocateError::Full { bytes })
    }

    /// Writes bytes into a claimed chunk; false, and nothing written, when they do not fit.
    #[must_use]
    pub fn write(&self, claim: &ClaimedChunk, offset: usize, bytes: &[u8]) -> bool {
        let words = self.data_of(claim.unit, claim.bytes / UNIT_BYTES);
        words.is_some_and(|words| copy_in(words, offset, bytes))
    }

    /// Hands the chunk, with what was written into it, to a task. Returns its name.
    ///
    /// # Errors
    /// The chunk was taken away: this process was believed dead.
    #[expect(clippy::needless_pass_by_value, reason = "the claim ends here")]
    pub fn commit(&self, claim: ClaimedChunk, owner: ChunkOwner) -> Result<u32, ChunkGone> {
        let gone = ChunkGone { unit: claim.unit };
        let word = self.chunks.get(claim.unit as usize).ok_or(gone)?;
        let (from, to) = (
            ChunkState::claimed_word(claim.claimant),
            ChunkState::used_word(owner),
        );
        let order = if cfg!(qtf_mutant = "arena_commit_without_release") {
            // ORDERING: a mutant.
            Ordering::Relaxed
        } else {
            // ORDERING: [arena.commit] Release: the bytes are there for whoever sees the chunk used.
            Ordering::Release
        };
        // ORDERING: [arena.commit] as chosen above; a failure reads nothing.
        word.compare_exchange(from, to, order, Ordering::Relaxed)
            .map_err(|_| gone)?;
        Ok(claim.unit)
    }

    /// Gives a claimed chunk back.
    #[expect(clippy::needless_pass_by_value, reason = "the claim ends here")]
    pub fn abandon(&self, claim: ClaimedChunk) {
        self.free_chunk(claim.unit, ChunkState::claimed_word(claim.claimant));
    }

    /// Claims, fills and commits in one go; returns the chunk's name.
    ///
    /// # Errors
    /// As [`allocate`](Self::allocate).
    pub fn store(
        &self,
        claimant: Claimant,
        owner: ChunkOwner,
        bytes: &[u8],
        purpose: Purpose,
    ) -> Result<u32, AllocateError> {
        let full = AllocateError::Full { bytes: bytes.len() };
        let claim = self.allocate(claimant, bytes.len(), purpose)?;
        if !self.write(&claim, 0, bytes) {
            self.abandon(claim);
            return Err(full);
        }
        self.commit(claim, owner).map_err(|_| full)
    }

    /// The first words of a chunk that a process has claimed and keeps for itself; `None` when it is not (any more) claimed so, or
    /// they do not fit into its block.
    #[must_use]
    pub fn claimed_words(
        &self,
        unit: u32,
        claimant: Claimant,
        words: usize,
    ) -> Option<&'s [AtomicU64]> {
        let word = self.chunks.get(unit as usize)?;
        // ORDERING: [arena.free] Acquire: the last owner is done with the words.
        if word.load(Ordering::Acquire) != ChunkState::claimed_word(claimant) {
            return None;
        }
        let rest = (UNITS - unit % UNITS) as usize;
        self.data_of(unit, rest)?.get(..words)
    }

    /// The first words of a chunk that is used by this owner; `None` when it is not (any more), or they do not fit into its block.
    #[must_use]
    pub fn used_words(
        &self,
        unit: u32,
        owner: ChunkOwner,
        words: usize,
    ) -> Option<&'s [AtomicU64]> {
        let word = self.chunks.get(unit as usize)?;
        // ORDERING: [arena.commit] Acquire: what was written before the commit is there.
        if word.load(Ordering::Acquire) != ChunkState::used_word(owner) {
            return None;
        }
        let rest = (UNITS - unit % UNITS) as usize;
        self.data_of(unit, rest)?.get(..words)
    }

    /// Frees a chunk that a process has claimed; false when it is not claimed so (any more).
    pub fn free_claimed(&self, unit: u32, claimant: Claimant) -> bool {
        self.free_chunk(unit, ChunkState::claimed_word(claimant))
    }

    /// Frees a task's chunk; false when it is not that task's (any more).
    pub fn release(&self, unit: u32, owner: ChunkOwner) -> bool {
        self.free_chunk(unit, ChunkState::used_word(owner))
    }

    /// Copies `out.len()` bytes of a task's chunk, starting `offset` bytes in.
    ///
    /// # Errors
    /// The chunk is not that task's, was freed meanwhile, or the range lies outside its block; then
    /// `out` holds nothing of use.
    pub fn read(
        &self,
        unit: u32,
        owner: ChunkOwner,
        offset: usize,
        out: &mut [u8],
    ) -> Result<(), ChunkGone> {
        let gone = ChunkGone { unit };
        let word = self.chunks.get(unit as usize).ok_or(gone)?;
        let expected = ChunkState::used_word(owner);
        // ORDERING: [arena.commit] Acquire: pairs with the release in `commit`.
        if word.load(Ordering::Acquire) != expected {
            return Err(gone);
        }
        let rest = (UNITS - unit % UNITS) as usize;
        let copied = self
            .data_of(unit, rest)
            .is_some_and(|words| copy_out(words, offset, out));
        if !cfg!(qtf_mutant = "arena_read_without_acquire_fence") {
            // ORDERING: [arena.reuse] Acquire: pairs with the release fence in `claim_in`: bytes of
            // the next tenant are never seen together with a chunk word that is still the old one.
            fence(Ordering::Acquire);
        }
        // ORDERING: [arena.reuse] ordered after the bytes by the fence above.
        if copied && word.load(Ordering::Relaxed) == expected {
            Ok(())
        } else {
            Err(gone)
        }
    }

    /// Whose the chunk at a unit is; `None` beyond the arena.
    #[must_use]
    pub fn state(&self, unit: u32) -> Option<ChunkState> {
        let word = self.chunks.get(unit as usize)?;
        // ORDERING: [arena.commit] Acquire, so that the bytes may be read next.
        Some(ChunkState::of_word(word.load(Ordering::Acquire)))
    }

    /// Finds a chunk in a block of which one is reserved, and claims it.
    fn claim_in(&self, block: u32, class: u32, claimant: Claimant) -> Option<u32> {
        let chunks = ArenaShape::<UNITS>::chunks_in_block(class);
        let mut backoff = Backoff::new();
        for _ in 0..CLAIM_ROUNDS_MAX {
            let Some(index) = self.take_bit(block, chunks, &mut backoff) else {
                break;
            };
            if let Some(unit) = self.claim_chunk(block, class, index, claimant) {
                return Some(unit);
            }
            // The chunk is in use: the bit was wrongly 0, and is right now.
        }
        // Bits may be wrongly 1 after a kill; the reservation says that there is a free chunk.
        // It may move behind our back while others claim and free, hence the second pass.
        let mut twice = (0..chunks).chain(0..chunks);
        twice.find_map(|index| self.claim_chunk(block, class, index, claimant))
    }

    fn claim_chunk(&self, block: u32, class: u32, index: u32, claimant: Claimant) -> Option<u32> {
        let unit = block * UNITS + (index << class);
        let word = self.chunks.get(unit as usize)?;
        let claimed = ChunkState::claimed_word(claimant);
        // ORDERING: [arena.free] Acquire: the last owner is done with the bytes before we write ours.
        word.compare_exchange(0, claimed, Ordering::AcqRel, Ordering::Relaxed)
            .ok()?;
        if !cfg!(qtf_mutant = "arena_claim_without_release_fence") {
            // ORDERING: [arena.reuse] Release: pairs with the acquire fence in `read`.
            fence(Ordering::Release);
        }
        self.set_bit(block, index);
        Some(unit)
    }

    /// Frees the chunk if its word is `from`: word, bit, count, in this order (I1).
    fn free_chunk(&self, unit: u32, from: u64) -> bool {
        let Some(word) = self.chunks.get(unit as usize) else {
            return false;
        };
        if cfg!(qtf_mutant = "arena_count_lowered_before_the_chunk_is_free") {
            self.unreserve(unit / UNITS);
        }
        // ORDERING: [arena.free] Release: we are done with the bytes. The class below is read after a
        // successful CAS, when this chunk's part of the count still keeps the block as it is.
        if word
            .compare_exchange(from, 0, Ordering::AcqRel, Ordering::Relaxed)
            .is_err()
        {
            return false;
        }
        let block = unit / UNITS;
        let within = unit % UNITS;
        if let Some(class) = self.class_of(block)
            && within.trailing_zeros() >= class
        {
            self.clear_bit(block, within >> class);
            if !cfg!(qtf_mutant = "arena_count_lowered_before_the_chunk_is_free") {
                self.unreserve(block);
            }
        }
        true
    }

    /// The words of `units` units from `unit` on.
    fn data_of(&self, unit: u32, units: usize) -> Option<&'s [AtomicU64]> {
        let start = (unit as usize).checked_mul(UNIT_WORDS)?;
        self.data
            .get(start..start.checked_add(units.checked_mul(UNIT_WORDS)?)?)
    }
}

impl<const UNITS: u32> fmt::Debug for Arena<'_, UNITS> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Arena")
            .field("blocks", &self.shape.blocks())
            .field("blocks_taken", &self.free().count_taken())
            .finish_non_exhaustive()
    }
}
