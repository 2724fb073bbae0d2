//! The core: the engine, and what surrounds it on the pinned thread. It decides and does no I/O; below it others write
//! and read files, above it edges translate. Whoever wants something of it enters by [`core_cell`].
//!
//! Invariant: one turn is bounded by the engine's own limits.
//!
//! | file | holds |
//! |---|---|
//! | `core_cell.rs`, `door.rs` | the core of this thread, and the one way in |
//! | `held_outputs.rs` | how much output is held for want of room |
//! | `info.rs` | what the daemon is, for its starter and for operators |
//! | `lists.rs` | which list of tasks may look at the next slots |
//! | `journal.rs` | what is written to the journal next, and what has become stable |
//! | `callers.rs` | who waits for tasks with a single call |
//! | `routes.rs` | what waits to be sent to each worker |
//! | `watches/` | who waits for the end of which task |
//! | `shortage.rs` | why the journal has no room, for refusals |
//! | `stability.rs` | who waits for which record of the journal |
//! | `expiry.rs` | how many results have expired, for the log |
//! | `age.rs` | that the stamps of the segment run out |
//! | `reads.rs` | reads of spill files for streams that fetch |
//! | `uploads/` | payloads and outputs that were uploaded and not yet used |
//! | `verdicts.rs` | what became of results, until their worker is told |

mod age;
pub(crate) mod callers;
pub(crate) mod core_cell;
mod door;
mod expiry;
pub(crate) mod held_outputs;
pub(crate) mod info;
pub(crate) mod journal;
pub(crate) mod lists;
mod neighbours;
pub(crate) mod reads;
pub(crate) mod routes;
pub(crate) mod shortage;
pub(crate) mod stability;
pub(crate) mod uploads;
pub(crate) mod verdicts;
pub(crate) mod watches;

use std::cell::Cell;
use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Duration;

use qtf_engine::{Effect, Engine, TaskRef};
use qtf_shm::histogram::Stage;
use qtf_shm::segment::Took;
use qtf_shm::{BlobRef, Now, Segment, WorkerId};
use tokio::sync::Notify;

use crate::clock::Clock;
use crate::config::settings::Limits;
use crate::spill::jobs::{REMOVED_AT_ONCE, SpillJobs};
use crate::spill::thread::Done;
use age::Age;
use callers::{CallKey, Callers};
use core_cell::attend;
use expiry::Expiry;
use held_outputs::HeldOutputs;
use info::DaemonInfo;
use journal::Journal;
use lists::Lists;
use neighbours::Neighbours;
use reads::Reads;
use routes::{Routes, Undelivered};
use stability::Stability;
use uploads::Uploads;
use watches::{STEPS, Watches};

/// Engine and what surrounds it on the pinned thread.
pub(crate) struct Core {
    pub(crate) engine: Engine,
    pub(crate) routes: Routes,
    pub(crate) callers: Callers,
    /// Assignments that were never sent and go back to the queue, by their worker.
    undelivered: BTreeMap<WorkerId, Undelivered>,
    pub(crate) watches: Watches,
    pub(crate) lists: Lists,
    pub(crate) uploads: Uploads,
    pub(crate) reads: Reads,
    pub(crate) held_outputs: HeldOutputs,
    spill: Rc<SpillJobs>,
    pub(crate) stability: Stability,
    pub(crate) journal: Option<Journal>,
    pub(crate) limits: Limits,
    pub(crate) durable_by_default: bool,
    /// How long the key of a submission is remembered that does not say.
    pub(crate) key_ttl: Duration,
    pub(crate) info: DaemonInfo,
    pub(crate) started: Now,
    /// Streams that wait for the stop beside what their peer sends, by their number.
    stop_wakers: BTreeMap<u64, Waker>,
    last_stop_waker: u64,
    is_stopping: bool,
    epoch: u64,
    is_superseded: bool,
    origin_ns: u64,
    clock: Arc<dyn Clock>,
    moment: Moment,
    wake: Arc<Notify>,
    age: Age,
    expiry: Expiry,
    neighbours: Neighbours,
}

