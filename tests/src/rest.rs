//! A system that has done its work comes to rest: nothing is held, nothing runs, and what is kept was told.
//!
//! Processes of attempts are found by task, attempt and the mark of the test in their environment
//! ([`crate::workload`] says why that is exact). Tested by `tests/kills.rs` and at the end of this file.

use std::collections::HashMap;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::leaks;
use crate::ledger::Ledger;
use crate::place::Place;

/// Longest time until what was behind a cut link or was stopped has heard of what it may not do any more.
const REST: Duration = Duration::from_secs(60);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(100);

/// A living process of an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskProcess {
    /// Its id.
    pub pid: i32,
    /// Its task.
    pub task: String,
    /// The attempt.
    pub attempt: String,
    /// Its command line.
    pub command: String,
    /// The process that started it: its worker, while that lives.
    pub parent: String,
}

/// The living processes of attempts that carry the mark.
#[must_use]
pub fn task_processes(mark: &str) -> Vec<TaskProcess> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let name = entry.file_name();
        let pid = name.to_str().and_then(|name| name.parse().ok());
        if let Some(pid) = pid
            && let Some(process) = task_process(&entry.path(), pid, mark)
        {
            found.push(process);
        }
    }
    found
}

/// A process that has ended in the meantime, or is a zombie, has no environment.
fn task_process(folder: &Path, pid: i32, mark: &str) -> Option<TaskProcess> {
    let environment = std::fs::read(folder.join("environ")).ok()?;
    let environment = String::from_utf8_lossy(&environment);
    let variables: HashMap<&str, &str> = environment
        .split('\0')
        .filter_map(|variable| variable.split_once('='))
        .collect();
    if variables.get(leaks::MARK) != Some(&mark) {
        return None;
    }
    let task = (*variables.get("QTF_TASK_ID")?).to_owned();
    let attempt = (*variables.get("QTF_ATTEMPT")?).to_owned();
    let command = std::fs::read(folder.join("cmdline")).unwrap_or_default();
    let status = std::fs::read_to_string(folder.join("status")).unwrap_or_default();
    let parent = status.lines().find_map(|line| line.strip_prefix("PPid:"));
    Some(TaskProcess {
        pid,
        task,
        attempt,
        command: String::from_utf8_lossy(&command).replace('\0', " "),
        parent: parent.unwrap_or_default().trim().to_owned(),
    })
}

/// What there is at one moment.
#[derive(Debug)]
struct Sight {
    processes: Vec<TaskProcess>,
    tasks: Vec<Value>,
    workers: Vec<Value>,
}

impl Sight {
    fn of(place: &Place) -> Self {
        Self {
            // Before the list: whoever is found and is not held any more then was looked for too early.
            processes: task_processes(place.instance()),
            tasks: listed(place, &["ps", "--all"]),
            workers: listed(place, &["worker", "ls"]),
        }
    }
}

/// Waits until the system, whose clients have done `tasks` tasks each, is at rest.
///
/// # Panics
/// When it does not come to rest in time, or keeps what nobody was told; says what.
pub fn wait_for(place: &Place, ledgers: &[(String, Ledger)], tasks: u64) {
    let until = Instant::now() + REST;
    loop {
        let sight = Sight::of(place);
        if unrest(&sight).is_empty() {
            return check_kept(&sight.tasks, ledgers);
        }
        assert!(
            Instant::now() < until,
            "no rest within {} s:\n{}",
            REST.as_secs(),
            described(&sight, ledgers, tasks)
        );
        std::thread::park_timeout(LOOK);
    }
}

/// Everything that does not rest now, and what clients know of it.
///
/// # Panics
/// When the daemon does not answer.
#[must_use]
pub fn describe(place: &Place, ledgers: &[(String, Ledger)], tasks: u64) -> String {
    described(&Sight::of(place), ledgers, tasks)
}

fn listed(place: &Place, what: &[&str]) -> Vec<Value> {
    let address = place.address();
    let arguments = ["--addr", &address].into_iter();
    let arguments = arguments.chain(what.iter().copied());
    let listed = place
        .qtf(arguments.chain(["--output", "jsonl"]))
        .expect_code(0);
    let lines = listed.text().lines();
    lines
        .map(|line| serde_json::from_str(line).expect("jsonl is JSON"))
        .collect()
}

