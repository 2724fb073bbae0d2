//! Repair and inspection of the arena: sweep while others work, rebuild at start-up, check and usage.

use core::fmt;
use core::ops::Range;

use super::words::BlockWord;
use super::{Arena, ArenaShape, ChunkState};
use crate::sync::{AtomicU64, Ordering, store_load_cas};

/// A chunk that is not free.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkEntry {
    /// First unit: the chunk's name.
    pub unit: u32,
    /// Bytes that the chunk holds.
    pub bytes: usize,
    /// Whose it is.
    pub state: ChunkState,
}

/// One size class in [`ArenaUsage`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClassUsage {
    /// Bytes in a chunk.
    pub chunk_bytes: usize,
    /// Blocks that have this class.
    pub blocks: u32,
    /// Chunks used or reserved in them.
    pub chunks_used: u32,
    /// Chunks in them altogether.
    pub chunks: u32,
}

/// How full the arena is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArenaUsage {
    /// Blocks altogether.
    pub blocks: u32,
    /// Blocks that submissions may open.
    pub blocks_for_submissions: u32,
    /// Blocks without a class.
    pub blocks_unassigned: u32,
    /// The classes, smallest chunks first.
    pub classes: Vec<ClassUsage>,
}

/// Something in the arena that contradicts itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ArenaViolation {
    /// More chunks of the block are used than its count says: its chunks may be handed out twice.
    CountTooLow {
        /// The block.
        block: u32,
        /// What the block word says.
        counted: u32,
        /// Chunk words that are not free.
        used: u32,
    },
    /// Fewer are used: room lost by a kill, back after a restart (or an operation under way).
    CountTooHigh {
        /// The block.
        block: u32,
        /// What the block word says.
        counted: u32,
        /// Chunk words that are not free.
        used: u32,
    },
    /// A chunk word that means nothing, or lies where the block's class has no chunk.
    StrayChunk {
        /// The unit.
        unit: u32,
        /// The word.
        word: u64,
    },
    /// The block has a class, but the free bitmap hands it out (it will be noticed then).
    AssignedButFree {
        /// The block.
        block: u32,
    },
    /// The block has no class, but nobody can find it: lost by a kill, back after a sweep.
    UnassignedButTaken {
        /// The block.
        block: u32,
    },
    /// The block has room that nobody can find: lost by a kill, back after a sweep.
    HiddenRoom {
        /// The block.
        block: u32,
    },
}

impl fmt::Display for ArenaViolation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::CountTooLow {
                block,
                counted,
                used,
            } => {
                write!(
                    f,
                    "arena block {block}: {used} chunks used, but counts only {counted}"
                )
            }
            Self::CountTooHigh {
                block,
                counted,
                used,
            } => {
                write!(
                    f,
                    "arena block {block}: counts {counted} chunks, but only {used} are used"
                )
            }
            Self::StrayChunk { unit, word } => {
                write!(
                    f,
                    "arena unit {unit}: word {word:#018x} where no chunk can be"
                )
            }
            Self::AssignedButFree { block } => {
                write!(
                    f,
                    "arena block {block}: in use, but the free bitmap offers it"
                )
            }
            Self::HiddenRoom { block } => {
                write!(
                    f,
                    "arena block {block}: has room, but is not among those that have"
                )
            }
            Self::UnassignedButTaken { block } => {
                write!(
                    f,
                    "arena block {block}: unused, but the free bitmap does not offer it"
                )
            }
        }
    }
}

