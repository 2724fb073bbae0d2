//! Options of the commands that look at tasks and change them.

use std::time::Duration;

use clap::ValueEnum;

use crate::durations::parse_duration;
use crate::selector::{Selection, parse_selection};

/// What every SEL may be; part of each long help.
macro_rules! with_selectors {
    ($text:literal) => {
        with_selectors!($text, "your unfinished tasks at this moment")
    };
    ($text:literal, $all:literal) => {
        concat!(
            $text,
            "

SEL is one or more of, separated by commas or spaces:
  ID             a task
  ID[1-5,8]      members of the array whose first member is ID (quote it for the shell)
  last           the last submission to this daemon
  all            ",
            $all,
            "
  -              ids on stdin"
        )
    };
}

pub(super) use with_selectors;

/// Waits until tasks have ended
#[derive(Debug, clap::Args)]
#[command(long_about = with_selectors!("Waits until tasks have ended. Ends with 0 when all are done, 1 when one failed, was cancelled or is in \
the dead-letter set, 6 when the time is over. Ctrl-C ends the waiting, not the tasks.

Lines on stderr say what does not start when the waiting begins, and why: it is held, blocked or delayed.

A task that was submitted with --no-result is gone when it has succeeded, and counts as done: the daemon remembers tens of thousands of \
the last such ends for as long as it runs, and of your last submission they are known anyway.

When the daemon goes away while it waits, or was killed or stopped shortly before (at a Unix socket), it waits up to 30 s for it or its \
successor."))]
#[command(after_long_help = "\
Examples:
  qtf wait last
  qtf wait --timeout 10min all
  qtf wait '07g6j30sg0000[1-10]'
  qtf submit --array 1-9 -- ./step %{index} | qtf wait -")]
pub(crate) struct WaitArgs {
    /// Tasks: ID, ID[1-5], last, all, -
    #[arg(value_name = "SEL", required = true, value_parser = parse_selection)]
    pub(crate) selection: Vec<Selection>,
    /// Longest time to wait: 90, 10s, 2min
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    pub(crate) timeout: Option<Duration>,
}

/// Prints the output of a task
#[derive(Debug, clap::Args)]
#[command(long_about = with_selectors!("Prints the stdout of a task on stdout and its stderr on stderr. Ends with 0 when it is done, 1 when it \
failed or a part of its output is missing (a line on stderr names the limit that has cut it and the setting that moves that), 6 when it has not ended. The result stays where it is: `qtf forget` frees it.

What a program leaves running when it ends is killed; if it still held the output open, a line on stderr says so.", "your ended tasks whose results are kept"))]
#[command(after_long_help = "\
Examples:
  qtf result 07g6j30sg0000 > out.txt 2> err.txt
  qtf wait last && qtf result last
  qtf result --json 07g6j30sg0000")]
pub(crate) struct ResultArgs {
    /// Tasks: ID, ID[1-5], last, all, -
    #[arg(value_name = "SEL", required = true, value_parser = parse_selection)]
    pub(crate) selection: Vec<Selection>,
}

/// Cancels tasks
#[derive(Debug, clap::Args)]
#[command(long_about = with_selectors!("Cancels waiting tasks at once and asks running ones to stop: TERM to their process group, KILL a little \
later. Tasks that have already ended stay as they are."))]
#[command(after_long_help = "\
Examples:
  qtf cancel 07g6j30sg0000
  qtf cancel --reason 'wrong input' last
  qtf ps --state ready --output jsonl | jq -r .id | qtf cancel -")]
pub(crate) struct CancelArgs {
    /// Tasks: ID, ID[1-5], last, all, -
    #[arg(value_name = "SEL", required = true, value_parser = parse_selection)]
    pub(crate) selection: Vec<Selection>,
    /// Why, for the log of the daemon
    #[arg(long, default_value = "")]
    pub(crate) reason: String,
}

/// Keeps waiting tasks from being started
#[derive(Debug, clap::Args)]
#[command(long_about = with_selectors!("Keeps tasks that wait from being started, until `qtf release` or `qtf cancel`. A held task keeps its place, \
its priority can be changed, and no time ends the hold: not its delay (which goes on counting), not that of its key, not a restart of the \
daemon.

A task that a worker has, or that has ended, is refused. Between two attempts a task waits, and can be held: it has none until it is \
released. Who held and released what stands in the log of the daemon.", "your waiting tasks at this moment"))]
#[command(after_long_help = "\
Examples:
  qtf hold last
  qtf hold --reason 'the licence server is down' all
  qtf ps --state ready --output jsonl | jq -r .id | qtf hold -")]
