//! The processes of a bench as it sees them: started, told, ended.
//!
//! Invariants:
//! - P1: each is in a process group of its own, so that Ctrl-C reaches the bench alone, which ends them in order.
//! - P2: each has a pipe from the bench as stdin and leaves when that ends, also when the bench was killed.
//! - P3: dropping them kills those that have not left, and removes what the daemon would have.
//!
//! Tested in `tests/bench.rs`.

use std::ffi::OsString;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use qtf_proto::address::Address;
use tokio::sync::mpsc;

use super::part::{GO, READY, remove_segment, socket_in};
use crate::exit::{Exit, Failure};

/// How long a process that was told to leave has before it is killed.
const LEAVE_MAX: Duration = Duration::from_secs(20);
const LOOK_AGAIN: Duration = Duration::from_millis(2);

/// What is heard of a process.
#[derive(Debug)]
enum Event {
    /// The daemon serves.
    Ready { shm_id: i32 },
    /// Its stdout has ended, and so has it.
    Ended(&'static str),
}

/// The processes.
#[derive(Debug)]
pub(super) struct Parts {
    daemon: Option<Part>,
    workers: Vec<Part>,
    folder: Option<PathBuf>,
    /// Of the own daemon.
    shm_id: Option<i32>,
    events: mpsc::UnboundedReceiver<Event>,
    tell: mpsc::UnboundedSender<Event>,
}

#[derive(Debug)]
struct Part {
    child: Child,
    stdin: Option<ChildStdin>,
}

impl Parts {
    /// None yet.
    pub(super) fn new() -> Self {
        let (tell, events) = mpsc::unbounded_channel();
        Parts {
            daemon: None,
            workers: Vec::new(),
            folder: None,
            shm_id: None,
            events,
            tell,
        }
    }

    /// Starts a daemon and waits until it serves.
    pub(super) async fn start_daemon(
        &mut self,
        segment_bytes: u64,
        journal: bool,
    ) -> Result<Address, Failure> {
        let folder = make_folder()?;
        let address = socket_in(&folder);
        self.folder = Some(folder.clone());
        let mut words: Vec<OsString> = vec!["daemon".into(), "--folder".into(), folder.into()];
        words.extend(["--segment-bytes".into(), segment_bytes.to_string().into()]);
        if journal {
            words.push("--journal".into());
        }
        self.daemon = Some(self.start("daemon", None, words)?);
        match self.events.recv().await {
            Some(Event::Ready { shm_id }) => {
                self.shm_id = Some(shm_id);
                Ok(address)
            }
            Some(Event::Ended(what)) => Err(ended(what)),
            None => Err(ended("daemon")),
        }
    }

    /// Starts a worker.
    pub(super) fn start_worker(
        &mut self,
        address: &Address,
        (name, kind): (&str, &str),
        (slots, result, spin): (u32, u32, Duration),
    ) -> Result<(), Failure> {
        let words = [
            "worker".to_owned(),
            format!("--name={name}"),
            format!("--kind={kind}"),
            format!("--slots={slots}"),
            format!("--result={result}"),
            format!("--spin={}us", spin.as_micros()),
        ];
        let words = words.into_iter().map(Into::into).collect();
        let worker = self.start("worker", Some(address), words)?;
        self.workers.push(worker);
        Ok(())
    }

