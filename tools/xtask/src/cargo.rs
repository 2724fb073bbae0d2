//! Runs cargo, passes its output on and counts the tests that it reports.
//!
//! Tested by the unit tests at the end.

use crate::failures::{Failure, Failures};
use crate::skips::{self, Skip};
use anyhow::{Context, bail};
use std::fmt;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// How many tests ran, and how they ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    /// Tests that did not run, or not in full; none of them counts as passed.
    pub(crate) skips: Vec<Skip>,
    /// What the failed ones said.
    pub(crate) failures: Vec<Failure>,
}

impl Tally {
    /// Whether any test ran at all.
    pub(crate) fn counted(&self) -> bool {
        self.passed > 0 || self.failed > 0 || !self.skips.is_empty()
    }

    /// Adds what one line of `cargo test` says, if it is a summary line or names an ignored test.
    fn read_line(&mut self, line: &str) {
        self.skips.extend(skips::read_ignored(line));
        let Some(summary) = line.trim_start().strip_prefix("test result:") else {
            return;
        };
        let count_before = |word: &str| {
            let words: Vec<&str> = summary.split([' ', ';', '.']).collect();
            words
                .windows(2)
                .find(|pair| pair.get(1) == Some(&word))
                .and_then(|pair| pair.first()?.parse::<u64>().ok())
                .unwrap_or(0)
        };
        self.passed = self.passed.saturating_add(count_before("passed"));
        self.failed = self.failed.saturating_add(count_before("failed"));
    }

    /// Adds tests that said that the machine lacks something; the runner counted them as passed.
    fn add_lacking(&mut self, lacking: Vec<Skip>) {
        self.passed = self.passed.saturating_sub(skips::tests_of(&lacking));
        self.skips.extend(lacking);
    }
}

impl std::ops::AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.passed = self.passed.saturating_add(other.passed);
        self.failed = self.failed.saturating_add(other.failed);
        self.skips.extend(other.skips);
        self.failures.extend(other.failures);
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let skipped = skips::tests_of(&self.skips);
        write!(
            f,
            "{} passed, {} failed, {skipped} skipped",
            self.passed, self.failed
        )
    }
}

/// One run of a command that printed its output as it came.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) succeeded: bool,
    pub(crate) tally: Tally,
}

/// The folder of the workspace, two above this crate.
pub(crate) fn workspace_root() -> PathBuf {
    // `cargo run` says where the crate lies now; built-in is where it lay when it was compiled.
    let folder = std::env::var_os("CARGO_MANIFEST_DIR");
    let mut root = folder.map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from);
    root.pop();
    root.pop();
    root
}

/// A cargo command in the workspace's folder; the caller adds arguments.
pub(crate) fn cargo() -> Command {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(program);
    command.current_dir(workspace_root());
    command
}

/// Runs `command`, passes its standard output on line by line and counts tests on the way.
pub(crate) fn run_counting(command: &mut Command) -> anyhow::Result<Run> {
    let collected = skips::Collected::of(command)?;
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {}", show(command)))?;
    let mut tally = Tally::default();
    let mut failures = Failures::default();
    if let Some(stdout) = child.stdout.take() {
        let mut out = std::io::stdout().lock();
        for line in BufReader::new(stdout).split(b'\n') {
            let line = line.context("cannot read what the command prints")?;
            let text = String::from_utf8_lossy(&line);
            tally.read_line(&text);
            failures.read_line(&text);
            out.write_all(&line)?;
            out.write_all(b"\n")?;
        }
    }
    let status = child
        .wait()
        .with_context(|| format!("cannot wait for {}", show(command)))?;
    tally.add_lacking(collected.take()?);
    tally.failures = failures.into_found();
    Ok(Run {
        succeeded: status.success(),
        tally,
    })
}

/// Runs `command` and fails if it fails.
pub(crate) fn run(command: &mut Command) -> anyhow::Result<()> {
    let status = command
        .stdin(Stdio::null())
        .status()
        .with_context(|| format!("cannot start {}", show(command)))?;
    if !status.success() {
        bail!("{} ended with {status}", show(command));
    }
    Ok(())
}

/// The command as a person would type it.
pub(crate) fn show(command: &Command) -> String {
    let mut text = command.get_program().to_string_lossy().into_owned();
    for argument in command.get_args() {
        text.push(' ');
        text.push_str(&argument.to_string_lossy());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summary_lines_are_counted_and_other_lines_are_not() {
        let mut tally = Tally::default();
        for line in [
            "running 3 tests",
            "test a ... ok",
            "test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.01s",
            "test result: FAILED. 3 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.01s",
            "something about a test result: 7 passed",
        ] {
            tally.read_line(line);
        }
        assert_eq!(
            tally,
            Tally {
                passed: 15,
                failed: 2,
                ..Tally::default()
            }
        );
        assert_eq!(tally.to_string(), "15 passed, 2 failed, 0 skipped");
    }

    #[test]
    fn skipped_tests_are_counted_apart_and_not_as_passed() {
        let mut tally = Tally::default();
        tally.read_line("test soak ... ignored, takes long");
        tally.read_line(
            "test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out",
        );
        let lacking = Skip {
            test: "a".to_owned(),
            cause: skips::Cause::Lacking {
                need: "strace".to_owned(),
                why: String::new(),
            },
        };
        tally.add_lacking(vec![lacking]);
        assert_eq!(tally.to_string(), "11 passed, 0 failed, 2 skipped");
    }
}