impl<'s, const UNITS: u32> Arena<'s, UNITS> {
    /// The chunks of some blocks that are not free.
    pub fn chunks(&self, blocks: Range<u32>) -> impl Iterator<Item = ChunkEntry> + use<'s, UNITS> {
        let this = *self;
        let assigned = (blocks.start..blocks.end.min(self.shape.blocks()))
            .filter_map(move |block| Some((block, this.class_of(block)?)));
        assigned.flat_map(move |(block, class)| {
            let first = block * UNITS;
            let bytes = ArenaShape::<UNITS>::chunk_bytes(class);
            (0..ArenaShape::<UNITS>::chunks_in_block(class)).filter_map(move |index| {
                let unit = first + (index << class);
                let state = this
                    .state(unit)
                    .filter(|&state| state != ChunkState::Free)?;
                Some(ChunkEntry { unit, bytes, state })
            })
        })
    }

    /// Frees the chunks of some blocks that nobody keeps, and returns how many. Safe at any time, if
    /// `keeps` keeps what living processes have claimed and what tasks own; a stripe at a time.
    pub fn sweep(&self, blocks: Range<u32>, mut keeps: impl FnMut(&ChunkEntry) -> bool) -> u64 {
        let mut freed = 0;
        for chunk in self.chunks(blocks.clone()) {
            if !keeps(&chunk) {
                freed += u64::from(self.free_chunk(chunk.unit, chunk.state.word()));
            }
        }
        for block in blocks.start..blocks.end.min(self.shape.blocks()) {
            self.clear_stale_bits(block);
            if let Some(class) = self.class_of(block)
                && self.has_room(block, class)
            {
                self.set_room(block, class);
            }
            // A slow opener whose bit is given back here still has the block if it wins the CAS on the block word,
            // and then sets the bit again.
            self.settle_block(block);
        }
        freed
    }

    /// Corrects the count of a block that a killed process has left too high; returns whether it did. `is_quiet` says
    /// that nobody alive was within an operation on the arena when the count was taken, and since `look` was called.
    ///
    /// The count is the chunks in use, plus what is being reserved or freed at this moment, plus what the dead have left.
    /// Without the second part the third is known exactly. It may be taken off by a CAS from the very word that was
    /// compared: if the word comes back to its value in between, then what is used or reserved has the same sum again.
    pub fn correct_count<T: PartialEq>(&self, block: u32, look: impl Fn() -> Option<T>) -> bool {
        let Some(word) = self.blocks.get(block as usize) else {
            return false;
        };
        let Some(before) = look() else {
            return false;
        };
        // ORDERING: [arena.quiet] Acquire: whoever has raised it had entered its section before.
        let counted = BlockWord(word.load(Ordering::Acquire));
        let Some(class) = counted.class(ArenaShape::<UNITS>::CLASS_MAX) else {
            return false;
        };
        let used = self.count_used(block, class);
        let settled = look() == Some(before) || cfg!(qtf_mutant = "arena_count_corrected_unasked");
        if used >= counted.count() || !settled {
            return false;
        }
        let corrected = if used == 0 {
            BlockWord::UNASSIGNED
        } else {
            BlockWord::new(class, used)
        };
        // ORDERING: [arena.room] write half; looking for "has room" is the other half.
        if store_load_cas(word, counted.0, corrected.0).is_err() {
            return false;
        }
        if used == 0 {
            self.clear_room(block, class);
            self.settle_block(block);
        } else {
            self.set_room(block, class);
        }
        true
    }

    /// Chunk words of a block that are not free.
    fn count_used(&self, block: u32, class: u32) -> u32 {
        let first = block * UNITS;
        let units =
            (0..ArenaShape::<UNITS>::chunks_in_block(class)).map(|index| first + (index << class));
        let used = units.filter(|&unit| self.state(unit) != Some(ChunkState::Free));
        u32::try_from(used.count()).unwrap_or(u32::MAX)
    }

    /// Takes back bits of chunks that are free: left by a process that was killed before it had the chunk. A living one
    /// that is about to claim the chunk decides by the chunk word.
    fn clear_stale_bits(&self, block: u32) {
        let class = self.class_of(block);
        for (word, base) in self.bits_of(block).iter().zip((0_u32..).step_by(64)) {
            // ORDERING: a hint; the chunk word decides.
            let mut bits = word.load(Ordering::Acquire);
            while bits != 0 {
                let index = base + bits.trailing_zeros();
                bits &= bits - 1;
                let in_use = class.is_some_and(|class| {
                    let within = u64::from(index) << class;
                    let unit = u64::from(block * UNITS).saturating_add(within);
                    let state = u32::try_from(unit).ok().and_then(|unit| self.state(unit));
                    within < u64::from(UNITS) && state != Some(ChunkState::Free)
                });
                if !in_use {
                    self.clear_bit(block, index);
                }
            }
        }
    }

    /// Makes everything agree with the chunk words, of which only those that mean something and `keeps` says
    /// yes to remain. Only while nobody else writes: at start-up.
    pub fn rebuild(&self, keeps: impl FnMut(&ChunkEntry) -> bool) {
        self.rebuild_in_use(|_| true, keeps);
    }

    /// The same without a look at the chunks of blocks that nothing says are in use: no class, no bit taken, and
    /// `refers_to` knows of no reference into it.
    pub fn rebuild_in_use(
        &self,
        refers_to: impl Fn(u32) -> bool,
        mut keeps: impl FnMut(&ChunkEntry) -> bool,
    ) {
        for word in self.partial.iter().chain(self.hints) {
            put(word, 0);
        }
        for first in (0..self.shape.blocks()).step_by(64) {
            let mut taken = 0;
            for bit in 0..64.min(self.shape.blocks() - first) {
                let block = first + bit;
                let class = self.class_of(block);
                let untouched = class.is_none()
                    && self.word_of(block) == BlockWord::UNASSIGNED
                    && self.is_clean(block)
                    && !refers_to(block);
                if !untouched && self.rebuild_block(block, class, &mut keeps) > 0 {
                    taken |= 1 << bit;
                }
            }
            self.free().build_word(first / 64, taken);
        }
        self.free().finish_build(self.shape.blocks());
    }

    /// Cleans one block; returns how many chunks of it remain.
    fn rebuild_block(
        &self,
        block: u32,
        class: Option<u32>,
        keeps: &mut impl FnMut(&ChunkEntry) -> bool,
    ) -> u32 {
        let first = block as usize * UNITS as usize;
        let chunks = self.chunks.get(first..first + UNITS as usize);
        let bits = self.bits_of(block);
        for word in bits {
            put(word, 0);
        }
        let mut count = 0;
        for (within, word) in (0..UNITS).zip(chunks.unwrap_or_default()) {
            // ORDERING: nobody else writes.
            let raw = word.load(Ordering::Relaxed);
            if raw == 0 {
                continue;
            }
            let fits = class.filter(|&class| within.trailing_zeros() >= class);
            let state = ChunkState::of_word(raw);
            let kept = fits.filter(|&class| {
                matches!(state, ChunkState::Used(_) | ChunkState::Claimed(_))
                    && keeps(&ChunkEntry {
                        unit: block * UNITS + within,
                        bytes: ArenaShape::<UNITS>::chunk_bytes(class),
                        state,
                    })
            });
            if let Some(class) = kept {
                count += 1;
                let index = within >> class;
                if let Some(bits) = bits.get(index as usize / 64) {
                    // ORDERING: nobody else writes.
                    let taken = bits.load(Ordering::Relaxed) | (1 << (index % 64));
                    put(bits, taken);
                }
            } else {
                put(word, 0);
            }
        }
        self.rebuild_block_word(block, class, count);
        count
    }

    fn rebuild_block_word(&self, block: u32, class: Option<u32>, count: u32) {
        let Some(word) = self.blocks.get(block as usize) else {
            return;
        };
        let Some(class) = class.filter(|_| count > 0) else {
            put(word, BlockWord::UNASSIGNED.0);
            return;
        };
        put(word, BlockWord::new(class, count).0);
        if count < ArenaShape::<UNITS>::chunks_in_block(class) {
            self.set_room(block, class);
        }
    }

    /// Looks for contradictions, without writing. On a live arena a finding counts only if it stays.
    pub fn check(&self) -> impl Iterator<Item = ArenaViolation> + use<'s, UNITS> {
        let this = *self;
        (0..self.shape.blocks()).flat_map(move |block| this.check_block(block))
    }

    fn check_block(&self, block: u32) -> Vec<ArenaViolation> {
        let mut found = Vec::new();
        let free = self.free().is_free(block);
        let class = self.class_of(block);
        if class.is_none() && free && self.is_clean(block) {
            return found;
        }
        let first = block * UNITS;
        let mut used = 0;
        for within in 0..UNITS {
            let state = self.state(first + within).unwrap_or(ChunkState::Free);
            let fits = class.is_some_and(|class| within.trailing_zeros() >= class);
            match state {
                ChunkState::Free => {}
                ChunkState::Claimed(_) | ChunkState::Used(_) if fits => used += 1,
                ChunkState::Claimed(_) | ChunkState::Used(_) | ChunkState::Damaged(_) => {
                    let (unit, word) = (first + within, state.word());
                    found.push(ArenaViolation::StrayChunk { unit, word });
                }
            }
        }
        found.extend(self.check_block_word(block, free, used));
        found
    }

    fn check_block_word(&self, block: u32, free: bool, used: u32) -> Option<ArenaViolation> {
        let word = self.word_of(block);
        let counted = word.count();
        let Some(class) = word.class(ArenaShape::<UNITS>::CLASS_MAX) else {
            return (!free).then_some(ArenaViolation::UnassignedButTaken { block });
        };
        if free {
            Some(ArenaViolation::AssignedButFree { block })
        } else if counted < used {
            Some(ArenaViolation::CountTooLow {
                block,
                counted,
                used,
            })
        } else if counted > used {
            Some(ArenaViolation::CountTooHigh {
                block,
                counted,
                used,
            })
        } else if self.has_room(block, class) && !self.says_room(block, class) {
            Some(ArenaViolation::HiddenRoom { block })
        } else {
            None
        }
    }

    /// How full the arena is, from the block words.
    #[must_use]
    pub fn usage(&self) -> ArenaUsage {
        let mut usage = ArenaUsage {
            blocks: self.shape.blocks(),
            blocks_for_submissions: self.shape.blocks_for_submissions(),
            blocks_unassigned: 0,
            classes: (0..=ArenaShape::<UNITS>::CLASS_MAX)
                .map(|class| ClassUsage {
                    chunk_bytes: ArenaShape::<UNITS>::chunk_bytes(class),
                    blocks: 0,
                    chunks_used: 0,
                    chunks: 0,
                })
                .collect(),
        };
        for word in self.blocks {
            // ORDERING: statistics.
            let word = BlockWord(word.load(Ordering::Relaxed));
            let class = word.class(ArenaShape::<UNITS>::CLASS_MAX);
            let Some((class, line)) =
                class.and_then(|class| Some((class, usage.classes.get_mut(class as usize)?)))
            else {
                usage.blocks_unassigned += 1;
                continue;
            };
            line.blocks += 1;
            line.chunks_used = line.chunks_used.saturating_add(word.count());
            line.chunks += ArenaShape::<UNITS>::chunks_in_block(class);
        }
        usage
    }
}

/// Writes a word unless it is right.
fn put(word: &AtomicU64, value: u64) {
    // ORDERING: nobody else writes; whoever is let in later is let in by a release store.
    if word.load(Ordering::Relaxed) != value {
        // ORDERING: as above.
        word.store(value, Ordering::Relaxed);
    }
}
