//! One record of a journal as it is shown.

use qtf_journal::{Blob, Content, Entry, Record, TaskImage};
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
        Record::Task(image) => format!("{}, {}", image.phase, command_of(image)),
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
        Record::Task(image) => image_json(image),
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

fn image_json(image: &TaskImage<'_>) -> Value {
    json!({
        "state": image.phase.name(),
        "command": command_of(image),
        "task_kind": image.kind,
        "priority": image.priority,
        "attempt": image.attempt,
        "failures": image.failures,
        "losses": image.losses,
        "max_attempts": image.max_attempts,
        "cancel_requested": image.cancel_requested,
        "timeout_ms": image.timeout_ms,
        "estimate_ms": image.estimate_ms,
        "client": { "uid": image.client.uid, "name": image.client.name, "host": image.client.host },
        "submitted_unix_ms": image.submitted_unix_ms,
        "due_unix_ms": image.due_unix_ms,
        "ended_unix_ms": image.ended_unix_ms,
        "array_id": image.array.map(|(first, _)| crate::records::id_text(first)),
        "array_index": image.array.map(|(_, index)| index),
        "key": image.key.map(|(key, _)| hex(key.to_bytes())),
        "key_expires_unix_ms": image.key.map(|(_, expires)| expires),
        "outcome": outcome_json(image.outcome),
        "payload": blob_json(&image.payload),
        "result": blob_json(&image.result),
        "shown_lsn": image.lsn.get(),
    })
}

fn outcome_json(outcome: Outcome) -> Value {
    json!({
        "kind": outcome.kind.name(), "code": outcome.code, "result_dropped": outcome.result_dropped,
    })
}

fn command_of(image: &TaskImage<'_>) -> CommandLine {
    match image.payload {
        Blob::Bytes(bytes) => command_of_payload(image.kind, bytes, len(bytes)),
        Blob::None => command_of_payload(image.kind, &[], 0),
        Blob::Spill { len, .. } => {
            CommandLine::Text(format!("{} ({len} bytes in a file)", image.kind))
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
