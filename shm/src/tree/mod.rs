//! The lock-free min-tree: task heap, worker heap and timer heaps are all this one structure.
//!
//! An implicit tree of words. Leaf *i* belongs to slot *i* and holds its key or EMPTY; every inner
//! word holds the minimum of its `FANOUT` children. No links, no locks, no allocation, nothing to
//! reclaim. A word in memory is the inverted key, so zeroed memory is the empty tree and the minimum
//! of keys is the maximum of words.
//!
//! # Invariants
//! - **I1** A leaf changes only by its own slot's operations: EMPTY -> key (`insert`, `restore`),
//!   key -> EMPTY (`remove`), key -> key (`rekey`), each by one CAS; `set` is for leaves that only one
//!   process writes. So an entry is never overwritten by another tenant, nor removed by a late hand.
//! - **I2** Inner words grant nothing. A wrong one can delay or misorder an entry, never lose or
//!   double it: takers decide by the CAS on the slot's state word.
//! - **I3** In quiescence every inner word is the minimum of its children.
//! - **I4** Every index is computed from the shape, never read from memory, and every loop is bounded:
//!   a peer that writes nonsense costs order and time, not safety.
//!
//! # Sync points
//! | label | write, then look | against |
//! |---|---|---|
//! | `tree.leaf` | leaf (`insert`, `remove`, `rekey`, `set`), then the parent word | `tree.fix` |
//! | `tree.fix` | inner word, then its children again: the second look | `tree.leaf`, `tree.fix` one level down |
//! | `tree.tenancy` | leaf, then the slot's state (`tenancy.rs`) | the state, then the leaf |
//!
//! # Why it is right
//! Whoever changes a word looks at the parent next, and whoever changes an inner word looks at the
//! children again. Both are store-load pairs, so in their one total order a fixer that has read old
//! children and then writes the parent either writes before the other side looks (which then sees a
//! wrong parent and mends it) or looks again after the other side's write (and mends it itself).
//! The second look also makes version tags unnecessary: a CAS that succeeded on a recurring value is
//! mended by the process that made it. A climb may stop at a word that is already right, since whoever
//! made it right goes on climbing from there, for all that it has made visible and not for its own entry alone.
//!
//! Two kinds of wrong inner words exist. *Too good* (an entry that is gone): `locate` meets it at
//! once, finds no child equal to it, and repairs the path. *Too bad* (hides an entry): exists only
//! between a fixer's CAS and its second look, or between an insert and its climb. A kill there leaves
//! it until the next operation in that group or until `scrub`, which is therefore part of each repair
//! after a death. So "the root is empty" alone must never be taken for "there is no work".
//!
//! # Where tested
//! `tree/tests.rs` (naive model, kill points, nonsense, threads), `shm/tests/loom_tree.rs` and
//! `loom_state.rs` (models, with `loom_mutants.txt`).

mod build;
mod entries;
mod key;
mod repair;
mod second;
mod shape;
mod tenancy;
#[cfg(test)]
mod tests;

use core::fmt;

pub use build::TreeBuilder;
pub use entries::{Check, Entries, Violation};
pub use key::Key;
pub use second::Second;
pub use shape::TreeShape;

use crate::sync::{AtomicU64, Backoff, Ordering, store_load_cas, store_load_load, store_load_swap};

/// LIMIT: a fix repeats only when another process changed the same group in between; so many times in
/// a row means a peer that writes nonsense, and the scrub is left to mend it.
const FIX_ROUNDS_MAX: u32 = 10_000;

/// LIMIT: as above, for walks from the root that ended at a stale word.
const LOCATE_RESTARTS_MAX: u32 = 1_000;

/// The leaf is in use; holds its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the leaf already holds key {0:?}; read the slot's state again")]
pub struct Occupied(pub Key);

/// A min-tree over words of the segment (or of private memory).
#[derive(Clone, Copy)]
pub struct MinTree<'s, const FANOUT: usize = 8> {
    words: &'s [AtomicU64],
    shape: &'s TreeShape<FANOUT>,
}

