//! How attempts are started: what ends without waiting is called where the agent is, everything else is a task of its own.
//!
//! Invariants:
//! - B1: the agent calls handlers itself only where it would share its thread with them anyway. On a runtime with more threads a
//!   handler that computes holds up one of them, and not the agent.
//! - B2: while many are started the agent looks up again and again: what has ended is told, and orders are heard, before the last
//!   one has begun.
//!
//! Tested in `worker/tests/session`.

use core::time::Duration;
use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use qtf_proto::v1::{Assignment, Outcome, OutcomeKind};
use qtf_shm::TaskId;
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::programs::InLine;
use super::tasks::RunNumber;
use super::{Agent, Event, Leaving};
use crate::attempt::{self, Ending, Finish, Job};
use crate::call::{self, Begun};
use crate::exec::Identity;
use crate::handler::{HandlerFunction, HandlerFuture, Runner, TaskContext};
use crate::stop::{StopSignal, StopSwitch, stop_pair};
use crate::transfer::byte_count;

/// After so long the agent looks up.
const SPELL: Duration = Duration::from_millis(1);
/// LIMIT: attempts started before the agent looks up in any case.
const STARTS_MAX: u32 = 1024;

/// Where and how far attempts are started.
#[derive(Debug)]
pub(super) struct Starts {
    /// See B1.
    calls_here: bool,
    /// There is more to start than there was time for.
    is_unfinished: bool,
    /// Since the agent has looked up.
    count: u32,
    /// When the first of them was started.
    began: Instant,
    /// Of an attempt that was over at once, for the next one.
    spare_switch: Option<StopSwitch>,
}

impl Starts {
    /// Of an agent that is made where it will run.
    pub(super) fn here() -> Self {
        let flavor = Handle::try_current().map(|handle| handle.runtime_flavor());
        Self {
            calls_here: matches!(flavor, Ok(RuntimeFlavor::CurrentThread)),
            is_unfinished: false,
            count: 0,
            began: Instant::now(),
            spare_switch: None,
        }
    }

    /// The agent looks up.
    pub(super) const fn look_up(&mut self) {
        self.count = 0;
    }

    /// Whether one more may be started before the agent looks up.
    fn may_go_on(&mut self) -> bool {
        if self.count == 0 {
            self.began = Instant::now();
        }
        // Each time: a handler may compute for long, and a lease is not to run out under a few of them.
        if self.count >= STARTS_MAX || self.count > 0 && self.began.elapsed() >= SPELL {
            return false;
        }
        self.count += 1;
        true
    }

    /// Comes when what is left is to be started; the runtime has looked at its sockets and timers by then.
    pub(super) async fn go_on(&self) {
        if self.is_unfinished {
            tokio::task::yield_now().await;
        } else {
            core::future::pending::<()>().await;
        }
    }
}

impl Agent {
    /// Starts what waits, as far as slots are free and there is time, and puts the programs in line that come next.
    pub(super) fn start_tasks(&mut self) {
        self.starts.is_unfinished = false;
        if self.leaving != Leaving::No || self.short_until.is_some() {
            return;
        }
        loop {
            // Those in line were there first.
            while self.tasks.has_slot() && self.programs.give_slot() {
                self.tasks.on_slot_given();
            }
            let has_room = self.programs.take_programs() && self.programs.have_room();
            let kinds = &self.settings.kinds;
            if !self
                .tasks
                .has_next(|next| has_room && goes_in_line(next, kinds))
            {
                return;
            }
            if !self.starts.may_go_on() {
                self.starts.is_unfinished = true;
                return;
            }
            if let Some((run, assignment)) = self.tasks.next() {
                self.start_task(run, assignment);
            }
        }
    }