/// What the clocks said when they were first asked since the core was entered: whoever enters it for a thousand
/// tasks asks once.
#[derive(Debug, Default)]
struct Moment {
    now: Cell<Option<Now>>,
    unix_ms: Cell<Option<u64>>,
}

impl Moment {
    fn pass(&self) {
        self.now.set(None);
        self.unix_ms.set(None);
    }
}

fn ask_once<T: Copy>(known: &Cell<Option<T>>, ask: impl FnOnce() -> T) -> T {
    known.get().unwrap_or_else(|| {
        let answer = ask();
        known.set(Some(answer));
        answer
    })
}

/// What the core is given beside the engine.
pub(crate) struct CoreParts {
    pub(crate) limits: Limits,
    /// Whether a task that does not ask is journalled.
    pub(crate) durable_by_default: bool,
    pub(crate) key_ttl: Duration,
    pub(crate) info: DaemonInfo,
    pub(crate) clock: Arc<dyn Clock>,
    /// The way to the spill thread.
    pub(crate) spill: SpillJobs,
    /// The instance's lock file, where local processes hold their bytes; none for a private segment.
    pub(crate) lock_file: Option<PathBuf>,
    /// Wakes the duty cycle.
    pub(crate) wake: Arc<Notify>,
}

impl Core {
    /// Puts the parts together.
    pub(crate) fn new(engine: Engine, parts: CoreParts, journal: Option<Journal>) -> Self {
        let CoreParts {
            limits,
            durable_by_default,
            key_ttl,
            info,
            clock,
            spill,
            lock_file,
            wake,
        } = parts;
        let origin_ns = engine.segment().header().origin_ns;
        let slots = usize::try_from(engine.segment().geometry().tasks()).unwrap_or(usize::MAX);
        let spill = Rc::new(spill);
        let watches_max = slots.saturating_mul(2).max(1 << 16);
        Self {
            routes: Routes::default(),
            callers: Callers::new(engine.config().share_rule),
            undelivered: BTreeMap::new(),
            lists: Lists::default(),
            watches: Watches::new(slots, watches_max, engine.config().share_rule),
            stability: Stability::starting_at(engine.durable_lsn()),
            journal,
            uploads: Uploads::new(
                engine.segment().spill().clone(),
                Rc::clone(&spill),
                limits.uploads,
                engine.config().share_rule,
            ),
            reads: Reads::new(Rc::clone(&spill)),
            held_outputs: HeldOutputs::default(),
            spill,
            limits,
            durable_by_default,
            key_ttl,
            info,
            started: now_since(&*clock, origin_ns),
            age: Age::default(),
            expiry: Expiry::default(),
            neighbours: Neighbours::new(lock_file.as_deref(), now_since(&*clock, origin_ns)),
            stop_wakers: BTreeMap::new(),
            last_stop_waker: 0,
            is_stopping: false,
            epoch: engine.segment().epoch(),
            is_superseded: false,
            origin_ns,
            clock,
            moment: Moment::default(),
            wake,
            engine,
        }
    }

    /// The time of the segment, the same for as long as the core is entered.
    pub(crate) fn now(&self) -> Now {
        ask_once(&self.moment.now, || self.now_exactly())
    }

    fn now_exactly(&self) -> Now {
        now_since(&*self.clock, self.origin_ns)
    }

    /// Counts that each of so many took as long as the core has been entered by now.
    pub(crate) fn count_entry(&self, stage: Stage, times: usize) {
        let now = self.now();
        let ns = self.now_exactly().since_ns(now);
        let times = u64::try_from(times).unwrap_or(u64::MAX);
        if times > 0 {
            self.engine.count_stage(now, stage, Took { ns, times });
        }
    }

    /// Milliseconds since 1970-01-01 UTC, for people and for what must keep its meaning over a reboot; the same for as
    /// long as the core is entered.
    pub(crate) fn unix_ms(&self) -> u64 {
        ask_once(&self.moment.unix_ms, || self.clock.wall_ns() / 1_000_000)
    }

    /// The segment.
    pub(crate) fn segment(&self) -> &Segment {
        self.engine.segment()
    }

