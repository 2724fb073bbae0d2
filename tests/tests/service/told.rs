//! Daemon and worker in front of a service manager that the test plays: what it is told, and when; and sockets that it hands over.

use std::collections::VecDeque;
use std::net::TcpListener;
use std::os::unix::net::UnixDatagram;
use std::process::Command;

use nix::sys::signal::Signal;
use qtf_needs::{Need, lacks};
use qtf_tests::process::WATCHDOG;
use qtf_tests::programs::program;
use qtf_tests::{Place, Process};

/// The manager's end of the socket.
struct Manager {
    socket: UnixDatagram,
    told: VecDeque<String>,
}

impl Manager {
    fn new(place: &Place) -> Self {
        let socket = UnixDatagram::bind(Self::path(place)).expect("a socket can be made");
        socket
            .set_read_timeout(Some(WATCHDOG))
            .expect("it takes a time");
        Self {
            socket,
            told: VecDeque::new(),
        }
    }

    fn path(place: &Place) -> std::path::PathBuf {
        place.work().join("notify")
    }

    /// Starts a program under this manager, with a watchdog of two seconds.
    fn start(place: &Place, mut command: Command) -> Process {
        command.env("NOTIFY_SOCKET", Self::path(place));
        command
            .env("WATCHDOG_USEC", "2000000")
            .env_remove("WATCHDOG_PID");
        let process = Process::start(command);
        place.remember_maker(process.pid());
        process
    }

    fn next(&mut self) -> String {
        while self.told.is_empty() {
            let mut bytes = [0; 4096];
            let length = self
                .socket
                .recv(&mut bytes)
                .expect("something is told in time");
            let text = String::from_utf8_lossy(&bytes[..length]).into_owned();
            self.told.extend(text.lines().map(str::to_owned));
        }
        self.told.pop_front().unwrap_or_default()
    }

    /// What is told up to a line that begins so; that one last.
    fn up_to(&mut self, start: &str) -> Vec<String> {
        let mut told = vec![self.next()];
        while !told.last().is_some_and(|line| line.starts_with(start)) {
            told.push(self.next());
        }
        told
    }
}

fn daemon(place: &Place) -> Command {
    let mut command = place.command("qtfd");
    command.args(["--instance", place.instance(), "--core", "none"]);
    command
}

#[test]
fn manager_is_told_when_the_daemon_serves_lives_reloads_and_stops() {
    let place = Place::new();
    let mut manager = Manager::new(&place);
    let config = place.file("qtfd.toml", "log = \"info\"\n");
    let mut command = daemon(&place);
    command.arg("--config").arg(&config);
    let mut daemon = Manager::start(&place, command);
    let before = manager.up_to("READY=1");
    assert_eq!(before, ["READY=1"], "nothing is said of life before");
    // Ready means that it serves.
    place.qtf(["--addr", &place.address(), "ps"]).expect_code(0);
    manager.up_to("STATUS=0 waiting, 0 running");
    manager.up_to("WATCHDOG=1");
    manager.up_to("WATCHDOG=1");
    place
        .qtf(["--addr", &place.address(), "submit", "--", "true"])
        .expect_code(0);
    manager.up_to("STATUS=1 waiting, 0 running");

    place.file("qtfd.toml", "log = \"debug\"\nlease_ms = 7000\n");
    daemon.signal(Signal::SIGHUP);
    manager.up_to("RELOADING=1");
    let during = manager.up_to("READY=1");
    assert!(during[0].starts_with("MONOTONIC_USEC="), "{during:?}");
    let line = daemon.line_with("configuration reloaded");
    assert!(
        line.contains("waiting=\"lease_ms\"") || line.contains("waiting=lease_ms"),
        "{line}"
    );

    place.file("qtfd.toml", "leas_ms = 7000\n");
    daemon.signal(Signal::SIGHUP);
    manager.up_to("RELOADING=1");
    manager.up_to("READY=1");
    let line = daemon.line_with("cannot be taken");
    assert!(line.contains("did you mean `lease_ms`"), "{line}");
    place.qtf(["--addr", &place.address(), "ps"]).expect_code(0);

    daemon.signal(Signal::SIGTERM);
    manager.up_to("STOPPING=1");
    assert_eq!(daemon.wait().code(), Some(0));
}

#[test]
fn manager_is_told_that_a_worker_is_ready_only_when_it_has_registered() {
    let place = Place::new();
    let mut manager = Manager::new(&place);
    let mut command = place.command("qtf-worker");
    command.args(["--connect", &place.address(), "--name", "w", "--slots", "1"]);
    let mut worker = Manager::start(&place, command);
    worker.line_with("no link to the daemon");
    let mut before = manager.up_to("WATCHDOG=1");
    let daemon = place.daemon(&[]);
    before.extend(manager.up_to("READY=1"));
    let ready = before.iter().filter(|line| *line == "READY=1").count();
    assert_eq!(ready, 1, "{before:?}");
    assert!(
        before.contains(&"STATUS=waits for its daemon".to_owned()),
        "{before:?}"
    );
    manager.up_to("STATUS=registered, 0 tasks");
    worker.signal(Signal::SIGTERM);
    manager.up_to("STOPPING=1");
    assert_eq!(worker.wait().code(), Some(0));
    drop(daemon);
}

#[test]
fn sockets_of_the_manager_are_served_and_left_to_it() {
    if lacks(Need::Systemd) {
        return;
    }
    let place = Place::new();
    let free = place.free_tcp_address();
    let socket = place.work().join("s.sock");
    let mut command = place.command_of("systemd-socket-activate".as_ref());
    command
        .args(["--setenv=XDG_RUNTIME_DIR", "--listen"])
        .arg(&socket)
        .args(["--listen", &free]);
    command
        .arg(program("qtfd"))
        .args(["--instance", place.instance(), "--core", "none"]);
    let mut daemon = Process::start(command);
    place.remember_maker(daemon.pid());
    // It is started by the first who comes, and that one is served.
    daemon.line_with("Listening on");
    let unix = format!("unix:{}", socket.display());
    for address in [&unix, &free, &place.address()] {
        place.qtf(["--addr", address, "ps"]).expect_code(0);
    }
    assert_eq!(daemon.terminate(), Some(0));
    assert!(socket.exists(), "the file is the manager's");
    assert!(
        TcpListener::bind(&free).is_ok(),
        "its only owner has gone too"
    );
}
