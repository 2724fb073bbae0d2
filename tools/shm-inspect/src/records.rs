//! Tasks and workers in the form in which they are printed. Ids are strings; the names are those of the
//! command line.
//!
//! Tested in `tests/inspect/main.rs`.

use crate::exec_payload;
use crate::inspected::Inspected;
use qtf_shm::reading::Reading;
use qtf_shm::segment::{Part, TaskRecord, WorkerRecord};
use qtf_shm::task::slot::TaskOptions;
use qtf_shm::{FLAG_CANCEL, FLAG_TIMED_OUT, Now, Owner, Phase, WorkerIndex};
use qtf_shown::command::CommandLine;
use serde::Serialize;

/// Bytes of a payload that are looked at for its command.
const PREVIEW_BYTES: usize = 4096;
/// Bytes of a command that are shown.
const COMMAND_BYTES: usize = 200;

/// A worker as the owner of a task.
#[derive(Debug, Serialize)]
pub(crate) struct OwnerName {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) state: &'static str,
}

/// One task.
#[derive(Debug, Serialize)]
pub(crate) struct Task {
    pub(crate) id: Option<String>,
    pub(crate) slot: u32,
    pub(crate) state: &'static str,
    /// Why it is blocked, as its word says.
    pub(crate) blocked_on: Option<String>,
    pub(crate) consistent: bool,
    pub(crate) priority: u8,
    pub(crate) kind: String,
    pub(crate) command: Option<CommandLine>,
    pub(crate) attempt: u16,
    pub(crate) max_attempts: u8,
    pub(crate) failures: u8,
    pub(crate) losses: u8,
    /// Of ASSIGNED, RUNNING and ENDED: who has it. Else who had it last.
    pub(crate) worker: Option<OwnerName>,
    pub(crate) client: String,
    /// Of one that waits for a moment to come: none, it has the time until then.
    pub(crate) state_age_ms: Option<u64>,
    /// DELAYED, and HELD if it would be delayed: the time until it is due; negative when that is over.
    pub(crate) due_in_ms: Option<i64>,
    /// When its last attempt began that has begun.
    pub(crate) started_ms_ago: Option<u64>,
    pub(crate) timeout_ms: u32,
    /// Of `cancel_requested`, `stopped_for_time`, `discard_result`, `result_dropped` those that hold.
    pub(crate) flags: Vec<&'static str>,
    pub(crate) outcome: &'static str,
    pub(crate) outcome_code: u8,
    pub(crate) payload: Blob,
    pub(crate) result: Blob,
    pub(crate) array: Option<Array>,
    pub(crate) estimate_ms: u32,
    pub(crate) in_task_heap: bool,
    pub(crate) in_timer_heap: bool,
    /// The words of the slot, hexadecimal.
    pub(crate) raw: RawTask,
}

/// Where bytes lie.
#[derive(Debug, Serialize)]
pub(crate) struct Blob {
    pub(crate) place: &'static str,
    pub(crate) bytes: u64,
}

/// Membership in an array.
#[derive(Debug, Serialize)]
pub(crate) struct Array {
    pub(crate) first: String,
    pub(crate) index: u64,
}

/// The words that decide, as they are.
#[derive(Debug, Serialize)]
pub(crate) struct RawTask {
    pub(crate) state: String,
    pub(crate) key: String,
    pub(crate) payload: String,
    pub(crate) result: String,
}

/// One worker.
#[derive(Debug, Serialize)]
pub(crate) struct Worker {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) host: String,
    pub(crate) pid: u32,
    pub(crate) uid: Option<u32>,
    pub(crate) state: &'static str,
    pub(crate) consistent: bool,
    pub(crate) running: u16,
    pub(crate) capacity: u16,
    pub(crate) credits: u32,
    pub(crate) load_milli: u32,
    pub(crate) kinds: Vec<String>,
    pub(crate) registered_ms_ago: u64,
    pub(crate) heartbeat_ms_ago: Option<u64>,
    pub(crate) lease_ends_in_ms: Option<i64>,
    pub(crate) in_worker_heap: bool,
    pub(crate) tasks_done: u64,
    pub(crate) attempts_failed: u64,
    pub(crate) attempts_lost: u64,
    pub(crate) results_stale: u64,
}

