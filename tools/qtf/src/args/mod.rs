//! The command line: global options and the list of commands; the options of each command stand in
//! the other files of this folder.
//!
//! Tested at the end of this file and in `tests/exit_codes.rs`.

mod bench;
mod dead;
mod exit_codes;
mod foreign;
mod journal;
mod map;
mod operate;
mod submit;
mod tasks;

use std::num::NonZeroU16;

use clap::{Parser, Subcommand, ValueEnum};

pub(crate) use bench::{BenchArgs, BenchPart};
pub(crate) use dead::DeadCommand;
pub(crate) use exit_codes::ExitCodeArgs;
pub(crate) use foreign::ours_for;
pub(crate) use journal::JournalCommand;
pub(crate) use map::MapArgs;
pub(crate) use operate::{
    CheckArgs, ClientCommand, CompletionsArgs, DevArgs, InfoArgs, SizeArgs, WorkerCommand,
};
pub(crate) use submit::{DurabilityName, SubmitArgs};
pub(crate) use tasks::{
    CancelArgs, ForgetArgs, HoldArgs, PsArgs, ReleaseArgs, ResultArgs, StateName, TaskArgs,
    UpdateArgs, WaitArgs,
};

/// Runs commands over many inputs, and looks after the tasks of a Quantum Taskflow daemon.
#[derive(Debug, Parser)]
#[command(name = "qtf", version, long_about = ABOUT, after_long_help = EXIT_CODES)]
#[command(subcommand_required = true, arg_required_else_help = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: GlobalArgs,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// How many tasks run at the same time.
fn parse_slots(text: &str) -> Result<NonZeroU16, String> {
    text.parse()
        .map_err(|_| format!("write a number of tasks from 1 to {}", NonZeroU16::MAX))
}

const ABOUT: &str = "\
Runs commands over many inputs, and looks after the tasks of a Quantum Taskflow daemon.

First steps, without any set-up:
  qtf map 'sha256sum {}' ::: *.iso          a task per file, outputs in input order

With a daemon that stays:
  qtf dev &                                 daemon and workers in one process
  qtf submit --array 1-1000 -- ./step %{index}
  qtf wait last && qtf ps --all";

const EXIT_CODES: &str = "\
Exit codes:
  0    did what was asked
  1    a task failed, was cancelled, or is in the dead-letter set; a journal is damaged
  2    the command line is wrong, or a file it names cannot be used
  3    no such task or worker
  4    the daemon refused
  5    no daemon answers, or none could be started
  6    the time is over, or the task has not ended
  130  ended by Ctrl-C (143 by SIGTERM)
  141  map: nobody reads its stdout any more (as if by SIGPIPE)

Data goes to stdout, messages to stderr.";

/// Heading under which every help lists them, below the options of the command itself.
const OF_ALL_COMMANDS: &str = "Options of all commands";

/// Options of all commands.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct GlobalArgs {
    /// Address of the daemon: unix:PATH, HOST:PORT or shm:NAME
    ///
    /// Without it your own daemon is meant, at `default.sock` in `$XDG_RUNTIME_DIR/qtf`, else in `/run/qtf` for root, else in
    /// `/tmp/qtf-UID`. It is talked to only if that folder is yours, nobody else can write it, and you or root listen there.
    /// An address that you name is your own choice.
    ///
    /// shm:NAME is the segment of the instance NAME on this machine, written to without a connection, also while its daemon is away;
    /// shm:FOLDER/NAME names its runtime folder too. What is only a daemon's to do (workers that are to leave, holds, dead letters) is refused there,
    /// with the address of its socket.
    #[arg(
        long,
        global = true,
        env = "QTF_ADDR",
        value_name = "ADDR",
        hide_env_values = true,
        help_heading = OF_ALL_COMMANDS
    )]
    pub(crate) addr: Option<String>,
    /// Form of the output
    #[arg(
        long,
        global = true,
        env = "QTF_OUTPUT",
        value_enum,
        default_value_t,
        hide_env_values = true,
        help_heading = OF_ALL_COMMANDS
    )]
    output: OutputMode,
    /// Short for --output json
    #[arg(long, global = true, help_heading = OF_ALL_COMMANDS)]
    json: bool,
}

impl GlobalArgs {
    /// The form of the output that was asked for.
    pub(crate) fn mode(&self) -> OutputMode {
        if self.json {
            OutputMode::Json
        } else {
            self.output
        }
    }
}

