//! `--stdin FILE` and `--payload FILE`: what tasks read, or their handlers are given.
//!
//! With `%{index}` in its name each member of an array has a file of its own, which is read when the member is submitted; that all
//! are there is looked at before anything is. Tested in `tests/tasks/`.

use std::ffi::OsString;
use std::io::{self, Read as _};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::PathBuf;

use bytes::Bytes;

use super::select::off_the_runtime;
use crate::exit::Failure;
use crate::indexes::IndexSet;
use crate::template::{fill_index, names_index};

/// The option, and the file that it names.
pub(super) struct InputFile(pub(super) &'static str, pub(super) PathBuf);

/// What tasks read.
pub(super) enum Input {
    /// All the same.
    Of(Bytes),
    /// Each member of the array what is in the file of its index.
    FileOfIndex(InputFile),
}

impl Input {
    /// Reads what all tasks have in common.
    pub(super) async fn of_tasks(
        file: Option<InputFile>,
        array: Option<IndexSet>,
    ) -> Result<Self, Failure> {
        match (file, array) {
            (Some(named), Some(indexes)) if names_index(named.1.as_os_str().as_bytes()) => {
                off_the_runtime(move || {
                    for index in indexes.members() {
                        let file = named.of(index);
                        std::fs::metadata(&file.1).map_err(|error| file.unread(&error))?;
                    }
                    Ok(Self::FileOfIndex(named))
                })
                .await
            }
            (Some(file), _) => off_the_runtime(move || file.read().map(Self::Of)).await,
            (None, _) => Ok(Self::Of(Bytes::new())),
        }
    }

    /// What the task reads, or the member of the array.
    pub(super) async fn for_task(&self, index: Option<u64>) -> Result<Bytes, Failure> {
        let file = match self {
            Self::Of(bytes) => return Ok(bytes.clone()),
            Self::FileOfIndex(named) => named.of(index.unwrap_or_default()),
        };
        off_the_runtime(move || file.read()).await
    }
}

impl InputFile {
    /// That of one member.
    fn of(&self, index: u64) -> Self {
        let name = fill_index(self.1.as_os_str().as_bytes(), index);
        Self(self.0, OsString::from_vec(name).into())
    }

    fn read(&self) -> Result<Bytes, Failure> {
        let mut bytes = Vec::new();
        let read = if self.1.as_os_str() == "-" {
            io::stdin().lock().read_to_end(&mut bytes)
        } else {
            std::fs::File::open(&self.1).and_then(|mut file| file.read_to_end(&mut bytes))
        };
        read.map_err(|error| self.unread(&error))?;
        Ok(bytes.into())
    }

    fn unread(&self, error: &io::Error) -> Failure {
        Failure::usage(format!("{} {}: {error}", self.0, self.1.display()))
    }
}
