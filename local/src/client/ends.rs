//! Ends on their way to a stream, and as messages.
//!
//! Invariant: a queue holds ids only, at most one for each that its stream has named; what a task left is read when it is told.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use qtf_proto::v1::TaskEnd;
use qtf_shm::{Phase, Segment, TaskId};
use tokio::sync::Notify;

use crate::{records, refusals};

/// LIMIT: ends in one message.
pub(crate) const ENDS_MAX: usize = 256;
/// LIMIT: bytes of outputs in one message.
const OUTPUT_BYTES_MAX: usize = 1 << 20;

/// The end of a task.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ended {
    pub(crate) task: TaskId,
    /// `None`: its slot is free, and nobody knows how it ended.
    pub(crate) phase: Option<Phase>,
}

/// The client has left the segment: what has not come to the queue by then never comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Left;

/// What has come to a queue.
#[derive(Debug, Default)]
struct Come {
    ended: VecDeque<Ended>,
    /// No more come.
    has_left: bool,
}

/// Ends that a stream is to tell.
#[derive(Debug, Default)]
pub(crate) struct EndsQueue {
    come: Mutex<Come>,
    more: Notify,
}

impl EndsQueue {
    fn come(&self) -> MutexGuard<'_, Come> {
        self.come.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn push(&self, ended: impl IntoIterator<Item = Ended>) {
        self.come().ended.extend(ended);
        self.more.notify_one();
    }

    /// No more come: the seat is left.
    pub(crate) fn leave(&self) {
        self.come().has_left = true;
        self.more.notify_one();
    }

    /// Waits until there is one.
    pub(crate) async fn some(&self) -> Result<(), Left> {
        loop {
            {
                let come = self.come();
                if !come.ended.is_empty() {
                    return Ok(());
                }
                if come.has_left {
                    return Err(Left);
                }
            }
            self.more.notified().await;
        }
    }

    /// The next message's, as many as fit.
    pub(crate) fn next_ends(&self, segment: &Segment, with_output: bool) -> Vec<TaskEnd> {
        let mut ends = Vec::new();
        let mut bytes = 0;
        while ends.len() < ENDS_MAX && bytes < OUTPUT_BYTES_MAX {
            let Some(ended) = self.come().ended.pop_front() else {
                break;
            };
            let end = end_of(segment, ended, with_output);
            bytes += end.output.len();
            ends.push(end);
        }
        ends
    }
}

fn end_of(segment: &Segment, ended: Ended, with_output: bool) -> TaskEnd {
    let Ended { task, phase } = ended;
    let state = phase.map_or_else(Default::default, records::state_of);
    let mut end = TaskEnd {
        task_id: task.as_raw(),
        state: state.into(),
        ..TaskEnd::default()
    };
    let Some(record) = records::task(segment, task) else {
        match phase {
            Some(phase) => end.outcome = records::outcome_of_freed(phase),
            None => end.refusal = Some(refusals::unknown_task(task)),
        }
        return end;
    };
    end.outcome = Some(records::outcome(record.outcome));
    end.attempt = record.state.fence().into();
    end.output_bytes = record.result.len();
    if let Some((_, name, _)) = records::last_worker(segment, &record) {
        end.worker_name = name;
    }
    if with_output
        && end.output_bytes > 0
        && let Some(output) = records::small_output(segment, task, end.output_bytes)
    {
        end.output = output;
    }
    end
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended() -> Ended {
        Ended {
            task: TaskId::from_raw((1 << 24) | 1).expect("a task"),
            phase: Some(Phase::Done),
        }
    }

    #[tokio::test]
    async fn who_waits_hears_when_the_seat_is_left_and_of_what_has_come_before() {
        let queue = EndsQueue::default();
        let (waited, ()) = tokio::join!(queue.some(), async { queue.leave() });
        assert_eq!(waited, Err(Left));
        queue.push([ended()]);
        assert_eq!(queue.some().await, Ok(()));
    }
}
