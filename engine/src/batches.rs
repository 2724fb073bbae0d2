//! Batches of calls: what one message says, with one look at who says it and at the clock.
//!
//! Each entry is answered as its own call would be, in order, and a bad one leaves the others alone. The tasks that a batch names are
//! known before it comes to them, so memory is asked for a few entries ahead. A batch has at most as many entries as a message: the
//! queue of effects has room for those. Tested in `engine/tests/rules/batches.rs`.

use qtf_shm::{ClientIndex, Counter, Now, Segment, TaskId, WorkerId};

use crate::cycle::Engine;
use crate::lookup::TaskRef;
use crate::plm::{Accepted, Answer, ResultAnswer};
use crate::plm::{Disposition, Fence, ResultReport, Submission};
use crate::rejection::Rejection;

/// How many entries ahead memory is asked for: what a few calls take is what memory takes.
const AHEAD: usize = 8;

/// Who makes the calls of a batch, and when.
#[derive(Debug, Clone, Copy)]
pub struct Caller<Who> {
    /// The moment of all of them.
    pub now: Now,
    /// A client or a worker.
    pub who: Who,
}

impl Engine {
    /// Takes tasks of one client in, whatever client they name; see [`Engine::submit`].
    #[expect(
        single_use_lifetimes,
        reason = "an iterator of borrowed submissions cannot be written without a name for what it borrows"
    )]
    pub fn submit_batch<'s>(
        &mut self,
        caller: Caller<ClientIndex>,
        submissions: impl IntoIterator<Item = Submission<'s>>,
        mut answer: impl FnMut(Result<Accepted, Rejection>),
    ) {
        let mut parts = self.parts(caller.now);
        let client = caller.who;
        let mut is_settled = true;
        for submission in submissions {
            let submission = Submission {
                client,
                ..submission
            };
            let answered = parts.plm.submit(&mut parts.turn, &submission);
            is_settled &= answered.is_ok_and(|accepted| !accepted.is_repeat);
            answer(answered);
            if answered.is_err() && cfg!(qtf_mutant = "sim_refusal_ends_its_batch") {
                break;
            }
        }
        if !is_settled {
            // It may have been opened for these submissions.
            let turn = parts.turn;
            turn.clients.settle(turn.segment, client);
        }
    }

    /// A worker has begun attempts; see [`Engine::task_started`].
    pub fn started_batch(
        &mut self,
        caller: Caller<WorkerId>,
        started: impl Iterator<Item = TaskRef> + Clone,
    ) {
        let mut parts = self.parts(caller.now);
        let Ok(worker) = parts.workers.serving(parts.turn.segment, caller.who) else {
            return;
        };
        parts.workers.heard_of(&mut parts.turn, worker);
        let mut ahead = Ahead::of(parts.turn.segment, started.clone().map(|next| next.task));
        for asked in started {
            ahead.step();
            let fence = Fence { worker, asked };
            if !parts.plm.started(&mut parts.turn, parts.workers, fence) {
                parts.turn.stop_stale(caller.who, asked);
            }
        }
    }

    /// A worker has ended attempts; see [`Engine::task_result`].
    pub fn results_batch(
        &mut self,
        caller: Caller<WorkerId>,
        results: &[(TaskRef, ResultReport<'_>)],
        mut answer: impl FnMut(ResultAnswer),
    ) {
        let mut parts = self.parts(caller.now);
        let Ok(worker) = parts.workers.serving(parts.turn.segment, caller.who) else {
            let count = u64::try_from(results.len()).unwrap_or(u64::MAX);
            let counters = parts.turn.segment.counters();
            counters.add(Counter::ResultStale, count);
            for _ in results {
                answer(ResultAnswer::at_once(Disposition::Stale));
            }
            return;
        };
        if !results.is_empty() {
            parts.workers.heard_of(&mut parts.turn, worker);
        }
        let named = results.iter().map(|(asked, _)| asked.task);
        let mut ahead = Ahead::of(parts.turn.segment, named);
        for &(asked, ref report) in results {
            ahead.step();
            let fence = Fence { worker, asked };
            let (turn, workers) = (&mut parts.turn, &mut *parts.workers);
            answer(parts.plm.ended(turn, workers, fence, report));
        }
    }

    /// Acknowledges results; see [`Engine::forget`].
    pub fn forget_batch(
        &mut self,
        now: Now,
        tasks: impl Iterator<Item = TaskId> + Clone,
        mut answer: impl FnMut(TaskId, Result<Answer, Rejection>),
    ) {
        let mut parts = self.parts(now);
        let mut ahead = Ahead::of(parts.turn.segment, tasks.clone());
        for task in tasks {
            ahead.step();
            answer(task, parts.plm.forget(&mut parts.turn, task));
        }
    }
}

/// Asks for the memory of a batch's tasks before they are served.
struct Ahead<'s, Tasks> {
    segment: &'s Segment,
    tasks: Tasks,
}

impl<'s, Tasks: Iterator<Item = TaskId>> Ahead<'s, Tasks> {
    fn of(segment: &'s Segment, tasks: Tasks) -> Self {
        let mut ahead = Self { segment, tasks };
        for _ in 0..AHEAD {
            ahead.step();
        }
        ahead
    }

    /// One more.
    #[inline]
    fn step(&mut self) {
        if let Some(task) = self.tasks.next() {
            self.segment.fetch_ahead(task.slot());
        }
    }
}
