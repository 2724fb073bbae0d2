//! `ListTasks`: slot by slot, a stripe of them at each of its turns among all lists ([`crate::core::lists`]).
//!
//! The state word decides first, then whose task it is; only what may be wanted is read as a whole. Tested at the end of this file and in `tests/daemon/listing.rs`.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures_util::Stream;
use qtf_engine::Principal;
use qtf_proto::v1::{ListTasksRequest, ListTasksResponse, TaskInfo, TaskState};
use qtf_shm::{BlobRef, Phase, TaskId};
use tonic::Status;

use super::previews::Previews;
use super::{read, status};
use crate::core::lists::Ticket;
use crate::core::{Core, core_cell};

/// LIMIT: slots looked at in one turn of the loop, over all lists: some tens of microseconds.
const SLOTS_PER_TURN: u32 = 2048;
/// LIMIT: tasks in one message, each with at most 4 KiB of preview.
const TASKS_MAX: usize = 128;

/// The answers of one `ListTasks` call.
#[derive(Debug)]
pub(crate) struct ListStream {
    request: ListTasksRequest,
    /// Whose tasks are wanted; `None` = everybody's.
    whose: Option<Principal>,
    next_slot: u32,
    left: u64,
    ticket: Option<Ticket>,
    /// What was found and waits for the previews that are read.
    found: Vec<TaskInfo>,
    previews: Previews,
}

impl ListStream {
    /// A list from the first slot on.
    pub(crate) fn new(request: ListTasksRequest, whose: Option<Principal>) -> Self {
        let left = if request.limit == 0 {
            u64::MAX
        } else {
            request.limit
        };
        Self {
            request,
            whose,
            next_slot: 0,
            left,
            ticket: None,
            found: Vec::new(),
            previews: Previews::default(),
        }
    }

    fn next(&mut self, core: &Core) -> Option<Vec<TaskInfo>> {
        let end = core.segment().high_water();
        if self.next_slot >= end || self.left == 0 {
            return None;
        }
        let stop = self.next_slot.saturating_add(SLOTS_PER_TURN).min(end);
        let mut tasks = Vec::new();
        for slot in core.segment().allocated_slots(self.next_slot..stop) {
            self.next_slot = slot.get().saturating_add(1);
            if let Some((info, file)) = self.wanted(core, slot) {
                if let Some((task, file)) = file {
                    self.previews.want(tasks.len(), task, file);
                }
                tasks.push(info);
                self.left = self.left.saturating_sub(1);
                if self.left == 0 || tasks.len() >= TASKS_MAX {
                    return Some(tasks);
                }
            }
        }
        self.next_slot = stop;
        Some(tasks)
    }

    /// Tells what was found when its previews are there.
    fn poll_found(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<ListTasksResponse, Status>>> {
        ready!(self.previews.poll_fill(cx, &mut self.found));
        let tasks = std::mem::take(&mut self.found);
        Poll::Ready(Some(Ok(ListTasksResponse { tasks })))
    }

    /// What the words of a slot say before its record is read: each is one load.
    fn may_be_wanted(&self, core: &Core, slot: qtf_shm::SlotIndex) -> bool {
        let task = core.segment().task(slot);
        self.is_of_a_state(task.state().phase()) && self.is_whose(core, task.client_number())
    }

    fn is_of_a_state(&self, phase: Phase) -> bool {
        let state = read::state_of(phase);
        let states = &self.request.states;
        state != TaskState::Unspecified && (states.is_empty() || states.contains(&state.into()))
    }

    fn is_whose(&self, core: &Core, client: u16) -> bool {
        self.whose.is_none_or(|whose| {
            let client = core.segment().client_index(client);
            client.is_some_and(|client| core.engine.principal_of(client) == whose)
        })
    }

    /// The task in a slot, if it is to be listed, and its payload if the preview of that is to be read from a file.
    fn wanted(
        &self,
        core: &Core,
        slot: qtf_shm::SlotIndex,
    ) -> Option<(TaskInfo, Option<(TaskId, BlobRef)>)> {
        if !self.may_be_wanted(core, slot) {
            return None;
        }
        let record = read::task_in(core, slot)?;
        // It may have moved on meanwhile.
        if !self.is_of_a_state(record.state.phase()) || !self.is_whose(core, record.client) {
            return None;
        }
        let with_preview = !self.request.without_preview;
        let info = read::task_info(core, &record, with_preview)?;
        let file = read::payload_in_file(&record).filter(|_| with_preview);
        let array = self.request.array_id;
        (array == 0 || info.array_id == array || info.task_id == array).then_some((info, file))
    }
}

impl Stream for ListStream {
    type Item = Result<ListTasksResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        if !this.found.is_empty() {
            return this.poll_found(cx);
        }
        // Whoever asks wakes the loop, so that there is a next turn.
        let waker = cx.waker();
        let found = core_cell::enter(|core| {
            let is_its_turn = core.lists.take(&mut this.ticket, waker);
            is_its_turn.then(|| {
                let found = this.next(core);
                if found.as_ref().is_some_and(Vec::is_empty) {
                    core.lists.take(&mut this.ticket, waker);
                }
                found
            })
        });
        match found {
            None => {
                this.left = 0;
                Poll::Ready(Some(Err(status::gone())))
            }
            Some(Some(Some(tasks))) if !tasks.is_empty() => {
                this.found = tasks;
                this.poll_found(cx)
            }
            Some(Some(None)) => Poll::Ready(None),
            Some(Some(Some(_)) | None) => Poll::Pending,
        }
    }
}

impl Drop for ListStream {
    fn drop(&mut self) {
        let ticket = self.ticket.take();
        if ticket.is_some() {
            core_cell::attend(|core| core.lists.leave(ticket));
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::StreamExt as _;
    use qtf_engine::{Payload, Submission};

    use super::*;
    use crate::core::test_core;

    #[test]
    fn many_lists_that_match_nothing_look_at_one_stripe_a_turn_together() {
        let folder = tempfile::tempdir().unwrap();
        let mut core = test_core(folder.path());
        let now = core.now();
        for _ in 0..5_000 {
            let submission =
                Submission::new(qtf_shm::ClientIndex::UNKNOWN, "noop", Payload::Bytes(b""));
            core.engine.submit(now, &submission).unwrap();
        }
        let end = core.segment().high_water();
        core_cell::install(core);
        let request = ListTasksRequest {
            states: vec![TaskState::DeadLetter.into()],
            ..ListTasksRequest::default()
        };
        let new = || ListStream::new(request.clone(), None);
        let mut lists: Vec<ListStream> = std::iter::repeat_with(new).take(250).collect();
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let position = |lists: &[ListStream]| -> u64 {
            lists.iter().map(|list| u64::from(list.next_slot)).sum()
        };
        let mut turns = 0_u64;
        while !lists.is_empty() {
            let mut before = position(&lists);
            lists.retain_mut(|list| {
                let at = u64::from(list.next_slot);
                let is_over = matches!(list.poll_next_unpin(&mut cx), Poll::Ready(None));
                before -= if is_over { at } else { 0 };
                !is_over
            });
            let looked_at = position(&lists).saturating_sub(before);
            assert!(looked_at <= u64::from(SLOTS_PER_TURN), "{looked_at}");
            turns += 1;
            core_cell::turn();
        }
        assert!(turns >= 250 * u64::from(end.div_ceil(SLOTS_PER_TURN)));
        drop(core_cell::remove());
    }
}
