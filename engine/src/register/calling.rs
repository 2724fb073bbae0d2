//! Workers that call: they hold no streams, ask for tasks by single calls, and say nothing in between.
//!
//! A call is made for a principal, a name and kinds; calls of the same three are those of one worker, whose record begins with the first of them.
//! While a call waits, its worker has as many credits as the calls that wait may take tasks, so the scheduler places as for all others. What a call
//! is answered with counts as begun, and each attempt of it is the worker's for a lease of its own (`attempt_leases.rs`): one that is over
//! counts as a loss. The record has no lease that anybody renews: it stays while a call waits or an attempt has a lease, and [`REPEAT_NS`]
//! beyond (less where the leases were shorter), so that an end that is reported again gets the same answer. Then it leaves.
//!
//! Its kinds are on offer while a call waits and a heartbeat period beyond: who comes back at once finds its tasks READY, and the
//! tasks of one that stays away are parked and hold up no others.
//!
//! A daemon that takes the segment over knows these workers by a word of their slots, which says until when an attempt of theirs has a lease at
//! the latest. What they had begun is theirs until then; what no call was answered with goes back, counting against nobody.
//! Tested in `engine/tests/rules/calling.rs`.

use std::collections::BTreeSet;

use qtf_shm::{
    Counter, KindSet, Now, Owner, Phase, SlotIndex, StateWord, TaskId, WorkerEvent, WorkerId,
    WorkerIndex, WorkerPhase,
};

use super::attempt_leases::{AttemptLease, AttemptLeases};
use super::joining::{Offer, WorkerHello, check_hello};
use super::workers::{Workers, apply};
use crate::lookup::{TaskRef, serves};
use crate::principal::Principal;
use crate::rejection::{Detail, RejectReason, Rejection};
use crate::shares::{ShareUsedUp, Usage};
use crate::turn::Turn;
use crate::work_count::WorkCount;

/// LIMIT: how long a record without calls and attempts is kept, so that a repeated report finds its worker.
const REPEAT_NS: u64 = 60_000_000_000;

/// A worker asks for tasks. Fields are as they came from the wire.
#[derive(Debug, Clone, Copy)]
pub struct Reserve<'a> {
    /// For whom, by the word of the connection.
    pub principal: Principal,
    /// 1 to 63 bytes.
    pub name: &'a str,
    /// Node name.
    pub host: &'a str,
    /// Process id on that node; that of the first call stands in lists.
    pub pid: u32,
    /// Kinds of tasks it can run; at least one.
    pub kinds: &'a [String],
    /// Tasks it takes at most; 1 to 65535.
    pub count: u32,
    /// The caller's number for this call; 0 = none.
    pub request: u64,
}

/// What a call has come to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reserved {
    /// The worker of the call.
    pub id: WorkerId,
    /// Its secret; never 0.
    pub token: u64,
    /// It has been given this by a call of the same number, and holds it still. Such a call waits for nothing.
    pub again: Vec<TaskRef>,
    /// This is its first call.
    pub is_new: bool,
    /// It is to leave, and is given nothing. Such a call waits for nothing.
    pub drains: bool,
}

/// For how long an attempt is its caller's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Loan {
    /// How long without a word of it.
    pub lease_ns: u64,
    /// The caller's number of the call that is answered with the attempt ([`Reserve::request`]); `None` for a touch.
    pub request: Option<u64>,
}

impl Reserved {
    /// The call waits: its end is to be told by [`crate::Engine::reserve_ended`].
    #[must_use]
    pub fn waits(&self) -> bool {
        self.again.is_empty() && !self.drains
    }
}

/// What is remembered of one worker that calls.
#[derive(Debug)]
pub(super) struct Calling {
    principal: Principal,
    name: Box<str>,
    /// Calls that wait.
    calls: u32,
    /// Attempts that have a lease.
    leased: u32,
    /// Its kinds are on offer.
    pub(super) offers: bool,
    /// When they will not be any more.
    offers_end: Option<Now>,
}

/// Of all workers that call.
#[derive(Debug, Default)]
pub(super) struct Callers {
    pub(super) leases: AttemptLeases,
    /// When the kinds of those without a call go off offer.
    offers_end: BTreeSet<(Now, WorkerIndex)>,
}

