//! `qtf bench` with real processes and small numbers: every task answered once, nothing left behind. What it measures is not
//! looked at, beyond that it is there: no test depends on how fast a machine is.
#![expect(clippy::unwrap_used, reason = "what cannot be set up is a failed test")]

use std::collections::HashSet;
use std::path::PathBuf;
use std::process::Command;

use nix::sys::signal::Signal;
use qtf_tests::{Place, Process, leaks};

/// A bench whose folder for temporary files is in the place.
fn bench(place: &Place, arguments: &[&str]) -> Command {
    let mut command = place.command("qtf");
    command
        .env("TMPDIR", place.work())
        .arg("bench")
        .args(arguments);
    command
}

fn json(place: &Place, arguments: &[&str]) -> serde_json::Value {
    let done = place.finish(bench(place, arguments), Vec::new());
    done.expect_code(0).json()
}

/// No process, no segment of these makers, no file.
fn assert_nothing_is_left(place: &Place, makers: &HashSet<u32>) {
    assert_eq!(place.processes(), []);
    assert_eq!(leaks::segments(makers), []);
    let files = std::fs::read_dir(place.work()).unwrap();
    let files: Vec<PathBuf> = files.map(|file| file.unwrap().path()).collect();
    assert_eq!(files, [] as [PathBuf; 0]);
    assert_eq!(place.runtime_files(), [] as [PathBuf; 0]);
}

/// The processes of the place, as long as they are there: makers of segments among them.
fn pids(place: &Place) -> HashSet<u32> {
    let processes = place.processes();
    processes.iter().map(|one| one.pid.unsigned_abs()).collect()
}

#[test]
fn every_task_is_answered_once_and_the_document_has_the_figures() {
    let place = Place::new();
    let report = json(
        &place,
        &[
            "--tasks=600",
            "--in-flight=16",
            "--payload=100",
            "--result=40",
            "--clients=3",
            "--workers=2",
            "--random-priority",
            "--json",
        ],
    );
    assert_eq!(report["schema"], "qtf.bench/1");
    for key in [
        "tasks_per_s",
        "min_us",
        "mean_us",
        "p50_us",
        "p90_us",
        "p99_us",
        "p999_us",
        "p9999_us",
        "max_us",
        "daemon_cpu_us_per_task",
        "worker_cpu_us_per_task",
        "client_cpu_us_per_task",
    ] {
        assert!(
            report[key].as_f64().is_some_and(|value| value > 0.0),
            "{key}: {report}"
        );
    }
    let counts = [
        "tasks",
        "warm_up_tasks",
        "submitted",
        "done",
        "cancelled",
        "failed",
    ];
    let counts = counts.map(|key| report[key].as_u64().unwrap());
    assert_eq!(counts, [600, 60, 660, 660, 0, 0]);
    assert!(report["p50_us"].as_f64() <= report["p99_us"].as_f64());
    assert!(report["p9999_us"].as_f64() <= report["max_us"].as_f64());
    let said = [
        "payload_bytes",
        "result_bytes",
        "clients",
        "workers",
        "in_flight",
        "backlog",
    ];
    let said = said.map(|key| report[key].as_u64().unwrap());
    assert_eq!(said, [100, 40, 3, 2, 16, 0]);
    assert!(report["host"]["cores"].as_u64() > Some(0), "{report}");
    assert_eq!(report["daemon"]["own"], true);
    assert_nothing_is_left(&place, &HashSet::new());
}

#[test]
fn people_get_lines() {
    let place = Place::new();
    let done = place.finish(bench(&place, &["--tasks=50", "--one-core"]), Vec::new());
    let done = done.expect_code(0);
    for part in [
        "50 tasks",
        "on one core",
        "tasks/s",
        "p99.99",
        "processor time a task: daemon",
    ] {
        assert!(done.text().contains(part), "{part}: {}", done.text());
    }
}

#[test]
fn an_open_loop_runs_its_tasks_by_the_schedule() {
    let place = Place::new();
    let report = json(
        &place,
        &["--tasks=300", "--rate=2000", "--clients=2", "--json"],
    );
    assert_eq!(
        (&report["done"], &report["submitted"]),
        (&330.into(), &330.into())
    );
    assert_eq!(report["rate"], 2000.0);
    // The last task is due 299 steps after the first, and no task is sent before it is due.
    assert!(
        report["seconds"].as_f64() >= Some(299.0 / 2000.0),
        "{report}"
    );
}