    /// Takes back the programs in line: they wait as they did before. What is not among them runs.
    pub(super) fn take_back(&mut self) {
        let (back, slots) = self.programs.take_back();
        self.tasks.on_slots_back(slots);
        for one in back.into_iter().rev() {
            self.tasks.on_taken_back(one.run, one.assignment);
        }
        self.tasks.on_none_in_line();
    }

    fn start_task(&mut self, run: RunNumber, assignment: Assignment) {
        let is_whole = assignment.payload_bytes <= byte_count(&assignment.payload);
        let discard_result = assignment.discard_result;
        let runner = self.settings.kinds.get(&assignment.kind);
        let ending = match (runner, identity_of(&assignment)) {
            (None, _) => {
                let message = format!("this worker has no handler {:?}", assignment.kind);
                Ending::new(OutcomeKind::Refused, message)
            }
            (_, None) => Ending::new(OutcomeKind::Refused, "the task id is malformed"),
            (Some(Runner::Noop), _) => Ending::of_bytes(Bytes::new()),
            (Some(Runner::Echo), _) if is_whole => Ending::of_bytes(assignment.payload),
            (Some(Runner::Call(function)), Some(identity)) if is_whole => {
                let function = Arc::clone(function);
                self.call(run, assignment, function, identity);
                return;
            }
            (Some(Runner::Exec), Some(identity)) if is_whole && self.programs.take_programs() => {
                self.put_in_line(run, assignment, identity);
                return;
            }
            (Some(runner), Some(identity)) => {
                let runner = runner.clone();
                self.spawn_task(run, assignment, runner, identity);
                return;
            }
        };
        let limit = self.output_limit_bytes;
        let (outcome, output) = ending.encoded(discard_result, limit);
        self.tasks.on_ended(run, outcome, output);
    }

    /// Puts a program in line.
    fn put_in_line(&mut self, run: RunNumber, assignment: Assignment, identity: Identity) {
        let (switch, stop) = stop_pair(0);
        self.tasks.on_in_line(run, switch);
        self.programs.put(InLine {
            run,
            identity,
            assignment,
            output_limit_bytes: self.output_limit_bytes,
            stop,
        });
    }

    /// Calls a handler, here or elsewhere.
    fn call(
        &mut self,
        run: RunNumber,
        assignment: Assignment,
        function: HandlerFunction,
        identity: Identity,
    ) {
        let discard_result = assignment.discard_result;
        let switch = self.starts.spare_switch.take().unwrap_or_default();
        let stop = switch.signal(assignment.timeout_ms);
        let context = TaskContext {
            task_id: identity.task,
            attempt: identity.attempt,
            kind: assignment.kind,
            payload: assignment.payload,
            stop: stop.clone(),
        };
        if !self.starts.calls_here {
            self.spawn_call(
                (run, switch),
                discard_result,
                move || function(context),
                stop,
            );
            return;
        }
        let limit = self.output_limit_bytes;
        let (outcome, output) = match call::begin(&function, context) {
            Begun::Gave(bytes) => Ending::encoded_bytes(bytes, discard_result, limit),
            Begun::Failed(ending) => ending.encoded(discard_result, limit),
            Begun::Waits(future) => {
                self.spawn_call((run, switch), discard_result, || future, stop);
                return;
            }
        };
        drop(stop);
        self.starts.spare_switch = switch.unused();
        self.tasks.on_carried();
        self.tasks.on_ended(run, outcome, output);
    }

    /// Has a handler, or what is left of it, go on in a task of its own. That it has begun is noted here, and not told by that task:
    /// the runtime could have the agent follow on the thread of a handler that blocks it.
    fn spawn_call(
        &mut self,
        (run, switch): (RunNumber, StopSwitch),
        discard_result: bool,
        future: impl FnOnce() -> HandlerFuture + Send + 'static,
        stop: StopSignal,
    ) {
        let grace = self.settings.exec.stop_grace;
        let report = self.end_report(run, discard_result);
        self.tasks.on_starting(run, switch);
        self.tasks.on_begun(run);
        tokio::spawn(async move {
            let ending = call::finish(future(), &stop, grace).await;
            report.finish(End::Ended(Box::new(ending)));
        });
    }