impl Workers {
    /// Opens a call: finds the worker that it is of, or registers it, and lends it credits. `kinds` has a bit for each kind that it names.
    pub(crate) fn reserve(
        &mut self,
        turn: &mut Turn<'_>,
        reserve: &Reserve<'_>,
        count: u16,
        kinds: KindSet,
    ) -> Result<Reserved, Rejection> {
        let known = self.caller(turn, reserve, kinds);
        let worker = match known {
            Some(worker) => worker,
            None => self.register_caller(turn, reserve, kinds)?,
        };
        self.seen(turn, worker);
        let slot = turn.write_worker(worker);
        let again = match reserve.request {
            0 => Vec::new(),
            request => self.callers.leases.of_request(worker, request),
        };
        let reserved = Reserved {
            id: turn.worker_id(worker),
            token: slot.token(),
            again,
            is_new: known.is_none(),
            drains: slot.state().drains(),
        };
        if reserved.waits() {
            slot.set_credits(slot.credits().saturating_add(count.into()));
            self.resize_caller(turn, worker);
            if let Some(calling) = &mut self.notes[worker.position()].calling {
                calling.calls = calling.calls.saturating_add(1);
                calling.offers = true;
                if let Some(end) = calling.offers_end.take() {
                    self.callers.offers_end.remove(&(end, worker));
                }
            }
            self.refresh(turn.segment, worker);
        }
        Ok(reserved)
    }

    /// A call has ended, and so many of its credits are unused.
    pub(crate) fn reserve_ended(&mut self, turn: &mut Turn<'_>, worker: WorkerIndex, unused: u32) {
        let Some(calling) = &mut self.notes[worker.position()].calling else {
            return;
        };
        calling.calls = calling.calls.saturating_sub(1);
        if calling.calls == 0 && calling.offers_end.is_none() {
            let end = turn.now.plus_ns(turn.config.heartbeat_ns);
            calling.offers_end = Some(end);
            self.callers.offers_end.insert((end, worker));
        }
        let slot = turn.write_worker(worker);
        slot.set_credits(slot.credits().saturating_sub(unused));
        self.resize_caller(turn, worker);
        self.seen(turn, worker);
        self.refresh(turn.segment, worker);
    }

    /// An attempt that the worker holds is its own for so long from now on.
    pub(crate) fn lease_attempt(
        &mut self,
        turn: &mut Turn<'_>,
        task: TaskId,
        held: StateWord,
        loan: Loan,
    ) {
        let Owner::Worker(worker) = held.owner() else {
            return;
        };
        let attempt = held.fence();
        let known = self.callers.leases.get(task.slot());
        let known = known.filter(|lease| (lease.task, lease.attempt) == (task, attempt));
        let lease = AttemptLease {
            worker,
            task,
            attempt,
            end: turn.now.plus_ns(loan.lease_ns),
            request: loan
                .request
                .or(known.map(|lease| lease.request))
                .unwrap_or(0),
        };
        let slot = turn.write_worker(worker);
        slot.set_leased_until(slot.leased_until().max(lease.end.stamp()));
        self.note_lease(lease);
        self.seen(turn, worker);
    }

    fn note_lease(&mut self, lease: AttemptLease) {
        let before = self.callers.leases.set(lease);
        if let Some(before) = before {
            self.count_leased(before.worker, false);
        }
        self.count_leased(lease.worker, true);
    }

    fn count_leased(&mut self, worker: WorkerIndex, is_more: bool) {
        let note = self.notes.get_mut(worker.position());
        if let Some(calling) = note.and_then(|note| note.calling.as_mut()) {
            calling.leased = if is_more {
                calling.leased.saturating_add(1)
            } else {
                calling.leased.saturating_sub(1)
            };
        }
    }

    /// Nobody holds this slot's attempt any more.
    #[inline]
    pub(crate) fn attempt_is_over(&mut self, slot: SlotIndex) {
        if let Some(lease) = self.callers.leases.remove(slot) {
            self.count_leased(lease.worker, false);
        }
    }

    /// Takes the next attempt whose lease is over.
    pub(crate) fn pop_lease_over(&mut self, now: Now) -> Option<AttemptLease> {
        let lease = self.callers.leases.pop_over(now)?;
        self.count_leased(lease.worker, false);
        Some(lease)
    }

