//! What the worker holds: attempts that wait for a slot, run, or have a result to be delivered.
//!
//! Invariants:
//! - T1: at most `slots` attempts run, and fewer while the machine carries fewer; an attempt that is no longer wanted keeps its slot until it has
//!   really ended.
//! - T2: a result is kept until the daemon has said what became of it, or the attempt is abandoned.
//! - T3: credits granted and not yet used, plus attempts that occupy room, never exceed the capacity.
//! - T4: an attempt is run once, also when it is assigned again after its verdict.
//! - T5: results that wait for a verdict, which comes after a sync where the task is in the journal, are
//!   bounded in number and in bytes: beyond that no credits are granted.
//!
//! Where the attempts lie is in `places`, which are known in `known`; how one takes its slot, or fails to, in `shortage`; how its result
//! is delivered, in `delivery` and `reports`. Tested in `tests` and at the ends of those files.

mod delivery;
mod known;
mod places;
mod reports;
mod shortage;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;

use bytes::Bytes;
use qtf_proto::limits::BATCH_ENTRIES_MAX;
use qtf_proto::v1::{Assignment, HeldTask, HeldTasks, Outcome, TaskRef};

use crate::stop::{StopCause, StopOrder, StopSwitch};
pub(super) use delivery::Upload;
use delivery::{Delivery, Ended};
use known::Known;
use places::Places;
pub(super) use places::RunNumber;
use reports::Reports;

/// One attempt of one task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Attempt {
    pub(super) task_id: u64,
    pub(super) attempt: u32,
}

impl From<TaskRef> for Attempt {
    fn from(task: TaskRef) -> Self {
        Self {
            task_id: task.task_id,
            attempt: task.attempt,
        }
    }
}

impl From<Attempt> for TaskRef {
    fn from(attempt: Attempt) -> Self {
        Self {
            task_id: attempt.task_id,
            attempt: attempt.attempt,
        }
    }
}

/// LIMIT: attempts that a heartbeat names, some 60 KiB; a worker that has more says only how many.
const NAMED_MAX: usize = 2_048;

#[derive(Debug)]
enum Phase {
    /// Its assignment is in the queue.
    Queued,
    /// In line: it begins when a slot is there, or has begun and nobody has told yet.
    InLine {
        switch: StopSwitch,
    },
    Running {
        switch: StopSwitch,
        /// It runs, and is not only about to.
        begun: bool,
        /// Nobody wants its result: no longer in `known`.
        unwanted: bool,
    },
    Ended(Ended),
}

#[derive(Debug)]
struct Held {
    attempt: Attempt,
    phase: Phase,
}

/// See the head of this file.
#[derive(Debug)]
pub(super) struct Tasks {
    slots: usize,
    /// Slots that the machine carries now, as far as is known; at least 1.
    usable: usize,
    /// How many may run besides them: taken ahead.
    ahead: usize,
    places: Places,
    known: Known,
    /// Also of attempts that wait no more: those are passed over.
    queue: VecDeque<(RunNumber, Assignment)>,
    /// Started, and not yet told.
    started: Vec<RunNumber>,
    /// Ended, in order of their ends, and not yet sent over this link.
    unsent: VecDeque<RunNumber>,
    uploads: Vec<Upload>,
    /// In `Phase::InLine`.
    in_line: usize,
    /// Slots in use, or given to what is in line.
    running: usize,
    /// Results sent over this link without a verdict.
    unjudged: usize,
    /// The reports that they went with.
    reports: Reports,
    /// Of the outputs that are kept.
    output_bytes: usize,
    /// Credits granted over this link and not yet used.
    credits: usize,
}

// LIMIT: results without a verdict, beyond which no more credits are granted; in units of capacity.
const UNJUDGED_FACTOR: usize = 4;
const UNJUDGED_MIN: usize = 4096;
// LIMIT: bytes of kept outputs, beyond which no more credits are granted.
const OUTPUT_BYTES_MAX: usize = 256 << 20;

impl Tasks {
    pub(super) fn new(slots: u32, capacity: u32) -> Self {
        let slots = usize::try_from(slots).unwrap_or(usize::MAX);
        let capacity = usize::try_from(capacity).unwrap_or(usize::MAX);
        Self {
            slots,
            usable: slots,
            ahead: capacity.saturating_sub(slots),
            places: Places::default(),
            known: Known::new(),
            queue: VecDeque::new(),
            started: Vec::new(),
            unsent: VecDeque::new(),
            uploads: Vec::new(),
            in_line: 0,
            running: 0,
            unjudged: 0,
            reports: Reports::default(),
            output_bytes: 0,
            credits: 0,
        }
    }

    /// What a hello tells of an earlier session.
    pub(super) fn held(&self) -> Vec<HeldTask> {
        let held = self.known.iter().map(|(attempt, run)| HeldTask {
            task: Some(attempt.into()),
            finished: matches!(
                self.places.get(run).map(|held| &held.phase),
                Some(Phase::Ended { .. })
            ),
        });
        held.collect()
    }

