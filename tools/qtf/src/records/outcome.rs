//! How an attempt ended, in words.

use nix::errno::Errno;
use nix::sys::signal::Signal;
use qtf_client::TaskId;
use qtf_proto::v1::{Outcome, OutcomeKind, TaskState};
use serde::Serialize;

/// The outcome of a task in JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct OutcomeRecord {
    kind: &'static str,
    code: u32,
    result_dropped: bool,
    output_cut: bool,
}

impl OutcomeRecord {
    /// Whether a part of the output is missing.
    pub(crate) fn cut(&self) -> bool {
        self.output_cut
    }

    /// Whether the output could not be kept.
    pub(crate) fn dropped(&self) -> bool {
        self.result_dropped
    }
}

impl From<&Outcome> for OutcomeRecord {
    fn from(outcome: &Outcome) -> Self {
        OutcomeRecord {
            kind: kind_name(outcome.kind()),
            code: outcome.code,
            result_dropped: outcome.result_dropped,
            output_cut: outcome.output_cut,
        }
    }
}

fn kind_name(kind: OutcomeKind) -> &'static str {
    match kind {
        OutcomeKind::Unspecified => "unknown",
        OutcomeKind::Exited => "exited",
        OutcomeKind::Signalled => "signalled",
        OutcomeKind::TimedOut => "timed_out",
        OutcomeKind::Cancelled => "cancelled",
        OutcomeKind::SpawnFailed => "spawn_failed",
        OutcomeKind::HandlerFailed => "handler_failed",
        OutcomeKind::Refused => "refused",
        OutcomeKind::WorkerLost => "worker_lost",
        OutcomeKind::TransferFailed => "transfer_failed",
        OutcomeKind::FailedForGood => "failed_for_good",
        OutcomeKind::Again => "again",
    }
}

/// What happened, for people.
pub(crate) fn describe(state: TaskState, outcome: Option<&Outcome>) -> String {
    explain(state, outcome, "")
}

/// What happened, with the reason that the worker gave; nothing is said twice.
pub(crate) fn explain(state: TaskState, outcome: Option<&Outcome>, reason: &str) -> String {
    let Some(outcome) = outcome.filter(|outcome| outcome.kind() != OutcomeKind::Unspecified) else {
        return super::state_name(state).replace('_', " ");
    };
    let kind = outcome.kind();
    let text = if kind == OutcomeKind::Again && state == TaskState::Failed {
        let text = "put off, and no further attempt is left or allowed";
        [text, reason].join(if reason.is_empty() { "" } else { ": " })
    } else if reason.is_empty() || kind == OutcomeKind::TimedOut {
        in_words(outcome)
    } else if kind == OutcomeKind::SpawnFailed {
        // The reason names the program, the number of the error does not.
        format!("cannot start the program: {reason}")
    } else if kind == OutcomeKind::Again {
        // The reason begins with the code.
        format!("to be tried again: {reason}")
    } else {
        format!("{}: {reason}", in_words(outcome))
    };
    if state == TaskState::DeadLetter {
        return format!("dead letter: {text}, no attempts left");
    }
    text
}

/// The line that tells of a task that did not end well.
pub(crate) fn end_line(
    id: TaskId,
    state: TaskState,
    outcome: Option<&Outcome>,
    reason: &str,
) -> String {
    let name = super::state_name(state).replace('_', " ");
    let ending = explain(state, outcome, reason);
    if ending.starts_with(&name) {
        format!("task {id}: {ending}")
    } else {
        format!("task {id} {name}: {ending}")
    }
}

fn in_words(outcome: &Outcome) -> String {
    let code = i32::try_from(outcome.code).unwrap_or(0);
    match outcome.kind() {
        OutcomeKind::Unspecified => "ended".to_owned(),
        OutcomeKind::Exited => format!("exit code {code}"),
        OutcomeKind::Signalled => match Signal::try_from(code) {
            Ok(signal) => format!("killed by {}", signal.as_str()),
            Err(_) => format!("killed by signal {code}"),
        },
        OutcomeKind::TimedOut => "stopped: it ran longer than its --timeout".to_owned(),
        OutcomeKind::Cancelled => "cancelled".to_owned(),
        OutcomeKind::SpawnFailed => format!("cannot start the program: {}", spawn_error(code)),
        OutcomeKind::HandlerFailed => "its handler failed".to_owned(),
        OutcomeKind::Refused => "the worker could not take it".to_owned(),
        OutcomeKind::WorkerLost => "its worker was lost".to_owned(),
        OutcomeKind::TransferFailed => "its input or output could not be moved".to_owned(),
        OutcomeKind::FailedForGood if code == 0 => "failed for good".to_owned(),
        OutcomeKind::FailedForGood => format!("failed for good: exit code {code}"),
        OutcomeKind::Again if code == 0 => "to be tried again".to_owned(),
        OutcomeKind::Again => format!("to be tried again: exit code {code}"),
    }
}

