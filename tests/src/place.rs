//! A place of its own for each test: runtime folder, state folder, working folder, instance name, and
//! a mark that all its processes carry.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Mutex;
use std::sync::mpsc::channel;

use tempfile::TempDir;

use crate::fifo::{Fifo, Gate};
use crate::leaks::{self, Leak};
use crate::process::{Process, WATCHDOG};
use crate::programs::program;

/// Where one test runs its programs.
#[derive(Debug)]
pub struct Place {
    folder: TempDir,
    mark: String,
    makers: Mutex<HashSet<u32>>,
}

/// A program that has ended.
#[derive(Debug)]
pub struct Finished {
    /// Exit code; 128 and the number when a signal ended it.
    pub code: i32,
    /// What it printed.
    pub stdout: Vec<u8>,
    /// What it said.
    pub stderr: String,
}

impl Finished {
    /// Stdout as text.
    ///
    /// # Panics
    /// When it is not UTF-8.
    #[must_use]
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.stdout).expect("stdout is text")
    }

    /// Stdout as one JSON document.
    ///
    /// # Panics
    /// When it is none.
    #[must_use]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.stdout)
            .unwrap_or_else(|error| panic!("{error}: {}\n{}", self.text(), self.stderr))
    }

    /// Itself, if it ended with this code.
    ///
    /// # Panics
    /// When it ended otherwise; says what it said.
    pub fn expect_code(self, code: i32) -> Self {
        let stdout = String::from_utf8_lossy(&self.stdout);
        let shown = &stdout[..stdout.floor_char_boundary(2000)];
        assert_eq!(self.code, code, "stdout: {shown}\nstderr: {}", self.stderr);
        self
    }
}

impl Default for Place {
    fn default() -> Self {
        Self::new()
    }
}

impl Place {
    /// Makes the folders.
    ///
    /// # Panics
    /// When they cannot be made.
    #[must_use]
    pub fn new() -> Self {
        // Short, because a socket's path has at most 107 bytes.
        let folder = tempfile::Builder::new()
            .prefix("qtf-t")
            .tempdir()
            .expect("a folder can be made");
        for name in ["run", "state", "work"] {
            std::fs::create_dir(folder.path().join(name)).expect("a folder can be made");
        }
        let name = folder
            .path()
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let mark = format!("{}-{}", std::process::id(), name.trim_start_matches("qtf-"));
        Place {
            folder,
            mark,
            makers: Mutex::new(HashSet::new()),
        }
    }

    /// The folder in which programs run.
    #[must_use]
    pub fn work(&self) -> PathBuf {
        self.folder.path().join("work")
    }

