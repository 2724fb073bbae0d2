//! A ring of entries between two sides, of which one puts in and the other takes out.
//!
//! ```text
//! put     how many entries were put in       written by the producer
//! taken   how many were taken out            written by the consumer
//! entries four words each                    written by the producer, while the consumer has no use for them
//! ```
//! Both counts only rise; `put - taken` entries wait, and number `n` lies at `n` modulo the size of the ring. Each side is a type of its own, so
//! that nobody writes the other's words.
//!
//! Invariants:
//! - I1: an entry is read between its count and its being taken out, and in that time its producer does not write it.
//! - I2: the other side is believed in nothing: counts that cannot be are [`Nonsense`], an entry is copied once and its reader checks what it says.
//! - I3: an entry is looked at first, then acted upon, then taken out. A side that is killed in between leaves it there, so whoever comes next meets
//!   it again: what an entry asks for may be done twice.
//!
//! # Sync points
//! | label | what | against |
//! |---|---|---|
//! | `ring.entry` | the words of an entry, then `put` (release) | `put` (acquire), then the words |
//! | `ring.room` | the words copied and acted upon, then `taken` (release) | `taken` (acquire), then the words of the next entry at this place |
//!
//! Both counts are written by [`store_load_swap`], as the bell of the other side follows. Modelled in `shm/tests/loom_lane.rs`, tested at the end of
//! this file.

use crate::sync::{AtomicU64, Ordering, load_own, store_load_swap};

/// Words of an entry.
pub const ENTRY_WORDS: usize = 4;

/// An entry, copied out.
pub type EntryWords = [u64; ENTRY_WORDS];

/// The counts of a ring that cannot be: somebody who is neither of its sides has written them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{put} entries were put in and {taken} taken out of a ring of {size}")]
pub struct Nonsense {
    /// What was said to be put in.
    pub put: u64,
    /// What was said to be taken out.
    pub taken: u64,
    /// Entries of the ring.
    pub size: u64,
}

/// A ring by its words.
#[derive(Debug, Clone, Copy)]
pub struct Ring<'s> {
    put: &'s AtomicU64,
    taken: &'s AtomicU64,
    entries: &'s [AtomicU64],
}

impl<'s> Ring<'s> {
    /// A ring over its words: four for each entry.
    #[must_use]
    pub const fn new(put: &'s AtomicU64, taken: &'s AtomicU64, entries: &'s [AtomicU64]) -> Self {
        Self {
            put,
            taken,
            entries,
        }
    }

    /// Entries that it has room for.
    #[must_use]
    pub const fn size(&self) -> u64 {
        (self.entries.len() / ENTRY_WORDS) as u64
    }

    /// What both counts say: put in, taken out. For those who only look.
    #[must_use]
    pub fn counts(&self) -> (u64, u64) {
        // ORDERING: shown, or compared with each other; nothing is read by them.
        let read = |word: &AtomicU64| word.load(Ordering::Relaxed);
        (read(self.put), read(self.taken))
    }

    /// The side that puts in.
    #[must_use]
    pub const fn producer(self) -> Producer<'s> {
        Producer(self)
    }

    /// The side that takes out.
    #[must_use]
    pub const fn consumer(self) -> Consumer<'s> {
        Consumer(self)
    }

    /// The words of the entry with this number; none in a ring without entries.
    fn entry(&self, number: u64) -> &'s [AtomicU64] {
        let place = number.checked_rem(self.size()).unwrap_or(0);
        let first = usize::try_from(place).unwrap_or(0) * ENTRY_WORDS;
        self.entries
            .get(first..first + ENTRY_WORDS)
            .unwrap_or_default()
    }

    fn waiting(&self, put: u64, taken: u64) -> Result<u64, Nonsense> {
        let (waiting, size) = (put.wrapping_sub(taken), self.size());
        if waiting <= size {
            Ok(waiting)
        } else {
            Err(Nonsense { put, taken, size })
        }
    }
}

/// The side of a ring that puts entries in. There is one of it at a time.
#[derive(Debug)]
pub struct Producer<'s>(Ring<'s>);

impl Producer<'_> {
    /// The other side has taken all that was put in.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let (put, taken) = self.0.counts();
        put == taken
    }

    /// How many entries may be put in now.
    ///
    /// # Errors
    /// The counts make no sense.
    pub fn room(&self) -> Result<u64, Nonsense> {
        let ring = &self.0;
        let put = load_own(ring.put);
        let order = if cfg!(qtf_mutant = "ring_room_without_acquire") {
            // ORDERING: a mutant.
            Ordering::Relaxed
        } else {
            // ORDERING: [ring.room] Acquire: the consumer has done with the entries that it counts as taken out.
            Ordering::Acquire
        };
        // ORDERING: as chosen above.
        let taken = ring.taken.load(order);
        Ok(ring.size().saturating_sub(ring.waiting(put, taken)?))
    }

    /// Puts an entry in. False if there is no room, or the counts make no sense.
    #[must_use]
    pub fn put(&self, entry: EntryWords) -> bool {
        if !self.room().is_ok_and(|room| room > 0) {
            return false;
        }
        let ring = &self.0;
        let put = load_own(ring.put);
        for (word, value) in ring.entry(put).iter().zip(entry) {
            // ORDERING: published by [ring.entry].
            word.store(value, Ordering::Relaxed);
        }
        let next = put.wrapping_add(1);
        if cfg!(qtf_mutant = "ring_put_without_release") {
            // ORDERING: a mutant.
            ring.put.store(next, Ordering::Relaxed);
        } else {
            // ORDERING: [ring.entry] Release: with the words. A store-load pair with the mark of a consumer that goes to sleep.
            store_load_swap(ring.put, next);
        }
        true
    }

    /// Begins anew with an empty ring: what is in it was put in by somebody before. Only while the consumer does not look.
    pub fn begin(&self) {
        let (_, taken) = self.0.counts();
        // ORDERING: its own word; published by whatever says that this side is there.
        self.0.put.store(taken, Ordering::Relaxed);
    }
}

