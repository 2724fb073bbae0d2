//! What happens inside the worker, and what the agent makes of it.
//!
//! Tested in `worker/tests/session`.

use core::time::Duration;

use qtf_proto::v1::Assignment;
use tokio::time::Instant;

use super::Agent;
use super::programs::{News, Told};
use super::tasks::RunNumber;
use crate::attempt::Ending;
use crate::transfer::TransferError;

/// When the machine was short of something and nothing ends, it is tried again after this.
const SHORTAGE_PAUSE: Duration = Duration::from_millis(250);
/// A shortage is told of once in this time.
const SHORTAGE_TOLD: Duration = Duration::from_secs(60);

/// What happens inside the worker.
#[derive(Debug)]
pub(super) enum Event {
    Begun {
        run: RunNumber,
    },
    /// It could not begin, and waits again.
    Short {
        run: RunNumber,
        assignment: Box<Assignment>,
        why: String,
    },
    Ended {
        run: RunNumber,
        ending: Box<Ending>,
        discard_result: bool,
    },
    /// Of programs that stood in line.
    Programs(Told),
    Uploaded {
        run: RunNumber,
        link: u64,
        result: Result<u64, TransferError>,
    },
}

impl Agent {
    pub(super) fn on_event(&mut self, event: Option<Event>) {
        match event {
            Some(Event::Ended {
                run,
                ending,
                discard_result,
            }) => {
                let limit = self.output_limit_bytes;
                let (outcome, output) = ending.encoded(discard_result, limit);
                self.tell_end(run, &outcome);
                self.tasks.on_ended(run, outcome, output);
                self.try_again();
            }
            Some(Event::Begun { run }) => {
                self.on_begun(run);
                self.start_tasks();
            }
            Some(Event::Short {
                run,
                assignment,
                why,
            }) => self.on_shortage(run, *assignment, &why),
            Some(Event::Programs(told)) => {
                self.on_programs(told.news);
                self.is_gathered |= told.has_waited;
            }
            Some(Event::Uploaded { run, link, result }) if link == self.link_number => match result
            {
                Ok(receipt) => self.tasks.on_uploaded(run, Some(receipt)),
                Err(TransferError::Refused(cause) | TransferError::Broken(cause)) => {
                    tracing::warn!(cause, "an output cannot be stored");
                    self.tasks.on_uploaded(run, None);
                }
            },
            // Of an earlier link: uploaded again over this one. The sender is never dropped.
            Some(Event::Uploaded { .. }) | None => {}
        }
    }

    fn on_begun(&mut self, run: RunNumber) {
        let (before, slots) = self.tasks.usable();
        self.tasks.on_begun(run);
        if before < slots && self.tasks.usable().0 == slots {
            tracing::info!(slots, "all slots can be used again");
        }
    }

    fn on_programs(&mut self, news: Vec<News>) {
        let limit = self.output_limit_bytes;
        for one in news {
            match one {
                News::Begun { run } => self.on_begun(run),
                News::Ended {
                    run,
                    has_run,
                    ending,
                    discard_result,
                    is_followed,
                } => {
                    if has_run {
                        self.on_begun(run);
                    }
                    let (outcome, output) = ending.encoded(discard_result, limit);
                    self.tell_end(run, &outcome);
                    self.tasks.on_ended(run, outcome, output);
                    if is_followed {
                        self.tasks.on_slot_given();
                    }
                    self.short_until = None;
                }
                News::Short {
                    run,
                    assignment,
                    why,
                } => {
                    self.on_shortage(run, *assignment, &why);
                }
            }
        }
        self.start_tasks();
    }

    fn on_shortage(&mut self, run: RunNumber, assignment: Assignment, why: &str) {
        self.take_back();
        self.tasks.on_shortage(run, assignment);
        let (usable, slots) = self.tasks.usable();
        let is_told = |told: Instant| told.elapsed() < SHORTAGE_TOLD;
        if !self.shortage_told.is_some_and(is_told) {
            self.shortage_told = Some(Instant::now());
            // A program with a worker in it shows what is said of programs.
            tracing::warn!(
                target: "qtf_worker::exec",
                usable,
                slots,
                why,
                "the machine carries no more tasks at the same time now; the others wait"
            );
        }
        self.short_until = Some(Instant::now() + SHORTAGE_PAUSE);
    }

    /// Something may be there again that was short.
    pub(super) fn try_again(&mut self) {
        self.short_until = None;
        self.start_tasks();
    }
}
