//! A real `qtfd` process for one test: started, read, signalled; ended and its segment removed whatever becomes
//! of the test.

use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use qtf_proto::address::Address;

use crate::support::Peer;

/// LIMIT: what takes longer than this hangs.
pub(crate) const WATCHDOG: Duration = Duration::from_secs(300);

/// Where the daemons of one test live, one after the other.
pub(crate) struct Home {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) name: String,
}

impl Home {
    pub(crate) fn new(test: &str) -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
            name: format!("test-{test}-{}", std::process::id()),
        }
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.path().join(format!("qtf/{}.sock", self.name))
    }

    /// Writes the configuration file that the daemons of this test read.
    pub(crate) fn configure(&self, text: &str) {
        std::fs::write(self.folder.path().join("qtfd.toml"), text).unwrap();
    }

    /// The command, with what every test wants: a small segment, no pinning.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        self.command_under(&[], arguments)
    }

    /// The same, run by another program.
    pub(crate) fn command_under(&self, wrapper: &[&str], arguments: &[&str]) -> Command {
        let qtfd = env!("CARGO_BIN_EXE_qtfd");
        let mut command = match wrapper {
            [] => Command::new(qtfd),
            [program, rest @ ..] => {
                let mut command = Command::new(program);
                command.args(rest).arg(qtfd);
                command
            }
        };
        command
            .env("XDG_RUNTIME_DIR", self.folder.path())
            .env_remove("QTF_LOG")
            .args(["--instance", &self.name, "--core", "none"])
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let file = self.folder.path().join("qtfd.toml");
        if file.exists() {
            command.arg("--config").arg(file);
        } else {
            command.args(["--segment-bytes", "8388608"]);
        }
        command
    }

    /// Starts a daemon.
    pub(crate) fn start(&self, arguments: &[&str]) -> Qtfd {
        Qtfd::of(self.command(arguments).spawn().unwrap())
    }

    /// Starts a daemon and waits until it serves.
    pub(crate) fn serving(&self, arguments: &[&str]) -> Qtfd {
        let mut daemon = self.start(arguments);
        daemon.wait_for_line("serving");
        daemon
    }

    pub(crate) async fn connect(&self) -> Peer {
        let address = Address::Unix(self.socket());
        Peer::over(qtf_proto::channel::connect(&address).await.unwrap())
    }

    /// Removes the segment, as a reboot does.
    pub(crate) fn lose_segment(&self) {
        assert!(remove_segment(&self.name), "there is a segment");
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        // The segment outlives its daemons by design; it shall not outlive the test. A start at which a call failed may
        // have made a second one behind the first.
        const KEYS_PROBED: usize = 16;
        for _ in 0..KEYS_PROBED {
            if !remove_segment(&self.name) {
                break;
            }
        }
    }
}

/// Removes the segment of an instance; false if there is none.
pub(crate) fn remove_segment(instance: &str) -> bool {
    let uid = nix::unistd::geteuid().as_raw();
    let Ok(view) = qtf_shm::SegmentView::attach_by_instance(instance, uid) else {
        return false;
    };
    let id = view.shm_id().unwrap().to_string();
    let ran = Command::new("ipcrm").args(["-m", &id]).status();
    ran.unwrap().success()
}

/// One daemon. Killed when dropped.
pub(crate) struct Qtfd {
    child: Child,
    lines: mpsc::Receiver<String>,
    /// What it has said so far.
    pub(crate) said: Vec<String>,
}

impl Qtfd {
    pub(crate) fn of(mut child: Child) -> Self {
        let (sender, lines) = mpsc::channel();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Self {
            child,
            lines,
            said: Vec::new(),
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for a line with `text` in it and gives it.
    pub(crate) fn wait_for_line(&mut self, text: &str) -> String {
        let line = self.next_line_with(text);
        line.unwrap_or_else(|| panic!("no line with \"{text}\" in {:#?}", self.said))
    }

    fn next_line_with(&mut self, text: &str) -> Option<String> {
        let until = Instant::now() + WATCHDOG;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let line = self.lines.recv_timeout(left).ok()?;
            self.said.push(line.clone());
            if line.contains(text) {
                return Some(line);
            }
        }
    }

    /// Whether a line with `text` was said so far.
    pub(crate) fn has_said(&mut self, text: &str) -> bool {
        self.said.extend(self.lines.try_iter());
        self.said.iter().any(|line| line.contains(text))
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.pid()).unwrap()), signal).unwrap();
    }

    /// How it ended, if it has.
    pub(crate) fn has_ended(&mut self) -> Option<ExitStatus> {
        let status = self.child.try_wait().unwrap()?;
        self.said.extend(self.lines.iter());
        Some(status)
    }

    /// Waits for its end; then everything it said is in `said`.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        let until = Instant::now() + WATCHDOG;
        loop {
            match self
                .lines
                .recv_timeout(until.saturating_duration_since(Instant::now()))
            {
                Ok(line) => self.said.push(line),
                Err(RecvTimeoutError::Disconnected) => return self.child.wait().unwrap(),
                Err(RecvTimeoutError::Timeout) => panic!("does not end; said {:#?}", self.said),
            }
        }
    }

    /// Asks it to stop and waits for its end.
    pub(crate) fn stop(mut self) -> Option<i32> {
        self.signal(Signal::SIGTERM);
        self.wait().code()
    }

    /// Kills it and waits for its end.
    pub(crate) fn kill(mut self) {
        self.signal(Signal::SIGKILL);
        assert_eq!(self.wait().code(), None);
    }
}

impl Drop for Qtfd {
    fn drop(&mut self) {
        // Ended already, most of the time.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Everything that a daemon that does not come to serve says, and its exit code.
pub(crate) fn refused(home: &Home, arguments: &[&str]) -> (Option<i32>, String) {
    let mut daemon = home.start(arguments);
    let code = daemon.wait().code();
    (code, daemon.said.join("\n"))
}
