//! Where the second-best entry lies, while the best is being taken: a hint, so that its memory is there when its turn comes.
//!
//! Invariant: nothing is decided by it. Whoever takes an entry finds it from the root ([`MinTree::locate`]).
//! Tested in `tree/tests.rs`.

use super::{Key, MinTree};
use crate::sync::Ordering;
use crate::sync::fetch::fetch_ahead;

/// The group of leaves that the second-best entry was seen in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Second {
    group: usize,
    word: u64,
}

/// A word that was seen in a tree.
#[derive(Debug, Clone, Copy)]
struct Seen {
    word: u64,
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
        let Seen { word, level, index } = self.seen_beside(leaf);
        if word == 0 {
            return None;
        }
        let mut index = index;
        for level in (2..=level).rev() {
            index = self.child_with(level, index, word)?;
        }
        let group = if level == 0 { index / FANOUT } else { index };
        fetch_ahead(self.children(1, group)?);
        Some(Second { group, word })
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
            level: 0,
            index: 0,
        };
        let mut own = leaf as usize;
        for level in 0..self.shape.root_level() {
            let first = own / FANOUT * FANOUT;
            for (child, word) in self
                .children(level + 1, own / FANOUT)
                .into_iter()
                .flatten()
                .enumerate()
            {
                // ORDERING: a hint; as it stands in one word.
                let word = word.load(Ordering::Acquire);
                if word > best.word && first + child != own {
                    best = Seen {
                        word,
                        level,
                        index: first + child,
                    };
                }
            }
            own /= FANOUT;
        }
        best
    }

    fn child_with(&self, level: usize, index: usize, word: u64) -> Option<usize> {
        let children = self.children(level, index)?;
        // ORDERING: a hint; as it stands in one word.
        let found = children
            .iter()
            .position(|child| child.load(Ordering::Acquire) == word)?;
        Some(index * FANOUT + found)
    }
}
