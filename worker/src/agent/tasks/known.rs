//! Which attempts a worker knows: those it holds, and the last ones that had their verdict.
//!
//! Invariants:
//! - K1: an attempt is known once, held or judged; one that is known is not admitted again.
//! - K2: at most `JUDGED_MAX` judged ones are remembered, the last ones.
//!
//! Tested at the end of the file and, by way of `Tasks`, in `tests`.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};

use qtf_proto::hashing::IdHashing;

use super::Attempt;
use super::places::RunNumber;

/// LIMIT: attempts remembered after their verdict; a daemon that assigns one again does so at once.
const JUDGED_MAX: usize = 4096;

/// See the head of this file.
#[derive(Debug)]
pub(super) struct Known {
    /// `None`: it had its verdict.
    by_attempt: HashMap<Attempt, Option<RunNumber>, IdHashing>,
    /// Those with a verdict, oldest first.
    judged: VecDeque<Attempt>,
}

impl Known {
    pub(super) fn new() -> Self {
        Self {
            by_attempt: HashMap::default(),
            judged: VecDeque::new(),
        }
    }

    /// Admits an attempt that is not known under the number that it is given, if there is one.
    pub(super) fn admit(
        &mut self,
        attempt: Attempt,
        number: impl FnOnce() -> Option<RunNumber>,
    ) -> Option<RunNumber> {
        match self.by_attempt.entry(attempt) {
            Entry::Occupied(_) => None,
            Entry::Vacant(vacant) => {
                let run = number()?;
                vacant.insert(Some(run));
                Some(run)
            }
        }
    }

    /// The number of one that is held.
    pub(super) fn run_of(&self, attempt: Attempt) -> Option<RunNumber> {
        self.by_attempt.get(&attempt).copied().flatten()
    }

    /// How many are held.
    pub(super) fn held(&self) -> usize {
        self.by_attempt.len().saturating_sub(self.judged.len())
    }

    /// Those that are held.
    pub(super) fn iter(&self) -> impl Iterator<Item = (Attempt, RunNumber)> {
        let known = self.by_attempt.iter();
        known.filter_map(|(attempt, run)| run.map(|run| (*attempt, run)))
    }

    /// Forgets one that is held.
    pub(super) fn forget(&mut self, attempt: Attempt) -> Option<RunNumber> {
        match self.by_attempt.entry(attempt) {
            Entry::Occupied(known) if known.get().is_some() => known.remove(),
            Entry::Occupied(_) | Entry::Vacant(_) => None,
        }
    }

    /// One that is held had its verdict if `is_over` says so of its number, which is returned then.
    pub(super) fn judge(
        &mut self,
        attempt: Attempt,
        is_over: impl FnOnce(RunNumber) -> bool,
    ) -> Option<RunNumber> {
        let known = self.by_attempt.get_mut(&attempt)?;
        let run = known.filter(|run| is_over(*run))?;
        *known = None;
        if self.judged.len() >= JUDGED_MAX
            && let Some(oldest) = self.judged.pop_front()
        {
            self.by_attempt.remove(&oldest);
        }
        self.judged.push_back(attempt);
        Some(run)
    }

    /// Forgets which had their verdict.
    pub(super) fn forget_judged(&mut self) {
        for attempt in self.judged.drain(..) {
            self.by_attempt.remove(&attempt);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attempt(task_id: u64) -> Attempt {
        Attempt {
            task_id,
            attempt: 1,
        }
    }

    fn admits(known: &mut Known, task_id: u64, number: u64) -> bool {
        let run = RunNumber::of(number);
        known.admit(attempt(task_id), || Some(run)) == Some(run)
    }

    #[test]
    fn the_last_judged_are_known_and_not_held_and_the_ones_before_them_are_forgotten() {
        let mut known = Known::new();
        let count = JUDGED_MAX as u64 + 1;
        for id in 1..=count {
            assert!(admits(&mut known, id, id));
            let judged = known.judge(attempt(id), |_| true);
            assert_eq!(judged, Some(RunNumber::of(id)));
        }
        assert_eq!(known.held(), 0);
        assert!(known.iter().next().is_none());
        assert!(!admits(&mut known, 2, 1));
        assert!(!admits(&mut known, count, 1));
        assert!(admits(&mut known, 1, count + 1));
        assert_eq!(known.run_of(attempt(1)), Some(RunNumber::of(count + 1)));
        assert_eq!(known.held(), 1);
        known.forget_judged();
        assert_eq!(known.held(), 1, "that one is held");
        assert!(admits(&mut known, 2, count + 2));
    }

    #[test]
    fn verdict_on_what_is_not_over_changes_nothing_and_a_judged_one_is_not_judged_again() {
        let mut known = Known::new();
        assert!(admits(&mut known, 1, 1));
        assert_eq!(known.judge(attempt(1), |_| false), None);
        assert_eq!(known.run_of(attempt(1)), Some(RunNumber::of(1)));
        assert!(known.judge(attempt(1), |_| true).is_some());
        assert_eq!(known.judge(attempt(1), |_| true), None);
        assert_eq!(known.forget(attempt(1)), None, "it is not held");
        assert!(!admits(&mut known, 1, 2));
    }

    #[test]
    fn what_has_no_number_is_not_known() {
        let mut known = Known::new();
        assert_eq!(known.admit(attempt(1), || None), None);
        assert_eq!(known.held(), 0);
        assert!(admits(&mut known, 1, 1));
    }
}
