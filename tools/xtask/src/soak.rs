//! `cargo xtask soak`: the proofs of docs/GUARANTEE.md for as long as one likes, with other seeds each time.
//!
//! Each part is a test that takes its seed from `QTF_SEED` and says in lines `soak: 12 kills, 2000 tasks, seed 5` what it
//! did; numbers before words are added up, over all runs so far, in `target/soak-totals.json`. The first failure ends
//! it, and the command that repeats it is printed. A part takes its own time; `--minutes` says when no further one begins.
//! Tested at the end of this file.

use crate::cargo::{self, Tally};
use crate::fuzz::{self, FuzzArguments};
use crate::totals::Totals;
use anyhow::{Context, bail};
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

/// What `cargo xtask soak` is asked.
#[derive(Debug, clap::Args)]
pub(crate) struct SoakArguments {
    /// How long to go on; a part that has begun is ended
    #[arg(long, default_value_t = 60)]
    pub(crate) minutes: u64,
    /// Ends it also when so many processes were killed
    #[arg(long)]
    pub(crate) kills: Option<u64>,
    /// First seed; each round takes others [default: from the clock]
    #[arg(long)]
    pub(crate) seed: Option<u64>,
    /// Only prints the totals of all runs so far
    #[arg(long)]
    pub(crate) totals: bool,
    /// The parts; without any, all
    pub(crate) parts: Vec<String>,
}

/// One test that is run again and again.
struct Part {
    name: &'static str,
    /// Arguments of `cargo test`.
    test: &'static [&'static str],
    /// Variables that make it as large as a soak run is.
    environment: &'static [(&'static str, &'static str)],
}

const PARTS: [Part; 5] = [
    Part {
        name: "segment",
        test: &["-p", "qtf-shm", "--lib", "torture_soak"],
        environment: &[("QTF_KILLS", "20000")],
    },
    Part {
        name: "system",
        // Several small systems side by side: each of them mostly waits.
        test: &["--release", "-p", "qtf-tests", "--test", "kills"],
        environment: &[
            ("QTF_TASKS", "4000"),
            ("QTF_PAUSE_MS", "150"),
            ("QTF_VICTIMS", "3"),
            ("QTF_SYSTEMS", "3"),
        ],
    },
    Part {
        name: "simulation",
        test: &["-p", "qtf-engine", "--test", "simulation", "what_was_told"],
        environment: &[("QTF_SIM_SEEDS", "500")],
    },
    Part {
        name: "flips",
        test: &["-p", "qtf-journal", "--test", "journal", "damage"],
        environment: &[],
    },
    Part {
        name: "disk",
        test: &["-p", "qtf-daemon", "--test", "daemon", "full_disk"],
        environment: &[],
    },
];

/// The part that is no test.
const FUZZ: &str = "fuzz";
/// From round to round: more than a part uses seeds in one of its runs, which count on from the first.
const SEED_STRIDE: u64 = 10_000;
/// How long each fuzz target runs in one round.
const FUZZ_SECONDS: u64 = 60;

/// Runs parts in turn until the time is over.
pub(crate) fn run(arguments: &SoakArguments) -> anyhow::Result<Tally> {
    let root = cargo::workspace_root();
    if arguments.totals {
        Totals::load(&root)?.print();
        return Ok(Tally::default());
    }
    let chosen = chosen(&arguments.parts)?;
    let until = Instant::now() + Duration::from_secs(arguments.minutes.saturating_mul(60));
    let mut seed = arguments.seed.unwrap_or_else(seed_of_clock);
    let mut tally = Tally::default();
    let mut kills = 0_u64;
    loop {
        for name in &chosen {
            match PARTS.iter().find(|part| part.name == *name) {
                Some(part) => kills = kills.saturating_add(run_part(part, seed)?),
                None => run_fuzz()?,
            }
            tally.passed = tally.passed.saturating_add(1);
            let is_enough = arguments.kills.is_some_and(|wanted| kills >= wanted);
            if is_enough || Instant::now() >= until {
                Totals::load(&root)?.print();
                return Ok(tally);
            }
        }
        seed = seed.wrapping_add(SEED_STRIDE);
    }
}

fn seed_of_clock() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(1, |since| since.as_secs())
}

