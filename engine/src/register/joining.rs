//! How a worker joins: hello and welcome, for new workers and for those that come back.
//!
//! A worker that comes back names the id and token of its welcome, the segment, and what it holds.
//! If all of that is right it keeps its id; what it holds and still owns goes on, what it no longer
//! owns it is told to abandon, and what the segment says it owns but it does not hold goes back to
//! the queue. For the last part a pass of the sweep is needed; the worker gets nothing new before
//! it is over, so that "holds" and "was just sent" cannot be mistaken for each other. Credits start
//! over at 0: the worker grants them on its new dispatch stream. Attempts that are to stop, and a drain, are told
//! again: nobody knows what of the earlier session arrived. Tested in
//! `engine/tests/rules/joining.rs`.

use qtf_shm::{
    AttachIndex, Counter, KindSet, Segment, TaskId, WorkerEvent, WorkerFields, WorkerId,
    WorkerIndex,
};

use super::pace::Pace;
use super::workers::{APPLY_TRIES_MAX, Workers, apply};
use crate::lookup::{TaskRef, find, is_held_by, is_to_be_told};
use crate::rejection::{Detail, RejectReason, Rejection};
use crate::turn::Turn;

/// LIMIT: the name field of the slot holds 63 bytes.
const NAME_BYTES_MAX: usize = 63;
/// LIMIT: entries of the segment's table of kinds.
const KINDS_MAX: usize = qtf_shm::id::KINDS_COUNT as usize;
/// LIMIT: what the largest worker runs, and as many results that it has not delivered yet.
const HELD_MAX: usize = 2 * 65_535;

/// A worker introduces itself. Fields are as they came from the wire.
#[derive(Debug, Clone, Copy)]
pub struct WorkerHello<'a> {
    /// 1 to 63 bytes; need not be unique.
    pub name: &'a str,
    /// Node name.
    pub host: &'a str,
    /// Process id on that node.
    pub pid: u32,
    /// The user at the other end of a Unix socket; `None` over TCP.
    pub uid: Option<u32>,
    /// Tasks it takes at most; 1 to 65535.
    pub capacity: u32,
    /// Kinds of tasks it can run; at least one.
    pub kinds: &'a [String],
    /// Set when it was welcomed before.
    pub reconnect: Option<Reconnect>,
    /// What it holds from before.
    pub held: &'a [Held],
}

/// What an earlier welcome said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reconnect {
    /// Raw worker id.
    pub worker_id: u64,
    /// Its secret.
    pub token: u64,
    /// The segment it worked for.
    pub segment_id: u64,
}

/// A task that a worker holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// Raw id of the task.
    pub task_id: u64,
    /// Number of the attempt.
    pub attempt: u32,
    /// Its result is still to be delivered.
    pub finished: bool,
}

/// The answer to a hello.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerWelcome {
    /// The worker's id; it has a new incarnation unless the worker has come back.
    pub id: WorkerId,
    /// Its secret; never 0.
    pub token: u64,
    /// What it holds and no longer owns: places in the `held` of its hello.
    pub abandon: Vec<Held>,
    /// It came back and keeps its id.
    pub is_known: bool,
}

/// What a worker offers, checked.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Offer {
    /// Tasks at once.
    pub(crate) capacity: u16,
    /// Kinds it runs.
    pub(crate) kinds: KindSet,
}

impl Workers {
    /// Registers a worker, or takes one back that was here before.
    pub(crate) fn hello(
        &mut self,
        turn: &mut Turn<'_>,
        hello: &WorkerHello<'_>,
        offer: Offer,
    ) -> Result<WorkerWelcome, Rejection> {
        if let Some(worker) = self.known(turn, hello.reconnect) {
            return Ok(self.take_back(turn, worker, hello, offer));
        }
        // Local processes join as workers too: the slot is ours before it is filled in.
        let worker = self.join_slot(turn)?;
        let Offer { capacity, kinds } = offer;
        let token = self.rng.u64(1..);
        let slot = turn.write_worker(worker);
        slot.fill(&WorkerFields {
            name: hello.name,
            host: hello.host,
            pid: hello.pid,
            uid: hello.uid.unwrap_or(u32::MAX),
            token,
            kinds,
            registered: turn.now.stamp(),
        });
        apply(&slot, WorkerEvent::Open { capacity });
        self.note_used(worker);
        let note = &mut self.notes[worker.position()];
        note.sent = turn.now;
        note.arrival = None;
        note.pace = Pace::default();
        note.in_time = Vec::new();
        self.forget_caller(worker);
        self.renew_lease(turn, worker);
        self.refresh(turn.segment, worker);
        turn.segment.counters().add(Counter::WorkerJoined, 1);
        Ok(WorkerWelcome {
            id: turn.worker_id(worker),
            token,
            abandon: hello.held.to_vec(),
            is_known: false,
        })
    }

    /// The slot of a worker that was here before and still is believed in.
    fn known(&self, turn: &Turn<'_>, reconnect: Option<Reconnect>) -> Option<WorkerIndex> {
        let reconnect = reconnect?;
        if reconnect.segment_id != turn.segment.header().segment_id {
            return None;
        }
        let id = WorkerId::from_raw(reconnect.worker_id)?;
        let worker = self.serving(turn.segment, id).ok()?;
        if self.is_caller(worker) {
            // It has no streams to come back on, and its credits are lent to its calls.
            return None;
        }
        let token = turn.segment.worker(worker).token();
        (token == reconnect.token && token != 0).then_some(worker)
    }

