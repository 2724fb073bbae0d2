//! The steps of the check, one function each, and `ci`, which runs them in order.
//!
//! A step that fails does not keep the later ones from running: one run shows everything.

use crate::cargo::{self, Run, Tally};
use crate::{loom, simulate, skips, tidy};
use anyhow::bail;
use std::ffi::OsString;
use std::process::ExitCode;
use std::time::Instant;

/// Checks the formatting, or with `fix` rewrites the files.
pub(crate) fn fmt(fix: bool) -> anyhow::Result<Tally> {
    let mut command = cargo::cargo();
    command.args(["fmt", "--all"]);
    if !fix {
        command.arg("--check");
    }
    cargo::run(&mut command)?;
    Ok(Tally::default())
}

/// Clippy on everything, with warnings as errors.
pub(crate) fn clippy() -> anyhow::Result<Tally> {
    let mut command = cargo::cargo();
    command.args([
        "clippy",
        "--workspace",
        "--all-targets",
        "--",
        "-D",
        "warnings",
    ]);
    cargo::run(&mut command)?;
    Ok(Tally::default())
}

/// The tests of all crates, or what `arguments` choose.
pub(crate) fn test(arguments: &[OsString]) -> anyhow::Result<Tally> {
    let run = run_tests(arguments)?;
    if !run.succeeded {
        bail!("tests failed: {}", run.tally);
    }
    if let Some(complaint) = skips::complaint(&run.tally.skips, &skips::said_to_lack()?) {
        bail!("{complaint} ({})", run.tally);
    }
    Ok(run.tally)
}

/// Runs `cargo test`, without arguments of all crates. Whole-system tests build the programs that they start.
fn run_tests(arguments: &[OsString]) -> anyhow::Result<Run> {
    let mut command = cargo::cargo();
    command.args(["test", "--no-fail-fast"]);
    if arguments.is_empty() {
        command.arg("--workspace");
    }
    command.args(arguments);
    cargo::run_counting(&mut command)
}

type Step<'s> = dyn Fn() -> StepResult + 's;

fn not_a_test_command(words: &[OsString]) -> ExitCode {
    eprintln!(
        "xtask: {words:?} does not begin with `cargo test`: name the command that runs the tests"
    );
    ExitCode::from(2)
}

/// How a step of `ci` went.
struct StepResult {
    tally: Tally,
    problem: Option<String>,
}

impl StepResult {
    fn of(outcome: anyhow::Result<Tally>) -> Self {
        match outcome {
            Ok(tally) => Self {
                tally,
                problem: None,
            },
            Err(error) => Self {
                tally: Tally::default(),
                problem: Some(format!("{error:#}")),
            },
        }
    }

    /// Like `of`, but a failed run still says how many tests it ran.
    fn counted(outcome: anyhow::Result<Run>) -> Self {
        match outcome {
            Ok(run) if run.succeeded => Self {
                tally: run.tally,
                problem: None,
            },
            Ok(run) => Self {
                problem: Some(run.tally.to_string()),
                tally: run.tally,
            },
            Err(error) => Self {
                tally: Tally::default(),
                problem: Some(format!("{error:#}")),
            },
        }
    }
}

/// Runs every step and says at the end how each went and how many tests ran.
///
/// `tests` is the command that runs the tests, as the README has it: `cargo test --workspace`. So who changes one of the two changes both.
pub(crate) fn ci(tests: &[OsString]) -> ExitCode {
    let [cargo, test, arguments @ ..] = tests else {
        return not_a_test_command(tests);
    };
    if cargo != "cargo" || test != "test" {
        return not_a_test_command(tests);
    }
    let run_them = || StepResult::counted(run_tests(arguments));
    let steps: [(&str, &Step<'_>); 6] = [
        ("fmt", &|| StepResult::of(fmt(false))),
        ("clippy", &|| StepResult::of(clippy())),
        ("tidy", &|| StepResult::of(tidy::run())),
        ("test", &run_them),
        ("loom", &|| StepResult::counted(loom::run_models(true))),
        ("simulate", &|| {
            StepResult::counted(simulate::run_mutants(None))
        }),
    ];
    let mut total = Tally::default();
    let mut lines = Vec::new();
    let mut failed = false;
    for (name, step) in steps {
        println!("== {name}");
        let started = Instant::now();
        let result = step();
        total += result.tally;
        let seconds = started.elapsed().as_secs();
        let verdict = match &result.problem {
            None => "ok".to_owned(),
            Some(problem) => {
                failed = true;
                eprintln!("xtask: {name}: {problem}");
                format!("FAILED: {problem}")
            }
        };
        lines.push(format!("{name:<9}{seconds:>5} s  {verdict}"));
    }
    if !total.failures.is_empty() {
        println!("== failures");
    }
    for failure in &total.failures {
        println!("{failure}");
    }
    println!("== summary");
    for line in lines {
        println!("{line}");
    }
    for skip in &total.skips {
        println!("{skip}");
    }
    let lacking = skips::said_to_lack();
    let complaint = match &lacking {
        Ok(lacking) => skips::complaint(&total.skips, lacking),
        Err(error) => Some(format!("{error:#}")),
    };
    if let Some(complaint) = complaint {
        failed = true;
        println!("FAILED: {complaint}");
    }
    println!("{total}");
    if failed || total.failed > 0 {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}
