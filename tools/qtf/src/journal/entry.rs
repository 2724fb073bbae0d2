//! One record of a journal as it is shown.

use qtf_journal::{Blob, Content, Entry, Record, WholeTask};
use qtf_shm::Outcome;
use serde_json::{Value, json};

use crate::output::command_of_payload;
use qtf_shown::command::CommandLine;

/// Columns of the table, and their widths; the last has none.
pub(super) const COLUMNS: [(&str, usize); 6] = [
    ("OFFSET", 10),
    ("LSN", 10),
    ("STABLE", 10),
    ("KIND", 12),
    ("TASK", 13),
    ("WHAT", 0),
];

/// One text for each column.
pub(super) fn cells(entry: &Entry<'_>) -> [String; 6] {
    let task = task_of(entry).unwrap_or_else(|| "-".to_owned());
    [
        entry.offset.to_string(),
        entry.lsn.to_string(),
        entry.durable.to_string(),
        kind_of(entry).to_owned(),
        task,
        words(entry),
    ]
}

/// The record in JSON.
pub(super) fn json_of(entry: &Entry<'_>) -> Value {
    let mut value = json!({
        "offset": entry.offset,
        "bytes": entry.bytes,
        "lsn": entry.lsn.get(),
        "durable_lsn": entry.durable.get(),
        "crc32c": format!("{:08x}", entry.crc32c),
        "kind": kind_of(entry),
        "task": task_of(entry),
    });
    let details = match &entry.content {
        Content::Record(record) => details(record),
        Content::End {
            tasks,
            gen_limit,
            shown,
        } => json!({ "tasks": tasks, "gen_limit": gen_limit, "shown_lsn": shown.get() }),
        Content::Unreadable(bad) => json!({ "problem": bad.to_string() }),
    };
    if let (Some(value), Value::Object(details)) = (value.as_object_mut(), details) {
        value.extend(details);
    }
    value
}

fn task_of(entry: &Entry<'_>) -> Option<String> {
    match &entry.content {
        Content::Record(record) => record.task().map(|id| id.to_string()),
        Content::End { .. } | Content::Unreadable(_) => None,
    }
}

