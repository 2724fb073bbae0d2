//! One cgroup by its folder: whether it is empty, killing what is in it, removing it. Files of the kernel, version 2.
//!
//! Tested through `cgroup`.

use std::fs;
use std::io::{self, Read as _};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;

use crate::sys::FolderNumber;

pub(super) const KILL: &str = "cgroup.kill";
/// Whoever looks whether a cgroup is empty opens this file, which the kernel lets nobody write to.
pub(super) const EVENTS: &str = "cgroup.events";

/// One cgroup.
#[derive(Debug)]
pub(super) struct Place {
    path: PathBuf,
    folder: OwnedFd,
    /// By which it is told that somebody touched it.
    pub(super) number: Option<FolderNumber>,
}

impl Place {
    /// Makes it. The folder above is there.
    pub(super) fn make(path: PathBuf) -> io::Result<Self> {
        fs::create_dir(&path)?;
        let opened = fs::File::open(&path);
        let opened = opened.inspect_err(|_| drop(fs::remove_dir(&path)));
        let folder = OwnedFd::from(opened?);
        let number = None;
        Ok(Self {
            path,
            folder,
            number,
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn folder(&self) -> BorrowedFd<'_> {
        self.folder.as_fd()
    }

    /// Kills whatever is in it.
    pub(super) fn kill(&self) {
        if let Err(error) = fs::write(self.path.join(KILL), "1") {
            tracing::warn!(%error, path = %self.path.display(), "a cgroup cannot be killed");
        }
    }

    /// Whether no process is in it, nor in those that were made in it.
    pub(super) fn is_empty(&self) -> io::Result<bool> {
        let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
        let events = openat(&self.folder, EVENTS, flags, Mode::empty())?;
        let mut bytes = [0; 128];
        let count = fs::File::from(events).read(&mut bytes)?;
        let text = bytes.get(..count).unwrap_or_default();
        let mut lines = text.split(|byte| *byte == b'\n');
        Ok(lines.any(|line| line == b"populated 0"))
    }

    /// Whether nobody has removed it.
    pub(super) fn is_there(&self) -> bool {
        self.path.exists()
    }

    /// Removes it, which is possible when nothing is in it any more. Needs no descriptor.
    pub(super) fn remove(&self) -> io::Result<()> {
        remove(&self.path)
    }
}

/// Removes a cgroup and those that a program made in it. It need not be there.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
            for entry in fs::read_dir(path)?.flatten() {
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    remove(&entry.path())?;
                }
            }
            fs::remove_dir(path)
        }
        result => result,
    }
}
