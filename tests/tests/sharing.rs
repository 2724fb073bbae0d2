//! Several workers over Unix socket and TCP share the load of one daemon.

use std::collections::HashSet;

use qtf_tests::{Place, leaks};

#[test]
fn workers_on_unix_and_tcp_share_the_load() {
    let place = Place::new();
    let tcp = place.free_tcp_address();
    let mut daemon = place.daemon(&["--listen", &place.address(), "--listen", &tcp]);
    let mut workers = vec![
        place.worker(&place.address(), "unix-a", 2),
        place.worker(&place.address(), "unix-b", 2),
        place.worker(&tcp, "tcp-c", 2),
    ];
    let script = "echo $QTF_TASK_ID; sleep 0.05";
    let line = ["--addr", &tcp, "map", "sh", "-c", script, "x", ":::"].map(str::to_owned);
    let numbers = (0..60).map(|number| number.to_string());
    let done = place.qtf(line.into_iter().chain(numbers)).expect_code(0);
    let ids: HashSet<&str> = done.text().lines().collect();
    assert_eq!(ids.len(), 60);
    let listed = place
        .qtf(["--addr", &place.address(), "worker", "ls", "--json"])
        .expect_code(0)
        .json();
    for worker in listed["workers"].as_array().unwrap() {
        assert!(worker["tasks_done"].as_u64().unwrap() > 0, "{worker}");
    }
    assert_eq!(listed["workers"].as_array().unwrap().len(), 3);
    place.verify();
    for worker in &mut workers {
        assert_eq!(worker.terminate(), Some(0));
    }
    assert_eq!(daemon.terminate(), Some(0));
    assert_eq!(place.processes(), []);
    assert_eq!(place.runtime_files(), Vec::<std::path::PathBuf>::new());
    // A named segment is kept on purpose; nobody is attached to it.
    assert!(
        place.segments().iter().all(|segment| segment.attached == 0),
        "{:?}",
        place.segments()
    );
}

#[test]
fn the_segment_of_a_named_daemon_is_kept_and_a_private_one_is_not() {
    let place = Place::new();
    let mut daemon = place.daemon(&[]);
    assert_eq!(place.segments().len(), 1);
    daemon.terminate();
    assert_eq!(place.segments().len(), 1);
    let mut dev = place.dev(&["--workers", "0"]);
    dev.kill();
    let creators = HashSet::from([dev.pid()]);
    assert_eq!(leaks::segments(&creators), []);
}

#[test]
fn a_drained_worker_ends_what_it_runs_and_leaves() {
    let place = Place::new();
    let _daemon = place.daemon(&[]);
    let address = place.address();
    let mut worker = place.worker(&address, "a", 1);
    let started = place.fifo("started");
    let mut submit = place.command("qtf");
    submit.args([
        "--addr",
        &address,
        "submit",
        "--",
        "sh",
        "-c",
        "echo up > $1; sleep 0.3; echo done",
        "x",
    ]);
    submit.arg(started.path());
    place.finish(submit, Vec::new()).expect_code(0);
    assert_eq!(started.line(), "up");
    let workers = place
        .qtf(["--addr", &address, "worker", "ls", "--json"])
        .expect_code(0)
        .json();
    let id = workers["workers"][0]["id"].as_str().unwrap().to_owned();
    place
        .qtf(["--addr", &address, "worker", "drain", &id])
        .expect_code(0);
    assert_eq!(worker.wait().code(), Some(0));
    place
        .qtf(["--addr", &address, "wait", "last"])
        .expect_code(0);
    assert_eq!(
        place
            .qtf(["--addr", &address, "result", "last"])
            .expect_code(0)
            .text(),
        "done\n"
    );
}
