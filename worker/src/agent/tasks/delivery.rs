//! How the result of an attempt that has ended reaches the daemon: inline or by an upload, once over each link, until its verdict.
//!
//! Tested in `tests`.

use bytes::Bytes;
use prost::Message as _;
use qtf_proto::limits::{BATCH_ENTRIES_MAX, INLINE_BYTES_MAX};
use qtf_proto::v1::{Outcome, OutcomeKind, TaskOutput, TaskResult};

use super::{Attempt, Held, Phase, RunNumber, Tasks};

/// LIMIT: bytes of outputs in one report, so that it stays well below the message limit.
const REPORT_OUTPUT_BYTES: usize = 1 << 20;
/// LIMIT: results in one report.
const REPORT_ENTRIES: usize = BATCH_ENTRIES_MAX;

/// LIMIT: sent of the standard error of a failed attempt beside its upload; the daemon keeps about as much.
const STDERR_TAIL_BYTES: usize = 1 << 10;

/// What an attempt has left, kept until the daemon has said what became of it.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) outcome: Outcome,
    pub(super) output: Bytes,
    /// Of one that failed and is to be uploaded: the end of its standard error.
    pub(super) stderr_tail: Bytes,
    pub(super) delivery: Delivery,
}

/// How far it has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Delivery {
    /// To be sent; the receipt of its upload, or 0.
    Waiting(u64),
    Uploading,
    /// With the report of this number.
    Sent(u64),
}

impl Ended {
    pub(super) fn new(outcome: Outcome, output: Bytes) -> Self {
        let failed = outcome.kind() != OutcomeKind::Exited || outcome.code != 0;
        let stderr_tail = if failed && output.len() > INLINE_BYTES_MAX {
            let stderr = TaskOutput::decode(output.clone())
                .unwrap_or_default()
                .stderr;
            Bytes::copy_from_slice(&stderr[stderr.len().saturating_sub(STDERR_TAIL_BYTES)..])
        } else {
            Bytes::new()
        };
        Self {
            outcome,
            output,
            stderr_tail,
            delivery: Delivery::Waiting(0),
        }
    }
}

/// A large output that has to be uploaded before its result is reported.
#[derive(Debug)]
pub(in crate::agent) struct Upload {
    pub(in crate::agent) run: RunNumber,
    pub(in crate::agent) output: Bytes,
}

impl Held {
    const fn has_ended(&self) -> bool {
        matches!(self.phase, Phase::Ended(_))
    }

    fn ended(&mut self) -> Option<&mut Ended> {
        match &mut self.phase {
            Phase::Ended(ended) => Some(ended),
            Phase::Queued | Phase::InLine { .. } | Phase::Running { .. } => None,
        }
    }
}

impl Tasks {
    /// Puts a result where it waits for its next step.
    pub(super) fn offer(&mut self, run: RunNumber) {
        let Some(ended) = self.places.get_mut(run).and_then(Held::ended) else {
            return;
        };
        if ended.delivery == Delivery::Waiting(0) && ended.output.len() > INLINE_BYTES_MAX {
            ended.delivery = Delivery::Uploading;
            let output = ended.output.clone();
            self.uploads.push(Upload { run, output });
        } else {
            self.unsent.push_back(run);
        }
    }

    pub(in crate::agent) fn take_uploads(&mut self) -> Vec<Upload> {
        core::mem::take(&mut self.uploads)
    }

    /// Notes the receipt of an upload over this link; `None` when the output cannot be kept.
    pub(in crate::agent) fn on_uploaded(&mut self, run: RunNumber, receipt: Option<u64>) {
        let uploading = |ended: &&mut Ended| ended.delivery == Delivery::Uploading;
        let ended = self.places.get_mut(run).and_then(Held::ended);
        let Some(ended) = ended.filter(uploading) else {
            return;
        };
        ended.delivery = Delivery::Waiting(receipt.unwrap_or(0));
        if receipt.is_none() {
            ended.outcome.result_dropped = true;
            self.output_bytes = self.output_bytes.saturating_sub(ended.output.len());
            ended.output = Bytes::new();
        }
        self.unsent.push_back(run);
    }

    /// The daemon does not know the upload of a result, and has recorded nothing: once more from the start.
    pub(in crate::agent) fn upload_again(&mut self, attempt: Attempt) {
        self.send_again(attempt, |_| true);
    }

