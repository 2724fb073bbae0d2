//! `assignments`: the task-worker mapping, from both sides: what the tasks' state words say, and how many
//! each worker counts.

use crate::inspected::{Inspected, Moment};
use crate::report::Report;
use crate::show::Columns;
use qtf_shm::Owner;
use serde::Serialize;
use std::collections::BTreeMap;
use std::io::{self, Write};

/// The mapping.
#[derive(Debug, Serialize)]
pub(crate) struct AssignmentsReport {
    schema: &'static str,
    assignments: Vec<Assignment>,
    workers: Vec<Count>,
}

/// One task with its owner.
#[derive(Debug, Serialize)]
pub(crate) struct Assignment {
    task: String,
    worker: String,
    worker_name: String,
    worker_state: &'static str,
    attempt: u16,
    state: &'static str,
    state_age_ms: u64,
    kind: String,
    consistent: bool,
}

/// What a worker counts, and what the tasks say.
#[derive(Debug, Serialize)]
struct Count {
    worker: String,
    name: String,
    state: &'static str,
    capacity: u16,
    running_by_worker: u16,
    running_by_tasks: u64,
}

impl AssignmentsReport {
    /// Goes over all slots once; `worker` keeps only those of one worker slot.
    pub(crate) fn new(inspected: &Inspected, worker: Option<u16>) -> Self {
        let assignments = assignments(inspected, worker);
        let mut by_worker: BTreeMap<u16, u64> = BTreeMap::new();
        for (owner, _) in &assignments {
            let count = by_worker.entry(*owner).or_default();
            *count = count.saturating_add(1);
        }
        let view = inspected.view();
        let mut workers = Vec::new();
        for number in 0..u16::try_from(view.geometry().workers()).unwrap_or(u16::MAX) {
            let Some(reading) = view.worker_index(number).and_then(|w| view.read_worker(w)) else {
                continue;
            };
            let running_by_tasks = by_worker.get(&number).copied().unwrap_or(0);
            let record = reading.record;
            let state = record.state;
            if running_by_tasks == 0 && state.phase() == qtf_shm::worker::WorkerPhase::Free {
                continue;
            }
            workers.push(Count {
                worker: record.id.to_string(),
                name: record.name,
                state: state.phase().name(),
                capacity: state.capacity(),
                running_by_worker: state.running(),
                running_by_tasks,
            });
        }
        let assignments = assignments
            .into_iter()
            .map(|(_, assignment)| assignment)
            .collect();
        Self {
            schema: "qtf.shm-inspect.assignments/1",
            assignments,
            workers,
        }
    }
}

/// All tasks that a worker owns, with the worker's slot, in slot order.
pub(crate) fn assignments(inspected: &Inspected, worker: Option<u16>) -> Vec<(u16, Assignment)> {
    let view = inspected.view();
    let mut found = Vec::new();
    for number in 0..view.high_water() {
        let Some(slot) = view.slot(number) else { break };
        let is_wanted =
            |owner| matches!(owner, Owner::Worker(w) if worker.is_none_or(|only| only == w.get()));
        if !is_wanted(view.state(slot).owner()) {
            continue;
        }
        let Some(reading) = view.read_task(slot) else {
            break;
        };
        let state = reading.record.state;
        let Owner::Worker(owner) = state.owner() else {
            continue;
        };
        let (Some(id), Some(name)) = (reading.record.id, inspected.worker_of(&reading.record))
        else {
            continue;
        };
        let assignment = Assignment {
            task: id.to_string(),
            worker: name.id,
            worker_name: name.name,
            worker_state: name.state,
            attempt: state.fence(),
            state: state.phase().name(),
            state_age_ms: inspected.age_ms(reading.record.phase_time),
            kind: inspected.kind_name(reading.record.kind),
            consistent: !reading.torn,
        };
        found.push((owner.get(), assignment));
    }
    found
}

/// Writes assignments for people.
pub(crate) fn write(out: &mut dyn Write, assignments: &[Assignment]) -> io::Result<()> {
    let mut columns = Columns::new([
        "task", "worker", "name", "attempt", "state", "for", "kind", "",
    ]);
    for a in assignments {
        columns.row([
            a.task.clone(),
            a.worker.clone(),
            a.worker_name.clone(),
            a.attempt.to_string(),
            a.state.to_owned(),
            Moment::ago_ms(a.state_age_ms),
            a.kind.clone(),
            if a.consistent {
                String::new()
            } else {
                "(changed while it was read)".to_owned()
            },
        ]);
    }
    columns.write(out)
}

impl Report for AssignmentsReport {
    fn write_text(&self, out: &mut dyn Write) -> io::Result<()> {
        write(out, &self.assignments)?;
        writeln!(out)?;
        let mut columns =
            Columns::new(["worker", "name", "state", "capacity", "running", "by tasks"]);
        for count in &self.workers {
            columns.row([
                count.worker.clone(),
                count.name.clone(),
                count.state.to_owned(),
                count.capacity.to_string(),
                count.running_by_worker.to_string(),
                count.running_by_tasks.to_string(),
            ]);
        }
        columns.write(out)
    }
}
