//! `cargo xtask fuzz`: builds the fuzz targets with libFuzzer and, where the toolchain has it, the address sanitizer, and
//! runs each for some time.
//!
//! A stable toolchain does it: the coverage pass and the sanitizer are reached by `RUSTC_BOOTSTRAP`, for this build
//! alone, in a target folder of its own. What libFuzzer finds new stays in `target/fuzz/corpus/TARGET`; the committed
//! corpus in `tests/fuzz/corpus/TARGET` is only read. An input that breaks a target is kept and named, with the command
//! that replays it.

use crate::cargo::{self, Tally};
use crate::totals::Totals;
use anyhow::{Context, bail};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

/// LIMIT: an input that takes longer counts as a hang.
const INPUT_SECONDS_MAX: u32 = 60;

/// What `cargo xtask fuzz` is asked.
#[derive(Debug, clap::Args)]
pub(crate) struct FuzzArguments {
    /// How long each target runs
    #[arg(long, default_value_t = 60)]
    pub(crate) seconds: u64,
    /// Builds without the address sanitizer: quicker, and finds only panics and hangs
    #[arg(long)]
    pub(crate) no_asan: bool,
    /// Runs one input, for example one that a run before has kept
    #[arg(long, value_name = "FILE")]
    pub(crate) replay: Option<PathBuf>,
    /// The targets; without any, all
    pub(crate) targets: Vec<String>,
}

/// Builds the targets and runs those that are asked for.
pub(crate) fn run(arguments: &FuzzArguments) -> anyhow::Result<Tally> {
    let root = cargo::workspace_root();
    let targets = chosen(&root, &arguments.targets)?;
    let program = build(&root, arguments.no_asan)?;
    if let Some(file) = &arguments.replay {
        let [target] = targets.as_slice() else {
            bail!("--replay needs the one target that the file is for");
        };
        let file = std::path::absolute(file)?;
        cargo::run(fuzzer(&program, target).arg(file))?;
        println!("{target}: the input breaks nothing");
        return Ok(Tally::default());
    }
    let mut tally = Tally::default();
    for target in &targets {
        run_target(&root, &program, target, arguments.seconds)?;
        tally.passed = tally.passed.saturating_add(1);
    }
    Totals::load(&root)?.print();
    Ok(tally)
}

/// A target is a folder of the corpus.
fn chosen(root: &Path, names: &[String]) -> anyhow::Result<Vec<String>> {
    let corpus = root.join("tests/fuzz/corpus");
    let mut all = Vec::new();
    for entry in std::fs::read_dir(&corpus).context("cannot read tests/fuzz/corpus")? {
        all.push(entry?.file_name().to_string_lossy().into_owned());
    }
    all.sort();
    if names.is_empty() {
        return Ok(all);
    }
    for name in names {
        if !all.contains(name) {
            bail!("no target `{name}`: there are {}", all.join(", "));
        }
    }
    Ok(names.to_vec())
}

fn build(root: &Path, no_asan: bool) -> anyhow::Result<PathBuf> {
    let rustc = Rustc::ask()?;
    let mut flags: Vec<String> = [
        "-Cpasses=sancov-module",
        "-Cllvm-args=-sanitizer-coverage-level=4",
        "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
        "-Cllvm-args=-sanitizer-coverage-pc-table",
        "-Cllvm-args=-sanitizer-coverage-trace-compares",
    ]
    .map(str::to_owned)
    .to_vec();
    let asan = !no_asan && rustc.has_asan();
    if asan {
        flags.push("-Zsanitizer=address".to_owned());
    } else {
        println!("fuzz: without the address sanitizer");
    }
    let folder = root
        .join("target/fuzz")
        .join(if asan { "asan" } else { "plain" });
    let mut command = cargo::cargo();
    command
        .args([
            "build",
            "--quiet",
            "--package",
            "qtf-fuzz",
            "--bin",
            "qtf-fuzz",
        ])
        .args(["--features", "libfuzzer", "--target", &rustc.host])
        .arg("--target-dir")
        .arg(&folder)
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"))
        // Checks stay on, and yet a thousand times more inputs are seen than without any optimization.
        .env("CARGO_PROFILE_DEV_OPT_LEVEL", "1")
        .env("CARGO_INCREMENTAL", "0");
    cargo::run(&mut command).context("building the fuzz targets (needs a C++ compiler)")?;
    Ok(folder.join(&rustc.host).join("debug/qtf-fuzz"))
}

