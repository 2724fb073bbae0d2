//! A whole system that is tormented: a daemon with a data folder, workers and clients, some of them behind TCP links; each
//! process is killed and started again, or stopped and continued, each link cut or turned into a black hole.
//!
//! A process that ends although nobody killed it ends the test. A test that fails prints the last lines of all logs and
//! keeps the folder. Pauses between two kills are part of what is tried out; nothing waits for a pause to have had an
//! effect. What is done when is in [`crate::torment`], what must hold at the end in [`crate::books`] and [`crate::rest`].
//! Used by `tests/kills.rs` and `tests/stops.rs`.

use std::collections::BTreeSet;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::books::{self, Ends, Orders};
use crate::ledger::{self, Ledger};
use crate::link::Link;
use crate::place::Place;
use crate::rest;

/// Ports that no connection gets by itself on a usual machine, so that a daemon finds its own free again after a kill.
const PORTS: std::ops::Range<u16> = 20_000..30_000;
/// Longest time that clients may take for their work when nobody torments the system any more.
const CALM: Duration = Duration::from_secs(180);
/// Lines of each log that are shown.
const LINES_SHOWN: usize = 12;

/// What a system is to do.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Chooses what each task does.
    pub seed: u64,
    /// Tasks of each client in each round.
    pub tasks: u64,
    /// Remove the segment whenever the daemon dies: it starts from journal and snapshot.
    pub cold: bool,
    /// Further lines of the daemon's configuration.
    pub config: String,
    /// The program `system-client`.
    pub client: PathBuf,
    /// The program `system-local`.
    pub local: PathBuf,
    /// Longest time that the whole may take.
    pub within: Duration,
    /// The command that repeats it.
    pub again: String,
}

/// What a process is. Of a worker or client behind a link, its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// `qtfd`.
    Daemon,
    /// `qtf-worker`.
    Worker(Option<usize>),
    /// `system-client`.
    Client(Option<usize>),
    /// `system-local`.
    LocalWorker,
    /// `qtf-worker` at the segment.
    SegmentWorker,
    /// `system-client` at the segment.
    SegmentClient,
}

/// The daemon comes first, clients last.
const ROLES: [(&str, Role); 11] = [
    ("daemon", Role::Daemon),
    ("worker-0", Role::Worker(None)),
    ("worker-1", Role::Worker(None)),
    ("worker-2", Role::Worker(Some(0))),
    ("worker-3", Role::Worker(Some(1))),
    ("local-0", Role::LocalWorker),
    ("local-1", Role::LocalWorker),
    ("segment-0", Role::SegmentWorker),
    ("client-0", Role::Client(None)),
    ("client-1", Role::Client(Some(2))),
    ("client-2", Role::SegmentClient),
];
const LINKS: usize = 3;
const DAEMON: usize = 0;

/// One process and how it is started.
#[derive(Debug)]
struct Member {
    name: &'static str,
    role: Role,
    child: Option<Child>,
    lives: u32,
}

