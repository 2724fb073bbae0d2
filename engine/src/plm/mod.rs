//! Process Lifecycle Manager: the life of a task from its admission to the day its slot is free
//! again.
//!
//! | file | does |
//! |---|---|
//! | `submission.rs`, `admission.rs` | checks a submission and brings it into the segment |
//! | `accepting.rs` | SUBMITTED -> READY, and what else waits for durable records |
//! | `recorder.rs`, `pending.rs`, `room.rs` | records of journal tasks, who waits for them, whether there is room |
//! | `reservation.rs` | reserves ids ahead of need |
//! | `adoption.rs` | adopts the tasks of a segment at the start |
//! | `keys.rs`, `kinds.rs` | idempotency keys; names of task kinds |
//! | `results.rs` | started, ended; fencing; records results |
//! | `outcome.rs` | judges an attempt that has ended (pure) |
//! | `endings.rs` | brings a task to its final state, or back to the queue |
//! | `cancel.rs` | cancellation and change of priority |
//! | `holds.rs` | holding a waiting task back, and releasing it |
//! | `retention.rs` | acknowledgement and freeing |
//! | `burials.rs`, `dead_letters.rs` | what no worker may have any more; new attempts for it |
//! | `stops.rs` | attempts that are to stop: told again until they end |
//! | `lent.rs` | attempts of workers that call: lent, touched, taken back when their lease is over |
//! | `timers.rs` | due tasks, timeouts, time to live |
//! | `fresh_ends.rs` | what has ended a moment ago: its time to live gets a leaf a second later |
//! | `unkept.rs` | the last tasks that succeeded and kept no result |
//! | `waiting.rs` | journal tasks that wait for room in the journal |
//! | `repair.rs` | one idempotent repair of one slot |
//!
//! Invariants:
//! - I1: a state changes first, its leaf after it.
//! - I2: only READY tasks have a ready leaf; DELAYED tasks, RUNNING ones with a timeout, and DONE, FAILED and CANCELLED
//!   ones that ended more than a moment ago have a timer leaf.
//! - I3: each task is counted at its client exactly once: as unfinished, or as kept.

mod accepting;
mod admission;
mod adoption;
mod burials;
mod cancel;
mod dead_letters;
mod endings;
mod fresh_ends;
mod history;
mod holds;
mod key_places;
mod keys;
mod kinds;
mod lent;
mod lookup;
mod outcome;
mod pending;
mod recorder;
mod repair;
mod reservation;
mod results;
mod retention;
mod room;
mod stops;
mod submission;
mod timers;
mod unkept;
mod waiting;

use qtf_journal::{Lsn, Record};
use qtf_shm::histogram::Stage;
use qtf_shm::{
    Event, KindIndex, KindSet, Now, Phase, Segment, SlotIndex, SlotWriter, StateWord, TaskId,
    TaskOptions, TaskSlot, WorkerIndex,
};

use crate::answers::Answer;
use crate::register::Clients;
use crate::rejection::Rejection;
use crate::turn::Turn;
use crate::wall::WallTime;
use fresh_ends::FreshEnds;
use key_places::KeyPlaces;
use pending::Then;
use recorder::Mark;
use stops::Stops;
use unkept::Unkept;
use waiting::Waiting;

