//! `qtf dev`: says how to reach it, serves, and leaves nothing behind.

use nix::sys::signal::Signal;
use qtf_tests::{Place, Process};

#[test]
fn it_prints_how_to_reach_it_and_is_found_without_an_address() {
    let place = Place::new();
    let mut command = place.command("qtf");
    command.args(["dev", "--workers", "2", "--slots", "3", "--json"]);
    let mut dev = Process::start(command);
    let record: serde_json::Value = serde_json::from_str(&dev.line_with("qtf.dev/1")).unwrap();
    assert_eq!(record["addresses"][0], place.default_address());
    assert_eq!(
        (&record["workers"], &record["slots"]),
        (&2.into(), &3.into())
    );
    let done = place.qtf(["map", "echo", ":::", "a"]).expect_code(0);
    assert_eq!(done.text(), "a\n");
    let mut inspect = place.command("shm-inspect");
    inspect.args(["--id", &record["shm_id"].to_string(), "verify"]);
    place.finish(inspect, Vec::new()).expect_code(0);
    dev.signal(Signal::SIGINT);
    assert_eq!(dev.wait().code(), Some(130));
    assert_eq!(place.runtime_files(), Vec::<std::path::PathBuf>::new());
    assert_eq!(place.processes(), []);
}

#[test]
fn it_serves_the_addresses_that_were_asked_for() {
    let place = Place::new();
    let socket = format!("unix:{}", place.work().join("own.sock").display());
    let _dev = place.dev(&["--listen", &socket]);
    place.qtf(["--addr", &socket, "ps"]).expect_code(0);
    place
        .qtf(["--addr", &place.default_address(), "ps"])
        .expect_code(5);
}

#[test]
fn an_address_that_other_machines_can_reach_needs_a_flag() {
    let place = Place::new();
    let done = place
        .qtf(["dev", "--listen", "0.0.0.0:47832"])
        .expect_code(2);
    for part in ["0.0.0.0:47832", "--allow-unauthenticated-remote"] {
        assert!(done.stderr.contains(part), "{}", done.stderr);
    }
    let _dev = place.dev(&[
        "--listen",
        "0.0.0.0:47832",
        "--allow-unauthenticated-remote",
    ]);
    place
        .qtf(["--addr", "127.0.0.1:47832", "ps"])
        .expect_code(0);
}

#[test]
fn a_second_one_on_the_same_socket_says_so() {
    let place = Place::new();
    let _dev = place.dev(&["--workers", "0"]);
    let done = place.qtf(["dev"]).expect_code(5);
    assert!(
        done.stderr.contains("listens there already"),
        "{}",
        done.stderr
    );
    // The first still serves.
    place.qtf(["ps"]).expect_code(0);
}

#[test]
fn running_tasks_end_with_it() {
    let place = Place::new();
    let mut dev = place.dev(&["--slots", "1"]);
    let started = place.fifo("started");
    let mut command = place.command("qtf");
    command
        .args(["submit", "--", "sh", "-c", "echo up > $1; sleep 1000", "x"])
        .arg(started.path());
    place.finish(command, Vec::new()).expect_code(0);
    assert_eq!(started.line(), "up");
    assert_eq!(dev.terminate(), Some(143));
    assert_eq!(place.processes(), []);
}

#[test]
fn a_drained_worker_leaves_and_the_rest_goes_on() {
    let place = Place::new();
    let mut dev = place.dev(&["--workers", "2", "--slots", "1"]);
    place.qtf(["worker", "drain", "w0"]).expect_code(0);
    let line = dev.line_with("was drained and has left");
    assert!(line.contains("local-"), "{line}");
    place.qtf(["submit", "--", "true"]).expect_code(0);
    place.qtf(["wait", "last"]).expect_code(0);
    // Also without the last one, tasks are taken and wait.
    place.qtf(["worker", "drain", "w1"]).expect_code(0);
    dev.line_with("0 left in this process");
    place.qtf(["submit", "--", "true"]).expect_code(0);
    assert_eq!(dev.terminate(), Some(143));
}
