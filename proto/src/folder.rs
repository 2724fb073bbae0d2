//! A folder that nobody but its user, and root, can put anything into: the one check for all programs.
//!
//! In a folder that others can write, like `/tmp`, somebody else may have made ours before us: with a socket in it he
//! would hand us his tasks as a daemon's, or with links in it have us write where he wants.
//!
//! Invariants:
//! - F1: the folder is opened once, without following a link, and looked at through that descriptor. Files are opened
//!   and replaced through it too, so what was looked at is what is used.
//! - F2: owner and permission bits decide, as the kernel tells them. A list of access rights shows in the group's bits.
//!
//! Tested at the end of this file and in `tests/tests/strangers.rs`.

use core::fmt;
use std::fs::{DirBuilder, File};
use std::io::{self, BufWriter, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat, renameat};
use nix::sys::stat::{Mode, SFlag, fstat};
use nix::unistd::{UnlinkatFlags, geteuid, unlinkat};

const OTHERS_WRITE: u32 = 0o022;

/// A folder of this process's user.
#[derive(Debug)]
pub struct OwnFolder {
    path: PathBuf,
    handle: OwnedFd,
}

/// Why a folder is not taken for the user's own.
#[derive(Debug, thiserror::Error)]
#[error("folder {} {fault}", folder.display())]
pub struct FolderError {
    /// The folder.
    pub folder: PathBuf,
    /// What is wrong.
    pub fault: FolderFault,
}

/// What is wrong with a folder.
#[derive(Debug)]
#[non_exhaustive]
pub enum FolderFault {
    /// It cannot be made, opened or looked at.
    Io(io::Error),
    /// A link has its name: whoever made it decides where it leads.
    Link,
    /// Something else has its name.
    NotAFolder,
    /// Another user's.
    Owner {
        /// Whose.
        owner: u32,
        /// Who asks.
        uid: u32,
    },
    /// Others can put files into it.
    Writable {
        /// The permission bits.
        mode: u32,
    },
}

impl fmt::Display for FolderFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => write!(f, "cannot be used: {error}"),
            Self::Link => f.write_str("is a link"),
            Self::NotAFolder => f.write_str("is no folder"),
            Self::Owner { owner, uid } => write!(f, "belongs to user {owner}, not to {uid}"),
            Self::Writable { mode } => {
                let whom = if mode & 0o002 == 0 {
                    "its group"
                } else {
                    "everybody"
                };
                write!(f, "can be written by {whom} (mode {mode:04o})")
            }
        }
    }
}

impl FolderError {
    /// Nothing has the name.
    #[must_use]
    pub fn is_not_there(&self) -> bool {
        matches!(&self.fault, FolderFault::Io(error) if error.kind() == io::ErrorKind::NotFound)
    }

    /// The kind of failure, as for files.
    #[must_use]
    pub fn kind(&self) -> io::ErrorKind {
        match &self.fault {
            FolderFault::Io(error) => error.kind(),
            FolderFault::NotAFolder => io::ErrorKind::NotADirectory,
            FolderFault::Link | FolderFault::Owner { .. } | FolderFault::Writable { .. } => {
                io::ErrorKind::PermissionDenied
            }
        }
    }
}

impl From<FolderError> for io::Error {
    fn from(error: FolderError) -> Self {
        Self::new(error.kind(), error)
    }
}

impl OwnFolder {
    /// Opens a folder that is there.
    ///
    /// # Errors
    /// It is not there, is a link, another user's, or can be written by others.
    pub fn open(path: &Path) -> Result<Self, FolderError> {
        Self::open_as(path, geteuid().as_raw())
    }

    /// Makes a folder with this mode, and those above it, if it is not there; then opens it.
    ///
    /// # Errors
    /// It cannot be made, or as for [`OwnFolder::open`].
    pub fn make(path: &Path, mode: u32) -> Result<Self, FolderError> {
        let made = DirBuilder::new().recursive(true).mode(mode).create(path);
        match (made, Self::open(path)) {
            // What has the name says more than that it is in the way.
            (Err(error), Err(opened)) if opened.is_not_there() => Err(FolderError {
                folder: path.to_owned(),
                fault: FolderFault::Io(error),
            }),
            (_, opened) => opened,
        }
    }

    fn open_as(path: &Path, uid: u32) -> Result<Self, FolderError> {
        let refused = |fault| FolderError {
            folder: path.to_owned(),
            fault,
        };
        let failed = |errno: Errno| refused(FolderFault::Io(errno.into()));
        // The link itself where it is one, and no permission needed but to know of it.
        let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let handle = open(path, flags, Mode::empty()).map_err(failed)?;
        let found = fstat(&handle).map_err(failed)?;
        match SFlag::from_bits_truncate(found.st_mode & SFlag::S_IFMT.bits()) {
            SFlag::S_IFDIR => {}
            SFlag::S_IFLNK => return Err(refused(FolderFault::Link)),
            _ => return Err(refused(FolderFault::NotAFolder)),
        }
        if found.st_uid != uid {
            let owner = found.st_uid;
            return Err(refused(FolderFault::Owner { owner, uid }));
        }
        if found.st_mode & OTHERS_WRITE != 0 {
            let mode = found.st_mode & 0o7777;
            return Err(refused(FolderFault::Writable { mode }));
        }
        Ok(Self {
            path: path.to_owned(),
            handle,
        })
    }

