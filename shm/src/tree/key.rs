//! Keys of the min-trees: smaller is better, all ones is "nothing here".
//!
//! ```text
//! ready   class 8 (255 - priority) | stamp 48                | low generation 8
//! timed                              stamp 48                | low generation 16
//! load    ratio 16                 | assignment stamp 32     | worker 16
//! ```
//! The generation bits keep a late `remove(leaf, key)` from deleting the next tenant's entry.

use core::fmt;

const STAMP_BITS: u32 = 48;
const STAMP_MAX: u64 = (1 << STAMP_BITS) - 1;

/// A 64-bit key of a [`MinTree`](super::MinTree).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(u64);

impl Key {
    /// No entry; greater than every entry.
    pub const EMPTY: Self = Self(u64::MAX);

    /// The greatest key that is an entry; the constructors never exceed it.
    const LAST: u64 = u64::MAX - 1;

    /// Takes a key as it is.
    #[must_use]
    pub const fn from_raw(raw: u64) -> Self {
        Self(raw)
    }

    /// The 64 bits.
    #[must_use]
    pub const fn as_raw(self) -> u64 {
        self.0
    }

    /// Key of a ready task: higher priority first, then the earlier stamp (units of 256 ns).
    #[must_use]
    pub const fn ready(priority: u8, stamp: u64, generation: u64) -> Self {
        let class = (u8::MAX - priority) as u64;
        Self::entry((class << 56) | (limit(stamp) << 8) | (generation & 0xFF))
    }

    /// The same from a slot's word `order`, whose lowest 8 bits are no part of it.
    #[must_use]
    pub const fn of_order(order: u64, generation: u64) -> Self {
        Self::entry((order & !0xFF) | (generation & 0xFF))
    }

    /// Key of a timer: the earlier stamp (units of 256 ns) first.
    #[must_use]
    pub const fn timed(stamp: u64, generation: u64) -> Self {
        Self::entry((limit(stamp) << 16) | (generation & 0xFFFF))
    }

    /// Key of a worker: the lower load ratio first, then the one assigned to longest ago.
    #[must_use]
    pub const fn load(ratio: u16, stamp: u32, worker: u16) -> Self {
        Self::entry(((ratio as u64) << 48) | ((stamp as u64) << 16) | (worker as u64))
    }

    const fn entry(raw: u64) -> Self {
        if raw > Self::LAST {
            Self(Self::LAST)
        } else {
            Self(raw)
        }
    }

    /// Is this "nothing here"?
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == Self::EMPTY.0
    }

    /// The priority in a key made by [`ready`](Self::ready).
    #[must_use]
    pub const fn ready_priority(self) -> u8 {
        u8::MAX - self.0.to_be_bytes()[0]
    }

    /// The stamp in a key made by [`ready`](Self::ready).
    #[must_use]
    pub const fn ready_stamp(self) -> u64 {
        (self.0 >> 8) & STAMP_MAX
    }

    /// The stamp in a key made by [`timed`](Self::timed).
    #[must_use]
    pub const fn timed_stamp(self) -> u64 {
        self.0 >> 16
    }

    /// The load ratio in a key made by [`load`](Self::load).
    #[must_use]
    pub const fn load_ratio(self) -> u16 {
        let bytes = self.0.to_be_bytes();
        u16::from_be_bytes([bytes[0], bytes[1]])
    }

    /// As it lies in memory: inverted, so that zeroed memory is an empty tree.
    #[inline]
    pub(super) const fn to_word(self) -> u64 {
        !self.0
    }

    /// The key of a memory word.
    #[inline]
    pub(super) const fn of_word(word: u64) -> Self {
        Self(!word)
    }

    /// The key of a memory word, if it is an entry.
    #[inline]
    pub(super) const fn entry_of_word(word: u64) -> Option<Self> {
        if word == 0 { None } else { Some(Self(!word)) }
    }
}

const fn limit(stamp: u64) -> u64 {
    if stamp > STAMP_MAX { STAMP_MAX } else { stamp }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            f.write_str("EMPTY")
        } else {
            write!(f, "{:#018x}", self.0)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Key;

    #[test]
    fn ready_keys_order_by_priority_then_stamp() {
        let urgent = Key::ready(255, 900, 1);
        let early = Key::ready(7, 10, 3);
        let late = Key::ready(7, 11, 2);
        assert!(urgent < early && early < late);
        assert_eq!((late.ready_priority(), late.ready_stamp()), (7, 11));
    }

    #[test]
    fn no_constructor_makes_the_empty_key() {
        assert!(!Key::ready(0, u64::MAX, u64::MAX).is_empty());
        assert!(!Key::timed(u64::MAX, u64::MAX).is_empty());
        assert!(!Key::load(u16::MAX, u32::MAX, u16::MAX).is_empty());
    }

    #[test]
    fn parts_can_be_read_back() {
        assert_eq!(Key::timed(77, 0xABCDE).timed_stamp(), 77);
        assert_eq!(Key::load(500, 9, 4).load_ratio(), 500);
    }
}
