//! Streams of batches of submissions, and of the ends that were asked for with them.
//!
//! Each entry of a batch is answered on its own, in order, and no batch before all that its answer promises is on
//! stable storage. A large batch is taken over several polls, so that others have their turn. The tasks of a batch that asks for their
//! ends are watched from the moment in which its answer may be given, and the answer waits a moment for the first of them. Invariant: no
//! end is told before the answer of its batch, or without it. Tested in `tests/daemon/submit.rs`.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::Stream;
use qtf_engine::{Accepted, ArrayMember, Lsn, Principal};
use qtf_proto::limits::BATCH_ENTRIES_MAX;
use qtf_proto::v1::{Refusal, SubmitStreamResponse, TaskEnd};
use qtf_proto::wire::{Frame, Spec, SubmitBatch};
use qtf_shm::TaskId;
use qtf_shm::histogram::Stage;
use tonic::{Status, Streaming};

use super::company::Company;
use super::ends::{acknowledge, next_ends, watch};
use super::submit::{Submitter, answer_of, array_of, release_keys, submit_one};
use super::{COPIED_PER_POLL_MAX, session_client, status};
use crate::core::stability::{JournalFailed, StablePlace};
use crate::core::watches::WatchKey;
use crate::core::{Core, StopPlace, core_cell};

/// LIMIT: entries whose answers wait for the journal; while there are more, no batch is read.
const UNANSWERED_MAX: usize = 16 * BATCH_ENTRIES_MAX;
/// LIMIT: answers that wait for an end to come with them.
const WAITING_MAX: usize = 16;

/// A batch that is being taken in.
#[derive(Debug)]
struct Batch {
    request: SubmitBatch,
    /// Where its next entry begins.
    place: usize,
    answer: Answer,
}

/// The answer to a batch, and what it waits for.
#[derive(Debug)]
struct Answer {
    frame: Frame<SubmitStreamResponse>,
    /// How many entries it answers.
    entries: usize,
    /// Tasks whose ends were asked for.
    watched: Vec<TaskId>,
    /// Highest record that it waits for.
    durable: Option<Lsn>,
}

impl Answer {
    /// The answer to a batch of which nothing was taken in yet.
    fn to(request: &SubmitBatch) -> Self {
        let mut frame = Frame::default();
        frame.batch(request.batch, request.watch);
        let watched = if request.watch { request.tasks } else { 0 };
        Self {
            frame,
            entries: 0,
            watched: Vec::with_capacity(watched),
            durable: None,
        }
    }

    /// What became of the next entry.
    fn add(&mut self, request: &SubmitBatch, result: Result<Accepted, Refusal>) {
        self.entries += 1;
        match result {
            Ok(accepted) => {
                self.durable = self.durable.max(accepted.durable);
                self.frame.accepted(&answer_of(&accepted));
                if request.watch {
                    self.watched.push(accepted.task);
                }
            }
            Err(refusal) => self.frame.refused(&refusal),
        }
    }
}

/// The ends that a stream tells beside its answers.
#[derive(Debug)]
struct Ends {
    key: WatchKey,
    with_output: bool,
    /// What cannot be watched, and why.
    refused: Vec<TaskEnd>,
    company: Company,
}

impl Ends {
    /// Watches what a batch has submitted. True if there is an end to wait for.
    fn watch(&mut self, core: &mut Core, tasks: &[TaskId]) -> bool {
        let mut waits = false;
        for task in tasks {
            match watch(core, self.key, task.as_raw()) {
                Ok(()) => waits = true,
                Err(refused) => self.refused.push(*refused),
            }
        }
        waits
    }

    fn are_ready(&self, core: &Core) -> bool {
        !self.refused.is_empty() || core.watches.untold(self.key) > 0
    }

    fn next(&mut self, core: &mut Core, frame: &mut Frame<SubmitStreamResponse>) {
        next_ends(core, self.key, &mut self.refused, self.with_output, frame);
    }
}

impl Drop for Ends {
    fn drop(&mut self) {
        // What it leaves goes in turns of the core.
        core_cell::enter(|core| core.watches.close(self.key));
    }
}

/// The answers of one `SubmitStream` call; reads its batches while it is polled.
///
/// Batches are answered in their order, each when all of it is stable; meanwhile further ones are taken.
#[derive(Debug)]
pub(crate) struct SubmitStream {
    requests: Streaming<SubmitBatch>,
    principal: Principal,
    batch: Option<Batch>,
    answers: VecDeque<Answer>,
    /// How many of the first answers may be given.
    ripe: usize,
    /// How many of those wait for no end to come with them.
    due: usize,
    /// Entries in `answers`.
    unanswered: usize,
    place: StablePlace,
    /// From the first batch on that asks for them.
    ends: Option<Ends>,
    /// First member of the stream's array.
    array: Option<TaskId>,
    stop_place: StopPlace,
    /// How the stream ends after the last answer.
    ending: Option<Result<(), Status>>,
    has_ended: bool,
}

