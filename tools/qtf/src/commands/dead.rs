//! `qtf dead`: the tasks that used up their attempts by taking their workers down.

use std::collections::BTreeMap;

use qtf_client::{CallError, ListFilter, TaskId, TaskInfo, TaskState};
use serde::Serialize;

use super::select::{All, Selected, list, resolve};
use super::{task, verdicts};
use crate::args::{DeadCommand, GlobalArgs};
use crate::daemon::{Daemon, exit_of};
use crate::durations::age;
use crate::exit::{Ending, Exit, Failure};
use crate::output::{Listed, message, print_list};
use crate::records::{TaskRecord, describe};

/// A dead letter in a list.
#[derive(Serialize)]
struct DeadRecord {
    #[serde(flatten)]
    task: TaskRecord,
    #[serde(skip)]
    cells: [String; 6],
}

impl DeadRecord {
    fn of(info: &TaskInfo) -> Self {
        let task = TaskRecord::from(info);
        let worker = if info.worker_name.is_empty() {
            "-".to_owned()
        } else {
            info.worker_name.clone()
        };
        DeadRecord {
            cells: [
                info.attempt.to_string(),
                info.losses.to_string(),
                info.failures.to_string(),
                worker,
                age(info.state_age_ms),
                describe(info.state(), info.outcome.as_ref()),
            ],
            task,
        }
    }
}

impl Listed for DeadRecord {
    const SCHEMA: &'static str = TaskRecord::SCHEMA;
    const LIST_SCHEMA: &'static str = TaskRecord::LIST_SCHEMA;
    const LIST: &'static str = TaskRecord::LIST;
    const COLUMNS: &'static [&'static str] = &[
        "ID", "ATTEMPTS", "LOST", "FAILED", "WORKER", "SINCE", "REASON", "COMMAND",
    ];

    fn cells(&self) -> Vec<String> {
        let mut cells = vec![self.task.id().to_owned()];
        cells.extend(self.cells.iter().cloned());
        cells.push(self.task.command().to_string());
        cells
    }
}

/// Lists, shows, requeues or purges dead letters.
pub(crate) async fn run(command: DeadCommand, global: &GlobalArgs) -> Ending {
    let daemon = Daemon::connect(global).await?;
    match command {
        DeadCommand::Ls { mine, limit } => {
            let filter = ListFilter {
                states: vec![TaskState::DeadLetter],
                mine,
                limit,
                ..ListFilter::default()
            };
            let dead = list(&daemon, filter).await?;
            let records: Vec<DeadRecord> = dead.iter().map(DeadRecord::of).collect();
            print_list(global.mode(), &records)?;
            Ok(Exit::Ok)
        }
        DeadCommand::Show { selection } => {
            let selected = resolve(&daemon, selection, All::Dead).await?;
            let (dead, exit) = dead_of(&daemon, &selected.ids).await?;
            let records: Vec<TaskRecord> = dead.values().map(TaskRecord::from).collect();
            task::print(&records, selected.ids.len(), global)?;
            Ok(exit)
        }
        DeadCommand::Requeue { selection, reason } => {
            let selected = resolve(&daemon, selection, All::Dead).await?;
            let answer = daemon.client.revive(&selected.ids, &reason).await?;
            verdicts::report(&selected, &answer, global)
        }
        DeadCommand::Purge { selection } => {
            let selected = resolve(&daemon, selection, All::Dead).await?;
            // Forgetting takes any ended task; purging is for dead letters alone.
            let (dead, exit) = dead_of(&daemon, &selected.ids).await?;
            let ids: Vec<TaskId> = selected
                .ids
                .into_iter()
                .filter(|id| dead.contains_key(id))
                .collect();
            let answer = daemon.client.forget(&ids).await?;
            let selected = Selected {
                ids,
                ..Selected::default()
            };
            let reported = verdicts::report(&selected, &answer, global)?;
            Ok(exit.worse(reported))
        }
    }
}

/// Those of the tasks that are dead letters; a line on stderr for each that is not.
async fn dead_of(
    daemon: &Daemon,
    ids: &[TaskId],
) -> Result<(BTreeMap<TaskId, TaskInfo>, Exit), Failure> {
    let mut dead = BTreeMap::new();
    let mut exit = Exit::Ok;
    for id in ids {
        match daemon.client.task(*id).await {
            Ok(info) if info.state() == TaskState::DeadLetter => {
                dead.insert(*id, info);
            }
            Ok(info) => {
                let state = crate::records::state_name(info.state());
                message(format!("task {id} is {state}, no dead letter"));
                exit = exit.worse(Exit::Refused);
            }
            Err(CallError::Refused(refusal)) if refusal.is_unknown() => {
                message(&refusal);
                exit = exit.worse(exit_of(&refusal));
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok((dead, exit))
}
