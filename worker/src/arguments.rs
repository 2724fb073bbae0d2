//! The command line of `qtf-worker`.
//!
//! Tested by a fuzz target, which takes this file in.

use core::time::Duration;

use clap::Parser;
use qtf_proto::address::Address;
use qtf_worker::Containment;

/// Runs the tasks of a Quantum Taskflow daemon on this machine.
#[derive(Debug, Parser)]
#[command(name = "qtf-worker", version)]
pub(crate) struct Arguments {
    /// Daemon to work for: unix:PATH, HOST:PORT or shm:NAME [default: your own, in the runtime folder]
    ///
    /// shm:NAME takes tasks from the segment of the instance NAME itself, with no connection, also while its daemon is away; shm:FOLDER/NAME
    /// names its runtime folder too.
    #[arg(long, visible_alias = "addr", value_name = "ADDRESS", env = "QTF_ADDR")]
    pub(crate) connect: Option<Address>,
    /// Name in lists [default: the host's name]
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// Tasks that run at the same time [default: number of cores]
    #[arg(long)]
    pub(crate) slots: Option<u32>,
    /// Tasks taken ahead, to hide the way to a distant daemon
    #[arg(long, default_value_t = 0)]
    pub(crate) prefetch: u32,
    /// Bytes kept of standard output, and as many of standard error
    ///
    /// The daemon takes half of its `payload_bytes_max` of each at most (32 MiB if nothing is said); a limit above that is warned of
    /// when the worker registers. `qtf result` of an output that was cut ends with 1 and names the limit.
    #[arg(long, value_name = "BYTES", default_value_t = 16 << 20)]
    pub(crate) output_limit: u64,
    /// Time between SIGTERM and SIGKILL for a task that is cancelled or out of time
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration, default_value = "2s")]
    pub(crate) stop_grace: Duration,
    /// How long what a program leaves behind may hold its output open before it is killed; the output that came is kept
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration, default_value = "1s")]
    pub(crate) linger: Duration,
    /// How long a drain waits for what runs
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration, default_value = "30s")]
    pub(crate) drain_timeout: Duration,
    /// Give the worker's whole environment to programs
    ///
    /// Without it they get PATH, HOME, USER, LANG, `LC_ALL`, TZ and TMPDIR of it. In any case `QTF_TASK_ID`, `QTF_ATTEMPT` and, as
    /// members of an array, `QTF_ARRAY_ID` and `QTF_ARRAY_INDEX` come on top, and what the task says on top of these. With it, what the worker
    /// was started with (secrets too) is open to every task, and what a task sees depends on how its worker was started.
    #[arg(long)]
    pub(crate) inherit_environment: bool,
    /// What holds the processes of a task together, so that all end with it: cgroup, namespace, supervisor or group; auto is
    /// the first that works
    #[arg(long, value_name = "WAY", default_value_t)]
    pub(crate) contain: Containment,
    /// What is logged on stderr: error, warn, info, debug, trace, or a filter by module
    #[arg(long, value_name = "LEVEL", env = "QTF_LOG", default_value = "info")]
    pub(crate) log: String,
    /// Form of the log: auto (the journal of systemd, with fields, where stderr is that, else text), text, json or journal
    #[arg(
        long,
        value_name = "FORM",
        env = "QTF_LOG_FORMAT",
        default_value = "auto"
    )]
    pub(crate) log_format: String,
}