    /// Whether another daemon has raised the segment's epoch: then this one touches nothing more.
    pub(crate) fn is_superseded(&self) -> bool {
        self.is_superseded
    }

    /// Whether the daemon is stopping; then streams say so and end.
    pub(crate) fn is_stopping(&self) -> bool {
        self.is_stopping
    }

    /// No more tasks are taken; every stream is woken to say so.
    pub(crate) fn begin_stop(&mut self) {
        self.is_stopping = true;
        self.engine.stop_intake();
        self.routes.wake_all();
        self.watches.wake_all();
    }

    /// Goes on with what a call has left to be done, a bounded number of steps of each kind. Returns how many it took.
    fn tend(&mut self) -> u64 {
        let mut steps = self.watches.tend().saturating_add(self.stability.tend());
        steps = steps.saturating_add(self.lists.tend());
        steps = steps.saturating_add(self.routes.tend());
        if self.is_stopping {
            steps = steps.saturating_add(self.wake_for_stop());
        }
        u64::try_from(steps).unwrap_or(u64::MAX)
    }

    fn wake_for_stop(&mut self) -> usize {
        for step in 0..STEPS {
            match self.stop_wakers.pop_first() {
                Some((_, waker)) => waker.wake(),
                None => return step,
            }
        }
        STEPS
    }

    /// One turn: the engine decides, its effects go to the streams. Returns how much was done.
    fn turn(&mut self) -> u64 {
        let now = self.now();
        self.is_superseded |= self.engine.segment().epoch() != self.epoch;
        if self.is_over() {
            // Nothing is decided any more; those who wait are still told.
            return self.tend();
        }
        self.engine.segment().set_daemon_beat(now.stamp());
        self.engine.set_wall(now, self.unix_ms());
        self.age.look(now);
        self.expiry.look(now, self.engine.segment().counters());
        self.neighbours.look(&mut self.engine, now);
        let mut work = self.tend_undelivered(now);
        work = work.saturating_add(self.engine.cycle(now).get());
        while let Some(effect) = self.engine.pop_effect() {
            work = work.saturating_add(1);
            self.route(effect);
        }
        while let Some(attach) = self.engine.pop_lane_to_ring() {
            self.engine.segment().ring_lane(attach);
        }
        work = work.saturating_add(self.tend());
        self.uploads.expire(now);
        self.remove_lost_files();
        let took = self.now_exactly().since_ns(now);
        self.note_turn(Duration::from_nanos(took));
        if work > 0 {
            self.engine
                .count_stage(now, Stage::Decide, Took::once(took));
        }
        self.kick_journal();
        work
    }

    /// Has the spill thread remove some files that nobody refers to any more. The rest comes when that is done.
    fn remove_lost_files(&mut self) {
        if self.spill.is_removing() {
            return;
        }
        let files = self.lost_files(REMOVED_AT_ONCE);
        if !files.is_empty() {
            self.spill.remove(files);
        }
    }

    /// The spill thread has done something.
    pub(crate) fn spill_done(&mut self, done: Done) {
        match done {
            Done::Upload(key, answer) => self.uploads.done(key, answer),
            Done::Read(key, answer) => self.reads.done(key, answer),
            Done::Removed => self.spill.removed(),
        }
        self.remove_lost_files();
    }

    /// The end: what nobody needs any more is removed by the spill thread, which ends then. What tasks have left is the next daemon's
    /// to judge where that has the segment already.
    pub(crate) fn end(mut self) {
        self.uploads.give_up_all();
        let count = if self.is_superseded { 0 } else { usize::MAX };
        let left = std::iter::from_fn(|| self.engine.pop_lost_file()).take(count);
        let mut files: Vec<BlobRef> = left.collect();
        files.extend(std::iter::from_fn(|| self.uploads.pop_lost_file()));
        self.spill.remove_last(files);
    }

    fn lost_files(&mut self, count: usize) -> Vec<BlobRef> {
        let next = || {
            let left = self.engine.pop_lost_file();
            left.or_else(|| self.uploads.pop_lost_file())
        };
        std::iter::from_fn(next).take(count).collect()
    }

