//! The ends of tasks as messages, for each stream that tells of them.
//!
//! Only ids wait; what a task left is read when it is told. Tested in `tests/daemon/watch.rs` and `tests/daemon/submit.rs`.

use qtf_proto::v1::{RefusalReason, TaskEnd};
use qtf_proto::wire::{End, Frame, TellsEnds};
use qtf_shm::{Part, Phase, ShortText, TaskId};

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

/// Writes what a message tells: refusals first, then ends, as many as fit.
pub(super) fn next_ends<M: TellsEnds>(
    core: &mut Core,
    key: WatchKey,
    refused: &mut Vec<TaskEnd>,
    with_output: bool,
    frame: &mut Frame<M>,
) {
    let mut told = refused.len().min(ENDS_MAX);
    refused.drain(..told).for_each(|end| frame.no_end(&end));
    let mut copied = 0_usize;
    while told < ENDS_MAX && copied < COPIED_PER_POLL_MAX {
        let Some((task, phase)) = core.watches.next_ended(key) else {
            break;
        };
        copied = copied.saturating_add(tell(core, task, phase, with_output, frame));
        told += 1;
    }
}

/// Results that were received: their slots may be freed.
pub(super) fn acknowledge(core: &mut Core, tasks: impl Iterator<Item = u64> + Clone) {
    let now = core.now();
    let tasks = tasks.filter_map(TaskId::from_raw);
    core.engine.forget_batch(now, tasks, |task, answer| {
        if let Err(rejection) = answer {
            tracing::debug!(%task, %rejection, "acknowledgement");
        }
    });
}

/// Writes the end of a task, with its output if that is wanted and fits. Returns how many bytes of it were copied.
fn tell<M: TellsEnds>(
    core: &Core,
    task: TaskId,
    phase: Phase,
    with_output: bool,
    frame: &mut Frame<M>,
) -> usize {
    let state = read::state_of(phase);
    let Some(record) = read::task(core, task) else {
        // Freed by now: its client did not want the output, somebody acknowledged it, or it expired.
        let outcome = read::outcome_of_freed(phase).map(|outcome| qtf_proto::v1::Outcome {
            result_dropped: core.engine.has_expired_done(task),
            ..outcome
        });
        let end = End {
            outcome,
            ..End::new(task.as_raw(), state)
        };
        frame.end(&end, 0, |_| false);
        return 0;
    };
    let worker = read::name_of_last_worker(core, &record);
    let worker = worker.as_ref().map(ShortText::text);
    let end = End {
        outcome: Some(read::outcome(record.outcome)),
        attempt: record.state.fence().into(),
        output_bytes: record.result.len(),
        worker_name: worker.as_deref().unwrap_or_default(),
        ..End::new(task.as_raw(), state)
    };
    let output = if with_output {
        read::length_in_message(record.result)
    } else {
        0
    };
    frame.end(&end, output, |bytes| {
        read::fill(core, Part::Result, task, bytes)
    });
    output
}
