//! The checks, in the order in which they are made: what docs/PROTOCOL.md asks of a worker, one function each in `presence`, `results` and `going`.
//!
//! A check runs tasks of its own, ends them, and says what it expected and what it found. None believes the worker: what it
//! said is taken from the wire, what came of it from the daemon. Tested in `tests/tests/conformance/worker_check.rs`, against workers that keep to it and
//! against some that do not.

mod going;
mod presence;
mod results;

use std::process::ExitStatus;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use qtf_client::{Client, Task, TaskEnd, TaskId};

use super::proxy::Proxy;
use super::wire::{Attempt, Seen, Wire};

/// Gives its payload back.
pub(super) const ECHO: &str = "check.echo";
/// Runs as many milliseconds as its payload says, unless it is told to stop, and gives the payload back.
pub(super) const WAIT: &str = "check.wait";
/// What a worker may offer instead of both.
const EXEC: &str = "exec";

/// Longer than any check takes.
const LONG_MS: u64 = 600_000;

/// What was expected, and what was found instead.
#[derive(Debug)]
pub(super) struct Complaint {
    pub(super) expected: String,
    pub(super) found: String,
}

/// A check that passed may have something to say.
pub(super) type Checked = Result<Option<&'static str>, Complaint>;

fn complain<T>(expected: impl Into<String>, found: impl Into<String>) -> Result<T, Complaint> {
    Err(Complaint {
        expected: expected.into(),
        found: found.into(),
    })
}

/// The daemon behind did not do what it was asked: the check says nothing about the worker.
fn of_daemon(error: impl core::fmt::Display) -> Complaint {
    Complaint {
        expected: "an answer of the daemon behind the check".to_owned(),
        found: error.to_string(),
    }
}

/// Nothing more can be said then.
pub(super) fn program_ended(status: ExitStatus) -> Checked {
    complain(
        "a worker that stays until it is drained",
        format!("its program has ended: {status}"),
    )
}

/// One check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Check {
    Hello,
    Credits,
    Heartbeats,
    Result,
    CreditsAgain,
    Large,
    Held,
    Probe,
    Cancel,
    TimeLimit,
    Refused,
    UploadAgain,
    Reconnect,
    Evicted,
    Drain,
}

/// A check as people name it, and where its rule stands: a section of docs/PROTOCOL.md and the point in it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Step {
    pub(super) check: Check,
    pub(super) name: &'static str,
    pub(super) rule: &'static str,
}

impl Step {
    /// A worker that does what it is to do ends.
    pub(super) fn sends_away(&self) -> bool {
        self.check == Check::Drain
    }
}

const fn step(check: Check, name: &'static str, rule: &'static str) -> Step {
    Step { check, name, rule }
}

/// In this order: the first finds the worker, the last sends it away.
pub(super) const STEPS: [Step; 15] = [
    step(Check::Hello, "hello", "The life of a worker"),
    step(Check::Credits, "credits", "The life of a worker"),
    step(
        Check::Heartbeats,
        "heartbeats",
        "The life of a worker: Heartbeats",
    ),
    step(Check::Result, "result", "The life of a worker"),
    step(Check::CreditsAgain, "credits-again", "The life of a worker"),
    step(Check::Large, "large", "The life of a worker: Results"),
    step(Check::Held, "held", "The life of a worker: What it holds"),
    step(Check::Probe, "probe", "The life of a worker: Heartbeats"),
    step(Check::Cancel, "cancellation", "The life of a worker: Stops"),
    step(
        Check::TimeLimit,
        "time-limit",
        "The life of a worker: Stops",
    ),
    step(
        Check::Refused,
        "refused-result",
        "The life of a worker: Results",
    ),
    step(
        Check::UploadAgain,
        "upload-again",
        "The life of a worker: Results",
    ),
    step(
        Check::Reconnect,
        "reconnect",
        "The life of a worker: Coming back",
    ),
    step(
        Check::Evicted,
        "eviction",
        "The life of a worker: Heartbeats",
    ),
    step(Check::Drain, "drain", "The life of a worker: Leaving"),
];

/// Ways in which a worker runs the tasks of the checks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Kinds,
    Exec,
}

/// The script, with what it works on.
pub(super) struct Script<'s> {
    wire: &'s Wire,
    proxy: &'s Proxy,
    client: Client,
    /// For the worker to come.
    wait_for: Duration,
    /// For each step that the worker is to take.
    patience: Duration,
    way: Way,
    /// Submitted and not seen to end.
    open: Mutex<Vec<TaskId>>,
}

impl<'s> Script<'s> {
    pub(super) fn new(
        wire: &'s Wire,
        proxy: &'s Proxy,
        client: Client,
        wait_for: Duration,
    ) -> Self {
        Self {
            wire,
            proxy,
            client,
            wait_for,
            patience: super::PATIENCE,
            way: Way::Kinds,
            open: Mutex::default(),
        }
    }

