//! A set of task kinds: one bit for each number that a kind can have.
//!
//! ```text
//! word 0: kinds 0 to 63, the lowest bit kind 0; words 1 to 3: the rest
//! ```
//! Invariant: every bit pattern is a set; kind 0, which stands for none, is in no set that [`KindSet::insert`] made.
//!
//! Tested at the end of this file.

use core::fmt;

use crate::id::{KINDS_COUNT, KindIndex};

/// Words of a set.
pub const KIND_SET_WORDS: usize = KINDS_COUNT as usize / 64;

/// Some task kinds.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct KindSet([u64; KIND_SET_WORDS]);

impl KindSet {
    /// No kind.
    pub const EMPTY: Self = Self([0; KIND_SET_WORDS]);
    /// Any kind, also those that are to be named later.
    pub const ALL: Self = Self([u64::MAX; KIND_SET_WORDS]);

    /// A set as it was loaded.
    #[must_use]
    pub const fn from_words(words: [u64; KIND_SET_WORDS]) -> Self {
        Self(words)
    }

    /// The bits.
    #[must_use]
    pub const fn words(self) -> [u64; KIND_SET_WORDS] {
        self.0
    }

    /// Puts a kind in.
    pub fn insert(&mut self, kind: KindIndex) {
        let (word, bit) = place(kind);
        if let Some(word) = self.0.get_mut(word)
            && kind != KindIndex::NONE
        {
            *word |= bit;
        }
    }

    /// The kind is in it.
    #[inline]
    #[must_use]
    pub fn contains(self, kind: KindIndex) -> bool {
        let (word, bit) = place(kind);
        self.0.get(word).is_some_and(|word| word & bit != 0)
    }

    /// No kind is in it.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self == Self::EMPTY
    }

    /// What is in it and not in another.
    #[must_use]
    pub fn without(self, other: Self) -> Self {
        let mut left = self;
        for (word, taken) in left.0.iter_mut().zip(other.0) {
            *word &= !taken;
        }
        left
    }

    /// The numbers of its bits, the lowest first; 0 only in a set that nobody made.
    pub fn iter(self) -> impl Iterator<Item = KindIndex> {
        let words = self.0.into_iter().enumerate();
        words.flat_map(|(word, bits)| Bits(bits).filter_map(move |bit| number(word, bit)))
    }
}

impl FromIterator<KindIndex> for KindSet {
    fn from_iter<I: IntoIterator<Item = KindIndex>>(kinds: I) -> Self {
        let mut set = Self::EMPTY;
        for kind in kinds {
            set.insert(kind);
        }
        set
    }
}

impl fmt::Debug for KindSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

/// The bits that are set in a word, the lowest first.
struct Bits(u64);

impl Iterator for Bits {
    type Item = u32;

    fn next(&mut self) -> Option<u32> {
        let bit = self.0.trailing_zeros();
        self.0 &= self.0.wrapping_sub(1);
        (bit < u64::BITS).then_some(bit)
    }
}

const fn place(kind: KindIndex) -> (usize, u64) {
    (kind.position() / 64, 1 << (kind.position() % 64))
}

fn number(word: usize, bit: u32) -> Option<KindIndex> {
    let number = word * 64 + usize::try_from(bit).ok()?;
    KindIndex::new_checked(u16::try_from(number).ok()?, KINDS_COUNT)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(number: u16) -> KindIndex {
        KindIndex::new_checked(number, KINDS_COUNT).unwrap()
    }

    #[test]
    fn kinds_of_each_word_go_in_and_are_found_in_order() {
        let numbers = [1, 63, 64, 127, 128, 191, 192, 255];
        let set: KindSet = numbers.into_iter().rev().map(kind).collect();
        let found: Vec<u16> = set.iter().map(KindIndex::get).collect();
        assert_eq!(found, numbers);
        for number in 0..256 {
            assert_eq!(set.contains(kind(number)), numbers.contains(&number));
        }
        assert_eq!(KindSet::from_words(set.words()), set);
    }

    #[test]
    fn no_kind_goes_into_no_set() {
        let set: KindSet = [KindIndex::NONE].into_iter().collect();
        assert!(set.is_empty());
        assert_eq!(KindSet::ALL.iter().count(), 256);
    }

    #[test]
    fn set_without_another_has_what_only_it_has() {
        let few: KindSet = [kind(3), kind(200)].into_iter().collect();
        let one: KindSet = [kind(200)].into_iter().collect();
        assert_eq!(
            few.without(one)
                .iter()
                .map(KindIndex::get)
                .collect::<Vec<_>>(),
            [3]
        );
        assert!(few.without(KindSet::ALL).is_empty());
    }
}
