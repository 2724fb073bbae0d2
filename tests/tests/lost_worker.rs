//! A worker that is killed loses nothing but its attempt.

use std::collections::HashMap;

use nix::sys::signal::Signal;
use qtf_tests::Place;

#[test]
fn eight_running_tasks_of_a_killed_worker_run_again_elsewhere() {
    let place = Place::new();
    let _daemon = place.daemon(&[]);
    let address = place.address();
    let mut first = place.worker(&address, "first", 8);
    let started = place.fifo("started");
    // First attempts stay until they are killed with their worker; later ones end at once.
    let script = "echo $QTF_ATTEMPT > $1; [ $QTF_ATTEMPT -gt 1 ] || exec sleep 1000; echo attempt $QTF_ATTEMPT";
    let mut submit = place.command("qtf");
    submit.args([
        "--addr", &address, "submit", "--array", "1-8", "--", "sh", "-c", script, "x",
    ]);
    submit.arg(started.path());
    let ids = place.finish(submit, Vec::new()).expect_code(0);
    for _ in 0..8 {
        assert_eq!(started.line(), "1");
    }
    first.kill();
    let _second = place.worker(&address, "second", 8);
    place
        .qtf(["--addr", &address, "wait", "last", "--timeout", "60s"])
        .expect_code(0);
    let results = place
        .qtf(["--addr", &address, "result", "last"])
        .expect_code(0);
    assert_eq!(results.text(), "attempt 2\n".repeat(8));
    let left = place.processes();
    assert!(
        left.iter().all(|leak| !leak.command.contains("sleep")),
        "{left:?}"
    );
    for id in ids.text().lines() {
        let task = place
            .qtf(["--addr", &address, "task", id, "--json"])
            .expect_code(0)
            .json();
        assert_eq!(
            (&task["losses"], &task["failures"]),
            (&1.into(), &0.into()),
            "{task}"
        );
    }
    place.verify();
}

#[test]
fn task_that_runs_at_most_once_is_a_dead_letter_when_its_worker_is_killed() {
    let place = Place::new();
    let data = place.work().join("data");
    let data = data.to_str().expect("the folder has a plain name");
    let mut daemon = place.daemon(&["--data-dir", data]);
    let address = place.address();
    let mut first = place.worker(&address, "first", 1);
    let started = place.fifo("started");
    let mut submit = place.command("qtf");
    let script = "echo $QTF_ATTEMPT > $1; exec sleep 1000";
    submit.args(["--addr", &address, "submit", "--once", "--", "sh", "-c"]);
    submit.args([script, "x"]).arg(started.path());
    place.finish(submit, Vec::new()).expect_code(0);
    assert_eq!(started.line(), "1");
    first.kill();
    let _second = place.worker(&address, "second", 1);
    place
        .qtf(["--addr", &address, "wait", "last", "--timeout", "60s"])
        .expect_code(1);
    let state = |place: &Place| {
        let task = place.qtf(["--addr", &address, "task", "last", "--json"]);
        let task = task.expect_code(0).json();
        (
            task["state"].clone(),
            task["attempt"].clone(),
            task["once"].clone(),
        )
    };
    let dead = ("dead_letter".into(), 1.into(), true.into());
    assert_eq!(state(&place), dead);
    daemon.kill();
    place.remove_segments();
    let _daemon = place.daemon(&["--data-dir", data]);
    assert_eq!(state(&place), dead, "over a reboot too");
    let both = ["submit", "--once", "--retries", "1", "--", "true"];
    place.qtf(both).expect_code(2);
}

#[test]
fn a_killed_worker_in_the_middle_of_many_tasks_costs_no_result() {
    let place = Place::new();
    let _daemon = place.daemon(&[]);
    let address = place.address();
    let mut workers: Vec<_> = ["a", "b", "c"]
        .iter()
        .map(|name| place.worker(&address, name, 2))
        .collect();
    let started = place.fifo("started");
    let script = "[ $1 != 100 ] || echo now > $2; echo $1";
    let mut map = place.command("qtf");
    map.args([
        "--addr", &address, "map", "--output", "jsonl", "sh", "-c", script, "x", "{}",
    ]);
    map.arg(started.path());
    let numbers: String = (1..=1_000).map(|number| format!("{number}\n")).collect();
    let done = std::thread::scope(|scope| {
        let run = scope.spawn(|| place.finish(map, numbers.into_bytes()));
        assert_eq!(started.line(), "now");
        workers[1].kill();
        run.join().unwrap()
    });
    let done = done.expect_code(0);
    let mut seen: HashMap<String, u32> = HashMap::new();
    for (line, number) in done.text().lines().zip(1..) {
        let record: serde_json::Value = serde_json::from_str(line).unwrap();
        assert_eq!(record["stdout"], format!("{number}\n"), "{record}");
        *seen.entry(record["id"].to_string()).or_default() += 1;
    }
    assert_eq!(seen.len(), 1_000);
    place.verify();
}

#[test]
fn a_silent_worker_loses_its_task_and_its_late_result_is_refused() {
    let place = Place::new();
    let tcp = place.free_tcp_address();
    let config = place.file(
        "qtfd.toml",
        "lease_ms = 400\nheartbeat_ms = 100\nprobe_ms = 200\n",
    );
    let config = config.to_str().expect("the folder has a plain name");
    let _daemon = place.daemon(&["--config", config, "--listen", &tcp]);
    let mut silent = place.worker(&tcp, "silent", 1);
    let started = place.fifo("started");
    let mut gate = place.gate("gate");
    let script = "echo $QTF_ATTEMPT > $1; read x < $2; echo attempt $QTF_ATTEMPT";
    let mut submit = place.command("qtf");
    submit.args(["--addr", &tcp, "submit", "--", "sh", "-c", script, "x"]);
    submit.arg(started.path()).arg(gate.path());
    place.finish(submit, Vec::new()).expect_code(0);
    assert_eq!(started.line(), "1");
    // Its heart stops, its task goes on; the kernel cannot tell the daemon anything.
    silent.signal(Signal::SIGSTOP);
    let _other = place.worker(&tcp, "other", 1);
    assert_eq!(started.line(), "2");
    gate.let_pass(2);
    place.qtf(["--addr", &tcp, "wait", "last"]).expect_code(0);
    silent.signal(Signal::SIGCONT);
    silent.line_with("registered");
    let result = place.qtf(["--addr", &tcp, "result", "last"]).expect_code(0);
    assert_eq!(result.text(), "attempt 2\n");
    let task = place
        .qtf(["--addr", &tcp, "task", "last", "--json"])
        .expect_code(0)
        .json();
    assert_eq!(
        (&task["attempt"], &task["losses"]),
        (&2.into(), &1.into()),
        "{task}"
    );
    place.verify();
}
