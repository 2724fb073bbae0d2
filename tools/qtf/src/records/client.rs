//! Clients as they are shown.

use qtf_proto::v1::ClientInfo;
use serde::Serialize;

use crate::durations::age;
use crate::output::Listed;

/// LIMIT: what the wire carries where the uid of a client is not known.
const UID_UNKNOWN: u32 = u32::MAX;

/// One client, in JSON and in tables.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct ClientRecord {
    id: String,
    name: String,
    node: String,
    address: String,
    pid: u32,
    uid: Option<u32>,
    connections: u32,
    heartbeat_age_ms: u64,
    tasks_unfinished: u64,
    results_kept: u64,
    tasks_submitted: u64,
}

impl From<&ClientInfo> for ClientRecord {
    fn from(info: &ClientInfo) -> Self {
        ClientRecord {
            id: format!("c{}", info.client_id),
            name: info.name.clone(),
            node: info.host.clone(),
            address: info.address.clone(),
            pid: info.pid,
            uid: Some(info.uid).filter(|uid| *uid != UID_UNKNOWN),
            connections: info.connections,
            heartbeat_age_ms: info.heartbeat_age_ms,
            tasks_unfinished: info.tasks_unfinished,
            results_kept: info.results_kept,
            tasks_submitted: info.tasks_submitted,
        }
    }
}

impl Listed for ClientRecord {
    const SCHEMA: &'static str = "qtf.client/1";
    const LIST_SCHEMA: &'static str = "qtf.clients/1";
    const LIST: &'static str = "clients";
    const COLUMNS: &'static [&'static str] = &[
        "ID",
        "NAME",
        "NODE",
        "PID",
        "UID",
        "CONNECTIONS",
        "SEEN",
        "TASKS",
        "RESULTS",
        "SUBMITTED",
        "ADDRESS",
    ];

    fn cells(&self) -> Vec<String> {
        vec![
            self.id.clone(),
            self.name.clone(),
            self.node.clone(),
            self.pid.to_string(),
            self.uid
                .map_or_else(|| "-".to_owned(), |uid| uid.to_string()),
            self.connections.to_string(),
            age(self.heartbeat_age_ms),
            self.tasks_unfinished.to_string(),
            self.results_kept.to_string(),
            self.tasks_submitted.to_string(),
            self.address.clone(),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_uid_is_not_shown_as_a_number() {
        let record = ClientRecord::from(&ClientInfo {
            uid: u32::MAX,
            ..ClientInfo::default()
        });
        assert_eq!(record.cells()[4], "-");
        assert!(serde_json::to_value(&record).unwrap()["uid"].is_null());
        assert_eq!(record.cells().len(), ClientRecord::COLUMNS.len());
    }
}
