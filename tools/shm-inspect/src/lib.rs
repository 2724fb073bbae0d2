//! shm-inspect: reads a Quantum Taskflow segment, live, dead or from an image.
//!
//! It attaches read-only, never asks the daemon and never writes to a segment. Every record is copied
//! out and says whether it was read consistently. Whatever a segment or an image holds, it is data: no
//! content may cause a panic. Records hold text of others as it is; the last step before the output makes it visible for
//! people, or writes it as JSON, by `qtf-shown`.
//! Tested by unit tests beside the code, by `tests/`, on real segments and on damaged images, and by a fuzz target,
//! for which the program is a library: [`Line`].

mod arguments;
mod commands;
mod exec_payload;
mod failure;
mod image_note;
mod inspected;
mod memory;
mod records;
mod report;
mod show;
mod sysvipc;

use arguments::{Arguments, Command};
use clap::Parser;
use commands::assignments::AssignmentsReport;
use commands::heap::HeapReport;
use commands::hist::HistReport;
use commands::info::InfoReport;
use commands::lanes::LanesReport;
use commands::layout::LayoutReport;
use commands::list::ListReport;
use commands::task::TaskReport;
use commands::verify::VerifyReport;
use commands::worker::WorkerReport;
use failure::{Code, Failure};
use inspected::Inspected;
use std::ffi::OsString;
use std::io::Write;

/// One command line that is understood.
#[derive(Debug)]
pub struct Line(Arguments);

impl Line {
    /// Takes the words of a command line, the program's name first.
    ///
    /// # Errors
    /// What is wrong with it; also when help or the version is asked for.
    pub fn parse(words: impl IntoIterator<Item = OsString>) -> Result<Self, clap::Error> {
        Arguments::try_parse_from(words).map(Self)
    }

    /// Does what it says, prints to `out` and `messages`, and returns the exit code.
    pub fn run(&self, out: &mut dyn Write, messages: &mut dyn Write) -> u8 {
        match run(&self.0, out) {
            Ok(verdict) => verdict.map_or(0, |code| code as u8),
            Err(failure) => {
                let text = failure.to_string();
                drop(writeln!(
                    messages,
                    "shm-inspect: {}",
                    qtf_shown::text::visible(&text)
                ));
                failure.code as u8
            }
        }
    }
}

/// The exit code of a command line that is not understood.
pub const USAGE: u8 = Code::Usage as u8;

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
        Command::Lanes => report::print(&LanesReport::new(&inspected), json, out),
        Command::Verify => report::print(&VerifyReport::new(&inspected), json, out),
        Command::Hist { stage, log } => {
            let report = HistReport::new(&inspected, *stage, log.as_deref())?;
            report::print(&report, json, out)
        }
        Command::Snapshot { output } => {
            report::print(&commands::snapshot::write(&inspected, output)?, json, out)
        }
    }
}
