//! Calls of workers that hold no streams (`Reserve`): who waits, and what has been placed for them.
//!
//! The engine lends a worker as many credits as its calls may take tasks; what it places goes to the first call of the worker that has room. Only
//! ids wait here. Invariants:
//! - I1: a call stands here from its beginning until it is dropped, whichever way it ends; what it was given and not answered with goes back then.
//! - I2: there are at most [`CALLS_MAX`] calls, and one principal leaves some to others.
//! - I3: an entry belongs to one worker id; one of the slot's next tenant replaces it.
//!
//! Tested at the end of this file and in `tests/daemon/work.rs`.

use std::collections::{BTreeMap, VecDeque};
use std::task::{Poll, Waker};

use qtf_engine::{Principal, ShareRule, ShareUsedUp, Usage};
use qtf_shm::{TaskId, WorkerId};

/// LIMIT: calls that wait at the same time, all workers together; a call costs some hundred bytes.
pub(crate) const CALLS_MAX: u64 = 16_384;

/// Names one call; later ones have higher numbers.
pub(crate) type CallKey = u64;

/// An attempt on its way to a call.
pub(crate) type Placed = (TaskId, u16);

/// All calls, by the slot of their worker.
#[derive(Debug)]
pub(crate) struct Callers {
    workers: Vec<Option<Box<Caller>>>,
    /// Calls of each principal that has one.
    held: BTreeMap<Principal, u64>,
    total: u64,
    last_key: CallKey,
    rule: ShareRule,
}

/// One worker that calls.
#[derive(Debug)]
struct Caller {
    id: WorkerId,
    /// Where its last call came from, for lists.
    address: String,
    calls: BTreeMap<CallKey, Call>,
}

/// One call.
#[derive(Debug)]
struct Call {
    principal: Principal,
    /// Tasks that it may still be given.
    room: u32,
    placed: VecDeque<Placed>,
    /// Nothing more comes: its worker is to leave, or is lost.
    is_over: bool,
    /// It is to leave.
    drains: bool,
    waker: Option<Waker>,
}

/// What is left of a call that has ended.
#[derive(Debug, Default)]
pub(crate) struct Left {
    /// What it was given and not answered with.
    pub(crate) placed: VecDeque<Placed>,
    /// Tasks that it was never given.
    pub(crate) room: u32,
}

impl Callers {
    /// No calls yet.
    pub(crate) fn new(rule: ShareRule) -> Self {
        Self {
            workers: Vec::new(),
            held: BTreeMap::new(),
            total: 0,
            last_key: 0,
            rule,
        }
    }

    /// Whether one more call of a principal may wait.
    pub(crate) fn check(&self, principal: Principal) -> Result<(), ShareUsedUp> {
        let held = self.held.get(&principal).copied().unwrap_or(0);
        let usage = Usage {
            held,
            used: self.total,
            size: CALLS_MAX,
        };
        if self.rule.allows(usage, 1) {
            return Ok(());
        }
        Err(ShareUsedUp {
            principal,
            held,
            size: CALLS_MAX,
            what: "calls of Reserve that wait",
            until: "call again when some of them have their answer",
        })
    }

    /// A call of a worker waits for so many tasks.
    pub(crate) fn open(
        &mut self,
        id: WorkerId,
        address: String,
        principal: Principal,
        count: u32,
    ) -> CallKey {
        let position = id.slot().position();
        if self.workers.len() <= position {
            self.workers
                .resize_with(position.saturating_add(1), || None);
        }
        let before = self.workers[position].take_if(|caller| caller.id != id);
        if let Some(before) = before {
            // Its calls were told when it left; they look and find nothing.
            before
                .calls
                .into_values()
                .for_each(|call| self.uncount(&call));
        }
        let caller = self.workers[position].get_or_insert_with(|| {
            Box::new(Caller {
                id,
                address: String::new(),
                calls: BTreeMap::new(),
            })
        });
        caller.address = address;
        self.last_key = self.last_key.saturating_add(1);
        let call = Call {
            principal,
            room: count,
            placed: VecDeque::new(),
            is_over: false,
            drains: false,
            waker: None,
        };
        caller.calls.insert(self.last_key, call);
        self.total = self.total.saturating_add(1);
        let held = self.held.entry(principal).or_default();
        *held = held.saturating_add(1);
        self.last_key
    }

    fn uncount(&mut self, call: &Call) {
        call.waker.iter().for_each(Waker::wake_by_ref);
        self.total = self.total.saturating_sub(1);
        if let Some(held) = self.held.get_mut(&call.principal) {
            *held = held.saturating_sub(1);
            if *held == 0 {
                self.held.remove(&call.principal);
            }
        }
    }

    fn get_mut(&mut self, id: WorkerId) -> Option<&mut Caller> {
        let caller = self.workers.get_mut(id.slot().position())?.as_deref_mut();
        caller.filter(|caller| caller.id == id)
    }

    /// Where the last call of a worker came from; `None` if it does not call.
    pub(crate) fn address(&self, id: WorkerId) -> Option<&str> {
        let caller = self.workers.get(id.slot().position())?.as_deref();
        caller
            .filter(|caller| caller.id == id)
            .map(|caller| &*caller.address)
    }

    /// Gives an attempt to the first call of its worker that has room. `None` if the worker does not call; else whether one had room.
    pub(crate) fn place(&mut self, id: WorkerId, placed: Placed) -> Option<bool> {
        let caller = self.get_mut(id)?;
        let call = caller
            .calls
            .values_mut()
            .find(|call| call.room > 0 && !call.is_over);
        Some(call.is_some_and(|call| {
            call.room = call.room.saturating_sub(1);
            call.placed.push_back(placed);
            call.waker.iter().for_each(Waker::wake_by_ref);
            true
        }))
    }

