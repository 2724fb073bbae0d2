//! Counting into a stage's histogram, and copying it out.
//!
//! Invariant: the form is written before the first value is counted; a reader of another form shows nothing rather than wrong times.
//!
//! Tested in `segment/tests/histograms.rs`.

use crate::histogram::place::{COUNTS, HIGHEST_BITS, HIGHEST_NS, SIGNIFICANT_DIGITS, place};
use crate::histogram::{Stage, StageLayout};
use crate::sync::{AtomicU64, Ordering};

/// Lowest value 1, highest 2^47 - 1, two digits.
const FORM: u64 = 1 | ((HIGHEST_BITS as u64) << 8) | ((SIGNIFICANT_DIGITS as u64) << 16);

/// A stage's histogram, copied out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StageReading {
    /// The step.
    pub stage: Stage,
    /// How often each value was counted, in the order of an `HdrHistogram`.
    pub counts: Vec<u64>,
    /// Sum of the values, ns.
    pub sum_ns: u64,
    /// The least one, ns; 0 where nothing was counted.
    pub least_ns: u64,
    /// The greatest one, ns.
    pub most_ns: u64,
    /// Values above the highest that is told apart, counted as that one.
    pub beyond: u64,
    /// Stamp of the first one.
    pub since: u64,
}

impl StageReading {
    /// Values counted.
    #[must_use]
    pub fn count(&self) -> u64 {
        let add = |sum: u64, count: &u64| sum.saturating_add(*count);
        self.counts.iter().fold(0, add)
    }
}

impl StageLayout {
    /// Counts one value `times` times; `now` is the stamp of this moment. The core only.
    #[inline]
    pub(crate) fn count(&self, ns: u64, times: u64, now: u64) {
        let counted = read(&self.count);
        if counted == 0 {
            self.begin(ns, now);
        }
        write(&self.count, counted.wrapping_add(times));
        write(
            &self.sum,
            read(&self.sum).wrapping_add(ns.wrapping_mul(times)),
        );
        if ns < read(&self.least) {
            write(&self.least, ns);
        }
        if ns > read(&self.most) {
            self.exceed(ns, times);
        }
        if let Some(word) = self.counts.get(place(ns)) {
            write(word, read(word).wrapping_add(times));
        }
    }

    #[cold]
    fn begin(&self, ns: u64, now: u64) {
        write(&self.form, FORM);
        write(&self.since, now);
        write(&self.least, ns);
    }

    /// A value above all before it. Those beyond the histogram are above it, too: the greatest is kept as the highest that is told
    /// apart, so that each of them comes here.
    #[cold]
    fn exceed(&self, ns: u64, times: u64) {
        if ns > HIGHEST_NS {
            write(&self.beyond, read(&self.beyond).wrapping_add(times));
        }
        write(&self.most, ns.min(HIGHEST_NS));
    }

    /// Copies it out; without counts if it is of a form that this program does not know.
    pub(crate) fn read(&self, stage: Stage) -> StageReading {
        let is_known = read(&self.form) == FORM;
        StageReading {
            stage,
            counts: if is_known {
                self.counts.iter().map(read).collect()
            } else {
                vec![0; COUNTS]
            },
            sum_ns: read(&self.sum),
            least_ns: read(&self.least),
            most_ns: read(&self.most),
            beyond: read(&self.beyond),
            since: read(&self.since),
        }
    }
}

#[inline]
fn read(word: &AtomicU64) -> u64 {
    // ORDERING: statistics.
    word.load(Ordering::Relaxed)
}

#[inline]
fn write(word: &AtomicU64, value: u64) {
    // ORDERING: statistics; single writer, the core.
    word.store(value, Ordering::Relaxed);
}