#[test]
fn tasks_that_wait_are_taken_back_when_the_counted_ones_have_ended() {
    let place = Place::new();
    let report = json(
        &place,
        &[
            "--tasks=200",
            "--backlog=3000",
            "--in-flight=8",
            "--random-priority",
            "--json",
        ],
    );
    let count = |key: &str| report[key].as_u64().unwrap();
    assert!(count("submitted") >= 3_220, "{report}");
    assert_eq!(count("done") + count("cancelled"), count("submitted"));
    assert!(count("done") >= 220, "{report}");
    assert_nothing_is_left(&place, &HashSet::new());
}

#[test]
fn with_a_journal_nothing_stays_either() {
    let place = Place::new();
    let report = json(&place, &["--tasks=100", "--durability=journal", "--json"]);
    assert_eq!(
        (&report["done"], &report["durability"]),
        (&110.into(), &"journal".into())
    );
    assert_nothing_is_left(&place, &HashSet::new());
}

#[test]
fn at_another_daemon_it_acknowledges_its_tasks_and_leaves_those_of_others() {
    let place = Place::new();
    let _dev = place.dev(&["--workers", "0"]);
    place.qtf(["submit", "--", "true"]).expect_code(0);
    let address = place.default_address();
    let report = json(
        &place,
        &["--addr", &address, "--tasks=300", "--backlog=100", "--json"],
    );
    assert_eq!(report["daemon"]["own"], false);
    assert!(
        report["daemon_cpu_us_per_task"].as_f64() > Some(0.0),
        "{report}"
    );
    // Its workers offer no programs: the task of another waits.
    let tasks = place.qtf(["ps", "--all", "--json"]).expect_code(0).json();
    let tasks = tasks["tasks"].as_array().unwrap();
    assert_eq!(tasks.len(), 1, "{tasks:?}");
    assert_eq!(
        (&tasks[0]["kind"], &tasks[0]["attempt"]),
        (&"exec".into(), &0.into())
    );
    let workers = place.qtf(["worker", "ls", "--json"]).expect_code(0).json();
    assert_eq!(workers["workers"], serde_json::json!([]));
}

#[test]
fn ctrl_c_leaves_nothing_behind() {
    for (options, signal, code) in [
        (&["--durability=memory"][..], Signal::SIGINT, 130),
        (&["--durability=journal"], Signal::SIGTERM, 143),
    ] {
        let place = Place::new();
        let mut options = options.to_vec();
        // It would take a year.
        options.extend(["--rate=1", "--tasks=30000000"]);
        let mut bench = Process::start(bench(&place, &options));
        let makers = when_it_runs(&place);
        bench.signal(signal);
        assert_eq!(bench.wait().code(), Some(code));
        assert_nothing_is_left(&place, &makers);
    }
}

#[test]
fn when_it_is_killed_its_processes_leave() {
    for durability in ["--durability=memory", "--durability=journal"] {
        let place = Place::new();
        let options = [durability, "--rate=1", "--tasks=30000000"];
        let mut bench = Process::start(bench(&place, &options));
        let makers = when_it_runs(&place);
        bench.kill();
        wait_until(|| place.processes().is_empty());
        assert_nothing_is_left(&place, &makers);
    }
}

#[test]
fn ctrl_c_at_another_daemon_takes_its_tasks_back() {
    let place = Place::new();
    let _dev = place.dev(&["--workers", "0"]);
    let address = place.default_address();
    let options = [
        "--addr",
        &address,
        "--backlog=500",
        "--tasks=18446744073709551615",
    ];
    let mut bench = Process::start(bench(&place, &options));
    wait_until(|| {
        let tasks = place.qtf(["info", "--json"]).expect_code(0).json();
        tasks["counters"]["result_recorded"].as_u64() > Some(1_000)
    });
    bench.signal(Signal::SIGINT);
    assert_eq!(bench.wait().code(), Some(130));
    let tasks = place.qtf(["ps", "--all", "--json"]).expect_code(0).json();
    assert_eq!(tasks["tasks"], serde_json::json!([]));
    let workers = place.qtf(["worker", "ls", "--json"]).expect_code(0).json();
    assert_eq!(workers["workers"], serde_json::json!([]));
}

