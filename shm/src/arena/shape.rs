//! Where the arena's parts lie in its words.
//!
//! ```text
//! meta   | free blocks (a bitmap) | blocks with room, a bit set for each class | last block for each class |
//!        | block words | taken chunks, a bit each | chunk words, one for each unit |
//! data   | block 0: 64 KiB | block 1 | ..
//! ```
//! Each part starts a cache line.

use crate::bitmap;

/// Words in a cache line.
pub(super) const LINE: usize = 8;

/// Words of data in a unit of 64 bytes.
pub(super) const UNIT_WORDS: usize = 8;

/// Bytes in a unit, the smallest chunk.
pub(super) const UNIT_BYTES: usize = 64;

/// The sizes of the arena's parts. `UNITS` is how many units of 64 bytes make a block: 1,024 in
/// production (64 KiB), fewer in models.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ArenaShape<const UNITS: u32 = 1024> {
    blocks: u32,
}

impl<const UNITS: u32> ArenaShape<UNITS> {
    /// LIMIT: units are numbered in 32 bits.
    pub const BLOCKS_MAX: u32 = u32::MAX / UNITS;

    /// Bytes in a block, which is the largest chunk.
    pub const BLOCK_BYTES: usize = UNITS as usize * UNIT_BYTES;

    /// The number of the largest size class; class 0 has chunks of 64 bytes, each next one twice that.
    pub const CLASS_MAX: u32 = {
        assert!(UNITS.is_power_of_two() && UNITS <= 1 << 14);
        UNITS.ilog2()
    };

    /// Units in a block.
    pub const UNITS_OF_BLOCK: u32 = UNITS;
    /// Words of the taken bits of a block.
    pub(super) const BIT_WORDS: usize = UNITS.div_ceil(64) as usize;

    /// An arena of so many blocks, at most [`BLOCKS_MAX`](Self::BLOCKS_MAX) of them.
    #[must_use]
    pub const fn new(blocks: u32) -> Self {
        Self {
            blocks: if blocks > Self::BLOCKS_MAX {
                Self::BLOCKS_MAX
            } else {
                blocks
            },
        }
    }

    /// The largest arena whose parts fit into `bytes` altogether.
    #[must_use]
    pub fn fitting(bytes: u64) -> Self {
        let (mut fits, mut too_many) = (0, Self::BLOCKS_MAX);
        while fits + 1 < too_many {
            let middle = fits + (too_many - fits) / 2;
            if Self::new(middle).bytes() <= bytes {
                fits = middle;
            } else {
                too_many = middle;
            }
        }
        Self::new(fits)
    }

    /// How many blocks there are.
    #[must_use]
    pub const fn blocks(self) -> u32 {
        self.blocks
    }

    /// Blocks that submissions may open: 75 %, but at least one; the rest is kept for results.
    #[must_use]
    pub const fn blocks_for_submissions(self) -> u32 {
        let limit = self.blocks - self.blocks / 4;
        if limit == 0 && self.blocks > 0 {
            1
        } else {
            limit
        }
    }

    /// Words of everything but the bytes themselves.
    #[must_use]
    pub const fn meta_words(self) -> usize {
        let [free, partial, hints, blocks, bits, chunks] = self.parts();
        free + partial + hints + blocks + bits + chunks
    }

    /// Words of the bytes.
    #[must_use]
    pub const fn data_words(self) -> usize {
        self.blocks as usize * UNITS as usize * UNIT_WORDS
    }

    /// Bytes of everything.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        (self.meta_words() as u64 + self.data_words() as u64) * 8
    }

    /// Words of the set of blocks with room, for one class.
    pub(super) const fn partial_words(self) -> usize {
        (self.blocks as usize).div_ceil(64).next_multiple_of(LINE)
    }

    /// Words of: free blocks, blocks with room, hints, block words, taken bits, chunk words.
    pub(super) const fn parts(self) -> [usize; 6] {
        let blocks = self.blocks as usize;
        let classes = Self::CLASS_MAX as usize + 1;
        [
            bitmap::words_for(self.blocks),
            classes * self.partial_words(),
            classes * LINE,
            blocks.next_multiple_of(LINE),
            (blocks * Self::BIT_WORDS).next_multiple_of(LINE),
            (blocks * UNITS as usize).next_multiple_of(LINE),
        ]
    }

    /// The smallest class whose chunks hold so many bytes.
    #[must_use]
    pub fn class_for(bytes: usize) -> Option<u32> {
        let units = bytes.div_ceil(UNIT_BYTES).max(1).next_power_of_two();
        (units <= UNITS as usize).then(|| units.ilog2())
    }

    /// Bytes in a chunk of a class.
    #[must_use]
    pub const fn chunk_bytes(class: u32) -> usize {
        UNIT_BYTES << class
    }

    /// Chunks in a block of a class.
    pub(super) const fn chunks_in_block(class: u32) -> u32 {
        UNITS >> class
    }
}

#[cfg(test)]
mod tests {
    use super::ArenaShape;

    #[test]
    fn production_has_eleven_classes_from_64_bytes_to_64_kib() {
        type Production = ArenaShape;
        assert_eq!(Production::CLASS_MAX, 10);
        assert_eq!(Production::chunk_bytes(10), 65_536);
        assert_eq!(Production::chunks_in_block(0), 1_024);
        assert_eq!(Production::class_for(0), Some(0));
        assert_eq!(Production::class_for(64), Some(0));
        assert_eq!(Production::class_for(65), Some(1));
        assert_eq!(Production::class_for(65_536), Some(10));
        assert_eq!(Production::class_for(65_537), None);
    }

    #[test]
    fn fitting_uses_what_there_is_and_no_more() {
        for bytes in [0, 70_000, 80_000, 1 << 20, 95 << 20, 1 << 37] {
            let shape = ArenaShape::<1024>::fitting(bytes);
            assert!(shape.blocks() == 0 || shape.bytes() <= bytes);
            assert!(ArenaShape::<1024>::new(shape.blocks() + 1).bytes() > bytes);
        }
    }

    #[test]
    fn a_quarter_is_kept_for_results() {
        let limits =
            [0, 1, 2, 4, 16, 1_000].map(|n| ArenaShape::<1024>::new(n).blocks_for_submissions());
        assert_eq!(limits, [0, 1, 2, 3, 12, 750]);
    }
}
