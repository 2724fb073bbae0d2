//! Why tasks that somebody waits for do not start: they are held, blocked, or not due yet. Told once, when the waiting begins.
//!
//! A courtesy: where the daemon cannot be asked nothing is told, and the waiting itself says why that fails. The whole list is read and of
//! each state one task is kept, however many there are.
//!
//! Tested in `tests/tasks/waiting.rs`.

use std::collections::HashSet;

use futures_util::StreamExt as _;
use qtf_client::{ListFilter, TaskId, TaskInfo, TaskState};

use crate::daemon::Daemon;
use crate::durations::age;
use crate::output::message;
use crate::records::state_name;

/// States in which no worker's capacity helps a task.
const UNSTARTED: [TaskState; 3] = [TaskState::Held, TaskState::Blocked, TaskState::Delayed];

/// What is known of the awaited tasks in one of these states.
#[derive(Default)]
struct Found {
    count: usize,
    /// The first one; of delayed ones the one that is due first.
    first: Option<(TaskId, TaskInfo)>,
}

/// The tasks that do not start.
#[derive(Default)]
struct Unstarted {
    held: Found,
    blocked: Found,
    delayed: Found,
}

/// Says which of the open tasks do not start, and why. Answers how many are held: these end only if somebody releases them.
pub(super) async fn tell(daemon: &Daemon, open: &HashSet<TaskId>) -> usize {
    let Some(found) = find(daemon, open).await else {
        return 0;
    };
    for line in found.lines() {
        message(line);
    }
    found.held.count
}

/// `None` where the daemon does not answer.
async fn find(daemon: &Daemon, open: &HashSet<TaskId>) -> Option<Unstarted> {
    let info = daemon.client.info().await.ok()?;
    let mut found = Unstarted::default();
    let is_in_use = |state: TaskState| {
        let mut counts = info.tasks_by_state.iter();
        counts.any(|count| count.name == state_name(state) && count.value > 0)
    };
    let states: Vec<TaskState> = UNSTARTED.into_iter().filter(|s| is_in_use(*s)).collect();
    if states.is_empty() {
        return Some(found);
    }
    let filter = ListFilter {
        states,
        without_preview: true,
        ..ListFilter::default()
    };
    let mut tasks = daemon.client.list(filter).await.ok()?;
    while let Some(task) = tasks.next().await {
        let task = task.ok()?;
        if let Some(id) = TaskId::from_raw(task.task_id)
            && open.contains(&id)
        {
            found.add(id, task);
        }
    }
    Some(found)
}

impl Unstarted {
    fn add(&mut self, id: TaskId, task: TaskInfo) {
        let state = task.state();
        let found = if state == TaskState::Held {
            &mut self.held
        } else if state == TaskState::Blocked {
            &mut self.blocked
        } else if state == TaskState::Delayed && task.due_in_ms > 0 {
            &mut self.delayed
        } else {
            // It is due this very moment, or has gone on while the list was read.
            return;
        };
        found.count += 1;
        match &found.first {
            // Of other states than DELAYED this time is zero: the first one stays.
            Some((_, first)) if first.due_in_ms <= task.due_in_ms => {}
            _ => found.first = Some((id, task)),
        }
    }

    fn lines(&self) -> Vec<String> {
        let held = self.held.line(|id, _, count| match count {
            1 => format!("task {id} is held: it does not start before `qtf release {id}`"),
            _ => format!(
                "{count} tasks are held, {id} among them: they do not start before `qtf release`"
            ),
        });
        let blocked = self.blocked.line(|id, task, count| {
            let (kind, why) = (&task.kind, &task.blocked_on);
            match count {
                1 => format!("task {id} of kind {kind} does not start: it is blocked on {why}"),
                _ => format!(
                    "{count} tasks do not start, {id} of kind {kind} among them: it is blocked on {why}"
                ),
            }
        });
        let delayed = self.delayed.line(|id, task, count| {
            let due_in = age(task.due_in_ms);
            match count {
                1 => format!("task {id} is delayed: it is not due for {due_in}"),
                _ => format!(
                    "{count} tasks are delayed: the first of them, {id}, is not due for {due_in}"
                ),
            }
        });
        [held, blocked, delayed].into_iter().flatten().collect()
    }
}

impl Found {
    fn line(&self, words: impl FnOnce(TaskId, &TaskInfo, usize) -> String) -> Option<String> {
        let (id, task) = self.first.as_ref()?;
        Some(words(*id, task, self.count))
    }
}
