//! Tests that did not run: those that found the machine lacking something, and those that are ignored.
//!
//! The first say so in a file (see `qtf-needs`), the second in the output of the test runner. Each is named in the last lines of a
//! run. A test that the machine lacks something for fails the run unless `QTF_LACKS` names the thing; an ignored one does unless it has a
//! reason. Tested at the end of this file.

use anyhow::{Context, bail};
use qtf_needs::{LACKS_VARIABLE, Need, SKIPS_VARIABLE};
use std::fmt;
use std::path::PathBuf;
use std::process::Command;

use crate::cargo::workspace_root;

/// A test that did not run, or not in full.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Skip {
    pub(crate) test: String,
    pub(crate) cause: Cause,
}

/// Why it did not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    /// The machine lacks something: its word, and what the test says.
    Lacking { need: String, why: String },
    /// `#[ignore]`, with its reason.
    Ignored { reason: String },
}

impl fmt::Display for Skip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.cause {
            Cause::Lacking { need, why } => write!(f, "skipped: {}: no {need}: {why}", self.test),
            Cause::Ignored { reason } if reason.is_empty() => {
                write!(f, "skipped: {}: ignored without a reason", self.test)
            }
            Cause::Ignored { reason } => write!(f, "skipped: {}: ignored: {reason}", self.test),
        }
    }
}

/// Reads `test NAME ... ignored, REASON`, as the test runner prints it.
pub(crate) fn read_ignored(line: &str) -> Option<Skip> {
    let (test, verdict) = line.strip_prefix("test ")?.split_once(" ... ")?;
    let rest = verdict.strip_prefix("ignored")?;
    let reason = match rest.strip_prefix(", ") {
        Some(reason) => reason.trim(),
        None if rest.trim().is_empty() => "",
        None => return None,
    };
    Some(Skip {
        test: test.to_owned(),
        cause: Cause::Ignored {
            reason: reason.to_owned(),
        },
    })
}

/// The file that the tests of one run write to.
#[derive(Debug)]
pub(crate) struct Collected {
    file: PathBuf,
}

impl Collected {
    /// Begins with nothing, and tells the tests of `command` where to write.
    pub(crate) fn of(command: &mut Command) -> anyhow::Result<Self> {
        let file = workspace_root()
            .join("target")
            .join(format!("skips-{}.txt", std::process::id()));
        if let Some(folder) = file.parent() {
            std::fs::create_dir_all(folder)?;
        }
        std::fs::write(&file, "").with_context(|| format!("cannot write {}", file.display()))?;
        command.env(SKIPS_VARIABLE, &file);
        Ok(Self { file })
    }

    /// What was written, each test and need once; the file goes.
    pub(crate) fn take(self) -> anyhow::Result<Vec<Skip>> {
        let text = std::fs::read_to_string(&self.file)
            .with_context(|| format!("cannot read {}", self.file.display()))?;
        std::fs::remove_file(&self.file)?;
        parse(&text)
    }
}

fn parse(text: &str) -> anyhow::Result<Vec<Skip>> {
    let mut skips: Vec<Skip> = Vec::new();
    for line in text.lines() {
        let mut parts = line.splitn(3, '\t');
        let (Some(need), Some(test), Some(why)) = (parts.next(), parts.next(), parts.next()) else {
            bail!("not a line of need, test and reason: {line:?}");
        };
        let is_there = skips.iter().any(|skip| {
            skip.test == test
                && matches!(&skip.cause, Cause::Lacking { need: other, .. } if other == need)
        });
        if !is_there {
            skips.push(Skip {
                test: test.to_owned(),
                cause: Cause::Lacking {
                    need: need.to_owned(),
                    why: why.to_owned(),
                },
            });
        }
    }
    Ok(skips)
}

