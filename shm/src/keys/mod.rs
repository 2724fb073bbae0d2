//! The idempotency keys of a segment: which task a client's key stands for.
//!
//! A client that lost an answer repeats its submission with the same key and gets the first task's id. The table is part of
//! the segment, so it outlives the daemon; after a cold start it is filled from the journal.
//!
//! ```text
//! bucket, 256 bytes: eight entries, word by word
//!      0  tasks     [8]  confirmed 1 | spent 1 | 0 in 2 bits | task id 60; 0 = the entry is free
//!     64  keys_low  [8]
//!    128  keys_high [8]
//!    192  expiries  [8]  stamp 48
//! ```
//! A key may lie in two buckets only, both computed from it: a look is at most 16 entries (four cache lines when the key is
//! not there), and a removal leaves nothing behind. The bucket with fewer keys that may not go (I5) is taken; others are no
//! hindrance. A key finds both its buckets full of such keys by chance. So a table of the default size that is filled with them refuses
//! its first key between two thirds and three quarters; where they come and go, it refuses none in millions while half of it
//! holds them, one in some 200,000 at six tenths, and one in 200 at 73 of a hundred.
//!
//! # Invariants
//! - **I1** Only the PLM writes (one process, one thread); inspectors read at any time.
//! - **I2** An entry counts from the store of its task word, which is written last; it is erased by zeroing that word, which
//!   is written first. So a kill at any store leaves an entry that is whole, or none.
//! - **I3** `reserve` leaves an entry *unconfirmed*. It is confirmed when the task exists. What a kill leaves unconfirmed is
//!   settled at the next start: confirmed if the task is there, else removed. So no key ever stands for a task that was never
//!   accepted, and no accepted task lacks its key.
//! - **I4** Every number read from the table is checked; nonsense costs the key, not safety.
//! - **I5** A *spent* entry is one whose task was acknowledged: it is as good as any other until its place is needed, and is never
//!   made anything but gone from there.
//! - **I6** An entry stays where it is until it is erased (but for a table that is filled at a cold start, before anybody looks),
//!   so a task's slot may name it. Whoever comes from there compares the task: the entry may be another's by now.
//!
//! # Sync points
//! | label | what | against |
//! |---|---|---|
//! | `keys.entry` | key and expiry, then the task word (release) | task word (acquire), then key and expiry |
//! | `keys.reuse` | task word zeroed, release fence, then key and expiry | key and expiry, acquire fence, then the task word again |
//!
//! # Where tested
//! `keys/tests.rs` (naive model, kill points, nonsense), `shm/tests/loom_keys.rs`.

mod refill;
mod table;
#[cfg(test)]
mod tests;

use core::fmt;

use crate::id::TaskId;

pub use table::{KeyTable, KeyView};

/// Entries of a bucket.
pub const BUCKET_ENTRIES: usize = 8;
/// Bytes of a bucket.
pub const BUCKET_BYTES: usize = BUCKET_ENTRIES * 32;

/// A client's key: 128 bits of its choice, not all zero.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId([u64; 2]);

impl KeyId {
    /// Reads the bytes of the wire; all zero is no key.
    #[must_use]
    pub const fn from_bytes(bytes: &[u8; 16]) -> Option<Self> {
        let all = u128::from_le_bytes(*bytes);
        #[expect(
            clippy::cast_possible_truncation,
            reason = "the two halves are what is asked for"
        )]
        Self::from_words([all as u64, (all >> 64) as u64])
    }

    /// The bytes of the wire.
    #[must_use]
    pub const fn to_bytes(self) -> [u8; 16] {
        (self.0[0] as u128 | ((self.0[1] as u128) << 64)).to_le_bytes()
    }

    /// Takes the two words of a side record; both zero is no key.
    #[must_use]
    pub const fn from_words(words: [u64; 2]) -> Option<Self> {
        if words[0] == 0 && words[1] == 0 {
            None
        } else {
            Some(Self(words))
        }
    }

    /// The two words, as a side record holds them.
    #[must_use]
    pub const fn words(self) -> [u64; 2] {
        self.0
    }
}

impl fmt::Display for KeyId {
    /// The bytes in their order, in hexadecimal.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.to_bytes()
            .iter()
            .try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyId({self})")
    }
}

/// What a key stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyEntry {
    /// The key.
    pub key: KeyId,
    /// The task of the first submission with it. It may be gone by now.
    pub task: TaskId,
    /// Stamp from which on the key is forgotten.
    pub expiry: u64,
    /// The task was accepted (or at least exists).
    pub confirmed: bool,
    /// The task was acknowledged: where places run short this one may go before its time.
    pub spent: bool,
}

/// An entry that was reserved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyPlace {
    index: u32,
    task: TaskId,
}

impl KeyPlace {
    /// Number of the entry.
    #[must_use]
    pub const fn index(self) -> u32 {
        self.index
    }
}

/// No room for one more key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "no room for this key among {capacity}: keys live shorter with a smaller time to live (`key_ttl_ms`), a larger segment \
     (`segment_bytes`) has room for more"
)]
pub struct KeysFull {
    /// Keys that the table can hold.
    pub capacity: u32,
    /// The bucket that one of its spent keys can make room in ([`KeyView::places_of_bucket`]): the next try takes its place. `None`
    /// where all places of the key hold living keys that are not spent.
    pub spent_in: Option<u32>,
}

/// What settling found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SettledKeys {
    /// Unconfirmed entries whose task exists: confirmed.
    pub confirmed: u32,
    /// Unconfirmed entries whose task does not exist, and impossible ones: removed.
    pub removed: u32,
}