    /// What a heartbeat names; nothing if it is too much for each of them.
    pub(super) fn named(&self) -> Option<HeldTasks> {
        (self.known.held() <= NAMED_MAX).then(|| HeldTasks { tasks: self.held() })
    }

    /// A new link: all results are to be sent again, all credits are void.
    pub(super) fn relink(&mut self) {
        self.credits = 0;
        self.unjudged = 0;
        self.reports.clear();
        self.unsent.clear();
        self.uploads.clear();
        self.started.clear();
        for run in self.places.numbers() {
            match self.places.get_mut(run).map(|held| &mut held.phase) {
                Some(Phase::Ended(ended)) => {
                    ended.delivery = Delivery::Waiting(0);
                    self.offer(run);
                }
                Some(Phase::Running {
                    unwanted: false,
                    begun: true,
                    ..
                }) => self.started.push(run),
                Some(Phase::Running { .. } | Phase::InLine { .. } | Phase::Queued) | None => {}
            }
        }
    }

    /// Takes in an assignment; false when it is held already.
    pub(super) fn accept(&mut self, assignment: Assignment) -> bool {
        let Some(task) = assignment.task else {
            return false;
        };
        self.credits = self.credits.saturating_sub(1);
        let attempt = Attempt::from(task);
        let phase = Phase::Queued;
        let places = &mut self.places;
        let put = || places.put(Held { attempt, phase });
        let Some(run) = self.known.admit(attempt, put) else {
            return false;
        };
        self.queue.push_back((run, assignment));
        true
    }

    /// Whether a slot is free.
    pub(super) const fn has_slot(&self) -> bool {
        self.running < self.usable
    }

    /// Whether something waits, and a slot is free or the next may do without.
    pub(super) fn has_next(&mut self, may_do_without: impl Fn(&Assignment) -> bool) -> bool {
        while let Some((run, assignment)) = self.queue.front() {
            if let Some(Phase::Queued) = self.places.get(*run).map(|held| &held.phase) {
                return self.has_slot() || may_do_without(assignment);
            }
            self.queue.pop_front();
        }
        // The next one lies where the first one did, and does not go round all that ever waited.
        self.queue.clear();
        false
    }

    /// The next attempt, which has waited longest.
    pub(super) fn next(&mut self) -> Option<(RunNumber, Assignment)> {
        let next = self.queue.pop_front();
        if self.queue.is_empty() {
            self.queue.clear();
        }
        next
    }

    const fn capacity(&self) -> usize {
        self.usable.saturating_add(self.ahead)
    }

    /// Whose attempt it is.
    pub(super) fn task_of(&self, run: RunNumber) -> Option<TaskRef> {
        self.places.get(run).map(|held| held.attempt.into())
    }

    /// Notes the end of an attempt, running or not.
    pub(super) fn on_ended(&mut self, run: RunNumber, outcome: Outcome, output: Bytes) {
        let Some(held) = self.places.get_mut(run) else {
            return;
        };
        match held.phase {
            Phase::InLine { .. } => {
                self.running = self.running.saturating_sub(1);
                self.in_line = self.in_line.saturating_sub(1);
            }
            Phase::Running { unwanted, .. } => {
                self.running = self.running.saturating_sub(1);
                if unwanted {
                    self.places.take(run);
                    return;
                }
            }
            Phase::Queued | Phase::Ended(_) => {}
        }
        self.output_bytes = self.output_bytes.saturating_add(output.len());
        held.phase = Phase::Ended(Ended::new(outcome, output));
        self.offer(run);
    }

    /// Asks an attempt to stop. A waiting one that is cancelled is over at once: true, and the caller
    /// says how it ended.
    pub(super) fn stop(&mut self, attempt: Attempt, cause: StopCause) -> Option<RunNumber> {
        if cause == StopCause::Stale {
            self.abandon(attempt);
            return None;
        }
        let run = self.known.run_of(attempt)?;
        match &self.places.get(run)?.phase {
            Phase::Queued => Some(run),
            Phase::InLine { switch } | Phase::Running { switch, .. } => {
                let at_once = false;
                switch.stop(StopOrder { cause, at_once });
                None
            }
            Phase::Ended { .. } => None,
        }
    }

    /// Ends an attempt that is no longer this worker's; its result is not reported.
    pub(super) fn abandon(&mut self, attempt: Attempt) {
        let Some(run) = self.known.forget(attempt) else {
            return;
        };
        match self.places.get_mut(run).map(|held| &mut held.phase) {
            Some(Phase::Running {
                switch, unwanted, ..
            }) => {
                *unwanted = true;
                switch.stop(StopOrder {
                    cause: StopCause::Stale,
                    at_once: false,
                });
            }
            Some(Phase::Queued | Phase::Ended { .. }) => self.remove(run),
            // What is in line was taken back before anything is abandoned.
            Some(Phase::InLine { .. }) | None => {}
        }
    }

