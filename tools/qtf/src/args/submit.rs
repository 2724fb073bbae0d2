//! Options of `qtf submit`.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::ValueEnum;

use super::ExitCodeArgs;
use crate::durations::parse_duration_ms;
use crate::indexes::IndexSet;

const LONG: &str = "\
Submits a command and prints the id of its task, or with --array one id a line in index order.

The command runs without a shell, in the current directory, and reads nothing unless --stdin says what. \
Ids of the last submission are remembered: `qtf wait last`.

Of the worker's environment a task gets PATH, HOME, USER, LANG, LC_ALL, TZ and TMPDIR (all of it where the worker \
was started with --inherit-environment), then QTF_TASK_ID and QTF_ATTEMPT, as a member of an array QTF_ARRAY_ID (the \
id of the first member) and QTF_ARRAY_INDEX too, and last what --env says.

With --array, %{index} is the member's index in ARGS, in the value of --env NAME=VALUE and in the file names of \
--stdin and --payload. There is no other %{...}: one is refused there, as are {.}, {/} and the like of GNU parallel, unless a backslash says that the text itself \
is meant: '\\%{http_code}'. Nothing is filled in without --array.

With --kind the task is for a handler that some worker has under that name, and is given the bytes of --payload; what it returns is its stdout.

An id that was printed is accepted as durably as was asked: with `--durability journal` it is on stable \
storage (a --key that is known: as was asked when it came first). When the daemon goes away before it has answered, qtf waits up to 30 s for it or its \
successor and asks again; nothing is submitted twice. The same where the daemon of a Unix socket was killed, or stopped less than 30 s ago. \
A journal without room, as shortly after a start, is asked again for 5 s (for the members of an array \
behind the first as long as it takes).

Members of an array wait for room in the daemon's segment, and a line says what keeps it; Ctrl-C ends that, and \
what was accepted until then is printed and remembered. An array that can never fit is refused at once.";

const EXAMPLES: &str = "\
Examples:
  qtf submit -- make -C /src/lib
  qtf submit -p 200 --timeout 10min --retries 2 -- ./simulate --seed 7
  qtf submit --array 1-1000 -- ./step --part %{index}
  qtf submit --array 1-9 --env PART=%{index} --stdin in-%{index}.txt -- ./step
  qtf submit --array 0-90:10,100 --no-result -- ./warm %{index}
  qtf submit --durability journal --key nightly-2026-11-21 -- ./nightly
  id=$(qtf submit --hold -- ./deploy) && qtf release $id
  qtf submit --retries 3 --final-exit 65 --again-exit 75 --again-after 5min -- ./import day.csv
  qtf submit --stdin query.sql -- psql -f -
  qtf submit --kind word_count --payload book.txt
  qtf submit --array 1-9 --kind resize --payload image-%{index}.png
  id=$(qtf submit -- ./build) && qtf wait $id && qtf result $id";