fn chosen(names: &[String]) -> anyhow::Result<Vec<String>> {
    let mut all: Vec<String> = PARTS.iter().map(|part| part.name.to_owned()).collect();
    all.push(FUZZ.to_owned());
    if names.is_empty() {
        return Ok(all);
    }
    for name in names {
        if !all.contains(name) {
            bail!("no part `{name}`: there are {}", all.join(", "));
        }
    }
    Ok(names.to_vec())
}

fn run_fuzz() -> anyhow::Result<()> {
    let arguments = FuzzArguments {
        seconds: FUZZ_SECONDS,
        no_asan: false,
        replay: None,
        targets: Vec::new(),
    };
    fuzz::run(&arguments).map(|_| ())
}

fn command_of(part: &Part, seed: u64) -> Command {
    let mut command = cargo::cargo();
    command
        .args(["test", "--quiet"])
        .args(part.test)
        .args([
            "--",
            "--include-ignored",
            "--nocapture",
            "--test-threads",
            "1",
        ])
        .env("QTF_SEED", seed.to_string())
        .envs(part.environment.iter().copied());
    command
}

/// The command for a shell.
fn replay_of(part: &Part, seed: u64) -> String {
    let mut text = format!("QTF_SEED={seed} ");
    for (name, value) in part.environment {
        text.push_str(&format!("{name}={value} "));
    }
    text.push_str(&format!(
        "cargo test {} -- --include-ignored --nocapture --test-threads 1",
        part.test.join(" ")
    ));
    text
}

/// Returns how many processes were killed.
fn run_part(part: &Part, seed: u64) -> anyhow::Result<u64> {
    println!("soak: {} with seed {seed}", part.name);
    let started = Instant::now();
    let mut command = command_of(part, seed);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {}", cargo::show(&command)))?;
    let mut counts = Vec::new();
    if let Some(stdout) = child.stdout.take() {
        for line in BufReader::new(stdout).split(b'\n') {
            let line = line.context("cannot read what the test prints")?;
            let line = String::from_utf8_lossy(&line).into_owned();
            println!("{line}");
            counts.extend(counts_of(&line));
        }
    }
    let status = child.wait()?;
    if !status.success() {
        bail!(
            "{}: {status}; again with\n  {}",
            part.name,
            replay_of(part, seed)
        );
    }
    let mut totals = Totals::load(&cargo::workspace_root())?;
    let mut kills = 0_u64;
    for (name, count) in counts {
        if name == "kills" {
            kills = kills.saturating_add(count);
        }
        totals.add(&format!("{}, {name}", part.name), count);
    }
    totals.add(&format!("{}, runs", part.name), 1);
    totals.add(
        &format!("{}, seconds", part.name),
        started.elapsed().as_secs(),
    );
    totals.save()?;
    Ok(kills)
}

/// What a line says that can be added up.
fn counts_of(line: &str) -> Vec<(String, u64)> {
    // The runner of tests may have put the name of a test before it.
    let Some((_, said)) = line.split_once("soak: ") else {
        return Vec::new();
    };
    let parts = said.split(", ").filter_map(|part| {
        let (number, name) = part.trim().split_once(' ')?;
        Some((name.to_owned(), number.parse().ok()?))
    });
    parts.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_before_words_are_added_up_and_others_are_not() {
        assert_eq!(
            counts_of("test a ... soak: 12 kills, 2000 tasks done, seed 5, cold true"),
            [("kills".to_owned(), 12), ("tasks done".to_owned(), 2_000)]
        );
        assert_eq!(counts_of("12 kills"), []);
    }

    #[test]
    fn replay_says_seed_and_size() {
        let text = replay_of(&PARTS[1], 7);
        assert!(
            text.starts_with("QTF_SEED=7 QTF_TASKS=4000 QTF_PAUSE_MS=150 "),
            "{text}"
        );
        assert!(
            text.contains(" cargo test --release -p qtf-tests --test kills -- "),
            "{text}"
        );
    }

    #[test]
    fn unknown_part_is_refused_with_the_known_ones() {
        let error = chosen(&["nonsense".to_owned()]).unwrap_err().to_string();
        assert!(
            error.contains("system") && error.contains("fuzz"),
            "{error}"
        );
    }
}
