//! Writes man pages and completions of all four programs: `qtf-pages FOLDER` makes `FOLDER/man1`, `FOLDER/bash`, `FOLDER/zsh` and `FOLDER/fish`.
//!
//! A tool of its own, so that programs carry no generator with them; `cargo xtask install` runs it. It knows the command lines by taking in the
//! files that define them, as the fuzz targets do. Tested in `tests/tests/service/`.
#![expect(
    dead_code,
    unused_imports,
    reason = "of the files taken in from programs only the command lines are used"
)]

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::{Command, CommandFactory as _};
use clap_complete::Shell;

#[path = "../../qtf/src/args/mod.rs"]
mod args;
#[path = "../../qtf/src/durations.rs"]
mod durations;
#[path = "../../qtf/src/indexes.rs"]
mod indexes;
#[path = "../../shm-inspect/src/arguments.rs"]
mod inspect_arguments;
#[path = "../../qtf/src/selector.rs"]
mod selector;
#[path = "../../qtf/src/template.rs"]
mod template;
#[path = "../../../worker/src/arguments.rs"]
mod worker_arguments;

fn main() -> anyhow::Result<()> {
    let folder: Option<OsString> = std::env::args_os().nth(1);
    let folder = PathBuf::from(folder.context("usage: qtf-pages FOLDER")?);
    for program in programs() {
        write_pages(&program, &folder.join("man1"))?;
        for (shell, name) in [
            (Shell::Bash, "bash"),
            (Shell::Zsh, "zsh"),
            (Shell::Fish, "fish"),
        ] {
            write_completions(program.clone(), shell, &folder.join(name))?;
        }
    }
    Ok(())
}

fn programs() -> [Command; 4] {
    [
        qtf_daemon::cli::Flags::command(),
        args::Cli::command(),
        worker_arguments::Arguments::command(),
        inspect_arguments::Arguments::command(),
    ]
}

fn make(folder: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("{} cannot be made", folder.display()))
}

/// A page for the program, and one for each of its commands.
fn write_pages(program: &Command, folder: &Path) -> anyhow::Result<()> {
    make(folder)?;
    clap_mangen::generate_to(program.clone(), folder)
        .with_context(|| format!("the pages of {} cannot be written", program.get_name()))
}

fn write_completions(mut program: Command, shell: Shell, folder: &Path) -> anyhow::Result<()> {
    make(folder)?;
    let name = program.get_name().to_owned();
    clap_complete::generate_to(shell, &mut program, &name, folder)
        .with_context(|| format!("the completions of {name} cannot be written"))?;
    Ok(())
}