/// Submits a command, or an array of them, and prints the ids
#[derive(Debug, clap::Args)]
#[command(long_about = LONG, after_long_help = EXAMPLES)]
pub(crate) struct SubmitArgs {
    /// Priority, 0 to 255, higher first [default: 128]
    #[arg(short, long, value_name = "PRIO")]
    pub(crate) priority: Option<u8>,
    /// One task for each index: 1-1000, 0-90:10, 1,3,7-9; %{index} in ARGS, --env and --stdin is the index. At most 16,777,216
    #[arg(long, value_name = "RANGES", value_parser = IndexSet::parse_array)]
    pub(crate) array: Option<IndexSet>,
    /// Where the task is kept before the answer [default: the daemon's]
    #[arg(long, value_enum)]
    pub(crate) durability: Option<DurabilityName>,
    /// Attempts after the first that a failure may use [default: 0]
    ///
    /// Lost workers count apart: a task whose worker is lost is handed out again three times, whatever N is, and is a dead
    /// letter when it loses the fourth (`qtf dead ls`). So a task may run more than once; see --once.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(..=253))]
    pub(crate) retries: Option<u8>,
    /// Run at most once: not again when its worker is lost
    ///
    /// The task is a dead letter then, though it may not have begun; `qtf dead requeue` runs it again. With durability journal
    /// that holds over a reboot too, for one more sync before the start.
    #[arg(long, conflicts_with_all = ["retries", "again_exit"])]
    pub(crate) once: bool,
    #[command(flatten)]
    pub(crate) exit_codes: ExitCodeArgs,
    /// Longest run time of one attempt: 90, 10s, 2min; 0 is no limit
    #[arg(long, value_name = "DURATION", value_parser = parse_duration_ms)]
    pub(crate) timeout: Option<u32>,
    /// Expected run time
    #[arg(long, value_name = "DURATION", value_parser = parse_duration_ms)]
    pub(crate) estimate: Option<u32>,
    /// Earliest start, counted from now
    #[arg(long, value_name = "DURATION", value_parser = crate::durations::parse_duration)]
    pub(crate) delay: Option<std::time::Duration>,
    /// Do not start the task before `qtf release`
    #[arg(long)]
    pub(crate) hold: bool,
    /// How long the result is kept if nobody forgets it [default: the daemon's: an hour, a day if it failed]
    ///
    /// Up to the daemon's `keep_max_ms`, 7 days if nothing is said there. What expires is told of for a while: `qtf result` says when.
    #[arg(long, value_name = "DURATION", conflicts_with = "no_result", value_parser = crate::durations::parse_duration)]
    pub(crate) keep: Option<std::time::Duration>,
    /// Names the submission: repeating it with the same key gives the id of the first task
    ///
    /// Any text; 32 hexadecimal digits are the 128-bit key itself. Keys are shared by all clients of a
    /// daemon, so begin them with a name of your own. What else the repeat says is not looked at. Once the
    /// task was forgotten (qtf forget, or its result was received) the key may go before its time, when
    /// its place is needed for others.
    #[arg(long, value_name = "KEY", conflicts_with = "array", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub(crate) key: Option<String>,
    /// How long the daemon knows the key, counted from the first submission; up to 7 days [default: 1h]
    #[arg(long, value_name = "DURATION", requires = "key", value_parser = crate::durations::parse_duration)]
    pub(crate) key_ttl: Option<std::time::Duration>,
    /// Environment variable for the task; NAME alone passes the value on, as it is
    #[arg(long, value_name = "NAME[=VALUE]")]
    pub(crate) env: Vec<OsString>,
    /// File whose bytes become the standard input of the task; - is the standard input of qtf
    #[arg(long, value_name = "FILE")]
    pub(crate) stdin: Option<PathBuf>,
    /// Keep no output: the slot is free as soon as the task has succeeded
    ///
    /// One that fails is kept as any other. `qtf wait` counts a task that is gone as done: of the last submission always, and
    /// of others as long as the daemon remembers its end.
    #[arg(long)]
    pub(crate) no_result: bool,
    /// A task for a handler of this name instead of a program; --payload says what it is given
    ///
    /// Which kinds there are is up to the workers (`qtf worker ls`); a task of a kind that none of them has waits for one.
    #[arg(
        long,
        value_name = "NAME",
        value_parser = parse_kind,
        conflicts_with_all = ["command", "env", "stdin", "final_exit", "again_exit"]
    )]
    pub(crate) kind: Option<String>,
    /// File whose bytes are the payload of a task of --kind; - is the standard input of qtf [default: nothing]
    #[arg(
        long,
        value_name = "FILE",
        conflicts_with = "command",
        requires = "kind"
    )]
    pub(crate) payload: Option<PathBuf>,
    /// Program and its arguments
    #[arg(
        value_name = "PROG",
        required_unless_present = "kind",
        trailing_var_arg = true
    )]
    pub(crate) command: Vec<OsString>,
}

/// A program is not submitted as a payload.
fn parse_kind(text: &str) -> Result<String, String> {
    match text {
        "exec" => {
            Err("a program is submitted by its name and arguments, without --kind".to_owned())
        }
        "" => Err("write the name of a handler".to_owned()),
        name => Ok(name.to_owned()),
    }
}

/// How durable an accepted task is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum DurabilityName {
    /// Survives the daemon, not a reboot.
    Memory,
    /// On stable storage before the answer; needs a daemon with a data directory.
    Journal,
}
