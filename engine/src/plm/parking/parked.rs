//! Parked tasks: how many of each kind there are, and their release.
//!
//! The counts are a hint that says whether a sweep is worth while. Tested in `engine/tests/rules/scheduling.rs`.

use qtf_shm::{Event, KindIndex, KindSet, Phase, SlotIndex, StateWord};

use crate::plm::Plm;
use crate::turn::Turn;

impl Plm {
    /// Notes that a task of this kind was parked.
    pub(crate) fn count_parked(&mut self, kind: KindIndex) {
        if let Some(count) = self.parking.counts.get_mut(kind.position()) {
            *count = count.saturating_add(1);
        }
    }

    pub(in crate::plm) fn count_unparked(&mut self, kind: KindIndex) {
        if let Some(count) = self.parking.counts.get_mut(kind.position()) {
            *count = count.saturating_sub(1);
        }
    }

    /// Says whether tasks of one of these kinds are parked.
    pub(crate) fn has_parked(&self, kinds: KindSet) -> bool {
        kinds
            .iter()
            .any(|kind| self.parking.counts[kind.position()] > 0)
    }

    /// BLOCKED, DELAYED -> READY, at its old place in the order.
    pub(in crate::plm) fn release(
        &mut self,
        turn: &Turn<'_>,
        slot: SlotIndex,
        state: StateWord,
    ) -> bool {
        let Some(ready) = turn.advance(slot, state, Event::Release) else {
            return false;
        };
        if state.phase() == Phase::Delayed {
            turn.clear_timer(slot);
        } else if let Some(kind) = turn.segment.task(slot).kind() {
            self.count_unparked(kind);
        }
        turn.index_ready(slot, ready);
        true
    }
}
