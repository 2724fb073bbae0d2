//! shm-inspect: reads a Quantum Taskflow segment, live, dead or from an image.
//!
//! It attaches read-only, never asks the daemon and never writes to a segment. Every record is copied
//! out and says whether it was read consistently. Whatever a segment or an image holds, it is data: no
//! content may cause a panic, and text of others is escaped before it is printed.
//! Tested by unit tests beside the code and by `tests/`, on real segments and on damaged images.

mod arguments;
mod commands;
mod exec_payload;
mod failure;
mod image_note;
mod inspected;
mod records;
mod report;
mod show;
mod sysvipc;

use arguments::{Arguments, Command};
use clap::Parser;
use commands::assignments::AssignmentsReport;
use commands::heap::HeapReport;
use commands::info::InfoReport;
use commands::layout::LayoutReport;
use commands::list::ListReport;
use commands::task::TaskReport;
use commands::verify::VerifyReport;
use commands::worker::WorkerReport;
use failure::{Code, Failure};
use inspected::Inspected;
use std::io::{BufWriter, Write};
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help and version go to standard output and end with 0, everything else is usage.
            let code = if error.use_stderr() {
                Code::Usage.into()
            } else {
                ExitCode::SUCCESS
            };
            drop(error.print());
            return code;
        }
    };
    let mut out = BufWriter::new(std::io::stdout().lock());
    match run(&arguments, &mut out) {
        Ok(verdict) => verdict.map_or(ExitCode::SUCCESS, ExitCode::from),
        Err(failure) => {
            drop(writeln!(std::io::stderr(), "shm-inspect: {failure}"));
            failure.code.into()
        }
    }
}

/// Does what is asked; `None` when there is nothing to complain of.
fn run(arguments: &Arguments, out: &mut dyn Write) -> Result<Option<Code>, Failure> {
    let json = arguments.json;
    if matches!(arguments.command, Command::List) {
        let report = ListReport::new().map_err(|error| {
            Failure::new(
                Code::NotFound,
                format!("cannot list the segments: {error}; is /proc mounted?"),
            )
        })?;
        return report::print(&report, json, out);
    }
    let inspected = Inspected::open(&arguments.source)?;
    match &arguments.command {
        Command::List => Ok(None),
        Command::Info => report::print(&InfoReport::new(&inspected), json, out),
        Command::Layout => report::print(&LayoutReport::new(&inspected), json, out),
        Command::Heap { heap, limit } => {
            report::print(&HeapReport::new(&inspected, *heap, *limit), json, out)
        }
        Command::Task { task } => report::print(&TaskReport::new(&inspected, *task)?, json, out),
        Command::Worker { worker } => {
            report::print(&WorkerReport::new(&inspected, *worker)?, json, out)
        }
        Command::Assignments => report::print(&AssignmentsReport::new(&inspected, None), json, out),
        Command::Verify => report::print(&VerifyReport::new(&inspected), json, out),
        Command::Snapshot { output } => {
            report::print(&commands::snapshot::write(&inspected, output)?, json, out)
        }
    }
}
