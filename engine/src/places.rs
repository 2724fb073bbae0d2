//! Places in the order, over cold starts: the journal's stamps go on for ever, a segment's are 48 bits.
//!
//! The journal holds the stamps of a segment and the sum of all moves of its origin, so those of it that were written later are
//! higher, whatever became of the segments. A new segment takes as much off as leaves it the time of a moved origin (see `qtf_shm::segment`);
//! what is older than that keeps its order and is packed closely at the beginning. Tested at the end of this file and in
//! `daemon/tests/daemon/origin.rs`.

use std::collections::BTreeSet;

use qtf_journal::Recovered;
use qtf_shm::segment::ANCIENT_STAMPS;
use qtf_shm::time::{REBASE_FROM, STAMP_MAX, STAMPS_KEPT};

/// Where the time of a segment begins that goes on after a journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimeAfter {
    /// `SegmentSpec::first_stamp`.
    pub first_stamp: u64,
    /// `SegmentSpec::stamps_moved`.
    pub stamps_moved: u64,
}

impl TimeAfter {
    /// After a journal in which no task has a higher stamp.
    #[must_use]
    pub const fn highest(max_stamp: u64) -> Self {
        if max_stamp < REBASE_FROM || cfg!(qtf_mutant = "sim_cold_start_goes_on_at_the_end_of_time")
        {
            Self {
                first_stamp: max_stamp,
                stamps_moved: 0,
            }
        } else {
            Self {
                first_stamp: STAMPS_KEPT,
                stamps_moved: max_stamp - STAMPS_KEPT,
            }
        }
    }
}

/// The places that restored tasks get.
#[derive(Debug)]
pub(crate) struct Places {
    moved: u64,
    /// Stamps too old to be kept, each once, in order.
    ancient: Vec<u64>,
}

impl Places {
    pub(crate) fn of(moved: u64, recovered: &Recovered) -> Self {
        if moved == 0 {
            return Self::among(0, core::iter::empty());
        }
        Self::among(moved, recovered.tasks().map(|task| task.stamp))
    }

    fn among(moved: u64, stamps: impl Iterator<Item = u64>) -> Self {
        let end = moved.saturating_add(ANCIENT_STAMPS);
        let ancient: BTreeSet<u64> = stamps.filter(|&stamp| stamp < end).collect();
        Self {
            moved,
            ancient: ancient.into_iter().collect(),
        }
    }

    /// The segment's stamp for a stamp of the journal.
    pub(crate) fn stamp_of(&self, stamp: u64) -> u64 {
        let place = self.ancient.partition_point(|&other| other < stamp);
        let behind = self.ancient.len() - place;
        if self.moved == 0 || behind == 0 {
            return stamp.saturating_sub(self.moved).min(STAMP_MAX);
        }
        ANCIENT_STAMPS.saturating_sub(u64::try_from(behind).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_is_kept_whatever_the_stamps_are_and_the_end_lies_where_time_begins() {
        let mut random = fastrand::Rng::with_seed(9);
        for round in 0..200_u32 {
            let bits = random.u32(0..40);
            let top = random.u64(..u64::MAX >> bits);
            let mut stamps: Vec<u64> = (0..50)
                .map(|_| match random.u8(0..3) {
                    0 => random.u64(0..=top),
                    1 => top.saturating_sub(random.u64(0..1 << 26)),
                    _ => top
                        .saturating_sub(STAMPS_KEPT)
                        .saturating_add(random.u64(0..1 << 26))
                        .min(top),
                })
                .collect();
            stamps.push(top);
            stamps.sort_unstable();
            stamps.dedup();
            let time = TimeAfter::highest(top);
            assert!(time.first_stamp < REBASE_FROM);
            assert_eq!(time.first_stamp + time.stamps_moved, top);
            let places = Places::among(time.stamps_moved, stamps.iter().copied());
            let placed: Vec<u64> = stamps.iter().map(|&stamp| places.stamp_of(stamp)).collect();
            assert!(
                placed.is_sorted_by(|one, next| one < next),
                "{round}: {placed:?}"
            );
            assert_eq!(placed.last(), Some(&time.first_stamp), "{round}");
        }
    }

    #[test]
    fn stamps_of_a_young_journal_stay_as_they_are() {
        let time = TimeAfter::highest(77);
        assert_eq!((time.first_stamp, time.stamps_moved), (77, 0));
        assert_eq!(Places::among(0, [5, 77].into_iter()).stamp_of(5), 5);
    }
}