    /// The daemon did not listen for a while: whoever calls has as long as after any other sign of life.
    pub(crate) fn spare_attempts(&mut self, turn: &Turn<'_>) {
        let moment = turn.now.plus_ns(turn.config.lease_ns);
        self.callers.leases.spare_until(moment);
    }

    /// When something of a worker that calls is due: the lease of an attempt, or its kinds go off offer.
    pub(crate) fn next_of_callers(&self) -> Option<Now> {
        let offers_end = self.callers.offers_end.first().map(|(end, _)| *end);
        [self.callers.leases.next_end(), offers_end]
            .into_iter()
            .flatten()
            .min()
    }

    /// Takes kinds off offer whose workers have not called again.
    pub(crate) fn serve_offers_end(&mut self, turn: &Turn<'_>) -> WorkCount {
        let mut work = WorkCount::NONE;
        while let Some(&(end, worker)) = self.callers.offers_end.first() {
            if turn.now < end {
                break;
            }
            self.callers.offers_end.pop_first();
            if let Some(calling) = &mut self.notes[worker.position()].calling {
                calling.offers = false;
                calling.offers_end = None;
            }
            self.refresh(turn.segment, worker);
            work += WorkCount::ONE;
        }
        work
    }

    /// The lease of a worker that calls is over, which nobody was to renew: it stays as long as there is something of it.
    pub(super) fn caller_lease_over(&mut self, turn: &mut Turn<'_>, worker: WorkerIndex) {
        let Some(calling) = &self.notes[worker.position()].calling else {
            return;
        };
        if calling.calls > 0 || calling.leased > 0 {
            self.renew_lease(turn, worker);
        } else if turn.segment.worker(worker).state().running() > 0 {
            self.lose(turn, worker);
        } else {
            self.leave(turn, worker);
        }
    }

    /// When the lease of a worker that calls ends: as that of any other, and long enough for a report to be repeated.
    pub(super) fn caller_lease_end(&self, turn: &Turn<'_>, worker: WorkerIndex, end: Now) -> Now {
        if self.notes[worker.position()].calling.is_none() {
            return end;
        }
        let leased_until = Now::from_stamp(turn.segment.worker(worker).leased_until());
        end.max(leased_until.min(turn.now.plus_ns(REPEAT_NS)))
    }

    /// The capacity of a worker that calls is what it holds and may be given now.
    pub(super) fn resize_caller(&self, turn: &Turn<'_>, worker: WorkerIndex) {
        if self.notes[worker.position()].calling.is_none() {
            return;
        }
        let slot = turn.write_worker(worker);
        let most = u32::from(slot.state().running()).saturating_add(slot.credits());
        let capacity = u16::try_from(most).unwrap_or(u16::MAX).max(1);
        if slot.state().capacity() != capacity {
            apply(&slot, WorkerEvent::Resize { capacity });
        }
    }

    /// Says whether a worker calls, instead of holding streams.
    pub(crate) fn is_caller(&self, worker: WorkerIndex) -> bool {
        let note = self.notes.get(worker.position());
        note.is_some_and(|note| note.calling.is_some())
    }

    /// Says whether this is the secret of a worker that calls.
    pub(crate) fn is_caller_token(&self, turn_segment: &qtf_shm::Segment, token: u64) -> bool {
        self.indices().any(|worker| {
            let slot = turn_segment.worker(worker);
            self.is_caller(worker) && serves(slot.state()) && slot.token() == token
        })
    }

    /// What the segment says about a worker that called the daemon before.
    pub(super) fn adopt_caller(&mut self, turn: &Turn<'_>, worker: WorkerIndex) {
        let slot = turn.segment.worker(worker);
        if slot.leased_until() == 0 || !serves(slot.state()) {
            return;
        }
        let principal = match slot.uid() {
            u32::MAX => Principal::Unknown,
            uid => Principal::Uid(uid),
        };
        self.notes[worker.position()].calling = Some(Box::new(Calling {
            principal,
            name: slot.name().into(),
            calls: 0,
            leased: 0,
            offers: false,
            offers_end: None,
        }));
        self.resize_caller(turn, worker);
    }

