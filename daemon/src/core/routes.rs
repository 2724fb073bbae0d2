//! What waits to be sent to each worker, and who sends it.
//!
//! The engine gives credits their due, so what waits for one worker is bounded by its capacity; only ids
//! wait, the data is read from the segment when the stream is polled. Credits are a stream's: when it ends
//! or is replaced, the assignments that it has not sent are given back to whoever ends it, for the
//! engine's queue. Stops wait for the next stream, over a new hello too: what they are about may go on there. The
//! engine says them again and again; here each waits once. Whether an assignment is still the worker's the sender
//! asks the engine for each.
//!
//! Invariants:
//! - I1: a route belongs to one worker id; a hello of the slot's next tenant replaces it.
//! - I2: at most one dispatch stream and one session serve a route, the latest; an earlier one ends.
//! - I3: no call takes longer because more orders wait, or because there are more workers: what is for all of them is done by
//!   [`Routes::tend`], at most [`STEPS`] a turn.
//!
//! Tested at the end of this file.

use std::collections::{HashSet, VecDeque};
use std::task::Waker;

use qtf_engine::{Effect, StopReason};
use qtf_shm::{TaskId, WorkerId};

use super::verdicts::{VERDICTS_MAX, Verdicts};
use super::watches::STEPS;

/// LIMIT: stops may come on top of assignments; beyond this the worker is hopeless and loses orders. The engine takes
/// assignments back and says stops again.
const ORDERS_MAX: usize = 1 << 18;

/// Names one stream; later ones have higher numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct StreamKey(u64);

/// One thing that a worker is to be told on its dispatch stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    /// Run this attempt.
    Assign { task: TaskId, attempt: u16 },
    /// Stop this attempt.
    Stop {
        task: TaskId,
        attempt: u16,
        reason: StopReason,
    },
    /// Say that you live.
    Probe { nonce: u64 },
}

/// What a worker is to be told on its session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Notices {
    pub(crate) evicted: bool,
    pub(crate) drain: bool,
}

/// The streams of one worker and what waits for them.
#[derive(Debug)]
pub(crate) struct WorkerRoute {
    pub(crate) id: WorkerId,
    pub(crate) token: u64,
    /// Where it is, for lists.
    pub(crate) address: String,
    /// What waits, each with its place in the order in which it came.
    assignments: Undelivered,
    stop_orders: VecDeque<(u64, (TaskId, u16, StopReason))>,
    probe: Option<(u64, u64)>,
    last_order: u64,
    /// The attempts for which a stop is among the orders.
    stops: HashSet<(TaskId, u16, StopReason)>,
    notices: Notices,
    /// They wait for a task that goes to the worker, or for their time.
    verdicts: Verdicts,
    dispatch: Option<(StreamKey, Option<Waker>)>,
    session: Option<(StreamKey, Option<Waker>)>,
    /// Ends the watch over the worker's process when dropped.
    process_watch: Option<ProcessWatch>,
}

/// A task that waits for the end of the worker's process; ended when this is dropped.
#[derive(Debug)]
pub(crate) struct ProcessWatch(pub(crate) tokio::task::AbortHandle);

impl Drop for ProcessWatch {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// All routes, by worker slot.
#[derive(Debug, Default)]
pub(crate) struct Routes {
    workers: Vec<Option<Box<WorkerRoute>>>,
    last_key: u64,
    /// The next worker whose streams are to look again, while all are being woken.
    waking: Option<usize>,
}

/// Assignments that were never sent, in their order.
pub(crate) type Undelivered = VecDeque<(u64, (TaskId, u16))>;

impl Routes {
    /// A name for a new stream.
    pub(crate) fn next_key(&mut self) -> StreamKey {
        self.last_key = self.last_key.saturating_add(1);
        StreamKey(self.last_key)
    }

    /// The route of a worker, if it has one.
    pub(crate) fn get(&self, id: WorkerId) -> Option<&WorkerRoute> {
        self.workers
            .get(id.slot().position())?
            .as_deref()
            .filter(|route| route.id == id)
    }

    fn get_mut(&mut self, id: WorkerId) -> Option<&mut WorkerRoute> {
        let route = self.workers.get_mut(id.slot().position())?.as_deref_mut();
        route.filter(|route| route.id == id)
    }