    /// A file in the folder in which programs run.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn file(&self, name: impl AsRef<Path>, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.work().join(name);
        std::fs::write(&path, content).expect("a file can be written");
        path
    }

    /// A pipe in that folder.
    #[must_use]
    pub fn fifo(&self, name: &str) -> Fifo {
        Fifo::new(self.work().join(name))
    }

    /// A pipe in that folder that holds tasks up.
    #[must_use]
    pub fn gate(&self, name: &str) -> Gate {
        Gate::new(self.work().join(name))
    }

    /// The address of the default socket of this place.
    #[must_use]
    pub fn default_address(&self) -> String {
        format!(
            "unix:{}",
            self.folder.path().join("run/qtf/default.sock").display()
        )
    }

    /// The name of this place's daemon.
    #[must_use]
    pub fn instance(&self) -> &str {
        &self.mark
    }

    /// The folder of sockets and locks.
    #[must_use]
    pub fn runtime(&self) -> PathBuf {
        self.folder.path().join("run/qtf")
    }

    /// The address of [`Place::daemon`].
    #[must_use]
    pub fn address(&self) -> String {
        let socket = format!("run/qtf/{}.sock", self.mark);
        format!("unix:{}", self.folder.path().join(socket).display())
    }

    /// The segment of [`Place::daemon`], for programs that run here and for this process.
    #[must_use]
    pub fn segment_address(&self) -> String {
        format!("shm:{}/{}", self.runtime().display(), self.mark)
    }

    /// An address on which nobody listens at this moment.
    ///
    /// # Panics
    /// When the machine has none.
    #[must_use]
    pub fn free_tcp_address(&self) -> String {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port is free");
        listener
            .local_addr()
            .expect("a listener has an address")
            .to_string()
    }

    /// A program of this workspace, to be run here.
    #[must_use]
    pub fn command(&self, name: &str) -> Command {
        self.command_of(&program(name))
    }

    /// Any program, to be run here.
    #[must_use]
    pub fn command_of(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command
            .current_dir(self.work())
            .env("XDG_RUNTIME_DIR", self.folder.path().join("run"))
            .env("XDG_STATE_HOME", self.folder.path().join("state"))
            .env(leaks::MARK, &self.mark)
            .env_remove("QTF_ADDR")
            .env_remove("QTF_OUTPUT")
            .env_remove("QTF_LOG");
        command
    }

    /// Runs `qtf` to its end.
    pub fn qtf<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Finished {
        self.qtf_with_stdin(arguments, Vec::new())
    }

    /// Runs `qtf` to its end with these bytes on stdin.
    pub fn qtf_with_stdin<A: AsRef<OsStr>>(
        &self,
        arguments: impl IntoIterator<Item = A>,
        stdin: Vec<u8>,
    ) -> Finished {
        let mut command = self.command("qtf");
        command.args(arguments);
        self.finish(command, stdin)
    }

    /// Runs a program to its end.
    ///
    /// # Panics
    /// When it cannot be started or the watchdog bites.
    pub fn finish(&self, mut command: Command, stdin: Vec<u8>) -> Finished {
        let name = format!("{command:?}");
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command
            .spawn()
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        let pid = child.id();
        if let Some(mut pipe) = child.stdin.take() {
            // A program that does not read its stdin closes it.
            std::thread::spawn(move || pipe.write_all(&stdin));
        }
        let (send, ended) = channel();
        std::thread::spawn(move || send.send(child.wait_with_output()));
        let output = match ended.recv_timeout(WATCHDOG) {
            Ok(output) => output.expect("a child can be awaited"),
            Err(_) => {
                let pid = nix::unistd::Pid::from_raw(i32::try_from(pid).expect("pids are small"));
                let _ended = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
                panic!("{name} did not end in time");
            }
        };
        finished(output)
    }

    /// Starts `qtf dev` on the default socket of this place and waits until it serves.
    pub fn dev(&self, arguments: &[&str]) -> Process {
        let mut command = self.command("qtf");
        command.arg("dev").args(arguments);
        let mut process = self.started(Process::start(command));
        process.line_with("shm-inspect --id");
        process
    }

    /// Starts `qtfd` under the name of this place and waits until it serves.
    pub fn daemon(&self, arguments: &[&str]) -> Process {
        let mut command = self.command("qtfd");
        command
            .args(["--instance", &self.mark, "--core", "none"])
            .args(arguments);
        let mut process = self.started(Process::start(command));
        process.line_with("serving");
        process
    }

    /// Starts `qtf-worker` at an address and waits until it is registered.
    pub fn worker(&self, address: &str, name: &str, slots: u32) -> Process {
        let mut command = self.command("qtf-worker");
        command.args([
            "--connect",
            address,
            "--name",
            name,
            "--slots",
            &slots.to_string(),
        ]);
        let mut process = Process::start(command);
        process.line_with("registered");
        process
    }

    /// Remembers a process whose segment is removed with the place.
    fn started(&self, process: Process) -> Process {
        self.remember_maker(process.pid());
        process
    }

    /// Remembers a process whose segment is removed with the place.
    ///
    /// # Panics
    /// Never in a test that has not panicked before.
    pub fn remember_maker(&self, pid: u32) {
        self.makers.lock().expect("no test panics here").insert(pid);
    }

    /// Takes the segments that were made here away, as a reboot would.
    ///
    /// # Panics
    /// When `ipcrm` is not there.
    pub fn remove_segments(&self) {
        leaks::remove(&self.segments());
    }

    /// Files in the runtime folder, but for lock files and what local processes are told, which stay on purpose.
    #[must_use]
    pub fn runtime_files(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut folders = vec![self.folder.path().join("run")];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
                let path = entry.path();
                if path.is_dir() {
                    folders.push(path);
                } else if path
                    .extension()
                    .is_none_or(|extension| extension != "lock" && extension != "local")
                {
                    found.push(path);
                }
            }
        }
        found
    }

    /// Leaves the folder where it is, for people who want to know why a test has failed.
    pub fn keep(&mut self) {
        self.folder.disable_cleanup(true);
    }

    /// The processes of this place that live.
    #[must_use]
    pub fn processes(&self) -> Vec<Leak> {
        leaks::processes(&self.mark, self.folder.path())
    }

    /// Has the inspector check the segment of [`Place::daemon`].
    ///
    /// # Panics
    /// When an invariant is broken; says which.
    pub fn verify(&self) {
        let mut inspect = self.command("shm-inspect");
        inspect.args(["--instance", &self.mark, "verify"]);
        self.finish(inspect, Vec::new()).expect_code(0);
    }

    /// The segments that were made here.
    ///
    /// # Panics
    /// Never in a test that has not panicked before.
    #[must_use]
    pub fn segments(&self) -> Vec<leaks::Segment> {
        leaks::segments(&self.makers.lock().expect("no test panics here"))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // Of a test that has failed, or that kills a worker whose tasks have children.
        for leak in self.processes() {
            let pid = nix::unistd::Pid::from_raw(leak.pid);
            let _ended = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
        }
        leaks::remove(&self.segments());
    }
}

fn finished(output: Output) -> Finished {
    use std::os::unix::process::ExitStatusExt as _;
    let signal = output.status.signal().map_or(-1, |signal| 128 + signal);
    Finished {
        code: output.status.code().unwrap_or(signal),
        stdout: output.stdout,
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}
