//! Workers as they are shown.

use qtf_proto::v1::{WorkerInfo, WorkerState};
use serde::Serialize;

use crate::durations::age;
use crate::output::Listed;

/// One worker, in JSON and in tables.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct WorkerRecord {
    id: String,
    name: String,
    node: String,
    pid: u32,
    address: String,
    state: &'static str,
    calls: bool,
    capacity: u32,
    running: u32,
    credits: u32,
    heartbeat_age_ms: u64,
    registered_age_ms: u64,
    tasks_done: u64,
    tasks_failed: u64,
    kinds: Vec<String>,
    load_milli: u32,
}

impl From<&WorkerInfo> for WorkerRecord {
    fn from(info: &WorkerInfo) -> Self {
        WorkerRecord {
            // Worker 0.0 does not exist: incarnations start at 1.
            id: worker_text(info.worker_id).unwrap_or_else(|| "-".to_owned()),
            name: info.name.clone(),
            node: info.host.clone(),
            pid: info.pid,
            address: info.address.clone(),
            state: state_name(info.state()),
            calls: info.calls,
            capacity: info.capacity,
            running: info.running,
            credits: info.credits,
            heartbeat_age_ms: info.heartbeat_age_ms,
            registered_age_ms: info.registered_age_ms,
            tasks_done: info.tasks_done,
            tasks_failed: info.tasks_failed,
            kinds: info.kinds.clone(),
            load_milli: info.load_milli,
        }
    }
}

impl Listed for WorkerRecord {
    const SCHEMA: &'static str = "qtf.worker/1";
    const LIST_SCHEMA: &'static str = "qtf.workers/1";
    const LIST: &'static str = "workers";
    const COLUMNS: &'static [&'static str] = &[
        "ID", "STATE", "VIA", "NAME", "NODE", "PID", "RUNNING", "LOAD", "SEEN", "DONE", "FAILED",
        "ADDRESS", "KINDS",
    ];

    fn cells(&self) -> Vec<String> {
        vec![
            self.id.clone(),
            self.state.to_owned(),
            if self.calls { "calls" } else { "streams" }.to_owned(),
            self.name.clone(),
            self.node.clone(),
            self.pid.to_string(),
            format!("{}/{}", self.running, self.capacity),
            // Whoever calls does not tell of its machine.
            if self.calls {
                "-".to_owned()
            } else {
                let (whole, rest) = (self.load_milli / 1000, self.load_milli % 1000 / 10);
                format!("{whole}.{rest:02}")
            },
            age(self.heartbeat_age_ms),
            self.tasks_done.to_string(),
            self.tasks_failed.to_string(),
            self.address.clone(),
            self.kinds.join(","),
        ]
    }
}

fn state_name(state: WorkerState) -> &'static str {
    match state {
        WorkerState::Unspecified => "unknown",
        WorkerState::Live => "live",
        WorkerState::Draining => "draining",
        WorkerState::Suspect => "suspect",
        WorkerState::Lost => "lost",
    }
}

/// A worker id of the wire as `w3.1`; nothing for 0.
pub(crate) fn worker_text(raw: u64) -> Option<String> {
    (raw != 0).then(|| format!("w{}.{}", raw & 0xffff, raw >> 16))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_written_as_slot_and_incarnation() {
        assert_eq!(worker_text(0), None);
        assert_eq!(worker_text((1 << 16) | 3).as_deref(), Some("w3.1"));
    }

    #[test]
    fn there_is_a_cell_for_each_column() {
        let info = WorkerInfo {
            load_milli: 1_234,
            capacity: 8,
            running: 3,
            ..WorkerInfo::default()
        };
        let cells = WorkerRecord::from(&info).cells();
        assert_eq!(cells.len(), WorkerRecord::COLUMNS.len());
        assert_eq!(cells[2], "streams");
        assert_eq!((cells[6].as_str(), cells[7].as_str()), ("3/8", "1.23"));
    }

    #[test]
    fn worker_that_calls_is_told_from_one_that_holds_streams() {
        let info = WorkerInfo {
            calls: true,
            ..WorkerInfo::default()
        };
        let record = WorkerRecord::from(&info);
        let cells = record.cells();
        assert_eq!((cells[2].as_str(), cells[7].as_str()), ("calls", "-"));
        assert_eq!(serde_json::to_value(&record).unwrap()["calls"], true);
    }
}
