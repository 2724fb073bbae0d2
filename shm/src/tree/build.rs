//! A min-tree made anew in one pass over its leaves: only while nobody else writes, at start-up.
//!
//! Leaves are given in order; the inner words above whole groups of them are written on the way, while their children are
//! still in the cache, the few levels at the top afterwards. A word that is right already is not written. Several builders may
//! work on ranges of their own side by side. A builder that is killed leaves leaves of before and after, each of which is what
//! its slot said at that time, and inner words that the next build (or a scrub) makes right.

use super::{Key, MinTree, TreeShape};
use crate::sync::{AtomicU64, Ordering};

/// Inner levels that a builder writes as it goes; the ones above come with `finish_build`.
const LEVELS: usize = 3;
// `BUILD_GRANULE` covers as many.

/// Writes a range of leaves in order, and the inner words above them.
#[derive(Debug)]
pub struct TreeBuilder<'s, const FANOUT: usize = 8> {
    words: &'s [AtomicU64],
    shape: &'s TreeShape<FANOUT>,
    next: usize,
    /// The best of the group that is being filled, level by level; index 0 is not used.
    best: [u64; LEVELS + 2],
}

impl<'s, const FANOUT: usize> MinTree<'s, FANOUT> {
    /// Leaves of different builders must lie in different stretches of so many.
    pub const BUILD_GRANULE: u32 = 1 << (FANOUT.ilog2() * 3);

    /// Starts at a leaf that is a multiple of [`BUILD_GRANULE`](Self::BUILD_GRANULE).
    #[must_use]
    pub fn build_from(&self, leaf: u32) -> TreeBuilder<'s, FANOUT> {
        TreeBuilder {
            words: self.words,
            shape: self.shape,
            next: leaf as usize,
            best: [0; LEVELS + 2],
        }
    }

    /// After all builders: the upper levels, and nothing from leaf `end` on. `empty` zeroes words, or finds that they are.
    pub fn finish_build(&self, end: u32, empty: impl Fn(&[AtomicU64])) {
        let mut covered = (end as usize).next_multiple_of(Self::BUILD_GRANULE as usize);
        let root = self.shape.root_level();
        for level in 0..=root.min(LEVELS) {
            let at = self.shape.level(level);
            let words = &self.words[at.offset..at.offset + at.count];
            empty(words.get(covered..).unwrap_or_default());
            covered /= FANOUT;
        }
        for level in LEVELS + 1..=root {
            for index in 0..self.shape.level(level).count {
                let best = self.children(level, index).map_or(0, |children| {
                    // ORDERING: nobody else writes.
                    let words = children.iter().map(|child| child.load(Ordering::Relaxed));
                    words.max().unwrap_or(0)
                });
                put(self.node(level, index), best);
            }
        }
    }
}

impl<const FANOUT: usize> TreeBuilder<'_, FANOUT> {
    /// What the next leaf holds at this moment.
    #[inline]
    #[must_use]
    pub fn next_leaf(&self) -> Option<Key> {
        let at = self.shape.level(0);
        let word = self.words[at.offset..at.offset + at.count].get(self.next)?;
        // ORDERING: nobody else writes.
        Key::entry_of_word(word.load(Ordering::Relaxed))
    }

    /// Writes the next leaf; [`Key::EMPTY`] for none.
    #[inline]
    pub fn push(&mut self, key: Key) {
        let word = if (self.next as u64) < u64::from(self.shape.capacity()) {
            key.to_word()
        } else {
            0
        };
        self.write(0, self.next, word);
        self.best[1] = self.best[1].max(word);
        self.next += 1;
        let mut whole = self.next;
        for level in 1..=LEVELS {
            if !whole.is_multiple_of(FANOUT) {
                return;
            }
            whole /= FANOUT;
            let best = core::mem::take(&mut self.best[level]);
            self.write(level, whole - 1, best);
            self.best[level + 1] = self.best[level + 1].max(best);
        }
        self.best[LEVELS + 1] = 0;
    }

    /// Fills the rest of the last stretch with nothing.
    pub fn finish(mut self) {
        while !self.next.is_multiple_of(FANOUT.pow(3)) {
            self.push(Key::EMPTY);
        }
    }

    #[inline]
    fn write(&self, level: usize, index: usize, word: u64) {
        let is_left = level > 0 && cfg!(qtf_mutant = "sim_trees_are_not_scrubbed");
        if level > self.shape.root_level() || is_left {
            return;
        }
        let at = self.shape.level(level);
        if index < at.count {
            put(&self.words[at.offset + index], word);
        }
    }
}

/// Writes a word unless it is right: a page that is only read stays clean.
#[inline]
fn put(word: &AtomicU64, value: u64) {
    // ORDERING: nobody else writes; whoever is let in later is let in by a release store.
    if word.load(Ordering::Relaxed) != value {
        // ORDERING: as above.
        word.store(value, Ordering::Relaxed);
    }
}