    fn open(&self) -> MutexGuard<'_, Vec<TaskId>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends what a check that failed has left, so that the next one says what the worker does with it and nothing else.
    pub(super) async fn clean(&self) {
        self.wire.every_result_passes();
        self.proxy.mend();
        let left = self.open().clone();
        for id in left {
            // Then it is not there any more.
            let _ended = self.clear(id).await;
        }
        self.open().clear();
        // A check that needs a session says that there is none.
        let _back = self
            .wire
            .until(self.patience, |seen| {
                let last = seen.sessions.last()?;
                last.welcome.is_some().then_some(())
            })
            .await;
    }

    /// Makes one check.
    pub(super) async fn make(&mut self, check: Check) -> Checked {
        match check {
            Check::Hello => self.hello().await,
            Check::Credits => self.credits().await,
            Check::Heartbeats => self.heartbeats().await,
            Check::Result => self.result().await,
            Check::CreditsAgain => self.credits_again().await,
            Check::Large => self.large().await,
            Check::Held => self.held().await,
            Check::Probe => self.probe().await,
            Check::Cancel => self.cancel().await,
            Check::TimeLimit => self.time_limit().await,
            Check::Refused => self.refused().await,
            Check::UploadAgain => self.upload_again().await,
            Check::Reconnect => self.reconnect().await,
            Check::Evicted => self.evicted().await,
            Check::Drain => self.drain().await,
        }
    }

    fn echo(&self, bytes: &[u8]) -> Task {
        match self.way {
            Way::Kinds => Task::handler(ECHO, bytes.to_vec()),
            Way::Exec => Task::exec(["cat"]).stdin(bytes.to_vec()),
        }
    }

    fn wait(&self, ms: u64) -> Task {
        match self.way {
            Way::Kinds => Task::handler(WAIT, ms.to_string()),
            Way::Exec => Task::exec([
                "sleep".to_owned(),
                format!("{}.{:03}", ms / 1_000, ms % 1_000),
            ]),
        }
    }

    async fn submit(&self, task: Task) -> Result<TaskId, Complaint> {
        let accepted = self.client.submit(task).await.map_err(of_daemon)?;
        self.open().push(accepted.id);
        Ok(accepted.id)
    }

    /// A task that the worker has begun.
    async fn running(&self, task: Task, what: &str) -> Result<(TaskId, Attempt), Complaint> {
        let id = self.submit(task).await?;
        let attempt = (id.as_raw(), 1);
        self.begun(attempt, what).await?;
        Ok((id, attempt))
    }

    async fn begun(&self, attempt: Attempt, what: &str) -> Result<(), Complaint> {
        let begun = |seen: &Seen| seen.started.contains(&attempt).then_some(());
        match self.wire.until(self.patience, begun).await {
            Some(()) => Ok(()),
            None => complain(
                format!("`started` for {what}, attempt {}", attempt.1),
                format!("none within {} s", self.patience.as_secs()),
            ),
        }
    }

    async fn end(&self, id: TaskId, what: &str) -> Result<TaskEnd, Complaint> {
        match tokio::time::timeout(self.patience, self.client.wait(id)).await {
            Ok(end) => {
                self.open().retain(|open| *open != id);
                end.map_err(of_daemon)
            }
            Err(_elapsed) => complain(
                format!("the end of {what}"),
                format!("none within {} s", self.patience.as_secs()),
            ),
        }
    }

    /// Ends what a check has left running.
    async fn clear(&self, id: TaskId) -> Result<(), Complaint> {
        self.client
            .cancel(&[id], "check")
            .await
            .map_err(of_daemon)?;
        // By the worker, or by the daemon after its grace: another check is about that.
        let ended = tokio::time::timeout(self.patience * 2, self.client.wait(id)).await;
        match ended {
            Ok(end) => {
                self.open().retain(|open| *open != id);
                end.map(drop).map_err(of_daemon)
            }
            Err(_elapsed) => Err(of_daemon("a cancelled task does not end")),
        }
    }

    fn capacity(&self) -> u64 {
        let seen = self.wire.seen();
        seen.session()
            .map_or(1, |session| session.hello.capacity.into())
    }

    fn is_echo(end: &TaskEnd, bytes: &[u8], what: &str) -> Result<(), Complaint> {
        let output = end.output.as_ref().map(|output| output.stdout.len());
        if !end.is_done() {
            return complain(
                format!("{what} DONE"),
                format!("{:?}, outcome {:?}", end.state, end.outcome.kind()),
            );
        }
        if end
            .output
            .as_ref()
            .is_none_or(|output| output.stdout != bytes)
        {
            return complain(
                format!(
                    "the {} bytes of the payload as output of {what}",
                    bytes.len()
                ),
                format!("other ones, {} of them", output.unwrap_or(0)),
            );
        }
        Ok(())
    }
}
