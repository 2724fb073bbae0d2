//! Tasks as they are shown.

use qtf_client::TaskKey;
use qtf_proto::v1::{Durability, TaskInfo, TaskState};
use qtf_shm::TaskId;
use serde::Serialize;

use super::{Ends, OutcomeRecord, describe, worker_text};
use crate::args::{DurabilityName, StateName};
use crate::durations::age;
use crate::output::{Listed, command_of_payload};
use qtf_shown::command::CommandLine;

/// One task, in JSON and in tables.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct TaskRecord {
    id: String,
    state: &'static str,
    kind: String,
    command: CommandLine,
    priority: u32,
    attempt: u32,
    max_attempts: u32,
    failures: u32,
    losses: u32,
    worker: Option<String>,
    worker_name: String,
    node: String,
    age_ms: u64,
    state_age_ms: u64,
    timeout_ms: Option<u32>,
    estimate_ms: Option<u32>,
    outcome: Option<OutcomeRecord>,
    /// The outcome in words; only for tasks that have ended.
    ending: Option<String>,
    payload_bytes: u64,
    output_bytes: u64,
    array_id: Option<String>,
    array_index: Option<u64>,
    client: String,
    no_result: bool,
    once: bool,
    cancel_requested: bool,
    blocked_on: String,
    /// Until it is ready; only for delayed tasks.
    due_in_ms: Option<u64>,
    /// Why its last attempt was put off; only while it waits for the next one, and not in lists.
    #[serde(skip_serializing_if = "Option::is_none")]
    again_reason: Option<String>,
    durability: &'static str,
    key: Option<String>,
    journal_lsn: Option<u64>,
    /// Only where everything is asked for.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    ends: Option<Ends>,
}

impl From<&TaskInfo> for TaskRecord {
    fn from(info: &TaskInfo) -> Self {
        let state = info.state();
        let in_array = info.array_id != 0;
        TaskRecord {
            id: id_text(info.task_id),
            state: state_name(state),
            kind: info.kind.clone(),
            command: command_of_payload(&info.kind, &info.payload_preview, info.payload_bytes),
            priority: info.priority,
            attempt: info.attempt,
            max_attempts: info.max_attempts,
            failures: info.failures,
            losses: info.losses,
            worker: worker_text(info.worker_id),
            worker_name: info.worker_name.clone(),
            node: info.worker_host.clone(),
            age_ms: info.age_ms,
            state_age_ms: info.state_age_ms,
            timeout_ms: Some(info.timeout_ms).filter(|ms| *ms != 0),
            estimate_ms: Some(info.estimate_ms).filter(|ms| *ms != 0),
            outcome: info.outcome.as_ref().map(OutcomeRecord::from),
            ending: has_ended(state).then(|| describe(state, info.outcome.as_ref())),
            payload_bytes: info.payload_bytes,
            output_bytes: info.output_bytes,
            array_id: in_array.then(|| id_text(info.array_id)),
            array_index: in_array.then_some(info.array_index),
            client: format!("c{}", info.client_id),
            no_result: info.discard_result,
            once: info.at_most_once,
            cancel_requested: info.cancel_requested,
            blocked_on: info.blocked_on.clone(),
            due_in_ms: (state == TaskState::Delayed).then_some(info.due_in_ms),
            again_reason: Some(info.again_reason.clone()).filter(|why| !why.is_empty()),
            durability: durability_name(info.durability()),
            key: key_text(&info.idempotency_key),
            journal_lsn: Some(info.journal_lsn).filter(|lsn| *lsn != 0),
            ends: None,
        }
    }
}

impl TaskRecord {
    /// With how its attempts ended: of an answer about this one task.
    pub(crate) fn with_ends(info: &TaskInfo) -> Self {
        TaskRecord {
            ends: Some(Ends::from(info)),
            ..TaskRecord::from(info)
        }
    }

    /// How its attempts ended, if that was asked for.
    pub(crate) fn ends(&self) -> Option<&Ends> {
        self.ends.as_ref()
    }

    /// The attempt that would be the last one if it failed: one that lost its worker uses up none of them. A revived task had
    /// attempts before, whose ends are no longer counted.
    fn attempts_at_most(&self) -> u32 {
        let at_most = self.max_attempts.saturating_add(self.losses);
        at_most.max(self.attempt)
    }