    fn start(
        &self,
        what: &'static str,
        address: Option<&Address>,
        words: Vec<OsString>,
    ) -> Result<Part, Failure> {
        let mut command = Command::new("/proc/self/exe");
        command.arg0("qtf").arg("bench-part").args(words);
        match address {
            Some(address) => command.arg("--addr").arg(address.to_string()),
            None => command.env_remove("QTF_ADDR"),
        };
        command
            .env_remove("QTF_OUTPUT")
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut child = command.spawn().map_err(|error| {
            Failure::new(Exit::Unreachable, format!("cannot start a {what}: {error}"))
        })?;
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
        let part = Part { child, stdin };
        let tell = self.tell.clone();
        let listen = move || {
            for line in BufReader::new(stdout.into_iter().next().ok_or(())?).lines() {
                let Ok(line) = line else { break };
                let shm_id = line
                    .strip_prefix(READY)
                    .and_then(|rest| rest.trim().parse().ok());
                if let Some(shm_id) = shm_id {
                    let _gone = tell.send(Event::Ready { shm_id });
                }
            }
            let _gone = tell.send(Event::Ended(what));
            Ok::<(), ()>(())
        };
        let thread = std::thread::Builder::new().name(format!("qtf-bench-{what}"));
        thread.spawn(listen).map_err(|error| {
            Failure::new(Exit::Unreachable, format!("cannot start a thread: {error}"))
        })?;
        Ok(part)
    }

    /// The process id of the own daemon.
    pub(super) fn daemon_pid(&self) -> Option<u32> {
        self.daemon.as_ref().map(|part| part.child.id())
    }

    /// Process ids of the workers.
    pub(super) fn worker_pids(&self) -> Vec<u32> {
        self.workers.iter().map(|part| part.child.id()).collect()
    }

    /// Lets the workers end what they hold and what comes.
    pub(super) fn go(&mut self) -> Result<(), Failure> {
        for worker in &mut self.workers {
            if let Some(stdin) = &mut worker.stdin {
                let told = stdin.write_all(format!("{GO}\n").as_bytes());
                told.map_err(|_| ended("worker"))?;
            }
        }
        Ok(())
    }

    /// Waits until one ends by itself, which none should.
    pub(super) async fn ended_by_itself(&mut self) -> Failure {
        loop {
            match self.events.recv().await {
                Some(Event::Ended(what)) => return ended(what),
                Some(Event::Ready { .. }) => {}
                None => return ended("process"),
            }
        }
    }

    /// Ends them, the workers first, each in order where it can.
    pub(super) async fn leave(&mut self) -> Result<(), Failure> {
        for worker in &mut self.workers {
            worker.stdin = None;
        }
        for worker in &mut self.workers {
            worker.left().await;
        }
        if let Some(daemon) = &mut self.daemon {
            daemon.stdin = None;
            daemon.left().await;
        }
        self.clean_up()
    }

    /// What a daemon that was killed has left.
    fn clean_up(&mut self) -> Result<(), Failure> {
        if let Some(folder) = self.folder.take() {
            match std::fs::remove_dir_all(&folder) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    let text = format!("{} stays: {error}", folder.display());
                    return Err(Failure::new(Exit::Unreachable, text));
                }
                Ok(()) | Err(_) => {}
            }
        }
        self.shm_id.take().map_or(Ok(()), remove_segment)
    }
}

impl Drop for Parts {
    fn drop(&mut self) {
        for part in self.workers.iter_mut().chain(&mut self.daemon) {
            // One that has left is no more there to be killed.
            let _gone = part.child.kill();
            let _reaped = part.child.wait();
        }
        // Nobody is left to tell.
        let _cleaned = self.clean_up();
    }
}

impl Part {
    /// Waits until it has left; kills it if it does not.
    async fn left(&mut self) {
        let until = Instant::now() + LEAVE_MAX;
        while matches!(self.child.try_wait(), Ok(None)) {
            if Instant::now() > until {
                // It may leave at this moment.
                let _gone = self.child.kill();
                let _reaped = self.child.wait();
                return;
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }
}

fn ended(what: &str) -> Failure {
    Failure::new(
        Exit::Unreachable,
        format!("a process of the bench ended by itself: its {what}"),
    )
}

/// A folder that nobody else can look into.
fn make_folder() -> Result<PathBuf, Failure> {
    let template = std::env::temp_dir().join("qtf-bench-XXXXXX");
    let folder = nix::unistd::mkdtemp(&template).map_err(|error| {
        let text = format!(
            "no folder can be made in {}: {error}; set TMPDIR to one of your own",
            std::env::temp_dir().display()
        );
        Failure::usage(text)
    })?;
    Ok(folder)
}
