//! Runs programs: one child, whatever it starts, its three pipes, its end.
//!
//! Invariants:
//! - E1: a program is the leader of its own session and process group. It is reaped only after the group has been
//!   signalled for the last time, so the group's number cannot belong to anybody else while it is used.
//! - E2: when an attempt has ended, all its processes have been killed, whatever way it ended, as far as what
//!   contains them reaches (see `contain`).
//! - E3: memory for outputs is bounded by the limits; the rest is read and counted, so that the child
//!   never stalls on a full pipe.
//! - E4: the end of the child ends the attempt after a bounded time, also when a process it left behind
//!   keeps the pipes open.
//!
//! Tested in `exec/tests.rs`.

mod capture;
mod environment;
mod roster;
mod spawn;
#[cfg(test)]
mod tests;
mod tree;

use core::pin::pin;
use core::time::Duration;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt as _;
use std::process::ExitStatus;

use nix::sys::signal::Signal;
use qtf_proto::v1::{ExecSpec, Outcome, OutcomeKind, TaskOutput};
use qtf_shm::TaskId;
use tokio::time::Instant;

use crate::attempt::{Ending, Finish, pause_ms};
use crate::contain::Containment;
use crate::stop::{StopCause, StopSignal};
use capture::{Capture, Feed};
pub use roster::{reap_strays, resume_programs, suspend_programs};
use spawn::NoChild;
use tree::Tree;

/// After a kill, what is in the pipes is taken for this long.
const LAST_READ: Duration = Duration::from_millis(100);

/// A program that ends sooner is told of by its end alone: so short a start is nobody's news, and half of all messages.
const TOLD_AFTER: Duration = Duration::from_millis(1);

/// LIMIT: tries to start a file that is being written.
const BUSY_TRIES: u32 = 5;
const BUSY_PAUSE: Duration = Duration::from_millis(20);

/// LIMIT: of the line that says why a program is to run again later.
const REASON_BYTES_MAX: usize = 512;

/// How programs are run.
///
/// A program gets `PATH`, `HOME`, `USER`, `LANG`, `LC_ALL`, `TZ` and `TMPDIR` of the worker (those that are
/// set, as they were when it ran its first program), then `QTF_TASK_ID` and `QTF_ATTEMPT`, as a member of an array `QTF_ARRAY_ID`
/// (the first member's id) and `QTF_ARRAY_INDEX`, then what its task says. Nothing else of the worker's
/// environment is inherited: what a task sees should not depend on how its worker was started, and
/// secrets in that environment are not the tasks' business. [`ExecPolicy::inherit_environment`] changes
/// that.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ExecPolicy {
    /// Kept of standard output, and as much of standard error; the rest is counted. 16 MiB.
    pub output_limit_bytes: u64,
    /// Between SIGTERM and SIGKILL, when a task is cancelled or its time is over. 2 s.
    pub stop_grace: Duration,
    /// After its program has ended, processes that it left behind may write for so long; then they are
    /// killed. 1 s.
    pub linger: Duration,
    /// Give the worker's whole environment to programs.
    pub inherit_environment: bool,
    /// What holds the processes of a program together, so that all end with its attempt. The best that is possible.
    pub containment: Containment,
}

impl Default for ExecPolicy {
    fn default() -> Self {
        Self {
            output_limit_bytes: 16 << 20,
            stop_grace: Duration::from_secs(2),
            linger: Duration::from_secs(1),
            inherit_environment: false,
            containment: Containment::Auto,
        }
    }
}

impl ExecPolicy {
    /// Sets [`ExecPolicy::output_limit_bytes`].
    #[must_use]
    pub const fn output_limit_bytes(mut self, bytes: u64) -> Self {
        self.output_limit_bytes = bytes;
        self
    }

    /// Sets [`ExecPolicy::stop_grace`].
    #[must_use]
    pub const fn stop_grace(mut self, grace: Duration) -> Self {
        self.stop_grace = grace;
        self
    }

    /// Sets [`ExecPolicy::linger`].
    #[must_use]
    pub const fn linger(mut self, linger: Duration) -> Self {
        self.linger = linger;
        self
    }

    /// Sets [`ExecPolicy::inherit_environment`].
    #[must_use]
    pub const fn inherit_environment(mut self, inherit: bool) -> Self {
        self.inherit_environment = inherit;
        self
    }

    /// Sets [`ExecPolicy::containment`].
    #[must_use]
    pub const fn containment(mut self, containment: Containment) -> Self {
        self.containment = containment;
        self
    }
}

/// The attempt a program is run for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Identity {
    pub(crate) task: TaskId,
    pub(crate) attempt: u32,
    /// First member of its array, and its index there; `None` for a task that is no member of any.
    pub(crate) array: Option<(TaskId, u64)>,
}

