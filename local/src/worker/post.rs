//! The post of a local worker: the open segment, and what the agent has for the thread that is its hands.
//!
//! Invariant: what waits here is bounded by the worker: a report names what it holds, and credits are a number.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use qtf_proto::v1::{DispatchResponse, WorkerNotice, WorkerReport};
use qtf_shm::Attachment;
use tokio::sync::mpsc;
use tonic::Status;

use crate::uploads::Uploads;

/// Where the hands tell what happens. The hands never wait for the agent; what they send is bounded by what it has granted.
pub(crate) type Notices = mpsc::UnboundedSender<Result<WorkerNotice, Status>>;
pub(crate) type Dispatches = mpsc::UnboundedSender<Result<DispatchResponse, Status>>;

/// See the head of this file.
#[derive(Debug)]
pub(crate) struct Post {
    pub(crate) attachment: Attachment,
    pub(crate) uploads: Uploads,
    inbox: Mutex<Inbox>,
}

/// What the agent has said.
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    pub(crate) reports: VecDeque<WorkerReport>,
    /// Tasks that it can take in addition.
    pub(crate) credits: u32,
    /// Its dispatch stream, once it is open.
    pub(crate) dispatches: Option<Dispatches>,
    /// It is gone.
    pub(crate) is_over: bool,
}

impl Inbox {
    fn has_news(&self) -> bool {
        !self.reports.is_empty() || self.credits > 0 || self.dispatches.is_some() || self.is_over
    }
}

impl Post {
    pub(crate) fn new(attachment: Attachment) -> Self {
        Self {
            attachment,
            uploads: Uploads::default(),
            inbox: Mutex::default(),
        }
    }

    fn inbox(&self) -> MutexGuard<'_, Inbox> {
        // Nothing panics while it is held; what is in it is whole at any moment.
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The agent says something.
    pub(crate) fn say(&self, what: impl FnOnce(&mut Inbox)) {
        what(&mut self.inbox());
        self.attachment.wake_own_lane();
    }

    /// The hands take what was said.
    pub(crate) fn take(&self) -> Inbox {
        let mut inbox = self.inbox();
        let is_over = inbox.is_over;
        let taken = core::mem::take(&mut *inbox);
        inbox.is_over = is_over;
        taken
    }

    pub(crate) fn has_news(&self) -> bool {
        self.inbox().has_news()
    }
}