    /// Ends everything: the worker was lost or replaced, perhaps in another segment, where ids begin anew.
    pub(super) fn abandon_all(&mut self) {
        self.known.forget_judged();
        let attempts: Vec<Attempt> = self.known.iter().map(|(attempt, _)| attempt).collect();
        for attempt in attempts {
            self.abandon(attempt);
        }
    }

    /// Ends what waits or runs; results are still delivered.
    pub(super) fn abandon_unfinished(&mut self) {
        let is_unfinished = |run: RunNumber| {
            let phase = self.places.get(run).map(|held| &held.phase);
            !matches!(phase, Some(Phase::Ended { .. }))
        };
        let attempts = self.known.iter().filter(|(_, run)| is_unfinished(*run));
        let attempts: Vec<Attempt> = attempts.map(|(attempt, _)| attempt).collect();
        for attempt in attempts {
            self.abandon(attempt);
        }
    }

    /// Ends what waits or runs, without grace.
    pub(super) fn kill_all(&mut self) {
        self.abandon_unfinished();
        for held in self.places.iter() {
            if let Phase::Running { switch, .. } = &held.phase {
                switch.stop(StopOrder {
                    cause: StopCause::Stale,
                    at_once: true,
                });
            }
        }
    }

    /// Attempts that were begun, whatever became of them, and have no verdict: what a worker says before it leaves.
    pub(super) fn begun(&self) -> Vec<TaskRef> {
        let begun = self.places.iter().filter(|held| match held.phase {
            Phase::InLine { .. } | Phase::Running { .. } | Phase::Ended { .. } => true,
            Phase::Queued => false,
        });
        begun.map(|held| held.attempt.into()).collect()
    }

    /// Attempts that the daemon has not yet been told the start of, and still run: as many as go into a report with results.
    pub(super) fn take_started(&mut self) -> Vec<TaskRef> {
        let count = self.started.len().min(BATCH_ENTRIES_MAX);
        let started = self.started.drain(..count);
        let running = started.filter_map(|run| {
            let held = self.places.get(run)?;
            let is_wanted = matches!(
                held.phase,
                Phase::Running {
                    unwanted: false,
                    ..
                }
            );
            is_wanted.then(|| held.attempt.into())
        });
        running.collect()
    }

    pub(super) fn has_news(&self) -> bool {
        !self.started.is_empty() || !self.unsent.is_empty()
    }

    /// There are results to be sent.
    pub(super) fn has_results(&self) -> bool {
        !self.unsent.is_empty()
    }

    /// More than half of what is taken ahead waits for a slot: news may wait a moment without one standing empty.
    pub(super) fn is_well_supplied(&self, in_line: usize) -> bool {
        self.queue.len() + in_line > self.ahead / 2 && self.ahead > 0
    }

    /// Attempts that take room: waiting, running (wanted or not), or ended and not yet reported.
    fn occupied(&self) -> usize {
        let unreported = self
            .places
            .len()
            .saturating_sub(self.running + self.unjudged);
        self.running + unreported
    }

    /// Attempts the daemon will see as this worker's once it has read what was sent.
    pub(super) fn holding(&self) -> u32 {
        let held = self.known.held().saturating_sub(self.unjudged);
        u32::try_from(held).unwrap_or(u32::MAX)
    }

    /// Credits that may be granted now; the caller sends them.
    pub(super) fn grant(&mut self) -> u32 {
        let due = self.credits_due();
        self.credits += due;
        u32::try_from(due).unwrap_or(u32::MAX)
    }

    /// True when there is something to grant.
    pub(super) fn has_credits_due(&self) -> bool {
        self.credits_due() > 0
    }

    fn credits_due(&self) -> usize {
        let unjudged_max = self
            .capacity()
            .saturating_mul(UNJUDGED_FACTOR)
            .max(UNJUDGED_MIN);
        if self.unjudged > unjudged_max || self.output_bytes > OUTPUT_BYTES_MAX {
            return 0;
        }
        self.capacity()
            .saturating_sub(self.occupied() + self.credits)
    }

    /// More is held than was ever granted: the daemon miscounts, and memory is bounded by refusing.
    pub(super) fn is_overfull(&self) -> bool {
        self.queue.len() + self.in_line > (self.slots + self.ahead).saturating_mul(2)
    }

    /// Nothing runs and no result is undelivered; what waits for a slot does not count.
    pub(super) fn is_quiet(&self) -> bool {
        self.running == 0
            && self
                .places
                .iter()
                .all(|held| matches!(held.phase, Phase::Queued | Phase::InLine { .. }))
    }

    /// Nothing runs.
    pub(super) const fn is_idle(&self) -> bool {
        self.running == 0
    }
}
