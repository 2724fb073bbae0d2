//! Folding: the kept results of idle records go over to the common record of their principal, so that the records are free again.
//!
//! An idle record has no connection and no task that has not ended; only its results hold it. When a principal wants more records than
//! there are, its idle ones are marked, a pass of the sweep is asked for, and each slot that it meets names the common record
//! afterwards; a task that ends later is left. When the pass is over what has become empty is given back. Killed in between, the next
//! start counts anew what each record has (`Segment::rebuild_caches`), and whoever wants a record begins again.
//!
//! Only slots of tasks that have ended are written: nobody but the engine changes anything in them. A record is given back a whole pass
//! after its first task left it, so an inspector that copied a slot before finds the client of then. Tested in `engine/tests/rules/shares.rs`.

use qtf_shm::{ClientIndex, PlmRight, Segment, SlotIndex};

use super::{Clients, arena_bytes};
use crate::sweep::{Pass, Sweep};

/// Which records are folded into which.
#[derive(Debug)]
pub(crate) struct Folding {
    into: Vec<Option<ClientIndex>>,
    count: usize,
    pass: Option<Pass>,
}

impl Folding {
    pub(super) fn new(records: usize) -> Self {
        Self {
            into: vec![None; records],
            count: 0,
            pass: None,
        }
    }

    pub(super) const fn is_under_way(&self) -> bool {
        self.count > 0
    }

    pub(super) fn begin(&mut self, record: ClientIndex, common: ClientIndex) {
        if let Some(place @ None) = self.into.get_mut(record.position()) {
            *place = Some(common);
            self.count = self.count.saturating_add(1);
        }
    }

    /// The record is somebody's again, or nobody's.
    pub(super) fn stop(&mut self, record: ClientIndex) {
        if let Some(place) = self.into.get_mut(record.position())
            && place.take().is_some()
        {
            self.count = self.count.saturating_sub(1);
        }
    }
}

impl Clients {
    /// Asks for the pass of the sweep that a folding needs.
    pub(crate) fn ask_for_pass(&mut self, sweep: &mut Sweep) {
        if self.folding.is_under_way() && self.folding.pass.is_none() {
            self.folding.pass = Some(sweep.request());
        }
    }

    /// A slot that the sweep meets: a result of a record that is folded is the common one's from now on.
    #[inline]
    pub(crate) fn refile(&mut self, segment: &Segment, right: PlmRight, slot: SlotIndex) {
        if !self.folding.is_under_way() {
            return;
        }
        let task = segment.task(slot);
        let from = task.client();
        let into = self.folding.into.get(from.position()).copied().flatten();
        let Some(into) = into.filter(|_| task.state().phase().is_final()) else {
            return;
        };
        let bytes = arena_bytes(task);
        segment.refile_ended_task(right, slot, into);
        self.arena_given_back(from, bytes);
        self.arena_taken(into, bytes);
        let (from, into) = (segment.client(from), segment.client(into));
        from.set_kept(from.kept().saturating_sub(1));
        into.set_kept(into.kept().saturating_add(1));
    }

    /// To be called when a pass of the sweep is over: records that have become empty are given back.
    pub(crate) fn end_folding(&mut self, segment: &Segment, sweep: &Sweep) {
        if !(self.folding.pass).is_some_and(|pass| sweep.has_completed(pass)) {
            return;
        }
        self.folding.pass = None;
        for position in 0..self.folding.into.len() {
            let index = u16::try_from(position)
                .ok()
                .and_then(|number| segment.client_index(number));
            let into = self.folding.into.get(position).copied().flatten();
            let (Some(index), Some(into)) = (index, into) else {
                continue;
            };
            let (record, common) = (segment.client(index), segment.client(into));
            if record.kept() == 0 && record.unfinished() == 0 {
                common.set_submitted(common.submitted().saturating_add(record.submitted()));
            }
            self.folding.stop(index);
            self.settle(segment, index);
        }
    }
}