    /// An attempt that the segment says a worker holds: if that calls, it gets a lease again. What it had not been answered with goes back
    /// with the next cycle.
    pub(crate) fn adopt_attempt(&mut self, turn: &Turn<'_>, slot: SlotIndex, held: StateWord) {
        let (Owner::Worker(worker), Some(task)) = (held.owner(), held.id(slot)) else {
            return;
        };
        if !self.is_caller(worker) {
            return;
        }
        let leased_until = Now::from_stamp(turn.segment.worker(worker).leased_until());
        let end = if held.phase() == Phase::Running {
            leased_until.max(turn.now.plus_ns(turn.config.lease_ns))
        } else {
            turn.now
        };
        self.note_lease(AttemptLease {
            worker,
            task,
            attempt: held.fence(),
            end,
            request: 0,
        });
    }

    fn caller(
        &self,
        turn: &Turn<'_>,
        reserve: &Reserve<'_>,
        kinds: KindSet,
    ) -> Option<WorkerIndex> {
        if reserve.principal == Principal::Unknown {
            return None;
        }
        self.indices().find(|&worker| {
            let slot = turn.segment.worker(worker);
            let calling = self.notes[worker.position()].calling.as_ref();
            calling.is_some_and(|calling| {
                calling.principal == reserve.principal && *calling.name == *reserve.name
            }) && slot.kinds() == kinds
                && serves(slot.state())
        })
    }

    fn register_caller(
        &mut self,
        turn: &mut Turn<'_>,
        reserve: &Reserve<'_>,
        kinds: KindSet,
    ) -> Result<WorkerIndex, Rejection> {
        self.check_caller_share(turn, reserve.principal)?;
        let hello = WorkerHello {
            name: reserve.name,
            host: reserve.host,
            pid: reserve.pid,
            uid: reserve.principal.uid(),
            capacity: 1,
            kinds: reserve.kinds,
            reconnect: None,
            held: &[],
        };
        let welcome = self.hello(turn, &hello, Offer { capacity: 1, kinds })?;
        let worker = welcome.id.slot();
        turn.write_worker(worker)
            .set_leased_until(turn.now.stamp().max(1));
        self.notes[worker.position()].calling = Some(Box::new(Calling {
            principal: reserve.principal,
            name: reserve.name.into(),
            calls: 0,
            leased: 0,
            offers: false,
            offers_end: None,
        }));
        self.refresh(turn.segment, worker);
        Ok(worker)
    }

    /// A principal that makes up names leaves worker slots to others.
    fn check_caller_share(&self, turn: &Turn<'_>, principal: Principal) -> Result<(), Rejection> {
        let is_in_use = |worker: &WorkerIndex| {
            turn.segment.worker(*worker).state().phase() != WorkerPhase::Free
        };
        let is_its_own = |worker: &WorkerIndex| {
            let calling = self.notes[worker.position()].calling.as_ref();
            calling.is_some_and(|calling| calling.principal == principal)
        };
        let count = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
        let used = count(self.all_indices().filter(is_in_use).count());
        let held = count(
            self.indices()
                .filter(|worker| is_in_use(worker) && is_its_own(worker))
                .count(),
        );
        let size = count(self.notes.len());
        if used >= size || turn.config.share_rule.allows(Usage { held, used, size }, 1) {
            // Whether all are in use the join finds out.
            return Ok(());
        }
        let used_up = ShareUsedUp {
            principal,
            held,
            size,
            what: "worker slots by workers that call",
            until: "call under fewer names, or wait until idle ones have left",
        };
        Err(Rejection::for_now(
            RejectReason::WorkersFull,
            Detail::Share(used_up),
        ))
    }

    /// The record is nobody's any more.
    pub(super) fn forget_caller(&mut self, worker: WorkerIndex) {
        if let Some(calling) = self.notes[worker.position()].calling.take()
            && let Some(end) = calling.offers_end
        {
            self.callers.offers_end.remove(&(end, worker));
        }
    }
}

/// Counts that the lease of an attempt was over.
pub(crate) fn count_lease_over(turn: &Turn<'_>) {
    let counters = turn.segment.counters();
    counters.add(Counter::TaskRequeued, 1);
    counters.add(Counter::AttemptLeaseOver, 1);
}

/// Checks the fields that need no look at the segment; returns the count.
pub(crate) fn check_reserve(reserve: &Reserve<'_>) -> Result<u16, Rejection> {
    check_hello(&WorkerHello {
        name: reserve.name,
        host: reserve.host,
        pid: reserve.pid,
        uid: None,
        capacity: reserve.count,
        kinds: reserve.kinds,
        reconnect: None,
        held: &[],
    })
}
