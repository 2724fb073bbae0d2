//! Commands are taken from lanes, a bounded part of each a turn, whoever else has how many. What each asks for stands in `asked.rs`.
//!
//! Order: the command is acted upon, its answer put in or noted as owed, then the command is taken out. A daemon that is killed in between leaves it to the
//! next one: done twice is as good as once.
//!
//! Tested in `engine/tests/rules/lanes.rs`.

mod asked;

use qtf_shm::lane::{ACKNOWLEDGED_MAX, Command, Event};
use qtf_shm::{AttachIndex, Counter};

use crate::Lsn;
use crate::cycle::Parts;
use crate::effects::PER_CALL_MAX;
use crate::lanes::{OpenLane, Owed, core_lane};
use crate::work_count::WorkCount;

/// LIMIT: commands of one lane in one turn: its ring full.
const COMMANDS_PER_LANE: u32 = 32;

/// What is said to a command, and when.
#[derive(Debug, Clone, Copy)]
struct Reply {
    event: Event,
    /// Not before this is durable.
    durable: Option<Lsn>,
}

impl From<Event> for Reply {
    fn from(event: Event) -> Self {
        Self {
            event,
            durable: None,
        }
    }
}

impl Parts<'_> {
    /// Serves the lanes. Returns how many commands were taken and answers given; those that wait for room of their owner do not count.
    pub(crate) fn serve_lanes(&mut self) -> WorkCount {
        self.look_at_lanes();
        let mut work = self.give_owed();
        let count = self.turn.lanes.open.len();
        let mut left = self.turn.config.tasks_per_cycle_max;
        let first = self.turn.lanes.next;
        for step in 0..count {
            let place = first.wrapping_add(step).checked_rem(count).unwrap_or(0);
            let Some(&lane) = self.turn.lanes.open.get(place) else {
                break;
            };
            if !self.turn.segment.has_commands(lane.attach) {
                continue;
            }
            if left == 0 {
                self.turn.lanes.next = place;
                return work;
            }
            let served = self.serve_lane(lane, left.min(COMMANDS_PER_LANE));
            left = left.saturating_sub(served);
            for _ in 0..served {
                work += WorkCount::ONE;
            }
        }
        self.turn.lanes.next = first.wrapping_add(1).checked_rem(count).unwrap_or(0);
        work
    }

    /// Takes so many commands of a lane at most.
    fn serve_lane(&mut self, open: OpenLane, most: u32) -> u32 {
        let (segment, right) = (self.turn.segment, self.turn.right);
        let mut served = 0;
        while served < most && self.turn.effects.has_room(PER_CALL_MAX * ACKNOWLEDGED_MAX) {
            let Some(lane) = core_lane(segment, right, open) else {
                break;
            };
            let owed = self.turn.lanes.of(open.attach).map_or(0, |lane| lane.owed);
            match lane.next_command() {
                Ok(Some((_, Some(Command::Acknowledge(tasks))))) => {
                    self.acknowledge(tasks);
                    lane.command_done();
                    served += 1;
                }
                // Its owner does not read what it is told.
                Ok(Some(_)) if lane.room() <= owed => break,
                Ok(Some((number, command))) => {
                    let reply = self.answer(open, number, command);
                    self.reply(open, reply);
                    if cfg!(qtf_mutant = "sim_lane_command_stays") && number % 8 == 0 {
                        // Planted: it is taken again.
                        break;
                    }
                    lane.command_done();
                    served += 1;
                }
                Ok(None) => break,
                Err(_) => {
                    if let Some(lane) = self.turn.lanes.of(open.attach)
                        && !std::mem::replace(&mut lane.is_mad, true)
                    {
                        segment.counters().add(Counter::LaneNonsense, 1);
                    }
                    break;
                }
            }
        }
        if served > 0 {
            segment
                .counters()
                .add(Counter::LaneCommand, u64::from(served));
            // It may wait for room.
            self.turn.lanes.note_ring(open.attach);
        }
        served
    }

    /// Answers, or notes the answer until its record is durable.
    fn reply(&mut self, open: OpenLane, reply: Reply) {
        let durable = self.plm.durable_lsn();
        match reply.durable.filter(|&lsn| lsn > durable) {
            Some(lsn) => {
                let owed = Owed {
                    lsn,
                    attach: open.attach,
                    incarnation: open.incarnation,
                    event: reply.event,
                };
                let lanes = &mut *self.turn.lanes;
                let behind = lanes.owed.iter().rev().take_while(|later| later.lsn > lsn);
                let place = lanes.owed.len() - behind.count();
                lanes.owed.insert(place, owed);
                if let Some(lane) = lanes.of(open.attach) {
                    lane.owed = lane.owed.saturating_add(1);
                }
            }
            None => self.say(open.attach, open.incarnation, reply.event),
        }
    }

    /// Gives the answers whose records are durable by now.
    fn give_owed(&mut self) -> WorkCount {
        let durable = self.plm.durable_lsn();
        let mut work = WorkCount::NONE;
        while let Some(owed) = self
            .turn
            .lanes
            .owed
            .pop_front_if(|owed| owed.lsn <= durable)
        {
            if let Some(lane) = self.turn.lanes.of(owed.attach)
                && lane.incarnation == owed.incarnation
            {
                lane.owed = lane.owed.saturating_sub(1);
            }
            self.say(owed.attach, owed.incarnation, owed.event);
            work += WorkCount::ONE;
        }
        work
    }

    /// Puts an answer in, for which there is room.
    fn say(&mut self, attach: AttachIndex, incarnation: u32, event: Event) {
        let Some(&mut open) = self.turn.lanes.of(attach) else {
            return;
        };
        let lane = core_lane(self.turn.segment, self.turn.right, open);
        if let Some(lane) = lane.filter(|lane| lane.incarnation() == incarnation) {
            // Without room somebody has written the counts: then the mark says so.
            let _is_told = lane.tell(event);
            self.turn.lanes.note_ring(attach);
        }
    }

    /// Lists the open lanes if processes have come or gone. Owners whose lanes the engine finds open when it starts may have missed anything.
    fn look_at_lanes(&mut self) {
        let segment = self.turn.segment;
        let changes = segment.local_changes();
        if self.turn.lanes.seen_changes == Some(changes) {
            return;
        }
        let lanes = &mut *self.turn.lanes;
        lanes.seen_changes = Some(changes);
        let is_start = !std::mem::replace(&mut lanes.has_looked, true);
        let before = std::mem::take(&mut lanes.open);
        let attaches = segment.geometry().attaches();
        let indices = (0..u16::MAX).map_while(|number| AttachIndex::new_checked(number, attaches));
        for attach in indices {
            let Some(lane) = segment.lane(self.turn.right, attach) else {
                continue;
            };
            let incarnation = lane.incarnation();
            let known = before
                .iter()
                .find(|known| known.attach == attach && known.incarnation == incarnation);
            let open = known.copied().unwrap_or_else(|| OpenLane {
                attach,
                incarnation,
                client: self.turn.clients.of_lane(segment, (attach, incarnation)),
                owed: 0,
                watched: 0,
                is_mad: false,
                is_to_ring: false,
            });
            self.turn.lanes.open.push(open);
            if is_start && !cfg!(qtf_mutant = "sim_lane_restart_marks_nobody") {
                lane.miss();
                self.turn.lanes.note_ring(attach);
            }
        }
        for gone in before {
            let is_open = |lane: &OpenLane| {
                lane.attach == gone.attach && lane.incarnation == gone.incarnation
            };
            if !self.turn.lanes.open.iter().any(is_open) {
                self.forget_lane(gone);
            }
        }
    }

    /// The owner of a lane is gone.
    fn forget_lane(&mut self, gone: OpenLane) {
        let lanes = &mut *self.turn.lanes;
        lanes
            .owed
            .retain(|owed| owed.attach != gone.attach || owed.incarnation != gone.incarnation);
        if gone.watched > 0 {
            lanes.watched.retain(|&(_, attach)| attach != gone.attach);
        }
        if let Some(client) = gone.client {
            let (segment, sweep) = (self.turn.segment, &mut *self.turn.sweep);
            self.turn.clients.lane_closed(segment, sweep, client);
        }
    }
}
