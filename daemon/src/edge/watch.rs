//! `Watch`: the ends of the tasks that a client names, as they happen; acknowledgements back.
//!
//! Only ids wait here; what a task left is read when the stream is polled, so a client that does not read
//! costs nothing but the ids that it named. Ids are looked at when there is room for what is to be said of them: one request
//! waits, and no refusals. Tested in `tests/daemon/watch.rs`.

use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::Stream;
use qtf_proto::v1::{RefusalReason, TaskEnd, WatchRequest, WatchResponse};
use qtf_shm::{Phase, TaskId};
use tonic::{Status, Streaming};

use super::intake::{Reader, Source, take_in};
use super::{COPIED_PER_POLL_MAX, read, status};
use crate::core_cell::stability::JournalFailed;
use crate::core_cell::watches::{TooManyWatches, WatchKey};
use crate::core_cell::{self, Core};

/// LIMIT: ends in one message.
const ENDS_MAX: usize = 256;
/// LIMIT: while so many ends are not told no more requests are read.
const UNTOLD_MAX: usize = 4096;

/// The answers of one `Watch` call; reads its requests while it is polled.
#[derive(Debug)]
pub(crate) struct WatchStream {
    requests: Streaming<WatchRequest>,
    key: WatchKey,
    /// Ids of the last request that were not looked at yet.
    names: std::vec::IntoIter<u64>,
    /// Answers that need no look into the segment; at most those of one message.
    refused: Vec<TaskEnd>,
    with_output: bool,
    requests_have_ended: bool,
    has_ended: bool,
}

impl WatchStream {
    /// A stream that waits for nothing yet.
    pub(crate) fn new(requests: Streaming<WatchRequest>, key: WatchKey) -> Self {
        Self {
            requests,
            key,
            names: Vec::new().into_iter(),
            refused: Vec::new(),
            with_output: false,
            requests_have_ended: false,
            has_ended: false,
        }
    }

    fn take(&mut self, request: WatchRequest) -> Result<(), Status> {
        status::check_batch(request.watch.len())?;
        status::check_batch(request.acknowledge.len())?;
        self.with_output |= request.with_output;
        if !request.acknowledge.is_empty() {
            core_cell::enter(|core| acknowledge(core, &request.acknowledge))
                .ok_or_else(status::gone)?;
        }
        self.names = request.watch.into_iter();
        Ok(())
    }

    /// Looks at the ids that were named. False when there is no room for more refusals.
    fn take_names(&mut self) -> Result<bool, Status> {
        if self.names.as_slice().is_empty() {
            return Ok(true);
        }
        core_cell::enter(|core| {
            while self.refused.len() < ENDS_MAX {
                let Some(raw) = self.names.next() else {
                    return true;
                };
                if let Err(refused) = self.watch(core, raw) {
                    self.refused.push(*refused);
                }
            }
            false
        })
        .ok_or_else(status::gone)
    }

    fn watch(&self, core: &mut Core, raw: u64) -> Result<(), Box<TaskEnd>> {
        let refuse = |refusal| {
            Box::new(TaskEnd {
                task_id: raw,
                refusal: Some(refusal),
                ..TaskEnd::default()
            })
        };
        let task = status::task_id(raw).map_err(refuse)?;
        let ended = core
            .engine
            .settled_end(task)
            .map_err(|rejection| refuse(status::refusal_of(&rejection)))?;
        let added = match ended {
            Some(phase) => core.watches.add_ended(self.key, task, phase),
            None => core.watches.add(self.key, task),
        };
        added.map_err(|full| {
            let message = match full {
                TooManyWatches::Full { limit } => format!(
                    "all {limit} watches are in use: wait for some tasks first, and read their ends"
                ),
                TooManyWatches::Share(used_up) => used_up.to_string(),
            };
            let mut refusal = status::refuse(RefusalReason::TasksFull, message);
            refusal.retry_after_ms = 1_000;
            refuse(refusal)
        })
    }

