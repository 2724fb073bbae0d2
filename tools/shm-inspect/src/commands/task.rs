//! `task ID`: everything that the slot of one task says.

use crate::failure::{Code, Failure};
use crate::inspected::{Inspected, Moment};
use crate::records::Task;
use crate::report::Report;
use crate::show;
use qtf_shm::{OutcomeKind, TaskId};
use serde::Serialize;
use std::io::{self, Write};

/// One task.
#[derive(Debug, Serialize)]
pub(crate) struct TaskReport {
    schema: &'static str,
    #[serde(flatten)]
    task: Task,
}

impl TaskReport {
    /// Reads the task; an id whose slot belongs to another task by now is not found.
    pub(crate) fn new(inspected: &Inspected, id: TaskId) -> Result<Self, Failure> {
        let view = inspected.view();
        let slots = view.geometry().tasks();
        let reading = view
            .slot_of(id)
            .and_then(|slot| view.read_task(slot))
            .ok_or_else(|| {
                let message = format!(
                    "no task {id}: this segment has {slots} slots, and its slot is {}",
                    id.slot().get()
                );
                Failure::new(Code::NotFound, message)
            })?;
        if reading.record.id != Some(id) {
            let now = reading.record.id.map_or_else(
                || "was never used".to_owned(),
                |other| format!("is at generation {} now ({other})", other.generation()),
            );
            let message = format!("no task {id}: slot {} {now}", id.slot().get());
            return Err(Failure::new(Code::NotFound, message));
        }
        Ok(Self {
            schema: "qtf.shm-inspect.task/1",
            task: inspected.task(&reading),
        })
    }
}

impl Report for TaskReport {
    fn write_text(&self, out: &mut dyn Write) -> io::Result<()> {
        let task = &self.task;
        let blob =
            |blob: &crate::records::Blob| format!("{} ({})", show::bytes(blob.bytes), blob.place);
        let worker = task.worker.as_ref();
        let array = task.array.as_ref();
        let rows = [
            ("id", task.id.clone().unwrap_or_default()),
            ("slot", task.slot.to_string()),
            ("state", self.state()),
            ("blocked on", task.blocked_on.clone().unwrap_or_default()),
            (
                "started",
                task.started_ms_ago
                    .map_or_else(String::new, |ms| format!("{} ago", Moment::ago_ms(ms))),
            ),
            ("read consistently", show::yes(task.consistent)),
            ("kind", task.kind.clone()),
            (
                "command",
                task.command
                    .as_ref()
                    .map_or_else(String::new, ToString::to_string),
            ),
            ("priority", task.priority.to_string()),
            (
                "attempt",
                format!("{} of {}", task.attempt, task.max_attempts),
            ),
            (
                "failed, lost",
                format!("{}, {}", task.failures, task.losses),
            ),
            (
                "worker",
                worker.map_or_else(String::new, |w| {
                    format!("{} {} ({})", w.id, w.name, w.state)
                }),
            ),
            ("client", task.client.clone()),
            ("timeout", self.timeout()),
            ("outcome", self.outcome()),
            ("payload", blob(&task.payload)),
            ("result", blob(&task.result)),
            (
                "array",
                array.map_or_else(String::new, |a| format!("{} index {}", a.first, a.index)),
            ),
            ("flags", task.flags.join(" ")),
            ("leaves", self.leaves()),
            ("state word", task.raw.state.clone()),
            ("key word", task.raw.key.clone()),
        ];
        show::pairs(out, &rows)
    }

    fn verdict(&self) -> Option<Code> {
        (!self.task.consistent).then_some(Code::Torn)
    }
}

impl TaskReport {
    fn state(&self) -> String {
        let state = self.task.state;
        match (self.task.due_in_ms, self.task.state_age_ms) {
            (Some(ms @ 0..), _) => format!("{state}, due {}", Moment::in_ms(ms)),
            (Some(ms), _) => format!("{state}, {}", Moment::in_ms(ms)),
            (None, Some(ms)) => format!("{state} for {}", Moment::ago_ms(ms)),
            (None, None) => state.to_owned(),
        }
    }

    fn timeout(&self) -> String {
        match self.task.timeout_ms {
            0 => "none".to_owned(),
            ms => Moment::ago_ms(u64::from(ms)),
        }
    }

    /// Empty as long as it has none: then there is no such line.
    fn outcome(&self) -> String {
        if self.task.outcome == OutcomeKind::None.name() {
            return String::new();
        }
        format!("{} {}", self.task.outcome, self.task.outcome_code)
    }

    fn leaves(&self) -> String {
        let leaves = [
            (self.task.in_task_heap, "task heap"),
            (self.task.in_timer_heap, "timer heap"),
        ];
        leaves
            .into_iter()
            .filter(|(is, _)| *is)
            .map(|(_, name)| name)
            .collect::<Vec<_>>()
            .join(", ")
    }
}
