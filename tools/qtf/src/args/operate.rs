//! Options of the commands for operators.

use std::num::NonZeroU16;
use std::time::Duration;

use clap::Subcommand;
use qtf_worker::Containment;

use super::parse_slots;
use crate::durations::parse_duration;

/// Runs a daemon and workers in one process, for trying things out
#[derive(Debug, clap::Args)]
#[command(long_about = "\
Runs a daemon and workers in this process until Ctrl-C, and prints how to reach them.

The daemon listens on the default Unix socket, so that the other commands find it without --addr. \
Its segment is private: nothing stays behind when it ends, and tasks do not survive it.")]
#[command(after_long_help = "\
Examples:
  qtf dev
  qtf dev --workers 2 --slots 4
  qtf dev --listen 127.0.0.1:7878 --listen unix:/tmp/qtf.sock")]
pub(crate) struct DevArgs {
    /// Number of workers, at most 4095: as many as its segment has worker slots
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(..=4095))]
    pub(crate) workers: u16,
    /// Tasks at the same time in each worker [default: number of CPUs, shared by the workers]
    #[arg(long, value_name = "N", value_parser = parse_slots)]
    pub(crate) slots: Option<NonZeroU16>,
    /// Address to listen on, instead of the default Unix socket: unix:PATH or HOST:PORT
    #[arg(long, value_name = "ADDR")]
    pub(crate) listen: Vec<String>,
    /// Listen on TCP addresses beyond the loopback too: whoever reaches one can run commands here
    #[arg(long)]
    pub(crate) allow_unauthenticated_remote: bool,
    /// What holds the processes of a task together: cgroup, namespace, supervisor, group; auto is the first that works
    #[arg(long, value_name = "WAY", default_value_t)]
    pub(crate) contain: Containment,
}

/// Checks a worker of your own, in any language, against the rules of the protocol
#[derive(Debug, clap::Args)]
#[command(long_about = "\
Serves a worker of your own with a real daemon that nobody else reaches, and prints a line for each rule of \
docs/PROTOCOL.md that it keeps to or breaks, with what was expected, what was found, and where the rule stands. \
It takes about a minute; exit code 0 if all checks passed, else 1. Workers that hold streams are checked; for those that call \
(Work.Reserve) there is no check yet.

The worker offers two kinds for the checks: check.echo gives its payload back, check.wait runs as many milliseconds \
as its payload says (decimal text), unless it is told to stop, and gives the payload back. Or it offers exec, and runs cat and sleep. \
At the end it is drained, so that it leaves. A worker that is started here finds the address in QTF_ADDR too.")]
#[command(after_long_help = "\
Examples:
  qtf worker check
  qtf worker check --listen 127.0.0.1:7979
  qtf worker check -- python3 worker.py {}
  qtf worker check --json -- qtf-worker --connect {} | jq '.checks[] | select(.passed | not)'")]
pub(crate) struct CheckArgs {
    /// Address to serve for the worker: unix:PATH or HOST:PORT [default: a Unix socket of its own in the runtime folder]
    #[arg(long, value_name = "ADDR")]
    pub(crate) listen: Option<String>,
    /// How long to wait for the worker to come
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = parse_duration)]
    pub(crate) wait: Duration,
    /// Make only this check, besides the first; may be said more than once
    #[arg(long, value_name = "CHECK")]
    pub(crate) only: Vec<String>,
    /// Starts the worker: {} becomes the address; what it prints goes to stderr; when it ends, so does the check
    #[arg(last = true, value_name = "COMMAND")]
    pub(crate) worker: Vec<String>,
}

/// Lists, drains, evicts and checks workers
#[derive(Debug, Subcommand)]
pub(crate) enum WorkerCommand {
    /// Lists the workers
    #[command(visible_alias = "list")]
    #[command(after_long_help = "\
Examples:
  qtf worker ls
  qtf worker ls --output jsonl | jq -r 'select(.state == \"live\") | .id'")]
    Ls,
    /// Lets a worker end what it runs and leave
    #[command(after_long_help = "\
Examples:
  qtf worker drain w3
  qtf worker drain w3.1 --reason 'bad disk'")]
    Drain {
        /// Worker: 3, w3 or w3.1
        #[arg(value_name = "ID")]
        worker: String,
        /// Why, for the log of the daemon
        #[arg(long, default_value = "")]
        reason: String,
    },
    /// Gives a worker up at once: its tasks run again elsewhere
    ///
    /// The worker counts as lost: a task that it was running has lost one attempt, and one that runs at most once is a
    /// dead letter. It is told to end everything and to register anew; drain it first if it still does its work.
    #[command(after_long_help = "\
Examples:
  qtf worker evict w3
  qtf worker evict w3.1 --reason 'takes tasks and starts none'")]
    Evict {
        /// Worker: 3, w3 or w3.1
        #[arg(value_name = "ID")]
        worker: String,
        /// Why, for the log of the daemon
        #[arg(long, default_value = "")]
        reason: String,
    },
    Check(CheckArgs),
}

/// Lists the registered clients
#[derive(Debug, Subcommand)]
pub(crate) enum ClientCommand {
    /// Lists the registered clients
    #[command(visible_alias = "list")]
    #[command(after_long_help = "\
Examples:
  qtf client ls
  qtf client ls --json")]
    Ls,
}

/// Tells what the daemon is and how its journal stands
#[derive(Debug, clap::Args)]
#[command(long_about = "\
Tells what the daemon is, how it found its tasks when it started, and how its journal stands: what is on \
stable storage, and how much room there is.")]
#[command(after_long_help = "\
Examples:
  qtf info
  qtf info --json | jq .journal.room_bytes")]
pub(crate) struct InfoArgs {}

/// Tells how large a segment must be
#[derive(Debug, clap::Args)]
#[command(long_about = "\
Tells how large the segment is for a number of tasks and workers, line by line, from the code that \
lays out the segment. No daemon is asked.")]
#[command(after_long_help = "\
Examples:
  qtf size
  qtf size --tasks 10000 --workers 1000
  qtf size --bytes 67108864
  qtf size --tasks 1000000 --workers 100 --json | jq .total_bytes")]
pub(crate) struct SizeArgs {
    /// Task slots: tasks that wait, run, or whose results are kept
    #[arg(long, value_name = "N", requires = "workers")]
    pub(crate) tasks: Option<u32>,
    /// Worker slots
    #[arg(long, value_name = "M", requires = "tasks")]
    pub(crate) workers: Option<u16>,
    /// What fits into a segment of this size instead [default: 268435456]
    #[arg(long, value_name = "BYTES", conflicts_with_all = ["tasks", "workers"])]
    pub(crate) bytes: Option<u64>,
}

/// Prints completions for a shell
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  qtf completions bash > ~/.local/share/bash-completion/completions/qtf
  qtf completions zsh > ~/.zfunc/_qtf
  qtf completions fish > ~/.config/fish/completions/qtf.fish")]
pub(crate) struct CompletionsArgs {
    /// The shell
    #[arg(value_enum)]
    pub(crate) shell: clap_complete::Shell,
}