fn spawn_error(errno: i32) -> String {
    let explained = [
        (Errno::ENOENT, "no such program or directory"),
        (Errno::EACCES, "not executable (permission denied)"),
        (Errno::E2BIG, "the arguments are too long"),
        (
            Errno::ENOEXEC,
            "not a program (exec format error); scripts need a #! line",
        ),
    ];
    let known = Errno::from_raw(errno);
    if let Some((_, text)) = explained.iter().find(|(error, _)| *error == known) {
        return (*text).to_owned();
    }
    if known == Errno::UnknownErrno {
        return format!("error {errno}");
    }
    known.desc().to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(kind: OutcomeKind, code: u32) -> Outcome {
        Outcome {
            kind: kind.into(),
            code,
            result_dropped: false,
            output_cut: false,
            ..Outcome::default()
        }
    }

    #[test]
    fn what_happened_is_said_in_words() {
        let failed = |kind, code| describe(TaskState::Failed, Some(&outcome(kind, code)));
        assert_eq!(failed(OutcomeKind::Exited, 3), "exit code 3");
        assert_eq!(failed(OutcomeKind::Signalled, 9), "killed by SIGKILL");
        assert_eq!(failed(OutcomeKind::Signalled, 200), "killed by signal 200");
        assert!(failed(OutcomeKind::SpawnFailed, 2).ends_with("no such program or directory"));
        assert!(failed(OutcomeKind::SpawnFailed, 13).contains("not executable"));
        assert!(failed(OutcomeKind::SpawnFailed, 4000).ends_with("error 4000"));
        assert_eq!(failed(OutcomeKind::FailedForGood, 0), "failed for good");
        assert_eq!(
            failed(OutcomeKind::FailedForGood, 65),
            "failed for good: exit code 65"
        );
        let lost = outcome(OutcomeKind::WorkerLost, 0);
        let text = describe(TaskState::DeadLetter, Some(&lost));
        assert_eq!(text, "dead letter: its worker was lost, no attempts left");
    }

    #[test]
    fn a_reason_is_told_and_nothing_twice() {
        let told =
            |kind, code, reason| explain(TaskState::Failed, Some(&outcome(kind, code)), reason);
        assert_eq!(
            told(OutcomeKind::SpawnFailed, 2, "no program \"x\""),
            "cannot start the program: no program \"x\""
        );
        assert_eq!(
            told(OutcomeKind::TimedOut, 0, "it ran longer than its timeout"),
            "stopped: it ran longer than its --timeout"
        );
        assert_eq!(
            told(OutcomeKind::Again, 0, "closed"),
            "put off, and no further attempt is left or allowed: closed"
        );
        assert_eq!(
            told(OutcomeKind::HandlerFailed, 0, "why\u{1b}"),
            "its handler failed: why\u{1b}"
        );
        let id = TaskId::from_raw(1 << 24).unwrap();
        let line = |state, kind| end_line(id, state, Some(&outcome(kind, 3)), "");
        assert_eq!(
            [
                line(TaskState::Failed, OutcomeKind::Exited),
                line(TaskState::Cancelled, OutcomeKind::Cancelled),
                line(TaskState::DeadLetter, OutcomeKind::WorkerLost),
            ],
            [
                format!("task {id} failed: exit code 3"),
                format!("task {id}: cancelled"),
                format!("task {id}: dead letter: its worker was lost, no attempts left"),
            ]
        );
    }

    #[test]
    fn without_an_outcome_the_state_is_said() {
        assert_eq!(describe(TaskState::DeadLetter, None), "dead letter");
        let unknown = Outcome {
            kind: 99,
            ..Outcome::default()
        };
        assert_eq!(describe(TaskState::Cancelled, Some(&unknown)), "cancelled");
    }
}
