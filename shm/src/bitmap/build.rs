//! A bitmap made anew in one pass: only while nobody else writes, at start-up.
//!
//! A word that is right already is not written. A kill leaves words of before and after; the truth is in the slots, and the
//! next build starts from there.

use super::{Bitmap, WORD};
use crate::sync::{AtomicU64, Ordering};

impl Bitmap<'_> {
    /// Writes the bits of 64 entries: a 1 for each that is taken.
    #[inline]
    pub fn build_word(&self, word: u32, taken: u64) {
        if let Some(place) = self.level(0).get(word as usize) {
            put(place, taken & self.valid(0, word as usize));
        }
    }

    /// After all words below entry `end` were built: nothing is taken from there on, and the levels above say what is full.
    pub fn finish_build(&self, end: u32) {
        let first = (end as usize).div_ceil(WORD);
        for word in self.level(0).iter().skip(first) {
            put(word, 0);
        }
        for level in [0, 1] {
            for (index, above) in self.level(level + 1).iter().enumerate() {
                let start = index * WORD;
                let below = self.level(level).iter().enumerate().skip(start).take(WORD);
                let full = below.fold(0, |full, (word, bits)| {
                    // ORDERING: nobody else writes.
                    let bits = bits.load(Ordering::Relaxed);
                    full | (u64::from(self.is_full(level, word, bits)) << (word - start))
                });
                put(above, full);
            }
        }
    }
}

/// Writes a word unless it is right.
#[inline]
fn put(word: &AtomicU64, value: u64) {
    // ORDERING: nobody else writes; whoever is let in later is let in by a release store.
    if word.load(Ordering::Relaxed) != value {
        // ORDERING: as above.
        word.store(value, Ordering::Relaxed);
    }
}
