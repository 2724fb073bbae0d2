//! The programs of a worker: threads that start them (`starter`), the line that those share with the agent (`line`), and the thread
//! that waits for programs that last (`waiter`).
//!
//! The agent has the next ones stand in line, so that a slot in which a program has ended has the next one at once, from the thread that saw the
//! end. What stands there it takes back where that may not run: to stop, to leave, or for want of something.
//!
//! Tested in the files of this folder, and in `worker/tests/session/programs.rs`.

mod line;
mod starter;
mod waiter;

use core::time::Duration;
use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use nix::sys::eventfd::{EfdFlags, EventFd};

use crate::exec::ExecPolicy;
use line::Line;
pub(super) use line::{InLine, News, Tell, Told};
use starter::Starter;
use waiter::Waiter;

/// LIMIT: the kernel starts no more programs at the same time than this many can ask for.
const THREADS_MAX: usize = 16;
/// LIMIT: programs that stand in line, as all of them are taken back where one may not run.
const LINE_MAX: usize = 1024;

/// See the head of this file. Dropping it kills what runs, and waits for that.
#[derive(Debug)]
pub(super) struct Programs {
    line: Arc<Line>,
    starters: Vec<JoinHandle<()>>,
    waiter: Option<Waiter>,
}

/// How programs come and go.
#[derive(Debug)]
pub(super) struct Pace {
    /// At the same time.
    pub(super) slots: u32,
    /// Tasks that are taken ahead.
    pub(super) ahead: u32,
    /// How long an end may wait for others.
    pub(super) gather: Duration,
}

impl Programs {
    /// Of a worker that runs none.
    pub(super) fn none(tell: Tell) -> Self {
        Self {
            line: Arc::new(Line::new(tell, (Duration::ZERO, 0))),
            starters: Vec::new(),
            waiter: None,
        }
    }

    /// As many threads as there are slots and processors. They are started with the worker: later there may be no descriptors for them.
    pub(super) fn start(pace: &Pace, policy: &Arc<ExecPolicy>, tell: Tell) -> Self {
        let cores = thread::available_parallelism().map_or(1, core::num::NonZero::get);
        let number = |count: u32| usize::try_from(count).unwrap_or(usize::MAX);
        let wanted = number(pace.slots).min(cores).min(THREADS_MAX);
        let well = number(pace.ahead / 2).min(LINE_MAX / 2);
        let mut all = Self {
            line: Arc::new(Line::new(tell, (pace.gather, well))),
            starters: Vec::new(),
            waiter: None,
        };
        for number in 1..=wanted {
            if let Err(error) = all.start_one(number, policy) {
                tracing::warn!(%error, number, wanted, "programs are started on fewer threads");
                break;
            }
        }
        all
    }

    fn start_one(&mut self, number: usize, policy: &Arc<ExecPolicy>) -> io::Result<()> {
        let waiter = match self.waiter.take() {
            Some(waiter) => waiter,
            None => Waiter::start()?,
        };
        let waiter = self.waiter.insert(waiter).runtime().clone();
        let flags = EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC;
        let bell = Arc::new(EventFd::from_flags(flags)?);
        let name = thread::Builder::new().name(format!("qtf-programs-{number}"));
        let line = Arc::clone(&self.line);
        let policy = Arc::clone(policy);
        let thread = name.spawn(move || {
            let starter = Starter {
                number: line.enter(Arc::clone(&bell)),
                line,
                policy,
                bell,
                waiter,
                young: Vec::new(),
            };
            starter.work();
        })?;
        self.starters.push(thread);
        Ok(())
    }

    /// Whether there is a thread that starts any.
    pub(super) const fn take_programs(&self) -> bool {
        !self.starters.is_empty()
    }

    /// Whether one more may be put.
    pub(super) fn have_room(&self) -> bool {
        self.waiting() < LINE_MAX
    }

    /// See [`Line::put`].
    pub(super) fn put(&self, program: InLine) {
        self.line.put(program);
    }

    /// See [`Line::give_slot`]. Asked before each start: where no program ever stands in line the lock is not taken.
    pub(super) fn give_slot(&self) -> bool {
        self.take_programs() && self.line.give_slot()
    }

    /// See [`Line::waiting`].
    pub(super) fn waiting(&self) -> usize {
        self.line.waiting()
    }

    /// See [`Line::take_back`].
    pub(super) fn take_back(&self) -> (VecDeque<InLine>, usize) {
        self.line.take_back()
    }

    /// Has something run where programs are waited for.
    pub(super) fn run(&self, attempt: impl Future<Output = ()> + Send + 'static) {
        match &self.waiter {
            Some(waiter) => drop(waiter.runtime().spawn(attempt)),
            None => drop(tokio::spawn(attempt)),
        }
    }
}

impl Drop for Programs {
    fn drop(&mut self) {
        self.line.close();
        for starter in self.starters.drain(..) {
            // One that has panicked has ended as well.
            let _ = starter.join();
        }
        self.waiter = None;
    }
}
