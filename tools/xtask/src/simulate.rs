//! Runs the seeded simulation of the engine, and proves that it notices bugs; and that the model of the daemon's watches does.
//!
//! Bugs are planted in the sources as `cfg!(qtf_mutant = "sim_...")`, which is false in every build but one of this program's.
//! With `--mutants` each of them is built, and the simulation must fail. `engine/tests/simulation/mutants.txt` lists them; the list must
//! agree with the sources. How a mutant is built: see `loom.rs`, which does the same.

use crate::cargo::{self, Run, Tally};
use crate::loom;
use crate::verdict;
use anyhow::{Context, bail};
use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

/// The planted bugs.
const LIST: &str = "engine/tests/simulation/mutants.txt";
/// Where they are planted.
const FOLDERS: [&str; 4] = ["shm/src", "journal/src", "engine/src", "daemon/src"];
/// How all of them begin.
const PREFIX: &str = "sim_";
/// Seeds of each kind that a mutant gets; most are noticed in the first.
const SEEDS_OF_MUTANT: &str = "60";
const SEEDS_VARIABLE: &str = "QTF_SIM_SEEDS";
/// Makes the other tests stop when one has failed.
const FIRST_FAILURE_VARIABLE: &str = "QTF_SIM_FIRST_FAILURE";
/// The tests of the engine's worlds.
const SIMULATION: &[&str] = &["--package", "qtf-engine", "--test", "simulation"];

/// What notices a mutant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct World {
    /// As the list names it.
    name: &'static str,
    /// The tests that run it, as cargo is told.
    tests: &'static [&'static str],
    /// Of these, those whose names contain this.
    filter: &'static str,
}

const WORLDS: [World; 4] = [
    World {
        name: "journal",
        tests: SIMULATION,
        filter: "what_was_told",
    },
    World {
        name: "ages",
        tests: SIMULATION,
        filter: "what_was_told_holds_over_the_ages",
    },
    World {
        name: "links",
        tests: SIMULATION,
        filter: "every_task",
    },
    World {
        name: "watches",
        tests: &["--package", "qtf-daemon", "--lib"],
        filter: "watches::",
    },
];

/// Runs the simulation, with `seeds` worlds of each kind if given.
pub(crate) fn run(seeds: Option<u64>, mutants: bool, only: Option<&str>) -> anyhow::Result<Tally> {
    let root = cargo::workspace_root();
    let mut command = tests_of_world(&root, SIMULATION, &[]);
    if let Some(seeds) = seeds {
        command.env(SEEDS_VARIABLE, seeds.to_string());
    }
    let mut total = match only {
        None => cargo::run_counting(&mut command)?,
        Some(_) => Run {
            tally: Tally::default(),
            succeeded: true,
        },
    };
    if (mutants || only.is_some()) && total.succeeded {
        let of_mutants = run_mutants(only)?;
        total.tally += of_mutants.tally;
        total.succeeded &= of_mutants.succeeded;
    }
    if !total.succeeded {
        bail!("the simulation or a mutant failed: {}", total.tally);
    }
    Ok(total.tally)
}

/// Builds each mutant, or those whose names contain `only`; one that is noticed counts as passed, a survivor as failed.
pub(crate) fn run_mutants(only: Option<&str>) -> anyhow::Result<Run> {
    let root = cargo::workspace_root();
    let mut total = Run {
        tally: Tally::default(),
        succeeded: true,
    };
    let mut mutants = listed_mutants(&root)?;
    mutants.retain(|name| only.is_none_or(|only| name.contains(only)));
    if mutants.is_empty() {
        bail!("{LIST} has no such mutant");
    }
    for mutant in mutants {
        let survived = run_mutant(&root, &mutant)?;
        total.tally += Tally {
            passed: u64::from(!survived),
            failed: u64::from(survived),
            ..Tally::default()
        };
        total.succeeded &= !survived;
    }
    Ok(total)
}

fn run_mutant(root: &Path, mutant: &str) -> anyhow::Result<bool> {
    let started = Instant::now();
    let world = world_of(root, mutant)?;
    let mut command = tests_of_world(root, world.tests, &[world.filter]);
    command
        .env(SEEDS_VARIABLE, SEEDS_OF_MUTANT)
        .env(FIRST_FAILURE_VARIABLE, "1")
        .env("RUSTC_WORKSPACE_WRAPPER", loom::wrapper_for(root, mutant)?)
        .env(loom::MUTANT_VARIABLE, mutant)
        .stdin(Stdio::null());
    let output = command
        .output()
        .with_context(|| format!("cannot start {}", cargo::show(&command)))?;
    let survived = verdict::survived(mutant, &output)?;
    let verdict = if survived { "SURVIVED" } else { "caught" };
    let text = String::from_utf8_lossy(&output.stdout);
    println!(
        "mutant {mutant} ... {verdict} ({} s){}",
        started.elapsed().as_secs(),
        first_complaint(&text).map_or(String::new(), |line| format!(": {line}"))
    );
    Ok(survived)
}

