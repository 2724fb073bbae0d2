//! Blocks: opened for a size class, reserved from, and closed when nothing in them is in use.

use super::words::BlockWord;
use super::{Arena, ArenaShape, Backoff, CLAIM_ROUNDS_MAX, Purpose};
use crate::sync::{
    AtomicU64, Ordering, store_load_cas, store_load_clear_bits, store_load_load,
    store_load_set_bits,
};

impl<const UNITS: u32> Arena<'_, UNITS> {
    /// Reserves one chunk of at least the wanted class: in a block with room, else in a new block,
    /// else in a block of larger chunks. Returns block and class.
    pub(super) fn reserve(&self, wanted: u32, purpose: Purpose) -> Option<(u32, u32)> {
        let here = || {
            self.reserve_with_room(wanted)
                .or_else(|| self.open(wanted, purpose))
        };
        let larger = || {
            (wanted + 1..=ArenaShape::<UNITS>::CLASS_MAX)
                .find_map(|class| Some((self.reserve_with_room(class)?, class)))
        };
        here().map(|block| (block, wanted)).or_else(larger)
    }

    /// Reserves in a block that has this class already; the last one used is tried first.
    fn reserve_with_room(&self, class: u32) -> Option<u32> {
        let hint = &self.hints[class as usize * super::shape::LINE];
        // ORDERING: a hint; the CAS on the block word decides.
        let last = u32::try_from(hint.load(Ordering::Relaxed)).unwrap_or(0);
        if self.try_reserve(last, class) {
            return Some(last);
        }
        let with_room = self.room(class);
        for (index, word) in with_room.iter().enumerate() {
            // ORDERING: a hint, as above.
            let mut blocks = word.load(Ordering::Acquire);
            while blocks != 0 {
                let bit = blocks.trailing_zeros();
                blocks &= blocks - 1;
                let block = u32::try_from(index * 64)
                    .unwrap_or(u32::MAX)
                    .saturating_add(bit);
                if self.try_reserve(block, class) {
                    // ORDERING: a hint, as above.
                    hint.store(u64::from(block), Ordering::Relaxed);
                    return Some(block);
                }
                self.clear_room(block, class);
            }
        }
        None
    }

    /// Raises the count of a block if it has this class and room.
    fn try_reserve(&self, block: u32, class: u32) -> bool {
        let Some(word) = self.blocks.get(block as usize) else {
            return false;
        };
        let chunks = ArenaShape::<UNITS>::chunks_in_block(class);
        let mut backoff = Backoff::new();
        // ORDERING: [arena.room] look half of the visitor; the CAS decides.
        let mut now = BlockWord(store_load_load(word));
        for _ in 0..CLAIM_ROUNDS_MAX {
            let count = now.count();
            if now.class(ArenaShape::<UNITS>::CLASS_MAX) != Some(class) || count >= chunks {
                return false;
            }
            // ORDERING: [arena.room] write half; `clear_room` looks again.
            match store_load_cas(word, now.0, BlockWord::new(class, count + 1).0) {
                Ok(_) => {
                    if count + 1 == chunks {
                        self.clear_room(block, class);
                    }
                    return true;
                }
                Err(found) => now = BlockWord(found),
            }
            backoff.pause();
        }
        false
    }

    /// Opens a free block, with one chunk of it reserved: the lowest one that the purpose may have.
    fn open(&self, class: u32, purpose: Purpose) -> Option<u32> {
        let limit = match purpose {
            Purpose::Submission => self.shape.blocks_for_submissions(),
            Purpose::Result => self.shape.blocks(),
        };
        // Each round uses up a free bit; those of blocks that turn out to be in use were wrong.
        while let Some(block) = self.free().take_below(limit, 0) {
            let word = self.blocks.get(block as usize)?;
            let opened = BlockWord::new(class, 1).0;
            // ORDERING: [arena.room] the block's earlier life is over for whoever wins this.
            if self.is_clean(block) && store_load_cas(word, BlockWord::UNASSIGNED.0, opened).is_ok()
            {
                self.settle_block(block);
                if ArenaShape::<UNITS>::chunks_in_block(class) > 1 {
                    self.set_room(block, class);
                }
                return Some(block);
            }
        }
        None
    }

    /// Lowers the count; the last one closes the block.
    pub(super) fn unreserve(&self, block: u32) {
        let Some(word) = self.blocks.get(block as usize) else {
            return;
        };
        let mut backoff = Backoff::new();
        // ORDERING: [arena.room] our own part of the count keeps the class; the CAS decides.
        let mut now = BlockWord(word.load(Ordering::Acquire));
        for _ in 0..CLAIM_ROUNDS_MAX {
            let (Some(class), Some(left)) = (
                now.class(ArenaShape::<UNITS>::CLASS_MAX),
                now.count().checked_sub(1),
            ) else {
                return;
            };
            let lowered = if left == 0 {
                BlockWord::UNASSIGNED
            } else {
                BlockWord::new(class, left)
            };
            // ORDERING: [arena.room] write half; looking for "has room" is the other half.
            match store_load_cas(word, now.0, lowered.0) {
                Ok(_) if left == 0 => {
                    self.clear_room(block, class);
                    self.free().give_back(block);
                    self.settle_block(block);
                    return;
                }
                Ok(_) => return self.set_room(block, class),
                Err(found) => now = BlockWord(found),
            }
            backoff.pause();
        }
    }

    /// Makes the block's bit in the free bitmap say what its word says.
    pub(super) fn settle_block(&self, block: u32) {
        if let Some(word) = self.blocks.get(block as usize) {
            // ORDERING: [bitmap.tenancy] look half; pairs with the CAS in `open` and `unreserve`.
            self.free()
                .settle(block, || store_load_load(word) != BlockWord::UNASSIGNED.0);
        }
    }

    /// The word of a block; unassigned beyond the arena.
    pub(super) fn word_of(&self, block: u32) -> BlockWord {
        // ORDERING: [arena.free] Acquire: a chunk of ours in the block keeps its class as it is;
        // all others only look.
        self.blocks
            .get(block as usize)
            .map_or(BlockWord::UNASSIGNED, |word| {
                BlockWord(word.load(Ordering::Acquire))
            })
    }

    /// The class that a block has at this moment.
    pub(super) fn class_of(&self, block: u32) -> Option<u32> {
        self.word_of(block).class(ArenaShape::<UNITS>::CLASS_MAX)
    }

    /// Does the block have this class, and room?
    pub(super) fn has_room(&self, block: u32, class: u32) -> bool {
        self.blocks.get(block as usize).is_some_and(|word| {
            let early = cfg!(qtf_mutant = "arena_look_for_room_too_early");
            // ORDERING: [arena.room] look half: pairs with the lowering in `unreserve`.
            let now = BlockWord(look(word, early));
            now.class(ArenaShape::<UNITS>::CLASS_MAX) == Some(class)
                && now.count() < ArenaShape::<UNITS>::chunks_in_block(class)
        })
    }

    /// Is the block among those that say so?
    pub(super) fn says_room(&self, block: u32, class: u32) -> bool {
        let early = cfg!(qtf_mutant = "arena_release_looks_too_early");
        let word = self.room(class).get(block as usize / 64);
        // ORDERING: [arena.room] look half: pairs with the clearing in `clear_room`.
        word.is_some_and(|word| look(word, early) & (1 << (block % 64)) != 0)
    }

    /// Says that the block has room in this class.
    pub(super) fn set_room(&self, block: u32, class: u32) {
        if !self.says_room(block, class)
            && let Some(word) = self.room(class).get(block as usize / 64)
        {
            // ORDERING: [arena.room] a hint; `clear_room` looks at the block word after clearing.
            store_load_set_bits(word, 1 << (block % 64));
        }
    }

    /// Says that the block has no room in this class, unless a second look shows that it has.
    pub(super) fn clear_room(&self, block: u32, class: u32) {
        let Some(word) = self.room(class).get(block as usize / 64) else {
            return;
        };
        let bit = 1 << (block % 64);
        // ORDERING: [arena.room] write half; the second look is the other half.
        store_load_clear_bits(word, bit);
        if !cfg!(qtf_mutant = "arena_no_second_look_for_room") && self.has_room(block, class) {
            // ORDERING: [arena.room] a hint; visitors mend it if it is wrong again.
            store_load_set_bits(word, bit);
        }
    }

    /// The set of blocks with room, for one class.
    pub(super) fn room(&self, class: u32) -> &[AtomicU64] {
        let words = self.shape.partial_words();
        &self.partial[class as usize * words..][..words]
    }

    /// Takes a bit that says free; the chunk word decides.
    pub(super) fn take_bit(&self, block: u32, chunks: u32, backoff: &mut Backoff) -> Option<u32> {
        let mut left = chunks;
        for (word, base) in self.bits_of(block).iter().zip((0..).step_by(64)) {
            let valid = if left >= 64 {
                u64::MAX
            } else {
                (1 << left) - 1
            };
            for _ in 0..CLAIM_ROUNDS_MAX {
                // ORDERING: a hint; the chunk word decides.
                let free = !word.load(Ordering::Acquire) & valid;
                let bit = free & free.wrapping_neg();
                if bit == 0 {
                    break;
                }
                // ORDERING: a hint, as above; AcqRel keeps a cleared bit behind its freed chunk.
                if word.fetch_or(bit, Ordering::AcqRel) & bit == 0 {
                    return Some(base + bit.trailing_zeros());
                }
                backoff.pause();
            }
            left = left.saturating_sub(64);
        }
        None
    }

    pub(super) fn set_bit(&self, block: u32, index: u32) {
        if let Some(word) = self.bits_of(block).get(index as usize / 64) {
            let bit = 1 << (index % 64);
            // ORDERING: a hint; the chunk word decides.
            if word.load(Ordering::Relaxed) & bit == 0 {
                // ORDERING: as above.
                word.fetch_or(bit, Ordering::AcqRel);
            }
        }
    }

    pub(super) fn clear_bit(&self, block: u32, index: u32) {
        if let Some(word) = self.bits_of(block).get(index as usize / 64) {
            // ORDERING: a hint; Release keeps it behind the chunk word that was freed before.
            word.fetch_and(!(1 << (index % 64)), Ordering::AcqRel);
        }
    }

    /// The taken bits of a block.
    pub(super) fn bits_of(&self, block: u32) -> &[AtomicU64] {
        let words = ArenaShape::<UNITS>::BIT_WORDS;
        let start = block as usize * words;
        self.bits.get(start..start + words).unwrap_or_default()
    }

    /// Is nothing taken in this block, as far as the bits tell? Always so for a block that was closed;
    /// if not, somebody wrote nonsense, and the block is left alone until `rebuild`.
    pub(super) fn is_clean(&self, block: u32) -> bool {
        // ORDERING: the free bit that we hold keeps other openers away.
        self.bits_of(block)
            .iter()
            .all(|word| word.load(Ordering::Acquire) == 0)
    }
}

/// The look half of a pair; `early` is for mutants only.
#[inline(always)]
fn look(word: &AtomicU64, early: bool) -> u64 {
    if early {
        // ORDERING: a mutant: may be read before the write that it should come after.
        word.load(Ordering::Acquire)
    } else {
        store_load_load(word)
    }
}
