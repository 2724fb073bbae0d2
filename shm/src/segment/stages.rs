//! The histograms of a segment: counted into by the core, copied out by anybody.
//!
//! Invariant: whoever counts holds the right of the PLM, so there is one writer; a segment without one of the histograms counts nothing
//! there. Tested in `segment/tests/histograms.rs`.

use crate::histogram::{Stage, StageReading};
use crate::segment::{Segment, SegmentView};
use crate::sync::{AtomicU64, Ordering};
use crate::task::writer::PlmRight;

impl Segment {
    /// Counts that a step took so long, `times` times; `now` is the stamp of this moment.
    #[inline]
    pub fn count_stage(&self, right: PlmRight, stage: Stage, took: Took, now: u64) {
        let _: PlmRight = right;
        if let Some(histogram) = self.view.parts.histogram(stage) {
            histogram.count(took.ns, took.times, now);
        }
    }

    /// When each histogram began, for a move of the origin.
    pub(super) fn stage_stamps(&self) -> impl Iterator<Item = &AtomicU64> {
        let histograms = Stage::ALL.into_iter();
        histograms
            .filter_map(|stage| self.view.parts.histogram(stage))
            // ORDERING: statistics.
            .filter(|histogram| histogram.count.load(Ordering::Relaxed) != 0)
            .map(|histogram| &histogram.since)
    }
}

/// How long a step took, and how often.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Took {
    /// Nanoseconds.
    pub ns: u64,
    /// So many steps took so long.
    pub times: u64,
}

impl Took {
    /// One step.
    #[must_use]
    pub const fn once(ns: u64) -> Self {
        Self { ns, times: 1 }
    }
}

impl SegmentView {
    /// How long a step took; `None` in a segment that has no histogram for it.
    #[must_use]
    pub fn stage(&self, stage: Stage) -> Option<StageReading> {
        Some(self.parts.histogram(stage)?.read(stage))
    }
}
