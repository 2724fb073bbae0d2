//! Local processes that have died: what they left is brought in order, then their attach records are given back.
//!
//! The caller says who is dead (the kernel tells it); nothing is judged here. The sweep, which walks over all slots
//! anyway, repairs on behalf of the dead as any repairer does (`shm/src/segment/repair.rs`); what a SUBMITTED task
//! needs is the PLM's and needs no live submitter. A record is given back only after a whole pass that began after
//! the death, when no worker slot of the process is left. Tested in `engine/tests/rules/attaches.rs`.

use core::ops::Range;

use qtf_shm::{AttachIndex, RepairScope, Segment};

use crate::register::Workers;
use crate::sweep::{Pass, Sweep};

/// The dead whose traces are still being cleared away.
#[derive(Debug, Default)]
pub(crate) struct Departed {
    scope: RepairScope,
    waiting: Vec<(AttachIndex, Pass)>,
}

impl Departed {
    /// Notes a death. False if there is no such process.
    pub(crate) fn add(&mut self, segment: &Segment, sweep: &mut Sweep, index: AttachIndex) -> bool {
        let Some(info) = segment.attach_info(index) else {
            return false;
        };
        if self.waiting.iter().any(|&(known, _)| known == index) {
            return false;
        }
        let convicted = std::mem::take(&mut self.scope.convicted);
        self.scope.convicted = convicted.and(index, info.state);
        self.waiting.push((index, sweep.request()));
        true
    }

    /// Repairs a stripe of slots and some blocks of the arena on behalf of the dead, if there are any.
    pub(crate) fn repair(&self, segment: &Segment, slots: Range<u32>, blocks: Range<u32>) {
        if !self.waiting.is_empty() {
            segment.repair_slots(slots, &self.scope);
            segment.repair_blocks(blocks, &self.scope);
        }
    }

    /// A pass of the sweep is over: gives back the records of those who have left nothing behind. Returns whether one was.
    pub(crate) fn pass_completed(
        &mut self,
        segment: &Segment,
        sweep: &Sweep,
        workers: &Workers,
    ) -> bool {
        let count = self.waiting.len();
        if count == 0 {
            return false;
        }
        let scope = &self.scope;
        self.waiting.retain(|&(index, pass)| {
            let is_clean = sweep.has_completed(pass) && !workers.has_local(segment, index);
            !(is_clean && segment.release_attach(index, scope))
        });
        if self.waiting.is_empty() {
            self.scope = RepairScope::default();
        }
        self.waiting.len() < count
    }
}
