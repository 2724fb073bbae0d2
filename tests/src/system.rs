//! A whole system that is tormented: a daemon with a data folder, three workers, two clients; each is killed and started
//! again, or stopped and continued.
//!
//! A process that ends although nobody killed it ends the test, with the last lines of its log. Pauses between two kills
//! are part of what is tried out; nothing waits for a pause to have had an effect. Used by `tests/kills.rs` and
//! `tests/stops.rs`.

use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::ledger::{self, Ledger};
use crate::place::Place;

/// Workers of a system.
pub const WORKERS: usize = 3;
/// Clients of a system.
pub const CLIENTS: usize = 2;

/// What a system is to do.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Tasks of each client.
    pub tasks: u64,
    /// Remove the segment whenever the daemon dies: it starts from journal and snapshot.
    pub cold: bool,
    /// Further lines of the daemon's configuration.
    pub config: String,
    /// The program `system-client`.
    pub client: PathBuf,
    /// Longest time that the whole may take.
    pub within: Duration,
}

/// One process and how it is started.
#[derive(Debug)]
struct Member {
    name: String,
    child: Option<Child>,
    lives: u32,
}

/// The running system.
#[derive(Debug)]
pub struct System {
    place: Place,
    plan: Plan,
    /// The daemon, the workers, the clients.
    members: Vec<Member>,
    started: Instant,
}

const DAEMON: usize = 0;

impl System {
    /// Starts everything.
    ///
    /// # Panics
    /// When something cannot be started.
    #[must_use]
    pub fn start(plan: Plan) -> Self {
        let place = Place::new();
        let data = place.work().join("data");
        std::fs::create_dir_all(&data).expect("a folder can be made");
        let config = format!(
            "data_dir = {:?}\nsegment_bytes = 67108864\njournal_file_bytes = 1048576\nsnapshot_after_bytes = 2097152\n{}\n",
            data.display().to_string(),
            plan.config
        );
        place.file("qtfd.toml", config);
        let names = std::iter::once("daemon".to_owned())
            .chain((0..WORKERS).map(|number| format!("worker-{number}")))
            .chain((0..CLIENTS).map(|number| format!("client-{number}")));
        let members = names
            .map(|name| Member {
                name,
                child: None,
                lives: 0,
            })
            .collect();
        let mut system = Self {
            place,
            plan,
            members,
            started: Instant::now(),
        };
        for member in 0..system.members.len() {
            system.launch(member);
        }
        system
    }

    /// How many processes can be tormented: the daemon is number 0, then workers, then clients.
    #[must_use]
    pub fn count(&self) -> usize {
        self.members.len()
    }

    /// The place it runs in.
    #[must_use]
    pub fn place(&self) -> &Place {
        &self.place
    }

    fn command(&self, member: usize) -> Command {
        let name = &self.members[member].name;
        let address = self.place.address();
        if member == DAEMON {
            let mut command = self.place.command("qtfd");
            command.args(["--core", "none", "--instance", self.place.instance()]);
            command.args(["--config", "qtfd.toml"]);
            command
        } else if member <= WORKERS {
            let mut command = self.place.command("qtf-worker");
            command.args(["--connect", &address, "--name", name, "--slots", "4"]);
            command
        } else {
            let mut command = self.place.command_of(&self.plan.client);
            command
                .arg(&address)
                .arg(name)
                .arg(self.plan.tasks.to_string())
                .arg(self.ledger(member))
                .arg(self.runs());
            command
        }
    }

    fn ledger(&self, member: usize) -> PathBuf {
        self.place
            .work()
            .join(format!("{}.ledger", self.members[member].name))
    }

    fn runs(&self) -> PathBuf {
        self.place.work().join("runs")
    }

    fn log(&self, member: usize) -> PathBuf {
        self.place
            .work()
            .join(format!("{}.log", self.members[member].name))
    }

    fn launch(&mut self, member: usize) {
        let log = self.append_log(member).expect("a log can be opened");
        let mut command = self.command(member);
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a descriptor can be copied"))
            .stderr(log);
        let child = command
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        if member == DAEMON {
            self.place.remember_maker(child.id());
        }
        self.members[member].child = Some(child);
        self.members[member].lives = self.members[member].lives.saturating_add(1);
    }

    fn append_log(&self, member: usize) -> io::Result<File> {
        Ledger::append_to(&self.log(member))
    }

    /// Kills a process, as the kernel would for want of memory, and starts it again. False when it had done its work.
    ///
    /// # Panics
    /// When it had ended by itself.
    pub fn kill(&mut self, member: usize) -> bool {
        let Some(mut child) = self.members[member].child.take() else {
            return false;
        };
        if let Some(status) = child.try_wait().expect("a child can be asked") {
            self.ended(member, status);
            return false;
        }
        child.kill().expect("a child can be killed");
        let status = child.wait().expect("a child can be awaited");
        if status.code().is_some() {
            // It was quicker.
            self.ended(member, status);
            return false;
        }
        if member == DAEMON && self.plan.cold {
            self.place.remove_segments();
        }
        self.launch(member);
        true
    }