/// Forms of output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum OutputMode {
    /// For people: a table on a terminal, aligned columns without cuts in a pipe.
    #[default]
    Table,
    /// One JSON document.
    Json,
    /// One JSON document a line.
    Jsonl,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Dev(DevArgs),
    Map(MapArgs),
    Submit(SubmitArgs),
    Wait(WaitArgs),
    Result(ResultArgs),
    Cancel(CancelArgs),
    Hold(HoldArgs),
    Release(ReleaseArgs),
    Forget(ForgetArgs),
    Update(UpdateArgs),
    Task(TaskArgs),
    Ps(PsArgs),
    /// Lists, shows, requeues and purges dead letters
    #[command(subcommand)]
    Dead(DeadCommand),
    /// Lists, drains and evicts workers
    #[command(subcommand)]
    Worker(WorkerCommand),
    /// Lists the registered clients
    #[command(subcommand)]
    Client(ClientCommand),
    Info(InfoArgs),
    /// Looks into the files of a journal, without a daemon
    #[command(subcommand)]
    Journal(JournalCommand),
    Size(SizeArgs),
    Bench(BenchArgs),
    #[command(subcommand, hide = true)]
    BenchPart(BenchPart),
    Completions(CompletionsArgs),
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    fn parse(line: &[&str]) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(std::iter::once("qtf").chain(line.iter().copied()))
    }

    #[test]
    fn definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn options_after_the_command_word_belong_to_the_command() {
        let Command::Map(map) = parse(&["map", "-j", "2", "grep", "-j", "{}", ":::", "-x"])
            .unwrap()
            .command
        else {
            panic!("not map")
        };
        assert_eq!(map.slots.map(std::num::NonZero::get), Some(2));
        assert_eq!(map.words, ["grep", "-j", "{}", ":::", "-x"]);
    }

    #[test]
    fn options_before_the_command_may_carry_their_value() {
        for line in [["map", "-j3", "echo"], ["map", "--slots=3", "echo"]] {
            let Command::Map(map) = parse(&line).unwrap().command else {
                panic!("not map")
            };
            assert_eq!(map.slots.map(std::num::NonZero::get), Some(3));
            assert_eq!(map.words, ["echo"]);
        }
        assert!(parse(&["map", "-x", "echo"]).is_err());
        assert!(parse(&["submit", "--nonsense", "--", "echo"]).is_err());
    }

    #[test]
    fn slots_that_cannot_be_are_refused_with_the_numbers_that_can() {
        for line in [
            &["map", "-j", "0", "echo"][..],
            &["dev", "--slots", "65536"],
        ] {
            let error = parse(line).unwrap_err().to_string();
            assert!(error.contains("from 1 to 65535"), "{error}");
        }
    }

    #[test]
    fn submit_takes_the_program_with_and_without_two_dashes() {
        for line in [
            &["submit", "-p", "9", "--", "ls", "-l"][..],
            &["submit", "-p", "9", "ls", "-l"],
        ] {
            let Command::Submit(submit) = parse(line).unwrap().command else {
                panic!("not submit")
            };
            assert_eq!(submit.command, ["ls", "-l"]);
            assert_eq!(submit.priority, Some(9));
        }
    }

    #[test]
    fn json_is_short_for_output_json_and_global() {
        for line in [
            &["--json", "ps"][..],
            &["ps", "--json"],
            &["--output", "json", "ps"],
        ] {
            assert_eq!(parse(line).unwrap().global.mode(), OutputMode::Json);
        }
        assert_eq!(
            parse(&["ps", "--output", "jsonl"]).unwrap().global.mode(),
            OutputMode::Jsonl
        );
    }

    #[test]
    fn an_unknown_command_is_answered_with_the_nearest_name() {
        let error = parse(&["sumbit", "--", "ls"]).unwrap_err().to_string();
        assert!(error.contains("submit"), "{error}");
    }

    #[test]
    fn every_command_has_an_example() {
        for command in Cli::command().get_subcommands() {
            // What people do not type needs none.
            if command.is_hide_set() {
                continue;
            }
            let mut shown = vec![command.clone()];
            if command.has_subcommands() {
                shown = command.get_subcommands().cloned().collect();
            }
            for command in &mut shown {
                let help = command.render_long_help().to_string();
                assert!(
                    help.contains("Examples:\n  qtf "),
                    "{}: {help}",
                    command.get_name()
                );
            }
        }
    }

    #[test]
    fn examples_in_the_help_are_understood() {
        let mut commands = vec![Cli::command()];
        let mut count = 0;
        while let Some(command) = commands.pop() {
            commands.extend(command.get_subcommands().cloned());
            let Some(help) = command.get_after_long_help() else {
                continue;
            };
            let help = help.to_string();
            for line in help.lines().filter(|line| line.starts_with("  qtf ")) {
                let words = shell_words::split(line).unwrap();
                // What a shell takes for itself is not handed to a command.
                let is_of_the_shell =
                    |word: &String| ["|", "&&", ">", "2>", "&"].contains(&&**word);
                for call in words.split(is_of_the_shell) {
                    if call.first().is_some_and(|program| program == "qtf") {
                        assert!(Cli::try_parse_from(call).is_ok(), "{call:?}");
                        count += 1;
                    }
                }
            }
        }
        assert!(count > 40, "{count}");
    }

    #[test]
    fn priorities_stop_at_255() {
        assert!(parse(&["submit", "-p", "256", "ls"]).is_err());
        assert!(parse(&["update", "last", "-p", "255"]).is_ok());
        assert!(parse(&["submit", "--retries", "254", "ls"]).is_err());
    }
}
