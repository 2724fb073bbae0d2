//! What the arena's words mean: whose a chunk is, what a block is used for.
//!
//! ```text
//! chunk   0                                  free
//!         1 in 2 bits | 0 .. | incarnation 32 | attach 16     claimed by a process that is filling it
//!         2 in 2 bits | 2 | slot 24 | generation 36    used by that task
//! block   0                                  unassigned
//!         0 .. | count 16 | 0 4 | class + 1 in 4 bits
//! ```

use core::fmt;

const TAG_SHIFT: u32 = 62;
const TAG_CLAIMED: u64 = 1;
const TAG_USED: u64 = 2;
const INCARNATION_SHIFT: u32 = 16;
const ATTACH_MASK: u64 = 0xFFFF;
const GENERATION_BITS: u32 = 36;
const GENERATION_MAX: u64 = (1 << GENERATION_BITS) - 1;
const SLOT_MAX: u32 = (1 << 24) - 1;

/// Who fills a chunk: an attach record, and how often it had been given out. So a word that a dead process has left
/// behind never comes again, and a slow sweep cannot take it for that of a later process with the same record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Claimant {
    /// Index of the attach record.
    pub attach: u16,
    /// Its incarnation.
    pub incarnation: u32,
}

/// The task that a chunk belongs to. With generation 0, which no task has, it is the segment itself, and the slot is a place in
/// its list of such chunks (`segment/history.rs`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ChunkOwner {
    /// Task slot, 24 bits.
    pub slot: u32,
    /// Generation of the slot, 36 bits.
    pub generation: u64,
}

/// Whose a chunk is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChunkState {
    /// Nobody's.
    Free,
    /// Being filled by the process of this attach record.
    Claimed(Claimant),
    /// Holds bytes of this task.
    Used(ChunkOwner),
    /// None of these: written by a process that has gone mad.
    Damaged(u64),
}

impl ChunkState {
    /// The word for a task's chunk.
    #[inline]
    pub(super) const fn used_word(owner: ChunkOwner) -> u64 {
        let slot = (owner.slot & SLOT_MAX) as u64;
        (TAG_USED << TAG_SHIFT) | (slot << GENERATION_BITS) | (owner.generation & GENERATION_MAX)
    }

    /// The word for a chunk that is being filled.
    #[inline]
    pub(super) const fn claimed_word(claimant: Claimant) -> u64 {
        (TAG_CLAIMED << TAG_SHIFT)
            | ((claimant.incarnation as u64) << INCARNATION_SHIFT)
            | claimant.attach as u64
    }

    /// The word that says this.
    pub(super) const fn word(self) -> u64 {
        match self {
            Self::Free => 0,
            Self::Claimed(claimant) => Self::claimed_word(claimant),
            Self::Used(owner) => Self::used_word(owner),
            Self::Damaged(word) => word,
        }
    }

    /// What a word says.
    pub(super) fn of_word(word: u64) -> Self {
        let payload = word & !(u64::MAX << TAG_SHIFT);
        match word >> TAG_SHIFT {
            0 if payload == 0 => Self::Free,
            TAG_CLAIMED => match u32::try_from(payload >> INCARNATION_SHIFT) {
                Ok(incarnation) => Self::Claimed(Claimant {
                    // LIMIT: masked to 16 bits.
                    attach: u16::try_from(payload & ATTACH_MASK).unwrap_or(u16::MAX),
                    incarnation,
                }),
                Err(_) => Self::Damaged(word),
            },
            TAG_USED => match u32::try_from(payload >> GENERATION_BITS) {
                Ok(slot) if slot <= SLOT_MAX => Self::Used(ChunkOwner {
                    slot,
                    generation: payload & GENERATION_MAX,
                }),
                _ => Self::Damaged(word),
            },
            _ => Self::Damaged(word),
        }
    }
}

/// A block's word: what size its chunks are, and how many are used or reserved.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct BlockWord(pub(super) u64);

impl BlockWord {
    pub(super) const UNASSIGNED: Self = Self(0);
    const CLASS_MASK: u64 = 0xF;
    const COUNT_SHIFT: u32 = 8;
    const COUNT_MASK: u64 = 0xFFFF;

    #[inline]
    pub(super) const fn new(class: u32, count: u32) -> Self {
        Self(((class + 1) as u64 & Self::CLASS_MASK) | ((count as u64) << Self::COUNT_SHIFT))
    }

    /// Size class, if the block has one; at most `class_max`.
    #[inline]
    pub(super) fn class(self, class_max: u32) -> Option<u32> {
        let class = u32::try_from(self.0 & Self::CLASS_MASK)
            .ok()?
            .checked_sub(1)?;
        (class <= class_max).then_some(class)
    }

    /// Chunks used or reserved.
    #[inline]
    pub(super) fn count(self) -> u32 {
        u32::try_from((self.0 >> Self::COUNT_SHIFT) & Self::COUNT_MASK).unwrap_or(u32::MAX)
    }
}

impl fmt::Debug for BlockWord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.class(u32::MAX) {
            None => f.write_str("unassigned"),
            Some(class) => write!(f, "class {class}, {} used", self.count()),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{BlockWord, ChunkOwner, ChunkState, Claimant};

    proptest! {
        #[test]
        fn chunk_words_can_be_read_back(
            slot in 0_u32..1 << 24,
            generation in 0_u64..1 << 36,
            attach: u16,
            incarnation: u32,
        ) {
            let owner = ChunkOwner { slot, generation };
            prop_assert_eq!(ChunkState::of_word(ChunkState::used_word(owner)), ChunkState::Used(owner));
            let claimant = Claimant { attach, incarnation };
            let claimed = ChunkState::claimed_word(claimant);
            prop_assert_eq!(ChunkState::of_word(claimed), ChunkState::Claimed(claimant));
        }

        #[test]
        fn every_chunk_word_means_something_and_only_zero_is_free(word: u64) {
            prop_assert_eq!(ChunkState::of_word(word) == ChunkState::Free, word == 0);
        }

        #[test]
        fn block_words_can_be_read_back(class in 0_u32..11, count in 0_u32..1_025) {
            let word = BlockWord::new(class, count);
            prop_assert_eq!((word.class(10), word.count()), (Some(class), count));
        }
    }

    #[test]
    fn zero_is_an_unassigned_block() {
        assert_eq!(BlockWord::UNASSIGNED.class(10), None);
        assert_eq!(BlockWord::new(10, 1).class(9), None);
    }
}
