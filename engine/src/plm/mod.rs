//! Process Lifecycle Manager: the life of a task from its admission to the day its slot is free
//! again.
//!
//! | file | does |
//! |---|---|
//! | `admission.rs` | checks a submission and brings it into the segment |
//! | `results.rs` | started, ended; fencing; records results |
//! | `outcome.rs` | judges an attempt that has ended (pure) |
//! | `endings.rs` | brings a task to its final state, or back to the queue |
//! | `cancel.rs` | cancellation and change of priority |
//! | `retention.rs` | acknowledgement and freeing |
//! | `dead_letters.rs` | new attempts for dead letters |
//! | `timers.rs` | due tasks, timeouts, time to live |
//! | `repair.rs` | one idempotent repair of one slot |
//!
//! Invariants:
//! - I1: a state changes first, its leaf after it.
//! - I2: only READY tasks have a ready leaf; DELAYED, DONE, FAILED, CANCELLED tasks and RUNNING
//!   ones with a timeout have a timer leaf.
//! - I3: each task is counted at its client exactly once: as unfinished, or as kept.

mod admission;
mod cancel;
mod dead_letters;
mod endings;
mod lookup;
mod outcome;
mod repair;
mod results;
mod retention;
mod timers;

use qtf_shm::{KindIndex, Now, Phase};

use crate::turn::Turn;

pub(crate) use admission::Namer;
pub use admission::{ArrayMember, Durability, Payload, Submission};
pub use lookup::Order;
pub(crate) use lookup::{is_held_by, order};
pub(crate) use repair::Repaired;
pub(crate) use results::Fence;
pub use results::{Disposition, Output, ResultReport, TaskRef};

/// LIMIT: only local processes change a state at the same time, and each of them only a few times
/// (a flag, a cancellation); what still moves after this many tries is left to the sweep.
pub(crate) const APPLY_TRIES_MAX: u32 = 8;

/// LIMIT: entries of the segment's table of kinds, and bits of a set of kinds.
const KINDS_COUNT: usize = 64;

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
}

impl Plm {
    pub(crate) fn new(seed: u64, now: Now) -> Self {
        Self {
            rng: fastrand::Rng::with_seed(seed),
            last_stamp: now.stamp(),
            intake_is_stopped: false,
            parked: [0; KINDS_COUNT],
            kind_names: vec![Box::default(); KINDS_COUNT],
        }
    }

    /// Takes over what the segment says about parked tasks when the engine starts.
    pub(crate) fn adopt(&mut self, turn: &Turn<'_>) {
        for slot in turn.segment.allocated_slots(0..turn.segment.high_water()) {
            let task = turn.segment.task(slot);
            if task.state().phase() == Phase::Blocked
                && let Some(kind) = task.kind()
            {
                self.count_parked(kind);
            }
        }
    }

    pub(crate) fn stop_intake(&mut self) {
        self.intake_is_stopped = true;
    }

    /// The stamp of the next submission: now, and later than every one before.
    fn next_stamp(&mut self, now: Now) -> u64 {
        self.last_stamp = now.stamp().max(self.last_stamp.saturating_add(1));
        self.last_stamp
    }

    /// Notes that a task of this kind was parked.
    pub(crate) fn count_parked(&mut self, kind: KindIndex) {
        if let Some(count) = self.parked.get_mut(kind.position()) {
            *count = count.saturating_add(1);
        }
    }

    fn count_unparked(&mut self, kind: KindIndex) {
        if let Some(count) = self.parked.get_mut(kind.position()) {
            *count = count.saturating_sub(1);
        }
    }

    /// Says whether tasks of one of these kinds are parked.
    pub(crate) fn has_parked(&self, kinds: u64) -> bool {
        (0..KINDS_COUNT).any(|kind| (kinds >> kind) & 1 == 1 && self.parked[kind] > 0)
    }
}
