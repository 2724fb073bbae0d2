//! Places of the attempts that a worker has, each with a number of its own, so that it is found without a search.
//!
//! Invariants:
//! - P1: a number is given out once; it finds its attempt until that is taken out, and nothing after it, whoever has its place then.
//! - P2: places are made as they are needed and used again: as many as there were attempts at the same time at most.
//!
//! Tested at the end of the file.

use super::Held;

/// Number of an attempt within this process; never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::agent) struct RunNumber {
    place: usize,
    number: u64,
}

impl RunNumber {
    #[cfg(test)]
    pub(super) const fn at(place: usize, number: u64) -> Self {
        Self { place, number }
    }
}

#[derive(Debug)]
struct Place {
    /// Of the attempt that is here; the attempt before it, where there is none.
    number: u64,
    held: Option<Held>,
}

/// See the head of this file.
#[derive(Debug, Default)]
pub(super) struct Places {
    places: Vec<Place>,
    free: Vec<usize>,
    last: u64,
}

impl Places {
    pub(super) fn put(&mut self, held: Held) -> RunNumber {
        self.last += 1;
        let place = Place {
            number: self.last,
            held: Some(held),
        };
        let index = match self.free.pop() {
            Some(index) if index < self.places.len() => {
                self.places[index] = place;
                index
            }
            Some(_) | None => {
                self.places.push(place);
                self.places.len() - 1
            }
        };
        RunNumber {
            place: index,
            number: self.last,
        }
    }

    pub(super) fn get(&self, run: RunNumber) -> Option<&Held> {
        let place = self.places.get(run.place)?;
        place.held.as_ref().filter(|_| place.number == run.number)
    }

    pub(super) fn get_mut(&mut self, run: RunNumber) -> Option<&mut Held> {
        let place = self.places.get_mut(run.place)?;
        place.held.as_mut().filter(|_| place.number == run.number)
    }

    pub(super) fn take(&mut self, run: RunNumber) -> Option<Held> {
        let place = self.places.get_mut(run.place)?;
        if place.number != run.number {
            return None;
        }
        let held = place.held.take()?;
        self.free.push(run.place);
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

    /// The numbers of all, in the order in which they were given out.
    pub(super) fn numbers(&self) -> Vec<RunNumber> {
        let places = self.places.iter().enumerate();
        let held = places.filter(|(_, place)| place.held.is_some());
        let mut numbers: Vec<RunNumber> = held
            .map(|(index, place)| RunNumber {
                place: index,
                number: place.number,
            })
            .collect();
        numbers.sort_unstable_by_key(|run| run.number);
        numbers
    }
}

#[cfg(test)]
mod tests {
    use qtf_proto::v1::Assignment;

    use super::super::{Attempt, Phase};
    use super::*;

    fn held(task_id: u64) -> Held {
        let attempt = Attempt {
            task_id,
            attempt: 1,
        };
        let phase = Phase::Queued(Assignment::default());
        Held { attempt, phase }
    }

    #[test]
    fn number_of_what_was_taken_out_finds_nothing_in_the_place_that_another_has() {
        let mut places = Places::default();
        let first = places.put(held(1));
        assert!(places.take(first).is_some());
        assert!(places.take(first).is_none(), "once");
        let second = places.put(held(2));
        assert_eq!(second.place, first.place);
        assert!(places.get(first).is_none());
        assert!(places.get_mut(first).is_none());
        assert!(places.take(first).is_none());
        let found = places.get(second).map(|held| held.attempt.task_id);
        assert_eq!((found, places.len()), (Some(2), 1));
    }

    #[test]
    fn numbers_come_in_the_order_of_putting_whatever_the_places() {
        let mut places = Places::default();
        let runs: Vec<_> = (1..=3).map(|id| places.put(held(id))).collect();
        places.take(runs[0]);
        let last = places.put(held(4));
        assert_eq!(places.numbers(), [runs[1], runs[2], last]);
        assert_eq!((places.len(), places.iter().count()), (3, 3));
        assert_eq!(places.places.len(), 3, "no place more");
    }
}