fn kind_of(entry: &Entry<'_>) -> &'static str {
    match &entry.content {
        Content::Record(record) => record.name(),
        Content::End { .. } => "end",
        Content::Unreadable(_) => "unreadable",
    }
}

fn words(entry: &Entry<'_>) -> String {
    match &entry.content {
        Content::Record(record) => record_words(record),
        Content::End { tasks, shown, .. } => {
            format!("of a snapshot: {tasks} tasks, up to lsn {shown}")
        }
        Content::Unreadable(bad) => bad.to_string(),
    }
}

fn record_words(record: &Record<'_>) -> String {
    match record {
        Record::Task(whole) => format!("{}, {}", whole.phase, command_of(whole)),
        Record::Attempt {
            attempt, worker, ..
        } => format!("{attempt} to worker {}", worker_text(*worker)),
        Record::Requeue {
            phase,
            attempt,
            failures,
            losses,
            ..
        } => format!(
            "{phase} after attempt {attempt} ({failures} failed, {losses} lost their worker)"
        ),
        Record::Outcome {
            attempt,
            phase,
            outcome,
            result,
            ..
        } => format!(
            "{phase} in attempt {attempt}, {} {}, {}",
            outcome.kind.name(),
            outcome.code,
            blob_words(result)
        ),
        Record::Cancel { .. } => "asked for".to_owned(),
        Record::Acknowledged { .. } => "its result was received".to_owned(),
        Record::Purge { .. } => "its slot was freed".to_owned(),
        Record::Reserve { gen_limit } => format!("generations below {gen_limit}"),
        Record::Update { priority, .. } => format!("priority {priority}"),
        Record::Key { key, .. } => hex(key.to_bytes()),
    }
}

fn details(record: &Record<'_>) -> Value {
    match record {
        Record::Task(whole) => whole_task_json(whole),
        Record::Attempt {
            attempt, worker, ..
        } => json!({ "attempt": attempt, "worker": worker_text(*worker) }),
        Record::Requeue {
            phase,
            attempt,
            failures,
            losses,
            due_unix_ms,
            ..
        } => json!({
            "state": phase.name(), "attempt": attempt, "failures": failures, "losses": losses,
            "due_unix_ms": due_unix_ms,
        }),
        Record::Outcome {
            attempt,
            phase,
            outcome,
            failures,
            losses,
            ended_unix_ms,
            result,
            ..
        } => json!({
            "state": phase.name(), "attempt": attempt, "failures": failures, "losses": losses,
            "ended_unix_ms": ended_unix_ms, "outcome": outcome_json(*outcome),
            "result": blob_json(result),
        }),
        Record::Cancel { .. } | Record::Acknowledged { .. } | Record::Purge { .. } => json!({}),
        Record::Reserve { gen_limit } => json!({ "gen_limit": gen_limit }),
        Record::Update { priority, .. } => json!({ "priority": priority }),
        Record::Key {
            key,
            expires_unix_ms,
            ..
        } => json!({ "key": hex(key.to_bytes()), "expires_unix_ms": expires_unix_ms }),
    }
}

fn whole_task_json(whole: &WholeTask<'_>) -> Value {
    json!({
        "state": whole.phase.name(),
        "command": command_of(whole),
        "task_kind": whole.kind,
        "priority": whole.priority,
        "attempt": whole.attempt,
        "failures": whole.failures,
        "losses": whole.losses,
        "max_attempts": whole.max_attempts,
        "cancel_requested": whole.cancel_requested,
        "timeout_ms": whole.timeout_ms,
        "estimate_ms": whole.estimate_ms,
        "keep_s": whole.keep_s,
        "client": { "uid": whole.client.uid, "name": whole.client.name, "host": whole.client.host },
        "submitted_unix_ms": whole.submitted_unix_ms,
        "due_unix_ms": whole.due_unix_ms,
        "ended_unix_ms": whole.ended_unix_ms,
        "array_id": whole.array.map(|(first, _)| crate::records::id_text(first)),
        "array_index": whole.array.map(|(_, index)| index),
        "key": whole.key.map(|(key, _)| hex(key.to_bytes())),
        "key_expires_unix_ms": whole.key.map(|(_, expires)| expires),
        "outcome": outcome_json(whole.outcome),
        "payload": blob_json(&whole.payload),
        "result": blob_json(&whole.result),
        "shown_lsn": whole.lsn.get(),
    })
}

fn outcome_json(outcome: Outcome) -> Value {
    json!({
        "kind": outcome.kind.name(), "code": outcome.code, "result_dropped": outcome.result_dropped,
    })
}

fn command_of(whole: &WholeTask<'_>) -> CommandLine {
    match whole.payload {
        Blob::Bytes(bytes) => command_of_payload(whole.kind, bytes, len(bytes)),
        Blob::None => command_of_payload(whole.kind, &[], 0),
        Blob::Spill { len, .. } => {
            CommandLine::Text(format!("{} ({len} bytes in a file)", whole.kind))
        }
    }
}

fn blob_words(blob: &Blob<'_>) -> String {
    match blob {
        Blob::None => "no output".to_owned(),
        Blob::Bytes(bytes) => format!("output of {} bytes", bytes.len()),
        Blob::Spill { number, len, .. } => format!("output of {len} bytes in spill file {number}"),
    }
}

fn blob_json(blob: &Blob<'_>) -> Value {
    match blob {
        Blob::None => json!({ "bytes": 0 }),
        Blob::Bytes(bytes) => json!({ "bytes": bytes.len() }),
        Blob::Spill {
            number,
            len,
            crc32c,
        } => json!({ "bytes": len, "spill_file": number, "crc32c": format!("{crc32c:08x}") }),
    }
}

fn worker_text(raw: u64) -> String {
    crate::records::worker_text(raw).unwrap_or_else(|| "-".to_owned())
}

fn hex(bytes: [u8; 16]) -> String {
    format!("{:032x}", u128::from_be_bytes(bytes))
}

fn len(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}
