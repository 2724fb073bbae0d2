//! `qtf info`.

use std::io::Write as _;

use qtf_client::{DaemonInfo, Durability, JournalInfo, JournalState, StartKind};
use serde_json::json;

use crate::args::{GlobalArgs, OutputMode};
use crate::daemon::Daemon;
use crate::durations::age;
use crate::exit::{Ending, Exit};
use crate::output::{print_json, write_fields};
use crate::records::durability_name;

/// Tells what the daemon is and how its journal stands.
pub(crate) async fn run(global: &GlobalArgs) -> Ending {
    let daemon = Daemon::connect(global).await?;
    let info = daemon.client.info().await?;
    match global.mode() {
        OutputMode::Table => {
            let mut out = std::io::stdout().lock();
            write_fields(&fields(&info), &mut out)?;
            out.flush()?;
        }
        OutputMode::Json | OutputMode::Jsonl => print_json("qtf.info/1", &body(&info))?,
    }
    Ok(Exit::Ok)
}

fn fields(info: &DaemonInfo) -> Vec<(&'static str, String)> {
    let tasks: Vec<String> = info
        .tasks_by_state
        .iter()
        .filter(|state| state.value > 0)
        .map(|state| format!("{} {}", state.value, state.name))
        .collect();
    let mut fields = vec![
        ("instance", info.instance.clone()),
        ("version", info.version.clone()),
        ("pid", info.pid.to_string()),
        ("up", age(info.uptime_ms)),
        ("start", start_name(info.start()).unwrap_or("").to_owned()),
        ("epoch", info.epoch.to_string()),
        (
            "segment",
            format!("{} ({} bytes)", info.shm_id, info.segment_bytes),
        ),
        ("task slots", info.task_slots.to_string()),
        ("worker slots", info.worker_slots.to_string()),
        ("network", info.network_backend.clone()),
        ("tasks", tasks.join(", ")),
        ("durability", durability_of(info).to_owned()),
    ];
    if let Some(journal) = &info.journal {
        fields.extend(journal_fields(journal));
    }
    fields
}

fn journal_fields(journal: &JournalInfo) -> Vec<(&'static str, String)> {
    vec![
        ("journal", journal_state(journal).to_owned()),
        ("journal says", journal.message.clone()),
        ("data directory", journal.data_dir.clone()),
        ("written by", journal.backend.clone()),
        ("last lsn", journal.end_lsn.to_string()),
        ("stable lsn", journal.durable_lsn.to_string()),
        ("snapshot lsn", journal.snapshot_lsn.to_string()),
        ("room", format!("{} bytes", journal.room_bytes)),
        ("reserve", format!("{} bytes", journal.reserve_bytes)),
        ("logs", journal.files.to_string()),
    ]
}

fn body(info: &DaemonInfo) -> serde_json::Value {
    let named = |values: &[qtf_client::NamedValue]| -> serde_json::Map<String, serde_json::Value> {
        let pairs = values.iter();
        pairs
            .map(|one| (one.name.clone(), json!(one.value)))
            .collect()
    };
    json!({
        "instance": info.instance, "version": info.version, "pid": info.pid,
        "uptime_ms": info.uptime_ms, "start": start_name(info.start()), "epoch": info.epoch,
        "shm_id": info.shm_id, "segment_bytes": info.segment_bytes,
        "private_segment": info.private_segment, "task_slots": info.task_slots,
        "worker_slots": info.worker_slots, "network": info.network_backend,
        "default_durability": durability_of(info),
        "tasks": named(&info.tasks_by_state), "counters": named(&info.counters),
        "journal": info.journal.as_ref().map(|journal| json!({
            "state": journal_state(journal), "message": journal.message,
            "data_dir": journal.data_dir, "backend": journal.backend,
            "end_lsn": journal.end_lsn, "durable_lsn": journal.durable_lsn,
            "snapshot_lsn": journal.snapshot_lsn, "room_bytes": journal.room_bytes,
            "reserve_bytes": journal.reserve_bytes, "files": journal.files,
        })),
    })
}

fn durability_of(info: &DaemonInfo) -> &'static str {
    match info.default_durability() {
        Durability::Unspecified => "memory",
        durability @ (Durability::Memory | Durability::Journal) => durability_name(durability),
    }
}

fn start_name(start: StartKind) -> Option<&'static str> {
    match start {
        StartKind::Unspecified => None,
        StartKind::Fresh => Some("fresh"),
        StartKind::Hot => Some("hot"),
        StartKind::Cold => Some("cold"),
    }
}

fn journal_state(journal: &JournalInfo) -> &'static str {
    match journal.state() {
        JournalState::Unspecified => "unknown",
        JournalState::Open => "open",
        JournalState::Full => "full",
        JournalState::Failed => "failed",
    }
}
