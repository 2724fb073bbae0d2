//! How far the loops of the roles have come, and what is waiting and running: read from the segment by whoever watches the daemon.
//!
//! Tested in `tests/tests/service/`, also with a loop that hangs.

use std::sync::{Arc, Weak};

use qtf_service::Loops;
use qtf_shm::{Phase, RoleLoop, Segment};

/// What is waiting.
const WAITING: [Phase; 5] = [
    Phase::Submitted,
    Phase::Blocked,
    Phase::Held,
    Phase::Delayed,
    Phase::Ready,
];
/// What is with workers.
const RUNNING: [Phase; 3] = [Phase::Assigned, Phase::Running, Phase::Ended];

/// The loops of a daemon; looking at them keeps no segment.
#[derive(Debug, Clone)]
pub struct LoopsOfRoles(Weak<Segment>);

impl LoopsOfRoles {
    pub(crate) fn of(segment: &Arc<Segment>) -> Self {
        Self(Arc::downgrade(segment))
    }
}

impl Loops for LoopsOfRoles {
    fn turns(&self) -> Vec<(&'static str, u64)> {
        let segment = self.0.upgrade();
        let turns = |of| segment.as_ref().map_or(0, |segment| segment.turns(of));
        RoleLoop::ALL.map(|of| (of.name(), turns(of))).to_vec()
    }

    fn status(&self) -> String {
        let Some(segment) = self.0.upgrade() else {
            return "stopped".to_owned();
        };
        let counters = segment.counters();
        let sum = |phases: &[Phase]| -> u64 {
            phases
                .iter()
                .fold(0, |sum, phase| sum.saturating_add(counters.gauge(*phase)))
        };
        format!("{} waiting, {} running", sum(&WAITING), sum(&RUNNING))
    }
}
