//! The lock file of an instance, by which any process can tell whether another one lives.
//!
//! Byte 0 is locked by the daemon, byte 1 + n by the process of attach record n, for as long as it lives: these are locks of an open
//! file, which the kernel drops with its last descriptor, however the process ends, and which a stopped process keeps.
//!
//! - The file is kept when the daemon stops, so that its inode stays the one that others know. A file that was removed keeps its
//!   inode as long as somebody holds a lock in it, so device and inode name one file among all that anyone holds.
//! - Descriptors are closed by `exec`. A child that was forked and goes on without `exec` shares the lock: it keeps the dead
//!   parent's record from being given out until it ends too. It must not use the parent's [`crate::Attachment`].
//!
//! Tested at the end of this file and in `segment/tests/attachment.rs`.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};

use crate::id::AttachIndex;
use crate::layout::attach::FileIdentity;

/// An open lock file. What it locks is unlocked when it is dropped.
#[derive(Debug)]
pub struct LockFile {
    file: File,
    identity: FileIdentity,
    writable: bool,
}

impl LockFile {
    /// Opens the lock file of an instance, which its daemon has made: for writing if that is allowed, else for reading.
    ///
    /// # Errors
    /// It is not there, or may not be read.
    pub fn open(path: &Path) -> io::Result<Self> {
        let open = |writable| {
            OpenOptions::new()
                .read(true)
                .write(writable)
                .custom_flags(libc::O_CLOEXEC | libc::O_NOFOLLOW)
                .open(path)
        };
        let (file, writable) = match open(true) {
            Ok(file) => (file, true),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => (open(false)?, false),
            Err(error) => return Err(error),
        };
        let metadata = file.metadata()?;
        Ok(Self {
            identity: FileIdentity::of(&metadata),
            file,
            writable,
        })
    }

    /// What others know the file by.
    #[must_use]
    pub const fn identity(&self) -> FileIdentity {
        self.identity
    }

    /// The byte of an attach record.
    #[must_use]
    pub fn byte_of(attach: AttachIndex) -> i64 {
        // The daemon holds byte 0, and its record is the first.
        if attach == AttachIndex::DAEMON {
            0
        } else {
            i64::from(attach.get()) + 1
        }
    }

    /// Locks a byte; false when another open file holds it.
    ///
    /// # Errors
    /// The file system has no locks.
    pub fn lock(&self, byte: i64) -> io::Result<bool> {
        let kind = if self.writable {
            libc::F_WRLCK
        } else {
            libc::F_RDLCK
        };
        match fcntl(&self.file, FcntlArg::F_OFD_SETLK(&range(kind, byte))) {
            Ok(_) => Ok(true),
            Err(Errno::EAGAIN | Errno::EACCES) => Ok(false),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Unlocks a byte.
    ///
    /// # Errors
    /// The file system has no locks.
    pub fn unlock(&self, byte: i64) -> io::Result<()> {
        fcntl(
            &self.file,
            FcntlArg::F_OFD_SETLK(&range(libc::F_UNLCK, byte)),
        )?;
        Ok(())
    }

    /// Somebody else holds a byte; what this open file holds itself does not count.
    ///
    /// # Errors
    /// The file system has no locks.
    pub fn is_locked(&self, byte: i64) -> io::Result<bool> {
        let mut found = range(libc::F_WRLCK, byte);
        fcntl(&self.file, FcntlArg::F_OFD_GETLK(&mut found))?;
        Ok(i32::from(found.l_type) != libc::F_UNLCK)
    }
}

fn range(kind: i32, byte: i64) -> libc::flock {
    libc::flock {
        l_type: i16::try_from(kind).unwrap_or_default(),
        l_whence: i16::try_from(libc::SEEK_SET).unwrap_or_default(),
        l_start: byte,
        l_len: 1,
        l_pid: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lock_is_seen_by_others_and_gone_with_its_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.lock");
        std::fs::write(&path, "").unwrap();
        let (first, second) = (
            LockFile::open(&path).unwrap(),
            LockFile::open(&path).unwrap(),
        );
        assert!(first.lock(3).unwrap());
        assert!(!second.lock(3).unwrap());
        assert!(second.is_locked(3).unwrap());
        assert!(!second.is_locked(4).unwrap());
        assert!(!first.is_locked(3).unwrap(), "its own");
        first.unlock(3).unwrap();
        assert!(!second.is_locked(3).unwrap());
        assert!(first.lock(3).unwrap());
        drop(first);
        assert!(second.lock(3).unwrap());
        assert_eq!(second.identity(), LockFile::open(&path).unwrap().identity());
    }
}
