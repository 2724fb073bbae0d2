//! Model checks: builds `shm/tests/loom_*.rs` with loom's atomics and runs them; with mutants, also
//! proves that the models can fail.
//!
//! A mutant is a place in `shm/src` under `cfg(qtf_mutant = "name")` that leaves out or weakens what a
//! model is there to protect. `shm/tests/loom_mutants.txt` says which model must then fail, one line each:
//! the mutant, the model, and what is left out. A mutant that the list lacks, or a listed one that is not
//! there, is an error.
//!
//! Only our own crate is built again for a mutant, not what it depends on: the cfg is added by this
//! program standing in for the compiler (`RUSTC_WORKSPACE_WRAPPER`), under another path for each
//! mutant, because cargo tells such builds apart by that path.

use crate::cargo::{self, Run, Tally};
use crate::verdict;
use anyhow::{Context, bail};
use std::collections::BTreeSet;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// The copy of this program among the mutants' wrappers; no mutant has such a name.
const PROGRAM: &str = ".xtask";

/// Tells a process of this program, started by cargo in the compiler's place, which mutant to build.
pub(crate) const MUTANT_VARIABLE: &str = "QTF_XTASK_MUTANT";

/// Which model must notice which mutant.
pub(crate) const LIST: &str = "shm/tests/loom_mutants.txt";

/// When cargo started this process in the compiler's place, runs the compiler with the mutant's cfg.
pub(crate) fn act_as_compiler() -> Option<ExitCode> {
    let mutant = std::env::var(MUTANT_VARIABLE).ok()?;
    let mut arguments = std::env::args_os().skip(1);
    let compiler = arguments.next()?;
    let error = Command::new(&compiler)
        .args(arguments)
        .args(["--cfg", &format!("qtf_mutant=\"{mutant}\"")])
        .env_remove(MUTANT_VARIABLE)
        .exec();
    eprintln!("xtask: cannot start {}: {error}", compiler.display());
    Some(ExitCode::FAILURE)
}

/// Runs the models, and fails if one fails or a mutant survives.
pub(crate) fn run(mutants: bool) -> anyhow::Result<Tally> {
    let run = run_models(mutants)?;
    if !run.succeeded {
        bail!("models or mutants failed: {}", run.tally);
    }
    Ok(run.tally)
}

/// Runs the models; with `mutants`, each mutant that is caught counts as passed and each survivor as
/// failed.
pub(crate) fn run_models(mutants: bool) -> anyhow::Result<Run> {
    let root = cargo::workspace_root();
    let models = model_names(&root.join("shm/tests"))?;
    if models.is_empty() {
        bail!("shm/tests has no loom_*.rs: a model check without a model proves nothing");
    }
    let mut total = cargo::run_counting(&mut model_command(&root, &models))?;
    if mutants && total.succeeded {
        for mutant in &listed_mutants(&root, &models)? {
            let survived = run_mutant(&root, mutant)?;
            total.tally += Tally {
                passed: u64::from(!survived),
                failed: u64::from(survived),
                ..Tally::default()
            };
            total.succeeded &= !survived;
        }
    }
    Ok(total)
}

/// One line of the list.
#[derive(Debug, PartialEq, Eq)]
struct Mutant {
    name: String,
    model: String,
}

/// Runs the model of one mutant; true when the model did not notice it.
fn run_mutant(root: &Path, mutant: &Mutant) -> anyhow::Result<bool> {
    let started = Instant::now();
    let mut command = model_command(root, std::slice::from_ref(&mutant.model));
    command
        .env("RUSTC_WORKSPACE_WRAPPER", wrapper_for(root, &mutant.name)?)
        .env(MUTANT_VARIABLE, &mutant.name)
        .stdin(Stdio::null());
    let output = command
        .output()
        .with_context(|| format!("cannot start {}", cargo::show(&command)))?;
    let survived = verdict::survived(&mutant.name, &output)?;
    let verdict = if survived { "SURVIVED" } else { "caught" };
    let seconds = started.elapsed().as_secs();
    println!(
        "mutant {} ... {verdict} by {} ({seconds} s)",
        mutant.name, mutant.model
    );
    Ok(survived)
}

/// This very program, at a path where it stays: tests build it again while it runs, and what lies at its own path then is another file.
fn copy_of_this_program(folder: &Path) -> anyhow::Result<PathBuf> {
    static MADE: Mutex<Option<PathBuf>> = Mutex::new(None);
    let mut made = MADE.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(copy) = &*made
        && copy.starts_with(folder)
    {
        return Ok(copy.clone());
    }
    let (copy, part) = (folder.join(PROGRAM), folder.join(format!("{PROGRAM}.part")));
    // The kernel's name of what runs, whatever lies at its path by now.
    std::fs::copy("/proc/self/exe", &part).context("cannot copy this program")?;
    std::fs::rename(&part, &copy).context("cannot put the copy of this program in its place")?;
    Ok(made.insert(copy).clone())
}

