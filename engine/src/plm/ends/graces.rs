//! Until when attempts that are to stop may take to end: remembered beside the segment, and lost with the engine.
//!
//! Tested in `engine/tests/rules/stops.rs`.

use std::collections::BTreeMap;

use qtf_shm::{Now, SlotIndex, StateWord};

use crate::lookup::stop_reason;
use crate::plm::Plm;

/// Until when flagged attempts may take to end; at most one for each task slot.
#[derive(Debug, Default)]
pub(super) struct Graces {
    until: BTreeMap<SlotIndex, (Attempt, Now)>,
}

/// Generation of the slot and number of the attempt.
type Attempt = (u64, u16);

fn attempt_of(state: StateWord) -> Attempt {
    (state.generation(), state.fence())
}

impl Graces {
    /// When the attempt is ended without its worker; `grace_end` if it was not flagged before.
    fn until(&mut self, slot: SlotIndex, state: StateWord, grace_end: Now) -> Now {
        let attempt = attempt_of(state);
        let known = self.until.entry(slot).or_insert((attempt, grace_end));
        if known.0 != attempt {
            *known = (attempt, grace_end);
        }
        known.1
    }

    /// The attempt is over.
    pub(super) fn forget(&mut self, slot: SlotIndex, ended: StateWord) {
        if stop_reason(ended).is_some() {
            self.until.remove(&slot);
        }
    }
}

impl Plm {
    /// When the attempt is ended without its worker; `grace_end` if it was not flagged before.
    pub(in crate::plm) fn grace_of(
        &mut self,
        slot: SlotIndex,
        flagged: StateWord,
        grace_end: Now,
    ) -> Now {
        self.ends.graces.until(slot, flagged, grace_end)
    }
}
