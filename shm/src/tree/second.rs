//! Where the second-best entry lies, while the best is being taken: a hint, so that its memory is there when its turn comes.
//!
//! Invariant: nothing is decided by it. Whoever takes an entry finds it from the root ([`MinTree::locate`]).
//! Tested in `tree/tests.rs`.

use super::{Key, MinTree, best_of, position};
use crate::sync::Ordering;
use crate::sync::fetch::fetch_ahead;

/// The group of leaves that the second-best entry was seen in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Second {
    group: usize,
    word: u64,
}

/// A word that was seen among the children of a node.
#[derive(Debug, Clone, Copy)]
struct Seen {
    word: u64,
    /// The node's.
    level: usize,
    index: usize,
}

impl<const FANOUT: usize> MinTree<'_, FANOUT> {
    /// The best key beside that of a leaf, unless operations are in flight.
    ///
    /// # Panics
    /// When `leaf` is not below the capacity.
    #[must_use]
    pub fn best_beside(&self, leaf: u32) -> Option<Key> {
        Key::entry_of_word(self.seen_beside(leaf).word)
    }

    /// Looks where the best entry beside that of a leaf lies, and asks for the memory of the leaves there.
    ///
    /// # Panics
    /// When `leaf` is not below the capacity.
    #[must_use]
    pub fn second_beside(&self, leaf: u32) -> Option<Second> {
        let Seen {
            word,
            level,
            mut index,
        } = self.seen_beside(leaf);
        if word == 0 {
            return None;
        }
        for level in (2..=level).rev() {
            index = self.child_with(level, index, word)?;
        }
        fetch_ahead(self.children(1, index)?);
        Some(Second { group: index, word })
    }

    /// The leaf of the second-best entry, if it is there still.
    #[must_use]
    pub fn leaf_of_second(&self, second: Second) -> Option<u32> {
        let index = self.child_with(1, second.group, second.word)?;
        self.leaf_of(index)
    }

    fn seen_beside(&self, leaf: u32) -> Seen {
        assert!(leaf < self.capacity(), "leaf {leaf} beyond the capacity");
        let mut best = Seen {
            word: 0,
            level: 1,
            index: 0,
        };
        let mut own = leaf as usize;
        for level in 1..=self.shape.root_level() {
            let (index, child) = (own / FANOUT, own % FANOUT);
            if let Some(children) = self.children(level, index) {
                // ORDERING: a hint; as it stands in one word.
                let mut words = children.each_ref().map(|word| word.load(Ordering::Acquire));
                words[child] = 0;
                let word = best_of(words);
                if word > best.word {
                    best = Seen { word, level, index };
                }
            }
            own = index;
        }
        best
    }

    fn child_with(&self, level: usize, index: usize, word: u64) -> Option<usize> {
        let children = self.children(level, index)?;
        // ORDERING: a hint; as it stands in one word.
        let words = children
            .each_ref()
            .map(|child| child.load(Ordering::Acquire));
        Some(index * FANOUT + position(&words, word)?)
    }
}
