//! What holds the processes of an attempt together, so that all of them end with it: also those in a session of their own, and also
//! when the worker is killed.
//!
//! | way | holds them | ends them when the worker is killed |
//! |---|---|---|
//! | cgroup | the kernel, by cgroup | the worker's guard (`sys/guard.rs`) |
//! | namespace | the kernel, by pid namespace | the kernel, with the namespace's init |
//! | supervisor | an init that adopts them (`sys/init.rs`) | that init |
//! | group | the program's process group only | the kernel, the program alone |
//!
//! Which way is possible is found by trying, once a process and before anything is run. Tested at the end of the file and through `exec`.

mod cgroup;
mod place;
mod spares;

use core::fmt;
use core::str::FromStr;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::OnceLock;

use crate::sys::{self, Enclosure, NO_FILE, Program, Stdio};
pub(crate) use cgroup::{Cgroup, Home};

/// What holds the processes of an attempt together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Containment {
    /// The first of the others that is possible here.
    #[default]
    Auto,
    /// A cgroup of version 2 for each attempt that runs, below the one that the worker is in.
    Cgroup,
    /// A pid namespace for each attempt, in which the program sees no process but its own. Needs `CAP_SYS_ADMIN`.
    Namespace,
    /// A small process above each program that adopts whatever the program leaves behind.
    Supervisor,
    /// The process group only: what takes a session of its own lives on, and so does what a program started when the worker
    /// is killed.
    Group,
}

/// In the order in which they are tried.
const WAYS: [Containment; 4] = [
    Containment::Cgroup,
    Containment::Namespace,
    Containment::Supervisor,
    Containment::Group,
];

impl Containment {
    const fn word(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Cgroup => "cgroup",
            Self::Namespace => "namespace",
            Self::Supervisor => "supervisor",
            Self::Group => "group",
        }
    }
}

impl fmt::Display for Containment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

impl FromStr for Containment {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut all = [Self::Auto].into_iter().chain(WAYS);
        all.find(|way| way.word() == text)
            .ok_or_else(|| format!("it is one of auto, {}", WAYS.map(Self::word).join(", ")))
    }
}

/// A way that was asked for and is not possible here.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("programs cannot be contained by {way} here: {cause}")]
pub struct ContainError {
    way: Containment,
    cause: String,
}

/// A way that is possible, and what it needs.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Way {
    Cgroup(&'static Home),
    /// Both with an init, which watches this process.
    Init {
        in_namespace: bool,
        worker: &'static OwnedFd,
    },
    Group,
}

/// Finds the way that programs of this process are contained, and says in the log what cannot be had. To be called early by a program
/// that will open much: the way by cgroup takes a copy of the process that stays. Calling it again costs nothing.
///
/// # Errors
/// When a way is asked for that is not possible here.
pub fn prepare_containment(wanted: Containment) -> Result<(), ContainError> {
    way(wanted).map(drop)
}

/// A worker of this process that may run programs, from its begin to its end.
#[derive(Debug)]
pub(crate) struct Presence(Way);

impl Presence {
    /// A worker begins that contains its programs as wanted.
    pub(crate) fn begin(wanted: Containment) -> Result<Self, ContainError> {
        let way = way(wanted)?;
        if let Way::Cgroup(home) = way {
            home.enter();
        }
        Ok(Self(way))
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        if let Way::Cgroup(home) = self.0 {
            home.leave();
        }
    }
}

/// The way to go for what is wanted.
pub(crate) fn way(wanted: Containment) -> Result<Way, ContainError> {
    static SAID: OnceLock<()> = OnceLock::new();
    if wanted != Containment::Auto {
        let way = possible(wanted).map_err(|cause| ContainError {
            way: wanted,
            cause: cause.to_owned(),
        })?;
        SAID.get_or_init(|| log(wanted, "asked for"));
        return Ok(way);
    }
    static FOUND: OnceLock<(Way, Containment)> = OnceLock::new();
    Ok(FOUND.get_or_init(find).0)
}