    /// The daemon does not take a result for one, which is a fault of ours or of a daemon that speaks another version: the attempt
    /// failed, and says why. If that is refused too, it goes.
    pub(in crate::agent) fn refused(&mut self, attempt: Attempt, reason: &str) {
        let becomes_a_failure = |ended: &mut Ended| {
            if ended.outcome.kind() == OutcomeKind::TransferFailed {
                return false;
            }
            let said = TaskOutput {
                message: format!("the daemon has refused the result: {reason}"),
                ..TaskOutput::default()
            };
            ended.output = said.encode_to_vec().into();
            ended.outcome = Outcome {
                kind: OutcomeKind::TransferFailed.into(),
                ..Outcome::default()
            };
            true
        };
        if !self.send_again(attempt, becomes_a_failure) {
            self.on_verdict(attempt);
        }
    }

    /// Has a result that was sent go out once more, changed as it is to be, if it is to. Returns whether it does.
    fn send_again(&mut self, attempt: Attempt, change: impl FnOnce(&mut Ended) -> bool) -> bool {
        let Some(run) = self.known.run_of(attempt) else {
            return false;
        };
        let ended = self.places.get_mut(run).and_then(Held::ended);
        let Some((report, ended)) = ended.and_then(|ended| match ended.delivery {
            Delivery::Sent(report) => Some((report, ended)),
            Delivery::Waiting(_) | Delivery::Uploading => None,
        }) else {
            return false;
        };
        let before = ended.output.len();
        if !change(ended) {
            return false;
        }
        ended.delivery = Delivery::Waiting(0);
        self.output_bytes = self.output_bytes.saturating_sub(before) + ended.output.len();
        self.unjudged = self.unjudged.saturating_sub(1);
        self.reports.note_one(report);
        self.offer(run);
        true
    }

    /// Results for one report, at most as many as fit, and its number; 0 if there are none.
    pub(in crate::agent) fn take_results(&mut self) -> (u64, Vec<TaskResult>) {
        let (mut results, mut runs) = (Vec::new(), Vec::new());
        let mut bytes = 0;
        let number = self.reports.next_number();
        while results.len() < REPORT_ENTRIES && bytes < REPORT_OUTPUT_BYTES {
            let Some(run) = self.unsent.pop_front() else {
                break;
            };
            let Some(held) = self.places.get_mut(run) else {
                continue;
            };
            let task = held.attempt.into();
            if let Some(ended) = held.ended()
                && let Delivery::Waiting(receipt) = ended.delivery
            {
                ended.delivery = Delivery::Sent(number);
                runs.push(run);
                self.unjudged += 1;
                let inline = if receipt == 0 {
                    ended.output.clone()
                } else {
                    Bytes::new()
                };
                bytes += inline.len();
                results.push(TaskResult {
                    task: Some(task),
                    outcome: Some(ended.outcome),
                    output: inline,
                    output_upload: receipt,
                    stderr_tail: ended.stderr_tail.clone(),
                });
            }
        }
        if results.is_empty() {
            return (0, results);
        }
        self.reports.add(number, runs);
        (number, results)
    }

    /// The daemon has recorded all results of a report.
    pub(in crate::agent) fn on_recorded(&mut self, report: u64) {
        for run in self.reports.take(report) {
            if let Some(held) = self.places.get(run)
                && let Phase::Ended(ended) = &held.phase
                && ended.delivery == Delivery::Sent(report)
            {
                self.on_verdict(held.attempt);
            }
        }
    }

    /// The daemon has said what became of a result.
    pub(in crate::agent) fn on_verdict(&mut self, attempt: Attempt) {
        let places = &self.places;
        let has_ended = |run| matches!(places.get(run), Some(held) if held.has_ended());
        if let Some(run) = self.known.judge(attempt, has_ended) {
            self.remove(run);
        }
    }

    pub(super) fn remove(&mut self, run: RunNumber) {
        if let Some(mut held) = self.places.take(run)
            && let Some(ended) = held.ended()
        {
            self.output_bytes = self.output_bytes.saturating_sub(ended.output.len());
            if let Delivery::Sent(report) = ended.delivery {
                self.unjudged = self.unjudged.saturating_sub(1);
                self.reports.note_one(report);
            }
        }
    }
}
