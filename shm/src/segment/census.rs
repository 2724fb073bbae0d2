//! How many tasks are in each phase, counted slot by slot beside those who change them: sets the gauges right that a process left
//! wrong which was killed between a change and its count.
//!
//! A phase that changed while it was counted is left as it is, for the next count. Tested in `segment/tests/repair.rs` and in
//! `engine/tests/rules/repair.rs`.

use crate::segment::Segment;
use crate::task::state::{Phase, StateWord};

/// A count under way.
#[derive(Debug, Clone)]
pub struct PhaseCensus {
    traffic: [u64; Phase::COUNT],
    phases: [u64; Phase::COUNT],
}

impl PhaseCensus {
    /// Begins.
    #[must_use]
    pub fn begin(segment: &Segment) -> Self {
        Self {
            traffic: segment.counters().traffic(),
            phases: [0; Phase::COUNT],
        }
    }

    /// One slot. Those that are free need not be counted.
    pub fn count(&mut self, state: StateWord) {
        let phase = &mut self.phases[state.phase() as usize];
        *phase = phase.saturating_add(1);
    }

    /// Every slot was counted: sets the gauges right of phases in which nothing has changed meanwhile. How many were wrong.
    pub fn correct(&self, segment: &Segment) -> u64 {
        segment.counters().correct(&self.traffic, &self.phases)
    }
}
