//! A thread that starts programs, and attends to each for its first moment, in which the shortest are over.
//!
//! Whoever starts a program stands still until the kernel has loaded it. And for a program that is over at once, each step of a runtime
//! would cost as much as a step of its own: so its end alone is waited for here, what it has written is taken then, and the next one
//! follows on the same thread. A program that lasts, writes or leaves something behind goes to the [`waiter`](super::waiter).
//!
//! Invariants:
//! - R1: the thread lives as long as its worker: a program is killed when the thread that started it ends (`sys/launch`, L2).
//! - R2: it keeps a program for [`YOUNG`] at most. What a program writes, and an program to stop it, waits for the next look at it: no longer
//!   than the program has run, that is.
//! - R3: it attends to what has begun between any two starts.
//!
//! Tested through the agent, in `worker/tests/session/programs.rs`.

use core::time::Duration;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;
use std::time::Instant;

use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::eventfd::EventFd;
use nix::sys::time::TimeSpec;
use tokio::runtime::Handle;

use super::line::{Ended, InLine, Line, Next};
use crate::attempt::{self, Finish, ProgramJob};
use crate::exec::{ExecPolicy, NotBegun, Running};
use crate::stop::StopSignal;

/// When it is first looked whether a program has written anything, or is to stop; and again each time that it is twice as old.
const FIRST_LOOK: Duration = Duration::from_millis(1);
/// A program that ends sooner is told of by its end alone: so short a start is nobody's news, and half of all messages.
const TOLD_AFTER: Duration = Duration::from_millis(4);
/// After this a program is not young any more.
const YOUNG: Duration = Duration::from_millis(32);

/// See the head of this file.
#[derive(Debug)]
pub(super) struct Starter {
    pub(super) number: usize,
    pub(super) line: Arc<Line>,
    pub(super) policy: Arc<ExecPolicy>,
    /// Rung when there may be something to start.
    pub(super) bell: Arc<EventFd>,
    /// Where programs that last are waited for.
    pub(super) waiter: Handle,
    pub(super) young: Vec<Young>,
}

/// A program in its first moment.
#[derive(Debug)]
pub(super) struct Young {
    program: InLine,
    job: ProgramJob,
    running: Box<Running>,
    /// Readable when it has ended.
    notice: OwnedFd,
    began: Instant,
    /// Since it began.
    look_after: Duration,
    is_told: bool,
}

impl Young {
    fn look_at(&self) -> Instant {
        self.began + self.look_after
    }
}

impl Starter {
    /// Works until the line are closed. What is young then is killed.
    pub(super) fn work(mut self) {
        let waiter = self.waiter.clone();
        let _entered = waiter.enter();
        let mut has_attended = true;
        loop {
            match self.line.next(self.number, self.young.len()) {
                Next::Leave => return,
                Next::Start(program) => {
                    if !has_attended && !self.young.is_empty() {
                        self.attend(Some(Instant::now()));
                    }
                    self.start(*program);
                    has_attended = false;
                }
                Next::Attend(until) => {
                    self.attend(until);
                    self.line.awake(self.number);
                    has_attended = true;
                }
            }
        }
    }

    fn start(&mut self, program: InLine) {
        let payload = &program.assignment.payload;
        let job = ProgramJob::of(
            payload,
            program.identity,
            (&self.policy, program.output_limit_bytes),
        );
        let job = match job {
            Ok(job) => job,
            Err(ending) => return self.ended(&program, *ending, false),
        };
        let stop = program.stop.clone().within(program.assignment.timeout_ms);
        match job.begin() {
            Ok(running) => self.begun(InLine { stop, ..program }, job, running),
            Err(NotBegun::For(finish)) => match *finish {
                Finish::Ended(ending) => self.ended(&program, ending, false),
                Finish::NotBegun(why) => self.line.short(program, why),
            },
            Err(NotBegun::Busy(_)) => self.try_again(InLine { stop, ..program }, job),
        }
    }

