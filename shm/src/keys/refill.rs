//! Filling the table of a new segment with the keys that the journal remembers.
//!
//! In daily work a key that finds both its buckets full is refused, which begins between two thirds and three quarters. Keys that fitted
//! before a cold start came and went in another order, so some of them might find no place among the same neighbours; a
//! repeat of theirs would run twice. Here others are moved to their second bucket to make room (cuckoo hashing, breadth
//! first: Erlingsson et al., "A cool and practical alternative to traditional hash tables", 2006), which fills
//! the table to nearly its end.
//!
//! Only while nobody else looks at the table: on its way a key is in two places. Tested in `keys/tests.rs`.

use super::{KeyId, KeyTable, KeysFull};
use crate::id::TaskId;
use crate::time::Now;

/// LIMIT: entries that one search looks at. A table that is nine tenths full needs a few dozen.
const HOPS_MAX: usize = 256;

/// An entry that may be moved, and the one that would take its place.
struct Hop {
    index: u32,
    from: Option<usize>,
}

impl<const ENTRIES: usize> KeyTable<'_, ENTRIES> {
    /// Makes a key stand for a task that exists, moving others if it must. Only for a segment that nobody else has yet.
    ///
    /// # Errors
    /// No room, whatever is moved within the limit of the search.
    pub fn put_back(
        &self,
        key: KeyId,
        task: TaskId,
        expiry: u64,
        now: Now,
    ) -> Result<(), KeysFull> {
        let reserved = self.reserve(key, task, expiry, now);
        let place = match reserved {
            Ok(place) => place,
            Err(full) => {
                let free = self.make_room(key).ok_or(full)?;
                self.reserve_at(free, key, task, expiry)
            }
        };
        self.confirm(place);
        Ok(())
    }

    /// Frees an entry of one of the key's buckets, and says which.
    fn make_room(&self, key: KeyId) -> Option<u32> {
        let mut hops: Vec<Hop> = self
            .entries_of(key)
            .map(|index| Hop { index, from: None })
            .collect();
        let mut at = 0;
        while at < hops.len().min(HOPS_MAX) {
            let index = hops.get(at)?.index;
            for other in self.elsewhere(index) {
                if self.entry(other).is_none() {
                    return Some(self.shift(&hops, at, other));
                }
                if hops.iter().all(|hop| hop.index != other) {
                    hops.push(Hop {
                        index: other,
                        from: Some(at),
                    });
                }
            }
            at += 1;
        }
        None
    }

    /// The entries of the other bucket of the key that lies here.
    fn elsewhere(&self, index: u32) -> impl Iterator<Item = u32> {
        // LIMIT: a bucket has at most 8 entries.
        let entries = u32::try_from(ENTRIES).unwrap_or(1);
        let here = index / entries;
        let places = self.entry(index).map(|entry| self.entries_of(entry.key));
        places
            .into_iter()
            .flatten()
            .filter(move |place| place / entries != here)
    }

    /// Moves each entry of a path one step on, the last one to `free`. Returns the place that is free then.
    fn shift(&self, hops: &[Hop], last: usize, free: u32) -> u32 {
        let (mut target, mut at) = (free, Some(last));
        while let Some(hop) = at.and_then(|at| hops.get(at)) {
            self.relocate(hop.index, target);
            (target, at) = (hop.index, hop.from);
        }
        target
    }
}
