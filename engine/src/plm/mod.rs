//! Process Lifecycle Manager: the life of a task from its admission to the day its slot is free
//! again.
//!
//! It has six parts, a folder each, and each is a floor: it uses what stands below it. Its head says by which calls others enter.
//!
//! | part | does | enters |
//! |---|---|---|
//! | `upkeep/` | what time, a death or a start asks for: timers, repair of one slot, adoption | all below |
//! | `changes/` | what clients and operators change: cancellation, priority, holds, new attempts | all below |
//! | `intake/` | from a submission to a task that waits; keys and kinds | all below |
//! | `attempts/` | handing out, reports of workers, stops, leases | ends, records |
//! | `ends/` | where a task goes when an attempt is over, what is kept and for how long | records |
//! | `records/` | what the journal has of a task, who waits for it, whether there is room | nothing |
//!
//! Beside them: `answers.rs`, what calls answer; `outcome.rs`, the judgement of an attempt that has ended (pure).
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
mod outcome;
mod records;
mod upkeep;

use qtf_shm::{Now, Segment, TaskId};

use crate::clients::Clients;
use crate::wall::WallTime;
use attempts::stops::Stops;
use ends::fresh_ends::FreshEnds;
use ends::unkept::Unkept;
use intake::key_places::KeyPlaces;
use records::waiting::Waiting;

pub use answers::{Accepted, Answer, Disposition, Durability, ResultAnswer};
pub(crate) use attempts::results::Fence;
pub use attempts::results::{Output, ResultReport};
pub use ends::burials::ATTEMPTS_USED_UP;
pub use ends::history::Said;
pub(crate) use intake::keys::{restorable_keys, usable_keys};
pub(crate) use intake::kinds::Namer;
pub use intake::submission::{ArrayMember, Payload, Submission};
pub(crate) use outcome::{ATTEMPT_MAX, judged_end};
pub(crate) use records::recorder::{LSN_UNDER_WAY, Recorder};
pub(crate) use records::reservation::Reservation;
pub(crate) use records::whole_task::{WholeTaskBuffer, whole_task_of};
pub(crate) use upkeep::repair::Repaired;

/// LIMIT: only local processes change a state at the same time, and each of them only a few times
/// (a flag, a cancellation); what still moves after this many tries is left to the sweep.
pub(crate) const APPLY_TRIES_MAX: u32 = 8;

/// LIMIT: entries of the segment's table of kinds, and bits of a set of kinds.
const KINDS_COUNT: usize = qtf_shm::id::KINDS_COUNT as usize;

/// What the PLM remembers beside the segment.
#[derive(Debug)]
pub(crate) struct Plm {
    rng: fastrand::Rng,
    last_stamp: u64,
    intake_is_stopped: bool,
    /// Parked tasks of each kind: a hint that says whether a sweep is worth while.
    parked: [u32; KINDS_COUNT],
    /// Names of kinds by number, so that a known kind is found without a look into the segment.
    kind_names: Vec<Box<str>>,
    /// Journal tasks that are parked until the journal has room.
    waiting: Waiting,
    /// Until when attempts that are to stop may take.
    stops: Stops,
    /// What succeeded, was told, and kept nothing.
    unkept: Unkept,
    /// What has ended a moment ago and has no leaf for its time to live yet.
    fresh_ends: FreshEnds,
    /// `None` in memory operation.
    pub(crate) recorder: Option<Box<Recorder>>,
    /// Where the walk over the table of keys stands.
    keys_cursor: u32,
    /// When a refusal last looked for keys that have expired.
    keys_looked_at: Option<Now>,
    key_places: KeyPlaces,
    /// For tombstones: when it was, for people.
    pub(crate) wall: WallTime,
}

impl Plm {
    pub(crate) fn new(
        segment: &Segment,
        clients: &mut Clients,
        seed: u64,
        now: Now,
        recorder: Option<Box<Recorder>>,
    ) -> Self {
        let key_places = KeyPlaces::new(segment, clients);
        Self {
            rng: fastrand::Rng::with_seed(seed),
            last_stamp: now.stamp(),
            intake_is_stopped: false,
            parked: [0; KINDS_COUNT],
            kind_names: vec![Box::default(); KINDS_COUNT],
            waiting: Waiting::default(),
            stops: Stops::default(),
            unkept: Unkept::new(),
            fresh_ends: FreshEnds::new(),
            recorder,
            keys_cursor: 0,
            keys_looked_at: None,
            key_places,
            wall: WallTime::default(),
        }
    }

    /// Whether this task has succeeded lately and kept no result.
    pub(crate) fn is_unkept(&self, task: TaskId) -> bool {
        self.unkept.holds(task)
    }
}
