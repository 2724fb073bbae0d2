//! What another process of this user has open, as `/proc` shows it: the files it holds locks on, the ports it listens on.
//!
//! A list, not a promise: the process goes on while it is read. Tested at the end.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use qtf_shm::FileIdentity;

/// State of a socket that listens, in the kernel's tables.
const LISTENS: &str = "0A";

/// A file on which a process holds a lock of the kind that ours are (`OFDLCK`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LockedFile {
    /// Where the process opened it; a removed file has no place any more, this is where it was.
    pub(crate) path: PathBuf,
    pub(crate) is_removed: bool,
    /// Device and inode.
    pub(crate) identity: FileIdentity,
}

/// The files on which a process holds a lock.
pub(crate) fn locked_files(pid: u32) -> io::Result<Vec<LockedFile>> {
    let folder = PathBuf::from(format!("/proc/{pid}"));
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder.join("fd"))? {
        let name = entry?.file_name();
        let link = folder.join("fd").join(&name);
        // Closed meanwhile, or a descriptor that names no file.
        let (Ok(metadata), Ok(target)) = (std::fs::metadata(&link), std::fs::read_link(&link))
        else {
            continue;
        };
        let info = std::fs::read_to_string(folder.join("fdinfo").join(&name)).unwrap_or_default();
        let is_locked = info
            .lines()
            .any(|line| line.starts_with("lock:") && line.contains("OFDLCK"));
        if is_locked {
            files.push(of_link(&target, FileIdentity::of(&metadata)));
        }
    }
    Ok(files)
}

fn of_link(target: &Path, identity: FileIdentity) -> LockedFile {
    let text = target.to_string_lossy();
    let left = text.strip_suffix(" (deleted)");
    LockedFile {
        path: left.map_or_else(|| target.to_owned(), PathBuf::from),
        is_removed: left.is_some(),
        identity,
    }
}

/// Whether a process listens on this TCP port, on whichever address.
pub(crate) fn listens_on(pid: u32, port: u16) -> io::Result<bool> {
    let own = socket_inodes(pid)?;
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"];
    Ok(tables.iter().any(|table| {
        let text = std::fs::read_to_string(table).unwrap_or_default();
        text.lines()
            .skip(1)
            .filter_map(listener_of)
            .any(|(listens, inode)| listens == port && own.contains(&inode))
    }))
}

fn socket_inodes(pid: u32) -> io::Result<BTreeSet<u64>> {
    let mut inodes = BTreeSet::new();
    for entry in std::fs::read_dir(format!("/proc/{pid}/fd"))? {
        let Ok(target) = std::fs::read_link(entry?.path()) else {
            continue;
        };
        let text = target.to_string_lossy();
        let digits = text
            .strip_prefix("socket:[")
            .and_then(|rest| rest.strip_suffix(']'));
        inodes.extend(digits.and_then(|digits| digits.parse::<u64>().ok()));
    }
    Ok(inodes)
}

/// Port and inode of a line of the table, if that socket listens.
fn listener_of(line: &str) -> Option<(u16, u64)> {
    let mut fields = line.split_ascii_whitespace();
    let (_, port) = fields.nth(1)?.rsplit_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let is_listening = fields.nth(1)? == LISTENS;
    // Fields 4 of the line is the state, 10 the inode.
    let inode = fields.nth(5)?.parse().ok()?;
    is_listening.then_some((port, inode))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: FileIdentity = FileIdentity {
        device: 1,
        inode: 2,
    };

    #[test]
    fn ports_that_a_process_listens_on_are_told_from_those_of_others() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let own = std::process::id();
        assert!(listens_on(own, port).unwrap());
        let mut other = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .unwrap();
        let theirs = listens_on(other.id(), port).unwrap();
        other.kill().unwrap();
        other.wait().unwrap();
        assert!(!theirs);
        drop(listener);
        assert!(!listens_on(own, port).unwrap());
    }

    #[test]
    fn line_of_the_kernels_table_gives_port_and_inode_of_a_listener_only() {
        let line = "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 31337 1 0 100 0 0 10 0";
        assert_eq!(listener_of(line), Some((8080, 31337)));
        assert_eq!(listener_of(&line.replace(" 0A ", " 01 ")), None);
        assert_eq!(listener_of("sl local_address"), None);
    }

    #[test]
    fn removed_file_is_told_with_the_place_it_had() {
        let gone = of_link(Path::new("/d/LOCK (deleted)"), FILE);
        assert_eq!(gone.path, Path::new("/d/LOCK"));
        assert!(gone.is_removed);
        assert!(!of_link(Path::new("/d/LOCK"), FILE).is_removed);
    }
}
