//! Places of the attempts that a worker has, each with a number of its own, so that it is found without a search.
//!
//! Invariants:
//! - P1: a number finds its attempt until that is taken out, and nothing after it, whoever has its place then. Numbers of a place come
//!   again after 2^40 attempts in it, which is days of nothing else.
//! - P2: places are made as they are needed and used again: as many as there were attempts at the same time at most.
//!
//! Numbers are small, as tables are full of them. Tested at the end of the file.

use core::num::NonZeroU64;

use super::Held;

/// Of a number, the bits that say the place. LIMIT: places, far more than a worker may hold.
const PLACE_BITS: u32 = 24;
const PLACE_MASK: u64 = (1 << PLACE_BITS) - 1;

/// Number of an attempt within this process: its place, and the how manieth it is there, from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::agent) struct RunNumber(NonZeroU64);

impl RunNumber {
    /// Of the first attempt in a place.
    fn first_at(index: usize) -> Option<Self> {
        let place = u64::try_from(index).ok()?;
        let number = NonZeroU64::new((1 << PLACE_BITS) | place)?;
        (place <= PLACE_MASK).then_some(Self(number))
    }

    /// Of the attempt that comes to the same place after this one; the first again after the last.
    fn following(self) -> Self {
        let step = 1 << PLACE_BITS;
        let next = match self.0.get().checked_add(step) {
            Some(next) => next,
            None => (self.0.get() & PLACE_MASK) | step,
        };
        Self(NonZeroU64::new(next).unwrap_or(self.0))
    }

    fn index(self) -> usize {
        usize::try_from(self.0.get() & PLACE_MASK).unwrap_or(usize::MAX)
    }

    #[cfg(test)]
    pub(in crate::agent) fn of(number: u64) -> Self {
        Self(NonZeroU64::new(number).unwrap_or(NonZeroU64::MAX))
    }
}

#[derive(Debug)]
struct Place {
    /// Of the attempt that is here, or else of the next one.
    number: RunNumber,
    held: Option<Held>,
}

/// See the head of this file.
#[derive(Debug, Default)]
pub(super) struct Places {
    places: Vec<Place>,
    free: Vec<usize>,
}

impl Places {
    /// Gives an attempt a place; `None` when there is none left.
    pub(super) fn put(&mut self, held: Held) -> Option<RunNumber> {
        let held = Some(held);
        if let Some(index) = self.free.pop()
            && let Some(place) = self.places.get_mut(index)
        {
            place.held = held;
            return Some(place.number);
        }
        let number = RunNumber::first_at(self.places.len())?;
        self.places.push(Place { number, held });
        Some(number)
    }

    pub(super) fn get(&self, run: RunNumber) -> Option<&Held> {
        let place = self.places.get(run.index())?;
        place.held.as_ref().filter(|_| place.number == run)
    }

    pub(super) fn get_mut(&mut self, run: RunNumber) -> Option<&mut Held> {
        let place = self.places.get_mut(run.index())?;
        place.held.as_mut().filter(|_| place.number == run)
    }

    pub(super) fn take(&mut self, run: RunNumber) -> Option<Held> {
        let place = self.places.get_mut(run.index())?;
        if place.number != run {
            return None;
        }
        let held = place.held.take()?;
        place.number = run.following();
        self.free.push(run.index());
        Some(held)
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.places.len().saturating_sub(self.free.len())
    }

    /// Each, in no order.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Held> {
        self.places.iter().filter_map(|place| place.held.as_ref())
    }

    /// The numbers of all, in no order.
    pub(super) fn numbers(&self) -> Vec<RunNumber> {
        let held = self.places.iter().filter(|place| place.held.is_some());
        held.map(|place| place.number).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Attempt, Phase};
    use super::*;

    fn held(task_id: u64) -> Held {
        let attempt = Attempt {
            task_id,
            attempt: 1,
        };
        let phase = Phase::Queued;
        Held { attempt, phase }
    }

    #[test]
    fn number_of_what_was_taken_out_finds_nothing_in_the_place_that_another_has() {
        let mut places = Places::default();
        let first = places.put(held(1)).unwrap();
        assert!(places.take(first).is_some());
        assert!(places.take(first).is_none(), "once");
        let second = places.put(held(2)).unwrap();
        assert_eq!(second.index(), first.index());
        assert!(places.get(first).is_none());
        assert!(places.get_mut(first).is_none());
        assert!(places.take(first).is_none());
        let found = places.get(second).map(|held| held.attempt.task_id);
        assert_eq!((found, places.len()), (Some(2), 1));
    }

    #[test]
    fn places_are_used_again_before_others_are_made() {
        let mut places = Places::default();
        let runs: Vec<_> = (1..=3).filter_map(|id| places.put(held(id))).collect();
        places.take(runs[0]);
        let last = places.put(held(4)).unwrap();
        assert_eq!(places.numbers(), [last, runs[1], runs[2]]);
        assert_eq!((places.len(), places.iter().count()), (3, 3));
    }

    #[test]
    fn last_number_of_a_place_is_followed_by_its_first_and_there_is_an_end_of_places() {
        let first = RunNumber::first_at(7).unwrap();
        let last = RunNumber::of(!PLACE_MASK | 7);
        assert_eq!((last.index(), last.following()), (7, first));
        assert_eq!(first.following().index(), 7);
        assert_ne!(first.following(), first);
        assert!(RunNumber::first_at(1 << PLACE_BITS).is_none());
    }
}
