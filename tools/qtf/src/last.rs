//! Remembers the last submission to each daemon, for `qtf wait last`.
//!
//! One small file for each address in `$XDG_STATE_HOME/qtf` (else `~/.local/state/qtf`, else the
//! runtime folder), in a folder that nobody else can write, replaced as a whole, readable by its owner only:
//!
//! ```text
//! qtf-last 1 ADDRESS
//! no-result              only when the tasks free their slots by themselves
//! ID                     one a line, in index order
//! ```
//! Each submission removes what nobody will ask for any more: files that were not written for 30 days, those beyond the newest 64, and
//! what a killed `qtf` left half written.
//! Tested at the end of this file.

use std::io::{self, BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use qtf_proto::folder::OwnFolder;
use qtf_shm::TaskId;

/// LIMIT: addresses whose last submission is remembered.
const FILES_MAX: usize = 64;
/// LIMIT: far beyond the life of any result.
const AGE_MAX: Duration = Duration::from_secs(30 * 86_400);
/// A file that is being written is there for a moment only.
const UNFINISHED_AGE_MAX: Duration = Duration::from_secs(3_600);

const HEAD: &str = "qtf-last 1 ";
const NO_RESULT: &str = "no-result";

/// What was submitted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Submission {
    /// The tasks, in index order.
    pub(crate) ids: Vec<TaskId>,
    /// Tasks that succeed free their slots: an id that is gone has succeeded.
    pub(crate) no_result: bool,
}

/// The file of one daemon.
#[derive(Clone, Debug)]
pub(crate) struct LastFile {
    folder: PathBuf,
    name: String,
    address: String,
}

impl LastFile {
    /// The file for `address` in the caller's state directory.
    pub(crate) fn of(address: &str) -> Self {
        Self::in_directory(&state_directory(), address)
    }

    fn in_directory(directory: &Path, address: &str) -> Self {
        LastFile {
            folder: directory.to_owned(),
            name: format!("last-{:016x}", fnv1a(address.as_bytes())),
            address: address.to_owned(),
        }
    }

    /// Replaces what is remembered.
    pub(crate) fn write(&self, submission: &Submission) -> io::Result<()> {
        let folder = OwnFolder::make(&self.folder, 0o700)?;
        folder.replace(&self.name, |out| {
            writeln!(out, "{HEAD}{}", self.address)?;
            if submission.no_result {
                writeln!(out, "{NO_RESULT}")?;
            }
            for id in &submission.ids {
                writeln!(out, "{id}")?;
            }
            Ok(())
        })?;
        self.clean(SystemTime::now());
        Ok(())
    }

    /// Removes old files of this kind. One that cannot be removed is left to the next submission.
    fn clean(&self, now: SystemTime) {
        let mut finished = Vec::new();
        for entry in std::fs::read_dir(&self.folder)
            .into_iter()
            .flatten()
            .flatten()
        {
            let name = entry.file_name();
            let Some(kind) = name.to_str().and_then(FileKind::of) else {
                continue;
            };
            let modified = entry.metadata().and_then(|metadata| metadata.modified());
            let Ok(modified) = modified else { continue };
            let age = now.duration_since(modified).unwrap_or_default();
            match kind {
                FileKind::Unfinished if age > UNFINISHED_AGE_MAX => remove(&entry.path()),
                FileKind::Unfinished => {}
                FileKind::Finished => finished.push((age, entry.path())),
            }
        }
        finished.sort();
        for (place, (age, path)) in finished.iter().enumerate() {
            if place >= FILES_MAX || *age > AGE_MAX {
                remove(path);
            }
        }
    }

    /// What is remembered; `None` when there was no submission to this address yet.
    pub(crate) fn read(&self) -> io::Result<Option<Submission>> {
        let folder = match OwnFolder::open(&self.folder) {
            Ok(folder) => folder,
            Err(error) if error.is_not_there() => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let Some(file) = folder.read(&self.name)? else {
            return Ok(None);
        };
        let mut lines = BufReader::new(file).lines();
        let head = lines.next().transpose()?;
        if head.as_deref().and_then(|head| head.strip_prefix(HEAD)) != Some(self.address.as_str()) {
            return Ok(None);
        }
        let mut submission = Submission::default();
        for line in lines {
            let line = line?;
            if line == NO_RESULT {
                submission.no_result = true;
                continue;
            }
            let damaged = || {
                let text = format!(
                    "{} is damaged; submit again or delete it",
                    self.folder.join(&self.name).display()
                );
                io::Error::new(io::ErrorKind::InvalidData, text)
            };
            submission.ids.push(line.parse().map_err(|_| damaged())?);
        }
        Ok(Some(submission))
    }
}

/// A file of ours in the folder, by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FileKind {
    Finished,
    /// On its way to be one: with the number of the process that writes it.
    Unfinished,
}

