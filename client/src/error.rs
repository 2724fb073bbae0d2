//! Why something did not work: one type an operation, and [`Refusal`], the daemon's own "no", in all.

use core::fmt;
use core::time::Duration;
use std::io;

use qtf_local::OpenFailure;
use qtf_proto::channel;
use qtf_proto::refusal::refusal_of;
use qtf_proto::v1::{self, RefusalReason};
use tonic::{Code, Status};

use crate::TaskId;
use crate::key::TaskKey;

/// LIMIT: other clients have the answers to what they have under way, and give back its keys.
const GIVEN_BACK_WITHIN: Duration = Duration::from_secs(5);

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
                | RefusalReason::KeysFull
                | RefusalReason::JournalFull
        )
    }

    /// How long room is worth waiting for, to somebody who has so much patience. Places for idempotency keys may be free only when the
    /// time of one is over, of which the hint tells; what others give back before that comes soon or not at all.
    #[must_use]
    pub fn worth_waiting(&self, patience: Duration) -> Duration {
        let hint = Duration::from_millis(self.retry_after_ms.into());
        if hint <= patience {
            patience
        } else {
            patience.min(GIVEN_BACK_WITHIN)
        }
    }

    /// The daemon is about to go, has no connection free, or has forgotten us or an upload: a repeat to it or to its
    /// successor may be answered.
    pub(crate) const fn is_passing(&self) -> bool {
        matches!(
            self.reason,
            RefusalReason::Stopping
                | RefusalReason::ConnectionsFull
                | RefusalReason::JournalFailed
                | RefusalReason::UnknownSession
                | RefusalReason::UnknownUpload
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
    Channel(#[from] channel::ConnectError),
    /// The segment cannot be written to: [`OpenFailure`] says why, and what to do.
    #[error("{failure}")]
    Segment {
        /// Why.
        failure: OpenFailure,
    },
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
            Self::Segment { failure } => failure.is_not_there(),
            Self::Refused { .. } | Self::Session { .. } => false,
        }
    }

    /// True when the socket of the user's own daemon may be another's, and so was not talked to.
    #[must_use]
    pub const fn is_untrusted(&self) -> bool {
        match self {
            Self::Channel(error) => error.is_untrusted(),
            Self::Segment { failure } => failure.is_untrusted(),
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
    /// Nobody listens at the address, and nobody came in time.
    #[error("the daemon is not there: {cause}")]
    NotThere {
        /// What the system says.
        cause: String,
    },
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
        if let Some(cause) = not_there(status) {
            return Self::NotThere { cause };
        }
        if let Some(cause) = channel::silence_of(status) {
            return Self::Unreachable { cause };
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

    /// Nothing was heard for too long, though nothing broke.
    pub(crate) fn is_silence(&self) -> bool {
        matches!(self, Self::Unreachable { cause } if channel::is_silence(cause))
    }

    /// Trying again may help.
    pub(crate) const fn is_passing(&self) -> bool {
        match self {
            Self::NotThere { .. } | Self::Unreachable { .. } | Self::TimedOut { .. } => true,
            Self::Refused(refusal) => refusal.is_passing(),
            Self::Protocol { .. } => false,
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

/// What the system says when nobody listens; `None` when the status has another cause.
fn not_there(status: &Status) -> Option<String> {
    let mut next = core::error::Error::source(status);
    while let Some(error) = next {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            use io::ErrorKind::{ConnectionRefused, NotFound};
            let is_not_there = matches!(error.kind(), ConnectionRefused | NotFound);
            return is_not_there.then(|| error.to_string());
        }
        next = error.source();
    }
    None
}

/// Why there is no task id: what is known of a submission that was not accepted, or not known to be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SubmitError {
    /// The daemon said no; nothing was submitted.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// It never went out: nothing was submitted.
    #[error("nothing was submitted: {cause}")]
    NotSent {
        /// What happened.
        cause: CallError,
    },
    /// It went out and no answer came, within the time for repeating it: it may or may not have been
    /// accepted. Submitting it again with the same key tells, as long as the daemon knows the key.
    #[error("the task may have been accepted{}: {cause}", with_key(key.as_ref()))]
    Unanswered {
        /// The user's or the automatic key; `None` when it was sent without one.
        key: Option<TaskKey>,
        /// What happened.
        cause: CallError,
    },
    /// The stream of submissions was stopped before there was room for it: nothing was submitted.
    #[error("nothing was submitted: the submission was stopped before")]
    Stopped,
    /// The answer makes no sense: another version, or not a daemon.
    #[error("unexpected answer from the daemon: {what}")]
    Protocol {
        /// What is wrong with it.
        what: String,
    },
}

fn with_key(key: Option<&TaskKey>) -> String {
    key.map_or_else(String::new, |key| {
        format!(", submit it again with key {key} to learn")
    })
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