fn find() -> (Way, Containment) {
    let mut missing = Vec::new();
    for wanted in WAYS {
        match possible(wanted) {
            Ok(way) => {
                log(wanted, &missing.join("; "));
                return (way, wanted);
            }
            Err(cause) => missing.push(format!("no {wanted}: {cause}")),
        }
    }
    (Way::Group, Containment::Group)
}

fn log(found: Containment, missing: &str) {
    match found {
        Containment::Group => tracing::warn!(
            missing,
            "programs are contained by their process group only: what they start in a session of its own, or had started when \
             this worker is killed, lives on"
        ),
        Containment::Supervisor => tracing::info!(
            contain = %found,
            missing,
            "all processes of an attempt end with it, unless its supervisor is killed too"
        ),
        Containment::Auto | Containment::Cgroup | Containment::Namespace => {
            tracing::info!(contain = %found, missing, "all processes of an attempt end with it");
        }
    }
}

/// Whether a way is possible here, by trying it once.
fn possible(wanted: Containment) -> Result<Way, &'static str> {
    static CGROUP: OnceLock<Result<Home, String>> = OnceLock::new();
    static NAMESPACE: OnceLock<Result<OwnedFd, String>> = OnceLock::new();
    static SUPERVISOR: OnceLock<Result<OwnedFd, String>> = OnceLock::new();
    let (tried, in_namespace) = match wanted {
        Containment::Auto | Containment::Group => return Ok(Way::Group),
        Containment::Cgroup => {
            let home = CGROUP.get_or_init(try_cgroup);
            return home.as_ref().map(Way::Cgroup).map_err(String::as_str);
        }
        Containment::Namespace => (NAMESPACE.get_or_init(|| try_init(true)), true),
        Containment::Supervisor => (SUPERVISOR.get_or_init(|| try_init(false)), false),
    };
    let worker = tried.as_ref().map_err(String::as_str)?;
    Ok(Way::Init {
        in_namespace,
        worker,
    })
}

fn try_cgroup() -> Result<Home, String> {
    let home = Home::open()?;
    let cgroup = home.make().map_err(|error| error.to_string())?;
    let folder = cgroup.folder().map_err(|error| error.to_string())?;
    let tried = try_launch(Enclosure::Cgroup(folder));
    drop(cgroup);
    if tried.is_err() {
        home.leave();
    }
    tried.map(|()| home)
}

fn try_init(in_namespace: bool) -> Result<OwnedFd, String> {
    let failed = |what: &str, error: std::io::Error| format!("{what}: {error}");
    let worker = sys::open_process(nix::unistd::getpid());
    let worker = worker.map_err(|error| failed("pidfd", error))?;
    if !in_namespace {
        let children = "/proc/thread-self/children";
        std::fs::read(children).map_err(|error| failed(children, error))?;
    }
    let (_reported, report) = std::io::pipe().map_err(|error| failed("pipe", error))?;
    try_launch(Enclosure::Init {
        in_namespace,
        worker: worker.as_fd(),
        report: report.as_fd(),
    })?;
    Ok(worker)
}

/// Goes as far as one can without a program.
fn try_launch(enclosure: Enclosure<'_>) -> Result<(), String> {
    let nothing = std::fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/null")
        .map_err(|error| format!("/dev/null: {error}"))?;
    let nothing = nothing.as_fd();
    let program = Program {
        files: Vec::new(),
        arguments: Vec::new(),
        environment: Vec::new(),
        directory: None,
    };
    let stdio = Stdio {
        stdin: nothing,
        stdout: nothing,
        stderr: nothing,
    };
    match sys::launch(&program, stdio, enclosure) {
        Err(error) if error.raw_os_error() == Some(NO_FILE as i32) => Ok(()),
        Err(error) => Err(error.to_string()),
        Ok(pid) => Err(format!("process {pid} came of nothing")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ways_are_named_as_they_are_written() {
        for way in [Containment::Auto].into_iter().chain(WAYS) {
            assert_eq!(way.to_string().parse(), Ok(way));
        }
        let error = "box".parse::<Containment>().unwrap_err();
        assert!(error.contains("supervisor"), "{error}");
    }

    #[test]
    fn something_is_always_possible() {
        assert!(way(Containment::Auto).is_ok());
        assert!(way(Containment::Group).is_ok());
    }
}