    fn spawn_task(
        &mut self,
        run: RunNumber,
        assignment: Assignment,
        runner: Runner,
        identity: Identity,
    ) {
        let (switch, signal) = stop_pair(assignment.timeout_ms);
        // What the attempt has used up if it cannot begin; its payload is shared.
        let again = Box::new(assignment.clone());
        let is_program = matches!(runner, Runner::Exec);
        let job = Job {
            identity,
            kind: assignment.kind,
            runner,
            payload: assignment.payload,
            payload_bytes: assignment.payload_bytes,
            policy: Arc::clone(&self.settings.exec),
            output_limit_bytes: self.output_limit_bytes,
            access: self.access.subscribe(),
        };
        let report = self.end_report(run, assignment.discard_result);
        self.tasks.on_starting(run, switch);
        let attempt = async move {
            let end = match attempt::run(job, signal, || report.begun()).await {
                Finish::Ended(ending) => End::Ended(Box::new(ending)),
                Finish::NotBegun(why) => End::NotBegun(again, why),
            };
            report.finish(end);
        };
        match is_program {
            true => self.programs.run(attempt),
            false => drop(tokio::spawn(attempt)),
        }
    }

    fn end_report(&self, run: RunNumber, discard_result: bool) -> EndReport {
        EndReport {
            sender: self.event_sender.clone(),
            run,
            discard_result,
            end: End::Open,
        }
    }

    /// Notes the end of an attempt that never ran.
    pub(super) fn end_unstarted(&mut self, run: RunNumber, kind: OutcomeKind) {
        let outcome = Outcome {
            kind: kind.into(),
            ..Outcome::default()
        };
        self.tasks.on_ended(run, outcome, Bytes::new());
    }
}

/// Whether that is a program that can stand in line as it is.
fn goes_in_line(assignment: &Assignment, kinds: &BTreeMap<String, Runner>) -> bool {
    matches!(kinds.get(&assignment.kind), Some(Runner::Exec))
        && assignment.payload_bytes <= byte_count(&assignment.payload)
        && identity_of(assignment).is_some()
}

fn identity_of(assignment: &Assignment) -> Option<Identity> {
    let task = assignment.task?;
    Some(Identity {
        task: TaskId::from_raw(task.task_id)?,
        attempt: task.attempt,
        array: TaskId::from_raw(assignment.array_id).map(|first| (first, assignment.array_index)),
    })
}

/// Reports the end of an attempt when it is dropped, so that a handler that panics is reported too.
#[derive(Debug)]
struct EndReport {
    sender: mpsc::UnboundedSender<Event>,
    run: RunNumber,
    discard_result: bool,
    end: End,
}

/// What has become of an attempt.
#[derive(Debug)]
enum End {
    /// Nothing yet: a panic, if it stays so.
    Open,
    Ended(Box<Ending>),
    /// It could not begin, and why.
    NotBegun(Box<Assignment>, String),
}

impl EndReport {
    fn begun(&self) {
        self.send(Event::Begun { run: self.run });
    }

    fn finish(mut self, end: End) {
        self.end = end;
    }

    fn send(&self, event: Event) {
        // A closed queue means that the worker is gone, and with it the wish to know.
        let _ = self.sender.send(event);
    }
}

impl Drop for EndReport {
    fn drop(&mut self) {
        let run = self.run;
        let ending = match core::mem::replace(&mut self.end, End::Open) {
            End::NotBegun(assignment, why) => {
                self.send(Event::Short {
                    run,
                    assignment,
                    why,
                });
                return;
            }
            End::Ended(ending) => ending,
            End::Open => Box::new(call::panicked()),
        };
        self.send(Event::Ended {
            run,
            ending,
            discard_result: self.discard_result,
        });
    }
}