pub(crate) struct HoldArgs {
    /// Tasks: ID, ID[1-5], last, all, -
    #[arg(value_name = "SEL", required = true, value_parser = parse_selection)]
    pub(crate) selection: Vec<Selection>,
    /// Why, for the log of the daemon
    #[arg(long, default_value = "")]
    pub(crate) reason: String,
}

/// Releases held tasks
#[derive(Debug, clap::Args)]
#[command(long_about = with_selectors!("Releases tasks that are held, by `qtf hold` or `qtf submit --hold`: each may be started again, at its old \
place in the queue and not before its delay is over. A task that is not held stays as it is.", "your held tasks"))]
#[command(after_long_help = "\
Examples:
  qtf release last
  qtf release all
  qtf ps --state held --output jsonl | jq -r .id | qtf release -")]
pub(crate) struct ReleaseArgs {
    /// Tasks: ID, ID[1-5], last, all, -
    #[arg(value_name = "SEL", required = true, value_parser = parse_selection)]
    pub(crate) selection: Vec<Selection>,
    /// Why, for the log of the daemon
    #[arg(long, default_value = "")]
    pub(crate) reason: String,
}

/// Acknowledges results and frees their slots
#[derive(Debug, clap::Args)]
#[command(long_about = with_selectors!("Acknowledges the results of ended tasks, which frees their slots and outputs. A task \
that has not ended is refused: cancel it first.", "your ended tasks whose results are kept"))]
#[command(after_long_help = "\
Examples:
  qtf forget last
  qtf forget all
  qtf forget 07g6j30sg0000,07g6j30sg0001")]
pub(crate) struct ForgetArgs {
    /// Tasks: ID, ID[1-5], last, all, -
    #[arg(value_name = "SEL", required = true, value_parser = parse_selection)]
    pub(crate) selection: Vec<Selection>,
}

/// Changes the priority of waiting tasks
#[derive(Debug, clap::Args)]
#[command(long_about = with_selectors!("Changes the priority of tasks that wait. A task that runs or has ended is refused."))]
#[command(after_long_help = "\
Examples:
  qtf update last -p 200
  qtf update 07g6j30sg0000 --priority 0")]
pub(crate) struct UpdateArgs {
    /// Tasks: ID, ID[1-5], last, all, -
    #[arg(value_name = "SEL", required = true, value_parser = parse_selection)]
    pub(crate) selection: Vec<Selection>,
    /// New priority, 0 to 255, higher first
    #[arg(short, long, value_name = "PRIO")]
    pub(crate) priority: u8,
}

/// Shows everything about tasks
#[derive(Debug, clap::Args)]
#[command(long_about = with_selectors!("Shows everything the daemon can say about a task, and how its attempts ended that failed or were lost: when, on which worker, \
with what outcome, and the last lines of their stderr (all that is kept in JSON: `ends`).

The last 8 of a task are kept, some 900 bytes of stderr each; where the daemon's memory for them is full (an eighth of its arena's \
blocks, 16 KiB for each, at most 2 MiB) the oldest of all go first. `ends_not_kept` counts those that are gone. They outlive the \
daemon, not a reboot, also those of journal tasks."))]
#[command(after_long_help = "\
Examples:
  qtf task 07g6j30sg0000
  qtf task --json last")]
pub(crate) struct TaskArgs {
    /// Tasks: ID, ID[1-5], last, all, -
    #[arg(value_name = "SEL", required = true, value_parser = parse_selection)]
    pub(crate) selection: Vec<Selection>,
}

/// Lists tasks
#[derive(Debug, clap::Args)]
#[command(long_about = "\
Lists tasks with id, state, attempt, priority, worker and its node, age and command.

Without options it lists the unfinished tasks of everybody.")]
#[command(after_long_help = "\
Examples:
  qtf ps
  qtf ps --all --mine
  qtf ps --state running,assigned
  qtf ps --state failed --output jsonl | jq -r .id")]
pub(crate) struct PsArgs {
    /// Only tasks in these states
    #[arg(
        long,
        value_enum,
        value_name = "STATE",
        value_delimiter = ',',
        hide_possible_values = false
    )]
    pub(crate) state: Vec<StateName>,
    /// Also tasks that have ended and whose results are kept; with --state that says which
    #[arg(short, long)]
    pub(crate) all: bool,
    /// Only your own tasks
    #[arg(short, long)]
    pub(crate) mine: bool,
    /// At most so many
    #[arg(
        short = 'n',
        long,
        value_name = "N",
        default_value_t = 0,
        hide_default_value = true
    )]
    pub(crate) limit: u64,
}

/// States of a task, as they are written everywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub(crate) enum StateName {
    Submitted,
    Blocked,
    Held,
    Delayed,
    Ready,
    Assigned,
    Running,
    Ended,
    Done,
    Failed,
    Cancelled,
    DeadLetter,
    Quarantine,
}