    /// Its path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Opens a file in it to read; `None` if there is none. Follows no link, waits at no pipe.
    ///
    /// # Errors
    /// What the system says; a link, and what is no file, are refused.
    pub fn read(&self, name: &str) -> io::Result<Option<File>> {
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
        let opened = match openat(&self.handle, name, flags, Mode::empty()) {
            Ok(opened) => opened,
            Err(Errno::ENOENT) => return Ok(None),
            Err(Errno::ELOOP) => return Err(self.in_the_way(name, "a link")),
            Err(errno) => return Err(errno.into()),
        };
        let file = File::from(opened);
        if !file.metadata()?.is_file() {
            return Err(self.in_the_way(name, "no file"));
        }
        Ok(Some(file))
    }

    /// Replaces a file in it as a whole, readable by its owner only. What was there under this name is never written to:
    /// a link is replaced too, not followed.
    ///
    /// # Errors
    /// What the system says, or `write` returns; then what was there stays.
    pub fn replace(
        &self,
        name: &str,
        write: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>,
    ) -> io::Result<()> {
        // Two processes that replace at the same moment write two files; the later rename wins as a whole.
        let beside = format!("{name}.{}", std::process::id());
        let written = self.create(&beside).and_then(|file| {
            let mut out = BufWriter::new(file);
            write(&mut out)?;
            out.flush()?;
            renameat(&self.handle, beside.as_str(), &self.handle, name)?;
            Ok(())
        });
        if written.is_err() {
            // The error that is told is the first one.
            let _gone = unlinkat(&self.handle, beside.as_str(), UnlinkatFlags::NoRemoveDir);
        }
        written
    }

    fn create(&self, name: &str) -> io::Result<File> {
        let flags =
            OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let create = || openat(&self.handle, name, flags, Mode::S_IRUSR | Mode::S_IWUSR);
        let created = match create() {
            // Left by a process that had our number and was killed.
            Err(Errno::EEXIST) => {
                unlinkat(&self.handle, name, UnlinkatFlags::NoRemoveDir)?;
                create()?
            }
            created => created?,
        };
        Ok(created.into())
    }

    fn in_the_way(&self, name: &str, what: &str) -> io::Error {
        let file = self.path.join(name);
        io::Error::other(format!("{} is {what}: remove it", file.display()))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Read as _;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    fn mode(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    fn refusal(path: &Path) -> String {
        OwnFolder::open(path).unwrap_err().to_string()
    }

    fn folder() -> (tempfile::TempDir, PathBuf) {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("qtf");
        OwnFolder::make(&path, 0o700).unwrap();
        (parent, path)
    }

    #[test]
    fn folder_that_others_can_write_is_refused_with_its_mode() {
        let (_parent, path) = folder();
        for (bits, whom) in [
            (0o777, "everybody"),
            (0o770, "its group"),
            (0o702, "everybody"),
        ] {
            mode(&path, bits);
            let text = refusal(&path);
            assert!(
                text.contains(whom) && text.contains(&format!("{bits:04o}")),
                "{text}"
            );
        }
        mode(&path, 0o755);
        OwnFolder::open(&path).unwrap();
    }

    #[test]
    fn folder_of_another_user_is_refused_with_both_users() {
        let (_parent, path) = folder();
        let own = geteuid().as_raw();
        let text = OwnFolder::open_as(&path, own + 1).unwrap_err().to_string();
        assert!(
            text.contains(&format!("belongs to user {own}, not to {}", own + 1)),
            "{text}"
        );
    }

    #[test]
    fn link_and_file_are_no_folder_and_what_is_not_there_is_told_apart() {
        let (parent, path) = folder();
        let link = parent.path().join("link");
        symlink(&path, &link).unwrap();
        assert!(refusal(&link).contains("is a link"));
        assert!(OwnFolder::make(&link, 0o700).is_err());
        let dangling = parent.path().join("dangling");
        symlink(parent.path().join("elsewhere"), &dangling).unwrap();
        assert!(
            OwnFolder::make(&dangling, 0o700)
                .unwrap_err()
                .to_string()
                .contains("is a link")
        );
        assert!(!parent.path().join("elsewhere").exists());
        fs::write(parent.path().join("file"), "").unwrap();
        assert!(refusal(&parent.path().join("file")).contains("no folder"));
        assert!(
            OwnFolder::open(&parent.path().join("none"))
                .unwrap_err()
                .is_not_there()
        );
    }

    #[test]
    fn file_is_replaced_as_a_whole_and_a_link_in_its_place_is_not_followed() {
        let (parent, path) = folder();
        let folder = OwnFolder::open(&path).unwrap();
        assert!(folder.read("last").unwrap().is_none());
        let victim = parent.path().join("victim");
        fs::write(&victim, "mine").unwrap();
        let beside = format!("last.{}", std::process::id());
        for name in ["last", beside.as_str()] {
            symlink(&victim, path.join(name)).unwrap();
        }
        assert!(
            folder
                .read("last")
                .unwrap_err()
                .to_string()
                .contains("link")
        );
        folder.replace("last", |out| out.write_all(b"new")).unwrap();
        let mut text = String::new();
        folder
            .read("last")
            .unwrap()
            .unwrap()
            .read_to_string(&mut text)
            .unwrap();
        assert_eq!(
            (text.as_str(), fs::read_to_string(&victim).unwrap().as_str()),
            ("new", "mine")
        );
        assert_eq!(
            fs::metadata(path.join("last"))
                .unwrap()
                .permissions()
                .mode()
                & 0o777,
            0o600
        );
        let failed = folder.replace("last", |_| Err(io::ErrorKind::StorageFull.into()));
        assert!(failed.is_err());
        assert_eq!(fs::read_to_string(path.join("last")).unwrap(), "new");
        assert_eq!(
            fs::read_dir(&path).unwrap().count(),
            1,
            "no file stays beside it"
        );
    }
}
