//! The command line.

use clap::{Args, Parser, Subcommand};
use qtf_shm::histogram::Stage;
use qtf_shm::{TaskId, WorkerId};
use std::path::PathBuf;

/// Reads a Quantum Taskflow segment: live, dead, or from an image. Never writes to it, never asks the
/// daemon.
#[derive(Debug, Parser)]
#[command(name = "shm-inspect", version, after_help = EXIT_CODES)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) source: SourceArguments,
    /// Prints one JSON document instead of a table
    #[arg(long, global = true)]
    pub(crate) json: bool,
    #[command(subcommand)]
    pub(crate) command: Command,
}

const EXIT_CODES: &str = "Exit codes: 0 ok (also for a dead owner), 1 an invariant is broken, 2 usage, \
3 no segment or no such record, 4 another layout version or a damaged header, 6 the record kept changing while it was read, or the image is of several moments";

/// Which segment to look at.
#[derive(Debug, Args)]
#[group(multiple = false)]
pub(crate) struct SourceArguments {
    /// The segment of this instance; `default` if nothing is said
    #[arg(long, global = true, value_name = "NAME")]
    pub(crate) instance: Option<String>,
    /// The segment with this shared-memory id, as `qtf dev`, `list` and `ipcs -m` print it
    #[arg(long, global = true, value_name = "SHMID")]
    pub(crate) id: Option<i32>,
    /// An image that `snapshot` has written
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) image: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Lists the segments of this machine, and whether their daemons live
    List,
    /// Says what the segment is, how full it is and what it has counted
    Info,
    /// Prints where each region lies
    Layout,
    /// Prints a heap in the order in which it would be emptied, best first
    Heap {
        /// Which heap
        #[arg(value_enum)]
        heap: HeapName,
        /// Prints only the first N entries
        #[arg(long, value_name = "N")]
        limit: Option<usize>,
    },
    /// Prints one task with everything its slot says
    Task {
        /// The task's id, as `qtf submit` prints it
        #[arg(value_name = "ID")]
        task: TaskId,
    },
    /// Prints one worker and the tasks it owns
    Worker {
        /// `w3`, `3`, or with its incarnation `w3.1`
        #[arg(value_name = "ID")]
        worker: WorkerId,
    },
    /// Prints the task-worker mapping: who owns which attempt
    Assignments,
    /// Prints what local processes and the daemon have said to each other through lanes, and what waits there
    Lanes,
    /// Checks all invariants; ends with 1 if one is broken
    Verify,
    /// Says how long the steps of tasks took, with percentiles
    Hist {
        /// One step: admit, wait, decide, dispatch, run, result, deliver or sync; all if nothing is said
        #[arg(value_name = "STAGE", value_parser = parse_stage)]
        stage: Option<Stage>,
        /// Writes them too, as a log of `HdrHistogram`, to a file that must not exist
        #[arg(long, value_name = "FILE")]
        log: Option<PathBuf>,
    },
    /// Writes an image of the segment to a file
    Snapshot {
        /// The file to write; must not exist
        #[arg(short, long, value_name = "FILE")]
        output: PathBuf,
    },
}

fn parse_stage(name: &str) -> Result<Stage, String> {
    Stage::of_name(name).ok_or_else(|| {
        let names = Stage::ALL.map(Stage::name).join(", ");
        format!("there is no such step: {names}")
    })
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum HeapName {
    /// Ready tasks, the next one to be assigned first
    Task,
    /// Workers with free capacity, the next one to be given a task first
    Worker,
    /// Tasks at which something is due, the earliest first
    Timer,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn definition_of_the_command_line_is_sound() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn source_may_stand_before_and_after_the_command() {
        for words in [
            ["--id", "7", "info", "--json"],
            ["info", "--json", "--id", "7"],
        ] {
            let arguments =
                Arguments::try_parse_from(["shm-inspect"].iter().chain(&words)).unwrap();
            assert_eq!((arguments.source.id, arguments.json), (Some(7), true));
        }
    }
}