/// A path of its own for each mutant, all leading to this program.
pub(crate) fn wrapper_for(root: &Path, name: &str) -> anyhow::Result<PathBuf> {
    let folder = root.join("target/loom/mutants");
    std::fs::create_dir_all(&folder).context("cannot make target/loom/mutants")?;
    let link = folder.join(name);
    let program = copy_of_this_program(&folder)?;
    if std::fs::read_link(&link).ok().as_ref() != Some(&program) {
        // Whatever lies there is in the way; if it cannot be removed, the next line says so.
        drop(std::fs::remove_file(&link));
        std::os::unix::fs::symlink(&program, &link).context("cannot make the mutant's wrapper")?;
    }
    Ok(link)
}

/// `cargo test` of the models, in release and in a target folder of their own.
fn model_command(root: &Path, models: &[String]) -> Command {
    let mut command = cargo::cargo();
    command
        .env("RUSTFLAGS", "--cfg loom")
        .env("CARGO_TARGET_DIR", root.join("target/loom"))
        .args(["test", "--quiet", "--release", "--package", "qtf-shm"]);
    for model in models {
        command.args(["--test", model]);
    }
    command
}

/// The names of the models: files `loom_*.rs`, without the ending.
fn model_names(folder: &Path) -> anyhow::Result<Vec<String>> {
    let mut names = Vec::new();
    let Ok(entries) = std::fs::read_dir(folder) else {
        return Ok(names);
    };
    for entry in entries {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if let Some(stem) = name.strip_suffix(".rs")
            && stem.starts_with("loom_")
        {
            names.push(stem.to_owned());
        }
    }
    names.sort();
    Ok(names)
}

/// Reads the list and compares it with the sources and the models.
fn listed_mutants(root: &Path, models: &[String]) -> anyhow::Result<Vec<Mutant>> {
    let text = std::fs::read_to_string(root.join(LIST)).with_context(|| format!("no {LIST}"))?;
    let mutants = parse_list(&text)?;
    let mut in_sources = names_below(&root.join("shm/src"))?;
    // Those of the simulation: see simulate.rs.
    in_sources.retain(|name| !name.starts_with("sim_"));
    let problems = disagreements(&mutants, &in_sources, models);
    if !problems.is_empty() {
        bail!("{LIST}: {}", problems.join("; "));
    }
    Ok(mutants)
}

/// Lines of `MUTANT MODEL what it leaves out`; `#` starts a comment.
fn parse_list(text: &str) -> anyhow::Result<Vec<Mutant>> {
    let mut mutants = Vec::new();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        if line.starts_with('#') {
            continue;
        }
        let mut words = line.split_whitespace();
        match (words.next(), words.next()) {
            (Some(name), Some(model)) => {
                mutants.push(Mutant {
                    name: name.to_owned(),
                    model: model.to_owned(),
                });
            }
            _ => bail!("{LIST}: a line is `MUTANT MODEL what it leaves out`, not `{line}`"),
        }
    }
    Ok(mutants)
}

fn disagreements(
    listed: &[Mutant],
    in_sources: &BTreeSet<String>,
    models: &[String],
) -> Vec<String> {
    let mut problems = Vec::new();
    for name in in_sources
        .iter()
        .filter(|name| listed.iter().all(|m| m.name != **name))
    {
        problems.push(format!("the mutant {name} of shm/src is not listed"));
    }
    for mutant in listed {
        if !in_sources.contains(&mutant.name) {
            problems.push(format!("shm/src has no mutant {}", mutant.name));
        }
        if !models.contains(&mutant.model) {
            problems.push(format!("there is no model {}", mutant.model));
        }
    }
    problems
}

/// All mutants that the sources below `folder` name.
pub(crate) fn names_below(folder: &Path) -> anyhow::Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|ending| ending == "rs") {
                names.extend(mutants_in(&std::fs::read_to_string(&path)?));
            }
        }
    }
    Ok(names)
}

/// The names in `qtf_mutant = "name"`, outside comments.
pub(crate) fn mutants_in(source: &str) -> BTreeSet<String> {
    let lines = source
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"));
    let parts = lines.flat_map(|line| line.split("qtf_mutant").skip(1));
    parts
        .filter_map(name_after_equals)
        .map(str::to_owned)
        .collect()
}

fn name_after_equals(rest: &str) -> Option<&str> {
    let rest = rest
        .trim_start()
        .strip_prefix('=')?
        .trim_start()
        .strip_prefix('"')?;
    rest.split_once('"').map(|(name, _)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mutants_are_found_outside_comments() {
        let source = r#"
            //! `cfg(qtf_mutant = "name")` is false in production
            #[cfg(not(qtf_mutant = "no_second_look"))]
            if cfg!(qtf_mutant="b") || cfg!(qtf_mutant = "c") { return }
        "#;
        let names: Vec<String> = mutants_in(source).into_iter().collect();
        assert_eq!(names, ["b", "c", "no_second_look"]);
    }

    #[test]
    fn list_must_agree_with_sources_and_models() {
        let listed = parse_list("# why\na loom_tree leaves out\n\nb loom_gone x\n").unwrap();
        let in_sources = BTreeSet::from(["a".to_owned(), "c".to_owned()]);
        let problems = disagreements(&listed, &in_sources, &["loom_tree".to_owned()]);
        assert_eq!(problems.len(), 3, "{problems:?}");
        assert!(parse_list("lonely\n").is_err());
    }

    #[test]
    fn folder_that_does_not_exist_has_no_models() {
        assert!(model_names(Path::new("no/such/folder")).unwrap().is_empty());
    }
}
