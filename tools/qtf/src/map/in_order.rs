//! Puts ended tasks back into the order of their inputs, and says when enough is in flight.
//!
//! Invariants: entries leave in the order in which they came in, each once; the books (unfinished,
//! held) equal what a recount of the entries gives. Tested at the end of this file.

use std::collections::VecDeque;

/// Limits of what is in flight.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Tasks submitted and not ended. Beyond the slots, more in flight gain nothing.
    pub(crate) unfinished: usize,
    /// Tasks ended and not printed, because an earlier one still runs.
    pub(crate) held: usize,
    /// Bytes of their outputs, here and in the daemon.
    pub(crate) held_bytes: u64,
}

/// The entries between input and printing.
#[derive(Debug)]
pub(crate) struct InOrder<T, E> {
    limits: Limits,
    first: u64,
    entries: VecDeque<Entry<T, E>>,
    held: usize,
    held_bytes: u64,
}

#[derive(Debug)]
struct Entry<T, E> {
    task: T,
    end: Option<(E, u64)>,
}

impl<T, E> InOrder<T, E> {
    /// An empty line-up.
    pub(crate) fn new(limits: Limits) -> Self {
        InOrder {
            limits,
            first: 0,
            entries: VecDeque::new(),
            held: 0,
            held_bytes: 0,
        }
    }

    /// Whether one more may be submitted.
    pub(crate) fn has_room(&self) -> bool {
        self.unfinished() < self.limits.unfinished
            && self.held < self.limits.held
            && self.held_bytes < self.limits.held_bytes
    }

    /// How many have not ended.
    pub(crate) fn unfinished(&self) -> usize {
        self.entries.len() - self.held
    }

    /// Whether all have been taken out.
    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Lines up one more; its number, counted from 0.
    pub(crate) fn push(&mut self, task: T) -> u64 {
        self.entries.push_back(Entry { task, end: None });
        self.first + u64::try_from(self.entries.len()).unwrap_or(u64::MAX) - 1
    }

    /// The entry of a number that has not been taken out.
    pub(crate) fn get_mut(&mut self, number: u64) -> Option<&mut T> {
        self.entry(number).map(|entry| &mut entry.task)
    }

    /// Notes the end of one, whose output has `bytes`. False when it had ended before or is unknown.
    pub(crate) fn end(&mut self, number: u64, end: E, bytes: u64) -> bool {
        match self.entry(number) {
            Some(entry) if entry.end.is_none() => entry.end = Some((end, bytes)),
            _ => return false,
        }
        self.held += 1;
        self.held_bytes = self.held_bytes.saturating_add(bytes);
        true
    }

    /// Takes out the next in order, when it has ended.
    pub(crate) fn pop(&mut self) -> Option<(u64, T, E)> {
        self.entries.front().filter(|entry| entry.end.is_some())?;
        let entry = self.entries.pop_front()?;
        let (end, bytes) = entry.end?;
        let number = self.first;
        self.first += 1;
        self.held -= 1;
        self.held_bytes = self.held_bytes.saturating_sub(bytes);
        Some((number, entry.task, end))
    }

    /// The entries that have not ended.
    pub(crate) fn unfinished_entries(&self) -> impl Iterator<Item = &T> {
        self.entries
            .iter()
            .filter(|entry| entry.end.is_none())
            .map(|entry| &entry.task)
    }

    fn entry(&mut self, number: u64) -> Option<&mut Entry<T, E>> {
        let at = usize::try_from(number.checked_sub(self.first)?).ok()?;
        self.entries.get_mut(at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        unfinished: 4,
        held: 3,
        held_bytes: 100,
    };

    fn line_up(count: u64) -> InOrder<String, u64> {
        let mut line_up = InOrder::new(LIMITS);
        for number in 0..count {
            assert_eq!(line_up.push(format!("task {number}")), number);
        }
        line_up
    }

    #[test]
    fn entries_leave_in_the_order_in_which_they_came() {
        let mut line_up = line_up(3);
        assert!(line_up.end(2, 22, 1));
        assert!(line_up.end(0, 20, 1));
        assert_eq!(line_up.pop(), Some((0, "task 0".to_owned(), 20)));
        assert_eq!(line_up.pop(), None);
        assert!(line_up.end(1, 21, 1));
        assert_eq!(line_up.pop(), Some((1, "task 1".to_owned(), 21)));
        assert_eq!(line_up.pop(), Some((2, "task 2".to_owned(), 22)));
        assert!(line_up.is_empty());
    }

    #[test]
    fn a_second_end_and_an_unknown_number_change_nothing() {
        let mut line_up = line_up(2);
        assert!(line_up.end(0, 20, 1));
        assert!(!line_up.end(0, 99, 1));
        assert_eq!(line_up.pop().unwrap().2, 20);
        for number in [0, 2, u64::MAX] {
            assert!(!line_up.end(number, 99, 1));
            assert!(line_up.get_mut(number).is_none());
        }
        assert_eq!(line_up.unfinished(), 1);
    }

    #[test]
    fn each_limit_stops_the_intake_and_opens_it_again() {
        let mut unfinished = line_up(4);
        assert!(!unfinished.has_room());
        unfinished.end(3, 0, 0);
        assert!(unfinished.has_room());

        let mut held = line_up(4);
        for number in 1..4 {
            held.end(number, 0, 0);
        }
        assert!(!held.has_room());
        held.end(0, 0, 0);
        held.pop();
        held.pop();
        assert!(held.has_room());

        let mut bytes = line_up(2);
        bytes.end(1, 0, 100);
        assert!(!bytes.has_room());
        bytes.end(0, 0, 0);
        while bytes.pop().is_some() {}
        assert!(bytes.has_room());
    }

    #[test]
    fn unfinished_entries_are_those_without_an_end() {
        let mut line_up = line_up(3);
        line_up.end(1, 0, 0);
        assert_eq!(
            line_up.unfinished_entries().collect::<Vec<_>>(),
            ["task 0", "task 2"]
        );
        assert_eq!(line_up.unfinished(), 2);
    }
}