    fn next_response(&mut self, core: &mut Core) -> WatchResponse {
        let take = self.refused.len().min(ENDS_MAX);
        let mut ends: Vec<TaskEnd> = self.refused.drain(..take).collect();
        let mut copied = 0_usize;
        while ends.len() < ENDS_MAX && copied < COPIED_PER_POLL_MAX {
            let Some((task, phase)) = core.watches.next_ended(self.key) else {
                break;
            };
            let end = end_of(core, task, phase, self.with_output);
            copied = copied.saturating_add(end.output.len());
            ends.push(end);
        }
        WatchResponse { ends }
    }
}

fn acknowledge(core: &mut Core, tasks: &[u64]) {
    let now = core.now();
    let tasks = tasks.iter().copied().filter_map(TaskId::from_raw);
    core.engine.forget_batch(now, tasks, |task, answer| {
        if let Err(rejection) = answer {
            tracing::debug!(%task, %rejection, "acknowledgement");
        }
    });
}

/// The end of a task, with its output if that fits.
fn end_of(core: &Core, task: TaskId, phase: Phase, with_output: bool) -> TaskEnd {
    let mut end = TaskEnd {
        task_id: task.as_raw(),
        state: read::state_of(phase).into(),
        ..TaskEnd::default()
    };
    let Some(record) = read::task(core, task) else {
        // Freed by now: its client did not want the output, somebody acknowledged it, or it expired.
        end.outcome = read::outcome_of_freed(phase);
        if let Some(outcome) = &mut end.outcome {
            outcome.result_dropped = core.engine.has_expired_done(task);
        }
        return end;
    };
    end.outcome = Some(read::outcome(record.outcome));
    end.attempt = record.state.attempt().into();
    end.output_bytes = record.result.len();
    if let Some((_, name, _)) = read::last_worker(core, &record) {
        end.worker_name = name;
    }
    if with_output
        && end.output_bytes > 0
        && let Some(output) = read::small_blob(core, qtf_shm::Part::Result, task, end.output_bytes)
    {
        end.output = output.into();
    }
    end
}

impl Reader for WatchStream {
    type Messages = Streaming<WatchRequest>;
    type Message = WatchRequest;

    fn source(&mut self) -> Result<Source<'_, Self::Messages>, Status> {
        let untold = core_cell::look(|core| core.watches.untold(self.key)).unwrap_or(0);
        if untold > UNTOLD_MAX || !self.take_names()? {
            // Telling comes first.
            return Ok(Source::Later);
        }
        if self.requests_have_ended {
            return Ok(Source::Nothing);
        }
        Ok(Source::Messages(&mut self.requests))
    }

    fn take_message(&mut self, request: WatchRequest) -> Result<(), Status> {
        self.take(request)
    }

    fn end_of_messages(&mut self) {
        self.requests_have_ended = true;
    }
}

impl Stream for WatchStream {
    type Item = Result<WatchResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.has_ended {
            return Poll::Ready(None);
        }
        if let Err(status) = take_in(&mut *self, cx) {
            self.has_ended = true;
            return Poll::Ready(Some(Err(status)));
        }
        let key = self.key;
        let response = core_cell::attend(|core| {
            let response = self.next_response(core);
            if !response.ends.is_empty() {
                return Poll::Ready(Some(Ok(response)));
            }
            let nothing_to_come = self.requests_have_ended
                && self.names.as_slice().is_empty()
                && core.watches.is_idle(key);
            if core.is_stopping() && core.journal_failure().is_some() {
                return Poll::Ready(Some(Err(JournalFailed.into())));
            }
            if nothing_to_come || core.is_stopping() {
                return Poll::Ready(None);
            }
            core.watches.keep_waker(key, cx.waker());
            Poll::Pending
        });
        let response = response.unwrap_or(Poll::Ready(None));
        self.has_ended |= matches!(response, Poll::Ready(None | Some(Err(_))));
        response
    }
}

impl Drop for WatchStream {
    fn drop(&mut self) {
        // What it leaves goes in turns of the core.
        core_cell::enter(|core| core.watches.close(self.key));
    }
}
