//! A worker that is short of descriptors runs fewer tasks at the same time, and none fails or is counted for it.

use std::path::Path;

use qtf_tests::programs::program;
use qtf_tests::{Place, Process};

fn open_files(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd"))
        .expect("it lives")
        .count()
}

/// Sets how many files a running process may have open.
fn limit(place: &Place, pid: u32, files: usize) {
    let mut prlimit = place.command_of(Path::new("prlimit"));
    prlimit.args([
        "--pid",
        &pid.to_string(),
        &format!("--nofile={files}:20000"),
    ]);
    place.finish(prlimit, Vec::new()).expect_code(0);
}

fn submit_and_wait(place: &Place, address: &str) {
    let mut submit = place.command("qtf");
    submit.args(["--addr", address, "submit", "--array", "1-12", "--"]);
    submit.args(["sh", "-c", "sleep 0.05; echo done"]);
    let ids = place.finish(submit, Vec::new()).expect_code(0);
    place
        .qtf(["--addr", address, "wait", "last", "--timeout", "120s"])
        .expect_code(0);
    for id in ids.text().lines() {
        let task = place.qtf(["--addr", address, "task", id, "--json"]);
        let task = task.expect_code(0).json();
        assert_eq!(
            (&task["attempt"], &task["failures"], &task["losses"]),
            (&1.into(), &0.into(), &0.into()),
            "{task}"
        );
    }
}

#[test]
fn tasks_that_cannot_be_started_for_want_of_descriptors_wait_and_none_fails() {
    let place = Place::new();
    let mut daemon = place.daemon(&[]);
    let address = place.address();
    let mut worker = place.worker(&address, "narrow", 6);
    // Room for one or two programs, and for the connection.
    limit(&place, worker.pid(), open_files(worker.pid()) + 12);
    submit_and_wait(&place, &address);
    let told = worker.line_with("carries no more tasks");
    assert!(told.contains("slots=6"), "{told}");
    limit(&place, worker.pid(), 1_000);
    submit_and_wait(&place, &address);
    worker.line_with("all slots can be used again");
    assert_eq!(worker.terminate(), Some(0));
    assert_eq!(daemon.terminate(), Some(0));
}

#[test]
fn worker_offers_the_slots_that_its_limit_of_open_files_carries_and_says_so() {
    let place = Place::new();
    let _daemon = place.daemon(&[]);
    let mut command = place.command_of(Path::new("sh"));
    command.args(["-c", "ulimit -n 328 && exec \"$@\"", "sh"]);
    command.arg(program("qtf-worker"));
    command.args(["--connect", &place.address(), "--slots", "400"]);
    let mut worker = Process::start(command);
    let told = worker.line_with("offering fewer slots");
    assert!(told.contains("carried=40"), "{told}");
    let registered = worker.line_with("registered");
    assert!(registered.contains("slots=40"), "{registered}");
}

/// As `xargs -P 400` does it, with whatever limit.
#[test]
fn map_runs_as_many_as_its_limit_of_open_files_carries_and_none_fails() {
    let place = Place::new();
    let inputs: String = (1..=400).map(|number| format!("{number}\n")).collect();
    // One line says whose daemon it is, one that the limit carries fewer.
    for (limit, lines) in [("-Sn 1024", 1), ("-n 400", 2)] {
        let mut command = place.command_of(Path::new("sh"));
        command.args(["-c", &format!("ulimit {limit} && exec \"$@\""), "sh"]);
        command.arg(program("qtf"));
        command.args(["map", "-j", "400", "sh", "-c", "ulimit -Sn; sleep 0.2", "x"]);
        let done = place.finish(command, inputs.clone().into_bytes());
        let done = done.expect_code(0);
        assert_eq!(done.stderr.lines().count(), lines, "{}", done.stderr);
        let given = limit.split(' ').next_back().unwrap();
        assert_eq!(done.text(), format!("{given}\n").repeat(400));
    }
}
