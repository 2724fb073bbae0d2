//! `Watch`: the ends of the tasks that a client names, as they happen; acknowledgements back.
//!
//! Only ids wait here; what a task left is read when the stream is polled, so a client that does not read
//! costs nothing but the ids that it named. Ids are looked at when there is room for what is to be said of them: one request
//! waits, and no refusals. Tested in `tests/daemon/watch.rs`.

use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::Stream;
use qtf_proto::v1::{TaskEnd, WatchRequest, WatchResponse};
use qtf_proto::wire::Frame;
use tonic::{Status, Streaming};

use super::ends::{ENDS_MAX, UNTOLD_MAX, acknowledge, next_ends, watch};
use super::intake::{Reader, Source, take_in};
use super::status;
use crate::core::core_cell;
use crate::core::stability::JournalFailed;
use crate::core::watches::WatchKey;

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
            core_cell::enter(|core| acknowledge(core, request.acknowledge.iter().copied()))
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
                if let Err(refused) = watch(core, self.key, raw) {
                    self.refused.push(*refused);
                }
            }
            false
        })
        .ok_or_else(status::gone)
    }
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
    type Item = Result<Frame<WatchResponse>, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.has_ended {
            return Poll::Ready(None);
        }
        if let Err(status) = take_in(&mut *self, cx) {
            self.has_ended = true;
            return Poll::Ready(Some(Err(status)));
        }
        let (key, waker) = (self.key, cx.waker());
        let response = core_cell::attend(|core| {
            let this = &mut *self;
            let mut frame = Frame::default();
            next_ends(core, key, &mut this.refused, this.with_output, &mut frame);
            if !frame.is_empty() {
                return Poll::Ready(Some(Ok(frame)));
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
            core.watches.keep_waker(key, waker);
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