/// Starts a program. To be called from a thread that lives as long as the worker, where there is a runtime.
pub(crate) fn begin(
    spec: &ExecSpec,
    identity: Identity,
    policy: &ExecPolicy,
) -> Result<Box<Running>, NotBegun> {
    let child = spawn::spawn(spec, identity, policy).map_err(|why| match why {
        NoChild::Failed(failure) => NotBegun::For(Box::new(Finish::Ended(failure.into()))),
        NoChild::Short(why) => NotBegun::For(Box::new(Finish::NotBegun(why))),
        NoChild::Busy(failure) => NotBegun::Busy(Box::new(Finish::Ended(failure.into()))),
    })?;
    let limit = usize::try_from(policy.output_limit_bytes).unwrap_or(usize::MAX);
    let mut stdin = Feed::new(child.stdin, spec.stdin.clone());
    stdin.write_now();
    Ok(Box::new(Running {
        tree: child.tree,
        identity,
        codes: ExitCodes::of(spec),
        stdin,
        stdout: Capture::new(child.stdout, limit),
        stderr: Capture::new(child.stderr, limit),
    }))
}

/// Why there is no program.
#[derive(Debug)]
pub(crate) enum NotBegun {
    /// What became of the attempt.
    For(Box<Finish>),
    /// Its file is being written: [`run`] tries it again for a while. And what becomes of the attempt if it stays so.
    Busy(Box<Finish>),
}

/// Runs a program to its end. `begun` is called when it has run for a moment, or just before its end is given.
pub(crate) async fn run(
    spec: ExecSpec,
    identity: Identity,
    (policy, stop): (&ExecPolicy, &StopSignal),
    begun: impl FnOnce(),
) -> Finish {
    let mut pause = BUSY_PAUSE;
    let mut tries = 1;
    let running = loop {
        match begin(&spec, identity, policy) {
            Ok(running) => break running,
            Err(NotBegun::Busy(_)) if tries < BUSY_TRIES => {
                tracing::debug!("the file of a program is being written, trying again");
                tokio::time::sleep(pause).await;
                pause *= 2;
                tries += 1;
            }
            Err(NotBegun::For(finish) | NotBegun::Busy(finish)) => return *finish,
        }
    };
    let ending = running.until_its_end((policy, stop));
    Finish::Ended(told_when_it_lasts(ending, begun).await)
}

/// Awaits what has begun, and calls `begun` after a moment, or when it is over.
async fn told_when_it_lasts<T>(work: impl Future<Output = T>, begun: impl FnOnce()) -> T {
    let mut work = pin!(work);
    let soon = tokio::time::timeout(TOLD_AFTER, work.as_mut()).await;
    begun();
    match soon {
        Ok(result) => result,
        Err(_elapsed) => work.await,
    }
}

/// A program that has begun. Dropping it kills it, and what it has started.
#[derive(Debug)]
pub(crate) struct Running {
    tree: Tree,
    identity: Identity,
    codes: ExitCodes,
    stdin: Feed,
    stdout: Capture,
    stderr: Capture,
}

impl Running {
    /// A descriptor that is readable when it has ended, for whoever waits for that without a runtime. `None` where that cannot be.
    pub(crate) fn notice(&self) -> Option<OwnedFd> {
        self.tree.notice()
    }

    /// Whether nobody needs to attend to its pipes: it has written nothing up to now, and is fed.
    pub(crate) fn is_quiet(&mut self) -> bool {
        // Both: what is there is taken.
        let said = [&mut self.stdout, &mut self.stderr].map(Capture::read_now);
        said == [false, false] && self.stdin.is_over()
    }

    /// Its ending, when it has ended by itself and nothing is left of it; else it is for [`Running::until_its_end`].
    pub(crate) fn over(mut self: Box<Self>) -> Result<Ending, Box<Self>> {
        self.stdout.read_now();
        self.stderr.read_now();
        let all_is_read = self.stdout.is_over() && self.stderr.is_over();
        if all_is_read && self.tree.finish_at_once() {
            let status = self.tree.status();
            return Ok(self.ending(None, status, String::new()));
        }
        Err(self)
    }

    /// Attends to it until nothing is left of it.
    pub(crate) async fn until_its_end(
        mut self,
        (policy, stop): (&ExecPolicy, &StopSignal),
    ) -> Ending {
        let (cause, left_behind) = {
            let mut reading = pin!(async {
                tokio::join!(self.stdout.read_all(), self.stderr.read_all());
            });
            let feeding = pin!(self.stdin.write_all());
            let end = attend(
                (&self.tree, self.identity),
                policy,
                stop,
                reading.as_mut(),
                feeding,
            );
            let (cause, all_is_read, known) = end.await;
            let linger = if cause.is_some() {
                LAST_READ
            } else {
                policy.linger
            };
            let rest = async {
                if !all_is_read {
                    reading.as_mut().await;
                }
            };
            let mut rest = pin!(rest);
            let left_behind = tokio::time::timeout(linger, rest.as_mut()).await.is_err();
            if left_behind {
                self.tree.kill();
                let _ = tokio::time::timeout(LAST_READ, rest).await;
            }
            self.tree.finish(known).await;
            (cause, left_behind)
        };
        let message = match cause {
            Some(StopCause::TimedOut) => "stopped: it ran longer than its timeout".to_owned(),
            Some(StopCause::Cancelled) => "stopped: it was cancelled".to_owned(),
            None if left_behind => {
                let linger = humantime::format_duration(policy.linger);
                format!(
                    "a process that it left behind kept its output open for {linger} and was killed (--linger)"
                )
            }
            Some(StopCause::Stale) | None => String::new(),
        };
        let status = self.tree.status();
        self.ending(cause, status, message)
    }

