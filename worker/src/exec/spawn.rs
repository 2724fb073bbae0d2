//! Starts the child, and says in plain words why it could not be started.

use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::OnceLock;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use qtf_proto::v1::{ExecSpec, Outcome, OutcomeKind, TaskOutput};
use tokio::net::unix::pipe;

use super::environment::Environment;
use super::roster;
use super::tree::{Hold, Tree};
use super::{ExecPolicy, Identity};
use crate::attempt::Ending;
use crate::contain::{self, Way};
use crate::sys::{self, Enclosure, Program, Stdio};

/// A started child.
#[derive(Debug)]
pub(super) struct Started {
    pub(super) tree: Tree,
    /// Our ends of its pipes, which do not block. The first one if there is something to be fed.
    pub(super) stdin: Option<OwnedFd>,
    pub(super) stdout: OwnedFd,
    pub(super) stderr: OwnedFd,
}

/// Why there is no child.
#[derive(Debug)]
pub(super) enum NoChild {
    /// The task cannot be run.
    Failed(SpawnFailure),
    /// The machine or this process is short of processes, descriptors or memory: it can be run later.
    Short(String),
    /// The file is still open for writing, mostly because another process was forked at that moment: it can be run in a moment, and has
    /// failed if it cannot.
    Busy(SpawnFailure),
}

impl From<SpawnFailure> for NoChild {
    fn from(failure: SpawnFailure) -> Self {
        Self::Failed(failure)
    }
}

/// Why a task cannot be run.
#[derive(Debug)]
pub(super) struct SpawnFailure {
    kind: OutcomeKind,
    errno: i32,
    message: String,
}

impl SpawnFailure {
    fn refused(message: String) -> Self {
        Self {
            kind: OutcomeKind::Refused,
            errno: 0,
            message,
        }
    }

    fn of(error: &io::Error, message: String) -> Self {
        Self {
            kind: OutcomeKind::SpawnFailed,
            errno: error.raw_os_error().unwrap_or(libc::EINVAL),
            message,
        }
    }
}

impl From<SpawnFailure> for Ending {
    fn from(failure: SpawnFailure) -> Self {
        Self {
            outcome: Outcome {
                kind: failure.kind.into(),
                code: u32::try_from(failure.errno).unwrap_or(0),
                result_dropped: false,
                output_cut: false,
                ..Outcome::default()
            },
            output: TaskOutput {
                message: failure.message,
                ..TaskOutput::default()
            },
        }
    }
}

/// Starts it. To be called where there is a runtime that lives as long as the child.
pub(super) fn spawn(
    spec: &ExecSpec,
    identity: Identity,
    policy: &ExecPolicy,
) -> Result<Started, NoChild> {
    check(spec)?;
    let way = contain::way(policy.containment).map_err(|error| {
        let unsupported = io::Error::from_raw_os_error(libc::ENOTSUP);
        SpawnFailure::of(&unsupported, error.to_string())
    })?;
    let program = program(spec, identity, policy).map_err(|error| explain(spec, &error))?;
    let is_fed = !spec.stdin.is_empty();
    start(&program, is_fed, way).map_err(|cause| no_child(spec, &cause))
}

/// Why a start came to nothing.
enum NoStart {
    /// What is to hold the program and what it starts cannot be made. The task has no part in it.
    Enclosure(io::Error),
    Program(io::Error),
}

impl From<io::Error> for NoStart {
    fn from(error: io::Error) -> Self {
        Self::Program(error)
    }
}

fn no_child(spec: &ExecSpec, cause: &NoStart) -> NoChild {
    match cause {
        NoStart::Enclosure(error) => {
            NoChild::Short(format!("a cgroup cannot be made for it: {error}"))
        }
        NoStart::Program(error) if is_shortage(error) => {
            NoChild::Short(explain(spec, error).message)
        }
        NoStart::Program(error) if error.raw_os_error() == Some(libc::ETXTBSY) => {
            NoChild::Busy(explain(spec, error))
        }
        NoStart::Program(error) => NoChild::Failed(explain(spec, error)),
    }
}

fn check(spec: &ExecSpec) -> Result<(), SpawnFailure> {
    match spec.argv.first() {
        None => {
            return Err(SpawnFailure::refused(
                "the task names no program".to_owned(),
            ));
        }
        Some(program) if program.is_empty() => {
            let error = io::Error::from_raw_os_error(libc::ENOENT);
            return Err(SpawnFailure::of(
                &error,
                "the program's name is empty".to_owned(),
            ));
        }
        Some(_) => {}
    }
    let invalid = |what: String| {
        let error = io::Error::from_raw_os_error(libc::EINVAL);
        Err(SpawnFailure::of(&error, what))
    };
    if let Some(index) = spec.argv.iter().position(|arg| arg.contains(&0)) {
        return invalid(format!("argument {index} contains a NUL byte"));
    }
    if spec.working_directory.contains(&0) {
        return invalid("the working directory contains a NUL byte".to_owned());
    }
    for variable in &spec.environment {
        let name = &variable.name;
        if name.is_empty() || name.contains(&b'=') || name.contains(&0) {
            return invalid(format!("{:?} is no name of a variable", shown(name)));
        }
        if variable.value.contains(&0) {
            return invalid(format!("variable {} contains a NUL byte", shown(name)));
        }
    }
    Ok(())
}

