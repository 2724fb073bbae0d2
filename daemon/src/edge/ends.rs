//! The ends of tasks as messages, for each stream that tells of them.
//!
//! Only ids wait; what a task left is read when it is told. Tested in `tests/daemon/watch.rs` and `tests/daemon/submit.rs`.

use qtf_proto::v1::{RefusalReason, TaskEnd};
use qtf_shm::{Phase, TaskId};

use super::{COPIED_PER_POLL_MAX, read, status};
use crate::core::Core;
use crate::core::watches::{TooManyWatches, WatchKey};

/// LIMIT: ends in one message.
pub(super) const ENDS_MAX: usize = 256;
/// LIMIT: while so many ends are not told no more requests are read.
pub(super) const UNTOLD_MAX: usize = 4096;

/// The stream is to be told of the end of this task; at once, if it has ended. If that cannot be, what it is to be told instead.
pub(super) fn watch(core: &mut Core, key: WatchKey, raw: u64) -> Result<(), Box<TaskEnd>> {
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
        Some(phase) => core.watches.add_ended(key, task, phase),
        None => core.watches.add(key, task),
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

/// What a message tells: refusals first, then ends, as many as fit.
pub(super) fn next_ends(
    core: &mut Core,
    key: WatchKey,
    refused: &mut Vec<TaskEnd>,
    with_output: bool,
) -> Vec<TaskEnd> {
    let take = refused.len().min(ENDS_MAX);
    let mut ends: Vec<TaskEnd> = refused.drain(..take).collect();
    let mut copied = 0_usize;
    while ends.len() < ENDS_MAX && copied < COPIED_PER_POLL_MAX {
        let Some((task, phase)) = core.watches.next_ended(key) else {
            break;
        };
        let end = end_of(core, task, phase, with_output);
        copied = copied.saturating_add(end.output.len());
        ends.push(end);
    }
    ends
}

/// Results that were received: their slots may be freed.
pub(super) fn acknowledge(core: &mut Core, tasks: &[u64]) {
    if tasks.is_empty() {
        return;
    }
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
    end.attempt = record.state.fence().into();
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