    /// Everything, as names and values for people.
    pub(crate) fn fields(&self) -> Vec<(&'static str, String)> {
        let ms = |value: Option<u32>| value.map(|ms| age(u64::from(ms))).unwrap_or_default();
        let attempts = format!(
            "{} ({} of {} failed, {} lost their worker)",
            self.attempt, self.failures, self.max_attempts, self.losses
        );
        let member = self
            .array_index
            .map(|index| format!("[{index}]"))
            .unwrap_or_default();
        let flag = |set: bool| if set { "yes".to_owned() } else { String::new() };
        vec![
            ("id", self.id.clone()),
            ("command", self.command.to_string()),
            ("kind", self.kind.clone()),
            (
                "state",
                match self.due_in_ms {
                    // The time of a delayed task's state is the one at which it is over.
                    Some(_) => self.state.to_string(),
                    None => format!("{} for {}", self.state, age(self.state_age_ms)),
                },
            ),
            ("ending", self.ending.clone().unwrap_or_default()),
            ("blocked on", self.blocked_on.clone()),
            ("ready in", self.due_in_ms.map(age).unwrap_or_default()),
            ("put off", self.again_reason.clone().unwrap_or_default()),
            ("cancel requested", flag(self.cancel_requested)),
            ("attempt", attempts),
            ("priority", self.priority.to_string()),
            ("worker", self.worker_cell()),
            ("node", self.node.clone()),
            ("age", age(self.age_ms)),
            ("timeout", ms(self.timeout_ms)),
            ("estimate", ms(self.estimate_ms)),
            ("payload", format!("{} bytes", self.payload_bytes)),
            ("output", format!("{} bytes", self.output_bytes)),
            (
                "output dropped",
                flag(self.outcome.as_ref().is_some_and(OutcomeRecord::dropped)),
            ),
            (
                "output cut",
                if self.is_cut() {
                    "yes, by a limit that `qtf result` names".to_owned()
                } else {
                    String::new()
                },
            ),
            ("no result", flag(self.no_result)),
            ("at most once", flag(self.once)),
            (
                "array",
                self.array_id
                    .clone()
                    .map(|id| id + &member)
                    .unwrap_or_default(),
            ),
            ("client", self.client.clone()),
            ("durability", self.durability.to_owned()),
            ("key", self.key.clone().unwrap_or_default()),
            (
                "journal lsn",
                self.journal_lsn
                    .map(|lsn| lsn.to_string())
                    .unwrap_or_default(),
            ),
        ]
    }

    /// As it is typed.
    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    /// Command and arguments.
    pub(crate) fn command(&self) -> &CommandLine {
        &self.command
    }

    fn is_cut(&self) -> bool {
        self.outcome.as_ref().is_some_and(OutcomeRecord::cut)
    }

    /// With a mark where something of the output is missing.
    fn state_cell(&self) -> String {
        let dropped = self.outcome.as_ref().is_some_and(OutcomeRecord::dropped);
        match (self.is_cut(), dropped) {
            (_, true) => format!("{}, output dropped", self.state),
            (true, false) => format!("{}, output cut", self.state),
            (false, false) => self.state.to_owned(),
        }
    }

    fn worker_cell(&self) -> String {
        match &self.worker {
            Some(id) if self.worker_name.is_empty() => id.clone(),
            Some(id) => format!("{id} {}", self.worker_name),
            None => String::new(),
        }
    }
}

impl Listed for TaskRecord {
    const SCHEMA: &'static str = "qtf.task/1";
    const LIST_SCHEMA: &'static str = "qtf.tasks/1";
    const LIST: &'static str = "tasks";
    const COLUMNS: &'static [&'static str] = &[
        "ID", "STATE", "ATTEMPT", "PRIO", "WORKER", "NODE", "AGE", "COMMAND",
    ];

    fn cells(&self) -> Vec<String> {
        let or_dash = |text: String| {
            if text.is_empty() {
                "-".to_owned()
            } else {
                text
            }
        };
        vec![
            self.id.clone(),
            self.state_cell(),
            format!("{}/{}", self.attempt, self.attempts_at_most()),
            self.priority.to_string(),
            or_dash(self.worker.clone().unwrap_or_default()),
            or_dash(self.node.clone()),
            age(self.age_ms),
            or_dash(self.command.to_string()),
        ]
    }
}

