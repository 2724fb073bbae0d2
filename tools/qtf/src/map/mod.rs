//! `qtf map`: a task for each input, the outputs in input order.
//!
//! | file | what |
//! |---|---|
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

use std::io::IsTerminal as _;
use std::num::NonZero;
use std::time::Duration;

use indicatif::ProgressBar;
use qtf_proto::address::default_address;
use qtf_worker::ExecPolicy;

use crate::args::{GlobalArgs, MapArgs};
use crate::commands::{parse_variables, working_directory};
use crate::crew::{Crew, default_slots};
use crate::daemon::{Daemon, given_address, unreachable};
use crate::exit::{Ending, Exit, Failure};
use crate::inputs::split_words;
use crate::output::message;
use crate::signals::EndSignals;
use crate::template::Template;
use drive::{Drive, Job};
use in_order::Limits;

/// LIMIT: tasks in flight for each slot, so that no slot waits for the next submission.
const TASKS_PER_SLOT: usize = 4;
/// LIMIT: tasks in flight at a daemon whose workers may be many or still to come.
const TASKS_IN_FLIGHT: std::ops::RangeInclusive<usize> = 64..=16_384;
/// LIMIT: ended tasks that wait for an earlier one to be printed, and the bytes of their outputs.
const HELD_COUNT: usize = 16_384;
const HELD_BYTES: u64 = 64 << 20;

/// Runs a command over inputs.
pub(crate) async fn run(args: MapArgs, global: &GlobalArgs, signals: &mut EndSignals) -> Ending {
    let (words, source) = split_words(args.words).map_err(Failure::usage)?;
    let job = Job {
        template: Template::new(words).map_err(Failure::usage)?,
        directory: working_directory()?,
        variables: parse_variables(&args.env)?,
        priority: args.priority,
        retries: args.retries,
        timeout: args.timeout.map(|ms| Duration::from_millis(ms.into())),
        durability: args.durability.map(Into::into),
        delimiter: if args.null { 0 } else { b'\n' },
        mode: global.mode(),
        bar: progress::progress_bar(source.count(), !args.no_progress),
    };
    if source.reads_stdin() && std::io::stdin().is_terminal() {
        message("reading the inputs from this terminal, one a line; Ctrl-D ends them");
    }
    let mut policy = ExecPolicy::default().containment(args.contain.unwrap_or_default());
    if let Some(linger) = args.linger {
        policy = policy.linger(linger);
    }
    let (daemon, mut crew) = tokio::select! {
        found = daemon_or_crew(global, args.slots, policy, &job.bar) => found?,
        exit = signals.next() => return Ok(exit),
    };
    if crew.is_some() {
        signals.pause_own_tasks()?;
    }
    let slots = match &crew {
        Some(crew) => crew.slots(),
        None => slots_of(&daemon).await?,
    };
    let unfinished = slots.saturating_mul(TASKS_PER_SLOT);
    let limits = Limits {
        unfinished: unfinished.clamp(*TASKS_IN_FLIGHT.start(), *TASKS_IN_FLIGHT.end()),
        held: HELD_COUNT,
        held_bytes: HELD_BYTES,
    };
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

/// The daemon that was named or is at the default socket, or else an own one.
async fn daemon_or_crew(
    global: &GlobalArgs,
    slots: Option<NonZero<u16>>,
    policy: ExecPolicy,
    bar: &ProgressBar,
) -> Result<(Daemon, Option<Crew>), Failure> {
    if let Some(address) = given_address(global)? {
        let daemon = Daemon::at(&address, Some(bar))
            .await
            .map_err(|error| unreachable(&error))?;
        return Ok((daemon, None));
    }
    match Daemon::at(&default_address(), Some(bar)).await {
        Ok(daemon) => Ok((daemon, None)),
        Err(error) if error.is_not_there() => {
            let slots = slots.map_or_else(default_slots, NonZero::get);
            let crew = Crew::start_for_map(slots, policy)?;
            let daemon = Daemon::at(&crew.address(), Some(bar))
                .await
                .map_err(|error| unreachable(&error))?;
            Ok((daemon, Some(crew)))
        }
        Err(error) => Err(unreachable(&error)),
    }
}

async fn ended_by_itself(crew: Option<&mut Crew>) -> Failure {
    match crew {
        Some(crew) => crew.ended_by_itself().await,
        None => std::future::pending().await,
    }
}

/// Slots of all workers of a daemon.
async fn slots_of(daemon: &Daemon) -> Result<usize, Failure> {
    let workers = daemon.client.workers().await?;
    if workers.is_empty() {
        message(format!(
            "no worker is at {}; the tasks wait until one comes (qtf-worker --connect)",
            daemon.address
        ));
    }
    let capacity = workers
        .iter()
        .map(|worker| usize::try_from(worker.capacity).unwrap_or(0));
    Ok(capacity.fold(0, usize::saturating_add))
}
