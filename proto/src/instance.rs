//! The files of an instance in its runtime folder, and what its daemon tells local processes there.
//!
//! | file | what |
//! |---|---|
//! | `NAME.sock` | the socket, when nothing else is said |
//! | `NAME.lock` | by its bytes anybody can tell who lives |
//! | `NAME.local` | what a local process needs to know before it attaches, see [`LocalFacts`] |
//! | `NAME.spill` | large payloads and results, when nothing else is said |
//!
//! `NAME.local` stays when its daemon has ended: local processes go on without one. Tested at the end of this file.

use std::ffi::OsStr;
use std::fs::{File, Permissions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use crate::folder::OwnFolder;

/// What the name of an instance has.
pub const NAMES: &str = "1 to 48 letters, digits, `-`, `_`, `.`, first a letter, digit or `_`";

// LIMIT: the kernel takes no longer path; the rest is two numbers and a word.
const FACTS_BYTES_MAX: u64 = 4_096 + 256;

/// Whether an instance can have this name.
#[must_use]
pub fn is_instance_name(name: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    (1..=48).contains(&name.len()) && name.chars().all(fits) && !name.starts_with(['.', '-'])
}

/// The socket of an instance.
#[must_use]
pub fn socket_in(folder: &Path, instance: &str) -> PathBuf {
    folder.join(format!("{instance}.sock"))
}

/// The lock file of an instance.
#[must_use]
pub fn lock_file_in(folder: &Path, instance: &str) -> PathBuf {
    folder.join(format!("{instance}.lock"))
}

/// The folder of large payloads and results of an instance whose daemon was told no other.
#[must_use]
pub fn spill_dir_in(folder: &Path, instance: &str) -> PathBuf {
    folder.join(format!("{instance}.spill"))
}

/// Inode of this process's IPC namespace; 0 when it cannot be read.
#[must_use]
pub fn ipc_namespace() -> u64 {
    std::fs::metadata("/proc/self/ns/ipc").map_or(0, |metadata| metadata.ino())
}

/// What the daemon of an instance tells local processes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalFacts {
    /// Inode of the IPC namespace in which the segment is.
    pub ipc_namespace: u64,
    /// A task that says nothing of its durability goes into the journal.
    pub durable_by_default: bool,
    /// Where large payloads and results lie.
    pub spill_dir: PathBuf,
}

impl LocalFacts {
    /// Writes them for an instance, in place of earlier ones.
    ///
    /// # Errors
    /// The folder is not this user's own, or the file cannot be written.
    pub fn write(&self, folder: &Path, instance: &str) -> io::Result<()> {
        let folder = OwnFolder::open(folder)?;
        let durability = if self.durable_by_default {
            "journal"
        } else {
            "memory"
        };
        let mut text = format!(
            "ipc_namespace {}\ndurability {durability}\nspill_dir ",
            self.ipc_namespace
        )
        .into_bytes();
        text.extend_from_slice(self.spill_dir.as_os_str().as_bytes());
        text.push(b'\n');
        folder.replace(&name_of(instance), |file| {
            // The segment may be open to a group, and there is no secret in it.
            file.get_ref()
                .set_permissions(Permissions::from_mode(0o644))?;
            file.write_all(&text)
        })
    }

    /// Reads those of an instance; `None` if no daemon of it has written any that this program understands.
    #[must_use]
    pub fn read(folder: &Path, instance: &str) -> Option<Self> {
        let mut text = Vec::new();
        let file = File::open(folder.join(name_of(instance))).ok()?;
        file.take(FACTS_BYTES_MAX).read_to_end(&mut text).ok()?;
        let text = text.strip_suffix(b"\n")?;
        // The path is last: it may have newlines.
        let mut lines = text.splitn(3, |byte| *byte == b'\n');
        let mut next = |key: &[u8]| lines.next()?.strip_prefix(key);
        let namespace = std::str::from_utf8(next(b"ipc_namespace ")?).ok()?;
        let durability = next(b"durability ")?;
        Some(Self {
            ipc_namespace: namespace.parse().ok()?,
            durable_by_default: durability == b"journal",
            spill_dir: PathBuf::from(OsStr::from_bytes(next(b"spill_dir ")?)),
        })
    }
}

fn name_of(instance: &str) -> String {
    format!("{instance}.local")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_that_no_path_and_no_option_can_be() {
        for name in ["default", "a", "_a.b-c", "7"] {
            assert!(is_instance_name(name), "{name}");
        }
        let long = "x".repeat(49);
        for name in ["", ".a", "-a", "a/b", "a b", "ä", &long] {
            assert!(!is_instance_name(name), "{name}");
        }
    }

    #[test]
    fn facts_are_read_as_they_were_written_also_with_an_odd_path() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("own");
        OwnFolder::make(&path, 0o700).unwrap();
        assert_eq!(LocalFacts::read(&path, "a"), None);
        for spill_dir in ["/var/lib/qtf/spill", "/odd\npath \u{e4}"] {
            let facts = LocalFacts {
                ipc_namespace: 4_026_531_839,
                durable_by_default: spill_dir.starts_with("/var"),
                spill_dir: spill_dir.into(),
            };
            facts.write(&path, "a").unwrap();
            assert_eq!(LocalFacts::read(&path, "a"), Some(facts));
        }
        assert_eq!(LocalFacts::read(&path, "b"), None);
    }

    #[test]
    fn file_that_says_something_else_says_nothing() {
        let folder = tempfile::tempdir().unwrap();
        for text in [
            "",
            "\n",
            "ipc_namespace x\ndurability memory\nspill_dir /a\n",
        ] {
            std::fs::write(folder.path().join("a.local"), text).unwrap();
            assert_eq!(LocalFacts::read(folder.path(), "a"), None, "{text:?}");
        }
    }
}
