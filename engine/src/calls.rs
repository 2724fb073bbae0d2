//! The calls from outside: each checks who asks, and hands on to the role that decides.
//!
//! Every call is bounded and causes two effects at most. Tested in `engine/tests/rules/`.

use qtf_shm::{
    AttachIndex, ClientIndex, Counter, KindIndex, KindSet, Now, StateWord, TaskId, WorkerId,
};

use crate::clients::{ClientHello, ClientSession};
use crate::cycle::Engine;
use crate::lookup::{AttemptSpec, TaskRef, attempt_spec};
use crate::plm::{Accepted, Answer, ResultAnswer};
use crate::plm::{Disposition, Fence, Namer, ResultReport, Submission};
use crate::principal::Principal;
use crate::register::{Beat, Holding, Offer, WorkerHello, WorkerWelcome, check_held, check_hello};
use crate::rejection::Rejection;

/// What clients ask.
impl Engine {
    /// Takes a task in, or answers the repeat of a known key with the first task.
    ///
    /// # Errors
    /// A field is out of range, something is full, or the daemon stops. Nothing is left behind.
    #[inline]
    pub fn submit(&mut self, now: Now, submission: &Submission<'_>) -> Result<Accepted, Rejection> {
        let mut parts = self.parts(now);
        let answer = parts.plm.submit(&mut parts.turn, submission);
        if !answer.is_ok_and(|accepted| !accepted.is_repeat) {
            // It may have been opened for this submission.
            let turn = parts.turn;
            turn.clients.settle(turn.segment, submission.client);
        }
        answer
    }

    /// Cancels a task: a waiting one at once, a running one by asking its worker to stop it.
    /// The answer names the phase after the call.
    ///
    /// # Errors
    /// The task is not known, or has ended.
    pub fn cancel(&mut self, now: Now, task: TaskId) -> Result<Answer, Rejection> {
        let mut parts = self.parts(now);
        parts.plm.cancel(&mut parts.turn, parts.workers, task)
    }

    /// Changes the priority of a waiting task; its place in the order of submission stays. Returns
    /// its phase.
    ///
    /// # Errors
    /// The task is not known or does not wait, or the priority is above 255.
    pub fn update_priority(
        &mut self,
        now: Now,
        task: TaskId,
        priority: u32,
    ) -> Result<Answer, Rejection> {
        let parts = self.parts(now);
        parts.plm.update_priority(&parts.turn, task, priority)
    }

    /// Keeps a waiting task from being started until it is released or cancelled. One that is held stays so. The answer names
    /// the phase after the call.
    ///
    /// # Errors
    /// The task is not known, or does not wait: a worker has it, or it has ended.
    pub fn hold(&mut self, now: Now, task: TaskId) -> Result<Answer, Rejection> {
        let parts = self.parts(now);
        parts.plm.hold(&parts.turn, task)
    }

    /// Releases a held task: it is READY at its old place in the order, or DELAYED if its start is later. A task that is not held
    /// stays as it is. The answer names the phase after the call.
    ///
    /// # Errors
    /// The task is not known, or has ended; or the journal does not have it yet.
    pub fn release(&mut self, now: Now, task: TaskId) -> Result<Answer, Rejection> {
        let parts = self.parts(now);
        parts.plm.release_held(&parts.turn, task)
    }

    /// Acknowledges the result of a task that has ended, or purges a dead letter, and frees its slot. The
    /// answer names the phase it was in.
    ///
    /// # Errors
    /// The task is not known, or has not ended.
    pub fn forget(&mut self, now: Now, task: TaskId) -> Result<Answer, Rejection> {
        let mut parts = self.parts(now);
        parts.plm.forget(&mut parts.turn, task)
    }

    /// Gives a dead letter new attempts: it becomes READY at its old place in the order, its losses start over,
    /// its attempts count on.
    ///
    /// # Errors
    /// The task is not known or is no dead letter, or its attempts are used up.
    pub fn revive(&mut self, now: Now, task: TaskId) -> Result<Answer, Rejection> {
        let mut parts = self.parts(now);
        parts.plm.revive(&mut parts.turn, task)
    }

    /// Some worker offers this kind. A parked task whose kind is offered waits for room in the journal.
    #[must_use]
    pub fn is_offered(&self, kind: KindIndex) -> bool {
        self.workers.is_offered(kind)
    }

    /// The state of a task.
    ///
    /// # Errors
    /// The task is not known, or its slot belongs to a later one.
    pub fn check(&self, task: TaskId) -> Result<StateWord, Rejection> {
        self.plm.find(&self.segment, task).map(|(_, state)| state)
    }

