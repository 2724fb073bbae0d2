//! Where each level of a min-tree lies in its words.
//!
//! ```text
//! | root, padded to one group | .. | level 1 | level 0: the leaves |
//! ```
//! Top first, so that the few hot levels share pages. Each level is padded to whole groups of
//! `FANOUT` words, so with eight every group is one cache line if the first word starts one.

const LEVELS_MAX: usize = 12;

/// One level: where its words start and how many there are, padding included.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Level {
    pub(super) offset: usize,
    pub(super) count: usize,
}

/// The levels of a tree for a number of leaves.
#[derive(Debug, Clone)]
pub struct TreeShape<const FANOUT: usize = 8> {
    capacity: u32,
    root_level: usize,
    words: usize,
    levels: [Level; LEVELS_MAX],
}

impl<const FANOUT: usize> TreeShape<FANOUT> {
    /// LIMIT: a slot index has 24 bits; the arithmetic below would carry more.
    pub const CAPACITY_MAX: u32 = 1 << 24;

    /// Lays out a tree of `capacity` leaves.
    ///
    /// # Panics
    /// When `capacity` is 0 or above [`CAPACITY_MAX`](Self::CAPACITY_MAX) (checked by geometry first).
    #[must_use]
    pub fn new(capacity: u32) -> Self {
        const { assert!(FANOUT.is_power_of_two() && FANOUT >= 2) };
        assert!(
            (1..=Self::CAPACITY_MAX).contains(&capacity),
            "tree capacity {capacity} out of range"
        );
        let mut levels = [Level::default(); LEVELS_MAX];
        levels[0].count = (capacity as usize).next_multiple_of(FANOUT);
        let mut root_level = 0;
        while root_level == 0 || levels[root_level - 1].count > FANOUT {
            root_level += 1;
            assert!(
                root_level < LEVELS_MAX,
                "fan-out too small for {capacity} leaves"
            );
            let parents = levels[root_level - 1].count / FANOUT;
            levels[root_level].count = parents.next_multiple_of(FANOUT);
        }
        let mut words = 0;
        for level in levels[..=root_level].iter_mut().rev() {
            level.offset = words;
            words += level.count;
        }
        Self {
            capacity,
            root_level,
            words,
            levels,
        }
    }

    /// How many words the tree takes.
    #[must_use]
    pub const fn words(&self) -> usize {
        self.words
    }

    /// How many leaves can be used.
    #[must_use]
    pub const fn capacity(&self) -> u32 {
        self.capacity
    }

    /// The level of the root; leaves are level 0.
    #[inline]
    pub(super) const fn root_level(&self) -> usize {
        self.root_level
    }

    #[inline]
    pub(super) const fn level(&self, level: usize) -> Level {
        self.levels[level]
    }
}

#[cfg(test)]
mod tests {
    use super::TreeShape;

    #[test]
    fn levels_are_whole_groups_and_do_not_overlap() {
        for capacity in [1, 7, 8, 9, 64, 65, 511, 4_096, 1_048_576, 1 << 24] {
            let shape = TreeShape::<8>::new(capacity);
            let mut end = 0;
            for level in (0..=shape.root_level()).rev() {
                let at = shape.level(level);
                assert_eq!(at.offset, end);
                assert_eq!(at.count % 8, 0);
                end = at.offset + at.count;
            }
            assert_eq!(end, shape.words());
            assert_eq!(shape.level(shape.root_level()).count, 8);
        }
    }

    #[test]
    fn a_million_leaves_cost_about_an_eighth_more_than_the_leaves() {
        let words = TreeShape::<8>::new(1_048_576).words();
        assert!((1_198_372..1_198_500).contains(&words), "{words}");
    }
}
