//! `qtf map`: a task for each input, the outputs in input order.
//!
//! | file | what |
//! |---|---|
//! | `whose` | the daemon that runs the tasks, an own one or another, and what goes with them there |
//! | `drive` | the loop: inputs in, submissions and ends, outputs out |
//! | `in_order` | the line-up of what is in flight, and its limits |
//! | `ending` | what one ended task prints |
//! | `printer` | the thread that writes |
//! | `progress` | the bar |
//!
//! Invariant: whatever way it ends, its tasks are cancelled or acknowledged, and an own daemon, its
//! worker and their processes are gone. Tested in the files of this folder and in `tests/map*.rs`.

mod drive;
mod ending;
mod in_order;
mod printer;
mod progress;
mod whose;

use std::io::IsTerminal as _;
use std::time::Duration;

use crate::args::{GlobalArgs, MapArgs};
use crate::commands::{parse_variables, working_directory};
use crate::crew::Crew;
use crate::daemon::tell;
use crate::exit::{Ending, Exit, Failure};
use crate::inputs::split_words;
use crate::output::message;
use crate::signals::EndSignals;
use crate::template::Template;
use drive::{Drive, Job};
use in_order::Limits;
use whose::{Found, Wishes};

/// LIMIT: ended tasks that wait for an earlier one to be printed, and the bytes of their outputs.
const HELD_COUNT: usize = 16_384;
const HELD_BYTES: u64 = 64 << 20;

/// Runs a command over inputs.
pub(crate) async fn run(args: MapArgs, global: &GlobalArgs, signals: &mut EndSignals) -> Ending {
    let is_quiet = args.quiet;
    args.exit_codes.check().map_err(Failure::usage)?;
    let wishes = Wishes::of(&args);
    let (words, source) = split_words(args.words).map_err(Failure::usage)?;
    let mut job = Job {
        template: Template::new(words).map_err(Failure::usage)?,
        directory: working_directory()?,
        variables: parse_variables(&args.env)?,
        priority: args.priority,
        retries: args.retries,
        exit_codes: args.exit_codes,
        timeout: args.timeout.map(|ms| Duration::from_millis(ms.into())),
        durability: args.durability.map(Into::into),
        delimiter: if args.null { 0 } else { b'\n' },
        mode: global.mode(),
        bar: progress::progress_bar(source.count(), !args.no_progress),
    };
    if source.reads_stdin() && std::io::stdin().is_terminal() {
        message("reading the inputs from this terminal, one a line; Ctrl-D ends them");
    }
    let found = tokio::select! {
        found = Found::find(global, &wishes, &job.bar) => found?,
        exit = signals.next() => return Ok(exit),
    };
    if found.crew.is_some() {
        signals.pause_own_tasks()?;
    }
    if !is_quiet {
        tell(Some(&job.bar), found.told(&wishes));
    }
    if found.takes_environment {
        job.variables = whose::with_environment(std::env::vars_os(), job.variables);
    }
    let limits = Limits {
        unfinished: found.unfinished(&wishes).await?,
        held: HELD_COUNT,
        held_bytes: HELD_BYTES,
    };
    let Found {
        daemon, mut crew, ..
    } = found;
    let bar = job.bar.clone();
    let ending = match Drive::start(job, source, &daemon, limits) {
        Ok(drive) => tokio::select! {
            ending = drive.run(signals) => ending,
            failure = ended_by_itself(crew.as_mut()) => Err(failure),
        },
        Err(error) => Err(Failure::new(
            Exit::Usage,
            format!("cannot start a thread: {error}"),
        )),
    };
    bar.finish_and_clear();
    // The session ends before its daemon does.
    drop(daemon);
    if let Some(crew) = crew {
        let stopped = crew.stop().await;
        // What went wrong first is what a person must know.
        ending.as_ref().map_or(Ok(()), |_| stopped)?;
    }
    ending
}

async fn ended_by_itself(crew: Option<&mut Crew>) -> Failure {
    match crew {
        Some(crew) => crew.ended_by_itself().await,
        None => std::future::pending().await,
    }
}