/// The running system.
#[derive(Debug)]
pub struct System {
    place: Place,
    plan: Plan,
    members: Vec<Member>,
    links: Vec<Link>,
    rounds: u64,
    started: Instant,
}

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
        let tcp = port_of_its_own();
        let config = format!(
            "data_dir = {:?}\nlisten = [{:?}, \"{tcp}\"]\nsegment_bytes = 67108864\njournal_file_bytes = 1048576\nsnapshot_after_bytes = 2097152\n{}\n",
            data.display().to_string(),
            place.address(),
            plan.config
        );
        place.file("qtfd.toml", config);
        let links = (0..LINKS).map(|_| Link::to(&tcp.to_string()));
        let members = ROLES.iter().map(|&(name, role)| Member {
            name,
            role,
            child: None,
            lives: 0,
        });
        let mut system = Self {
            place,
            plan,
            members: members.collect(),
            links: links.collect(),
            rounds: 1,
            started: Instant::now(),
        };
        for member in 0..system.members.len() {
            system.launch(member);
        }
        system
    }

    /// Starts clients that have done their work again, with more of it.
    ///
    /// # Panics
    /// When they have not.
    pub fn next_round(&mut self) {
        assert!(self.is_done(), "a round begins when the last is over");
        self.rounds += 1;
        for member in 0..self.members.len() {
            if self.is_client(member) {
                self.launch(member);
            }
        }
    }

    fn is_client(&self, member: usize) -> bool {
        matches!(self.role(member), Role::Client(_) | Role::SegmentClient)
    }

    /// Tasks of each client by now.
    fn tasks(&self) -> u64 {
        self.plan.tasks * self.rounds
    }

    /// How many processes can be tormented: the daemon is number 0, then workers, then clients.
    #[must_use]
    pub fn count(&self) -> usize {
        self.members.len()
    }

    /// What a process is.
    #[must_use]
    pub fn role(&self, member: usize) -> Role {
        self.members[member].role
    }

    /// The links that can be cut.
    #[must_use]
    pub fn links(&self) -> &[Link] {
        &self.links
    }

    /// The place it runs in.
    #[must_use]
    pub fn place(&self) -> &Place {
        &self.place
    }

    fn command(&self, member: usize) -> Command {
        let Member { name, role, .. } = &self.members[member];
        let address = |link: Option<usize>| match link {
            Some(link) => self.links[link].address(),
            None => self.place.address(),
        };
        let client = |address: &str| {
            let mut command = self.place.command_of(&self.plan.client);
            command
                .args([address, *name, &self.tasks().to_string()])
                .arg(self.file(member, "ledger"))
                .arg(self.runs())
                .arg(self.plan.seed.to_string())
                .arg(if self.plan.cold { "cold" } else { "hot" });
            command
        };
        let worker = |address: &str| {
            let mut command = self.place.command("qtf-worker");
            command.args(["--connect", address, "--name", *name, "--slots", "4"]);
            command.args(["--stop-grace", "200ms"]);
            command
        };
        match *role {
            Role::Daemon => {
                let mut command = self.place.command("qtfd");
                command.args(["--core", "none", "--instance", self.place.instance()]);
                command.args(["--config", "qtfd.toml"]);
                command
            }
            Role::Worker(link) => worker(&address(link)),
            Role::SegmentWorker => worker(&self.place.segment_address()),
            Role::SegmentClient => client(&self.place.segment_address()),
            Role::Client(link) => client(&address(link)),
            Role::LocalWorker => {
                let mut command = self.place.command_of(&self.plan.local);
                command
                    .args([self.place.instance(), name])
                    .arg(self.place.runtime())
                    .arg(self.place.work().join("data/spill"))
                    .arg(self.runs());
                command
            }
        }
    }

    fn file(&self, member: usize, kind: &str) -> PathBuf {
        let name = self.members[member].name;
        self.place.work().join(format!("{name}.{kind}"))
    }

    fn runs(&self) -> PathBuf {
        self.place.work().join("runs")
    }

    fn launch(&mut self, member: usize) {
        let log = Ledger::append_to(&self.file(member, "log")).expect("a log can be opened");
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
        self.members[member].lives += 1;
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

    /// Sends a signal to a process: to stop it, or to let it go on. False when it had done its work.
    ///
    /// # Panics
    /// Never: who is not awaited is there.
    pub fn signal(&self, member: usize, signal: Signal) -> bool {
        let Some(child) = self.members[member].child.as_ref() else {
            return false;
        };
        kill(pid_of(child), signal).expect("a child that was not awaited is there");
        true
    }

    /// Stops a process for a while. False when it had done its work.
    ///
    /// # Panics
    /// When it had ended by itself.
    pub fn freeze(&mut self, member: usize, time: Duration) -> bool {
        if !self.signal(member, Signal::SIGSTOP) {
            return false;
        }
        self.go_on(time);
        self.signal(member, Signal::SIGCONT)
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

    /// Heals everything, runs until all clients have done their work, and waits until the system is at rest.
    ///
    /// # Panics
    /// As [`System::go_on`], and when work or rest takes too long.
    pub fn finish(&mut self) {
        for link in &self.links {
            link.mend();
        }
        for member in 0..self.members.len() {
            self.signal(member, Signal::SIGCONT);
        }
        let until = Instant::now() + CALM;
        while !self.go_on(Duration::from_secs(1)) {
            if Instant::now() > until {
                let unrest = rest::describe(&self.place, &self.ledgers(), self.tasks());
                panic!(
                    "the work is not done within {} s:\n{unrest}",
                    CALM.as_secs()
                );
            }
        }
        rest::wait_for(&self.place, &self.ledgers(), self.tasks());
    }

    fn is_done(&self) -> bool {
        let mut members = 0..self.members.len();
        members.all(|member| !self.is_client(member) || self.members[member].child.is_none())
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
        assert!(
            self.started.elapsed() <= self.plan.within,
            "the time is over"
        );
    }

    /// Only a client may end, and only well.
    fn ended(&self, member: usize, status: ExitStatus) {
        let may_end = self.is_client(member) && status.success();
        assert!(may_end, "{}: {status}", self.members[member].name);
    }

    /// The ledgers of all clients, by name.
    ///
    /// # Panics
    /// When one is damaged.
    #[must_use]
    pub fn ledgers(&self) -> Vec<(String, Ledger)> {
        let clients = (0..self.members.len()).filter(|&member| self.is_client(member));
        clients
            .map(|member| {
                let ledger = Ledger::read(&self.file(member, "ledger"));
                let name = self.members[member].name.to_owned();
                (name, ledger.expect("ledgers are whole"))
            })
            .collect()
    }

    /// Checks everything that was written down, the segment, and that all processes stop in order. Tells how the tasks
    /// ended. Goes after [`System::finish`].
    ///
    /// # Panics
    /// When something is lost, doubled or broken.
    pub fn check(mut self) -> Ends {
        assert!(
            self.is_done(),
            "not before the clients have done their work"
        );
        let orders = Orders {
            seed: self.plan.seed,
            tasks: self.tasks(),
            is_cold: self.plan.cold,
        };
        let balance = books::check(&orders, &self.ledgers(), &ledger::runs(&self.runs()));
        let ends = balance.unwrap_or_else(|faults| {
            let shown = faults.len().min(10);
            panic!(
                "{} faults in the books, the first are\n{}",
                faults.len(),
                faults[..shown].join("\n")
            )
        });
        self.place.verify();
        for member in (0..self.members.len()).rev() {
            let Some(mut child) = self.members[member].child.take() else {
                continue;
            };
            kill(pid_of(&child), Signal::SIGTERM).expect("it is there");
            let status = child.wait().expect("a child can be awaited");
            assert!(status.success(), "{}: {status}", self.members[member].name);
        }
        ends
    }

    /// How often processes were started beyond their first life.
    #[must_use]
    pub fn restarts(&self) -> u32 {
        self.members.iter().map(|member| member.lives - 1).sum()
    }

    /// The last lines of all logs, and how far the clients are.
    fn report(&self) -> io::Result<String> {
        let folder = self.place.work();
        let mut text = format!("again: {}\nkept: {}\n", self.plan.again, folder.display());
        for (member, one) in self.members.iter().enumerate() {
            text.push_str(&format!("--- {} (life {})\n", one.name, one.lives));
            let log = std::fs::read(self.file(member, "log"))?;
            let log = String::from_utf8_lossy(&log).into_owned();
            let lines: Vec<&str> = log.lines().collect();
            for line in lines.iter().skip(lines.len().saturating_sub(LINES_SHOWN)) {
                text.push_str(line);
                text.push('\n');
            }
        }
        for member in 0..self.members.len() {
            if self.is_client(member) {
                let ledger = Ledger::read(&self.file(member, "ledger"))?;
                let closed = ledger.pages.values().filter(|page| page.is_closed());
                text.push_str(&format!(
                    "{}: {} tasks accepted, {} closed\n",
                    self.members[member].name,
                    ledger.pages.len(),
                    closed.count()
                ));
            }
        }
        Ok(text)
    }
}

impl Drop for System {
    #[expect(clippy::print_stderr, reason = "of a test that fails")]
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.place.keep();
            match self.report() {
                Ok(text) => eprintln!("{text}"),
                Err(error) => eprintln!("no logs: {error}"),
            }
        }
        for member in &mut self.members {
            if let Some(mut child) = member.child.take() {
                // It may have ended by now.
                let _ended = child.kill();
                let _status = child.wait();
            }
        }
    }
}

fn pid_of(child: &Child) -> Pid {
    Pid::from_raw(i32::try_from(child.id()).expect("pids are small"))
}

/// An address on which nobody listens at this moment, and that no other system of this process gets.
fn port_of_its_own() -> SocketAddr {
    static TAKEN: Mutex<BTreeSet<SocketAddr>> = Mutex::new(BTreeSet::new());
    let mut taken = TAKEN.lock().expect("no test panics here");
    let mut random = fastrand::Rng::new();
    for _ in 0..1_000 {
        let address = SocketAddr::from(([127, 0, 0, 1], random.u16(PORTS)));
        if TcpListener::bind(address).is_ok() && taken.insert(address) {
            return address;
        }
    }
    panic!("no port of {PORTS:?} is free");
}
