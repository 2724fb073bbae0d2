//! `qtf`, the command line of Quantum Taskflow.
//!
//! | folder or file | what |
//! |---|---|
//! | `args` | what can be typed |
//! | `commands`, `map`, `journal` | what the commands do |
//! | `daemon`, `crew`, `notices` | the way to a daemon, an own one, and what is told while one is awaited |
//! | `records`, `output` | what is shown, and in which form |
//! | `selector`, `indexes`, `inputs`, `template`, `durations`, `last` | the small languages of the arguments |
//! | `exit`, `signals` | how it ends |

mod args;
mod commands;
mod crew;
mod daemon;
mod durations;
mod exit;
mod indexes;
mod inputs;
mod journal;
mod last;
mod map;
mod notices;
mod output;
mod records;
mod selector;
mod signals;
mod template;

use std::io::IsTerminal as _;
use std::process::ExitCode;

use clap::Parser as _;

use exit::{Ending, Exit, Failure};

fn main() -> ExitCode {
    let cli = match args::Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    start_log();
    let ending = run(cli);
    let exit = match &ending {
        Ok(exit) => *exit,
        Err(failure) => {
            if let Some(text) = failure.message() {
                output::message(text);
            }
            failure.exit()
        }
    };
    exit.into()
}

fn run(cli: args::Cli) -> Ending {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(Exit::Usage, format!("cannot start: {error}")))?;
    let ending = runtime.block_on(commands::run(cli));
    // A thread that sits in a read of stdin or a write to stdout holds nothing up.
    runtime.shutdown_background();
    ending
}

/// Help and version are no failures; anything else that cannot be parsed is.
fn usage(error: &clap::Error) -> ExitCode {
    let _unheard = error.print();
    if error.use_stderr() {
        Exit::Usage.into()
    } else {
        Exit::Ok.into()
    }
}

/// Warnings go to stderr; `QTF_LOG=debug` shows more.
fn start_log() {
    let filter = tracing_subscriber::EnvFilter::try_from_env("QTF_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("error"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        // A reader of the log that has gone away must not take what runs with it.
        .log_internal_errors(false)
        .init();
}