/// How many words a production tree of `capacity` leaves takes.
#[must_use]
pub fn words_for(capacity: u32) -> usize {
    TreeShape::<8>::new(capacity).words()
}

impl<'s, const FANOUT: usize> MinTree<'s, FANOUT> {
    /// Looks at `words` as a tree of that shape. Zeroed words are an empty tree.
    ///
    /// # Panics
    /// When there are fewer words than the shape needs.
    #[inline]
    #[must_use]
    pub fn new(words: &'s [AtomicU64], shape: &'s TreeShape<FANOUT>) -> Self {
        assert!(
            words.len() >= shape.words(),
            "{} words are too few for the tree",
            words.len()
        );
        Self { words, shape }
    }

    /// How many leaves can be used.
    #[must_use]
    pub const fn capacity(&self) -> u32 {
        self.shape.capacity()
    }

    /// Writes `key` into the empty leaf, then makes it visible up to the root.
    ///
    /// # Errors
    /// The leaf was not empty: it is left as it is.
    ///
    /// # Panics
    /// When `leaf` is not below the capacity.
    #[inline]
    pub fn insert(&self, leaf: u32, key: Key) -> Result<(), Occupied> {
        let word = key.to_word();
        if cfg!(qtf_mutant = "tree_insert_overwrites") {
            store_load_swap(self.leaf_word(leaf), word);
        } else {
            // ORDERING: [tree.leaf] write half; the climb's look at the parent is the other half.
            store_load_cas(self.leaf_word(leaf), 0, word)
                .map_err(|found| Occupied(Key::of_word(found)))?;
        }
        self.climb_after_insert(leaf, word);
        Ok(())
    }

    /// Takes `key` out of the leaf; false when the leaf holds something else by now.
    ///
    /// # Panics
    /// When `leaf` is not below the capacity.
    #[inline]
    pub fn remove(&self, leaf: u32, key: Key) -> bool {
        self.rekey(leaf, key, Key::EMPTY)
    }

    /// Replaces `from` by `to` in the leaf; false when the leaf does not hold `from`.
    ///
    /// # Panics
    /// When `leaf` is not below the capacity.
    #[inline]
    pub fn rekey(&self, leaf: u32, from: Key, to: Key) -> bool {
        let word = self.leaf_word(leaf);
        // ORDERING: [tree.tenancy] the look of whoever has changed the slot's state: a key that is not seen here was written
        // later, by somebody who then looks at the state.
        if from.is_empty() || store_load_load(word) != from.to_word() {
            return false;
        }
        // ORDERING: [tree.leaf] write half; the climb's look at the parent is the other half.
        if cfg!(qtf_mutant = "tree_remove_without_compare") {
            store_load_swap(word, to.to_word());
        } else if store_load_cas(word, from.to_word(), to.to_word()).is_err() {
            Backoff::new().pause();
            return false;
        }
        self.climb_after_change(leaf);
        true
    }

    /// Writes `key` (or EMPTY) over whatever the leaf holds. Only for leaves that one process writes.
    ///
    /// # Panics
    /// When `leaf` is not below the capacity.
    #[inline]
    pub fn set(&self, leaf: u32, key: Key) {
        let word = self.leaf_word(leaf);
        // ORDERING: [tree.leaf] own word: nobody else writes it, so it is current.
        if word.load(Ordering::Relaxed) == key.to_word() {
            return;
        }
        // ORDERING: [tree.leaf] write half; the climb's look at the parent is the other half.
        store_load_swap(word, key.to_word());
        self.climb_after_change(leaf);
    }

    /// What the leaf holds.
    ///
    /// # Panics
    /// When `leaf` is not below the capacity.
    #[inline]
    #[must_use]
    pub fn leaf(&self, leaf: u32) -> Option<Key> {
        // ORDERING: [tree.leaf] a single word; whoever acts on it decides by the slot's state word.
        Key::entry_of_word(self.leaf_word(leaf).load(Ordering::Acquire))
    }

