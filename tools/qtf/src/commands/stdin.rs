//! `--stdin FILE`: what tasks read.
//!
//! With `%{index}` in its name each member of an array has a file of its own, which is read when the member is submitted; that all
//! are there is looked at before anything is. Tested in `tests/tasks/`.

use std::ffi::OsString;
use std::io::{self, Read as _};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::select::off_the_runtime;
use crate::exit::Failure;
use crate::indexes::IndexSet;
use crate::template::{fill_index, names_index};

/// What tasks read.
pub(super) enum Stdin {
    /// All the same.
    Of(Bytes),
    /// Each member of the array what is in the file of its index.
    FileOfIndex(PathBuf),
}

impl Stdin {
    /// Reads what all tasks have in common.
    pub(super) async fn of_tasks(
        file: Option<PathBuf>,
        array: Option<IndexSet>,
    ) -> Result<Self, Failure> {
        match (file, array) {
            (Some(name), Some(indexes)) if names_index(name.as_os_str().as_bytes()) => {
                off_the_runtime(move || {
                    for index in indexes.members() {
                        let file = file_of(&name, index);
                        std::fs::metadata(&file).map_err(|error| unread(&file, &error))?;
                    }
                    Ok(Self::FileOfIndex(name))
                })
                .await
            }
            (file, _) => off_the_runtime(move || read(file.as_deref()).map(Self::Of)).await,
        }
    }

    /// What the task reads, or the member of the array.
    pub(super) async fn for_task(&self, index: Option<u64>) -> Result<Bytes, Failure> {
        let file = match self {
            Self::Of(bytes) => return Ok(bytes.clone()),
            Self::FileOfIndex(name) => {
                index.map_or_else(|| name.clone(), |index| file_of(name, index))
            }
        };
        off_the_runtime(move || read(Some(&file))).await
    }
}

fn file_of(name: &Path, index: u64) -> PathBuf {
    OsString::from_vec(fill_index(name.as_os_str().as_bytes(), index)).into()
}

fn read(file: Option<&Path>) -> Result<Bytes, Failure> {
    let mut bytes = Vec::new();
    let read = match file {
        None => return Ok(Bytes::new()),
        Some(path) if path.as_os_str() == "-" => io::stdin().lock().read_to_end(&mut bytes),
        Some(path) => std::fs::File::open(path).and_then(|mut file| file.read_to_end(&mut bytes)),
    };
    match read {
        Ok(_) => Ok(bytes.into()),
        Err(error) => Err(unread(file.unwrap_or(Path::new("-")), &error)),
    }
}

fn unread(file: &Path, error: &io::Error) -> Failure {
    Failure::usage(format!("--stdin {}: {error}", file.display()))
}
