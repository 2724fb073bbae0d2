//! A table that is full answers with a refusal that names it, and people read that: the tables of the daemon and of the segment,
//! through the programs. The table in docs/OPERATING.md names the test of each.

use std::os::unix::net::UnixStream;

use qtf_client::Address;
use qtf_tests::{Place, Process};

/// A daemon with a segment as small as it can be.
fn small_daemon(place: &Place, extra: &str) -> Process {
    let config = place.file(
        "qtfd.toml",
        format!("segment_tasks = 64\nsegment_workers = 4\n{extra}\n"),
    );
    place.daemon(&["--config", config.to_str().expect("the name is plain")])
}

/// Connections that say nothing, as many as are wanted.
fn silent(place: &Place, count: usize) -> Vec<UnixStream> {
    let address: Address = place.address().parse().expect("it is an address");
    let path = address.socket_file().expect("it is a socket file");
    (0..count)
        .map(|_| UnixStream::connect(path).expect("somebody listens"))
        .collect()
}

#[test]
fn command_that_finds_all_connections_in_use_says_which_limit_to_raise() {
    let place = Place::new();
    let _daemon = small_daemon(&place, "connections_max = 3\nhandshake_ms = 60000");
    // What one user may have of three, and one more.
    let held = silent(&place, 3);
    let address = place.address();
    let refused = |words: &[&str]| {
        let words = ["--addr", &address]
            .into_iter()
            .chain(words.iter().copied());
        let words: Vec<&str> = words.collect();
        let mut said = String::new();
        // Who stands still for two seconds is cut off before he was told; so the machine may have three tries.
        for _ in 0..3 {
            let refused = place.qtf(&words);
            let told = ["of 3 connections", "or raise connections_max\n"];
            if told.iter().all(|words| refused.stderr.contains(words)) {
                return refused.code;
            }
            said.push_str(&refused.stderr);
        }
        panic!("{said}");
    };
    assert_eq!(refused(&["submit", "--", "true"]), 4);
    // Places for such refusals are taken too, for a while: it asks again and is told, or reads the end of the connection.
    let _refused = silent(&place, 32);
    assert!([4, 5].contains(&refused(&["info"])));
    drop(held);
    // As soon as the daemon has seen that they are closed; `qtf` asks until then.
    while place.qtf(["--addr", &address, "ps"]).code != 0 {}
}

#[test]
fn worker_that_finds_all_worker_slots_in_use_says_so_and_joins_when_one_is_free() {
    let place = Place::new();
    let _daemon = small_daemon(&place, "");
    let address = place.address();
    let slots = place
        .qtf(["--addr", &address, "info", "--json"])
        .expect_code(0)
        .json()["worker_slots"]
        .as_u64()
        .expect("a number");
    let mut workers: Vec<Process> = (0..slots)
        .map(|number| place.worker(&address, &format!("w{number}"), 1))
        .collect();
    let mut command = place.command("qtf-worker");
    command.args(["--connect", &address, "--name", "over", "--slots", "1"]);
    let mut over = Process::start(command);
    let told = over.line_with("worker slots");
    assert!(
        told.contains(&format!("all {slots} worker slots are in use")),
        "{told}"
    );
    workers.pop().expect("there are some").terminate();
    over.line_with("registered");
}