impl SubmitStream {
    /// A stream without a batch yet.
    pub(crate) fn new(requests: Streaming<SubmitBatch>, principal: Principal) -> Self {
        Self {
            requests,
            principal,
            batch: None,
            answers: VecDeque::new(),
            ripe: 0,
            due: 0,
            unanswered: 0,
            place: StablePlace::default(),
            ends: None,
            array: None,
            stop_place: StopPlace::default(),
            ending: None,
            has_ended: false,
        }
    }

    fn poll_batch(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Batch, Status>>> {
        if let Some(batch) = self.batch.take() {
            return Poll::Ready(Some(Ok(batch)));
        }
        let request = match Pin::new(&mut self.requests).poll_next(cx) {
            Poll::Pending if self.stop_place.is_stopping(cx) => {
                return Poll::Ready(has_failed().then(|| Err(JournalFailed.into())));
            }
            Poll::Pending => return Poll::Pending,
            Poll::Ready(None) => return Poll::Ready(None),
            Poll::Ready(Some(Err(status))) => return Poll::Ready(Some(Err(status))),
            Poll::Ready(Some(Ok(request))) => request,
        };
        let entries = request.tasks.max(request.received_keys);
        if let Err(status) = status::check_batch(entries.max(request.acknowledge)) {
            return Poll::Ready(Some(Err(status)));
        }
        if request.watch {
            let principal = self.principal;
            let ends = self.ends.take().or_else(|| {
                let key = core_cell::attend(|core| core.watches.open(principal))?;
                Some(Ends {
                    key,
                    with_output: false,
                    refused: Vec::new(),
                    company: Company::default(),
                })
            });
            let Some(ends) = ends else {
                return Poll::Ready(Some(Err(status::gone())));
            };
            self.ends.insert(ends).with_output |= request.with_output;
        }
        Poll::Ready(Some(Ok(Batch {
            answer: Answer::to(&request),
            place: 0,
            request,
        })))
    }

    /// Submits entries until the batch is done or `copied` is beyond what one poll may copy. True when it is
    /// done.
    fn work_on(&mut self, batch: &mut Batch, copied: &mut usize) -> Result<bool, Status> {
        let Batch {
            request,
            place,
            answer,
        } = batch;
        core_cell::enter(|core| {
            let before = answer.entries;
            if before == 0 {
                release_keys(core, request.keys());
                acknowledge(core, request.acknowledged());
            }
            let mut specs = request.specs_from(*place);
            while answer.entries < request.tasks && *copied <= COPIED_PER_POLL_MAX {
                let Some(spec) = specs.next() else {
                    break;
                };
                *copied = copied.saturating_add(spec.payload.len()).saturating_add(64);
                // Each time: the record of a call without a session is nobody's after a refusal.
                let session = request.session;
                let result = match session_client(core, session, self.principal) {
                    Ok(client) => {
                        self.submit(core, Submitter { client, session }, &spec, request.as_array)
                    }
                    Err(rejection) => Err(status::refusal_of(&rejection)),
                };
                answer.add(request, result);
            }
            *place = specs.place();
            core.count_entry(Stage::Admit, answer.entries - before);
            answer.entries == request.tasks
        })
        .ok_or_else(status::gone)
    }

    fn submit(
        &mut self,
        core: &mut Core,
        who: Submitter,
        spec: &Spec<'_>,
        as_array: bool,
    ) -> Result<Accepted, Refusal> {
        let array = match array_of(spec, self.array)? {
            None if as_array => Some(ArrayMember {
                array: self.array,
                index: spec.array_index,
            }),
            array => array,
        };
        let accepted = submit_one(core, who, spec, array)?;
        if as_array && self.array.is_none() {
            let named = array.and_then(|member| member.array);
            self.array = Some(named.unwrap_or(accepted.task));
        }
        Ok(accepted)
    }

    /// Takes one batch in, or a part of it. False when there is nothing to take now.
    fn take(&mut self, copied: &mut usize, cx: &mut Context<'_>) -> bool {
        let mut batch = match self.poll_batch(cx) {
            Poll::Pending => return false,
            Poll::Ready(None) => {
                self.ending = Some(Ok(()));
                return true;
            }
            Poll::Ready(Some(Err(status))) => {
                self.ending = Some(Err(status));
                return true;
            }
            Poll::Ready(Some(Ok(batch))) => batch,
        };
        match self.work_on(&mut batch, copied) {
            Err(status) => self.ending = Some(Err(status)),
            Ok(false) => self.batch = Some(batch),
            Ok(true) => {
                self.unanswered = self.unanswered.saturating_add(batch.answer.entries.max(1));
                self.answers.push_back(batch.answer);
            }
        }
        true
    }

    /// The next message, if one may be given.
    fn poll_message(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Frame<SubmitStreamResponse>, Status>> {
        while let Some(answer) = self.answers.get(self.ripe)
            && self
                .ends
                .as_ref()
                .is_none_or(|ends| ends.refused.is_empty())
        {
            match self.place.poll(answer.durable, cx) {
                Poll::Pending => break,
                Poll::Ready(stable) => stable?,
            }
            let watched = &answer.watched;
            let waits = match &mut self.ends {
                Some(ends) if !watched.is_empty() => {
                    core_cell::attend(|core| ends.watch(core, watched)).ok_or_else(status::gone)?
                }
                _ => false,
            };
            self.ripe = self.ripe.saturating_add(1);
            if !waits || self.ripe >= WAITING_MAX {
                self.due = self.ripe;
            }
        }
        let Some(ends) = &mut self.ends else {
            return self
                .next_answer()
                .map_or(Poll::Pending, |answer| Poll::Ready(Ok(answer)));
        };
        let are_ready = core_cell::look(|core| ends.are_ready(core)).ok_or_else(status::gone)?;
        if self.ripe == 0 {
            ends.company.has_come();
            if !are_ready {
                return Poll::Pending;
            }
        } else if self.due == 0 {
            if !(are_ready || self.ending.is_some() || ends.company.is_late(cx)) {
                return Poll::Pending;
            }
            self.due = self.ripe;
        }
        let mut message = self.next_answer().unwrap_or_else(|| {
            let mut frame = Frame::default();
            frame.ends_only();
            frame
        });
        if self.ripe == 0
            && let Some(ends) = &mut self.ends
        {
            ends.company.has_come();
            core_cell::attend(|core| ends.next(core, &mut message)).ok_or_else(status::gone)?;
        }
        Poll::Ready(Ok(message))
    }

    /// The next answer that may be given.
    fn next_answer(&mut self) -> Option<Frame<SubmitStreamResponse>> {
        self.ripe = self.ripe.checked_sub(1)?;
        self.due = self.due.saturating_sub(1);
        let answer = self.answers.pop_front()?;
        self.unanswered = self.unanswered.saturating_sub(answer.entries.max(1));
        Some(answer.frame)
    }

    /// There are no more batches and all are answered: whether ends are still to come. Whoever polls is woken for them.
    fn awaits_ends(&self, cx: &Context<'_>) -> bool {
        let (Some(ends), Some(Ok(()))) = (&self.ends, &self.ending) else {
            return false;
        };
        self.keep_waker(cx);
        core_cell::look(|core| !core.is_stopping() && !core.watches.is_idle(ends.key))
            .unwrap_or(false)
    }

    fn keep_waker(&self, cx: &Context<'_>) {
        if let Some(ends) = &self.ends {
            let (key, waker) = (ends.key, cx.waker());
            core_cell::attend(|core| core.watches.keep_waker(key, waker));
        }
    }
}

fn has_failed() -> bool {
    core_cell::look(|core| core.is_stopping() && core.journal_failure().is_some()).unwrap_or(false)
}

impl Stream for SubmitStream {
    type Item = Result<Frame<SubmitStreamResponse>, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut copied = 0;
        while !self.has_ended {
            if let Poll::Ready(message) = self.poll_message(cx) {
                self.has_ended = message.is_err();
                return Poll::Ready(Some(message));
            }
            match &self.ending {
                None if self.unanswered >= UNANSWERED_MAX => {
                    self.keep_waker(cx);
                    return Poll::Pending;
                }
                None => {}
                Some(_) if !self.answers.is_empty() || self.awaits_ends(cx) => {
                    self.keep_waker(cx);
                    return Poll::Pending;
                }
                Some(Ok(())) if self.ends.is_some() && has_failed() => {
                    self.ending = Some(Err(JournalFailed.into()));
                }
                Some(_) => break,
            }
            if self.ending.is_none() && !self.take(&mut copied, cx) {
                self.keep_waker(cx);
                return Poll::Pending;
            }
            if copied > COPIED_PER_POLL_MAX {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
        }
        self.has_ended = true;
        match self.ending.take() {
            Some(Err(status)) => Poll::Ready(Some(Err(status))),
            _ => Poll::Ready(None),
        }
    }
}
