//! `qtf journal`: looks into the files of a journal.
//!
//! | file | what |
//! |---|---|
//! | `verify` | whether they are intact |
//! | `dump` | their records, one at a time, so that no file is too large |
//! | `entry` | how one record is shown |
//!
//! Invariant: nothing is written but the output. Tested in `tests/journal.rs`.

mod dump;
mod entry;
mod verify;

use std::io;
use std::path::{Path, PathBuf};

use qtf_journal::JournalError;

use crate::args::{GlobalArgs, JournalCommand};
use crate::exit::{Ending, Exit, Failure};

/// Folder of the journal in a data directory.
const FOLDER: &str = "journal";

/// Looks into files.
pub(crate) fn run(command: JournalCommand, global: &GlobalArgs) -> Ending {
    match command {
        JournalCommand::Verify { paths } => verify::run(&paths, global),
        JournalCommand::Dump { paths } => dump::run(&paths, global),
    }
}

/// The folder with the files: the one that is named, or `journal` in it.
fn folder_of(path: &Path) -> PathBuf {
    let inner = path.join(FOLDER);
    if inner.is_dir() {
        inner
    } else {
        path.to_owned()
    }
}

/// A file stands for itself, a folder for its logs and snapshots.
fn files_of(path: &Path) -> Result<Vec<PathBuf>, Failure> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let folder = folder_of(path);
    let mut files = Vec::new();
    let entries = folder
        .read_dir()
        .and_then(Iterator::collect::<io::Result<Vec<_>>>);
    for entry in entries.map_err(|error| unreadable(&folder, &error))? {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let is_log = name.starts_with("log-") && name.ends_with(".qtj");
        if is_log || (name.starts_with("snapshot-") && name.ends_with(".qts")) {
            files.push(entry.path());
        }
    }
    files.sort_unstable();
    if files.is_empty() {
        return Err(Failure::new(Exit::NotFound, nothing_in(&folder)));
    }
    Ok(files)
}

/// Zeros, or a log that was used: nobody reads what is in it.
fn is_spare(path: &Path) -> bool {
    let name = path.file_name().map(|name| name.to_string_lossy());
    name.is_some_and(|name| name.starts_with("spare-") && name.ends_with(".qtj")) && path.is_file()
}

fn nothing_in(folder: &Path) -> String {
    format!(
        "{}: no journal is there, neither a log (log-*.qtj) nor a snapshot (snapshot-*.qts); is it the right folder?",
        folder.display()
    )
}

fn unreadable(path: &Path, error: &io::Error) -> Failure {
    Failure::usage(format!("cannot read {}: {error}", path.display()))
}

/// What cannot be read is no damage.
const fn exit_of(error: &JournalError) -> Exit {
    if matches!(error, JournalError::Damaged { .. }) {
        Exit::TaskFailed
    } else {
        Exit::Usage
    }
}
