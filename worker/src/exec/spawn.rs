//! Starts the child, and says in plain words why it could not be started.

use core::time::Duration;
use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use qtf_proto::v1::{ExecSpec, Outcome, OutcomeKind, TaskOutput};
use tokio::net::unix::pipe;

use super::group::Group;
use super::{ExecPolicy, Identity};
use crate::attempt::Ending;
use crate::sys;

/// Of the worker's environment, what each program gets.
pub(super) const BASE_ENVIRONMENT: [&str; 7] =
    ["PATH", "HOME", "USER", "LANG", "LC_ALL", "TZ", "TMPDIR"];

// The machine is short of something for a moment: processes, descriptors, memory.
const SHORTAGE_TRIES: u32 = 5;
const SHORTAGE_PAUSE: Duration = Duration::from_millis(20);

/// A started child.
#[derive(Debug)]
pub(super) struct Started {
    pub(super) group: Group,
    pub(super) stdin: Option<pipe::Sender>,
    pub(super) stdout: Option<pipe::Receiver>,
    pub(super) stderr: Option<pipe::Receiver>,
}

/// Why there is no child.
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
            },
            output: TaskOutput {
                message: failure.message,
                ..TaskOutput::default()
            },
        }
    }
}

pub(super) async fn spawn(
    spec: &ExecSpec,
    identity: Identity,
    policy: &ExecPolicy,
) -> Result<Started, SpawnFailure> {
    check(spec)?;
    let mut command = command(spec, identity, policy);
    let mut pause = SHORTAGE_PAUSE;
    for _ in 1..SHORTAGE_TRIES {
        match start(&mut command) {
            Err(error) if is_shortage(&error) => {
                tracing::debug!(%error, "cannot start a process now, trying again");
                tokio::time::sleep(pause).await;
                pause *= 2;
            }
            result => return result.map_err(|error| explain(spec, &error)),
        }
    }
    start(&mut command).map_err(|error| explain(spec, &error))
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

fn command(spec: &ExecSpec, identity: Identity, policy: &ExecPolicy) -> Command {
    let mut argv = spec.argv.iter().map(|arg| OsStr::from_bytes(arg));
    let mut command = Command::new(argv.next().unwrap_or_default());
    command.args(argv);
    if !policy.inherit_environment {
        command.env_clear();
        for name in BASE_ENVIRONMENT {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
    }
    command.env("QTF_TASK_ID", identity.task.to_string());
    command.env("QTF_ATTEMPT", identity.attempt.to_string());
    for variable in &spec.environment {
        command.env(
            OsStr::from_bytes(&variable.name),
            OsStr::from_bytes(&variable.value),
        );
    }
    if !spec.working_directory.is_empty() {
        command.current_dir(OsStr::from_bytes(&spec.working_directory));
    }
    let stdin = if spec.stdin.is_empty() {
        Stdio::null()
    } else {
        Stdio::piped()
    };
    command
        .stdin(stdin)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command.process_group(0);
    sys::isolate_child(&mut command);
    command
}

fn start(command: &mut Command) -> io::Result<Started> {
    let mut child = command.spawn()?;
    let stdin = child.stdin.take().map(OwnedFd::from);
    let stdout = child.stdout.take().map(OwnedFd::from);
    let stderr = child.stderr.take().map(OwnedFd::from);
    // From here on the child is killed and reaped on every way out.
    let group = Group::new(child);
    Ok(Started {
        group,
        stdin: stdin.map(pipe::Sender::from_owned_fd).transpose()?,
        stdout: stdout.map(pipe::Receiver::from_owned_fd).transpose()?,
        stderr: stderr.map(pipe::Receiver::from_owned_fd).transpose()?,
    })
}

fn is_shortage(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EAGAIN | libc::EMFILE | libc::ENFILE | libc::ENOMEM | libc::ETXTBSY)
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
