//! The process of a peer: on the loopback, at a free port, in a folder of its own; both are gone when it is dropped.

use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use nix::time::{ClockId, clock_getcpuclockid};
use nix::unistd::Pid;
use qtf_benches::Failure;

/// LIMIT: a peer that does not listen by then has failed.
const START_MAX: Duration = Duration::from_secs(30);
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// A running peer.
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
    folder: PathBuf,
    /// Where it listens.
    pub(crate) port: u16,
}

/// Where a program is, if it is installed.
pub(crate) fn installed(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders =
        std::env::split_paths(&path).chain(["/usr/sbin".into(), "/usr/local/sbin".into()]);
    let mut places = folders.map(|folder| folder.join(program));
    places.find(|place| place.is_file())
}

impl Server {
    /// Starts a peer with these words; `PORT` and `FOLDER` in them are filled in.
    pub(crate) fn start(program: &Path, words: &[&str]) -> Result<Self, Failure> {
        let folder = nix::unistd::mkdtemp(&std::env::temp_dir().join("qtf-peer-XXXXXX"))?;
        // Free a moment ago; a peer that does not get it ends, which is told.
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?
            .local_addr()?
            .port();
        let words = words.iter().map(|word| {
            let word = word.replace("PORT", &port.to_string());
            word.replace("FOLDER", &folder.display().to_string())
        });
        let child = Command::new(program)
            .args(words)
            .current_dir(&folder)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let mut server = Server {
            child,
            folder,
            port,
        };
        let began = Instant::now();
        while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
            let ended = server.child.try_wait()?;
            if ended.is_some() || began.elapsed() > START_MAX {
                return Err(format!("{} does not listen: {ended:?}", program.display()).into());
            }
            std::thread::park_timeout(LOOK_AGAIN);
        }
        Ok(server)
    }

    /// Processor time of all its threads.
    pub(crate) fn processor_time(&self) -> Result<Duration, Failure> {
        let clock: ClockId = clock_getcpuclockid(Pid::from_raw(i32::try_from(self.child.id())?))?;
        Ok(clock.now()?.into())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // In order where it can; it is ours until it was waited for.
        if let Ok(pid) = i32::try_from(self.child.id()) {
            let _gone = nix::sys::signal::kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
        let began = Instant::now();
        while matches!(self.child.try_wait(), Ok(None)) && began.elapsed() < START_MAX / 3 {
            std::thread::park_timeout(LOOK_AGAIN);
        }
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
        let _gone = std::fs::remove_dir_all(&self.folder);
    }
}