    /// A worker said hello on the session `key`; an earlier session of it ends.
    pub(crate) fn open_session(
        &mut self,
        id: WorkerId,
        token: u64,
        address: String,
        key: StreamKey,
    ) {
        if let Some(route) = self.get_mut(id) {
            route.token = token;
            route.address = address;
            route.notices = Notices::default();
            // Results are reported again over a new session.
            route.verdicts = Verdicts::default();
            // Assignments that waited were never sent: the engine takes them back, as the worker does not hold them. A
            // hello is the answer to a probe.
            route.assignments = VecDeque::new();
            route.probe = None;
            route.process_watch = None;
            if let Some((_, Some(waker))) = route.session.replace((key, None)) {
                waker.wake();
            }
            return;
        }
        let position = id.slot().position();
        if self.workers.len() <= position {
            self.workers
                .resize_with(position.saturating_add(1), || None);
        }
        let route = WorkerRoute {
            id,
            token,
            address,
            assignments: VecDeque::new(),
            stop_orders: VecDeque::new(),
            probe: None,
            last_order: 0,
            stops: HashSet::new(),
            notices: Notices::default(),
            verdicts: Verdicts::default(),
            dispatch: None,
            session: Some((key, None)),
            process_watch: None,
        };
        if let Some(mut replaced) = self.workers[position].replace(Box::new(route)) {
            replaced.wake_both();
        }
    }

    /// The worker's process is watched by this from now on.
    pub(crate) fn watch_process(&mut self, id: WorkerId, watch: ProcessWatch) {
        if let Some(route) = self.get_mut(id) {
            route.process_watch = Some(watch);
        }
    }

    /// Workers whose processes are watched.
    pub(crate) fn watched_processes(&self) -> usize {
        let routes = self.workers.iter().flatten();
        routes.filter(|route| route.process_watch.is_some()).count()
    }

    /// A dispatch stream for a worker; an earlier one of it ends, and what that had not assigned yet comes
    /// back. `None` when the token is wrong.
    pub(crate) fn open_dispatch(
        &mut self,
        id: WorkerId,
        token: u64,
        key: StreamKey,
    ) -> Option<Undelivered> {
        let route = self.get_mut(id).filter(|route| route.token == token)?;
        if let Some((_, Some(waker))) = route.dispatch.replace((key, None)) {
            waker.wake();
        }
        Some(std::mem::take(&mut route.assignments))
    }

    /// Whether some worker has this token.
    pub(crate) fn knows_token(&self, token: u64) -> bool {
        self.workers
            .iter()
            .flatten()
            .any(|route| route.token == token)
    }

    /// Takes the next order for the dispatch stream `key`.
    pub(crate) fn next_order(&mut self, id: WorkerId, key: StreamKey) -> Option<Order> {
        let route = self.get_mut(id)?;
        if route.dispatch.as_ref()?.0 != key {
            return None;
        }
        let order = route.pop_order()?;
        if let Order::Stop {
            task,
            attempt,
            reason,
        } = order
        {
            route.stops.remove(&(task, attempt, reason));
        }
        Some(order)
    }

    /// Whether the dispatch stream `key` is still the one of its worker.
    pub(crate) fn is_dispatch(&self, id: WorkerId, key: StreamKey) -> bool {
        self.get(id)
            .and_then(|route| route.dispatch.as_ref())
            .is_some_and(|(now, _)| *now == key)
    }

    /// Whether the session `key` is still the one of its worker.
    pub(crate) fn is_session(&self, id: WorkerId, key: StreamKey) -> bool {
        self.get(id)
            .and_then(|route| route.session.as_ref())
            .is_some_and(|(now, _)| *now == key)
    }

    /// Takes what the session `key` is to say.
    pub(crate) fn take_notices(&mut self, id: WorkerId) -> Notices {
        self.get_mut(id)
            .map(|route| std::mem::take(&mut route.notices))
            .unwrap_or_default()
    }

    /// Has verdicts wait for what else goes to the worker. True if there are so many that they are not to wait.
    pub(crate) fn keep_verdicts(&mut self, id: WorkerId, verdicts: &mut Verdicts) -> bool {
        self.get_mut(id).is_none_or(|route| {
            route.verdicts.append(verdicts);
            route.verdicts.len() >= VERDICTS_MAX
        })
    }

    /// Whether verdicts wait.
    pub(crate) fn has_verdicts(&self, id: WorkerId) -> bool {
        self.get(id).is_some_and(|route| !route.verdicts.is_empty())
    }

    /// Takes the verdicts that wait, for whichever stream goes first.
    pub(crate) fn take_verdicts(&mut self, id: WorkerId) -> Verdicts {
        self.get_mut(id)
            .map(|route| std::mem::take(&mut route.verdicts))
            .unwrap_or_default()
    }

