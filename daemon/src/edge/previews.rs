//! Reads that the spill thread does for a call, and the first bytes of payloads that lie in files.
//!
//! What is in the segment is read at once (`read.rs`); what is in a file one after the other, as the answers come. Previews are for people: a disk that does
//! not answer costs a call at most [`WAIT_MAX`], and what it then has not read stays empty. Tested in `tests/daemon/spill.rs`.

use std::collections::VecDeque;
use std::future::Future as _;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use qtf_proto::v1::TaskInfo;
use qtf_shm::{BlobRef, Part, TaskId};
use tokio::sync::oneshot;
use tokio::time::{Sleep, sleep};

use super::read::{self, blob_of};
use crate::core::{Core, core_cell};
use crate::spill::thread::{Range, ReadAnswer, ReadKey};

/// LIMIT: how long a call waits for one preview.
const WAIT_MAX: Duration = Duration::from_secs(1);

/// A read that the spill thread does; left when dropped.
#[derive(Debug)]
pub(super) struct Reading {
    key: ReadKey,
    asked: oneshot::Receiver<ReadAnswer>,
}

impl Reading {
    /// What was asked for by `core.reads.ask`.
    pub(super) fn new(key: ReadKey, asked: oneshot::Receiver<ReadAnswer>) -> Self {
        Self { key, asked }
    }

    /// The answer; `None` if the daemon ends before.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<ReadAnswer>> {
        Pin::new(&mut self.asked).poll(cx).map(Result::ok)
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        core_cell::attend(|core| core.reads.leave(self.key));
    }
}

/// A preview that is read now.
#[derive(Debug)]
struct Awaited {
    reading: Reading,
    patience: Pin<Box<Sleep>>,
}

/// The previews of one call that lie in files. One is read at a time.
#[derive(Debug, Default)]
pub(super) struct Previews {
    /// Places among the call's tasks, and what is to be read for them.
    left: VecDeque<(usize, TaskId, BlobRef)>,
    awaited: Option<Awaited>,
    /// The disk did not answer in time: this call asks it no more.
    has_given_up: bool,
}

impl Previews {
    /// The preview of the task that stands at `place` is to be read.
    pub(super) fn want(&mut self, place: usize, task: TaskId, file: BlobRef) {
        if !self.has_given_up {
            self.left.push_back((place, task, file));
        }
    }

    /// Puts the previews in; ready when nothing is left to be read.
    pub(super) fn poll_fill(&mut self, cx: &mut Context<'_>, tasks: &mut [TaskInfo]) -> Poll<()> {
        while let Some(&(place, task, blob)) = self.left.front() {
            if self.awaited.is_none() {
                let asked = core_cell::attend(|core| core.reads.ask(range_of(blob)));
                self.awaited = asked.map(|(key, asked)| Awaited {
                    reading: Reading::new(key, asked),
                    patience: Box::pin(sleep(WAIT_MAX)),
                });
            }
            let answer = match &mut self.awaited {
                // The daemon ends.
                None => None,
                Some(awaited) => match awaited.reading.poll(cx) {
                    Poll::Ready(answer) => answer,
                    Poll::Pending if awaited.patience.as_mut().poll(cx).is_pending() => {
                        return Poll::Pending;
                    }
                    Poll::Pending => {
                        self.has_given_up = true;
                        None
                    }
                },
            };
            self.awaited = None;
            self.left.pop_front();
            if self.has_given_up {
                self.left.clear();
            }
            // A freed slot's file may be gone or replaced; the state tells whether it was ours.
            let is_there = |core: &mut Core| blob_of(core, task, Part::Payload) == Some(blob);
            if let Some(Ok(data)) = answer
                && let Some(info) = tasks.get_mut(place)
                && core_cell::attend(is_there) == Some(true)
            {
                info.payload_preview = data.into();
            }
        }
        Poll::Ready(())
    }
}

fn range_of(blob: BlobRef) -> Range {
    Range {
        blob,
        offset: 0,
        length: read::preview_length(blob),
    }
}
