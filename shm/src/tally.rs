//! What one writer has counted and not yet added to the counters of the segment.
//!
//! A count there is a locked instruction, and whoever brings many tasks on makes the same few counts again and again: here a run of them
//! is one. Others see it later; a kill before it is added leaves gauges off until the next recount, as one between a change and its count
//! does (`counters.rs`, I2). So its owner adds all of it before it lets go of what it does, and before it looks at counters itself.
//!
//! Tested at the end of this file.

use core::cell::Cell;

use crate::counters::{Counter, Counters, NAMED_AT, transition_at};
use crate::task::state::Phase;

/// LIMIT: different counts that wait at a time. Most batches make three; one more only adds another early.
const RUNS_MAX: usize = 4;

/// The same count, so many times.
#[derive(Debug, Clone, Copy, Default)]
struct Run {
    /// Its word among the counters.
    word: usize,
    times: u64,
}

/// Counts that wait.
#[derive(Debug, Default)]
pub struct Tally {
    runs: [Cell<Run>; RUNS_MAX],
    /// Which run makes room for another one.
    next: Cell<usize>,
}

impl Tally {
    /// Counts a change of phase, after it was made.
    #[inline]
    pub fn changed(&self, counters: Counters<'_>, from: Phase, to: Phase) {
        self.count(counters, transition_at(from, to));
    }

    /// Adds one to a named counter.
    #[inline]
    pub fn add(&self, counters: Counters<'_>, counter: Counter) {
        self.count(counters, NAMED_AT + counter as usize);
    }

    /// Adds all that waits.
    #[inline]
    pub fn settle(&self, counters: Counters<'_>) {
        for run in &self.runs {
            let run = run.take();
            if run.times > 0 {
                counters.add_to_word(run.word, run.times);
            }
        }
    }

    #[inline]
    fn count(&self, counters: Counters<'_>, word: usize) {
        for place in &self.runs {
            let Run {
                word: counted,
                times,
            } = place.get();
            if counted == word {
                let times = times.wrapping_add(1);
                place.set(Run { word, times });
                return;
            }
        }
        self.begin(counters, word);
    }

    fn begin(&self, counters: Counters<'_>, word: usize) {
        let next = self.next.get();
        self.next.set((next + 1) % RUNS_MAX);
        let before = self.runs[next].replace(Run { word, times: 1 });
        if before.times > 0 {
            counters.add_to_word(before.word, before.times);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::counters::COUNTER_WORDS;
    use crate::sync::zeroed_words;

    #[test]
    fn every_count_is_added_once_however_many_different_ones_there_are() {
        let words = zeroed_words(COUNTER_WORDS);
        let counters = Counters::new(&words);
        let tally = Tally::default();
        let phases = [Phase::Free, Phase::Ready, Phase::Assigned, Phase::Running];
        for round in 0..3 {
            for from in phases {
                for to in phases {
                    tally.changed(counters, from, to);
                }
            }
            tally.add(counters, Counter::ResultRecorded);
            tally.add(counters, Counter::ResultRecorded);
            if round == 1 {
                tally.settle(counters);
                assert_eq!(counters.get(Counter::ResultRecorded), 4);
            }
        }
        tally.settle(counters);
        tally.settle(counters);
        assert_eq!(counters.get(Counter::ResultRecorded), 6);
        for from in phases {
            for to in phases.into_iter().filter(|to| *to != from) {
                assert_eq!(counters.transitions(from, to), 3, "{from} to {to}");
            }
        }
    }

    #[test]
    fn what_waits_is_not_counted_yet_and_a_run_is_added_as_a_whole() {
        let words = zeroed_words(COUNTER_WORDS);
        let counters = Counters::new(&words);
        let tally = Tally::default();
        for _ in 0..200 {
            tally.changed(counters, Phase::Ready, Phase::Assigned);
        }
        assert_eq!(counters.changes(), 0);
        tally.settle(counters);
        assert_eq!(counters.transitions(Phase::Ready, Phase::Assigned), 200);
    }
}