    /// What is told of it.
    fn ending(
        self,
        cause: Option<StopCause>,
        status: Option<ExitStatus>,
        mut message: String,
    ) -> Ending {
        let (stdout, stderr) = (self.stdout.kept, self.stderr.kept);
        let outcome = self.codes.judge(outcome(cause, status));
        if outcome.kind() == OutcomeKind::Again {
            message = why_again(outcome.code, &stderr.bytes);
        }
        Ending {
            outcome,
            output: TaskOutput {
                stdout: stdout.bytes.into(),
                stderr: stderr.bytes.into(),
                stdout_dropped_bytes: stdout.dropped_bytes,
                stderr_dropped_bytes: stderr.dropped_bytes,
                message,
                ..TaskOutput::default()
            },
        }
    }
}

/// Keeps the pipes moving until the child has ended, and ends it when it is told to. Says why it was
/// ended, if it was, whether both outputs are at their end, and how it ended if that is known.
async fn attend(
    (tree, identity): (&Tree, Identity),
    policy: &ExecPolicy,
    stop: &StopSignal,
    mut reading: core::pin::Pin<&mut impl Future<Output = ()>>,
    mut feeding: core::pin::Pin<&mut impl Future<Output = ()>>,
) -> (Option<StopCause>, bool, Option<ExitStatus>) {
    let on_stop = |signal: Signal| {
        let Identity { task, attempt, .. } = identity;
        tracing::warn!(%task, attempt, %signal, "a task is stopped, it goes on when SIGCONT is sent to it");
    };
    let mut cause = None;
    let mut all_is_read = false;
    let mut all_is_fed = false;
    let mut kill_at = Instant::now();
    let mut is_killed = false;
    let mut ended = pin!(tree.ended(on_stop));
    loop {
        let is_stopping = cause.is_some() && !is_killed;
        tokio::select! {
            status = &mut ended => return (cause, all_is_read, status),
            () = reading.as_mut(), if !all_is_read => all_is_read = true,
            () = feeding.as_mut(), if !all_is_fed => all_is_fed = true,
            why = stop.stopped(), if cause.is_none() => {
                cause = Some(why);
                tree.terminate();
                kill_at = Instant::now() + policy.stop_grace;
            }
            () = tokio::time::sleep_until(kill_at), if is_stopping => {
                is_killed = true;
                tree.kill();
            }
            () = stop.stopped_at_once(), if is_stopping => {
                is_killed = true;
                tree.kill();
            }
        }
    }
}

/// What exit codes mean to a task, beside success and failure.
#[derive(Debug, Default)]
struct ExitCodes {
    finals: Vec<u32>,
    agains: Vec<u32>,
    again_after_ms: u64,
}

impl ExitCodes {
    fn of(spec: &ExecSpec) -> Self {
        Self {
            finals: spec.final_exit_codes.clone(),
            agains: spec.again_exit_codes.clone(),
            again_after_ms: spec.again_after_ms,
        }
    }

    /// The outcome with what its exit code means to the task. Success stays what it is.
    fn judge(&self, mut outcome: Outcome) -> Outcome {
        if outcome.kind() != OutcomeKind::Exited || outcome.code == 0 {
            return outcome;
        }
        if self.finals.contains(&outcome.code) {
            outcome.set_kind(OutcomeKind::FailedForGood);
        } else if self.agains.contains(&outcome.code) {
            outcome.set_kind(OutcomeKind::Again);
            let pause = Duration::from_millis(self.again_after_ms);
            outcome.again_after_ms = pause_ms(pause);
        }
        outcome
    }
}

/// Why a program is to run again later: its exit code, and the last line that it wrote to its standard error.
fn why_again(code: u32, stderr: &[u8]) -> String {
    let text = String::from_utf8_lossy(stderr);
    let last = text.lines().rev().find(|line| !line.trim().is_empty());
    match last.map(str::trim) {
        Some(line) => {
            let line = &line[..line.floor_char_boundary(REASON_BYTES_MAX)];
            format!("exit code {code}: {line}")
        }
        None => format!("exit code {code}"),
    }
}

fn outcome(cause: Option<StopCause>, status: Option<ExitStatus>) -> Outcome {
    let code = |number: i32| u32::try_from(number).unwrap_or(0);
    let exited = status.and_then(|status| status.code());
    let signal = status.and_then(|status| status.signal());
    let (kind, code) = match (cause, exited, signal) {
        (Some(cause), ..) => (cause.outcome_kind(), signal.map_or(0, code)),
        (None, Some(number), _) => (OutcomeKind::Exited, code(number)),
        (None, None, Some(number)) => (OutcomeKind::Signalled, code(number)),
        // Somebody else has reaped our child: it has ended, but nobody knows how.
        (None, None, None) => (OutcomeKind::Signalled, 0),
    };
    Outcome {
        kind: kind.into(),
        code,
        result_dropped: false,
        output_cut: false,
        ..Outcome::default()
    }
}
