//! Read-only looks at a min-tree: entries best first, and the check of every parent.

use core::fmt;
use std::collections::BinaryHeap;

use super::{Key, MinTree};
use crate::sync::Ordering;

/// The entries of a tree, best first. See [`MinTree::entries_in_order`].
///
/// Invariant: each word of the tree is pushed at most once, by its only parent; so the walk ends after
/// as many steps as there are words, whatever others write meanwhile.
pub struct Entries<'s, const FANOUT: usize> {
    tree: MinTree<'s, FANOUT>,
    frontier: BinaryHeap<Node>,
}

/// Ordered by the memory word (greater is better), then by the lower index.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Node {
    word: u64,
    before: core::cmp::Reverse<usize>,
    level: usize,
}

impl<'s, const FANOUT: usize> Entries<'s, FANOUT> {
    pub(super) fn new(tree: MinTree<'s, FANOUT>) -> Self {
        let mut entries = Self {
            tree,
            frontier: BinaryHeap::new(),
        };
        entries.push(tree.shape.root_level(), 0);
        entries
    }

    fn push(&mut self, level: usize, index: usize) {
        // ORDERING: a look for people; each word stands for itself.
        let word = self.tree.node(level, index).load(Ordering::Acquire);
        if word != 0 {
            self.frontier.push(Node {
                word,
                before: core::cmp::Reverse(index),
                level,
            });
        }
    }
}

impl<const FANOUT: usize> Iterator for Entries<'_, FANOUT> {
    type Item = (u32, Key);

    fn next(&mut self) -> Option<Self::Item> {
        while let Some(Node {
            word,
            before,
            level,
        }) = self.frontier.pop()
        {
            let index = before.0;
            if level == 0 {
                if let Some(leaf) = self.tree.leaf_of(index) {
                    return Some((leaf, Key::of_word(word)));
                }
            } else if self.tree.children(level, index).is_some() {
                for child in 0..FANOUT {
                    self.push(level - 1, index * FANOUT + child);
                }
            }
        }
        None
    }
}

impl<const FANOUT: usize> fmt::Debug for Entries<'_, FANOUT> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entries")
            .field("frontier", &self.frontier.len())
            .finish_non_exhaustive()
    }
}

/// An inner word that is not the minimum of its children, or padding that is not empty (level 0).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Violation {
    /// Level of the word; its children are one below.
    pub level: usize,
    /// Index of the word in its level.
    pub index: usize,
    /// What it holds.
    pub stored: Key,
    /// What its children say.
    pub expected: Key,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            level,
            index,
            stored,
            expected,
        } = self;
        write!(
            f,
            "tree level {level} word {index}: holds {stored:?}, its children say {expected:?}"
        )
    }
}

/// The violations of a tree, bottom up. See [`MinTree::check`].
pub struct Check<'s, const FANOUT: usize> {
    tree: MinTree<'s, FANOUT>,
    level: usize,
    index: usize,
}

impl<'s, const FANOUT: usize> Check<'s, FANOUT> {
    pub(super) const fn new(tree: MinTree<'s, FANOUT>) -> Self {
        Self {
            tree,
            level: 0,
            index: tree.capacity() as usize,
        }
    }

    fn look_at(&self, level: usize, index: usize) -> Option<Violation> {
        let expected = if level == 0 {
            0
        } else {
            self.tree.best_child(level, index, false)
        };
        // ORDERING: a look for people; a finding on a live tree counts only if it stays.
        let stored = self.tree.node(level, index).load(Ordering::Acquire);
        (stored != expected).then(|| Violation {
            level,
            index,
            stored: Key::of_word(stored),
            expected: Key::of_word(expected),
        })
    }
}

impl<const FANOUT: usize> Iterator for Check<'_, FANOUT> {
    type Item = Violation;

    fn next(&mut self) -> Option<Violation> {
        while self.level <= self.tree.shape.root_level() {
            if self.index >= self.tree.shape.level(self.level).count {
                (self.level, self.index) = (self.level + 1, 0);
                continue;
            }
            let (level, index) = (self.level, self.index);
            self.index += 1;
            if let Some(violation) = self.look_at(level, index) {
                return Some(violation);
            }
        }
        None
    }
}

impl<const FANOUT: usize> fmt::Debug for Check<'_, FANOUT> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Check")
            .field("level", &self.level)
            .field("index", &self.index)
            .finish_non_exhaustive()
    }
}
