//! Tasks that stand beside the heap of ready tasks, so that nobody waits behind them (`docs/adr/0004`).
//!
//! | file | does |
//! |---|---|
//! | `parked.rs` | counts those whose kind nobody offers; BLOCKED, DELAYED -> READY |
//! | `waiting.rs` | those that wait for room in the journal, the best first |
//!
//! Door: from outside of the PLM `count_parked`, `has_parked`, `park_for_room`, `release_best_waiting`; from the parts above
//! `note_parked`, `count_unparked`, `release`.
//! State: [`Parking`]. All of it is a hint: the state words say which tasks are parked.

mod parked;
mod waiting;

use super::KINDS_COUNT;
use waiting::Waiting;

/// What is remembered of parked tasks.
#[derive(Debug)]
pub(super) struct Parking {
    /// Parked tasks of each kind: says whether a sweep is worth while.
    counts: [u32; KINDS_COUNT],
    /// Journal tasks that are parked until the journal has room.
    waiting: Waiting,
}

impl Parking {
    pub(super) fn new() -> Self {
        Self {
            counts: [0; KINDS_COUNT],
            waiting: Waiting::default(),
        }
    }
}
