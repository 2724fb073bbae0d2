//! Lock files: one daemon for each name and user, one for each data folder.
//!
//! Byte 0 is locked by the daemon for as long as it lives (an open-file-description lock: the kernel
//! drops it with the last descriptor, however the process ends). In the file of a name bytes 1 + n belong
//! to attach records. A file is kept when the daemon stops, so that its inode stays the one that others
//! know. It holds the pid, for the message of a second daemon; who it names is believed to be the holder
//! only if the kernel says so too. A second line names the data folder of the last daemon of that name that served, for the message of one
//! that has another. Tested at the end.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, Flock, FlockArg, fcntl};
use qtf_shm::FileIdentity;

use super::descriptors::locked_files;
use super::process::{await_killed, end_process, is_ending, open_process, wait_for_end};

/// LIMIT: time between the end of a process and that of its lock.
const RELEASE_MAX: Duration = Duration::from_secs(2);
/// LIMIT: a pid has at most 10 digits.
const PID_WIDTH: usize = 10;
/// With its newline.
const PID_LINE: usize = PID_WIDTH + 1;
const RELEASE_PAUSE: Duration = Duration::from_millis(1);

/// The lock, held until dropped.
#[derive(Debug)]
pub(crate) struct LockFile {
    file: File,
    /// A folder that is locked beside the file.
    folder: Option<Flock<File>>,
}

/// Why the lock was not had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LockError {
    /// Another process has it.
    #[error("held by pid {pid}")]
    Held { pid: u32 },
    /// The holder could not be ended.
    #[error("held by pid {pid}, which cannot be taken over: {why}")]
    NotTaken { pid: u32, why: String },
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
        match fcntl(&opened, FcntlArg::F_OFD_SETLK(&first_byte(libc::F_WRLCK))) {
            Ok(_) => {}
            Err(Errno::EAGAIN | Errno::EACCES) => {
                return Err(LockError::Held {
                    pid: read_pid(&mut opened).unwrap_or(0),
                });
            }
            Err(errno) => return Err(failed(errno.into())),
        }
        write_pid(&opened).map_err(failed)?;
        Ok(Self {
            file: opened,
            folder: None,
        })
    }

    /// The same. A holder that was killed has its locks for some milliseconds more, while the kernel takes it apart: that is
    /// waited for, so that a start right after a kill is not refused.
    pub(crate) fn acquire_after_kill(file: &Path) -> Result<Self, LockError> {
        match Self::acquire(file) {
            Err(LockError::Held { pid }) if pid != 0 && is_ending(pid) => {
                // All that it has open is closed then, so its other locks and its sockets are free too.
                await_killed(pid, RELEASE_MAX);
                wait_for_release(file)
            }
            other => other,
        }
    }

    /// Locks a folder too, which nobody can remove as easily as the lock file while there is something in it.
    pub(crate) fn also_folder(mut self, folder: &Path) -> Result<Self, LockError> {
        let failed = |source| LockError::Io {
            file: folder.to_owned(),
            source,
        };
        let opened = File::open(folder).map_err(failed)?;
        match Flock::lock(opened, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => self.folder = Some(lock),
            // Who it is was written into the lock file that is gone.
            Err((_, Errno::EWOULDBLOCK)) => return Err(LockError::Held { pid: 0 }),
            Err((_, errno)) => return Err(failed(errno.into())),
        }
        Ok(self)
    }

    /// The same; a holder is killed first, and its end waited for. Gives the holder's pid if there was one.
    pub(crate) fn take_over(file: &Path) -> Result<(Self, Option<u32>), LockError> {
        let pid = match Self::acquire(file) {
            Err(LockError::Held { pid }) => pid,
            other => return other.map(|lock| (lock, None)),
        };
        end_holder(file, pid).map_err(|why| LockError::NotTaken { pid, why })?;
        wait_for_release(file).map(|lock| (lock, Some(pid)))
    }

    /// Says with which data folder this daemon serves; `None` = with none. A disk that has no room for that is no fault.
    pub(crate) fn note_data_dir(&self, folder: Option<&Path>) {
        let text = folder.map_or_else(Vec::new, |folder| {
            [folder.as_os_str().as_bytes(), b"\n"].concat()
        });
        let end = u64::try_from(PID_LINE + text.len()).unwrap_or(u64::MAX);
        let noted = self.file.set_len(u64::try_from(PID_LINE).unwrap_or(0));
        let noted = noted.and_then(|()| {
            self.file
                .write_all_at(&text, end.saturating_sub(text.len() as u64))
        });
        if let Err(error) = noted {
            tracing::debug!(%error, "the lock file does not name the data folder");
        }
    }

    /// The data folder that a lock file names.
    pub(crate) fn data_dir_in(file: &Path) -> Option<PathBuf> {
        let mut text = Vec::new();
        let opened = File::open(file).ok()?;
        // LIMIT: the kernel takes no longer path.
        let limit = u64::try_from(PID_LINE).ok()? + 4_097;
        opened.take(limit).read_to_end(&mut text).ok()?;
        let line = text.get(PID_LINE..)?.strip_suffix(b"\n")?;
        Some(PathBuf::from(std::ffi::OsStr::from_bytes(line)))
    }

    /// Keeps the lock until the process ends.
    pub(crate) fn keep(self) {
        Box::leak(Box::new(self));
    }

    /// Gives the file the time of now: the daemon stops, and whoever finds no socket knows since when.
    pub(crate) fn note_stop(&self) {
        if let Err(error) = self.file.set_modified(SystemTime::now()) {
            tracing::debug!(%error, "lock file not touched");
        }
    }

    /// What others know the file by.
    pub(crate) fn identity(&self) -> Option<FileIdentity> {
        let metadata = self.file.metadata().ok()?;
        Some(FileIdentity::of(&metadata))
    }
}

