//! The three-level free bitmap: which slots (or arena blocks) are free, found in a few words.
//!
//! ```text
//! level 2   one bit for 4,096 entries: all of them taken
//! level 1   one bit for 64 entries: all of them taken        (one word = one window of 4,096)
//! level 0   one bit for each entry: taken
//! ```
//! A bit in memory is 0 for free, so zeroed memory is "all free". Like the trees this is a cache: the
//! truth is the state word of the slot, and a taker whose bit says free must still win its CAS.
//!
//! # Invariants
//! - **I1** An entry is handed out by the one `fetch_or` that turned its bit to 1.
//! - **I2** In quiescence a summary bit is 1 exactly when all entries below it are taken. Wrongly 0 costs
//!   a taker one look (and it mends the bit); wrongly 1 hides free entries and exists only between a
//!   taker's summary write and its second look, or after a kill there, until the next `give_back`
//!   below it or `scrub`.
//! - **I3** `give_back` of a free entry changes nothing. Bits beyond the length are never handed out.
//!
//! # Sync points
//! | label | write, then look | against |
//! |---|---|---|
//! | `bitmap.full` | summary bit set, then the word below again | `bitmap.room` |
//! | `bitmap.room` | bit cleared, then the summary bit above | `bitmap.full` |
//!
//! | `bitmap.tenancy` | bit changed, then the slot's state (`settle`) | state changed, then the bit (`settle`) |
//!
//! The first pair is the one of the trees: either the releaser sees the summary bit and clears it, or the
//! taker's second look sees the released bit and takes the summary back.
//!
//! # Allocation
//! The lowest window of 4,096 entries with room is used, so that the paths in the trees stay hot. Within the
//! window allocation goes round from the caller's hint, so that one slot's generations do not wear out.
//!
//! # Where tested
//! `bitmap/tests.rs` (naive model, kill points, threads), `shm/tests/loom_bitmap.rs`.

mod build;
#[cfg(test)]
mod tests;

use core::fmt;
use core::ops::Range;

use crate::sync::{
    AtomicU64, Backoff, Ordering, store_load_clear_bits, store_load_load, store_load_set_bits,
};

const WORD: usize = 64;
const GROUP: usize = 8;

/// LIMIT: each round means that the entry was taken or freed in between.
const SETTLE_ROUNDS_MAX: u32 = 64;

/// LIMIT: a word of 64 entries that changed so often under one taker is being written nonsense to.
const TAKE_ROUNDS_MAX: u32 = 10_000;

/// A bitmap over words of the segment (or of private memory).
#[derive(Clone, Copy)]
pub struct Bitmap<'s> {
    words: &'s [AtomicU64],
    shape: BitmapShape,
}

/// Where the levels of a bitmap for a number of entries lie in its words.
#[derive(Debug, Clone, Copy)]
pub struct BitmapShape {
    len: u32,
    /// First word and number of words of level 0, 1, 2, without padding.
    levels: [(usize, usize); 3],
    words: usize,
}

impl BitmapShape {
    /// Lays out a bitmap of `len` entries; each level starts a cache line.
    #[must_use]
    pub const fn new(len: u32) -> Self {
        let zero = (len as usize).div_ceil(WORD);
        let one = zero.div_ceil(WORD);
        let two = one.div_ceil(WORD);
        let first_one = two.next_multiple_of(GROUP);
        let first_zero = first_one + one.next_multiple_of(GROUP);
        Self {
            len,
            levels: [(first_zero, zero), (first_one, one), (0, two)],
            words: first_zero + zero.next_multiple_of(GROUP),
        }
    }
}

/// How many words a bitmap of `len` entries takes.
#[must_use]
pub const fn words_for(len: u32) -> usize {
    BitmapShape::new(len).words
}

impl<'s> Bitmap<'s> {
    /// LIMIT: a slot index has 24 bits.
    pub const LEN_MAX: u32 = 1 << 24;

    /// Entries that one window holds; allocation goes round within the lowest window with room.
    pub const WINDOW: u32 = 4_096;

    /// Looks at `words` as a bitmap of `len` entries. Zeroed words are all free.
    ///
    /// # Panics
    /// When there are too few words, or `len` is above [`LEN_MAX`](Self::LEN_MAX).
    #[inline]
    #[must_use]
    pub fn new(words: &'s [AtomicU64], len: u32) -> Self {
        Self::of_shape(words, BitmapShape::new(len))
    }

    /// The same where the shape is known already.
    ///
    /// # Panics
    /// As [`Bitmap::new`].
    #[inline]
    #[must_use]
    pub fn of_shape(words: &'s [AtomicU64], shape: BitmapShape) -> Self {
        assert!(
            shape.len <= Self::LEN_MAX && words.len() >= shape.words,
            "{} words are no bitmap of {} entries",
            words.len(),
            shape.len
        );
        Self { words, shape }
    }