    /// Whether the worker has a dispatch stream.
    pub(crate) fn has_dispatch(&self, id: WorkerId) -> bool {
        self.get(id).is_some_and(|route| route.dispatch.is_some())
    }

    /// The dispatch stream `key` waits.
    pub(crate) fn keep_dispatch_waker(&mut self, id: WorkerId, key: StreamKey, waker: &Waker) {
        if let Some(slot) = self.get_mut(id).and_then(|route| route.dispatch.as_mut()) {
            keep_waker(slot, key, waker);
        }
    }

    /// The session `key` waits.
    pub(crate) fn keep_session_waker(&mut self, id: WorkerId, key: StreamKey, waker: &Waker) {
        if let Some(slot) = self.get_mut(id).and_then(|route| route.session.as_mut()) {
            keep_waker(slot, key, waker);
        }
    }

    /// The dispatch stream `key` is gone. If it was the one of its worker, the assignments that it had not
    /// sent come back; its credits are void then.
    pub(crate) fn close_dispatch(&mut self, id: WorkerId, key: StreamKey) -> Option<Undelivered> {
        let route = self.get_mut(id)?;
        route.dispatch.take_if(|(now, _)| *now == key)?;
        Some(std::mem::take(&mut route.assignments))
    }

    /// The session `key` is gone. True if it was the one of its worker.
    pub(crate) fn close_session(&mut self, id: WorkerId, key: StreamKey) -> bool {
        let Some(route) = self.get_mut(id) else {
            return false;
        };
        route.session.take_if(|(now, _)| *now == key).is_some()
    }

    /// The worker is no more: its route goes, its streams end.
    pub(crate) fn forget(&mut self, id: WorkerId) {
        if self.get(id).is_some()
            && let Some(mut route) = self.workers[id.slot().position()].take()
        {
            route.wake_both();
        }
    }

    /// Every stream looks again, in the turns that follow.
    pub(crate) fn wake_all(&mut self) {
        self.waking = Some(0);
    }

    /// Goes on with waking everybody, a bounded number of workers. Returns how many.
    pub(crate) fn tend(&mut self) -> usize {
        let Some(from) = self.waking else {
            return 0;
        };
        let until = from.saturating_add(STEPS).min(self.workers.len());
        for route in self
            .workers
            .get_mut(from..until)
            .into_iter()
            .flatten()
            .flatten()
        {
            route.wake_both();
        }
        self.waking = (until < self.workers.len()).then_some(until);
        until.saturating_sub(from)
    }

    /// Brings an effect to the worker that it is for. An assignment that no stream can take comes back.
    pub(crate) fn route(&mut self, effect: Effect) -> Option<(WorkerId, TaskId, u16)> {
        match effect {
            Effect::Dispatch {
                worker,
                task,
                attempt,
            } => {
                if !self.has_dispatch(worker)
                    || !self.order(worker, Order::Assign { task, attempt })
                {
                    return Some((worker, task, attempt));
                }
            }
            Effect::Stop {
                worker,
                task,
                attempt,
                reason,
            } => {
                self.order(
                    worker,
                    Order::Stop {
                        task,
                        attempt,
                        reason,
                    },
                );
            }
            Effect::Probe { worker, nonce } => {
                self.order(worker, Order::Probe { nonce });
            }
            Effect::Evict { worker } => {
                if let Some(route) = self.get_mut(worker) {
                    tracing::warn!(%worker, address = route.address, "worker lost");
                    route.assignments = VecDeque::new();
                    route.stop_orders = VecDeque::new();
                    route.probe = None;
                    route.stops.clear();
                    route.notices.evicted = true;
                    // It may be stopped for ever; nobody waits for its end any more.
                    route.process_watch = None;
                    route.wake_both();
                }
            }
            Effect::Drain { worker } => {
                if let Some(route) = self.get_mut(worker) {
                    route.notices.drain = true;
                    wake(&mut route.session);
                }
            }
            Effect::Finished { .. } => {}
        }
        None
    }