impl Drop for LockFile {
    fn drop(&mut self) {
        // A child that this process is just starting has the descriptor too until it runs its program, and would
        // hold the lock for that long.
        let free = first_byte(libc::F_UNLCK);
        if let Err(error) = fcntl(&self.file, FcntlArg::F_OFD_SETLK(&free)) {
            tracing::debug!(%error, "lock goes with its last descriptor");
        }
    }
}

/// The process has ended; its lock goes with the last of its threads.
#[expect(
    clippy::disallowed_methods,
    reason = "a lock of another process can be waited for only without a bound; nothing runs yet"
)]
fn wait_for_release(file: &Path) -> Result<LockFile, LockError> {
    let give_up = Instant::now() + RELEASE_MAX;
    loop {
        match LockFile::acquire(file) {
            Err(LockError::Held { .. }) if Instant::now() < give_up => {
                std::thread::sleep(RELEASE_PAUSE);
            }
            other => return other,
        }
    }
}

/// Kills the process that holds the lock.
fn end_holder(file: &Path, pid: u32) -> Result<(), String> {
    if pid == 0 {
        return Err("the lock file does not say who it is; try again".to_owned());
    }
    let Some(process) = open_holder(file, pid)? else {
        return Ok(());
    };
    end_process(&process, pid)
}

/// The holder of the lock, if it is alive. Whoever the text in the file names is killed only if the kernel
/// says that this very process has the lock: its pid may be somebody else's by now.
fn open_holder(file: &Path, pid: u32) -> Result<Option<OwnedFd>, String> {
    let process = match open_process(pid) {
        Ok(process) => process,
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => return Ok(None),
        Err(error) => return Err(format!("it cannot be opened: {error}")),
    };
    let holds = holds_lock(file, pid).map_err(|error| format!("it cannot be asked: {error}"))?;
    match wait_for_end(&process, Duration::ZERO) {
        // The process behind the descriptor lives, so the pid was its own while we asked.
        Ok(false) if holds => Ok(Some(process)),
        Ok(false) => Err("the kernel does not name it as the holder of the lock".to_owned()),
        Ok(true) => Ok(None),
        Err(error) => Err(format!("it cannot be asked: {error}")),
    }
}

/// Whether the kernel's list of a process's descriptors has one of `file` with a lock.
fn holds_lock(file: &Path, pid: u32) -> io::Result<bool> {
    let wanted = FileIdentity::of(&std::fs::metadata(file)?);
    let locked = locked_files(pid)?;
    Ok(locked.iter().any(|file| file.identity == wanted))
}

