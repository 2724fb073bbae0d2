//! Repair of a min-tree: what a killed process or a rebuilt segment needs.

use core::ops::Range;

use super::{Key, MinTree, Occupied, Stale};
use crate::sync::{Ordering, store_load_cas, store_load_swap};

impl<const FANOUT: usize> MinTree<'_, FANOUT> {
    /// Repair: makes sure that the leaf holds `key` and that the whole path above it is right,
    /// whatever a killed process left there.
    ///
    /// # Errors
    /// The leaf holds another key: it is left as it is.
    ///
    /// # Panics
    /// When `leaf` is not below the capacity.
    pub fn restore(&self, leaf: u32, key: Key) -> Result<(), Occupied> {
        // ORDERING: [tree.leaf] write half; the look at the ancestors is the other half.
        match store_load_cas(self.leaf_word(leaf), 0, key.to_word()) {
            Ok(_) => {}
            Err(found) if found == key.to_word() => {}
            Err(found) => return Err(Occupied(Key::of_word(found))),
        }
        self.fix_from(1, leaf as usize / FANOUT);
        Ok(())
    }

    /// Makes every inner word right, bottom up; returns how many were wrong. Safe at any time.
    pub fn scrub(&self) -> u64 {
        self.scrub_leaves(0..self.capacity())
    }

    /// As [`scrub`](Self::scrub), for the inner words above some leaves: a stripe of it.
    pub fn scrub_leaves(&self, leaves: Range<u32>) -> u64 {
        let end = leaves.end.min(self.capacity()) as usize;
        let start = leaves.start as usize;
        if start >= end {
            return 0;
        }
        let whole = start == 0 && end == self.capacity() as usize;
        let mut changed = 0;
        let (mut first, mut last) = (start / FANOUT, (end - 1) / FANOUT);
        for level in 1..=self.shape.root_level() {
            if whole {
                last = self.shape.level(level).count - 1;
            }
            for index in first..=last {
                if cfg!(qtf_mutant = "tree_scrub_does_nothing") {
                    continue;
                }
                changed += u64::from(self.fix(level, index));
            }
            (first, last) = (first / FANOUT, last / FANOUT);
        }
        changed
    }

    /// Replaces the whole content. Only while nobody else writes: at start-up.
    /// Entries beyond the capacity are left out.
    pub fn rebuild(&self, entries: impl IntoIterator<Item = (u32, Key)>) {
        for word in &self.words[..self.shape.words()] {
            // ORDERING: nobody else writes; whoever is let in later is let in by a release store.
            if word.load(Ordering::Relaxed) != 0 {
                // ORDERING: as above.
                word.store(0, Ordering::Relaxed);
            }
        }
        for (leaf, key) in entries {
            if leaf < self.capacity() {
                // ORDERING: as above.
                self.leaf_word(leaf).store(key.to_word(), Ordering::Relaxed);
            }
        }
        self.scrub();
    }

    /// Fixes a word and all above it, whether they change or not.
    fn fix_from(&self, level: usize, index: usize) {
        let mut index = index;
        for level in level..=self.shape.root_level() {
            self.fix(level, index);
            index /= FANOUT;
        }
    }

    /// Repairs the word at which a walk got stuck, and the path above it.
    pub(super) fn mend(&self, stale: Stale) {
        if stale.level > 0 {
            self.fix_from(stale.level, stale.index);
            return;
        }
        // A key in the padding: no process of ours writes there.
        store_load_swap(self.node(0, stale.index), 0);
        self.fix_from(1, stale.index / FANOUT);
    }
}
