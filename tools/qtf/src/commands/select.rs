//! Turns SEL into task ids, with the help of the daemon where that is needed.

use std::collections::HashSet;
use std::io::BufRead as _;

use futures_util::StreamExt as _;
use qtf_client::{ListFilter, TaskId, TaskInfo, TaskState};

use crate::daemon::Daemon;
use crate::exit::{Exit, Failure};
use crate::indexes::IndexSet;
use crate::selector::{Selection, Selector, parse_id};

/// The tasks that were named.
#[derive(Clone, Debug, Default)]
pub(crate) struct Selected {
    /// Each task once, in the order in which they were named.
    pub(crate) ids: Vec<TaskId>,
    /// Of these, tasks that free their slots when they succeed: one that is gone has succeeded.
    pub(crate) freed_when_done: HashSet<TaskId>,
}

/// What `all` means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum All {
    /// The caller's tasks that have not ended.
    Unfinished,
    /// The caller's tasks that no worker has and that have not ended.
    Waiting,
    /// The caller's tasks that are held.
    Held,
    /// The caller's tasks that have ended and whose results are kept.
    Ended,
    /// The caller's dead letters.
    Dead,
}

/// States of tasks that have not ended.
pub(crate) const UNFINISHED: [TaskState; 8] = [
    TaskState::Submitted,
    TaskState::Blocked,
    TaskState::Held,
    TaskState::Delayed,
    TaskState::Ready,
    TaskState::Assigned,
    TaskState::Running,
    TaskState::Ended,
];

/// States of tasks that no worker has.
const WAITING: [TaskState; 5] = [
    TaskState::Submitted,
    TaskState::Blocked,
    TaskState::Held,
    TaskState::Delayed,
    TaskState::Ready,
];

const ENDED: [TaskState; 4] = [
    TaskState::Done,
    TaskState::Failed,
    TaskState::Cancelled,
    TaskState::DeadLetter,
];

/// Resolves what stands on the command line.
pub(crate) async fn resolve(
    daemon: &Daemon,
    selections: Vec<Selection>,
    all: All,
) -> Result<Selected, Failure> {
    let mut selected = Selected::default();
    for selector in selections.into_iter().flat_map(|selection| selection.0) {
        match selector {
            Selector::Task(id) => selected.ids.push(id),
            Selector::Members { array, indexes } => {
                selected.ids.extend(members(daemon, array, &indexes).await?);
            }
            Selector::Last => selected.ids.extend(last(daemon)?.ids),
            Selector::All => selected.ids.extend(own_tasks(daemon, all).await?),
            Selector::Stdin => selected.ids.extend(off_the_runtime(ids_on_stdin).await?),
        }
    }
    let mut seen = HashSet::with_capacity(selected.ids.len());
    selected.ids.retain(|id| seen.insert(*id));
    // However they were named. What cannot be read says nothing of them.
    if let Ok(Some(last)) = daemon.last().read()
        && last.no_result
    {
        let named = last.ids.into_iter().filter(|id| seen.contains(id));
        selected.freed_when_done.extend(named);
    }
    Ok(selected)
}

fn last(daemon: &Daemon) -> Result<crate::last::Submission, Failure> {
    let last = daemon.last().read();
    let last = last.map_err(|error| {
        Failure::new(
            Exit::Usage,
            format!("cannot read what `last` means: {error}"),
        )
    })?;
    last.ok_or_else(|| {
        let text = format!(
            "no submission to {} is remembered; name the task by its id",
            daemon.address
        );
        Failure::new(Exit::NotFound, text)
    })
}

async fn own_tasks(daemon: &Daemon, all: All) -> Result<Vec<TaskId>, Failure> {
    let states = match all {
        All::Unfinished => UNFINISHED.to_vec(),
        All::Waiting => WAITING.to_vec(),
        All::Held => vec![TaskState::Held],
        All::Ended => ENDED.to_vec(),
        All::Dead => vec![TaskState::DeadLetter],
    };
    let filter = ListFilter {
        states,
        mine: true,
        without_preview: true,
        ..ListFilter::default()
    };
    let tasks = list(daemon, filter).await?;
    Ok(tasks
        .iter()
        .filter_map(|task| TaskId::from_raw(task.task_id))
        .collect())
}

/// The members of an array with the wanted indices, in index order. Each range must meet a member, so
/// that a typing error is noticed; members that were forgotten may be missing from it.
async fn members(
    daemon: &Daemon,
    array: TaskId,
    indexes: &IndexSet,
) -> Result<Vec<TaskId>, Failure> {
    let filter = ListFilter {
        array: Some(array),
        without_preview: true,
        ..ListFilter::default()
    };
    let tasks = list(daemon, filter).await?;
    let wanted = |task: &TaskInfo| indexes.contains(task.array_index);
    let mut found: Vec<(u64, TaskId)> = tasks
        .iter()
        .filter(|task| wanted(task))
        .filter_map(|task| Some((task.array_index, TaskId::from_raw(task.task_id)?)))
        .collect();
    found.sort_unstable();
    let present: Vec<u64> = found.iter().map(|(index, _)| *index).collect();
    let text = if tasks.is_empty() {
        format!("no array starts with task {array}; its members may have been forgotten")
    } else if let Some(missing) = indexes.range_without(&present) {
        format!(
            "array {array} has no member {missing}, or it was forgotten; `qtf ps --all --json` lists the indices"
        )
    } else {
        return Ok(found.into_iter().map(|(_, id)| id).collect());
    };
    Err(Failure::new(Exit::NotFound, text))
}

/// Lists tasks.
pub(crate) async fn list(daemon: &Daemon, filter: ListFilter) -> Result<Vec<TaskInfo>, Failure> {
    let mut stream = daemon.client.list(filter).await?;
    let mut tasks = Vec::new();
    while let Some(task) = stream.next().await {
        tasks.push(task?);
    }
    Ok(tasks)
}

/// Reads on another thread, so that Ctrl-C is heard meanwhile.
pub(crate) async fn off_the_runtime<T: Send + 'static>(
    read: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    let reading = tokio::task::spawn_blocking(read).await;
    reading.unwrap_or_else(|error| Err(Failure::usage(format!("cannot read: {error}"))))
}

fn ids_on_stdin() -> Result<Vec<TaskId>, Failure> {
    let mut ids = Vec::new();
    for line in std::io::stdin().lock().lines() {
        let line =
            line.map_err(|error| Failure::usage(format!("cannot read ids from stdin: {error}")))?;
        for word in line.split_whitespace() {
            ids.push(parse_id(word).map_err(Failure::usage)?);
        }
    }
    Ok(ids)
}
