//! Taking tasks in: from what a client asks for to a task that waits in the segment.
//!
//! | file | does |
//! |---|---|
//! | `admission.rs` | checks a submission and brings it into the segment |
//! | `judging.rs` | SUBMITTED by a local process: judged, or refused |
//! | `accepting.rs` | SUBMITTED -> READY, and what else waits for durable records |
//! | `kinds.rs` | numbers of task kinds by their names |
//!
//! Door: from outside of the PLM `submit`, `stop_intake`, `note_durable`, `has_durable_waits`, `serve_durable`, `check_kinds`,
//! `intern_kind`, `is_unjudged`, `judge_or_drop`; from the parts above `judge_met`, `repair_submitted` and [`accepting::accept`].
//! State: [`Intake`].

pub(super) mod accepting;
mod admission;
pub(super) mod judging;
pub(super) mod kinds;

use qtf_shm::Now;

use super::KINDS_COUNT;

/// What is remembered between submissions.
#[derive(Debug)]
pub(super) struct Intake {
    last_stamp: u64,
    is_stopped: bool,
    /// Names of kinds by number, so that a known kind is found without a look into the segment.
    kind_names: Vec<Box<str>>,
}

impl Intake {
    pub(super) fn new(now: Now) -> Self {
        Self {
            last_stamp: now.stamp(),
            is_stopped: false,
            kind_names: vec![Box::default(); KINDS_COUNT],
        }
    }
}
