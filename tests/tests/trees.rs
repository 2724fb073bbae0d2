//! What the tasks of a killed worker had started is gone, in each way of containment that this machine has.

use std::time::{Duration, Instant};

use qtf_needs::{Need, lacks};
use qtf_tests::{Place, Process};

const WATCHDOG: Duration = Duration::from_secs(300);

/// Says its attempt, with a child in its group and one in a session of its own, neither of which it waits for.
const TREE: &str = "setsid sh -c 'sleep 2000; :' & sleep 3000 & echo $QTF_ATTEMPT > $1; \
     [ $QTF_ATTEMPT -gt 1 ] || sleep 4000";

#[track_caller]
fn ways() -> Vec<&'static str> {
    let all = [
        ("cgroup", Some(Need::Cgroup)),
        ("namespace", Some(Need::PidNamespace)),
        ("supervisor", None),
    ];
    all.into_iter()
        .filter(|(_, need)| need.is_none_or(|need| !lacks(need)))
        .map(|(way, _)| way)
        .collect()
}

fn is_of_a_task(command: &str) -> bool {
    command.contains("sleep")
}

/// Waits until nothing that a task started is there: it goes with the worker, but not in the same instant.
#[track_caller]
fn await_end_of_tasks(place: &Place, way: &str) {
    let over = Instant::now() + WATCHDOG;
    loop {
        let left = place.processes();
        if !left.iter().any(|leak| is_of_a_task(&leak.command)) {
            return;
        }
        assert!(Instant::now() < over, "{way}: {left:?}");
        std::thread::yield_now();
    }
}

#[test]
fn what_the_tasks_of_a_killed_worker_had_started_ends_with_it() {
    for way in ways() {
        let place = Place::new();
        let _daemon = place.daemon(&[]);
        let address = place.address();
        let mut command = place.command("qtf-worker");
        command.args(["--connect", &address, "--slots", "2", "--contain", way]);
        let mut worker = Process::start(command);
        let said = worker.line_with("all processes of an attempt end with it");
        assert!(said.contains(way), "{said}");
        worker.line_with("registered");
        let started = place.fifo("started");
        let mut submit = place.command("qtf");
        submit.args(["--addr", &address, "submit", "--array", "1-2", "--"]);
        submit.args(["sh", "-c", TREE, "x"]).arg(started.path());
        place.finish(submit, Vec::new()).expect_code(0);
        assert_eq!([started.line(), started.line()], ["1", "1"]);
        assert!(
            place
                .processes()
                .iter()
                .any(|leak| leak.command.contains("2000")),
            "the test would see them"
        );
        worker.kill();
        await_end_of_tasks(&place, way);
    }
}

#[test]
fn what_the_tasks_of_a_killed_map_had_started_ends_with_it() {
    for way in ways() {
        let place = Place::new();
        let started = place.fifo("started");
        let mut command = place.command("qtf");
        command.args(["map", "-j2", "--contain", way, "sh", "-c", TREE, "x"]);
        command.arg(started.path()).args([":::", "a", "b"]);
        let mut map = Process::start(command);
        assert_eq!([started.line(), started.line()], ["1", "1"]);
        map.kill();
        await_end_of_tasks(&place, way);
    }
}

#[test]
fn way_that_is_not_possible_is_refused_with_the_reason() {
    let place = Place::new();
    let mut command = place.command("qtf-worker");
    command.args(["--contain", "box"]);
    let done = place.finish(command, Vec::new()).expect_code(2);
    assert!(done.stderr.contains("supervisor"), "{}", done.stderr);
}