    /// Whether the order now waits to be sent.
    fn order(&mut self, worker: WorkerId, order: Order) -> bool {
        let Some(route) = self.get_mut(worker) else {
            tracing::debug!(%worker, ?order, "no route to this worker");
            return false;
        };
        if route
            .stop_orders
            .len()
            .saturating_add(route.assignments.len())
            >= ORDERS_MAX
        {
            tracing::debug!(%worker, ?order, "too much waits for this worker");
            return false;
        }
        let waits_already = match order {
            Order::Stop {
                task,
                attempt,
                reason,
            } => !route.stops.insert((task, attempt, reason)),
            Order::Assign { .. } | Order::Probe { .. } => false,
        };
        if !waits_already {
            route.push_order(order);
        }
        wake(&mut route.dispatch);
        true
    }
}

impl WorkerRoute {
    fn push_order(&mut self, order: Order) {
        self.last_order = self.last_order.saturating_add(1);
        let place = self.last_order;
        match order {
            Order::Assign { task, attempt } => {
                self.assignments.push_back((place, (task, attempt)));
            }
            Order::Stop {
                task,
                attempt,
                reason,
            } => self.stop_orders.push_back((place, (task, attempt, reason))),
            // The answer to an earlier one would be too late.
            Order::Probe { nonce } => self.probe = Some((place, nonce)),
        }
    }

    /// The order that came first.
    fn pop_order(&mut self) -> Option<Order> {
        let assign = self.assignments.front().map(|(place, _)| *place);
        let stop = self.stop_orders.front().map(|(place, _)| *place);
        let probe = self.probe.map(|(place, _)| place);
        let first = [assign, stop, probe].into_iter().flatten().min();
        if first.is_some() && first == probe {
            let (_, nonce) = self.probe.take()?;
            return Some(Order::Probe { nonce });
        }
        if first.is_some() && first == stop {
            let (_, (task, attempt, reason)) = self.stop_orders.pop_front()?;
            return Some(Order::Stop {
                task,
                attempt,
                reason,
            });
        }
        let (_, (task, attempt)) = self.assignments.pop_front()?;
        Some(Order::Assign { task, attempt })
    }