    fn take_back(
        &mut self,
        turn: &mut Turn<'_>,
        worker: WorkerIndex,
        hello: &WorkerHello<'_>,
        offer: Offer,
    ) -> WorkerWelcome {
        let Offer { capacity, kinds } = offer;
        let slot = turn.write_worker(worker);
        apply(&slot, WorkerEvent::Resize { capacity });
        slot.set_kinds(kinds);
        slot.set_credits(0);
        self.notes[worker.position()].arrival = None;
        self.seen(turn, worker);
        let mut held = Vec::new();
        let mut abandon = Vec::new();
        let mut ended = Vec::new();
        for &one in hello.held {
            match own(turn, worker, one) {
                Some(task) => {
                    held.push(task);
                    ended.extend(one.finished.then_some(TaskRef {
                        task,
                        attempt: one.attempt,
                    }));
                }
                None => abandon.push(one),
            }
        }
        self.reconcile(turn, worker, held);
        self.came_with(worker, ended);
        turn.segment.counters().add(Counter::WorkerReturned, 1);
        if !cfg!(qtf_mutant = "sim_drain_is_told_once") {
            self.tell_drain(turn, worker);
        }
        WorkerWelcome {
            id: turn.worker_id(worker),
            token: slot.token(),
            abandon,
            is_known: true,
        }
    }

    /// Has everything taken back from a worker that is not among what it holds.
    pub(super) fn reconcile(
        &mut self,
        turn: &mut Turn<'_>,
        worker: WorkerIndex,
        mut held: Vec<TaskId>,
    ) {
        held.sort_unstable();
        // A hello may name a task many times.
        held.dedup();
        held.shrink_to_fit();
        let note = &mut self.notes[worker.position()];
        note.held = Some(held);
        note.is_concluded = false;
        let was_waiting = note.reconciled_after.replace(turn.sweep.request());
        if was_waiting.is_none() {
            self.waiting = self.waiting.saturating_add(1);
        }
        self.refresh(turn.segment, worker);
    }

    fn join_slot(&mut self, turn: &Turn<'_>) -> Result<WorkerIndex, Rejection> {
        let join = WorkerEvent::Join {
            attach: AttachIndex::DAEMON,
        };
        for _ in 0..APPLY_TRIES_MAX {
            let Some(worker) = self.free_slot(turn.segment) else {
                break;
            };
            let slot = turn.write_worker(worker);
            if slot.apply(slot.state(), join).is_ok() {
                return Ok(worker);
            }
        }
        Err(self.full())
    }

    /// Says whether a worker that introduces itself finds a slot: its own, or a free one.
    pub(crate) fn check_room(
        &mut self,
        turn: &Turn<'_>,
        hello: &WorkerHello<'_>,
    ) -> Result<(), Rejection> {
        let is_known = self.known(turn, hello.reconnect).is_some();
        if is_known || self.free_slot(turn.segment).is_some() {
            Ok(())
        } else {
            Err(self.full())
        }
    }

    fn full(&self) -> Rejection {
        let count = u64::try_from(self.notes.len()).unwrap_or(u64::MAX);
        let what = "worker slots";
        Rejection::for_now(RejectReason::WorkersFull, Detail::Full { what, count })
    }
}

/// Says whether this worker still owns this attempt.
pub(super) fn is_own(segment: &Segment, worker: WorkerIndex, held: Held) -> bool {
    let Some(task) = TaskId::from_raw(held.task_id) else {
        return false;
    };
    segment.slot(task.slot().get()).is_some_and(|slot| {
        let state = segment.task(slot).state();
        state.is_of(task) && is_held_by(state, worker, held.attempt)
    })
}

/// The task, if this worker still owns this attempt of it.
fn own(turn: &Turn<'_>, worker: WorkerIndex, held: Held) -> Option<TaskId> {
    let task = TaskId::from_raw(held.task_id)?;
    let (_, state) = find(turn.segment, task).ok()?;
    if !is_held_by(state, worker, held.attempt) {
        return None;
    }
    if is_to_be_told(turn.segment, state) && !cfg!(qtf_mutant = "sim_stop_is_told_once") {
        // In the next cycle: a hello may name more attempts than a call may cause effects.
        turn.set_timer(task.slot(), state, turn.now);
    }
    Some(task)
}

/// Checks how many attempts a worker names.
pub(crate) fn check_held(held: &[Held]) -> Result<(), Rejection> {
    if held.len() <= HELD_MAX {
        return Ok(());
    }
    Err(Rejection::range(
        "number of held tasks",
        u64::try_from(held.len()).unwrap_or(u64::MAX),
        0,
        u64::try_from(HELD_MAX).unwrap_or(u64::MAX),
    ))
}

/// Checks the fields that need no look at the segment; returns the capacity.
pub(crate) fn check_hello(hello: &WorkerHello<'_>) -> Result<u16, Rejection> {
    if hello.name.is_empty() || hello.name.len() > NAME_BYTES_MAX {
        return Err(Rejection::invalid(
            "worker name must have 1 to 63 bytes: give the worker a name",
        ));
    }
    if hello.kinds.is_empty() || hello.kinds.len() > KINDS_MAX {
        return Err(Rejection::range(
            "number of kinds",
            u64::try_from(hello.kinds.len()).unwrap_or(u64::MAX),
            1,
            u64::from(qtf_shm::id::KINDS_COUNT),
        ));
    }
    check_held(hello.held)?;
    let out_of_range = Rejection::range("capacity", u64::from(hello.capacity), 1, 65_535);
    match u16::try_from(hello.capacity) {
        Ok(0) | Err(_) => Err(out_of_range),
        Ok(capacity) => Ok(capacity),
    }
}