impl Inspected {
    /// A task in the form in which it is printed.
    pub(crate) fn task(&self, reading: &Reading<TaskRecord>) -> Task {
        let record = &reading.record;
        let (state, outcome) = (record.state, record.outcome);
        let side = self.view().read_side(record);
        let leaf = record.slot.get();
        let heap = |heap| self.view().heap(heap).leaf(leaf);
        let hexadecimal = |word: u64| format!("{word:#018x}");
        let due = self.due_of(record);
        Task {
            id: record.id.map(|id| id.to_string()),
            slot: leaf,
            state: state.phase_name(),
            blocked_on: state.blocked().map(|why| why.to_string()),
            consistent: !reading.torn,
            priority: record.priority,
            kind: self.kind_name(record.kind),
            command: self.command(record),
            attempt: state.fence(),
            max_attempts: record.max_attempts,
            failures: record.failures,
            losses: record.losses,
            worker: self.worker_of(record),
            client: format!("c{}", record.client),
            state_age_ms: due.is_none().then(|| self.age_ms(record.phase_time)),
            due_in_ms: due.map(|due| self.until_ms(due)),
            started_ms_ago: (record.started != 0).then(|| self.age_ms(record.started)),
            timeout_ms: record.timeout_ms,
            flags: flags_of(record),
            outcome: outcome.kind.name(),
            outcome_code: outcome.code,
            payload: Blob {
                place: record.payload.place(),
                bytes: record.payload.len(),
            },
            result: Blob {
                place: record.result.place(),
                bytes: record.result.len(),
            },
            estimate_ms: side.as_ref().map_or(0, |side| side.estimate_ms),
            array: side.and_then(|side| {
                let first =
                    qtf_shm::TaskId::from_raw(side.array_id).filter(|_| side.array_id != 0)?;
                Some(Array {
                    first: first.to_string(),
                    index: side.array_index,
                })
            }),
            in_task_heap: heap(qtf_shm::segment::Heap::Task).is_some(),
            in_timer_heap: heap(qtf_shm::segment::Heap::Timer).is_some(),
            raw: RawTask {
                state: hexadecimal(state.as_raw()),
                key: hexadecimal(record.key.as_raw()),
                payload: hexadecimal(record.payload.as_raw()),
                result: hexadecimal(record.result.as_raw()),
            },
        }
    }

    /// When a task is due whose slot has this moment where others have the last change of their phase.
    fn due_of(&self, record: &TaskRecord) -> Option<Now> {
        let moment = Now::from_stamp(record.phase_time);
        let phase = record.state.phase();
        let is_due_then = phase == Phase::Delayed || phase == Phase::Held && moment > self.now();
        is_due_then.then_some(moment)
    }

    /// The command of an `exec` task; `None` for other kinds and when its payload cannot be read.
    pub(crate) fn command(&self, record: &TaskRecord) -> Option<CommandLine> {
        if self.kind_name(record.kind) != "exec" {
            return None;
        }
        let mut bytes = vec![0; PREVIEW_BYTES];
        let count = self
            .view()
            .load_blob(record, Part::Payload, 0, &mut bytes)
            .ok()?;
        let front = bytes.get(..count)?;
        Some(exec_payload::command_line(
            front,
            record.payload.len(),
            COMMAND_BYTES,
        ))
    }

    /// Who has a task, or had it last.
    pub(crate) fn worker_of(&self, record: &TaskRecord) -> Option<OwnerName> {
        let worker = match record.state.owner() {
            Owner::Worker(worker) => worker,
            Owner::None | Owner::Attach(_) => record.state.last_worker()?,
        };
        let record = self.view().read_worker(worker)?.record;
        Some(OwnerName {
            id: record.id.to_string(),
            name: record.name.clone(),
            state: record.state.phase().name(),
        })
    }

    /// A worker in the form in which it is printed.
    pub(crate) fn worker(&self, index: WorkerIndex, reading: &Reading<WorkerRecord>) -> Worker {
        let record = &reading.record;
        let kinds = self.view().kinds_in_order();
        let known = kinds.filter(|&(kind, _)| record.kinds.contains(kind));
        let [tasks_done, attempts_failed, attempts_lost, results_stale] = record.counters;
        let leaf = u32::from(index.get());
        Worker {
            id: record.id.to_string(),
            name: record.name.clone(),
            host: record.host.clone(),
            pid: record.pid,
            uid: (record.uid != u32::MAX).then_some(record.uid),
            state: record.state.phase().name(),
            consistent: !reading.torn,
            running: record.state.running(),
            capacity: record.state.capacity(),
            credits: record.credits,
            load_milli: record.load_milli,
            kinds: known.map(|(_, name)| name).collect(),
            registered_ms_ago: self.age_ms(record.registered),
            heartbeat_ms_ago: (!record.is_local).then(|| self.age_ms(record.heartbeat)),
            lease_ends_in_ms: (!record.is_local)
                .then(|| self.until_ms(Now::from_stamp(record.lease_end))),
            in_worker_heap: self
                .view()
                .heap(qtf_shm::segment::Heap::Worker)
                .leaf(leaf)
                .is_some(),
            tasks_done,
            attempts_failed,
            attempts_lost,
            results_stale,
        }
    }
}

/// The names of the flags that are set.
fn flags_of(record: &TaskRecord) -> Vec<&'static str> {
    let flags = [
        (record.state.has_flag(FLAG_CANCEL), "cancel_requested"),
        (record.state.has_flag(FLAG_TIMED_OUT), "stopped_for_time"),
        (record.state.is_judged(), "judged"),
        (record.state.is_forgotten(), "forgotten"),
        (
            record.options.has(TaskOptions::DISCARD_RESULT),
            "discard_result",
        ),
        (record.outcome.result_dropped, "result_dropped"),
    ];
    flags
        .into_iter()
        .filter(|(is_set, _)| *is_set)
        .map(|(_, name)| name)
        .collect()
}
