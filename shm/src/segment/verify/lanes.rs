//! Lanes: the counts of the rings of each open one can be. What an entry says is its reader's to judge.
//!
//! Nothing in a lane is the truth about a task, so a lane of nonsense damages no task: its process is not heard, and that is all.

use crate::segment::SegmentView;
use crate::segment::verify::{Pass, Rule};

pub(super) fn check(view: &SegmentView, pass: &mut Pass) {
    for info in view.attached() {
        let lane = view.lane_info(info.index);
        let Some(lane) = lane.filter(|lane| lane.is_open && !lane.makes_sense()) else {
            continue;
        };
        let ((commands, taken), (events, read)) = (lane.commands, lane.events);
        let text = format!(
            "the lane of {} (pid {}) says {commands} commands in, {taken} out, {events} events in, {read} out; nobody hears it, no task is damaged by that",
            info.name, info.process.pid
        );
        pass.found(Rule::Lane, format!("lane {}", info.index.get()), text);
    }
}