    fn wake_both(&mut self) {
        wake(&mut self.dispatch);
        wake(&mut self.session);
    }
}

/// Has a stream look again, once however much comes: it leaves its waker anew when it has looked and waits.
fn wake(stream: &mut Option<(StreamKey, Option<Waker>)>) {
    if let Some((_, waker)) = stream
        && let Some(waker) = waker.take()
    {
        waker.wake();
    }
}

fn keep_waker(slot: &mut (StreamKey, Option<Waker>), key: StreamKey, waker: &Waker) {
    if slot.0 != key {
        return;
    }
    match &mut slot.1 {
        Some(known) => known.clone_from(waker),
        none => *none = Some(waker.clone()),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, mpsc};
    use std::task::Wake;

    use super::*;

    fn worker(slot: u16, incarnation: u32) -> WorkerId {
        WorkerId::from_raw((u64::from(incarnation) << 16) | u64::from(slot)).unwrap()
    }

    fn dispatch(id: WorkerId) -> Effect {
        Effect::Dispatch {
            worker: id,
            task: TaskId::from_raw(1 << 24).unwrap(),
            attempt: 1,
        }
    }

    fn with_worker(id: WorkerId) -> (Routes, StreamKey) {
        let mut routes = Routes::default();
        let session = routes.next_key();
        routes.open_session(id, 7, "here".into(), session);
        let stream = routes.next_key();
        assert!(routes.open_dispatch(id, 7, stream).is_some());
        (routes, stream)
    }

    #[test]
    fn order_waits_for_the_stream_and_comes_out_once() {
        let id = worker(3, 1);
        let (mut routes, stream) = with_worker(id);
        routes.route(dispatch(id));
        assert!(matches!(
            routes.next_order(id, stream),
            Some(Order::Assign { attempt: 1, .. })
        ));
        assert_eq!(routes.next_order(id, stream), None);
    }

    #[test]
    fn assignment_that_a_stream_did_not_send_comes_back_when_it_ends_or_is_replaced() {
        let id = worker(3, 1);
        let (mut routes, first) = with_worker(id);
        assert_eq!(routes.route(dispatch(id)), None);
        let second = routes.next_key();
        assert_eq!(routes.open_dispatch(id, 7, second).unwrap().len(), 1);
        assert_eq!(
            routes.close_dispatch(id, first),
            None,
            "not the one of its worker"
        );
        assert_eq!(routes.route(dispatch(id)), None);
        assert_eq!(routes.close_dispatch(id, second).unwrap().len(), 1);
        assert!(
            routes.route(dispatch(id)).is_some(),
            "no stream can take this one"
        );
    }

    #[test]
    fn stop_waits_for_the_next_stream() {
        let id = worker(3, 1);
        let (mut routes, first) = with_worker(id);
        let stop = Effect::Stop {
            worker: id,
            task: TaskId::from_raw(1 << 24).unwrap(),
            attempt: 1,
            reason: StopReason::Cancelled,
        };
        routes.route(stop);
        routes.close_dispatch(id, first);
        let second = routes.next_key();
        assert_eq!(routes.open_dispatch(id, 7, second), Some(VecDeque::new()));
        assert!(matches!(
            routes.next_order(id, second),
            Some(Order::Stop { .. })
        ));
    }

    #[test]
    fn stop_outlives_a_new_hello_and_waits_once_however_often_it_is_said() {
        let id = worker(3, 1);
        let (mut routes, _) = with_worker(id);
        let stop = Effect::Stop {
            worker: id,
            task: TaskId::from_raw(1 << 24).unwrap(),
            attempt: 1,
            reason: StopReason::Cancelled,
        };
        routes.route(dispatch(id));
        routes.route(stop);
        routes.route(stop);
        let session = routes.next_key();
        routes.open_session(id, 7, "here".into(), session);
        routes.route(stop);
        let stream = routes.next_key();
        assert_eq!(routes.open_dispatch(id, 7, stream), Some(VecDeque::new()));
        for _ in 0..2 {
            assert!(matches!(
                routes.next_order(id, stream),
                Some(Order::Stop { .. })
            ));
            assert_eq!(routes.next_order(id, stream), None);
            routes.route(stop);
        }
    }

    #[test]
    fn next_tenant_of_a_slot_gets_nothing_of_the_one_before() {
        let old = worker(3, 1);
        let (mut routes, stream) = with_worker(old);
        routes.route(dispatch(old));
        let new = worker(3, 2);
        let session = routes.next_key();
        routes.open_session(new, 8, "there".into(), session);
        assert!(!routes.is_dispatch(old, stream));
        let stream = routes.next_key();
        assert!(
            routes.open_dispatch(new, 7, stream).is_none(),
            "the token of the tenant before"
        );
        assert!(routes.open_dispatch(new, 8, stream).is_some());
        assert_eq!(routes.next_order(new, stream), None);
        routes.route(dispatch(old));
        assert_eq!(routes.next_order(new, stream), None);
    }

    #[test]
    fn orders_of_all_kinds_come_out_in_the_order_they_came_in_and_a_probe_once() {
        let id = worker(3, 1);
        let (mut routes, stream) = with_worker(id);
        let task = |number: u64| TaskId::from_raw(number << 24).unwrap();
        let assign = |number| Effect::Dispatch {
            worker: id,
            task: task(number),
            attempt: 1,
        };
        let stop = |number| Effect::Stop {
            worker: id,
            task: task(number),
            attempt: 1,
            reason: StopReason::Cancelled,
        };
        let probe = |nonce| Effect::Probe { worker: id, nonce };
        for effect in [probe(1), assign(1), stop(1), assign(2), probe(2), stop(2)] {
            assert_eq!(routes.route(effect), None);
        }
        let mut told = String::new();
        while let Some(order) = routes.next_order(id, stream) {
            told.push_str(match order {
                Order::Assign { .. } => "a",
                Order::Stop { .. } => "s",
                Order::Probe { nonce } => {
                    assert_eq!(nonce, 2, "the answer to the earlier one would be too late");
                    "p"
                }
            });
        }
        assert_eq!(told, "asaps");
    }

    #[test]
    fn waking_all_workers_takes_a_bounded_number_of_steps_a_turn() {
        struct Woken(mpsc::Sender<()>);
        impl Wake for Woken {
            fn wake(self: Arc<Self>) {
                self.0.send(()).expect("somebody counts");
            }
        }
        let (woken, count) = mpsc::channel();
        let waker = Waker::from(Arc::new(Woken(woken)));
        let mut routes = Routes::default();
        for slot in 0..3_000 {
            let id = worker(slot, 1);
            let key = routes.next_key();
            routes.open_session(id, 7, String::new(), key);
            routes.keep_session_waker(id, key, &waker);
        }
        routes.wake_all();
        assert_eq!(count.try_iter().count(), 0, "the call itself wakes nobody");
        let mut turns = Vec::new();
        while routes.waking.is_some() {
            let steps = routes.tend();
            assert_eq!(count.try_iter().count(), steps);
            turns.push(steps);
        }
        assert_eq!(turns, [STEPS, STEPS, 3_000 - 2 * STEPS]);
    }

    #[test]
    fn evicted_worker_is_told_and_its_orders_are_gone() {
        let id = worker(1, 1);
        let (mut routes, stream) = with_worker(id);
        routes.route(dispatch(id));
        routes.route(Effect::Evict { worker: id });
        assert_eq!(routes.next_order(id, stream), None);
        assert!(routes.take_notices(id).evicted);
        assert!(!routes.take_notices(id).evicted, "told once");
    }
}
