//! How many tasks each client has, counted from the slots: unfinished ones, and finished ones that are kept.
//!
//! The PLM counts up and down as it goes; a kill between the change of a task and its count leaves the count wrong, and a record
//! whose counts never come to zero is never given to another client. So each start counts anew. Record 0, which belongs to
//! callers that never registered, is counted by nobody. A task that a local worker has brought to DONE by itself, as no daemon lived, counts as unfinished
//! until the PLM has met it: it counts its end then. One whose end goes to a lane counts from its end on, as its submission is seen by nobody.
//!
//! Tested in `segment/tests/rebuild.rs` and `segment/tests/verify.rs`.

use crate::id::{ClientIndex, SlotIndex};
use crate::segment::{Segment, SegmentView};
use crate::task::slot::TaskOptions;
use crate::task::state::{Phase, StateWord};
use crate::task::writer::PlmRight;

/// Counts by record.
#[derive(Debug)]
pub(super) struct ClientCounts(Vec<Tasks>);

/// The counts of one record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Tasks {
    pub(super) unfinished: u64,
    pub(super) kept: u64,
}

impl ClientCounts {
    pub(super) fn new(view: &SegmentView) -> Self {
        Self(vec![Tasks::default(); view.geometry().clients() as usize])
    }

    /// Counts a task, which is in this state.
    pub(super) fn note(&mut self, view: &SegmentView, slot: SlotIndex, state: StateWord) {
        let Some(task) = view.parts.tasks.get(slot.position()) else {
            return;
        };
        let phase = state.phase();
        let is_met = phase != Phase::Done || view.end_beside(slot, state).is_none();
        if let Some(count) = self.0.get_mut(usize::from(task.client_number())) {
            let is_seen = !task.options().has(TaskOptions::TELLS_LANE);
            count.unfinished += u64::from(is_seen && (phase.is_unfinished() || !is_met));
            count.kept += u64::from(phase.is_final() && is_met);
        }
    }

    /// Counts those of another range of slots too.
    pub(super) fn add(&mut self, other: &Self) {
        for (own, other) in self.0.iter_mut().zip(&other.0) {
            own.unfinished += other.unfinished;
            own.kept += other.kept;
        }
    }

    /// The counts of all records but 0.
    pub(super) fn iter(&self) -> impl Iterator<Item = (ClientIndex, Tasks)> + '_ {
        let indices = (0_u16..).map_while(|number| {
            let count = u32::try_from(self.0.len()).unwrap_or(u32::MAX);
            ClientIndex::new_checked(number, count)
        });
        indices.zip(self.0.iter().copied()).skip(1)
    }
}

impl Segment {
    /// The result of a task that has ended is kept for another client from now on. The daemon only: nobody else changes anything in the
    /// slot of such a task.
    pub fn refile_ended_task(&self, right: PlmRight, slot: SlotIndex, client: ClientIndex) {
        let task = self.write_task(right, slot);
        if task.state().phase().is_final() {
            task.set_client(client);
        }
    }

    /// Writes the counts into the records that are in use. The daemon only.
    pub(super) fn set_client_counts(&self, counts: &ClientCounts) {
        for (index, tasks) in counts.iter() {
            let record = self.client(index);
            if record.is_used() {
                record.set_unfinished(tasks.unfinished);
                record.set_kept(tasks.kept);
            }
        }
    }

    /// Counts the tasks of all clients anew, also while local processes are attached.
    pub(super) fn recount_clients(&self) {
        let mut counts = ClientCounts::new(self);
        for slot in self.allocated_slots(0..self.high_water()) {
            counts.note(self, slot, self.task(slot).state());
        }
        self.set_client_counts(&counts);
    }
}
