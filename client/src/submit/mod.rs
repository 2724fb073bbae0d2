//! Submission, one by one and in streams.
//!
//! Each submission has a key (the user's, or an automatic one when the daemon knows keys), so that it can
//! be repeated when its answer is lost, over lost connections and restarts of the daemon, without being
//! accepted twice. Without a key it is not repeated once it went out.
//! `stream` has the streams, `source` what they read.

mod source;
mod stream;

use core::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, stream as streams};
use qtf_proto::v1::{Durability, RefusalReason, SubmitTaskRequest, SubmitTaskResponse, TaskSpec};
use tokio::time::Instant;

use crate::TaskId;
use crate::client::Client;
use crate::error::{CallError, SubmitError};
use crate::key::{KEY_TTL, KeyMint, TaskKey};
use crate::session::Session;
use crate::task::Task;

pub use stream::Submissions;

/// The daemon's yes to one submission.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// The task.
    pub id: TaskId,
    /// What was reached before the answer.
    pub durability: Durability,
    /// The task's own [key](Task::key) was known: `id` is the task that was first submitted with it.
    /// False for tasks without one.
    pub is_repeat: bool,
    /// With a known key: the first task has ended and its result is no longer kept.
    pub result_expired: bool,
}

impl From<Accepted> for TaskId {
    fn from(accepted: Accepted) -> Self {
        accepted.id
    }
}

/// One submission on its way.
#[derive(Debug)]
struct Entry {
    spec: TaskSpec,
    /// The key is the client's own.
    is_automatic: bool,
    /// When it went out first, if it may have been accepted since.
    sent_at: Option<Instant>,
    /// It went out before, and that answer was lost.
    is_doubtful: bool,
}

impl Entry {
    fn new(spec: TaskSpec) -> Self {
        Self {
            spec,
            is_automatic: false,
            sent_at: None,
            is_doubtful: false,
        }
    }

    /// Gives it an automatic key, where it has none and that is wanted.
    fn give_key(&mut self, client: &Client, session: &Session) {
        if let Some(keys) = &client.inner.keys
            && session.has_keys
            && self.spec.idempotency_key.is_empty()
            && self.sent_at.is_none()
        {
            self.spec.idempotency_key = keys.mint();
            self.spec.key_ttl_ms =
                u64::try_from(client.automatic_key_ttl().as_millis()).unwrap_or(u64::MAX);
            self.spec.automatic_key = true;
            self.is_automatic = true;
        }
    }

    /// It goes out now.
    fn goes_out(&mut self) {
        self.sent_at.get_or_insert_with(Instant::now);
    }

    /// This time it did not go out, or was refused by a daemon that did not look at its key.
    fn came_back(&mut self) {
        if !self.is_doubtful {
            self.sent_at = None;
        }
    }

    /// The answer is lost.
    fn is_lost(&mut self) {
        self.is_doubtful = self.sent_at.is_some();
    }

    /// Takes in what a failure says about it.
    fn failed(&mut self, error: &CallError) {
        match error {
            CallError::Refused(refusal) if refusal.reason == RefusalReason::JournalFailed => {
                self.is_lost();
            }
            CallError::Refused(refusal) if refusal.is_passing() => self.came_back(),
            // Its key, if it has one, was looked for and not found.
            CallError::Refused(_) => {
                self.is_doubtful = false;
                self.sent_at = None;
            }
            CallError::NotThere { .. } => self.came_back(),
            CallError::Unreachable { .. }
            | CallError::TimedOut { .. }
            | CallError::Protocol { .. } => self.is_lost(),
        }
    }

    /// It was not accepted for certain, or a repeat finds the first: the key is known for long enough yet.
    fn may_be_sent_again(&self) -> bool {
        let Some(sent_at) = self.sent_at else {
            return true;
        };
        let ttl = match self.spec.key_ttl_ms {
            0 => KEY_TTL,
            ms => Duration::from_millis(ms),
        };
        !self.spec.idempotency_key.is_empty() && sent_at.elapsed() < ttl / 2
    }

    /// What is known when no more tries are made.
    fn given_up(&self, cause: CallError) -> SubmitError {
        match (self.sent_at, cause) {
            (Some(_), cause) => SubmitError::Unanswered {
                key: TaskKey::from_wire(&self.spec.idempotency_key),
                cause,
            },
            (None, CallError::Refused(refusal)) => SubmitError::Refused(refusal),
            (None, cause) => SubmitError::NotSent { cause },
        }
    }