fn program(spec: &ExecSpec, identity: Identity, policy: &ExecPolicy) -> io::Result<Program> {
    let environment = Environment::of(spec, identity, policy)?;
    let name = spec.argv.first().map_or(&b""[..], |name| name);
    let files = environment.files(name)?;
    let arguments: Result<_, _> = spec.argv.iter().map(|arg| CString::new(&arg[..])).collect();
    let directory = &spec.working_directory;
    let directory = (!directory.is_empty()).then(|| CString::new(&directory[..]));
    Ok(Program {
        files,
        arguments: arguments?,
        environment: environment.variables,
        directory: directory.transpose()?,
    })
}

fn start(program: &Program, is_fed: bool, way: Way) -> Result<Started, NoStart> {
    let _starting = roster::starting();
    let (fed, feed) = if is_fed {
        let (read, write) = io::pipe()?;
        (Some(OwnedFd::from(read)), Some(ours(write)?))
    } else {
        (None, None)
    };
    let (stdout, stdout_end) = io::pipe()?;
    let (stderr, stderr_end) = io::pipe()?;
    // What may fail comes before the program: from there on it is killed and reaped on every way out.
    let (stdout, stderr) = (ours(stdout)?, ours(stderr)?);
    let stdin = match &fed {
        Some(read) => read.as_fd(),
        None => nothing()?.as_fd(),
    };
    let stdio = Stdio {
        stdin,
        stdout: stdout_end.as_fd(),
        stderr: stderr_end.as_fd(),
    };
    let tree = match way {
        Way::Group => Tree::new(sys::launch(program, stdio, Enclosure::Group)?, Hold::Group),
        Way::Cgroup(home) => {
            let cgroup = home.make().map_err(NoStart::Enclosure)?;
            let folder = cgroup.folder().map_err(NoStart::Enclosure)?;
            let child = sys::launch(program, stdio, Enclosure::Cgroup(folder))?;
            Tree::new(child, Hold::Cgroup(cgroup))
        }
        Way::Init {
            in_namespace,
            worker,
        } => {
            let (reports, report) = io::pipe()?;
            let reports = pipe::Receiver::from_owned_fd(reports.into())?;
            let enclosure = Enclosure::Init {
                in_namespace,
                worker: worker.as_fd(),
                report: report.as_fd(),
            };
            let child = sys::launch(program, stdio, enclosure)?;
            let hold = Hold::Init {
                in_namespace,
                reports,
            };
            Tree::new(child, hold)
        }
    };
    Ok(Started {
        tree,
        stdin: feed,
        stdout,
        stderr,
    })
}

/// Our end of a pipe: it does not block. That of the child does, as it is used to.
fn ours(end: impl Into<OwnedFd>) -> io::Result<OwnedFd> {
    let end = end.into();
    fcntl(&end, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    Ok(end)
}

/// What a program reads that is fed nothing: the same for all, as there is nothing in it that one could take from another.
fn nothing() -> io::Result<&'static File> {
    static NOTHING: OnceLock<File> = OnceLock::new();
    if let Some(file) = NOTHING.get() {
        return Ok(file);
    }
    let file = File::open("/dev/null")?;
    Ok(NOTHING.get_or_init(|| file))
}

fn is_shortage(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EAGAIN | libc::EMFILE | libc::ENFILE | libc::ENOMEM)
    )
}

fn explain(spec: &ExecSpec, error: &io::Error) -> SpawnFailure {
    let program = spec.argv.first().map_or_else(String::new, |arg| shown(arg));
    let directory = Path::new(OsStr::from_bytes(&spec.working_directory));
    if !spec.working_directory.is_empty() && !directory.is_dir() {
        let directory = shown(&spec.working_directory);
        let message = match std::fs::metadata(OsStr::from_bytes(&spec.working_directory)) {
            Err(why) => format!("working directory {directory:?}: {why}"),
            Ok(_) => format!("working directory {directory:?} is not a directory"),
        };
        return SpawnFailure::of(error, message);
    }
    let has_path = program.contains('/');
    let message = match error.raw_os_error() {
        Some(libc::ENOENT) if !has_path => {
            format!("no program {program:?} in the PATH of the worker or task")
        }
        Some(libc::ENOENT) if is_there(spec) => format!(
            "program {program:?} is there, but the interpreter or loader it asks for is not"
        ),
        Some(libc::ENOENT) => format!("program {program:?}: no such file"),
        Some(libc::EACCES) => {
            format!("program {program:?} is not executable for the worker: permission denied")
        }
        Some(libc::ENOEXEC) => format!(
            "program {program:?} is no executable format and has no #! line: name its interpreter"
        ),
        Some(libc::E2BIG) => format!(
            "arguments and environment of {program:?} are too long ({} arguments, {} bytes): \
             pass them on standard input or in a file",
            spec.argv.len(),
            spec.argv.iter().map(|arg| arg.len() + 1).sum::<usize>()
        ),
        Some(libc::EAGAIN) => {
            format!("cannot start {program:?}: the limit of processes is reached: {error}")
        }
        Some(libc::EMFILE | libc::ENFILE) => format!(
            "cannot start {program:?}: too many open files, raise the worker's limit: {error}"
        ),
        _ => format!("cannot start {program:?}: {error}"),
    };
    SpawnFailure::of(error, message)
}

fn is_there(spec: &ExecSpec) -> bool {
    let Some(program) = spec.argv.first() else {
        return false;
    };
    let directory = Path::new(OsStr::from_bytes(&spec.working_directory));
    directory.join(OsStr::from_bytes(program)).exists()
}

fn shown(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