/// Everything that does not rest.
fn unrest(sight: &Sight) -> Vec<String> {
    let ended = ["done", "failed", "cancelled", "dead_letter"];
    let is_ended = |task: &&Value| ended.iter().any(|state| task["state"] == *state);
    let open = sight.tasks.iter().filter(|task| !is_ended(task));
    let open = open.map(|task| format!("a task is open: {task}"));
    let processes = sight.processes.iter();
    let alive = processes.map(|process| format!("a process is alive: {process:?}"));
    let busy = sight
        .workers
        .iter()
        .filter(|worker| worker["running"].as_u64() != Some(0))
        .map(|worker| format!("a worker holds something: {worker}"));
    open.chain(alive).chain(busy).collect()
}

/// The unrest, and what clients know of tasks whose processes live or that have no end for them.
fn described(sight: &Sight, ledgers: &[(String, Ledger)], tasks: u64) -> String {
    let mut text = unrest(sight).join("\n");
    let lives = |id: &String| sight.processes.iter().any(|process| process.task == *id);
    for (client, ledger) in ledgers {
        for number in 0..tasks {
            let page = ledger.pages.get(&number).cloned().unwrap_or_default();
            if !page.is_closed() || page.accepted.iter().any(lives) {
                text.push_str(&format!("\ntask {number} of {client}: {page:?}"));
            }
        }
    }
    text
}

/// What is kept now are ends that a client has written down and could not acknowledge any more.
fn check_kept(tasks: &[Value], ledgers: &[(String, Ledger)]) {
    let pages = ledgers.iter().flat_map(|(_, ledger)| ledger.pages.values());
    let told: HashMap<&str, _> = pages
        .flat_map(|page| &page.told)
        .filter(|(_, told)| !told.is_bare())
        .map(|(_, told)| (told.id.as_str(), told))
        .collect();
    for task in tasks {
        let id = task["id"].as_str().unwrap_or_default();
        let Some(told) = told.get(id) else {
            panic!("nobody was told of {task}");
        };
        let is_same = task["state"] == *told.state && task["attempt"] == told.attempt;
        assert!(is_same, "{told:?} was told, and it is {task}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn a_process_of_an_attempt_is_found_by_its_environment_until_it_ends() {
        let mark = format!("rest-{}", std::process::id());
        let mut child = Command::new("sleep")
            .arg("600")
            .env(leaks::MARK, &mark)
            .env("QTF_TASK_ID", "t1.1")
            .env("QTF_ATTEMPT", "2")
            .spawn()
            .unwrap();
        let found = task_processes(&mark);
        child.kill().unwrap();
        // Still a zombie.
        let is_dead = |_: &()| task_processes(&mark).is_empty();
        let dead = std::iter::repeat_n((), 1_000).any(|round| is_dead(&round));
        child.wait().unwrap();
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(
            (found[0].task.as_str(), found[0].attempt.as_str()),
            ("t1.1", "2")
        );
        assert_eq!(found[0].parent, std::process::id().to_string());
        assert!(dead, "a zombie is not alive");
    }

    #[test]
    fn what_is_open_alive_or_held_is_unrest() {
        let sight = |state: &str, workers: Value, processes: &[TaskProcess]| {
            let tasks = vec![serde_json::json!({ "id": "t1.1", "state": state })];
            let sight = Sight {
                processes: processes.to_vec(),
                tasks,
                workers: vec![workers],
            };
            unrest(&sight).len()
        };
        let worker = |running: u32| serde_json::json!({ "running": running });
        let process = TaskProcess {
            pid: 1,
            task: "t1.1".to_owned(),
            attempt: "1".to_owned(),
            command: String::new(),
            parent: String::new(),
        };
        assert_eq!(sight("done", worker(0), &[]), 0);
        assert_eq!(sight("dead_letter", worker(0), &[]), 0);
        assert_eq!(sight("running", worker(1), &[process]), 3);
        assert_eq!(
            sight("done", serde_json::json!({}), &[]),
            1,
            "an unknown form"
        );
    }
}