fn first_byte(kind: i32) -> libc::flock {
    libc::flock {
        l_type: i16::try_from(kind).expect("a small constant of the system"),
        l_whence: i16::try_from(libc::SEEK_SET).expect("a small constant of the system"),
        l_start: 0,
        l_len: 1,
        l_pid: 0,
    }
}

fn read_pid(file: &mut File) -> Option<u32> {
    let mut text = Vec::new();
    file.take(16).read_to_end(&mut text).ok()?;
    let line = text.split(|byte| *byte == b'\n').next()?;
    std::str::from_utf8(line).ok()?.trim().parse().ok()
}

/// Always as long, and written over what was there: a full disk has room for that. Where it has none for the first text the
/// lock holds all the same, and does not say whose it is.
fn write_pid(file: &File) -> io::Result<()> {
    let text = format!("{:<PID_WIDTH$}\n", std::process::id());
    match file.write_all_at(text.as_bytes(), 0) {
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
            ) =>
        {
            tracing::warn!(%error, "a lock file does not say whose it is");
            Ok(())
        }
        // What stands behind it is the data folder of the daemon before.
        written => written,
    }
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
        let copy = first.file.try_clone().unwrap();
        drop(first);
        assert!(LockFile::acquire(&file).is_ok(), "in spite of a copy");
        drop(copy);
        assert!(file.exists(), "kept, so that its inode stays");
    }

    #[test]
    fn data_folder_of_the_daemon_before_is_named_until_the_next_one_serves() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.lock");
        let named = || LockFile::data_dir_in(&file);
        assert_eq!(named(), None);
        let lock = LockFile::acquire(&file).unwrap();
        assert_eq!(named(), None);
        lock.note_data_dir(Some(Path::new("/var/lib/a folder")));
        assert_eq!(named(), Some(PathBuf::from("/var/lib/a folder")));
        drop(lock);
        let next = LockFile::acquire(&file).unwrap();
        assert_eq!(named(), Some(PathBuf::from("/var/lib/a folder")));
        match LockFile::acquire(&file) {
            Err(LockError::Held { pid }) => assert_eq!(pid, std::process::id()),
            other => panic!("{other:?}"),
        }
        next.note_data_dir(Some(Path::new("/b")));
        assert_eq!(named(), Some(PathBuf::from("/b")));
        next.note_data_dir(None);
        assert_eq!(named(), None);
    }

    #[test]
    fn process_that_the_kernel_does_not_name_as_the_holder_is_not_killed() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.lock");
        let _lock = LockFile::acquire(&file).unwrap();
        let mut bystander = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .unwrap();
        std::fs::write(&file, format!("{}\n", bystander.id())).unwrap();
        match LockFile::take_over(&file) {
            Err(LockError::NotTaken { pid, why }) => {
                assert_eq!(pid, bystander.id());
                assert!(why.contains("does not name it"), "{why}");
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(bystander.try_wait().unwrap(), None, "it lives");
        bystander.kill().unwrap();
        bystander.wait().unwrap();
    }

    #[test]
    fn locked_folder_is_refused_also_when_the_lock_file_was_removed() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("LOCK");
        let lock = || LockFile::acquire(&file).unwrap().also_folder(folder.path());
        let first = lock().unwrap();
        std::fs::remove_file(&file).unwrap();
        assert!(matches!(lock(), Err(LockError::Held { .. })));
        drop(first);
        assert!(lock().is_ok());
    }

    #[test]
    fn free_lock_is_taken_over_from_nobody() {
        let folder = tempfile::tempdir().unwrap();
        let (_lock, from) = LockFile::take_over(&folder.path().join("a.lock")).unwrap();
        assert_eq!(from, None);
    }

    #[test]
    fn lock_file_in_a_missing_folder_is_named() {
        let error = LockFile::acquire(Path::new("no/such/folder/a.lock")).unwrap_err();
        assert_eq!(error.to_string(), "lock file no/such/folder/a.lock");
    }
}
