//! What a test may have left behind: processes, found by a mark in their environment, and segments of
//! shared memory, found by the process that made them.

use std::collections::HashSet;
use std::fs;
use std::path::Path;
use std::process::Command;

/// Name of the variable that marks all processes of a test, also those that tasks start.
pub const MARK: &str = "QTF_TEST_MARK";

/// A living process of a test.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leak {
    /// Its id.
    pub pid: i32,
    /// Its command line.
    pub command: String,
}

/// The living processes that carry the mark or run in the folder: workers give tasks a clean
/// environment, but the folder of their submitter.
#[must_use]
pub fn processes(mark: &str, folder: &Path) -> Vec<Leak> {
    let wanted = format!("{MARK}={mark}");
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse::<i32>().ok())
        else {
            continue;
        };
        let environment = fs::read(entry.path().join("environ")).unwrap_or_default();
        let mut variables = environment.split(|byte| *byte == 0);
        let is_marked = variables.any(|variable| variable == wanted.as_bytes());
        let is_inside =
            fs::read_link(entry.path().join("cwd")).is_ok_and(|cwd| cwd.starts_with(folder));
        if is_marked || is_inside {
            let command = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let command = String::from_utf8_lossy(&command).replace('\0', " ");
            found.push(Leak { pid, command });
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