/// The side of a ring that takes entries out. There is one of it at a time.
#[derive(Debug)]
pub struct Consumer<'s>(Ring<'s>);

impl Consumer<'_> {
    /// How many entries wait.
    ///
    /// # Errors
    /// The counts make no sense.
    pub fn waiting(&self) -> Result<u64, Nonsense> {
        let ring = &self.0;
        let taken = load_own(ring.taken);
        let order = if cfg!(qtf_mutant = "ring_entry_without_acquire") {
            // ORDERING: a mutant.
            Ordering::Relaxed
        } else {
            // ORDERING: [ring.entry] Acquire: the words of all entries that it counts.
            Ordering::Acquire
        };
        // ORDERING: as chosen above.
        ring.waiting(ring.put.load(order), taken)
    }

    /// Copies the oldest entry; it stays in the ring.
    ///
    /// # Errors
    /// The counts make no sense.
    pub fn first(&self) -> Result<Option<EntryWords>, Nonsense> {
        if self.waiting()? == 0 {
            return Ok(None);
        }
        let taken = load_own(self.0.taken);
        let mut copied = [0; ENTRY_WORDS];
        for (word, copy) in self.0.entry(taken).iter().zip(&mut copied) {
            // ORDERING: published by [ring.entry].
            *copy = word.load(Ordering::Relaxed);
        }
        Ok(Some(copied))
    }

    /// Takes the oldest entry out: what it asked for is done.
    pub fn take(&self) {
        let ring = &self.0;
        let next = load_own(ring.taken).wrapping_add(1);
        if cfg!(qtf_mutant = "ring_taken_without_release") {
            // ORDERING: a mutant.
            ring.taken.store(next, Ordering::Relaxed);
        } else {
            // ORDERING: [ring.room] Release: its words have been copied. A store-load pair with the mark of a producer that waits for room.
            store_load_swap(ring.taken, next);
        }
    }

    /// Passes over whatever is in the ring.
    pub fn begin(&self) {
        let (put, _) = self.0.counts();
        // ORDERING: its own word; nothing of what is passed over is read.
        self.0.taken.store(put, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::zeroed_words;

    #[test]
    fn entries_come_out_in_order_round_after_round_and_none_when_it_is_full() {
        let (put, taken, words) = (AtomicU64::new(0), AtomicU64::new(0), zeroed_words(12));
        let ring = Ring::new(&put, &taken, &words);
        let (producer, consumer) = (ring.producer(), ring.consumer());
        assert_eq!(ring.size(), 3);
        let mut expected = 0;
        for number in 0..20 {
            if !producer.put([number; 4]) {
                assert_eq!(consumer.waiting(), Ok(3));
                while let Some(entry) = consumer.first().unwrap() {
                    assert_eq!(entry, [expected; 4]);
                    assert_eq!(
                        consumer.first(),
                        Ok(Some(entry)),
                        "it stays until it is taken"
                    );
                    consumer.take();
                    expected += 1;
                }
                assert_eq!(producer.room(), Ok(3));
                assert!(producer.put([number; 4]));
            }
        }
        assert_eq!(expected, 18);
        assert_eq!(ring.counts(), (20, 18));
    }

    #[test]
    fn counts_that_cannot_be_are_said_to_make_no_sense_by_both_sides_and_end_when_a_side_begins_anew()
     {
        for (put, taken) in [(3, 0), (0, 1), (u64::MAX, 5), (7, u64::MAX)] {
            let words = zeroed_words(8);
            let (put, taken) = (AtomicU64::new(put), AtomicU64::new(taken));
            let ring = Ring::new(&put, &taken, &words);
            let (producer, consumer) = (ring.producer(), ring.consumer());
            assert!(producer.room().is_err() && !producer.put([1; 4]));
            let error = consumer.first().unwrap_err();
            assert_eq!((error.put, error.taken, error.size), {
                let (put, taken) = ring.counts();
                (put, taken, 2)
            });
            consumer.begin();
            assert_eq!(consumer.first(), Ok(None));
            assert!(producer.put([2; 4]));
            assert_eq!(consumer.first(), Ok(Some([2; 4])));
            producer.begin();
            assert_eq!(consumer.waiting(), Ok(0));
        }
    }

    #[test]
    fn count_that_passes_its_end_goes_on() {
        // The ring's size is a power of two, so numbers keep their places there.
        let words = zeroed_words(8);
        let (put, taken) = (AtomicU64::new(u64::MAX), AtomicU64::new(u64::MAX));
        let ring = Ring::new(&put, &taken, &words);
        let (producer, consumer) = (ring.producer(), ring.consumer());
        assert!(producer.put([1; 4]) && producer.put([2; 4]) && !producer.put([3; 4]));
        assert_eq!(consumer.first(), Ok(Some([1; 4])));
        consumer.take();
        assert_eq!(consumer.first(), Ok(Some([2; 4])));
    }

    #[test]
    fn ring_without_entries_is_full_and_empty() {
        let (put, taken) = (AtomicU64::new(0), AtomicU64::new(0));
        let ring = Ring::new(&put, &taken, &[]);
        assert!(!ring.producer().put([1; 4]));
        assert_eq!(ring.consumer().first(), Ok(None));
    }
}