    /// A worker is to leave, or is lost: its calls end.
    pub(crate) fn end_calls(&mut self, id: WorkerId, drains: bool) {
        for call in self
            .get_mut(id)
            .into_iter()
            .flat_map(|caller| caller.calls.values_mut())
        {
            call.is_over = true;
            call.drains |= drains;
            call.waker.iter().for_each(Waker::wake_by_ref);
        }
    }

    /// Whether a call has something to be answered with, or nothing more to wait for. If not, it is woken when it has.
    pub(crate) fn poll(&mut self, id: WorkerId, key: CallKey, waker: &Waker) -> Poll<()> {
        let call = self
            .get_mut(id)
            .and_then(|caller| caller.calls.get_mut(&key));
        match call {
            Some(call) if call.placed.is_empty() && !call.is_over => {
                call.waker = Some(waker.clone());
                Poll::Pending
            }
            Some(_) | None => Poll::Ready(()),
        }
    }

    /// Whether the worker of a call is to leave.
    pub(crate) fn drains(&mut self, id: WorkerId, key: CallKey) -> bool {
        let call = self.get_mut(id).and_then(|caller| caller.calls.get(&key));
        call.is_some_and(|call| call.drains)
    }

    /// Takes the next attempt that a call is to be answered with.
    pub(crate) fn take(&mut self, id: WorkerId, key: CallKey) -> Option<Placed> {
        self.get_mut(id)?.calls.get_mut(&key)?.placed.pop_front()
    }

    /// A call has ended, with or without an answer.
    pub(crate) fn close(&mut self, id: WorkerId, key: CallKey) -> Option<Left> {
        let call = self.get_mut(id)?.calls.remove(&key)?;
        self.uncount(&call);
        Some(Left {
            placed: call.placed,
            room: call.room,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: Principal = Principal::Uid(1_000);

    fn worker(slot: u64, incarnation: u64) -> WorkerId {
        WorkerId::from_raw((incarnation << 16) | slot).unwrap()
    }

    fn attempt(number: u64) -> Placed {
        (TaskId::from_raw(number << 24).unwrap(), 1)
    }

    fn callers() -> Callers {
        Callers::new(ShareRule::Shared)
    }

    #[test]
    fn attempts_go_to_the_first_call_that_has_room_and_what_no_call_has_room_for_is_said() {
        let (mut callers, id) = (callers(), worker(3, 1));
        assert_eq!(callers.place(id, attempt(1)), None, "it does not call");
        let first = callers.open(id, "here".into(), HERE, 1);
        let second = callers.open(id, "here".into(), HERE, 2);
        for number in 1..=3 {
            assert_eq!(callers.place(id, attempt(number)), Some(true));
        }
        assert_eq!(callers.place(id, attempt(4)), Some(false));
        assert_eq!(callers.take(id, first), Some(attempt(1)));
        assert_eq!(callers.take(id, first), None);
        let left = callers.close(id, second).unwrap();
        assert_eq!(
            (left.placed, left.room),
            (VecDeque::from([attempt(2), attempt(3)]), 0)
        );
        assert!(callers.close(id, second).is_none());
        assert_eq!(callers.total, 1);
    }

    #[test]
    fn next_tenant_of_a_slot_gets_nothing_of_the_calls_before() {
        let (mut callers, old, new) = (callers(), worker(3, 1), worker(3, 2));
        let before = callers.open(old, "here".into(), HERE, 1);
        let now = callers.open(new, "there".into(), HERE, 1);
        assert_eq!(callers.place(old, attempt(1)), None);
        assert!(callers.poll(old, before, Waker::noop()).is_ready());
        assert!(callers.poll(new, now, Waker::noop()).is_pending());
        assert_eq!(
            (callers.address(old), callers.address(new)),
            (None, Some("there"))
        );
        assert!(callers.close(old, before).is_none());
        assert_eq!(callers.total, 1);
    }

    #[test]
    fn calls_of_a_worker_that_is_to_leave_end_and_are_given_nothing_more() {
        let (mut callers, id) = (callers(), worker(1, 1));
        let key = callers.open(id, "here".into(), HERE, 1);
        assert!(callers.poll(id, key, Waker::noop()).is_pending());
        callers.end_calls(id, false);
        assert!(callers.poll(id, key, Waker::noop()).is_ready());
        assert!(!callers.drains(id, key), "it is lost, and may call again");
        callers.end_calls(id, true);
        assert!(callers.drains(id, key));
        assert_eq!(callers.place(id, attempt(1)), Some(false));
    }

    #[test]
    fn principal_whose_calls_wait_leaves_some_to_others_and_hears_so() {
        let (mut callers, id) = (callers(), worker(1, 1));
        let mut keys = Vec::new();
        while callers.check(HERE).is_ok() {
            keys.push(callers.open(id, String::new(), HERE, 1));
        }
        let count = u64::try_from(keys.len()).unwrap();
        assert_eq!(count, CALLS_MAX / 32 * 31);
        assert!(
            callers
                .check(HERE)
                .unwrap_err()
                .to_string()
                .contains("uid 1000 holds")
        );
        assert!(callers.check(Principal::Uid(7)).is_ok());
        keys.into_iter()
            .for_each(|key| drop(callers.close(id, key)));
        assert_eq!((callers.total, callers.held.len()), (0, 0));
    }
}