    /// Opens a client's session. Each call counts a connection, which [`Engine::client_closed`]
    /// takes back.
    ///
    /// # Errors
    /// The name is empty or too long.
    pub fn client_hello(
        &mut self,
        now: Now,
        hello: &ClientHello<'_>,
    ) -> Result<ClientSession, Rejection> {
        let parts = self.parts(now);
        let turn = parts.turn;
        let session = turn.clients.hello(turn.segment, parts.rng, now, hello);
        turn.clients.ask_for_pass(turn.sweep);
        session
    }

    /// The record for a call without a session: the common one of its principal. To be used at once: it is given back when nothing
    /// holds it.
    pub fn client_for(&mut self, now: Now, principal: Principal) -> ClientIndex {
        let turn = self.parts(now).turn;
        turn.clients.common(turn.segment, now, principal)
    }

    /// For whom the tasks of a client were submitted.
    #[must_use]
    pub fn principal_of(&self, client: ClientIndex) -> Principal {
        self.clients.principal(client)
    }

    /// A client's heartbeat.
    pub fn client_beat(&mut self, now: Now, client: ClientIndex) {
        self.clients.beat(&self.segment, now, client);
    }

    /// A connection of a client is gone; its tasks go on.
    pub fn client_closed(&mut self, _now: Now, client: ClientIndex) {
        self.clients.closed(&self.segment, client);
    }

    /// The client behind a session's token.
    ///
    /// # Errors
    /// The token is not known.
    pub fn client_of(&self, token: u64) -> Result<ClientIndex, Rejection> {
        self.clients.of_token(token)
    }
}

/// What workers say.
impl Engine {
    /// A worker introduces itself, anew or again.
    ///
    /// # Errors
    /// A field is out of range, or all worker slots or kinds are in use.
    pub fn worker_hello(
        &mut self,
        now: Now,
        hello: &WorkerHello<'_>,
    ) -> Result<WorkerWelcome, Rejection> {
        let mut parts = self.parts(now);
        let capacity = check_hello(hello)?;
        let segment = parts.turn.segment;
        parts.plm.check_kinds(segment, hello.kinds, Namer::Worker)?;
        parts.workers.check_room(&parts.turn, hello)?;
        let mut kinds = KindSet::EMPTY;
        for name in hello.kinds {
            let kind = parts
                .plm
                .intern_kind(parts.turn.segment, name, Namer::Worker)?;
            kinds.insert(kind);
        }
        parts
            .workers
            .hello(&mut parts.turn, hello, Offer { capacity, kinds })
    }

    /// Checks what a worker shows on its other streams.
    ///
    /// # Errors
    /// No such worker, or the token is not its own.
    pub fn check_worker(&self, worker_id: u64, token: u64) -> Result<WorkerId, Rejection> {
        let refused = Rejection::unknown_worker(worker_id);
        let id = WorkerId::from_raw(worker_id).ok_or(refused)?;
        let worker = self.workers.serving(&self.segment, id)?;
        if token != 0 && self.segment.worker(worker).token() == token {
            Ok(id)
        } else {
            Err(refused)
        }
    }

    /// A worker's heartbeat. Results of the same report are to be handed in before it. Returns how many attempts were given to
    /// it and are not held by its own word: they go to others, each counted as lost with it.
    ///
    /// # Errors
    /// The worker is not known any more: it must register anew. Or it names more attempts than a worker can have.
    pub fn worker_beat(
        &mut self,
        now: Now,
        worker: WorkerId,
        beat: &Beat<'_>,
    ) -> Result<u32, Rejection> {
        let mut parts = self.parts(now);
        let index = parts.workers.serving(parts.turn.segment, worker)?;
        if let Holding::Named(named) = beat.holding {
            check_held(named)?;
        }
        Ok(parts.workers.beat(&mut parts.turn, index, beat))
    }

    /// A worker grants credits; `restart` voids all that it granted before.
    ///
    /// # Errors
    /// The worker is not known any more.
    pub fn worker_credits(
        &mut self,
        now: Now,
        worker: WorkerId,
        credits: u32,
        restart: bool,
    ) -> Result<(), Rejection> {
        let parts = self.parts(now);
        let index = parts.workers.serving(parts.turn.segment, worker)?;
        parts.workers.grant(&parts.turn, index, credits, restart);
        Ok(())
    }

    /// A worker answers a probe.
    pub fn probe_answered(&mut self, now: Now, worker: WorkerId, nonce: u64) {
        let mut parts = self.parts(now);
        if let Ok(index) = parts.workers.serving(parts.turn.segment, worker) {
            parts.workers.answered(&mut parts.turn, index, nonce);
        }
    }