#[test]
fn a_daemon_or_worker_that_dies_ends_it_with_5_and_its_name() {
    for what in ["daemon", "worker"] {
        let place = Place::new();
        let mut bench = Process::start(bench(&place, &["--rate=1", "--tasks=30000000"]));
        let makers = when_it_runs(&place);
        let one = place.processes();
        let one = one
            .iter()
            .find(|one| one.command.contains(&format!("bench-part {what}")));
        let pid = nix::unistd::Pid::from_raw(one.unwrap().pid);
        nix::sys::signal::kill(pid, Signal::SIGKILL).unwrap();
        bench.line_with("qtf: ");
        assert_eq!(bench.wait().code(), Some(5));
        assert_nothing_is_left(&place, &makers);
    }
}

#[test]
fn what_cannot_be_is_refused_in_words() {
    let place = Place::new();
    for (options, code, said) in [
        (&["--tasks=0"][..], 2, "--tasks"),
        (&["--in-flight=2", "--clients=3"], 2, "--clients 3"),
        (&["--rate=0"], 2, "tasks a second"),
        (&["--rate=nan"], 2, "tasks a second"),
        (&["--rate=5", "--backlog=5"], 2, "cannot be used with"),
        (&["--payload=65537"], 2, "65536"),
        (&["--backlog=1000000000000"], 2, "--backlog"),
        (&["--durability=disk"], 2, "journal"),
        (&["--addr=unix:/nowhere/at/all"], 5, "no daemon"),
        (&["--addr=nonsense"], 2, "--addr"),
    ] {
        let done = place.finish(bench(&place, options), Vec::new());
        let done = done.expect_code(code);
        assert!(done.stderr.contains(said), "{options:?}: {}", done.stderr);
        assert_eq!(done.text(), "");
        assert_nothing_is_left(&place, &HashSet::new());
    }
}

#[test]
fn a_daemon_that_does_not_hold_so_many_tasks_says_so_before_they_come() {
    let place = Place::new();
    let config = place.file("qtfd.toml", "segment_tasks = 500\nsegment_workers = 4\n");
    let _daemon = place.daemon(&["--config", config.to_str().unwrap()]);
    let address = place.address();
    let options = ["--addr", &address, "--backlog=1000"];
    let done = place
        .finish(bench(&place, &options), Vec::new())
        .expect_code(4);
    assert!(done.stderr.contains("larger segment"), "{}", done.stderr);
    let options = ["--addr", &address, "--durability=journal", "--tasks=5"];
    let done = place
        .finish(bench(&place, &options), Vec::new())
        .expect_code(4);
    assert!(done.stderr.contains("journal"), "{}", done.stderr);
    // An open loop that nobody bounded keeps to what is there.
    let options = ["--addr", &address, "--rate=10000", "--tasks=600", "--json"];
    assert_eq!(json(&place, &options)["done"], 660);
    let tasks = place.qtf(["--addr", &address, "ps", "--all", "--json"]);
    assert_eq!(tasks.expect_code(0).json()["tasks"], serde_json::json!([]));
}

/// Waits until daemon and worker of a bench are there, and the worker's handlers may end tasks; its processes.
fn when_it_runs(place: &Place) -> HashSet<u32> {
    let folder = || {
        let mut files = std::fs::read_dir(place.work()).unwrap();
        files.find_map(|file| {
            Some(file.ok()?.path()).filter(|path| path.join("bench.sock").exists())
        })
    };
    wait_until(|| folder().is_some());
    let address = format!("unix:{}", folder().unwrap().join("bench.sock").display());
    wait_until(|| {
        let done = place
            .qtf(["--addr", &address, "info", "--json"])
            .expect_code(0);
        done.json()["counters"]["result_recorded"].as_u64() > Some(0)
    });
    pids(place)
}

/// Looks again until it is so.
fn wait_until(is_so: impl Fn() -> bool) {
    let began = std::time::Instant::now();
    while !is_so() {
        assert!(
            began.elapsed() < qtf_tests::process::WATCHDOG,
            "it never came to that"
        );
        // Each look starts a program or reads all of /proc: a pause would save nothing.
        std::thread::yield_now();
    }
}