    /// Stops a process for a while. False when it had done its work.
    ///
    /// # Panics
    /// When it had ended by itself.
    pub fn freeze(&mut self, member: usize, time: Duration) -> bool {
        let Some(child) = self.members[member].child.as_ref() else {
            return false;
        };
        let pid = Pid::from_raw(i32::try_from(child.id()).expect("pids are small"));
        kill(pid, Signal::SIGSTOP).expect("a child can be stopped");
        self.go_on(time);
        kill(pid, Signal::SIGCONT).expect("a stopped child is there");
        true
    }

    /// Lets the system run for a while. True when all clients have done their work.
    ///
    /// # Panics
    /// When a process ends by itself, or the time is over.
    pub fn go_on(&mut self, time: Duration) -> bool {
        let until = Instant::now() + time;
        loop {
            self.look();
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() || self.is_done() {
                return self.is_done();
            }
            std::thread::park_timeout(left.min(Duration::from_millis(20)));
        }
    }

    /// Runs until all clients have done their work.
    ///
    /// # Panics
    /// As [`System::go_on`].
    pub fn finish(&mut self) {
        while !self.go_on(Duration::from_secs(1)) {}
    }

    fn is_done(&self) -> bool {
        let mut clients = self.members.iter().skip(1 + WORKERS);
        clients.all(|client| client.child.is_none())
    }

    fn look(&mut self) {
        for member in 0..self.members.len() {
            let child = self.members[member].child.as_mut();
            if let Some(status) =
                child.and_then(|child| child.try_wait().expect("a child can be asked"))
            {
                self.members[member].child = None;
                self.ended(member, status);
            }
        }
        if self.started.elapsed() > self.plan.within {
            self.give_up("the time is over");
        }
    }

    /// Only a client may end, and only well.
    fn ended(&self, member: usize, status: ExitStatus) {
        if member <= WORKERS || !status.success() {
            self.give_up(&format!("{}: {status}", self.members[member].name));
        }
    }

    fn give_up(&self, why: &str) -> ! {
        let mut text = format!("{why}\n");
        for (member, one) in self.members.iter().enumerate() {
            let log = std::fs::read(self.log(member)).unwrap_or_default();
            let log = String::from_utf8_lossy(&log).into_owned();
            let lines: Vec<&str> = log.lines().collect();
            text.push_str(&format!("--- {} (life {})\n", one.name, one.lives));
            for line in lines.iter().skip(lines.len().saturating_sub(12)) {
                text.push_str(line);
                text.push('\n');
            }
        }
        for member in 1 + WORKERS..self.members.len() {
            // A client that lives may be writing a line just now.
            let ledger = std::fs::read_to_string(self.ledger(member)).unwrap_or_default();
            let count = |word| ledger.lines().filter(|line| line.starts_with(word)).count();
            text.push_str(&format!(
                "{}: {} answers, {} ends\n",
                self.members[member].name,
                count("accepted"),
                count("delivered")
            ));
        }
        panic!("{text}");
    }

    fn ledgers(&self) -> Vec<Ledger> {
        (1 + WORKERS..self.members.len())
            .map(|member| Ledger::read(&self.ledger(member)).expect("ledgers are whole"))
            .collect()
    }

    /// Checks everything that was written down, the segment, and that the daemon stops in order.
    ///
    /// # Panics
    /// When something is lost, doubled or broken.
    pub fn check(mut self) {
        assert!(
            self.is_done(),
            "not before the clients have done their work"
        );
        let runs = ledger::runs(&self.runs());
        ledger::check(&self.ledgers(), self.plan.tasks, &runs);
        self.check_nothing_is_left();
        self.place.verify();
        for member in (0..=WORKERS).rev() {
            let Some(mut child) = self.members[member].child.take() else {
                self.give_up("a process is missing");
            };
            let pid = Pid::from_raw(i32::try_from(child.id()).expect("pids are small"));
            kill(pid, Signal::SIGTERM).expect("it is there");
            let status = child.wait().expect("a child can be awaited");
            assert!(status.success(), "{}: {status}", self.members[member].name);
        }
    }

    /// What is kept now are ends that a client has written down and could not acknowledge any more.
    fn check_nothing_is_left(&self) {
        let listed = self.place.qtf([
            "--addr",
            &self.place.address(),
            "ps",
            "--all",
            "--output",
            "jsonl",
        ]);
        let listed = listed.expect_code(0);
        let ledgers = self.ledgers();
        for line in listed.text().lines() {
            let task: serde_json::Value = serde_json::from_str(line).expect("jsonl is JSON");
            assert_eq!(task["state"], "done", "{task}");
            let is_delivered = ledgers.iter().any(|ledger| {
                let mut ends = ledger.delivered.values().flatten();
                ends.any(|end| task["id"] == *end.id)
            });
            assert!(is_delivered, "nobody was told of {task}");
        }
    }

    /// How often processes were started beyond their first life.
    #[must_use]
    pub fn restarts(&self) -> u32 {
        self.members.iter().map(|member| member.lives - 1).sum()
    }
}

impl Drop for System {
    fn drop(&mut self) {
        for member in &mut self.members {
            if let Some(mut child) = member.child.take() {
                // It may have ended by now.
                let _ended = child.kill();
                let _status = child.wait();
            }
        }
    }
}