    /// A worker has begun an attempt. If it is no longer the worker's (it was long on its way, and was taken back meanwhile), the worker
    /// is told to stop it.
    pub fn task_started(&mut self, now: Now, id: WorkerId, asked: TaskRef) {
        let mut parts = self.parts(now);
        if let Ok(worker) = parts.workers.serving(parts.turn.segment, id) {
            parts.workers.heard_of(&mut parts.turn, worker);
            let fence = Fence { worker, asked };
            if !parts.plm.started(&mut parts.turn, parts.workers, fence) {
                parts.turn.stop_stale(id, asked);
            }
        }
    }

    /// A worker has ended an attempt.
    pub fn task_result(
        &mut self,
        now: Now,
        worker: WorkerId,
        asked: TaskRef,
        report: &ResultReport<'_>,
    ) -> ResultAnswer {
        let mut parts = self.parts(now);
        let Ok(worker) = parts.workers.serving(parts.turn.segment, worker) else {
            parts.turn.segment.counters().add(Counter::ResultStale, 1);
            return ResultAnswer::at_once(Disposition::Stale);
        };
        parts.workers.heard_of(&mut parts.turn, worker);
        let fence = Fence { worker, asked };
        parts
            .plm
            .ended(&mut parts.turn, parts.workers, fence, report)
    }

    /// An assignment could not be sent: it goes back to the queue, counting against nobody. Returns
    /// whether it did.
    pub fn dispatch_undelivered(&mut self, now: Now, worker: WorkerId, asked: TaskRef) -> bool {
        let mut parts = self.parts(now);
        let Ok(worker) = parts.workers.serving(parts.turn.segment, worker) else {
            return false;
        };
        parts
            .plm
            .undelivered(&mut parts.turn, parts.workers, Fence { worker, asked })
    }

    /// What to send to a worker for an attempt that it holds.
    ///
    /// # Errors
    /// The worker or the task is not known, or the worker does not hold this attempt (any more).
    pub fn payload_for(&self, worker: WorkerId, asked: TaskRef) -> Result<AttemptSpec, Rejection> {
        let worker = self.workers.serving(&self.segment, worker)?;
        attempt_spec(&self.segment, worker, asked)
    }

    /// A worker leaves in order; what it holds goes back to the queue, counting against nobody.
    pub fn worker_goodbye(&mut self, now: Now, worker: WorkerId) {
        let mut parts = self.parts(now);
        if let Ok(index) = parts.workers.serving(parts.turn.segment, worker) {
            parts.workers.leave(&mut parts.turn, index);
        }
    }

    /// The kernel says that a worker's process is dead.
    pub fn worker_gone(&mut self, now: Now, worker: WorkerId) {
        let mut parts = self.parts(now);
        if let Ok(index) = parts.workers.serving(parts.turn.segment, worker) {
            parts.workers.lose(&mut parts.turn, index);
        }
    }

    /// A local process is dead, by the kernel's word: its claims are given back, what it submitted is judged, what its
    /// workers held goes to others, and then its attach record is free again.
    pub fn attach_gone(&mut self, now: Now, attach: AttachIndex) {
        let mut parts = self.parts(now);
        if parts
            .departed
            .add(parts.turn.segment, parts.turn.sweep, attach)
        {
            parts.workers.lose_local(&mut parts.turn, attach);
        }
    }

    /// An operator wants a worker to take no more tasks and to leave. Incarnation 0 means whichever
    /// is in the slot now. Asking again is no error, and tells it again.
    ///
    /// # Errors
    /// The worker is not known.
    pub fn drain_worker(&mut self, now: Now, worker: WorkerId) -> Result<(), Rejection> {
        let mut parts = self.parts(now);
        let index = parts
            .workers
            .serving_or_current(parts.turn.segment, worker)?;
        parts.workers.begin_drain(&parts.turn, index);
        parts.workers.tell_drain(&mut parts.turn, index);
        Ok(())
    }

    /// An operator gives a worker up: it is lost at once, what it holds goes back or is judged as of any lost worker, and it is
    /// told to register anew. Incarnation 0 means whichever is in the slot now.
    ///
    /// # Errors
    /// The worker is not known, or it is a local process, of whose life the kernel tells.
    pub fn evict_worker(&mut self, now: Now, worker: WorkerId) -> Result<(), Rejection> {
        let mut parts = self.parts(now);
        let index = parts
            .workers
            .serving_or_current(parts.turn.segment, worker)?;
        if parts.turn.segment.worker(index).local().is_some() {
            return Err(Rejection::invalid(
                "this is a local worker, which has the segment open, so only its own end takes its tasks from it: end the process",
            ));
        }
        parts.workers.lose(&mut parts.turn, index);
        Ok(())
    }
}
