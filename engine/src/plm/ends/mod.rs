//! The end of an attempt and of a task: where it goes, what is kept of it, and for how long.
//!
//! | file | does |
//! |---|---|
//! | `endings.rs` | brings a task to its final state, back to the queue, or to a pause |
//! | `history.rs` | which ends of attempts are kept |
//! | `burials.rs` | what no worker may have any more |
//! | `graces.rs` | until when attempts that are to stop may take to end |
//! | `retention.rs` | acknowledgement and freeing |
//! | `settled.rs` | whether an end may be told |
//! | `fresh_ends.rs` | what has ended a moment ago: its time to live gets a leaf a second later |
//! | `unkept.rs` | the last tasks that succeeded and kept no result |
//!
//! Door: from outside of the PLM `bury_waiting`, `end_cancelled`, `forget`, `is_unkept`, `settled_end`, `has_expired_done`, `set_wall`, `serve_fresh_ends`,
//! `next_fresh_end`; from the parts above `conclude`, `conclude_after`, `settle`, `finish`, `hand_back`, `quarantine`, `note_requeue`,
//! `note_unkept`, `grace_of`, `serve_ended`, `repair_forgotten`, and the functions that ask a slot about its end.
//! State: [`Ends`].

pub(super) mod burials;
pub(super) mod endings;
pub(super) mod fresh_ends;
mod graces;
pub(super) mod history;
pub(super) mod retention;
mod settled;
mod unkept;

use crate::wall::WallTime;
use fresh_ends::FreshEnds;
use graces::Graces;
use unkept::Unkept;

/// What is remembered of ends.
#[derive(Debug)]
pub(super) struct Ends {
    /// For pauses before a retry.
    rng: fastrand::Rng,
    /// Until when attempts that are to stop may take.
    graces: Graces,
    /// What succeeded, was told, and kept nothing.
    unkept: Unkept,
    /// What has ended a moment ago and has no leaf for its time to live yet.
    fresh: FreshEnds,
    /// For tombstones: when it was, for people.
    wall: WallTime,
}

impl Ends {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            rng: fastrand::Rng::with_seed(seed),
            graces: Graces::default(),
            unkept: Unkept::new(),
            fresh: FreshEnds::new(),
            wall: WallTime::default(),
        }
    }
}
