//! The lock file: one daemon for each name and user.
//!
//! Byte 0 is locked by the daemon for as long as it lives (an open-file-description lock: the kernel
//! drops it with the last descriptor, however the process ends). Bytes 1 + n belong to attach records.
//! The file is kept when the daemon stops, so that its inode stays the one that others know. It holds
//! the pid, for the message of a second daemon. Tested at the end.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};

/// The lock, held until dropped.
#[derive(Debug)]
pub(crate) struct LockFile {
    file: File,
}

/// Why the lock was not had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LockError {
    /// Another process has it.
    #[error("held by pid {pid}")]
    Held { pid: u32 },
    /// The file cannot be made, opened or locked.
    #[error("lock file {}", file.display())]
    Io {
        file: PathBuf,
        #[source]
        source: io::Error,
    },
}

impl LockFile {
    /// Locks byte 0 of `file`, which is made if there is none.
    pub(crate) fn acquire(file: &Path) -> Result<Self, LockError> {
        let failed = |source| LockError::Io {
            file: file.to_owned(),
            source,
        };
        let mut options = OpenOptions::new();
        options
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600);
        options.custom_flags(libc::O_CLOEXEC | libc::O_NOFOLLOW);
        let mut opened = options.open(file).map_err(failed)?;
        match fcntl(&opened, FcntlArg::F_OFD_SETLK(&first_byte())) {
            Ok(_) => {}
            Err(Errno::EAGAIN | Errno::EACCES) => {
                return Err(LockError::Held {
                    pid: read_pid(&mut opened).unwrap_or(0),
                });
            }
            Err(errno) => return Err(failed(errno.into())),
        }
        write_pid(&mut opened).map_err(failed)?;
        Ok(Self { file: opened })
    }

    /// Device and inode, by which others know the file.
    pub(crate) fn identity(&self) -> Option<(u64, u64)> {
        use std::os::unix::fs::MetadataExt as _;
        let metadata = self.file.metadata().ok()?;
        Some((metadata.dev(), metadata.ino()))
    }
}

fn first_byte() -> libc::flock {
    libc::flock {
        l_type: i16::try_from(libc::F_WRLCK).expect("a small constant of the system"),
        l_whence: i16::try_from(libc::SEEK_SET).expect("a small constant of the system"),
        l_start: 0,
        l_len: 1,
        l_pid: 0,
    }
}

fn read_pid(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.take(16).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

fn write_pid(file: &mut File) -> io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    writeln!(file, "{}", std::process::id())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn second_lock_is_refused_with_the_holders_pid_and_had_after_its_end() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.lock");
        let first = LockFile::acquire(&file).unwrap();
        match LockFile::acquire(&file) {
            Err(LockError::Held { pid }) => assert_eq!(pid, std::process::id()),
            other => panic!("{other:?}"),
        }
        drop(first);
        assert!(LockFile::acquire(&file).is_ok());
        assert!(file.exists(), "kept, so that its inode stays");
    }

    #[test]
    fn lock_file_in_a_missing_folder_is_named() {
        let error = LockFile::acquire(Path::new("no/such/folder/a.lock")).unwrap_err();
        assert_eq!(error.to_string(), "lock file no/such/folder/a.lock");
    }
}