    /// The answer is here: an automatic key is not needed any more.
    fn is_answered(&self, client: &Client) {
        if let Some(keys) = &client.inner.keys
            && self.is_automatic
        {
            keys.received(self.spec.idempotency_key.clone());
        }
    }

    fn accepted(&self, answer: &SubmitTaskResponse) -> Result<Accepted, SubmitError> {
        let id = TaskId::from_raw(answer.task_id).ok_or_else(|| SubmitError::Protocol {
            what: format!("{:#x} is no task id", answer.task_id),
        })?;
        Ok(Accepted {
            id,
            durability: answer.durability(),
            is_repeat: answer.is_repeat && !self.is_automatic,
            result_expired: answer.result_expired,
        })
    }
}

impl Client {
    /// Submits one task; when this returns it is accepted, as durably as the answer says. A task without
    /// room is refused at once.
    ///
    /// # Errors
    /// See [`SubmitError`].
    pub async fn submit(&self, task: Task) -> Result<Accepted, SubmitError> {
        let mut entry = Entry::new(task.into_spec());
        let mut patience = self.patience();
        let mut after = 0;
        loop {
            let session = self.session_after(after, &patience).await;
            let answer = match &session {
                Ok(session) => self.submit_once(&mut entry, session).await,
                Err(error) => Err(error.clone()),
            };
            let error = match answer {
                Ok(answer) => {
                    entry.is_answered(self);
                    return entry.accepted(&answer);
                }
                Err(error) => error,
            };
            entry.failed(&error);
            if !entry.may_be_sent_again() {
                return Err(entry.given_up(error));
            }
            let failed = (error, session.as_ref().ok());
            if let Err(error) = self.before_repeat(&mut patience, &mut after, failed).await {
                return Err(entry.given_up(error));
            }
        }
    }

    async fn submit_once(
        &self,
        entry: &mut Entry,
        session: &Session,
    ) -> Result<SubmitTaskResponse, CallError> {
        entry.give_key(self, session);
        let task = Some(self.sendable(&entry.spec, session).await?);
        let received_keys = self.take_received_keys();
        let request = SubmitTaskRequest {
            session: session.token,
            task,
            received_keys: received_keys.clone(),
        };
        entry.goes_out();
        let mut plm = self.plm();
        let answer = self.timed(plm.submit_task(request)).await;
        if answer.is_err() {
            self.keys_not_given_back(received_keys);
        }
        answer
    }

    fn take_received_keys(&self) -> Vec<Bytes> {
        let keys = self.inner.keys.as_ref();
        keys.map_or_else(Vec::new, KeyMint::take_received)
    }

    fn keys_not_given_back(&self, received: impl IntoIterator<Item = Bytes>) {
        if let Some(keys) = &self.inner.keys {
            keys.not_given_back(received);
        }
    }

    /// Submits many tasks; the answers come in the order of the tasks. Submission goes on while the
    /// answers are read, with a bounded number unanswered.
    pub fn submit_many<I>(&self, tasks: I) -> Submissions
    where
        I: IntoIterator<Item = Task>,
        I::IntoIter: Send + 'static,
    {
        self.submit_stream(streams::iter(tasks))
    }

    /// Like [`Client::submit_many`], for tasks that come up over time.
    pub fn submit_stream<S>(&self, tasks: S) -> Submissions
    where
        S: Stream<Item = Task> + Send + 'static,
    {
        Submissions::start(self.clone(), tasks.map(Task::into_spec), false)
    }

    /// Submits the members of one array: each task has its index by [`Task::array`], else it gets its
    /// position, from 0.
    pub fn submit_array<I>(&self, members: I) -> Submissions
    where
        I: IntoIterator<Item = Task>,
        I::IntoIter: Send + 'static,
    {
        let members = (0_u64..).zip(members).map(|(position, task)| {
            let mut spec = task.into_spec();
            if !spec.array_member {
                spec.array_member = true;
                spec.array_index = position;
            }
            spec
        });
        let members = members.collect::<Vec<_>>();
        Submissions::start(self.clone(), streams::iter(members), true)
    }
}
