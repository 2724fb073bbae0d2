//! Clients that speak through a lane: one record each, as each has a lane of its own, also where several call themselves the same.
//!
//! Their memory tasks are submitted by a compare-and-swap that the engine does not see, so tasks whose end goes to a lane are counted at their client
//! from their end on, and a record that names a lane is kept although it counts nothing. When the process is gone its tasks become ordinary ones: a pass of the
//! sweep takes the option from each and counts it, and after that the record names no lane any more.
//!
//! Tested in `engine/tests/rules/lanes.rs`.

use qtf_shm::{AttachIndex, ClientIndex, Now, PlmRight, Segment, SlotIndex, TaskOptions};

use super::{ClientHello, Clients, arena_bytes, indices};
use crate::sweep::{Pass, Sweep};

/// Records whose lane is closed, each until a pass has counted what is left of its tasks.
#[derive(Debug, Default)]
pub(super) struct Orphans(Vec<(ClientIndex, Pass)>);

impl Clients {
    /// The record of the process behind a lane, opened if need be. `None` if the principal's share of the records has none left.
    pub(crate) fn hello_by_lane(
        &mut self,
        segment: &Segment,
        now: Now,
        hello: &ClientHello<'_>,
        lane: (AttachIndex, u32),
    ) -> Option<ClientIndex> {
        if let Some(own) = self.of_lane(segment, lane) {
            return Some(own);
        }
        let is_free = |index: &ClientIndex| {
            let record = segment.client(*index);
            record.connections() == 0 && record.lane().is_none()
        };
        let known = self
            .find(segment, |who| {
                who.is(hello.principal, hello.name, hello.host)
            })
            .filter(is_free);
        let index = known.or_else(|| self.open_named(segment, now, hello))?;
        self.folding.stop(index);
        let record = segment.client(index);
        // The lane first: a record without a connection that names one is kept.
        record.set_lane(Some(lane));
        record.set_connections(1);
        record.set_heartbeat(now.stamp());
        Some(index)
    }

    /// The record that names a lane.
    pub(crate) fn of_lane(
        &self,
        segment: &Segment,
        lane: (AttachIndex, u32),
    ) -> Option<ClientIndex> {
        indices(self.tokens.len()).find(|&index| {
            let record = segment.client(index);
            record.is_used() && record.lane() == Some(lane)
        })
    }

    /// When the engine starts: clients whose lanes are open are still connected, the tasks of the others are without one.
    pub(crate) fn adopt_local(&mut self, segment: &Segment, right: PlmRight, sweep: &mut Sweep) {
        for index in indices(self.tokens.len()) {
            let record = segment.client(index);
            let Some((attach, incarnation)) = record.lane().filter(|_| record.is_used()) else {
                continue;
            };
            let open = segment.lane(right, attach);
            if open.is_some_and(|lane| lane.incarnation() == incarnation) {
                record.set_connections(record.connections().max(1));
            } else {
                self.lane_closed(segment, sweep, index);
            }
        }
    }

    /// The process behind a client's lane is gone; its tasks go on.
    pub(crate) fn lane_closed(
        &mut self,
        segment: &Segment,
        sweep: &mut Sweep,
        client: ClientIndex,
    ) {
        let record = segment.client(client);
        record.set_connections(record.connections().saturating_sub(1));
        if !self.orphans.0.iter().any(|&(known, _)| known == client) {
            self.orphans.0.push((client, sweep.request_another()));
        }
    }

    /// A slot that the sweep meets: a task of a client that is gone is an ordinary one from now on.
    #[inline]
    pub(crate) fn adopt_orphan(&mut self, segment: &Segment, right: PlmRight, slot: SlotIndex) {
        if self.orphans.0.is_empty() {
            return;
        }
        let task = segment.write_task(right, slot);
        let (client, phase) = (task.client(), task.state().phase());
        let is_task = phase.is_unfinished() || phase.is_final();
        let is_orphan = is_task
            && task.options().has(TaskOptions::TELLS_LANE)
            && self.orphans.0.iter().any(|&(gone, _)| gone == client);
        if !is_orphan {
            return;
        }
        task.drop_options(TaskOptions::TELLS_LANE);
        if phase.is_unfinished() {
            self.task_accepted(segment, client);
            self.arena_taken(client, arena_bytes(&task));
        }
    }

    /// A pass of the sweep is over: records whose tasks are all counted name no lane any more.
    pub(crate) fn end_orphans(&mut self, segment: &Segment, sweep: &Sweep) {
        let is_over = |&(_, pass): &(ClientIndex, Pass)| sweep.has_completed(pass);
        let over: Vec<ClientIndex> = self
            .orphans
            .0
            .iter()
            .filter(|orphans| is_over(orphans))
            .map(|&(client, _)| client)
            .collect();
        self.orphans.0.retain(|orphans| !is_over(orphans));
        for client in over {
            segment.client(client).set_lane(None);
            self.settle(segment, client);
        }
    }
}
