//! `qtf completions`.

use std::io::Write as _;

use clap::CommandFactory as _;

use crate::args::{Cli, CompletionsArgs};
use crate::exit::{Ending, Exit};

/// Writes the script for a shell to stdout.
pub(crate) fn run(args: &CompletionsArgs) -> Ending {
    // The generator panics when its writer fails, so it writes to memory first.
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "qtf", &mut script);
    let mut out = std::io::stdout().lock();
    out.write_all(&script)?;
    out.flush()?;
    Ok(Exit::Ok)
}
