//! `ListTasks`: slot by slot, a bounded number at each poll.
//!
//! Tested in `tests/daemon/listing.rs`.

use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::Stream;
use qtf_engine::Principal;
use qtf_proto::v1::{ListTasksRequest, ListTasksResponse, TaskInfo, TaskState};
use tonic::Status;

use super::{read, status};
use crate::core_cell::{self, Core};

/// LIMIT: slots looked at in one poll.
const SLOTS_PER_POLL: u32 = 2048;
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
        }
    }

    fn next(&mut self, core: &Core) -> Option<Vec<TaskInfo>> {
        let end = core.segment().high_water();
        if self.next_slot >= end || self.left == 0 {
            return None;
        }
        let stop = self.next_slot.saturating_add(SLOTS_PER_POLL).min(end);
        let mut tasks = Vec::new();
        for slot in core.segment().allocated_slots(self.next_slot..stop) {
            self.next_slot = slot.get().saturating_add(1);
            if let Some(info) = self.wanted(core, slot) {
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

    fn wanted(&self, core: &Core, slot: qtf_shm::SlotIndex) -> Option<TaskInfo> {
        let record = read::task_in(core, slot)?;
        let state = read::state_of(record.state.phase());
        let is_of_a_state =
            self.request.states.is_empty() || self.request.states.contains(&state.into());
        if state == TaskState::Unspecified || !is_of_a_state {
            return None;
        }
        let is_wanted = self.whose.is_none_or(|whose| {
            let client = core.segment().client_index(record.client);
            client.is_some_and(|client| core.engine.principal_of(client) == whose)
        });
        if !is_wanted {
            return None;
        }
        let info = read::task_info(core, &record, !self.request.without_preview)?;
        let array = self.request.array_id;
        (array == 0 || info.array_id == array || info.task_id == array).then_some(info)
    }
}

impl Stream for ListStream {
    type Item = Result<ListTasksResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        match core_cell::look(|core| self.next(core)) {
            None => {
                self.left = 0;
                Poll::Ready(Some(Err(status::gone())))
            }
            Some(None) => Poll::Ready(None),
            Some(Some(tasks)) if tasks.is_empty() => {
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            Some(Some(tasks)) => Poll::Ready(Some(Ok(ListTasksResponse { tasks }))),
        }
    }
}