    /// Whether the engine must not turn any more: another daemon has the segment, or the journal has failed.
    pub(crate) fn is_over(&self) -> bool {
        self.is_superseded || self.journal_failure().is_some()
    }

    /// Brings effects to their streams before the next turn when many calls have come since the last one, so that the
    /// queue of the engine never grows beyond what it was made for.
    fn relieve(&mut self) {
        if self.engine.is_crowded() && !self.is_over() {
            while let Some(effect) = self.engine.pop_effect() {
                self.route(effect);
            }
        }
    }

    fn route(&mut self, effect: Effect) {
        if let Effect::Finished { task, phase } = effect {
            self.watches.finished(task, phase);
        } else if self.route_to_caller(effect) {
            // It has no streams.
        } else if let Some((worker, task, attempt)) = self.routes.route(effect) {
            self.void_credits(worker, VecDeque::from([(0, (task, attempt))]));
        }
    }

    /// Brings an effect to a worker that calls. False if it is for another.
    fn route_to_caller(&mut self, effect: Effect) -> bool {
        match effect {
            Effect::Dispatch {
                worker,
                task,
                attempt,
            } => {
                let is_placed = self.callers.place(worker, (task, attempt));
                if is_placed == Some(false) {
                    let waiting = self.undelivered.entry(worker).or_default();
                    waiting.push_back((0, (task, attempt)));
                }
                is_placed.is_some()
            }
            Effect::Evict { worker } | Effect::Drain { worker } => {
                let Some(address) = self.callers.address(worker) else {
                    return false;
                };
                let drains = matches!(effect, Effect::Drain { .. });
                if !drains {
                    tracing::warn!(%worker, address, "worker lost");
                }
                self.callers.end_calls(worker, drains);
                true
            }
            // It hears of stops when it asks.
            Effect::Stop { worker, .. } | Effect::Probe { worker, .. } => {
                self.callers.address(worker).is_some()
            }
            Effect::Finished { .. } => false,
        }
    }

    /// A call of `Reserve` has ended: its credits are void, and what it was not answered with goes back, in the turns that follow.
    pub(crate) fn end_call(&mut self, worker: WorkerId, key: CallKey) {
        let Some(left) = self.callers.close(worker, key) else {
            return;
        };
        let now = self.now();
        self.engine.reserve_ended(now, worker, left.room);
        if !left.placed.is_empty() {
            let waiting = self.undelivered.entry(worker).or_default();
            waiting.extend(left.placed.into_iter().map(|placed| (0, placed)));
        }
    }

    /// A worker has no dispatch stream (any more): its credits are void, and what was assigned to it but
    /// never sent goes back to the queue, in the turns that follow.
    pub(crate) fn void_credits(&mut self, worker: WorkerId, mut undelivered: Undelivered) {
        let now = self.now();
        if let Err(error) = self.engine.worker_credits(now, worker, 0, true) {
            tracing::debug!(%worker, %error, "no credits to void");
        }
        if !undelivered.is_empty() {
            let waiting = self.undelivered.entry(worker).or_default();
            waiting.append(&mut undelivered);
        }
    }

    /// The engine itself takes back what the worker does not hold.
    pub(crate) fn forget_undelivered(&mut self, worker: WorkerId) {
        self.undelivered.remove(&worker);
    }

    /// Gives back some assignments that were never sent. Returns how many.
    fn tend_undelivered(&mut self, now: Now) -> u64 {
        for step in 0..STEPS {
            let Some(mut first) = self.undelivered.first_entry() else {
                return u64::try_from(step).unwrap_or(u64::MAX);
            };
            let worker = *first.key();
            let next = first.get_mut().pop_front();
            if first.get().is_empty() {
                first.remove();
            }
            if let Some((_, (task, attempt))) = next {
                let attempt = attempt.into();
                let asked = TaskRef { task, attempt };
                self.engine.dispatch_undelivered(now, worker, asked);
            }
        }
        u64::try_from(STEPS).unwrap_or(u64::MAX)
    }

