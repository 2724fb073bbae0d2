//! What a worker was told and did not hear, it is told again: stops and drains reach it over every break.
//!
//! The graces and leases here are longer than the watchdog, so that nothing but the order itself ends an attempt.

use nix::sys::signal::Signal;
use qtf_tests::{Fifo, Link, Place, Process};

/// Nobody is lost and no grace ends within a test.
const PATIENT: &str =
    "lease_ms = 3600000\nheartbeat_ms = 200\nprobe_ms = 1000\nstop_grace_ms = 3600000\n";
/// Says which process it is, and stays.
const SCRIPT: &str = "echo $$ > $1; exec sleep 2970";

fn daemon(place: &Place, arguments: &[&str]) -> Process {
    let config = place.file("qtfd.toml", PATIENT);
    let config = config.to_str().expect("the folder has a plain name");
    place.daemon(&[&["--config", config], arguments].concat())
}

/// Submits so many tasks and waits until each runs; their processes.
fn running(place: &Place, address: &str, started: &Fifo, count: u32) -> Vec<String> {
    let array = format!("1-{count}");
    let mut submit = place.command("qtf");
    submit.args(["--addr", address, "submit", "--array", &array, "--"]);
    submit.args(["sh", "-c", SCRIPT, "x"]).arg(started.path());
    place.finish(submit, Vec::new()).expect_code(0);
    (0..count).map(|_| started.line()).collect()
}

/// Waits for the ends of processes.
fn expect_ended(place: &Place, pids: &[String]) {
    for pid in pids {
        let mut tail = place.command_of("/usr/bin/tail".as_ref());
        tail.args(["--pid", pid, "-s", "0.05", "-f", "/dev/null"]);
        place.finish(tail, Vec::new()).expect_code(0);
    }
}

fn cancel(place: &Place, address: &str) {
    place
        .qtf(["--addr", address, "cancel", "last"])
        .expect_code(0);
}

#[test]
fn task_that_is_cancelled_while_its_worker_is_stopped_and_the_daemon_new_ends_when_the_worker_goes_on()
 {
    let place = Place::new();
    let mut first = daemon(&place, &[]);
    let worker = place.worker(&place.address(), "stopped", 1);
    let started = place.fifo("started");
    let address = place.address();
    let pids = running(&place, &address, &started, 1);
    worker.signal(Signal::SIGSTOP);
    first.kill();
    let _second = daemon(&place, &[]);
    cancel(&place, &address);
    worker.signal(Signal::SIGCONT);
    expect_ended(&place, &pids);
    place
        .qtf(["--addr", &address, "wait", "last"])
        .expect_code(1);
    place.verify();
}

#[test]
fn tasks_that_are_cancelled_behind_a_dead_link_end_when_it_is_mended() {
    let place = Place::new();
    let tcp = place.free_tcp_address();
    let _daemon = daemon(&place, &["--listen", &tcp]);
    let link = Link::to(&tcp);
    let mut worker = place.worker(&link.address(), "remote", 20);
    let started = place.fifo("started");
    let pids = running(&place, &tcp, &started, 20);
    // The orders go into the link and are lost there; then both ends hear that it is broken.
    link.hold();
    cancel(&place, &tcp);
    link.cut();
    worker.line_with("no link to the daemon");
    link.mend();
    expect_ended(&place, &pids);
    place.qtf(["--addr", &tcp, "wait", "last"]).expect_code(1);
    place.verify();
}

#[test]
fn worker_that_is_told_to_leave_behind_a_dead_link_leaves_when_it_is_mended() {
    let place = Place::new();
    let tcp = place.free_tcp_address();
    let _daemon = daemon(&place, &["--listen", &tcp]);
    let link = Link::to(&tcp);
    let mut worker = place.worker(&link.address(), "remote", 1);
    let workers = place
        .qtf(["--addr", &tcp, "worker", "ls", "--json"])
        .expect_code(0)
        .json();
    let id = workers["workers"][0]["id"]
        .as_str()
        .expect("a worker")
        .to_owned();
    link.hold();
    place
        .qtf(["--addr", &tcp, "worker", "drain", &id])
        .expect_code(0);
    link.cut();
    worker.line_with("no link to the daemon");
    link.mend();
    assert_eq!(worker.wait().code(), Some(0));
}

#[test]
fn evicted_worker_ends_what_it_ran_and_comes_back_as_another() {
    let place = Place::new();
    let _daemon = daemon(&place, &[]);
    let address = place.address();
    let mut worker = place.worker(&address, "given-up", 1);
    let started = place.fifo("started");
    let pids = running(&place, &address, &started, 1);
    place
        .qtf(["--addr", &address, "worker", "evict", "w0"])
        .expect_code(0);
    expect_ended(&place, &pids);
    worker.line_with("registered");
    let again = started.line();
    assert_ne!(again, pids[0], "the task runs again");
    cancel(&place, &address);
    expect_ended(&place, &[again]);
    place.verify();
}
