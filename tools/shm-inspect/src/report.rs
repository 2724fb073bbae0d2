//! What a command prints: one JSON document, or text for people.

use crate::failure::{Code, Failure};
use serde::Serialize;
use std::io::{self, Write};

/// The answer of a command.
pub(crate) trait Report: Serialize {
    /// Writes it for people.
    fn write_text(&self, out: &mut dyn Write) -> io::Result<()>;

    /// How the program ends when everything was printed; `None` = 0.
    fn verdict(&self) -> Option<Code> {
        None
    }
}

/// Prints a report as JSON or text and says how the program shall end.
pub(crate) fn print(
    report: &impl Report,
    json: bool,
    out: &mut dyn Write,
) -> Result<Option<Code>, Failure> {
    let written = if json {
        qtf_shown::json::write(out, report).and_then(|()| writeln!(out))
    } else {
        report.write_text(out)
    };
    match written.and_then(|()| out.flush()) {
        // Whoever reads has seen enough, as with `| head`.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(report.verdict()),
        Err(error) => Err(error.into()),
        Ok(()) => Ok(report.verdict()),
    }
}