    fn next_deadline(&self) -> Option<Now> {
        let deadlines = [self.engine.next_deadline(), self.uploads.next_expiry()];
        deadlines.into_iter().flatten().min()
    }
}

/// The time of a segment with this origin.
pub(crate) fn now_since(clock: &dyn Clock, origin_ns: u64) -> Now {
    qtf_shm::time::since_origin(clock.monotonic_ns(), origin_ns)
}

/// A stream's place among those that are woken when the daemon begins to stop; given back when dropped.
#[derive(Debug, Default)]
pub(crate) struct StopPlace(Option<u64>);

impl StopPlace {
    /// Whether the daemon is stopping, or gone from this thread. If not, the stream is woken when it is.
    pub(crate) fn is_stopping(&mut self, cx: &Context<'_>) -> bool {
        let waker = cx.waker();
        let is_stopping = attend(|core| {
            if core.is_stopping {
                return true;
            }
            let number = *self.0.get_or_insert_with(|| {
                core.last_stop_waker = core.last_stop_waker.saturating_add(1);
                core.last_stop_waker
            });
            core.stop_wakers
                .entry(number)
                .or_insert_with(|| waker.clone())
                .clone_from(waker);
            false
        });
        is_stopping.unwrap_or(true)
    }
}

impl Drop for StopPlace {
    fn drop(&mut self) {
        if let Some(number) = self.0 {
            attend(|core| core.stop_wakers.remove(&number));
        }
    }
}

/// A core over a small segment in this process's memory, with neither journal nor sockets.
#[cfg(test)]
pub(crate) fn test_core(folder: &std::path::Path) -> Core {
    let mut spec = qtf_shm::SegmentSpec::new("test", folder.join("spill"));
    spec.geometry = qtf_shm::Geometry::for_counts(10_000, 50).unwrap();
    let segment = Arc::new(Segment::in_process(&spec));
    let engine = Engine::new(
        segment,
        qtf_engine::EngineConfig::default(),
        Now::from_ns(1),
    )
    .unwrap();
    let settings = crate::config::Settings::private();
    let store = engine.segment().spill().clone();
    let (spill, _) = crate::spill::thread::start(store, settings.limits.uploads, None).unwrap();
    let parts = CoreParts {
        limits: settings.limits,
        durable_by_default: false,
        key_ttl: settings.key_ttl,
        info: DaemonInfo {
            instance: "test".to_owned(),
            shm_id: -1,
            segment_bytes: 0,
            segment_shortage: None,
            task_slots: 10_000,
            worker_slots: 50,
            segment_is_private: true,
            core: None,
            edge_threads: 0,
            descriptors: crate::descriptors::Descriptors::share_out(1_024, &settings.limits, 50, 0),
            network: "none",
            start: info::StartKind::Fresh,
            journal: None,
            addresses: Vec::new(),
        },
        clock: Arc::clone(&settings.clock),
        spill,
        lock_file: None,
        wake: Arc::new(Notify::new()),
    };
    Core::new(engine, parts, None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use qtf_shm::TaskId;

    #[test]
    fn assignments_that_were_never_sent_go_back_a_bounded_number_a_turn() {
        let folder = tempfile::tempdir().unwrap();
        let mut core = test_core(folder.path());
        let worker = |slot: u64| WorkerId::from_raw((1 << 16) | slot).unwrap();
        for slot in 0..3 {
            let assignments = (1..=1_000).map(|number| {
                let task = TaskId::from_raw((number << 24) | slot).unwrap();
                (number, (task, 1))
            });
            core.void_credits(worker(slot), assignments.collect());
        }
        let left = |core: &Core| core.undelivered.values().map(VecDeque::len).sum::<usize>();
        assert_eq!(left(&core), 3_000, "the call itself gives nothing back");
        core.forget_undelivered(worker(1));
        assert_eq!(left(&core), 2_000);
        let mut turns = 0;
        while left(&core) > 0 {
            let before = left(&core);
            assert!(core.turn() > 0, "so that the next turn comes at once");
            assert!(before - left(&core) <= STEPS);
            turns += 1;
        }
        assert_eq!(turns, 2);
        assert!(core.undelivered.is_empty());
    }
}
