//! xtask: the one tool that people and CI use to check the repository.
//!
//! `cargo xtask ci` runs every step in order and ends with a line `N passed, N failed, N skipped` that
//! counts the tests which ran and those which did not. Each step is a command of its own as well. Nothing here needs the network
//! beyond what cargo itself fetches, and the packages of the Python worker and client.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command line tool talks on its standard streams"
)]

mod cargo;
mod descriptors;
mod failures;
mod fuzz;
mod install;
mod loom;
mod simulate;
mod skips;
mod soak;
mod steps;
mod tidy;
mod totals;
mod verdict;

use clap::{Parser, Subcommand};
use std::ffi::OsString;
use std::process::ExitCode;

/// The checks of Quantum Taskflow.
#[derive(Debug, Parser)]
#[command(name = "xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Checks the formatting of all crates
    Fmt {
        /// Rewrites the files instead of checking them
        #[arg(long)]
        fix: bool,
    },
    /// Runs clippy on all targets of all crates, with warnings as errors
    Clippy,
    /// Runs the tests of all crates
    Test {
        /// Handed to `cargo test`, for example `-p qtf-shm`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// Runs the seeded simulation of the engine with its journal
    Simulate {
        /// Worlds of each kind; without it as many as the tests run
        #[arg(long)]
        seeds: Option<u64>,
        /// Builds each planted bug as well and expects the simulation to fail
        #[arg(long)]
        mutants: bool,
        /// Builds only planted bugs whose names contain this
        #[arg(long, value_name = "NAME")]
        mutant: Option<String>,
    },
    /// Runs the loom models of the shared structures
    Loom {
        /// Builds each mutant as well and expects its model to fail
        #[arg(long)]
        mutants: bool,
    },
    /// Builds the fuzz targets and runs each for some time
    Fuzz(fuzz::FuzzArguments),
    /// Runs the long proofs with ever other seeds, and adds up what they have shown
    Soak(soak::SoakArguments),
    /// Puts programs, units, man pages and completions below a folder
    Install(install::InstallArguments),
    /// Makes a Debian package; needs dpkg-deb
    Deb(install::DebArguments),
    /// Compares the contract of today with those that were given out
    Descriptors {
        /// Keeps today's under this name before, in proto/descriptors; for example v1.1
        #[arg(long, value_name = "NAME")]
        keep: Option<String>,
    },
    /// Checks layout rules, tagged comments, words, dependencies and documents
    Tidy,
    /// Runs everything, in order, and counts the tests that ran
    Ci {
        /// The command that runs the tests
        #[arg(last = true, default_values = ["cargo", "test", "--workspace"])]
        tests: Vec<OsString>,
    },
}

fn main() -> ExitCode {
    if let Some(code) = loom::act_as_compiler() {
        return code;
    }
    let outcome = match Arguments::parse().command {
        Command::Fmt { fix } => steps::fmt(fix),
        Command::Clippy => steps::clippy(),
        Command::Test { arguments } => steps::test(&arguments),
        Command::Loom { mutants } => loom::run(mutants),
        Command::Simulate {
            seeds,
            mutants,
            mutant,
        } => simulate::run(seeds, mutants, mutant.as_deref()),
        Command::Fuzz(arguments) => fuzz::run(&arguments),
        Command::Soak(arguments) => soak::run(&arguments),
        Command::Install(arguments) => install::install(&arguments),
        Command::Deb(arguments) => install::deb(&arguments),
        Command::Descriptors { keep } => descriptors::run(keep.as_deref()),
        Command::Tidy => tidy::run(),
        Command::Ci { tests } => return steps::ci(&tests),
    };
    match outcome {
        Ok(tally) => {
            for skip in &tally.skips {
                println!("{skip}");
            }
            if tally.counted() {
                println!("{tally}");
            }
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
