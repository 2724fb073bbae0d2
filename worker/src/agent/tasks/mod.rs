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
//! How an attempt takes its slot, or fails to, is in `shortage`. Tested at the ends of both files.

mod shortage;

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};

use bytes::Bytes;
use prost::Message as _;
use qtf_proto::limits::INLINE_BYTES_MAX;
use qtf_proto::v1::{
    Assignment, HeldTask, HeldTasks, Outcome, OutcomeKind, TaskOutput, TaskRef, TaskResult,
};

use crate::stop::{StopCause, StopOrder, StopSwitch};

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

/// Number of an attempt within this process; never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct RunNumber(u64);

#[derive(Debug)]
enum Phase {
    Queued(Assignment),
    Running {
        switch: StopSwitch,
        /// It runs, and is not only about to.
        begun: bool,
        /// Nobody wants its result: no longer in `by_attempt`.
        unwanted: bool,
    },
    Ended {
        outcome: Outcome,
        output: Bytes,
        delivery: Delivery,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Delivery {
    /// To be sent; the receipt of its upload, or 0.
    Waiting(u64),
    Uploading,
    Sent,
}

#[derive(Debug)]
struct Held {
    attempt: Attempt,
    phase: Phase,
}

/// A large output that has to be uploaded before its result is reported.
#[derive(Debug)]
pub(super) struct Upload {
    pub(super) run: RunNumber,
    pub(super) output: Bytes,
}

/// See the head of this file.
#[derive(Debug)]
pub(super) struct Tasks {
    slots: usize,
    /// Slots that the machine carries now, as far as is known; at least 1.
    usable: usize,
    /// How many may run besides them: taken ahead.
    ahead: usize,
    by_run: BTreeMap<RunNumber, Held>,
    by_attempt: HashMap<Attempt, RunNumber>,
    queue: VecDeque<RunNumber>,
    /// Started, and not yet told.
    started: Vec<RunNumber>,
    /// Ended, in order of their ends, and not yet sent over this link.
    unsent: VecDeque<RunNumber>,
    uploads: Vec<Upload>,
    running: usize,
    /// Results sent over this link without a verdict.
    unjudged: usize,
    /// Of the outputs that are kept.
    output_bytes: usize,
    /// The last attempts that had their verdict, oldest first.
    judged: VecDeque<Attempt>,
    judged_set: HashSet<Attempt>,
    /// Credits granted over this link and not yet used.
    credits: usize,
    next_run: u64,
}

// LIMIT: results without a verdict, beyond which no more credits are granted; in units of capacity.
const UNJUDGED_FACTOR: usize = 4;
const UNJUDGED_MIN: usize = 4096;
// LIMIT: bytes of kept outputs, beyond which no more credits are granted.
const OUTPUT_BYTES_MAX: usize = 256 << 20;
// LIMIT: attempts remembered after their verdict; a daemon that assigns one again does so at once.
const JUDGED_MAX: usize = 4096;
// LIMIT: bytes of outputs in one report, so that it stays well below the message limit.
const REPORT_OUTPUT_BYTES: usize = 1 << 20;
const REPORT_ENTRIES: usize = 1024;

impl Tasks {
    pub(super) fn new(slots: u32, capacity: u32) -> Self {
        let slots = usize::try_from(slots).unwrap_or(usize::MAX);
        let capacity = usize::try_from(capacity).unwrap_or(usize::MAX);
        Self {
            slots,
            usable: slots,
            ahead: capacity.saturating_sub(slots),
            by_run: BTreeMap::new(),
            by_attempt: HashMap::new(),
            queue: VecDeque::new(),
            started: Vec::new(),
            unsent: VecDeque::new(),
            uploads: Vec::new(),
            running: 0,
            unjudged: 0,
            output_bytes: 0,
            judged: VecDeque::new(),
            judged_set: HashSet::new(),
            credits: 0,
            next_run: 0,
        }
    }

    /// What a hello tells of an earlier session.
    pub(super) fn held(&self) -> Vec<HeldTask> {
        let held = self.by_attempt.iter().map(|(attempt, run)| HeldTask {
            task: Some((*attempt).into()),
            finished: matches!(
                self.by_run.get(run).map(|held| &held.phase),
                Some(Phase::Ended { .. })
            ),
        });
        held.collect()
    }

    /// What a heartbeat names; nothing if it is too much for each of them.
    pub(super) fn named(&self) -> Option<HeldTasks> {
        (self.by_attempt.len() <= NAMED_MAX).then(|| HeldTasks { tasks: self.held() })
    }

    /// A new link: all results are to be sent again, all credits are void.
    pub(super) fn relink(&mut self) {
        self.credits = 0;
        self.unjudged = 0;
        self.unsent.clear();
        self.uploads.clear();
        self.started.clear();
        let runs: Vec<RunNumber> = self.by_run.keys().copied().collect();
        for run in runs {
            match self.by_run.get_mut(&run).map(|held| &mut held.phase) {
                Some(Phase::Ended { delivery, .. }) => {
                    *delivery = Delivery::Waiting(0);
                    self.offer(run);
                }
                Some(Phase::Running {
                    unwanted: false,
                    begun: true,
                    ..
                }) => self.started.push(run),
                Some(Phase::Running { .. } | Phase::Queued(_)) | None => {}
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
        if self.by_attempt.contains_key(&attempt) || self.judged_set.contains(&attempt) {
            return false;
        }
        let run = self.next_number();
        self.by_attempt.insert(attempt, run);
        let phase = Phase::Queued(assignment);
        self.by_run.insert(run, Held { attempt, phase });
        self.queue.push_back(run);
        true
    }

    /// The next attempt that may start, if a slot is free.
    pub(super) fn next_to_start(&mut self) -> Option<(RunNumber, Assignment)> {
        while self.running < self.usable {
            let run = self.queue.pop_front()?;
            if let Some(Held {
                phase: Phase::Queued(assignment),
                ..
            }) = self.by_run.get_mut(&run)
            {
                return Some((run, core::mem::take(assignment)));
            }
        }
        None
    }

    const fn capacity(&self) -> usize {
        self.usable.saturating_add(self.ahead)
    }

    /// Notes the end of an attempt, running or not.
    pub(super) fn on_ended(&mut self, run: RunNumber, outcome: Outcome, output: Bytes) {
        let Some(held) = self.by_run.get_mut(&run) else {
            return;
        };
        if let Phase::Running { unwanted, .. } = held.phase {
            self.running = self.running.saturating_sub(1);
            if unwanted {
                self.by_run.remove(&run);
                return;
            }
        }
        self.output_bytes = self.output_bytes.saturating_add(output.len());
        held.phase = Phase::Ended {
            outcome,
            output,
            delivery: Delivery::Waiting(0),
        };
        self.offer(run);
    }

    /// Puts a result where it waits for its next step.
    fn offer(&mut self, run: RunNumber) {
        let Some(Held {
            phase: Phase::Ended {
                output, delivery, ..
            },
            ..
        }) = self.by_run.get_mut(&run)
        else {
            return;
        };
        if *delivery == Delivery::Waiting(0) && output.len() > INLINE_BYTES_MAX {
            *delivery = Delivery::Uploading;
            let output = output.clone();
            self.uploads.push(Upload { run, output });
        } else {
            self.unsent.push_back(run);
        }
    }

    pub(super) fn take_uploads(&mut self) -> Vec<Upload> {
        core::mem::take(&mut self.uploads)
    }

    /// Notes the receipt of an upload over this link; `None` when the output cannot be kept.
    pub(super) fn on_uploaded(&mut self, run: RunNumber, receipt: Option<u64>) {
        if let Some(Held {
            phase:
                Phase::Ended {
                    outcome,
                    output,
                    delivery,
                },
            ..
        }) = self.by_run.get_mut(&run)
            && *delivery == Delivery::Uploading
        {
            *delivery = Delivery::Waiting(receipt.unwrap_or(0));
            if receipt.is_none() {
                outcome.result_dropped = true;
                self.output_bytes = self.output_bytes.saturating_sub(output.len());
                *output = Bytes::new();
            }
            self.unsent.push_back(run);
        }
    }

    /// The daemon does not know the upload of a result, and has recorded nothing: once more from the start.
    pub(super) fn upload_again(&mut self, attempt: Attempt) {
        if let Some(run) = self.by_attempt.get(&attempt).copied()
            && let Some(Held {
                phase: Phase::Ended { delivery, .. },
                ..
            }) = self.by_run.get_mut(&run)
            && *delivery == Delivery::Sent
        {
            *delivery = Delivery::Waiting(0);
            self.unjudged = self.unjudged.saturating_sub(1);
            self.offer(run);
        }
    }

    /// The daemon does not take a result for one, which is a fault of ours or of a daemon that speaks another version: the attempt
    /// failed, and says why. If that is refused too, it goes.
    pub(super) fn refused(&mut self, attempt: Attempt, reason: &str) {
        let Some(run) = self.by_attempt.get(&attempt).copied() else {
            return;
        };
        if let Some(Held {
            phase:
                Phase::Ended {
                    outcome,
                    output,
                    delivery,
                },
            ..
        }) = self.by_run.get_mut(&run)
            && *delivery == Delivery::Sent
            && outcome.kind() != OutcomeKind::TransferFailed
        {
            let said = TaskOutput {
                message: format!("the daemon has refused the result: {reason}"),
                ..TaskOutput::default()
            };
            let said = Bytes::from(said.encode_to_vec());
            self.output_bytes = self.output_bytes.saturating_sub(output.len()) + said.len();
            *output = said;
            *outcome = Outcome {
                kind: OutcomeKind::TransferFailed.into(),
                ..Outcome::default()
            };
            *delivery = Delivery::Waiting(0);
            self.unjudged = self.unjudged.saturating_sub(1);
            self.offer(run);
        } else {
            self.on_verdict(attempt);
        }
    }

    /// Asks an attempt to stop. A waiting one that is cancelled is over at once: true, and the caller
    /// says how it ended.
    pub(super) fn stop(&mut self, attempt: Attempt, cause: StopCause) -> Option<RunNumber> {
        if cause == StopCause::Stale {
            self.abandon(attempt);
            return None;
        }
        let run = *self.by_attempt.get(&attempt)?;
        match &self.by_run.get(&run)?.phase {
            Phase::Queued(_) => Some(run),
            Phase::Running { switch, .. } => {
                let at_once = false;
                switch.stop(StopOrder { cause, at_once });
                None
            }
            Phase::Ended { .. } => None,
        }
    }

    /// Ends an attempt that is no longer this worker's; its result is not reported.
    pub(super) fn abandon(&mut self, attempt: Attempt) {
        let Some(run) = self.by_attempt.remove(&attempt) else {
            return;
        };
        match self.by_run.get_mut(&run).map(|held| &mut held.phase) {
            Some(Phase::Running {
                switch, unwanted, ..
            }) => {
                *unwanted = true;
                switch.stop(StopOrder {
                    cause: StopCause::Stale,
                    at_once: false,
                });
            }
            Some(Phase::Queued(_) | Phase::Ended { .. }) => self.remove(run),
            None => {}
        }
    }

    /// Ends everything: the worker was lost or replaced, perhaps in another segment, where ids begin anew.
    pub(super) fn abandon_all(&mut self) {
        self.judged.clear();
        self.judged_set.clear();
        let attempts: Vec<Attempt> = self.by_attempt.keys().copied().collect();
        for attempt in attempts {
            self.abandon(attempt);
        }
    }

    /// Ends what waits or runs; results are still delivered.
    pub(super) fn abandon_unfinished(&mut self) {
        let is_unfinished = |run: &RunNumber| {
            let phase = self.by_run.get(run).map(|held| &held.phase);
            !matches!(phase, Some(Phase::Ended { .. }))
        };
        let attempts = self.by_attempt.iter().filter(|(_, run)| is_unfinished(run));
        let attempts: Vec<Attempt> = attempts.map(|(attempt, _)| *attempt).collect();
        for attempt in attempts {
            self.abandon(attempt);
        }
    }

    /// Ends what waits or runs, without grace.
    pub(super) fn kill_all(&mut self) {
        self.abandon_unfinished();
        for held in self.by_run.values() {
            if let Phase::Running { switch, .. } = &held.phase {
                switch.stop(StopOrder {
                    cause: StopCause::Stale,
                    at_once: true,
                });
            }
        }
    }

    /// The daemon has said what became of a result.
    pub(super) fn on_verdict(&mut self, attempt: Attempt) {
        if let Some(run) = self.by_attempt.get(&attempt).copied()
            && let Some(Phase::Ended { .. }) = self.by_run.get(&run).map(|held| &held.phase)
        {
            self.by_attempt.remove(&attempt);
            self.remove(run);
            if self.judged.len() >= JUDGED_MAX
                && let Some(oldest) = self.judged.pop_front()
            {
                self.judged_set.remove(&oldest);
            }
            if self.judged_set.insert(attempt) {
                self.judged.push_back(attempt);
            }
        }
    }

    fn remove(&mut self, run: RunNumber) {
        if let Some(held) = self.by_run.remove(&run)
            && let Phase::Ended {
                output, delivery, ..
            } = held.phase
        {
            self.output_bytes = self.output_bytes.saturating_sub(output.len());
            if delivery == Delivery::Sent {
                self.unjudged = self.unjudged.saturating_sub(1);
            }
        }
    }

    /// Attempts that were begun, whatever became of them, and have no verdict: what a worker says before it leaves.
    pub(super) fn begun(&self) -> Vec<TaskRef> {
        let begun = self.by_run.values().filter(|held| match held.phase {
            Phase::Running { .. } | Phase::Ended { .. } => true,
            Phase::Queued(_) => false,
        });
        begun.map(|held| held.attempt.into()).collect()
    }

    /// Attempts that the daemon has not yet been told the start of, and still run.
    pub(super) fn take_started(&mut self) -> Vec<TaskRef> {
        let started = core::mem::take(&mut self.started);
        let running = started.iter().filter_map(|run| {
            let held = self.by_run.get(run)?;
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

    /// Results for one report, at most as many as fit.
    pub(super) fn take_results(&mut self) -> Vec<TaskResult> {
        let mut results = Vec::new();
        let mut bytes = 0;
        while results.len() < REPORT_ENTRIES && bytes < REPORT_OUTPUT_BYTES {
            let Some(run) = self.unsent.pop_front() else {
                break;
            };
            let Some(held) = self.by_run.get_mut(&run) else {
                continue;
            };
            if let Phase::Ended {
                outcome,
                output,
                delivery,
            } = &mut held.phase
                && let Delivery::Waiting(receipt) = *delivery
            {
                *delivery = Delivery::Sent;
                self.unjudged += 1;
                let inline = if receipt == 0 {
                    output.clone()
                } else {
                    Bytes::new()
                };
                bytes += inline.len();
                results.push(TaskResult {
                    task: Some(held.attempt.into()),
                    outcome: Some(*outcome),
                    output: inline,
                    output_upload: receipt,
                });
            }
        }
        results
    }

    pub(super) fn has_news(&self) -> bool {
        !self.started.is_empty() || !self.unsent.is_empty()
    }

    /// Attempts that take room: waiting, running (wanted or not), or ended and not yet reported.
    fn occupied(&self) -> usize {
        let unreported = self
            .by_run
            .len()
            .saturating_sub(self.running + self.unjudged);
        self.running + unreported
    }

    /// Attempts the daemon will see as this worker's once it has read what was sent.
    pub(super) fn holding(&self) -> u32 {
        let held = self.by_attempt.len().saturating_sub(self.unjudged);
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
        self.queue.len() > (self.slots + self.ahead).saturating_mul(2)
    }

    /// Nothing runs and no result is undelivered; what waits for a slot does not count.
    pub(super) fn is_quiet(&self) -> bool {
        self.running == 0
            && self
                .by_run
                .values()
                .all(|held| matches!(held.phase, Phase::Queued(_)))
    }

    /// Nothing runs.
    pub(super) const fn is_idle(&self) -> bool {
        self.running == 0
    }

    fn next_number(&mut self) -> RunNumber {
        self.next_run += 1;
        RunNumber(self.next_run)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stop::stop_pair;

    pub(super) fn assignment(task_id: u64) -> Assignment {
        Assignment {
            task: Some(TaskRef {
                task_id,
                attempt: 1,
            }),
            kind: "echo".into(),
            ..Assignment::default()
        }
    }

    fn attempt(task_id: u64) -> Attempt {
        Attempt {
            task_id,
            attempt: 1,
        }
    }

    /// Starts what may start.
    fn start(tasks: &mut Tasks) -> Vec<RunNumber> {
        let mut runs = Vec::new();
        while let Some((run, _)) = tasks.next_to_start() {
            tasks.on_starting(run, stop_pair(0).0);
            tasks.on_begun(run);
            runs.push(run);
        }
        runs
    }

    #[test]
    fn credits_and_occupied_room_never_exceed_capacity() {
        let mut tasks = Tasks::new(2, 3);
        tasks.relink();
        assert_eq!(tasks.grant(), 3);
        assert_eq!(tasks.grant(), 0);
        for id in 1..=3 {
            assert!(tasks.accept(assignment(id)));
        }
        assert_eq!(tasks.grant(), 0);
        let runs = start(&mut tasks);
        assert_eq!(runs.len(), 2, "two slots");
        tasks.on_ended(runs[0], Outcome::default(), Bytes::new());
        assert_eq!(tasks.grant(), 0, "not before its result is sent");
        assert_eq!(tasks.take_results().len(), 1);
        assert_eq!(tasks.grant(), 1);
        tasks.on_verdict(attempt(1));
        assert_eq!(tasks.grant(), 0, "one credit a slot");
    }

    #[test]
    fn start_is_not_told_when_the_result_is_there() {
        let mut tasks = Tasks::new(2, 2);
        tasks.accept(assignment(1));
        tasks.accept(assignment(2));
        let runs = start(&mut tasks);
        tasks.on_ended(runs[0], Outcome::default(), Bytes::new());
        let started = tasks.take_started();
        assert_eq!(started.len(), 1);
        assert_eq!(started[0].task_id, 2);
    }

    #[test]
    fn results_without_verdict_are_sent_again_over_a_new_link() {
        let mut tasks = Tasks::new(1, 1);
        tasks.accept(assignment(1));
        let runs = start(&mut tasks);
        tasks.on_ended(runs[0], Outcome::default(), Bytes::from_static(b"out"));
        assert_eq!(tasks.take_results().len(), 1);
        assert!(tasks.held()[0].finished);
        tasks.relink();
        assert_eq!(tasks.grant(), 0, "capacity minus held");
        assert_eq!(tasks.take_results()[0].output, "out");
        assert_eq!(tasks.grant(), 1);
        tasks.on_verdict(attempt(1));
        assert!(tasks.is_quiet());
        assert!(tasks.held().is_empty());
    }

    #[test]
    fn abandoned_attempt_keeps_its_slot_until_it_has_ended_and_is_not_reported() {
        let mut tasks = Tasks::new(1, 1);
        assert_eq!(tasks.grant(), 1);
        tasks.accept(assignment(1));
        let runs = start(&mut tasks);
        tasks.abandon_all();
        tasks.relink();
        assert_eq!(tasks.grant(), 0);
        assert!(tasks.held().is_empty());
        tasks.on_ended(runs[0], Outcome::default(), Bytes::new());
        assert!(tasks.take_results().is_empty());
        assert_eq!(tasks.grant(), 1);
    }

    #[test]
    fn repeated_assignment_is_run_once() {
        let mut tasks = Tasks::new(4, 4);
        assert!(tasks.accept(assignment(1)));
        assert!(!tasks.accept(assignment(1)));
        let runs = start(&mut tasks);
        assert_eq!(runs.len(), 1);
        tasks.on_ended(runs[0], Outcome::default(), Bytes::new());
        tasks.take_results();
        tasks.on_verdict(attempt(1));
        assert!(!tasks.accept(assignment(1)), "also after its verdict");
        tasks.abandon_all();
        assert!(tasks.accept(assignment(1)), "of another segment");
    }

    #[test]
    fn results_without_verdict_are_bounded_and_nothing_is_asked_for_beyond() {
        let mut tasks = Tasks::new(1, 1);
        tasks.relink();
        let mut id = 0;
        while tasks.has_credits_due() {
            assert_eq!(tasks.grant(), 1);
            id += 1;
            assert!(id <= 2 * UNJUDGED_MIN as u64, "no bound in number");
            tasks.accept(assignment(id));
            let runs = start(&mut tasks);
            tasks.on_ended(runs[0], Outcome::default(), Bytes::new());
            tasks.take_results();
        }
        assert_eq!(tasks.grant(), 0);
        tasks.on_verdict(attempt(1));
        assert!(tasks.has_credits_due());
        for judged in 2..=id {
            tasks.on_verdict(attempt(judged));
        }

        let large = Bytes::from(vec![0; 1 << 20]);
        let before = id;
        while tasks.has_credits_due() {
            tasks.grant();
            id += 1;
            assert!(id - before <= 512, "no bound in bytes");
            tasks.accept(assignment(id));
            let runs = start(&mut tasks);
            tasks.on_ended(runs[0], Outcome::default(), large.clone());
            tasks.on_uploaded(runs[0], Some(1));
            tasks.take_results();
        }
        tasks.on_verdict(attempt(before + 1));
        assert!(tasks.has_credits_due());
    }

    #[test]
    fn large_output_waits_for_its_receipt_and_is_uploaded_again_over_a_new_link() {
        let mut tasks = Tasks::new(1, 1);
        tasks.accept(assignment(1));
        let runs = start(&mut tasks);
        let output = Bytes::from(vec![1; INLINE_BYTES_MAX + 1]);
        tasks.on_ended(runs[0], Outcome::default(), output);
        assert!(tasks.take_results().is_empty());
        assert_eq!(tasks.take_uploads().len(), 1);
        tasks.relink();
        assert_eq!(tasks.take_uploads().len(), 1);
        tasks.on_uploaded(runs[0], Some(77));
        let results = tasks.take_results();
        assert_eq!(results[0].output_upload, 77);
        assert!(results[0].output.is_empty());
    }

    #[test]
    fn output_whose_upload_is_not_known_takes_room_again_until_it_is_sent_once_more() {
        let mut tasks = Tasks::new(1, 1);
        tasks.grant();
        tasks.accept(assignment(1));
        let runs = start(&mut tasks);
        let output = Bytes::from(vec![1; INLINE_BYTES_MAX + 1]);
        tasks.on_ended(runs[0], Outcome::default(), output);
        tasks.take_uploads();
        tasks.on_uploaded(runs[0], Some(7));
        tasks.take_results();
        assert_eq!(tasks.unjudged, 1);
        tasks.upload_again(attempt(1));
        assert_eq!((tasks.unjudged, tasks.grant()), (0, 0));
        assert_eq!(tasks.take_uploads().len(), 1);
        tasks.upload_again(attempt(1));
        assert!(tasks.take_uploads().is_empty(), "it is under way");
        tasks.on_uploaded(runs[0], Some(8));
        assert_eq!(tasks.take_results()[0].output_upload, 8);
        assert_eq!(tasks.grant(), 1);
        tasks.on_verdict(attempt(1));
        tasks.upload_again(attempt(1));
        assert!(tasks.is_quiet());
    }

    #[test]
    fn output_that_cannot_be_kept_is_said_to_be_dropped() {
        let mut tasks = Tasks::new(1, 1);
        tasks.accept(assignment(1));
        let runs = start(&mut tasks);
        let output = Bytes::from(vec![1; INLINE_BYTES_MAX + 1]);
        tasks.on_ended(runs[0], Outcome::default(), output);
        tasks.take_uploads();
        tasks.on_uploaded(runs[0], None);
        assert!(tasks.take_results()[0].outcome.unwrap().result_dropped);
    }

    #[test]
    fn cancelled_while_waiting_is_over_at_once() {
        let mut tasks = Tasks::new(1, 2);
        tasks.accept(assignment(1));
        tasks.accept(assignment(2));
        start(&mut tasks);
        assert_eq!(tasks.stop(attempt(1), StopCause::Cancelled), None);
        let run = tasks.stop(attempt(2), StopCause::Cancelled).unwrap();
        tasks.on_ended(run, Outcome::default(), Bytes::new());
        assert_eq!(tasks.take_results().len(), 1);
        assert!(tasks.next_to_start().is_none());
    }
}