/// The compiler, as it tells about itself.
struct Rustc {
    host: String,
    libraries: PathBuf,
}

impl Rustc {
    fn ask() -> anyhow::Result<Self> {
        let text = |argument: &[&str]| -> anyhow::Result<String> {
            let output = Command::new("rustc")
                .args(argument)
                .output()
                .context("cannot start rustc")?;
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        };
        let version = text(&["-vV"])?;
        let host = version
            .lines()
            .find_map(|line| line.strip_prefix("host: "))
            .context("rustc -vV names no host")?
            .to_owned();
        let libraries = text(&["--print", "target-libdir"])?;
        Ok(Self {
            host,
            libraries: libraries.trim().into(),
        })
    }

    /// Whether the runtime of the address sanitizer is there.
    fn has_asan(&self) -> bool {
        let entries = std::fs::read_dir(&self.libraries).into_iter().flatten();
        entries.flatten().any(|entry| {
            let name = entry.file_name();
            name.to_string_lossy().ends_with("_rt.asan.a")
        })
    }
}

fn fuzzer(program: &Path, target: &str) -> Command {
    // libFuzzer's `main` leaves SIGPIPE deadly, and a Rust program starts others with it as it was at first: a shell
    // turns it off.
    let mut command = Command::new("sh");
    command
        .args(["-c", r#"trap "" PIPE; exec "$0" "$@""#])
        .arg(program)
        .env("QTF_FUZZ_TARGET", target)
        // The stack of a panic is in the log.
        .env("RUST_BACKTRACE", "1")
        // What a daemon of this process keeps for its life is no leak.
        .env("ASAN_OPTIONS", "detect_leaks=0")
        .arg(format!("-timeout={INPUT_SECONDS_MAX}"))
        .arg("-rss_limit_mb=4096")
        .arg("-detect_leaks=0");
    command
}

fn run_target(root: &Path, program: &Path, target: &str, seconds: u64) -> anyhow::Result<()> {
    let place = root.join("target/fuzz");
    let found = place.join("corpus").join(target);
    let broken = place.join("broken");
    std::fs::create_dir_all(&found)?;
    std::fs::create_dir_all(&broken)?;
    let log = place.join(format!("{target}.log"));
    let started = Instant::now();
    let mut command = fuzzer(program, target);
    command
        .arg(format!("-max_total_time={seconds}"))
        .arg("-print_final_stats=1")
        .arg(format!("-artifact_prefix={}/{target}-", broken.display()))
        .arg(&found)
        .arg(root.join("tests/fuzz/corpus").join(target))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(std::fs::File::create(&log).context("cannot make the log")?);
    let status = command
        .status()
        .with_context(|| format!("cannot start {}", program.display()))?;
    let text = std::fs::read(&log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let runs = stat(&text, "stat::number_of_executed_units:");
    if !status.success() {
        let kept = text
            .lines()
            .find_map(|line| line.split_once("Test unit written to "))
            .map_or("(no input was kept)", |(_, file)| file);
        let lines: Vec<&str> = text.lines().collect();
        for line in lines.iter().skip(lines.len().saturating_sub(60)) {
            println!("{line}");
        }
        bail!(
            "{target}: {status}; whole log in {}; replay with `cargo xtask fuzz {target} --replay {kept}`",
            log.display()
        );
    }
    let took = started.elapsed().as_secs();
    println!("fuzz: {target}: {runs} inputs in {took} s, nothing broken");
    let mut totals = Totals::load(root)?;
    totals.add(&format!("fuzz {target}, inputs"), runs);
    totals.add(&format!("fuzz {target}, seconds"), took);
    totals.save()
}

fn stat(log: &str, name: &str) -> u64 {
    let line = log.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|value| value.trim().parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn executed_inputs_are_read_from_the_log() {
        let log =
            "#2 INITED\nDone 5 runs\nstat::number_of_executed_units: 1234\nstat::peak_rss_mb: 5\n";
        assert_eq!(stat(log, "stat::number_of_executed_units:"), 1234);
        assert_eq!(stat(log, "stat::nothing:"), 0);
    }

    #[test]
    fn unknown_target_is_refused_with_the_known_ones() {
        let root = cargo::workspace_root();
        let error = chosen(&root, &["nonsense".to_owned()])
            .unwrap_err()
            .to_string();
        assert!(error.contains("segment"), "{error}");
        assert!(chosen(&root, &[]).unwrap().len() > 3);
    }
}
