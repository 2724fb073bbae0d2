//! Handlers: async functions that a Rust program offers as kinds of tasks.

use core::fmt;
use core::pin::Pin;
use core::time::Duration;
use std::sync::Arc;

use bytes::Bytes;
use qtf_shm::TaskId;

use crate::stop::StopSignal;

/// What a handler is given.
#[derive(Clone, Debug)]
pub struct TaskContext {
    /// The task.
    pub task_id: TaskId,
    /// Which attempt this is; the first is 1.
    pub attempt: u32,
    /// Name the handler was called by.
    pub kind: String,
    /// What the client sent.
    pub payload: Bytes,
    pub(crate) stop: StopSignal,
}

impl TaskContext {
    /// Waits until the task is cancelled or its time is over. A handler that goes on after that is dropped
    /// at its next await when the worker's stop grace is over.
    pub async fn stopped(&self) {
        self.stop.stopped().await;
    }

    /// True when the task is cancelled or its time is over; for handlers that compute without awaiting.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.stop.is_stopped()
    }
}

/// Why a handler failed; any error or text turns into one with `?`, which uses up a retry of the task if it has one.
///
/// ```
/// # use core::time::Duration;
/// # use qtf_worker::HandlerError;
/// # fn charge(card: &str) -> Result<Vec<u8>, HandlerError> {
/// if card.is_empty() {
///     return Err(HandlerError::for_good("there is no card: no attempt will find one"));
/// }
/// Err(HandlerError::again(Duration::from_secs(30), "the bank is closed"))
/// # }
/// # assert_eq!(charge("").unwrap_err().message(), "there is no card: no attempt will find one");
/// ```
pub struct HandlerError {
    message: String,
    what_next: WhatNext,
}

/// What is to become of a task whose handler failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WhatNext {
    /// What its retries say.
    AsRetriesSay,
    /// Nothing: it has failed.
    Fails,
    /// It is handed out again after this pause, which is no failure.
    Again(Duration),
}

impl HandlerError {
    /// The task has failed, whatever retries it has left: no further attempt would end better.
    pub fn for_good(why: impl Into<Self>) -> Self {
        Self {
            what_next: WhatNext::Fails,
            ..why.into()
        }
    }

    /// Not now: the task is handed out again after this pause (at most 30 days), to any worker. The attempt has its number, of which a
    /// task has 254, and counts neither as a failure nor as a loss; `qtf task` shows why the task waits. One that runs at most once has failed.
    pub fn again(after: Duration, why: impl Into<Self>) -> Self {
        Self {
            what_next: WhatNext::Again(after),
            ..why.into()
        }
    }

    pub(crate) const fn what_next(&self) -> WhatNext {
        self.what_next
    }

    /// The text that the client gets to see.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }
}

// `HandlerError` is no `Error` itself, since that would stand in the way of this conversion.
impl<E: Into<Box<dyn core::error::Error + Send + Sync>>> From<E> for HandlerError {
    fn from(error: E) -> Self {
        let error = error.into();
        let mut message = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            message = format!("{message}: {cause}");
            source = cause.source();
        }
        Self {
            message,
            what_next: WhatNext::AsRetriesSay,
        }
    }
}

impl fmt::Debug for HandlerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

pub(crate) type HandlerFuture = Pin<Box<dyn Future<Output = Result<Vec<u8>, HandlerError>> + Send>>;

pub(crate) type HandlerFunction = Arc<dyn Fn(TaskContext) -> HandlerFuture + Send + Sync>;

/// What is done for one kind of task.
#[derive(Clone)]
pub(crate) enum Runner {
    /// Runs a program.
    Exec,
    /// Gives nothing, at once.
    Noop,
    /// Gives back its payload, at once.
    Echo,
    /// Calls a function.
    Call(HandlerFunction),
}

impl fmt::Debug for Runner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Exec => "Exec",
            Self::Noop => "Noop",
            Self::Echo => "Echo",
            Self::Call(_) => "Call",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handler_error_names_its_causes() {
        let parse = "x".parse::<u8>().unwrap_err();
        let error = HandlerError::from(std::io::Error::other(parse));
        assert!(error.message().starts_with("invalid digit found in string"));
        assert_eq!(HandlerError::from("no such word").message(), "no such word");
    }
}
