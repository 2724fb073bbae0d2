//! `qtf`, the command line of Quantum Taskflow.
//!
//! | folder or file | what |
//! |---|---|
//! | `args` | what can be typed |
//! | `dispatch` | which command it is |
//! | `commands`, `map`, `journal`, `check`, `bench` | what the commands do |
//! | `daemon`, `awaited`, `crew`, `notices` | the way to a daemon, one that is to be expected, an own one, and what is told meanwhile |
//! | `records`, `output` | what is shown, and in which form |
//! | `selector`, `indexes`, `inputs`, `template`, `durations`, `last` | the small languages of the arguments |
//! | `exit`, `signals` | how it ends |

mod args;
mod awaited;
mod bench;
mod check;
mod commands;
mod crew;
mod daemon;
mod dispatch;
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

use std::process::ExitCode;

use clap::Parser as _;
use clap::error::{ContextKind, ContextValue};

use qtf_log::Form;

use exit::{Ending, Exit, Failure};

fn main() -> ExitCode {
    let cli = match args::Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    start_log();
    let ending = run(cli);
    qtf_log::finish();
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
    let ending = runtime.block_on(dispatch::run(cli));
    // A thread that sits in a read of stdin or a write to stdout holds nothing up.
    runtime.shutdown_background();
    ending
}

/// Help and version are no failures; anything else that cannot be parsed is.
fn usage(error: &clap::Error) -> ExitCode {
    let typed = match error.get(ContextKind::InvalidSubcommand) {
        Some(ContextValue::String(name)) => Some(name.as_str()),
        _ => None,
    };
    if let Some((name, ours)) = typed.and_then(|name| Some((name, args::ours_for(name)?))) {
        output::message(format!("there is no command `{name}`: {ours}"));
        return Exit::Usage.into();
    }
    let _unheard = error.print();
    if error.use_stderr() {
        Exit::Usage.into()
    } else {
        Exit::Ok.into()
    }
}

/// Errors, and what is odd about the programs that this process runs itself.
const DEFAULT_LOG: &str = "error,qtf_worker::exec=warn";

/// Errors go to stderr; `QTF_LOG=debug` shows more. A reader that does not come holds up no daemon and no worker that runs
/// in this process.
fn start_log() {
    let filter = std::env::var("QTF_LOG").unwrap_or_default();
    let filter = if filter.is_empty() {
        DEFAULT_LOG
    } else {
        &filter
    };
    if let Err(error) =
        qtf_log::start(filter, Form::Text).or_else(|_| qtf_log::start("error", Form::Text))
    {
        output::message(format!("going on without a log: {error}"));
    }
}
