//! `verify`: do the truth and its caches agree? Ends with 1 if they do not.
//!
//! An image of a busy segment is of several moments, so contradictions in it may be no faults: then the
//! end is 6, not 1. On a live segment each rule is untrue for moments, so only what is found again and again counts.

use crate::failure::Code;
use crate::inspected::Inspected;
use crate::report::Report;
use qtf_shown::text::visible;
use serde::Serialize;
use std::io::{self, Write};

/// The answer.
#[derive(Debug, Serialize)]
pub(crate) struct VerifyReport {
    schema: &'static str,
    ok: bool,
    /// An image that was written while the segment changed: findings may be no faults.
    of_several_moments: bool,
    findings: Vec<Finding>,
    more_findings: bool,
    checked: Checked,
    /// Contradictions that were gone at the next look: changes under way.
    passing: u64,
    /// Counts that changed while they were taken: neither right nor wrong.
    unsettled: u64,
    passes: u32,
}

#[derive(Debug, Serialize)]
struct Finding {
    rule: &'static str,
    subject: String,
    text: String,
}

#[derive(Debug, Serialize)]
struct Checked {
    task_slots: u64,
    tasks: u64,
    workers: u64,
    /// With room and credits, but not in the worker heap: a note, since only the daemon knows why.
    workers_set_aside: u64,
    chunks: u64,
    keys: u64,
}

impl VerifyReport {
    pub(crate) fn new(inspected: &Inspected) -> Self {
        let report = inspected.view().verify();
        Self {
            schema: "qtf.shm-inspect.verify/1",
            ok: !report.broken(),
            of_several_moments: inspected.may_be_of_several_moments(),
            more_findings: report.more_findings,
            checked: Checked {
                task_slots: report.tasks,
                tasks: report.tasks_used,
                workers: report.workers,
                workers_set_aside: report.workers_set_aside,
                chunks: report.chunks,
                keys: report.keys,
            },
            passing: report.passing,
            unsettled: report.unsettled,
            passes: report.passes,
            findings: report
                .findings
                .into_iter()
                .map(|finding| Finding {
                    rule: finding.rule.name(),
                    subject: finding.subject,
                    text: finding.text,
                })
                .collect(),
        }
    }
}

impl Report for VerifyReport {
    fn write_text(&self, out: &mut dyn Write) -> io::Result<()> {
        for finding in &self.findings {
            writeln!(
                out,
                "{}: {}: {}",
                finding.rule,
                visible(&finding.subject),
                visible(&finding.text)
            )?;
        }
        if self.more_findings {
            writeln!(out, "(and more)")?;
        }
        let Checked {
            task_slots,
            tasks,
            workers,
            workers_set_aside,
            chunks,
            keys,
        } = &self.checked;
        let verdict = match (self.ok, self.of_several_moments) {
            (true, _) => "ok",
            (false, true) => "TORN (the segment changed while this image was written)",
            (false, false) => "BROKEN",
        };
        write!(
            out,
            "{verdict}: {tasks} tasks in {task_slots} slots, {workers} workers, {chunks} chunks of the arena, {keys} keys"
        )?;
        if *workers_set_aside > 0 {
            write!(
                out,
                "; {workers_set_aside} workers with room and credits are given no tasks for now"
            )?;
        }
        if self.unsettled > 0 {
            write!(
                out,
                "; {} counts changed while they were taken",
                self.unsettled
            )?;
        }
        writeln!(out)
    }

    fn verdict(&self) -> Option<Code> {
        match (self.ok, self.of_several_moments) {
            (true, _) => None,
            (false, true) => Some(Code::Torn),
            (false, false) => Some(Code::Broken),
        }
    }
}