impl FileKind {
    fn of(name: &str) -> Option<Self> {
        let name = name.strip_prefix("last-")?;
        let (hash, pid) = match name.split_once('.') {
            Some((hash, pid)) => (hash, Some(pid)),
            None => (name, None),
        };
        let is_hash = hash.len() == 16 && hash.bytes().all(|byte| byte.is_ascii_hexdigit());
        match pid {
            _ if !is_hash => None,
            None => Some(Self::Finished),
            Some(pid) => pid.parse::<u32>().is_ok().then_some(Self::Unfinished),
        }
    }
}

fn remove(path: &Path) {
    // Another process may have been quicker.
    let _gone = std::fs::remove_file(path);
}

fn state_directory() -> PathBuf {
    let absolute = |name: &str| {
        std::env::var_os(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    absolute("XDG_STATE_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".local/state")))
        .map_or_else(qtf_proto::address::runtime_dir, |state| state.join("qtf"))
}

/// FNV-1a: the same in every version, unlike the hashes of the standard library. A collision is
/// noticed by the address in the file.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn submission(no_result: bool) -> Submission {
        let ids = [1 << 24, (5 << 24) | 7]
            .map(|raw| TaskId::from_raw(raw).unwrap())
            .to_vec();
        Submission { ids, no_result }
    }

    #[test]
    fn each_address_remembers_its_own_last_submission() {
        let directory = tempfile::tempdir().unwrap();
        let a = LastFile::in_directory(directory.path(), "unix:/a");
        let b = LastFile::in_directory(&directory.path().join("deeper/still"), "host:1");
        assert_eq!(a.read().unwrap(), None);
        a.write(&submission(false)).unwrap();
        b.write(&submission(true)).unwrap();
        assert_eq!(a.read().unwrap(), Some(submission(false)));
        assert_eq!(b.read().unwrap(), Some(submission(true)));
        a.write(&Submission::default()).unwrap();
        assert_eq!(a.read().unwrap(), Some(Submission::default()));
        assert_eq!(
            std::fs::read_dir(directory.path()).unwrap().count(),
            2,
            "no temporary file stays"
        );
    }

    #[test]
    fn a_file_of_another_address_is_not_believed() {
        let directory = tempfile::tempdir().unwrap();
        let a = LastFile::in_directory(directory.path(), "unix:/a");
        a.write(&submission(false)).unwrap();
        let b = LastFile {
            address: "unix:/b".to_owned(),
            ..a
        };
        assert_eq!(b.read().unwrap(), None);
    }

    #[test]
    fn a_damaged_file_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let a = LastFile::in_directory(directory.path(), "unix:/a");
        std::fs::write(
            directory.path().join(&a.name),
            format!("{HEAD}unix:/a\nnonsense\n"),
        )
        .unwrap();
        let error = a.read().unwrap_err().to_string();
        assert!(error.contains("damaged"), "{error}");
    }

    #[test]
    fn old_files_and_those_beyond_the_newest_go_with_the_next_submission() {
        let directory = tempfile::tempdir().unwrap();
        let make = |name: &str, age: Duration| {
            let file = std::fs::File::create(directory.path().join(name)).unwrap();
            file.set_modified(SystemTime::now() - age).unwrap();
        };
        let days = |days: u64| Duration::from_secs(days * 86_400);
        for number in 1..=70 {
            make(&format!("last-{number:016x}"), days(number) / 4);
        }
        make("last-00000000000000ff", days(31));
        make("last-00000000000000fe.12", days(1));
        make("last-00000000000000fd.13", Duration::ZERO);
        make("last-years-photos", days(900));
        let file = LastFile::in_directory(directory.path(), "unix:/a");
        file.write(&submission(false)).unwrap();
        let left = std::fs::read_dir(directory.path()).unwrap();
        let mut left: Vec<String> = left
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        left.sort();
        let mut expected: Vec<String> = (1..=63)
            .map(|number| format!("last-{number:016x}"))
            .collect();
        expected.extend([
            file.name.clone(),
            "last-00000000000000fd.13".to_owned(),
            "last-years-photos".to_owned(),
        ]);
        expected.sort();
        assert_eq!(left, expected);
        assert_eq!(file.read().unwrap(), Some(submission(false)));
    }
}
