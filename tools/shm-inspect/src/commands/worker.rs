//! `worker ID`: everything that the slot of one worker says, and the tasks it owns.

use super::assignments::{self, Assignment};
use crate::failure::{Code, Failure};
use crate::inspected::{Inspected, Moment};
use crate::records::Worker;
use crate::report::Report;
use crate::show;
use qtf_shm::WorkerId;
use qtf_shm::worker::WorkerPhase;
use serde::Serialize;
use std::io::{self, Write};

/// One worker.
#[derive(Debug, Serialize)]
pub(crate) struct WorkerReport {
    schema: &'static str,
    #[serde(flatten)]
    worker: Worker,
    assignments: Vec<Assignment>,
}

impl WorkerReport {
    /// Reads the worker; an incarnation that is over is not found.
    pub(crate) fn new(inspected: &Inspected, id: WorkerId) -> Result<Self, Failure> {
        let view = inspected.view();
        let not_found = |why: &str| {
            Failure::new(
                Code::NotFound,
                format!("no worker {}: {why}", id.slot().get()),
            )
        };
        let index = view.worker_index(id.slot().get());
        let Some((index, reading)) =
            index.and_then(|index| Some((index, view.read_worker(index)?)))
        else {
            let slots = view.geometry().workers();
            return Err(not_found(&format!("this segment has {slots} worker slots")));
        };
        if reading.record.state.phase() == WorkerPhase::Free {
            return Err(not_found("nobody is registered in this slot"));
        }
        let current = reading.record.id;
        if id.incarnation() != 0 && id != current {
            return Err(not_found(&format!(
                "{id} has gone, the slot belongs to {current}"
            )));
        }
        let owned = assignments::assignments(inspected, Some(index.get()));
        Ok(Self {
            schema: "qtf.shm-inspect.worker/1",
            worker: inspected.worker(index, &reading),
            assignments: owned
                .into_iter()
                .map(|(_, assignment)| assignment)
                .collect(),
        })
    }
}

impl Report for WorkerReport {
    fn write_text(&self, out: &mut dyn Write) -> io::Result<()> {
        let w = &self.worker;
        let ago = |ms| format!("{} ago", Moment::ago_ms(ms));
        let none = || "none: a process at the segment".to_owned();
        let counted = format!(
            "{} done, {} failed, {} lost, {} stale",
            w.tasks_done, w.attempts_failed, w.attempts_lost, w.results_stale
        );
        show::pairs(
            out,
            &[
                ("id", w.id.clone()),
                ("name", w.name.clone()),
                ("host, pid", format!("{}, {}", w.host, w.pid)),
                ("state", w.state.to_owned()),
                ("read consistently", show::yes(w.consistent)),
                ("running", format!("{} of {}", w.running, w.capacity)),
                ("credits", w.credits.to_string()),
                ("load (1/1000)", w.load_milli.to_string()),
                ("kinds", w.kinds.join(" ")),
                ("registered", ago(w.registered_ms_ago)),
                ("heartbeat", w.heartbeat_ms_ago.map_or_else(none, ago)),
                (
                    "lease ends",
                    w.lease_ends_in_ms.map_or_else(none, Moment::in_ms),
                ),
                ("in worker heap", show::yes(w.in_worker_heap)),
                ("counted", counted),
            ],
        )?;
        writeln!(out)?;
        assignments::write(out, &self.assignments)
    }

    fn verdict(&self) -> Option<Code> {
        (!self.worker.consistent).then_some(Code::Torn)
    }
}
