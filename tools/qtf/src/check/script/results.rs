//! Checks of how attempts end: results, large ones, cancelled and late ones, and what follows a verdict that is not the last.

use std::time::Duration;

use qtf_client::{OutcomeKind, TaskId, TaskState};
use qtf_proto::v1::ResultDisposition;

use super::super::wire::{Attempt, Instead};
use super::{Checked, Complaint, LONG_MS, Script, complain, of_daemon};

/// A payload that does not fit a message, and neither does its output.
const LARGE_BYTES: usize = 200_000;
const LIMIT: Duration = Duration::from_millis(300);

impl Script<'_> {
    /// A result, after or without its start: what ends at once may be told by its end alone. That what lasts is told to have started is
    /// seen where the script waits for it.
    pub(super) async fn result(&self) -> Checked {
        let id = self.submit(self.echo(b"hello")).await?;
        let end = self.end(id, "a task").await?;
        Self::is_echo(&end, b"hello", "a task")?;
        let seen = self.wire.seen();
        let mut results = seen.results.iter();
        if results.any(|result| result.attempt == (id.as_raw(), 1)) {
            return Ok(None);
        }
        complain("a report with the result of the attempt", "none")
    }

    /// Payload and output that do not fit a message.
    pub(super) async fn large(&self) -> Checked {
        let bytes = large();
        let id = self.submit(self.echo(&bytes)).await?;
        let end = self.end(id, "a task with 200,000 bytes").await?;
        Self::is_echo(&end, &bytes, "a task with 200,000 bytes")?;
        let seen = self.wire.seen();
        if seen.fetches == 0 || seen.uploads == 0 {
            return complain(
                "FetchPayload and UploadOutput",
                "neither, and yet the right bytes",
            );
        }
        Ok(None)
    }

    /// A cancelled attempt is ended and reported.
    pub(super) async fn cancel(&self) -> Checked {
        let (id, attempt) = self.running(self.wait(LONG_MS), "a long task").await?;
        let asked = self.client.cancel(&[id], "check").await;
        asked.map_err(of_daemon)?;
        let end = self.end(id, "a cancelled task").await?;
        if end.state != TaskState::Cancelled {
            return complain("CANCELLED", format!("{:?}", end.state));
        }
        self.was_reported(attempt, "the cancelled attempt", None)
    }

    /// The worker enforces the time limit itself.
    pub(super) async fn time_limit(&self) -> Checked {
        let task = self.wait(LONG_MS).timeout(LIMIT);
        let (id, attempt) = self.running(task, "a task with a time limit").await?;
        let end = self
            .end(id, "a task that runs beyond its time limit")
            .await?;
        if end.state != TaskState::Failed || end.outcome.kind() != OutcomeKind::TimedOut {
            return complain(
                "FAILED with outcome TIMED_OUT",
                format!("{:?}, outcome {:?}", end.state, end.outcome.kind()),
            );
        }
        self.was_reported(
            attempt,
            "the attempt that ran too long",
            Some(OutcomeKind::TimedOut),
        )
    }

    /// A result that is refused is followed by one that is one.
    pub(super) async fn refused(&self) -> Checked {
        let reason = "this is the check of refused results: report another one";
        self.wire
            .instead_of_next_result(Instead::Verdict(ResultDisposition::Refused, reason));
        let id = self.submit(self.echo(b"refused")).await?;
        self.reported_twice(id, "another result after the verdict REFUSED")
            .await?;
        self.end(id, "the task whose first result was refused")
            .await?;
        Ok(None)
    }

    /// An output whose receipt is not known any more is uploaded anew.
    pub(super) async fn upload_again(&self) -> Checked {
        let again = Instead::Verdict(ResultDisposition::UploadAgain, "");
        self.wire.instead_of_next_result(again);
        let bytes = large();
        let id = self.submit(self.echo(&bytes)).await?;
        self.reported_twice(
            id,
            "the result again after UPLOAD_AGAIN, with a new receipt",
        )
        .await?;
        let receipts: Vec<u64> = {
            let seen = self.wire.seen();
            let results = seen.results.iter();
            let of_task = results.filter(|result| result.attempt == (id.as_raw(), 1));
            of_task.map(|result| result.upload).collect()
        };
        if receipts.first() == receipts.last() {
            self.clear(id).await?;
            return complain("a new receipt after UPLOAD_AGAIN", "the same one");
        }
        let end = self
            .end(id, "the task whose output was uploaded twice")
            .await?;
        Self::is_echo(&end, &bytes, "the task whose output was uploaded twice")?;
        Ok(None)
    }

    fn was_reported(&self, attempt: Attempt, what: &str, kind: Option<OutcomeKind>) -> Checked {
        let seen = self.wire.seen();
        let mut results = seen.results.iter();
        let expected = || {
            let kind = kind.map_or_else(String::new, |kind| {
                format!(" with outcome {}", kind.as_str_name())
            });
            format!(
                "a result of {what}{kind} within the grace of {} s",
                super::super::GRACE.as_secs()
            )
        };
        match results.find(|result| result.attempt == attempt) {
            None => complain(expected(), "none: the daemon ended it without the worker"),
            Some(result) if kind.is_some_and(|kind| result.outcome.kind() != kind) => {
                complain(expected(), result.outcome.kind().as_str_name())
            }
            Some(_) => Ok(None),
        }
    }

    async fn reported_twice(&self, id: TaskId, what: &str) -> Result<(), Complaint> {
        let attempt = (id.as_raw(), 1);
        let twice = self.wire.until(self.patience, |seen| {
            (seen.reported(attempt) >= 2).then_some(())
        });
        match twice.await {
            Some(()) => Ok(()),
            None => {
                let reported = self.wire.seen().reported(attempt);
                self.clear(id).await?;
                complain(what, format!("{reported} results of the attempt in all"))
            }
        }
    }
}

fn large() -> Vec<u8> {
    let bytes = (0..LARGE_BYTES).map(|index| u8::try_from(index % 251).unwrap_or(0));
    bytes.collect()
}
