//! Handlers: async functions that a Rust program offers as kinds of tasks.

use core::fmt;
use core::pin::Pin;
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

/// Why a handler failed; any error or text turns into one with `?`.
pub struct HandlerError {
    message: String,
}

impl HandlerError {
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
        Self { message }
    }
}

impl fmt::Debug for HandlerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

pub(crate) type HandlerFuture = Pin<Box<dyn Future<Output = Result<Vec<u8>, HandlerError>> + Send>>;

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
    Call(Arc<dyn Fn(TaskContext) -> HandlerFuture + Send + Sync>),
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
