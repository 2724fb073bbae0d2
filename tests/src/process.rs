//! A child process of a test: its lines are events, its end is awaited with a watchdog, and it is
//! killed when it is dropped.

use std::io::{BufRead as _, BufReader, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A wait that takes longer has failed. Long, because machines may be busy; no test waits for it to
/// pass.
pub const WATCHDOG: Duration = Duration::from_secs(300);

/// A running program.
#[derive(Debug)]
pub struct Process {
    name: String,
    pid: Pid,
    /// Lines of both outputs, as they come.
    lines: Receiver<String>,
    seen: Vec<String>,
    end: Receiver<ExitStatus>,
    status: Option<ExitStatus>,
}

impl Process {
    /// Starts a program whose outputs are read as lines.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn start(mut command: Command) -> Self {
        let name = format!("{command:?}");
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command
            .spawn()
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        let (send, lines) = channel();
        let outputs: [Option<Box<dyn Read + Send>>; 2] = [
            child
                .stdout
                .take()
                .map(|output| Box::new(output) as Box<dyn Read + Send>),
            child
                .stderr
                .take()
                .map(|output| Box::new(output) as Box<dyn Read + Send>),
        ];
        for output in outputs.into_iter().flatten() {
            let send = send.clone();
            std::thread::spawn(move || {
                for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
                    if send
                        .send(String::from_utf8_lossy(&line).into_owned())
                        .is_err()
                    {
                        return;
                    }
                }
            });
        }
        let (pid, end) = watch(child);
        Process {
            name,
            pid,
            lines,
            seen: Vec::new(),
            end,
            status: None,
        }
    }

    /// The process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid.as_raw().unsigned_abs()
    }

    /// Waits for a line that holds `text`.
    ///
    /// # Panics
    /// When the program ends before, or the watchdog bites.
    pub fn line_with(&mut self, text: &str) -> String {
        let until = Instant::now() + WATCHDOG;
        loop {
            match self
                .lines
                .recv_timeout(until.saturating_duration_since(Instant::now()))
            {
                Ok(line) => {
                    self.seen.push(line.clone());
                    if line.contains(text) {
                        return line;
                    }
                }
                Err(error) => {
                    let why = match error {
                        RecvTimeoutError::Timeout => "in time",
                        RecvTimeoutError::Disconnected => "before its end",
                    };
                    panic!(
                        "{} printed no line with {text:?} {why}; it printed {:#?}",
                        self.name, self.seen
                    )
                }
            }
        }
    }

    /// All that it printed until its end, line by line.
    ///
    /// # Panics
    /// When the watchdog bites.
    pub fn lines_to_the_end(&mut self) -> &[String] {
        self.wait();
        // What inherited an output may hold it open.
        while let Ok(line) = self.lines.recv_timeout(WATCHDOG) {
            self.seen.push(line);
        }
        &self.seen
    }

    /// Sends a signal.
    ///
    /// # Panics
    /// When it has ended before.
    pub fn signal(&self, signal: Signal) {
        assert!(self.status.is_none(), "{} has ended", self.name);
        kill(self.pid, signal).unwrap_or_else(|error| panic!("{}: {signal}: {error}", self.name));
    }

    /// Waits for the end.
    ///
    /// # Panics
    /// When the watchdog bites.
    pub fn wait(&mut self) -> ExitStatus {
        if let Some(status) = self.status {
            return status;
        }
        let Ok(status) = self.end.recv_timeout(WATCHDOG) else {
            self.seen.extend(self.lines.try_iter());
            panic!(
                "{} did not end in time; it printed {:#?}",
                self.name, self.seen
            )
        };
        self.status = Some(status);
        status
    }

    /// Kills it as the kernel would, and waits for the end.
    pub fn kill(&mut self) {
        self.signal(Signal::SIGKILL);
        self.wait();
    }

    /// Asks it to stop and gives its exit code; `None` when a signal ended it.
    pub fn terminate(&mut self) -> Option<i32> {
        self.signal(Signal::SIGTERM);
        self.wait().code()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.status.is_none() && self.end.try_recv().is_err() {
            // It may end at this moment; its zombie is ours until the watcher has seen it.
            let _ended = kill(self.pid, Signal::SIGKILL);
            let _status = self.end.recv_timeout(WATCHDOG);
        }
    }
}

/// Waits for the end of a child on a thread of its own.
pub(crate) fn watch(mut child: Child) -> (Pid, Receiver<ExitStatus>) {
    let pid = Pid::from_raw(i32::try_from(child.id()).expect("pids are small"));
    let (send, end) = channel();
    std::thread::spawn(move || {
        if let Ok(status) = child.wait() {
            let _nobody_asks = send.send(status);
        }
    });
    (pid, end)
}
