//! Options of `qtf map`.

use std::ffi::OsString;
use std::num::NonZeroU16;
use std::time::Duration;

use qtf_worker::Containment;

use super::{DurabilityName, ExitCodeArgs, parse_slots};
use crate::durations::{parse_duration, parse_duration_ms};

const LONG: &str = "\
Runs a command once for each input, many at a time, and prints the outputs in input order.

CMD given as one word is split as a shell would split it, but no shell runs, and what only a shell could do \
(`;`, `|`, `&`, `<`, `>`, unless quoted) is refused; CMD given as several words is taken as it is. `{}` stands for the input, byte for byte, inside one argument; without `{}` \
the input becomes the last argument. Inputs are the words after `:::`, the lines of the files after \
`::::` (`-` is stdin), or else the lines on stdin.

The stdout and stderr of each task go to stdout and stderr as soon as all earlier inputs have been \
printed. A line on stderr tells of each task that failed, and the exit code is then 1. Tasks run in \
the current directory.

What a task leaves running when it ends is killed: at once, or after --linger if it holds the output open, and then a \
line on stderr says so.

Each task has QTF_TASK_ID and QTF_ATTEMPT in its environment. `{}` is the only thing that is filled in: in CMD, not in --env. What GNU parallel has besides ({.}, {/}, {//}, {/.}, {#}, {%}) is refused; a shell can do it, \
as in `sh -c 'convert \"$1\" \"${1%.*}.png\"' sh {}`. A backslash keeps the text itself: `echo '\\{.}' {}`. \
{1}, {2} and {= =} are text, as in regular expressions.

Without --addr and QTF_ADDR a daemon on the default socket is used; if none is there, qtf starts its \
own for the duration, inside this process. A line on stderr says which it is. -j holds everywhere, and \
the tasks have the environment of this shell, plus --env: also at a daemon of yours on a Unix socket. At one \
of another user, or over TCP, they have PATH, HOME, USER, LANG, LC_ALL, TZ and TMPDIR of its workers (all of their environment \
where they were started with --inherit-environment), plus --env, and the line says so.

When a daemon that is not its own goes away, it waits up to 30 s for it or its successor and goes on: \
no task is submitted twice, each output is printed once. The same at its start, where the daemon of a Unix socket was \
killed, or stopped less than 30 s ago.

Tasks have no terminal: what asks for something there fails. Ctrl-C cancels the tasks, waits until they are gone and ends with \
130; a second one ends at once (another signal beside it, as SIGTERM, is the same wish). Ctrl-Z stops the tasks of an own daemon too, and they go on with it.";

const EXAMPLES: &str = "\
Examples:
  qtf map 'sha256sum {}' ::: *.iso
  find . -name '*.wav' -print0 | qtf map -0 'flac --best {}'
  qtf map -j 4 convert {} -resize 50% {}.small.png :::: names.txt
  qtf map sh -c 'wc -l < \"$1\"' sh {} ::: *.rs
  qtf --addr build1:7878 map --env CC=clang make -C {} ::: liba libb";

/// Runs a command over many inputs and prints the outputs in input order
#[derive(Debug, clap::Args)]
#[command(long_about = LONG, after_long_help = EXAMPLES)]
#[command(override_usage = "qtf map [OPTIONS] CMD [ARGS]... [::: INPUTS... | :::: FILES...]")]
pub(crate) struct MapArgs {
    /// Tasks of this run at the same time [default: number of CPUs, or what the workers of another daemon take]
    #[arg(short = 'j', long, value_name = "N", value_parser = parse_slots)]
    pub(crate) slots: Option<NonZeroU16>,
    /// NUL, not newline, ends each input read from stdin or a file
    #[arg(short = '0', long)]
    pub(crate) null: bool,
    /// Priority of the tasks, 0 to 255, higher first
    #[arg(short, long, value_name = "PRIO")]
    pub(crate) priority: Option<u8>,
    /// Attempts after the first that a task which fails may use [default: 0]
    ///
    /// Lost workers count apart: a task whose worker is lost is handed out again three times, so it may run more than once.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(..=253))]
    pub(crate) retries: Option<u8>,
    #[command(flatten)]
    pub(crate) exit_codes: ExitCodeArgs,
    /// Longest run time of one task: 90, 10s, 2min; 0 is no limit
    #[arg(long, value_name = "DURATION", value_parser = parse_duration_ms)]
    pub(crate) timeout: Option<u32>,
    /// How long what a task leaves behind may hold its output open, in the own daemon [default: 1s]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    pub(crate) linger: Option<Duration>,
    /// Where the tasks are kept before the daemon answers [default: the daemon's]
    #[arg(long, value_enum)]
    pub(crate) durability: Option<DurabilityName>,
    /// Environment variable for the tasks; NAME alone passes the value on
    #[arg(long, value_name = "NAME[=VALUE]")]
    pub(crate) env: Vec<OsString>,
    /// What holds the processes of a task together in the own daemon: cgroup, namespace, supervisor, group [default: auto]
    #[arg(long, value_name = "WAY")]
    pub(crate) contain: Option<Containment>,
    /// No line that says which daemon is used
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// No progress bar
    #[arg(long)]
    pub(crate) no_progress: bool,
    /// CMD [ARGS]... [::: INPUTS... | :::: FILES...]
    #[arg(value_name = "CMD", required = true, trailing_var_arg = true)]
    pub(crate) words: Vec<OsString>,
}
