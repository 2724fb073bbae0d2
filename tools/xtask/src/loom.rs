//! Model checks: builds `shm/tests/loom_*.rs` with loom's atomics and runs them; with mutants, also
//! proves that the models can fail.
//!
//! A mutant is a place in `shm/src` under `cfg(qtf_mutant = "name")` that leaves out or weakens what
//! the model is there to protect. The names are collected from the sources, so none can be forgotten;
//! each must turn at least one model red. Only the crates of the workspace are built again for a
//! mutant: the cfg is added by this program standing in for the compiler (`RUSTC_WORKSPACE_WRAPPER`),
//! under another path for each mutant, because cargo tells wrapped builds apart by that path.

use crate::cargo::{self, Run, Tally};
use anyhow::{Context, bail};
use std::collections::BTreeSet;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::Instant;

/// Tells a process of this program, started by cargo in the compiler's place, which mutant to build.
const MUTANT_VARIABLE: &str = "QTF_XTASK_MUTANT";

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
        for name in mutant_names(&root.join("shm/src"))? {
            let survived = run_mutant(&root, &models, &name)?;
            total.tally += Tally {
                passed: u64::from(!survived),
                failed: u64::from(survived),
            };
            total.succeeded &= !survived;
        }
    }
    Ok(total)
}

/// Builds and runs one mutant; true when no model noticed it.
fn run_mutant(root: &Path, models: &[String], name: &str) -> anyhow::Result<bool> {
    let started = Instant::now();
    let wrapper = wrapper_for(root, name)?;
    let with_mutant = |command: &mut Command| {
        command
            .env("RUSTC_WORKSPACE_WRAPPER", &wrapper)
            .env(MUTANT_VARIABLE, name);
    };
    let mut build = model_command(root, models);
    with_mutant(build.arg("--no-run"));
    cargo::run(&mut build).with_context(|| format!("mutant {name} does not compile"))?;
    let mut check = model_command(root, models);
    with_mutant(&mut check);
    let output = check
        .output()
        .with_context(|| format!("cannot start {}", cargo::show(&check)))?;
    let survived = output.status.success();
    let verdict = if survived {
        "SURVIVED: no model notices it"
    } else {
        "caught"
    };
    println!(
        "mutant {name} ... {verdict} ({} s)",
        started.elapsed().as_secs()
    );
    Ok(survived)
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

/// A path of its own for each mutant, all leading to this program.
fn wrapper_for(root: &Path, name: &str) -> anyhow::Result<std::path::PathBuf> {
    let folder = root.join("target/loom/mutants");
    std::fs::create_dir_all(&folder).context("cannot make target/loom/mutants")?;
    let link = folder.join(name);
    let program = std::env::current_exe().context("cannot tell where this program lies")?;
    if std::fs::read_link(&link).ok().as_ref() != Some(&program) {
        std::fs::remove_file(&link).ok();
        std::os::unix::fs::symlink(&program, &link).context("cannot make the mutant's wrapper")?;
    }
    Ok(link)
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

/// All mutants that the sources below `folder` name.
fn mutant_names(folder: &Path) -> anyhow::Result<BTreeSet<String>> {
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

/// The names in `qtf_mutant = "name"`, wherever a source has them; a name in a comment's angle
/// brackets or with anything but letters, digits, `_` and `-` is none.
fn mutants_in(source: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for part in source.split("qtf_mutant").skip(1) {
        let rest = part.trim_start();
        let Some(rest) = rest.strip_prefix('=') else {
            continue;
        };
        let Some(rest) = rest.trim_start().strip_prefix('"') else {
            continue;
        };
        let Some((name, _)) = rest.split_once('"') else {
            continue;
        };
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        if !name.is_empty() && name.chars().all(plain) {
            names.insert(name.to_owned());
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mutants_are_found_in_every_form_of_cfg() {
        let source = r#"
            #[cfg(not(qtf_mutant = "no_second_look"))]
            if cfg!(qtf_mutant="weak-leaf") { return }
            // cfg(qtf_mutant = "<name>") is how one looks
            #[cfg(any(qtf_mutant = "no_second_look", qtf_mutant = "third"))]
        "#;
        let names: Vec<String> = mutants_in(source).into_iter().collect();
        assert_eq!(names, ["no_second_look", "third", "weak-leaf"]);
    }

    #[test]
    fn folder_that_does_not_exist_has_no_models() {
        assert!(model_names(Path::new("no/such/folder")).unwrap().is_empty());
    }
}