    /// The words of a level: 0 has a bit for each entry.
    #[inline]
    fn level(&self, level: usize) -> &'s [AtomicU64] {
        let (first, count) = self.shape.levels[level];
        &self.words[first..][..count]
    }

    /// How many entries there are.
    #[must_use]
    pub const fn len(&self) -> u32 {
        self.shape.len
    }

    /// Is this a bitmap of no entries?
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.shape.len == 0
    }

    /// Takes a free entry: in the lowest window with room, the next one from `hint` on, round and
    /// round. Callers keep the last entry plus one as their hint.
    #[inline]
    #[must_use]
    pub fn take(&self, hint: u32) -> Option<u32> {
        self.take_below(self.shape.len, hint)
    }

    /// As [`take`](Self::take), but only entries below `limit`.
    #[must_use]
    pub fn take_below(&self, limit: u32, hint: u32) -> Option<u32> {
        let limit = limit.min(self.shape.len) as usize;
        let hint = (hint % Self::WINDOW) as usize;
        let mut from = 0;
        while let Some(window) = self.window_with_room(from, limit) {
            if let Some(entry) = self.take_in_window(window, limit, hint) {
                return u32::try_from(entry).ok();
            }
            from = window + 1;
        }
        None
    }

    /// Takes this very entry; false when it is taken already (or does not exist).
    pub fn take_at(&self, entry: u32) -> bool {
        if entry >= self.shape.len {
            return false;
        }
        let (word, bit) = place(entry as usize);
        // ORDERING: [bitmap.full] decides who has the entry (I1); write half for the level above.
        let before = store_load_set_bits(&self.level(0)[word], bit);
        self.mark_if_full(0, word, before | bit);
        before & bit == 0
    }

    /// Frees an entry; false when it was free already (or does not exist). The state word of the slot
    /// must be FREE before.
    #[inline]
    pub fn give_back(&self, entry: u32) -> bool {
        if entry >= self.shape.len {
            return false;
        }
        let (word, bit) = place(entry as usize);
        // ORDERING: [bitmap.room] write half; the look at the summaries is the other half.
        let before = store_load_clear_bits(&self.level(0)[word], bit);
        self.unmark(0, word);
        before & bit != 0
    }

    /// Makes the bit of an entry say what `in_use` says, which reads the truth by `store_load_load`; returns whether
    /// the bit was changed. Safe at any time.
    ///
    /// Whoever changes the truth (a claimer, one that frees) looks at the bit afterwards, whoever changes the bit looks
    /// at the truth: so a repairer may give back a bit that a slow claimer has taken and not yet used. The
    /// claimer's own compare-and-swap still decides who has the slot, and one of the two sets the bit again.
    #[inline]
    pub fn settle(&self, entry: u32, in_use: impl Fn() -> bool) -> bool {
        if entry >= self.shape.len || cfg!(qtf_mutant = "bitmap_settle_does_nothing") {
            return false;
        }
        let (word, bit) = place(entry as usize);
        let mut changed = false;
        for _ in 0..SETTLE_ROUNDS_MAX {
            // ORDERING: [bitmap.tenancy] look half, at the truth and at the bit.
            let used = in_use();
            // ORDERING: [bitmap.tenancy] as above.
            let taken = store_load_load(&self.level(0)[word]) & bit != 0;
            if used == taken {
                return changed;
            }
            // ORDERING: [bitmap.tenancy] write half; the next round's look at the truth is the other half.
            if used {
                self.take_at(entry);
            } else {
                self.give_back(entry);
            }
            changed = true;
            if cfg!(qtf_mutant = "bitmap_settle_looks_once") {
                return true;
            }
        }
        changed
    }

    /// Is the entry free? False for entries that do not exist.
    #[inline]
    #[must_use]
    pub fn is_free(&self, entry: u32) -> bool {
        let (word, bit) = place(entry as usize);
        // ORDERING: a hint; the slot's state word is the truth.
        entry < self.shape.len && self.level(0)[word].load(Ordering::Acquire) & bit == 0
    }

    /// The taken entries of a range, in order; a stretch without any costs a look for each 64.
    pub fn iter_taken(&self, range: Range<u32>) -> impl Iterator<Item = u32> + use<'s> {
        let end = range.end.min(self.shape.len);
        let bits = self.level(0);
        (range.start / 64..end.div_ceil(64)).flat_map(move |word| {
            let from = range.start.saturating_sub(word * 64);
            // ORDERING: a hint; the slot's state word is the truth.
            let taken = bits[word as usize].load(Ordering::Acquire);
            ones(taken & (u64::MAX << from) & mask_below((end - word * 64) as usize))
                .map(move |bit| word * 64 + bit)
        })
    }

    /// How many entries are taken at this moment.
    #[must_use]
    pub fn count_taken(&self) -> u32 {
        let words = self.level(0).iter().enumerate();
        // ORDERING: statistics.
        words
            .map(|(i, w)| (w.load(Ordering::Relaxed) & self.valid(0, i)).count_ones())
            .sum()
    }

    /// The first entry above all taken ones.
    #[must_use]
    pub fn high_water(&self) -> u32 {
        for word in (0..self.level(0).len()).rev() {
            // ORDERING: statistics.
            let taken = self.level(0)[word].load(Ordering::Relaxed) & self.valid(0, word);
            if taken != 0 {
                let bits = WORD - taken.leading_zeros() as usize;
                return u32::try_from(word * WORD + bits).unwrap_or(self.shape.len);
            }
        }
        0
    }

    /// Makes every summary bit right, whatever a killed process left; returns how many were wrong.
    /// Safe at any time.
    pub fn scrub(&self) -> u64 {
        let mut wrong = 0;
        for level in [0, 1] {
            for word in 0..self.level(level).len() {
                // ORDERING: [bitmap.full] look half; marking looks once more itself.
                let bits = store_load_load(&self.level(level)[word]);
                let full = self.is_full(level, word, bits);
                if full == self.is_marked(level, word) {
                    continue;
                }
                wrong += 1;
                if full {
                    self.mark_if_full(level, word, bits);
                } else {
                    self.unmark(level, word);
                }
            }
        }
        wrong
    }

    /// Compares every summary bit with the word below it, without writing; yields (level, bit) of
    /// the wrong ones. On a live bitmap a finding counts only if it stays.
    pub fn check(&self) -> impl Iterator<Item = (usize, usize)> + use<'s> {
        let this = *self;
        [0, 1].into_iter().flat_map(move |level| {
            (0..this.level(level).len()).filter_map(move |word| {
                // ORDERING: a look for people.
                let bits = this.level(level)[word].load(Ordering::Acquire);
                let wrong = this.is_full(level, word, bits) != this.is_marked(level, word);
                wrong.then_some((level + 1, word))
            })
        })
    }

    /// Replaces the whole content. Only while nobody else writes: at start-up.
    pub fn rebuild(&self, taken: impl IntoIterator<Item = u32>) {
        for word in [2, 1, 0].into_iter().flat_map(|level| self.level(level)) {
            // ORDERING: nobody else writes; whoever is let in later is let in by a release store.
            if word.load(Ordering::Relaxed) != 0 {
                // ORDERING: as above.
                word.store(0, Ordering::Relaxed);
            }
        }
        for entry in taken {
            self.take_at(entry);
        }
    }

    /// The first window at or after `from`, with entries below `limit`, that does not say full.
    #[inline]
    fn window_with_room(&self, from: usize, limit: usize) -> Option<usize> {
        let end = limit.div_ceil(Self::WINDOW as usize);
        let mut skip = u64::MAX << (from % WORD);
        for word in from / WORD..end.div_ceil(WORD) {
            // ORDERING: a hint: wrongly 0 costs a look, wrongly 1 is mended by the second look.
            let full = self.level(2)[word].load(Ordering::Acquire);
            let room = !full & skip & mask_below(end - word * WORD);
            if room != 0 {
                return Some(word * WORD + lowest(room));
            }
            skip = u64::MAX;
        }
        None
    }

    /// Goes round the window once, from the hint on.
    #[inline]
    fn take_in_window(&self, window: usize, limit: usize, hint: usize) -> Option<usize> {
        let first = window * WORD;
        // ORDERING: a hint, as above.
        let full = self.level(1)[window].load(Ordering::Acquire);
        let room = !full & mask_below(limit.div_ceil(WORD) - first);
        if room == 0 {
            self.mark_if_full(1, window, full);
            return None;
        }
        let (hint_word, hint_bit) = (hint / WORD, hint % WORD);
        let from_hint = ones(room & (u64::MAX << hint_word)).map(|word| (word, true));
        let again = ones(room).map(|word| (word, false));
        for (word, rotate) in from_hint.chain(again) {
            let word = word as usize;
            let skip = if rotate && word == hint_word {
                u64::MAX << hint_bit
            } else {
                u64::MAX
            };
            if let Some(entry) = self.take_in_word(first + word, limit, skip) {
                return Some(entry);
            }
        }
        None
    }

    /// Takes the lowest free entry of a word among those in `mask` and below `limit`.
    #[inline]
    fn take_in_word(&self, word: usize, limit: usize, mask: u64) -> Option<usize> {
        let mask = mask & mask_below(limit - word * WORD);
        let mut backoff = Backoff::new();
        for _ in 0..TAKE_ROUNDS_MAX {
            // ORDERING: a hint; the fetch_or decides.
            let bits = self.level(0)[word].load(Ordering::Acquire);
            let free = !bits & mask;
            if free == 0 {
                self.mark_if_full(0, word, bits);
                return None;
            }
            let bit = free & free.wrapping_neg();
            // ORDERING: [bitmap.full] decides who has the entry (I1); write half for the level above.
            let before = store_load_set_bits(&self.level(0)[word], bit);
            if before & bit == 0 || cfg!(qtf_mutant = "bitmap_taken_bit_is_taken_again") {
                self.mark_if_full(0, word, before | bit);
                return Some(word * WORD + lowest(bit));
            }
            backoff.pause();
        }
        None
    }

    /// If `bits`, just seen in the word, have no room: says so in the level above, and looks again.
    #[inline]
    fn mark_if_full(&self, level: usize, word: usize, bits: u64) {
        if level < 2 && self.is_full(level, word, bits) {
            self.mark(level, word);
        }
    }

    fn mark(&self, level: usize, word: usize) {
        let (above, bit) = place(word);
        // ORDERING: [bitmap.full] write half; the second look below is the other half.
        let before = store_load_set_bits(&self.level(level + 1)[above], bit);
        if !cfg!(qtf_mutant = "bitmap_no_second_look") {
            // ORDERING: [bitmap.full] look half: pairs with the clearing in `give_back` and `unmark`.
            let now = if cfg!(qtf_mutant = "bitmap_second_look_too_early") {
                // ORDERING: a mutant.
                self.level(level)[word].load(Ordering::Acquire)
            } else {
                store_load_load(&self.level(level)[word])
            };
            if !self.is_full(level, word, now) {
                self.unmark(level, word);
                return;
            }
        }
        self.mark_if_full(level + 1, above, before | bit);
    }

    /// The word has room: takes back what the levels above say.
    #[inline]
    fn unmark(&self, level: usize, word: usize) {
        let mut word = word;
        for level in level + 1..=2 {
            let (above, bit) = place(word);
            let summary = &self.level(level)[above];
            // ORDERING: [bitmap.room] look half: pairs with the marking in `mark`.
            let marked = if cfg!(qtf_mutant = "bitmap_release_looks_too_early") {
                // ORDERING: a mutant.
                summary.load(Ordering::Acquire)
            } else {
                store_load_load(summary)
            };
            if marked & bit != 0 {
                // ORDERING: [bitmap.room] write half towards the level above.
                store_load_clear_bits(summary, bit);
            }
            word = above;
        }
    }

    #[inline]
    fn is_full(&self, level: usize, word: usize, bits: u64) -> bool {
        let valid = self.valid(level, word);
        bits & valid == valid
    }

    fn is_marked(&self, level: usize, word: usize) -> bool {
        let (above, bit) = place(word);
        // ORDERING: a hint; wrong marks are mended by `scrub`.
        self.level(level + 1)[above].load(Ordering::Acquire) & bit != 0
    }

    /// The bits of a word that stand for something.
    #[inline]
    fn valid(&self, level: usize, word: usize) -> u64 {
        let bits = if level == 0 {
            self.shape.len as usize
        } else {
            self.level(level - 1).len()
        };
        mask_below(bits - word * WORD)
    }
}

impl fmt::Debug for Bitmap<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bitmap")
            .field("len", &self.shape.len)
            .field("taken", &self.count_taken())
            .finish_non_exhaustive()
    }
}

/// Word and mask of a bit.
#[inline]
const fn place(index: usize) -> (usize, u64) {
    (index / WORD, 1 << (index % WORD))
}

/// The lowest `count` bits; all of them from 64 on.
#[inline]
const fn mask_below(count: usize) -> u64 {
    if count >= WORD {
        u64::MAX
    } else {
        (1 << count) - 1
    }
}

#[inline]
const fn lowest(bits: u64) -> usize {
    bits.trailing_zeros() as usize
}

/// The positions of the ones of a word, lowest first.
#[inline]
fn ones(bits: u64) -> impl Iterator<Item = u32> {
    let mut bits = bits;
    core::iter::from_fn(move || {
        let lowest = (bits != 0).then(|| bits.trailing_zeros());
        bits &= bits.wrapping_sub(1);
        lowest
    })
}
