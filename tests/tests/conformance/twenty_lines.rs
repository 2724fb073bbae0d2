//! The example of a worker that calls, `examples/python/worker_in_twenty_lines.py`, as its head says how to run it.

use super::{Path, Process, Trial, with_each};

#[test]
fn example_of_a_worker_in_twenty_lines_does_its_tasks_and_leaves_when_it_is_told_to() {
    with_each(|trial| {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let ids = trial.submit(&["words", "one two  three"]);
        let mut command = trial.place.command_of(&trial.python);
        command
            .arg("-u")
            .arg(folder.join("examples/python/worker_in_twenty_lines.py"))
            .arg(&trial.address)
            .env("PYTHONPATH", folder.join("proto/proto"))
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .env("no_grpc_proxy", "127.0.0.1");
        let mut worker = Process::start(command);
        let line = trial.results(&ids).remove(0);
        assert!(line.starts_with("DONE EXITED 0 1 1 "), "{line}");
        assert_eq!(leaves(&trial, "words.py"), "live");
        assert!(worker.wait().success(), "it was told to leave");
        trial.end();
    });
}

/// Finds a worker in the list, drains it, and says what its state was.
fn leaves(trial: &Trial, name: &str) -> String {
    let address = ["--addr", trial.address.as_str()];
    let list = [&address[..], &["worker", "ls", "--json"]].concat();
    let list = trial.place.qtf(list).expect_code(0).json();
    let mut workers = list["workers"].as_array().expect("a list").iter();
    let worker = workers.find(|worker| worker["name"] == name);
    let worker = worker.expect("it stands in the list");
    let id = worker["id"].as_str().expect("a worker has an id");
    let drain = [&address[..], &["worker", "drain", id]].concat();
    trial.place.qtf(drain).expect_code(0);
    worker["state"].as_str().expect("it has one").to_owned()
}