/// What the first failing world says; a test that stops because another one has failed says nothing.
fn first_complaint(output: &str) -> Option<&str> {
    let behind = output.lines().skip(1);
    let mut lines = output.lines().zip(behind);
    let is_one = |(place, what): &(&str, &str)| {
        place.contains("panicked at") && !what.contains("another run has failed")
    };
    lines.find(is_one).map(|(_, what)| what)
}

/// `cargo test` of these tests, of those whose names contain one of `filters`.
fn tests_of_world(root: &Path, tests: &[&str], filters: &[&str]) -> Command {
    let mut command = cargo::cargo();
    command
        .env("CARGO_TARGET_DIR", root.join("target/simulate"))
        // A dozen builds lie side by side: without what only a debugger needs they take a tenth of the room.
        .env("CARGO_INCREMENTAL", "0")
        .env("CARGO_PROFILE_DEV_DEBUG", "0")
        .args(["test", "--quiet"])
        .args(tests)
        .arg("--")
        .args(filters);
    command
}

fn listed_mutants(root: &Path) -> anyhow::Result<Vec<String>> {
    let text = std::fs::read_to_string(root.join(LIST)).with_context(|| format!("no {LIST}"))?;
    let listed = parse_list(&text);
    let mut planted = BTreeSet::new();
    for folder in FOLDERS {
        planted.extend(loom::names_below(&root.join(folder))?);
    }
    planted.retain(|name| name.starts_with(PREFIX));
    let problems = disagreements(&listed, &planted);
    if !problems.is_empty() {
        bail!("{LIST}: {}", problems.join("; "));
    }
    Ok(listed)
}

/// What is to notice a mutant: by the second word of its line.
fn world_of(root: &Path, mutant: &str) -> anyhow::Result<World> {
    let text = std::fs::read_to_string(root.join(LIST)).with_context(|| format!("no {LIST}"))?;
    world_in(&text, mutant).with_context(|| {
        format!("{LIST}: {mutant} does not say whether journal, ages, links or watches")
    })
}

fn world_in(text: &str, mutant: &str) -> Option<World> {
    let line = text
        .lines()
        .find(|line| line.split_whitespace().next() == Some(mutant))?;
    let world = line.split_whitespace().nth(1)?;
    WORLDS.into_iter().find(|one| one.name == world)
}

/// The first word of each line; `#` starts a comment.
fn parse_list(text: &str) -> Vec<String> {
    text.lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split_whitespace().next())
        .map(str::to_owned)
        .collect()
}

fn disagreements(listed: &[String], planted: &BTreeSet<String>) -> Vec<String> {
    let unlisted = planted
        .iter()
        .filter(|name| !listed.contains(name))
        .map(|name| format!("the mutant {name} is not listed"));
    let unplanted = listed
        .iter()
        .filter(|name| !planted.contains(*name))
        .map(|name| format!("no source has the mutant {name}"));
    unlisted.chain(unplanted).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn list_must_agree_with_the_sources() {
        let listed = parse_list("# why\nsim_a  leaves out\n\nsim_b x\n");
        assert_eq!(listed, ["sim_a", "sim_b"]);
        let planted = BTreeSet::from(["sim_a".to_owned(), "sim_c".to_owned()]);
        assert_eq!(disagreements(&listed, &planted).len(), 2);
    }

    #[test]
    fn list_of_this_repository_agrees() {
        let root = cargo::workspace_root();
        let listed = listed_mutants(&root).unwrap();
        assert!(listed.len() >= 6);
        assert!(listed.iter().all(|name| world_of(&root, name).is_ok()));
    }

    #[test]
    fn second_word_says_which_tests_are_to_notice_a_mutant() {
        let text = "# why\nsim_a  links  leaves out\nsim_b what\n";
        let noticed_by = world_in(text, "sim_a").map(|world| world.filter);
        assert_eq!(noticed_by, Some("every_task"));
        assert_eq!(world_in(text, "sim_b"), None);
    }

    #[test]
    fn first_complaint_is_the_line_behind_the_place() {
        let output = "x\nthread 'a' panicked at b.rs:1:2:\nit is lost\nmore\n";
        assert_eq!(first_complaint(output), Some("it is lost"));
        let output =
            "x panicked at b.rs:1:2:\nanother run has failed\ny panicked at c.rs:1:2:\nz\n";
        assert_eq!(first_complaint(output), Some("z"));
        assert_eq!(first_complaint("fine"), None);
    }
}
