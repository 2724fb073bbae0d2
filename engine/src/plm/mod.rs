//! Process Lifecycle Manager: the life of a task from its admission to the day its slot is free
//! again.
//!
//! It has eight parts, a folder each, and each is a floor: it uses what stands below it. Its head says its door, the calls by which
//! others enter, and which state is its own.
//!
//! | floor | part | does |
//! |---:|---|---|
//! | 8 | `upkeep/` | what time, a death or a start asks for: timers, repair of one slot, adoption |
//! | 7 | `changes/` | what clients and operators change: cancellation, priority, holds, new attempts |
//! | 6 | `intake/` | from a submission to a task that waits |
//! | 5 | `attempts/` | handing out, reports of workers, stops, leases |
//! | 4 | `ends/` | where a task goes when an attempt is over, what is kept and for how long |
//! | 3 | `keys/` | idempotency keys |
//! | 2 | `parking/` | tasks that stand beside the heap of ready ones |
//! | 1 | `records/` | what the journal has of a task, who waits for it, whether there is room |
//! | 0 | `submission.rs`, `answers.rs`, `outcome.rs` | what is asked, what is answered, the judgement of an attempt that has ended (pure) |
//!
//! Invariants:
//! - I1: a state changes first, its leaf after it.
//! - I2: only READY tasks have a ready leaf; DELAYED tasks, RUNNING ones with a timeout, and DONE, FAILED and CANCELLED
//!   ones that ended more than a moment ago have a timer leaf.
//! - I3: each task is counted at its client exactly once: as unfinished, or as kept.

mod answers;
mod attempts;
mod changes;
mod ends;
mod intake;
mod keys;
mod outcome;
mod parking;
mod records;
mod submission;
mod upkeep;

use qtf_shm::{Now, Segment};

use crate::clients::Clients;
use ends::Ends;
use intake::Intake;
use keys::Keys;
use parking::Parking;

pub use answers::{Accepted, Answer, Disposition, Durability, ResultAnswer};
pub(crate) use attempts::results::Fence;
pub use attempts::results::{Output, ResultReport};
pub use ends::burials::ATTEMPTS_USED_UP;
pub use ends::history::Said;
pub(crate) use intake::kinds::Namer;
pub(crate) use keys::entries::{restorable_keys, usable_keys};
pub(crate) use outcome::{ATTEMPT_MAX, judged_end};
pub(crate) use records::recorder::{LSN_UNDER_WAY, Recorder};
pub(crate) use records::reservation::Reservation;
pub(crate) use records::whole_task::{WholeTaskBuffer, whole_task_of};
pub use submission::{ArrayMember, Payload, Submission};
pub(crate) use upkeep::repair::Repaired;

/// LIMIT: only local processes change a state at the same time, and each of them only a few times
/// (a flag, a cancellation); what still moves after this many tries is left to the sweep.
pub(crate) const APPLY_TRIES_MAX: u32 = 8;

/// LIMIT: entries of the segment's table of kinds, and bits of a set of kinds.
const KINDS_COUNT: usize = qtf_shm::id::KINDS_COUNT as usize;

/// What the PLM remembers beside the segment: each part its own, which the others cannot touch, and the recorder, which all of
/// them ask.
#[derive(Debug)]
pub(crate) struct Plm {
    /// `None` in memory operation.
    pub(crate) recorder: Option<Box<Recorder>>,
    parking: Parking,
    keys: Keys,
    ends: Ends,
    intake: Intake,
}

impl Plm {
    pub(crate) fn new(
        segment: &Segment,
        clients: &mut Clients,
        seed: u64,
        now: Now,
        recorder: Option<Box<Recorder>>,
    ) -> Self {
        Self {
            recorder,
            parking: Parking::new(),
            keys: Keys::new(segment, clients),
            ends: Ends::new(seed),
            intake: Intake::new(now),
        }
    }
}