fn key_text(bytes: &[u8]) -> Option<String> {
    let key = TaskKey::from_bytes(bytes.try_into().ok()?)?;
    Some(key.to_string())
}

/// An id from the wire; what cannot be an id is shown as its number.
pub(crate) fn id_text(raw: u64) -> String {
    TaskId::from_raw(raw).map_or_else(|| format!("#{raw:x}"), |id| id.to_string())
}

fn has_ended(state: TaskState) -> bool {
    matches!(
        state,
        TaskState::Done | TaskState::Failed | TaskState::Cancelled | TaskState::DeadLetter
    )
}

/// The name of a state, as it is written everywhere.
pub(crate) fn state_name(state: TaskState) -> &'static str {
    match state {
        TaskState::Unspecified => "unknown",
        TaskState::Submitted => "submitted",
        TaskState::Blocked => "blocked",
        TaskState::Held => "held",
        TaskState::Delayed => "delayed",
        TaskState::Ready => "ready",
        TaskState::Assigned => "assigned",
        TaskState::Running => "running",
        TaskState::Ended => "ended",
        TaskState::Done => "done",
        TaskState::Failed => "failed",
        TaskState::Cancelled => "cancelled",
        TaskState::DeadLetter => "dead_letter",
        TaskState::Quarantine => "quarantine",
    }
}

/// The state that a name of the command line means.
pub(crate) fn proto_state(name: StateName) -> TaskState {
    match name {
        StateName::Submitted => TaskState::Submitted,
        StateName::Blocked => TaskState::Blocked,
        StateName::Held => TaskState::Held,
        StateName::Delayed => TaskState::Delayed,
        StateName::Ready => TaskState::Ready,
        StateName::Assigned => TaskState::Assigned,
        StateName::Running => TaskState::Running,
        StateName::Ended => TaskState::Ended,
        StateName::Done => TaskState::Done,
        StateName::Failed => TaskState::Failed,
        StateName::Cancelled => TaskState::Cancelled,
        StateName::DeadLetter => TaskState::DeadLetter,
        StateName::Quarantine => TaskState::Quarantine,
    }
}

impl From<DurabilityName> for Durability {
    fn from(name: DurabilityName) -> Self {
        match name {
            DurabilityName::Memory => Durability::Memory,
            DurabilityName::Journal => Durability::Journal,
        }
    }
}

/// Its name on the command line.
pub(crate) fn durability_name(durability: Durability) -> &'static str {
    match durability {
        Durability::Unspecified => "default",
        Durability::Memory => "memory",
        Durability::Journal => "journal",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::ValueEnum as _;

    #[test]
    fn names_of_states_are_the_same_on_the_way_in_and_out() {
        for name in StateName::value_variants() {
            let written = name.to_possible_value().unwrap().get_name().to_owned();
            assert_eq!(state_name(proto_state(*name)), written);
        }
    }

    #[test]
    fn zeroes_of_the_wire_become_nothing() {
        let record = TaskRecord::from(&TaskInfo {
            kind: "noop".to_owned(),
            ..TaskInfo::default()
        });
        let json = serde_json::to_value(&record).unwrap();
        for name in [
            "worker",
            "timeout_ms",
            "outcome",
            "ending",
            "array_id",
            "array_index",
        ] {
            assert!(json[name].is_null(), "{name}");
        }
        assert_eq!(record.cells().len(), TaskRecord::COLUMNS.len());
        assert_eq!(json["id"], "#0");
    }

    #[test]
    fn an_attempt_that_lost_its_worker_does_not_look_like_one_too_many() {
        let info = TaskInfo {
            attempt: 2,
            max_attempts: 1,
            losses: 1,
            ..TaskInfo::default()
        };
        let record = TaskRecord::from(&info);
        assert!(record.cells().contains(&"2/2".to_owned()));
        let fields = record.fields();
        let attempt = fields.iter().find(|(name, _)| *name == "attempt").unwrap();
        assert_eq!(attempt.1, "2 (0 of 1 failed, 1 lost their worker)");
    }

    #[test]
    fn a_member_of_an_array_shows_its_index() {
        let info = TaskInfo {
            array_id: 1 << 24,
            array_index: 0,
            ..TaskInfo::default()
        };
        let fields = TaskRecord::from(&info).fields();
        let (_, array) = fields.iter().find(|(name, _)| *name == "array").unwrap();
        assert!(array.ends_with("[0]"), "{array}");
    }
}
