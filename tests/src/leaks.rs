//! What a test may have left behind: processes, found by a mark in their environment, and segments of
//! shared memory, found by the process that made them.

use std::collections::HashSet;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::process::Command;

/// Name of the variable that marks all processes of a test, also those that tasks start.
pub const MARK: &str = "QTF_TEST_MARK";

/// Command lines of the living processes that carry the mark.
#[must_use]
pub fn processes(mark: &str) -> Vec<String> {
    let wanted = format!("{MARK}={mark}");
    let own = std::process::id().to_string();
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let name = entry.file_name();
        let is_process = name.as_bytes().iter().all(u8::is_ascii_digit);
        if !is_process || name.as_bytes() == own.as_bytes() {
            continue;
        }
        let environment = fs::read(entry.path().join("environ")).unwrap_or_default();
        if environment
            .split(|byte| *byte == 0)
            .any(|variable| variable == wanted.as_bytes())
        {
            let command = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let command = String::from_utf8_lossy(&command).replace('\0', " ");
            found.push(format!("{}: {command}", name.to_string_lossy()));
        }
    }
    found
}

/// A segment of shared memory, as the kernel lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Its id.
    pub id: i64,
    /// The process that made it.
    pub creator: u32,
    /// Attached processes.
    pub attached: u64,
}

/// The segments that one of these processes made.
#[must_use]
pub fn segments(creators: &HashSet<u32>) -> Vec<Segment> {
    let table = fs::read_to_string("/proc/sysvipc/shm").unwrap_or_default();
    let mut lines = table.lines();
    let heads: Vec<&str> = lines
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .collect();
    let column = |name: &str| heads.iter().position(|head| *head == name);
    let (Some(id), Some(creator), Some(attached)) =
        (column("shmid"), column("cpid"), column("nattch"))
    else {
        return Vec::new();
    };
    let segment = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        Some(Segment {
            id: fields.get(id)?.parse().ok()?,
            creator: fields.get(creator)?.parse().ok()?,
            attached: fields.get(attached)?.parse().ok()?,
        })
    };
    lines
        .filter_map(segment)
        .filter(|segment| creators.contains(&segment.creator))
        .collect()
}

/// Removes segments that a named daemon has left on purpose.
///
/// # Panics
/// When `ipcrm` is not there.
pub fn remove(segments: &[Segment]) {
    for segment in segments {
        let mut ipcrm = Command::new("ipcrm");
        ipcrm.args(["-m", &segment.id.to_string()]);
        if let Err(error) = ipcrm.status() {
            panic!("segment {} cannot be removed: ipcrm: {error}", segment.id);
        }
    }
}