pub use burials::ATTEMPTS_USED_UP;
pub use history::Said;
pub(crate) use keys::{restorable_keys, usable_keys};
pub(crate) use kinds::Namer;
pub use lookup::AttemptSpec;
pub(crate) use lookup::{attempt_spec, is_held_by};
pub(crate) use outcome::{ATTEMPT_MAX, judged_end};
pub(crate) use recorder::{LSN_UNDER_WAY, Recorder};
pub(crate) use repair::Repaired;
pub(crate) use reservation::Reservation;
pub(crate) use results::Fence;
pub use results::{Disposition, Output, ResultReport, TaskRef};
pub(crate) use stops::is_to_be_told;
pub use submission::{ArrayMember, Durability, Payload, Submission};

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

    /// The task is durable by this engine's journal.
    #[inline]
    fn is_journalled(&self, task: &TaskSlot) -> bool {
        self.recorder.is_some() && task.options().has(TaskOptions::JOURNAL)
    }

    /// The recorder, if the task is in the journal.
    #[inline]
    fn recorder_of(&mut self, task: &TaskSlot) -> Option<&mut Recorder> {
        let recorder = self.recorder.as_deref_mut()?;
        task.options().has(TaskOptions::JOURNAL).then_some(recorder)
    }

    /// To be called before the state of a task changes; `None` if that need not be recorded (any more).
    #[inline]
    fn mark(&mut self, task: SlotWriter<'_>, from: StateWord) -> Option<Mark> {
        let recorder = self.recorder_of(&task)?;
        (!from.is_judged()).then(|| recorder.mark(task))
    }

    /// The state did not change after all.
    #[inline]
    fn unmark(&mut self, task: SlotWriter<'_>, mark: Option<Mark>) {
        if let (Some(recorder), Some(mark)) = (&mut self.recorder, mark) {
            recorder.unmark(task, mark);
        }
    }

    /// Records a change of a marked task.
    #[inline]
    fn note(&mut self, turn: &Turn<'_>, slot: SlotIndex, mark: Option<Mark>, record: &Record<'_>) {
        if let (Some(recorder), Some(mark)) = (&mut self.recorder, mark) {
            recorder.note(turn, slot, mark, record);
        }
    }

    /// Says why a change of this task cannot be recorded now.
    #[inline]
    fn check_change(&mut self, task: &TaskSlot) -> Result<(), Rejection> {
        match self.recorder_of(task) {
            Some(recorder) => recorder.check_change(),
            None => Ok(()),
        }
    }

    /// Says why it cannot be recorded now that this task is cancelled, acknowledged or purged.
    #[inline]
    fn check_letting_go(&mut self, task: &TaskSlot) -> Result<(), Rejection> {
        match self.recorder_of(task) {
            Some(recorder) => recorder.check_letting_go(),
            None => Ok(()),
        }
    }

    /// What a caller must wait for if it depends on what the slot says.
    #[inline]
    fn awaited(&self, task: &TaskSlot) -> Option<Lsn> {
        let recorder = self.recorder.as_ref()?;
        task.options()
            .has(TaskOptions::JOURNAL)
            .then(|| recorder.awaited(task))?
    }

    /// The same of a task whose record was made in this turn.
    #[inline]
    fn awaited_just_now(&self, task: &TaskSlot) -> Option<Lsn> {
        let recorder = self.recorder.as_ref()?;
        let is_journalled = task.options().has(TaskOptions::JOURNAL);
        (is_journalled && !recorder.is_written(task)).then(|| Lsn::new(task.lsn()))
    }

    /// An answer that waits for everything the slot says.
    ///
    /// # Errors
    /// What the slot says found no room in the journal: the sweep brings it there, and asking again waits for that.
    fn answer(&self, task: &TaskSlot, phase: Phase) -> Result<Answer, Rejection> {
        match self.awaited(task) {
            Some(lsn) if lsn.get() == LSN_UNDER_WAY => Err(recorder::no_room()),
            durable => Ok(Answer { phase, durable }),
        }
    }

    /// The task may be handed out: its outcome will find room.
    #[inline]
    pub(crate) fn may_hand_out(&mut self, task: &TaskSlot) -> bool {
        self.recorder_of(task)
            .is_none_or(|recorder| recorder.may_hand_out())
    }

    /// READY -> ASSIGNED, and the order to the worker; the attempt of a journal task is recorded. Nobody waits for that, but for
    /// a task that runs at most once: a reboot must not find it as one that was never handed out.
    #[inline]
    pub(crate) fn hand_out(
        &mut self,
        turn: &mut Turn<'_>,
        slot: SlotIndex,
        state: StateWord,
        worker: WorkerIndex,
    ) -> Option<StateWord> {
        let task = turn.write(slot);
        let mark = self.mark(task, state);
        let ready_since = task.phase_time();
        let Some(assigned) = turn.advance(slot, state, Event::Assign { worker }) else {
            self.unmark(task, mark);
            return None;
        };
        turn.took(Stage::Wait, ready_since);
        turn.segment.unindex_ready_key(slot, task.key());
        let Some(id) = assigned.id(slot) else {
            return Some(assigned);
        };
        let (Some(mark), Some(recorder)) = (mark, &mut self.recorder) else {
            accepting::dispatch(turn, id, assigned);
            return Some(assigned);
        };
        recorder.room.handed_out();
        let record = Record::Attempt {
            task: id,
            attempt: assigned.fence(),
            worker: turn.worker_id(worker).as_raw(),
        };
        let noted = recorder.note(turn, slot, mark, &record);
        if !recorder::is_once(&task) {
            accepting::dispatch(turn, id, assigned);
        } else if let Some(lsn) = noted {
            recorder.wait(lsn, id, Then::Dispatch(assigned.fence()));
        }
        Some(assigned)
    }

    /// A worker no longer holds a task.
    #[inline]
    fn count_handed_back(&mut self, task: &TaskSlot) {
        if let Some(recorder) = self.recorder_of(task) {
            recorder.room.handed_back();
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
    pub(crate) fn has_parked(&self, kinds: KindSet) -> bool {
        kinds.iter().any(|kind| self.parked[kind.position()] > 0)
    }
}