/// How many tests these are: one that lacks two things is one.
pub(crate) fn tests_of(skips: &[Skip]) -> u64 {
    let mut names: Vec<&str> = skips.iter().map(|skip| skip.test.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    u64::try_from(names.len()).unwrap_or(u64::MAX)
}

/// What the machine is said to lack: `QTF_LACKS`, checked.
pub(crate) fn said_to_lack() -> anyhow::Result<Vec<String>> {
    match std::env::var(LACKS_VARIABLE) {
        Ok(text) => read_lacks(&text),
        Err(std::env::VarError::NotPresent) => Ok(Vec::new()),
        Err(error) => Err(error).context(LACKS_VARIABLE),
    }
}

fn read_lacks(text: &str) -> anyhow::Result<Vec<String>> {
    let words = text
        .split(',')
        .map(str::trim)
        .filter(|word| !word.is_empty());
    words
        .map(|word| {
            if Need::ALL.iter().any(|need| need.word() == word) {
                return Ok(word.to_owned());
            }
            let known: Vec<&str> = Need::ALL.iter().map(|need| need.word()).collect();
            bail!(
                "{LACKS_VARIABLE} = {text:?}: no test needs `{word}`; there are {}",
                known.join(", ")
            )
        })
        .collect()
}

/// Why the run fails because of them, if it does.
pub(crate) fn complaint(skips: &[Skip], lacking: &[String]) -> Option<String> {
    let mut missing: Vec<&str> = Vec::new();
    let mut without_reason = Vec::new();
    for skip in skips {
        match &skip.cause {
            Cause::Lacking { need, .. } if lacking.contains(need) => {}
            Cause::Lacking { need, .. } if missing.contains(&need.as_str()) => {}
            Cause::Lacking { need, .. } => missing.push(need),
            Cause::Ignored { reason } if reason.is_empty() => {
                without_reason.push(skip.test.as_str());
            }
            Cause::Ignored { .. } => {}
        }
    }
    let mut complaints = Vec::new();
    if !missing.is_empty() {
        let missing = missing.join(",");
        complaints.push(format!(
            "tests were skipped for want of {missing}: provide it, or say that this machine lacks it: {LACKS_VARIABLE}={missing}"
        ));
    }
    if !without_reason.is_empty() {
        complaints.push(format!(
            "ignored without a reason: {}: `#[ignore = \"why\"]`",
            without_reason.join(", ")
        ));
    }
    (!complaints.is_empty()).then(|| complaints.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lacking(test: &str, need: &str) -> Skip {
        Skip {
            test: test.to_owned(),
            cause: Cause::Lacking {
                need: need.to_owned(),
                why: "not here".to_owned(),
            },
        }
    }

    #[test]
    fn skip_fails_the_run_unless_the_machine_is_said_to_lack_the_thing() {
        let skips =
            parse("strace\ta::b\tnot here\nmount\tc\tnot here\nstrace\ta::b\tagain\n").unwrap();
        assert_eq!(skips, [lacking("a::b", "strace"), lacking("c", "mount")]);
        assert_eq!(skips[0].to_string(), "skipped: a::b: no strace: not here");
        let complaint_of = |text: &str| complaint(&skips, &read_lacks(text).unwrap());
        assert!(complaint_of("").unwrap().contains("QTF_LACKS=strace,mount"));
        assert!(complaint_of("mount").unwrap().contains("QTF_LACKS=strace"));
        assert_eq!(complaint_of("mount, strace"), None);
        assert_eq!(complaint(&[], &[]), None);
    }

    #[test]
    fn ignored_test_is_named_and_needs_a_reason() {
        let with = read_ignored("test a::b ... ignored, takes long: for soaks").unwrap();
        assert_eq!(
            with.to_string(),
            "skipped: a::b: ignored: takes long: for soaks"
        );
        assert_eq!(complaint(&[with], &[]), None);
        let without = read_ignored("test src/lib.rs - f (line 3) ... ignored").unwrap();
        assert!(complaint(&[without], &[]).unwrap().contains("f (line 3)"));
        for other in [
            "test a ... ok",
            "test ignored ... FAILED",
            "x test a ... ignored",
            "test a ... ignoredness",
        ] {
            assert_eq!(read_ignored(other), None, "{other}");
        }
    }

    #[test]
    fn thing_that_no_test_needs_is_refused_with_the_known_ones() {
        let error = read_lacks("strace,mercury").unwrap_err().to_string();
        assert!(
            error.contains("mercury") && error.contains("io_uring"),
            "{error}"
        );
    }

    #[test]
    fn test_that_lacks_two_things_is_one_test() {
        let skips = [
            lacking("a", "strace"),
            lacking("a", "mount"),
            lacking("b", "mount"),
        ];
        assert_eq!(tests_of(&skips), 2);
    }
}
