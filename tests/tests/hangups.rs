//! A terminal that is closed ends neither daemon nor tasks, and a worker in a container leaves no zombies.

use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use qtf_needs::{Need, lacks};
use qtf_tests::programs::program;
use qtf_tests::{Place, Process};

const WATCHDOG: Duration = Duration::from_secs(300);

/// Submits a task that says that it runs and goes on when the gate lets it.
fn submit_waiting(place: &Place, address: &str) -> qtf_tests::Gate {
    let started = place.fifo("started");
    let gate = place.gate("gate");
    let mut submit = place.command("qtf");
    let script = "echo up > $1; read x < $2; echo through";
    submit.args(["--addr", address, "submit", "--", "sh", "-c", script, "x"]);
    submit.arg(started.path()).arg(gate.path());
    place.finish(submit, Vec::new()).expect_code(0);
    assert_eq!(started.line(), "up");
    gate
}

#[test]
fn daemon_goes_on_after_sighup_and_says_that_it_has_reloaded() {
    let place = Place::new();
    let mut daemon = place.daemon(&[]);
    daemon.signal(Signal::SIGHUP);
    daemon.line_with("configuration reloaded: all of it stands");
    place.qtf(["--addr", &place.address(), "ps"]).expect_code(0);
    assert_eq!(daemon.terminate(), Some(0));
}

#[test]
fn worker_drains_when_its_terminal_is_closed_however_often_it_is_told() {
    let place = Place::new();
    let _daemon = place.daemon(&[]);
    let address = place.address();
    // Also where the tests themselves run under nohup, which their children inherit.
    let mut command = place.command_of(Path::new("env"));
    command
        .arg("--default-signal=HUP")
        .arg(program("qtf-worker"));
    command.args(["--connect", &address, "--slots", "1"]);
    let mut worker = Process::start(command);
    worker.line_with("registered");
    let mut gate = submit_waiting(&place, &address);
    worker.signal(Signal::SIGHUP);
    worker.line_with("draining");
    worker.signal(Signal::SIGHUP);
    gate.let_pass(1);
    assert_eq!(worker.wait().code(), Some(0));
    let result = place.qtf(["--addr", &address, "result", "last"]);
    assert_eq!(result.expect_code(0).text(), "through\n");
}

#[test]
fn worker_under_nohup_goes_on_when_its_terminal_is_closed() {
    let place = Place::new();
    let _daemon = place.daemon(&[]);
    let address = place.address();
    let mut command = place.command_of(Path::new("sh"));
    command.args(["-c", "trap '' HUP; exec \"$@\"", "sh"]);
    command.arg(program("qtf-worker"));
    command.args(["--connect", &address, "--slots", "1"]);
    let mut worker = Process::start(command);
    worker.line_with("registered");
    worker.signal(Signal::SIGHUP);
    let mut gate = submit_waiting(&place, &address);
    worker.signal(Signal::SIGHUP);
    gate.let_pass(1);
    place
        .qtf(["--addr", &address, "wait", "last"])
        .expect_code(0);
    assert_eq!(worker.terminate(), Some(0));
}

/// Parent and state of each process.
fn zombies_of(parent: &str) -> Vec<String> {
    let processes = std::fs::read_dir("/proc")
        .expect("there is a /proc")
        .flatten();
    let stats =
        processes.filter_map(|entry| std::fs::read_to_string(entry.path().join("stat")).ok());
    stats
        .filter(|stat| {
            let mut fields = stat.rsplit(") ").next().unwrap_or_default().split(' ');
            fields.next() == Some("Z") && fields.next() == Some(parent)
        })
        .collect()
}

#[test]
fn worker_that_is_pid_1_of_a_container_reaps_what_tasks_leave_to_it() {
    if lacks(Need::PidNamespace) {
        return;
    }
    let place = Place::new();
    let _daemon = place.daemon(&[]);
    let address = place.address();
    let mut command = place.command_of(Path::new("unshare"));
    command.args(["--pid", "--fork", "--mount-proc", "--kill-child"]);
    command.arg(program("qtf-worker"));
    command.args(["--connect", &address, "--slots", "1", "--contain", "group"]);
    command.process_group(0);
    let mut unshare = Process::start(command);
    unshare.line_with("registered");
    let children = format!("/proc/{0}/task/{0}/children", unshare.pid());
    let worker = std::fs::read_to_string(children).expect("it lives");
    // What they leave behind is killed with their group, and nobody else's child.
    let script = "sleep 1000 > /dev/null 2>&1 & sleep 1000 > /dev/null 2>&1 &";
    for _ in 0..3 {
        let mut submit = place.command("qtf");
        submit.args(["--addr", &address, "submit", "--", "sh", "-c", script]);
        place.finish(submit, Vec::new()).expect_code(0);
        place
            .qtf(["--addr", &address, "wait", "last"])
            .expect_code(0);
    }
    let over = Instant::now() + WATCHDOG;
    while !zombies_of(worker.trim()).is_empty() {
        assert!(Instant::now() < over, "{:?}", zombies_of(worker.trim()));
        std::thread::yield_now();
    }
}
