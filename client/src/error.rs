//! Why something did not work: one type an operation, and [`Refusal`], the daemon's own "no", in all.

use core::fmt;
use core::time::Duration;

use qtf_proto::refusal::refusal_of;
use qtf_proto::v1::{self, RefusalReason};
use tonic::{Code, Status};

use crate::TaskId;

/// The daemon said no.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// For programs.
    pub reason: RefusalReason,
    /// For people: names the thing and the fix.
    pub message: String,
    /// When trying again may help; 0 = it does not.
    pub retry_after_ms: u32,
}

impl Refusal {
    /// Room is wanting, and comes back by itself.
    #[must_use]
    pub const fn is_full(&self) -> bool {
        matches!(
            self.reason,
            RefusalReason::TasksFull
                | RefusalReason::ArenaFull
                | RefusalReason::IdsExhausted
                | RefusalReason::SpillFailed
        )
    }

    /// No task has the id, or no longer.
    #[must_use]
    pub const fn is_unknown(&self) -> bool {
        matches!(
            self.reason,
            RefusalReason::UnknownTask | RefusalReason::StaleTask | RefusalReason::UnknownWorker
        )
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.message.is_empty() {
            write!(f, "refused: {}", self.reason.as_str_name())
        } else {
            f.write_str(&self.message)
        }
    }
}

impl core::error::Error for Refusal {}

impl From<v1::Refusal> for Refusal {
    fn from(refusal: v1::Refusal) -> Self {
        Self {
            reason: refusal.reason(),
            message: refusal.message,
            retry_after_ms: refusal.retry_after_ms,
        }
    }
}

/// Why [`Client::connect`](crate::Client::connect) failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// No connection: [`is_not_there`](ConnectError::is_not_there) tells whether anybody listens.
    #[error(transparent)]
    Channel(#[from] qtf_proto::channel::ConnectError),
    /// Connected, but the daemon does not take this client.
    #[error("the daemon at {address} refused this client: {refusal}")]
    Refused {
        /// The address, as written.
        address: String,
        /// Its reason.
        refusal: Refusal,
    },
    /// Connected, but what answers is not a daemon, or it does not answer in time.
    #[error("no session with the daemon at {address}: {cause}")]
    Session {
        /// The address, as written.
        address: String,
        /// What happened.
        cause: String,
    },
}

impl ConnectError {
    /// True when no daemon listens at the address: no such socket file, or connection refused.
    #[must_use]
    pub const fn is_not_there(&self) -> bool {
        match self {
            Self::Channel(error) => error.is_not_there(),
            Self::Refused { .. } | Self::Session { .. } => false,
        }
    }
}

/// Why a call failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CallError {
    /// The daemon said no.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The connection broke and did not come back in time.
    #[error("the daemon cannot be reached: {cause}")]
    Unreachable {
        /// What happened.
        cause: String,
    },
    /// No answer within the time a call may take.
    #[error("no answer from the daemon within {} ms", after.as_millis())]
    TimedOut {
        /// The time.
        after: Duration,
    },
    /// The answer makes no sense: another version, or not a daemon.
    #[error("unexpected answer from the daemon: {what}")]
    Protocol {
        /// What is wrong with it.
        what: String,
    },
}

impl CallError {
    pub(crate) fn protocol(what: impl Into<String>) -> Self {
        Self::Protocol { what: what.into() }
    }

    /// Reads a status; those without a stated reason get the reason that fits their code.
    pub(crate) fn of_status(status: &Status) -> Self {
        if let Some(refusal) = refusal_of(status) {
            return Self::Refused(refusal.into());
        }
        let refused = |reason| {
            Self::Refused(Refusal {
                reason,
                message: status.message().to_owned(),
                retry_after_ms: 0,
            })
        };
        match status.code() {
            Code::InvalidArgument | Code::OutOfRange => refused(RefusalReason::InvalidArgument),
            Code::NotFound => refused(RefusalReason::UnknownTask),
            Code::ResourceExhausted => refused(RefusalReason::TasksFull),
            Code::FailedPrecondition => refused(RefusalReason::WrongState),
            Code::Unauthenticated => refused(RefusalReason::UnknownSession),
            Code::Unimplemented => refused(RefusalReason::Unsupported),
            Code::Ok
            | Code::Cancelled
            | Code::Unknown
            | Code::DeadlineExceeded
            | Code::AlreadyExists
            | Code::PermissionDenied
            | Code::Aborted
            | Code::Internal
            | Code::Unavailable
            | Code::DataLoss => Self::Unreachable {
                cause: format!("{} ({})", status.message(), status.code().description()),
            },
        }
    }

    pub(crate) const fn is_unknown_session(&self) -> bool {
        matches!(
            self,
            Self::Refused(Refusal {
                reason: RefusalReason::UnknownSession,
                ..
            })
        )
    }
}

/// Why a task was not submitted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SubmitError {
    /// The daemon said no; nothing was submitted.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The connection broke before the answer: the task may or may not have been accepted.
    #[error("the daemon cannot be reached, the task may have been accepted: {cause}")]
    Unreachable {
        /// What happened.
        cause: String,
    },
    /// No answer in time: the task may or may not have been accepted.
    #[error("no answer within {} ms, the task may have been accepted", after.as_millis())]
    TimedOut {
        /// The time.
        after: Duration,
    },
    /// The answer makes no sense: another version, or not a daemon.
    #[error("unexpected answer from the daemon: {what}")]
    Protocol {
        /// What is wrong with it.
        what: String,
    },
}

impl From<CallError> for SubmitError {
    fn from(error: CallError) -> Self {
        match error {
            CallError::Refused(refusal) => Self::Refused(refusal),
            CallError::Unreachable { cause } => Self::Unreachable { cause },
            CallError::TimedOut { after } => Self::TimedOut { after },
            CallError::Protocol { what } => Self::Protocol { what },
        }
    }
}

/// Why the end of a task was not learned.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WatchError {
    /// This task cannot be watched: unknown, or its slot belongs to a later one. Others go on.
    #[error("task {id}: {refusal}")]
    Task {
        /// The task.
        id: TaskId,
        /// Why.
        refusal: Refusal,
    },
    /// This task has ended, but its output could not be fetched. Others go on.
    #[error("output of task {id}: {error}")]
    Output {
        /// The task.
        id: TaskId,
        /// Why.
        error: CallError,
    },
    /// The stream is over: the daemon is away and did not come back in time.
    #[error(transparent)]
    Call(#[from] CallError),
}

#[cfg(test)]
mod tests {
    use super::*;
    use qtf_proto::refusal::status_of;

    #[test]
    fn status_with_a_reason_is_a_refusal_with_its_hint() {
        let status = status_of(v1::Refusal {
            reason: RefusalReason::TasksFull.into(),
            message: "all 8 task slots in use".into(),
            retry_after_ms: 40,
        });
        let CallError::Refused(refusal) = CallError::of_status(&status) else {
            panic!("not a refusal");
        };
        assert!(refusal.is_full());
        assert_eq!(refusal.retry_after_ms, 40);
        assert_eq!(refusal.to_string(), "all 8 task slots in use");
    }

    #[test]
    fn broken_connection_is_unreachable() {
        let error = CallError::of_status(&Status::unavailable("reset"));
        assert!(matches!(error, CallError::Unreachable { .. }), "{error}");
    }
}