    /// The key at the root: the best one, unless operations are in flight.
    #[inline]
    #[must_use]
    pub fn first_key(&self) -> Option<Key> {
        // ORDERING: [tree.fix] SeqCst, as a caller that is about to sleep looks here after it has
        // said so: the look half of its own pair.
        Key::entry_of_word(store_load_load(self.node(self.shape.root_level(), 0)))
    }

    /// Finds the best entry and leaves it where it is. Repairs stale words on its way.
    ///
    /// `None` means that nothing was visible at the root; overlapping inserts may be about to show.
    #[inline]
    #[must_use]
    pub fn locate(&self) -> Option<(u32, Key)> {
        let mut backoff = Backoff::new();
        for _ in 0..LOCATE_RESTARTS_MAX {
            let best = self.first_key()?;
            match self.descend(best.to_word()) {
                Ok(leaf) => return Some((leaf, best)),
                Err(stale) => {
                    self.mend(stale);
                    backoff.pause();
                }
            }
        }
        self.locate_any()
    }

    /// Reads the entries best first, without writing. For inspectors: allocates, and shows a tree
    /// that changes meanwhile as well as one can: each leaf at most once.
    #[must_use]
    pub fn entries_in_order(&self) -> Entries<'s, FANOUT> {
        Entries::new(*self)
    }

    /// Compares every inner word with its children, without writing. On a live tree a finding counts
    /// only if it stays.
    #[must_use]
    pub fn check(&self) -> Check<'s, FANOUT> {
        Check::new(*self)
    }

    /// Climbs as long as something changes, unless the word above the leaf knows of something at least as good already. Words above that one do not
    /// stop it: what it has changed may be for the entry of another insert, which finds it there and stops.
    #[inline]
    fn climb_after_insert(&self, leaf: u32, word: u64) {
        let mut index = leaf as usize;
        for level in 1..=self.shape.root_level() {
            index /= FANOUT;
            let may_stop = level == 1 || cfg!(qtf_mutant = "tree_insert_climbs_for_itself_alone");
            // ORDERING: [tree.leaf] look half: pairs with the CAS in `fix`.
            let knows =
                |above| look(above, cfg!(qtf_mutant = "tree_insert_looks_too_early")) >= word;
            if may_stop && knows(self.node(level, index))
                || cfg!(qtf_mutant = "tree_insert_never_climbs")
                || !self.fix(level, index)
            {
                return;
            }
        }
    }

    /// Climbs as long as something changes.
    #[inline]
    fn climb_after_change(&self, leaf: u32) {
        let mut index = leaf as usize;
        for level in 1..=self.shape.root_level() {
            index /= FANOUT;
            if !self.fix(level, index) {
                return;
            }
        }
    }

    /// Makes one inner word the best of its children; true when this call changed it.
    #[inline(always)]
    fn fix(&self, level: usize, index: usize) -> bool {
        let node = self.node(level, index);
        let mut changed = false;
        let mut backoff = Backoff::new();
        for round in 0..FIX_ROUNDS_MAX {
            let early = (cfg!(qtf_mutant = "tree_first_look_too_early") && round == 0)
                || (cfg!(qtf_mutant = "tree_second_look_too_early") && round > 0);
            // ORDERING: [tree.leaf] look half in the first round, at word and children;
            // [tree.fix] look half in the next ones.
            let stored = look(node, early);
            let best = self.best_child(level, index, early);
            if best == stored {
                return changed;
            }
            // ORDERING: [tree.fix] write half; the next round's look at the children is the other half.
            if store_load_cas(node, stored, best).is_ok() {
                changed = true;
                if cfg!(qtf_mutant = "tree_no_second_look") {
                    return true;
                }
            } else {
                backoff.pause();
            }
        }
        true
    }

    /// Walks from the root to the leaf that holds `best`.
    #[inline]
    fn descend(&self, best: u64) -> Result<u32, Stale> {
        let mut index = 0;
        for level in (1..=self.shape.root_level()).rev() {
            let stale = Stale { level, index };
            let children = self.children(level, index).ok_or(stale)?;
            // ORDERING: [tree.fix] a stale path is repaired before the next walk.
            let words = children
                .each_ref()
                .map(|child| child.load(Ordering::SeqCst));
            index = index * FANOUT + position(&words, best).ok_or(stale)?;
        }
        self.leaf_of(index).ok_or(Stale { level: 0, index })
    }

    /// After too many restarts: walks along the best children, whatever the words above say.
    #[cold]
    fn locate_any(&self) -> Option<(u32, Key)> {
        let mut index = 0;
        let mut word = 0;
        for level in (1..=self.shape.root_level()).rev() {
            let children = self.children(level, index)?;
            // ORDERING: [tree.fix] order is already lost here; the taker's state CAS decides.
            let words = children
                .iter()
                .map(|child| child.load(Ordering::Acquire))
                .enumerate();
            let (child, best) = words.max_by_key(|&(child, word)| (word, FANOUT - child))?;
            (index, word) = (index * FANOUT + child, best);
        }
        Some((self.leaf_of(index)?, Key::entry_of_word(word)?))
    }

    #[inline]
    fn leaf_of(&self, index: usize) -> Option<u32> {
        u32::try_from(index)
            .ok()
            .filter(|&leaf| leaf < self.capacity())
    }

    /// Where a leaf lies; `None` when `leaf` is not below the capacity.
    #[inline]
    pub(crate) fn place_of(&self, leaf: u32) -> Option<&'s AtomicU64> {
        (leaf < self.capacity()).then(|| self.node(0, leaf as usize))
    }

    #[inline]
    fn leaf_word(&self, leaf: u32) -> &'s AtomicU64 {
        assert!(
            leaf < self.capacity(),
            "leaf {leaf} beyond the capacity {}",
            self.capacity()
        );
        self.node(0, leaf as usize)
    }

    #[inline]
    fn node(&self, level: usize, index: usize) -> &'s AtomicU64 {
        &self.words[self.shape.level(level).offset + index]
    }

    /// The children of an inner word; `None` for the padding of a level.
    #[inline]
    fn children(&self, level: usize, index: usize) -> Option<&'s [AtomicU64; FANOUT]> {
        let below = self.shape.level(level - 1);
        let start = index * FANOUT;
        if start >= below.count {
            return None;
        }
        self.words[below.offset + start..].first_chunk()
    }

    /// The best of the children, as a word; EMPTY for the padding of a level.
    #[inline]
    fn best_child(&self, level: usize, index: usize, early: bool) -> u64 {
        let Some(children) = self.children(level, index) else {
            return 0;
        };
        // ORDERING: [tree.fix] look half: pairs with the leaf or inner CAS one level down.
        best_of(children.each_ref().map(|child| look(child, early)))
    }
}

/// The best of some words. In pairs: a chain of comparisons would wait for each of them.
#[inline]
fn best_of<const FANOUT: usize>(mut words: [u64; FANOUT]) -> u64 {
    let mut width = FANOUT;
    while width > 1 {
        let half = width.div_ceil(2);
        for child in half..width {
            words[child - half] = words[child - half].max(words[child]);
        }
        width = half;
    }
    words[0]
}

/// Which of some words is this one, the first of them. All are compared: no processor foresees at which one a search would end.
#[inline]
fn position<const FANOUT: usize>(words: &[u64; FANOUT], word: u64) -> Option<usize> {
    const { assert!(FANOUT <= 64) };
    let mut found = 0_u64;
    for (child, other) in words.iter().enumerate() {
        found |= u64::from(*other == word) << child;
    }
    (found != 0).then(|| found.trailing_zeros() as usize)
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

impl<const FANOUT: usize> fmt::Debug for MinTree<'_, FANOUT> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MinTree")
            .field("capacity", &self.capacity())
            .field("first", &self.first_key())
            .finish_non_exhaustive()
    }
}

/// Where a walk from the root got stuck.
#[derive(Debug, Clone, Copy)]
struct Stale {
    level: usize,
    index: usize,
}