    fn begun(&mut self, program: InLine, job: ProgramJob, running: Box<Running>) {
        match running.notice() {
            Some(notice) => self.young.push(Young {
                program,
                job,
                running,
                notice,
                began: Instant::now(),
                look_after: FIRST_LOOK,
                is_told: false,
            }),
            None => {
                self.line.begun(program.run);
                self.hand_over(program, job, running);
            }
        }
    }

    /// Waits for an end among the young, the bell or a time, and takes in what has happened.
    fn attend(&mut self, until: Option<Instant>) {
        let looks = self.young.iter().map(Young::look_at);
        let until = looks.chain(until).min();
        let over = self.wait(until);
        let now = Instant::now();
        for (young, is_over) in core::mem::take(&mut self.young).into_iter().zip(over) {
            if is_over {
                self.on_end(young);
            } else if now >= young.look_at() {
                self.look(young);
            } else {
                self.young.push(young);
            }
        }
    }

    /// Which of the young have ended.
    fn wait(&self, until: Option<Instant>) -> Vec<bool> {
        let notices = self.young.iter().map(|young| young.notice.as_fd());
        let all = core::iter::once(self.bell.as_fd()).chain(notices);
        let mut all: Vec<PollFd<'_>> = all.map(|one| PollFd::new(one, PollFlags::POLLIN)).collect();
        let left = until.map(|until| until.saturating_duration_since(Instant::now()));
        // Interrupted by a signal, it comes again.
        let _ = ppoll(&mut all, left.map(TimeSpec::from), None);
        let mut heard = all.iter().map(|one| one.any().unwrap_or(false));
        if heard.next() == Some(true) {
            // Whatever it was rung for is looked for next.
            let _ = self.bell.read();
        }
        heard.collect()
    }

    fn on_end(&self, young: Young) {
        match young.running.over() {
            Ok(ending) => self.ended(&young.program, young.job.told(ending), true),
            Err(running) => self.hand_over(young.program, young.job, running),
        }
    }

    fn look(&mut self, mut young: Young) {
        let age = young.began.elapsed();
        let lasts = age >= YOUNG || young.program.stop.is_stopped() || !young.running.is_quiet();
        if !young.is_told && (lasts || age >= TOLD_AFTER) {
            young.is_told = true;
            self.line.begun(young.program.run);
        }
        if lasts {
            self.hand_over(young.program, young.job, young.running);
        } else {
            young.look_after = age.saturating_mul(2).min(YOUNG);
            self.young.push(young);
        }
    }

    fn ended(&self, program: &InLine, ending: attempt::Ending, has_run: bool) {
        let of = (program.run, program.assignment.discard_result);
        self.line.ended(of, Ended { ending, has_run }, true);
    }

    /// From here on the waiter has it.
    fn hand_over(&self, program: InLine, job: ProgramJob, running: Box<Running>) {
        self.waiter.spawn(tell_of(
            Arc::clone(&self.line),
            program,
            async move |stop| (Finish::Ended(job.rest(running, &stop).await), true),
        ));
    }

    /// Its file is being written.
    fn try_again(&self, program: InLine, job: ProgramJob) {
        self.waiter.spawn(tell_of(
            Arc::clone(&self.line),
            program,
            async move |stop| {
                let mut has_run = false;
                let finish = job.run(&stop, || has_run = true).await;
                (finish, has_run)
            },
        ));
    }
}

/// Tells how an program ends that somebody waits for.
async fn tell_of(
    line: Arc<Line>,
    program: InLine,
    end: impl AsyncFnOnce(StopSignal) -> (Finish, bool),
) {
    let of = (program.run, program.assignment.discard_result);
    match end(program.stop.clone()).await {
        (Finish::Ended(ending), has_run) => line.ended(of, Ended { ending, has_run }, false),
        (Finish::NotBegun(why), _) => line.short(program, why),
    }
}
